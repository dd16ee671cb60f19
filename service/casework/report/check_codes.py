"""Self-check of every code in an object's bytes: known here or stated by the source, and with its own meaning. Does no I/O.

Viewers show meanings: a code that is right under words that are wrong is a wrong report. Written apart from codes.py.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from pydicom.dataset import Dataset

from casework.report.check_header import need

_MEANINGS = {
    "DCM": {
        "109102": "Processing Equipment",
        "110910": "Pixel Data Rows",
        "110911": "Pixel Data Columns",
        "111000": "Algorithm Family",
        "111001": "Algorithm Name",
        "111002": "Algorithm Parameters",
        "111003": "Algorithm Version",
        "111027": "Image Laterality",
        "111028": "Image Library",
        "111030": "Image Region",
        "111031": "Image View",
        "111047": "Probability of cancer",
        "111060": "Study Date",
        "111301": "Axillary nodal metastases",
        "111225": "Not Attempted",
        "112039": "Tracking Identifier",
        "112040": "Tracking Unique Identifier",
        "113000": "Of Interest",
        "113012": "Key Object Description",
        "121005": "Observer Type",
        "121007": "Device",
        "121012": "Device Observer UID",
        "121013": "Device Observer Name",
        "121014": "Device Observer Manufacturer",
        "121015": "Device Observer Model Name",
        "121016": "Device Observer Serial Number",
        "121049": "Language of Content Item and Descendants",
        "121058": "Procedure reported",
        "121064": "Current Procedure Descriptions",
        "121065": "Procedure Description",
        "121070": "Findings",
        "121071": "Finding",
        "121072": "Impressions",
        "121073": "Impression",
        "121074": "Recommendations",
        "121075": "Recommendation",
        "121077": "Conclusion",
        "121080": "Best illustration of finding",
        "121106": "Comment",
        "121112": "Source of Measurement",
        "121139": "Modality",
        "121200": "Illustration of ROI",
        "121322": "Source image for image processing operation",
        "122157": "Probability",
        "122405": "Algorithm Manufacturer",
        "123110": "Artificial Intelligence",
        "125007": "Measurement Group",
        "126000": "Imaging Measurement Report",
        "126010": "Imaging Measurements",
        "126200": "Image Library Group",
        "130402": "Class activation",
        "MG": "Mammography",
        "MR": "Magnetic Resonance",
        "US": "Ultrasound",
    },
    "LN": {"18748-4": "Diagnostic Imaging Report"},
    "RFC5646": {"en-US": "English (United States)", "zh-CN": "Chinese (S)"},
    "SCT": {
        "24028007": "Right",
        "7771000": "Left",
        "241615005": "Magnetic resonance imaging of breast",
        "246205007": "Quantity",
        "260753009": "Source",
        "272519000": "Absent",
        "272741003": "Laterality",
        "309825002": "Spatial and Relational Concept",
        "363698007": "Finding Site",
        "373068000": "Undetermined",
        "399162004": "cranio-caudal",
        "399260004": "medial-lateral",
        "399352003": "latero-medial",
        "399368009": "medio-lateral oblique",
        "47079000": "Ultrasonography of breast",
        "51440002": "Right and left",
        "52101004": "Present",
        "68171009": "Axillary lymph node",
        "71651007": "Mammography",
        "76752008": "Breast",
        "91470000": "Axilla",
    },
    "UCUM": {"%": "Percent", "1": "no units", "{pixels}": "Pixels"},
    "UMLS": {"C0034375": "Qualitative Evaluations"},
}
_CARRIED = (
    "ProcedureCodeSequence",
    "ViewCodeSequence",
    "DeidentificationMethodCodeSequence",
    "RequestAttributesSequence",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
)
_VALUE, _SCHEME = b"\x08\x00\x00\x01SH", b"\x08\x00\x02\x01SH"
_VERSION, _MEANING = b"\x08\x00\x03\x01SH", b"\x08\x00\x04\x01LO"
_PIXELS = b"\xe0\x7f\x10\x00"


def check(data: bytes, source: Dataset, more: Mapping[str, Mapping[str, str]] = MappingProxyType({})) -> None:
    """All codes of one Explicit VR Little Endian object; `source`: the image whose patient, study and view it carries.

    more: meanings of further codes that this object may have, by scheme.

    Raises:
        Defect: RESULT_SELF_CHECK, rule "code".
    """
    end = data.rfind(_PIXELS)
    theirs: set[tuple[bytes, bytes]] | None = None
    for value, scheme, meaning in set(_triplets(data[:end] if end > 0 else data)):
        if not (value + scheme).isascii():
            continue  # a source's: ours are ASCII
        ours = (_MEANINGS.get(scheme.decode()) or more.get(scheme.decode(), {})).get(value.decode())
        if ours is not None and ours.encode() == meaning:
            continue
        if theirs is None:
            theirs = {pair for keyword in _CARRIED for pair in _pairs(source.get(keyword) or [])}
        need((value, scheme) in theirs, "code", "unknown, or not its meaning")


def _triplets(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(value, scheme, meaning) as they lie one after the other in the file; a search, since trees are large.

    A source's code may lack its scheme or meaning, which then is empty.
    """
    at = data.find(_VALUE)
    while at >= 0:
        value, after = _element(data, at, _VALUE)
        scheme, after = _element(data, after, _SCHEME)
        _, after = _element(data, after, _VERSION)
        meaning, after = _element(data, after, _MEANING)
        yield value, scheme, meaning
        at = data.find(_VALUE, after)


def _element(data: bytes, at: int, start: bytes) -> tuple[bytes, int]:
    """The value of the element that begins at `at`, and where the next one does; empty when it is another element."""
    if not data.startswith(start, at):
        return b"", at
    (length,) = struct.unpack_from("<H", data, at + 6)
    return data[at + 8 : at + 8 + length].rstrip(b" \0"), at + 8 + length


def _pairs(items: object) -> Iterator[tuple[bytes, bytes]]:
    """(value, scheme) of a source's code sequence and of those nested in it."""
    for item in items if isinstance(items, Iterable) else ():
        if "CodeValue" in item:
            yield str(item.CodeValue).encode(), str(item.get("CodingSchemeDesignator") or "").encode()
        for element in item:
            if element.VR == "SQ":
                yield from _pairs(element.value)
