"""Which objects come in: storage classes, transfer syntaxes, and what becomes of an object by its header. Does no I/O.

Decision on our own results (the module's one judgement call): the classes we write (SRs, Secondary Capture)
are offered, so that a PACS that routes whole studies here doesn't fail for ever on our own objects. They are stored,
answered with success and kept aside (OWN_RESULT): nothing jams and nothing is analysed twice. Other objects that a breast
study legitimately holds but that can't be analysed (a Secondary Capture of another modality, a foreign SR of those classes)
are kept aside as well. CT, PET and everything else is not offered; by STOW-RS it is refused with a code.
"""

from casework.case import Header, Verdict

IMAGE_CLASSES: dict[str, str] = {
    "1.2.840.10008.5.1.4.1.1.1.2": "MG",  # Digital Mammography, for presentation
    "1.2.840.10008.5.1.4.1.1.1.2.1": "MG",  # Digital Mammography, for processing
    "1.2.840.10008.5.1.4.1.1.13.1.3": "MG",  # Breast Tomosynthesis
    "1.2.840.10008.5.1.4.1.1.13.1.4": "MG",  # Breast Projection X-Ray, for presentation
    "1.2.840.10008.5.1.4.1.1.13.1.5": "MG",  # Breast Projection X-Ray, for processing
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",  # Enhanced MR
    "1.2.840.10008.5.1.4.1.1.4.3": "MR",  # Enhanced MR Color
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",  # Legacy Converted Enhanced MR
    "1.2.840.10008.5.1.4.1.1.6.1": "US",
    "1.2.840.10008.5.1.4.1.1.6": "US",  # retired
    "1.2.840.10008.5.1.4.1.1.3.1": "US",  # multi-frame
    "1.2.840.10008.5.1.4.1.1.3": "US",  # multi-frame, retired
    "1.2.840.10008.5.1.4.1.1.6.2": "US",  # Enhanced US Volume
    "1.2.840.10008.5.1.4.1.1.7": "",  # Secondary Capture: its Modality decides (CBIS-DDSM mammograms are such)
    "1.2.840.10008.5.1.4.1.1.7.1": "",
    "1.2.840.10008.5.1.4.1.1.7.2": "",
    "1.2.840.10008.5.1.4.1.1.7.3": "",
    "1.2.840.10008.5.1.4.1.1.7.4": "",
}
"""Image storage classes that are accepted -> the modality that the class itself implies ("" = none)."""

REPORT_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.11"})
"""Comprehensive 3D SR (results) and Basic Text SR (what says that nothing was analysed)."""
STORAGE_CLASSES = frozenset(IMAGE_CLASSES) | REPORT_CLASSES
VERIFICATION = "1.2.840.10008.1.1"

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"
NATIVE_SYNTAXES = frozenset({IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED_LE})
ENCAPSULATED_SYNTAXES = frozenset(
    {
        "1.2.840.10008.1.2.5",  # RLE
        "1.2.840.10008.1.2.4.50",  # JPEG baseline
        "1.2.840.10008.1.2.4.51",  # JPEG extended; 12 bit has no decoder here: kept, and left out by the analysis
        "1.2.840.10008.1.2.4.57",  # JPEG lossless, process 14
        "1.2.840.10008.1.2.4.70",  # JPEG lossless, selection value 1
        "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
        "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
        "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
        "1.2.840.10008.1.2.4.91",  # JPEG 2000
        "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
        "1.2.840.10008.1.2.4.202",  # HTJ2K lossless RPCL
        "1.2.840.10008.1.2.4.203",  # HTJ2K
    }
)
TRANSFER_SYNTAXES = NATIVE_SYNTAXES | ENCAPSULATED_SYNTAXES

_MODALITIES = frozenset({"MG", "MR", "US"})


def choose_syntax(abstract_syntax: str, proposed: list[str]) -> str | None:
    """Pick the sender's first syntax that we read, implicit VR only when nothing else is there (it loses the VRs)."""
    if abstract_syntax == VERIFICATION:
        known = [s for s in proposed if s in NATIVE_SYNTAXES]
    elif abstract_syntax in STORAGE_CLASSES:
        known = [s for s in proposed if s in TRANSFER_SYNTAXES]
    else:
        return None
    return next((s for s in known if s != IMPLICIT_LE), known[0] if known else None)


def judge(header: Header, own_manufacturer: str) -> tuple[Verdict, str]:
    """Say what becomes of a readable object, with the reason's code ("" for accepted)."""
    implied = IMAGE_CLASSES.get(header.sop_class_uid)
    if is_own_result(header, own_manufacturer):
        return Verdict.KEPT_ASIDE, "OWN_RESULT"
    if header.sop_class_uid in REPORT_CLASSES:
        return Verdict.KEPT_ASIDE, "SOP_CLASS_NOT_ACCEPTED"
    if implied is None:
        return Verdict.REFUSED, "SOP_CLASS_NOT_ACCEPTED"
    if header.modality not in _MODALITIES or (implied and header.modality != implied):
        return Verdict.KEPT_ASIDE, "MODALITY_NOT_ACCEPTED"
    if not header.patient_id:
        return Verdict.KEPT_ASIDE, "PATIENT_ID_MISSING"
    return Verdict.ACCEPTED, ""


def is_own_result(header: Header, own_manufacturer: str) -> bool:
    """Whether an object was made here: a class that we write, our Manufacturer, a UID derived the way we derive them.

    A PACS may coerce patient and study values on the way, but not these.
    """
    return (
        (header.sop_class_uid in REPORT_CLASSES or IMAGE_CLASSES.get(header.sop_class_uid) == "")
        and bool(own_manufacturer)
        and header.attributes.get("Manufacturer", "") == own_manufacturer
        and header.sop_instance_uid.startswith("2.25.")
    )
