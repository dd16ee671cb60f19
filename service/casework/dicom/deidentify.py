"""A header that may leave the house: PS3.15 Annex E by dicom-anonymizer, and of what that leaves only coded and numeric values. Reads files.

Annex E lets free text pass that nobody looked at (manufacturer, protocol names in elements it does not list) and leaves
sequences below its own table alone. For finding out why an image was not taken none of it is needed, so that elements are
kept by a list, and texts only where their value is one of the Standard's own words.
"""

from pathlib import Path
from typing import Any

from dicomanonymizer import anonymize_dataset
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence
from pydicom.uid import UID

from casework.errors import Refused

_NUMBERS = frozenset({"US", "SS", "UL", "SL", "FD", "FL", "DS", "IS", "AT"})
_TERMS = frozenset(
    """MG MR US L R B U CC MLO ML LM XCCL XCCM FB SIO ISO CV AT AX MONOCHROME1 MONOCHROME2 RGB YBR_FULL YBR_FULL_422 YBR_RCT
    YBR_ICT PALETTE ORIGINAL DERIVED PRIMARY SECONDARY YES NO NONE FOR PRESENTATION PROCESSING BREAST AXILLA 00 01 03
    IDENTITY INVERSE LINEAR LINEAR_EXACT SIGMOID""".split()  # noqa: SIM905 - a list of fifty quoted words reads worse
) | {"FOR PRESENTATION", "FOR PROCESSING"}
_METHOD = ("113100", "DCM", "Basic Application Confidentiality Profile")


def harmless_header(path: Path) -> dict[str, Any]:
    """The header of a stored image as DICOM JSON (PS3.18 F), de-identified; no pixels.

    Raises:
        Refused: NOT_DICOM, it can't be read.
    """
    try:
        ds = dcmread(path, stop_before_pixels=True)
        anonymize_dataset(ds, delete_private_tags=True)
    except (InvalidDicomError, OSError, ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        raise Refused("NOT_DICOM", type(error).__name__) from error
    kept = Dataset()
    for element in ds:
        try:
            if not element.tag.is_private and _sayable(element.VR, element.value):
                kept.add(element)
        except (ValueError, TypeError):  # a value that is none of its kind
            continue
    meta = getattr(ds, "file_meta", None)
    syntax = str(getattr(meta, "TransferSyntaxUID", ""))
    if _registered(syntax):
        kept.AvailableTransferSyntaxUID = UID(syntax)
    kept.PatientIdentityRemoved = "YES"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = _METHOD
    kept.DeidentificationMethodCodeSequence = Sequence([code])
    found: dict[str, Any] = kept.to_json_dict()
    return found


def _sayable(vr: str, value: Any) -> bool:
    """Whether values of this kind say nothing of a person: numbers, the Standard's UIDs and words."""
    values = (
        value if isinstance(value, list) or (hasattr(value, "__iter__") and not isinstance(value, str)) else [value]
    )
    if vr in _NUMBERS:
        return all(isinstance(float(one), float) for one in values)
    if vr == "UI":
        return all(_registered(str(one)) for one in values)
    return vr == "CS" and all(str(one) in _TERMS for one in values)


def _registered(uid: str) -> bool:
    """Whether a UID is one of the Standard's own (PS3.6 A)."""
    return UID(uid).name != uid
