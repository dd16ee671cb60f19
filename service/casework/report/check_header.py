"""Self-check of what every result object says about patient, study, text and itself. Does no I/O.

Written apart from what builds the objects: the lists below are this check's own.
"""

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import UID

from casework.errors import Defect

_PATIENT = {
    "PatientName": 0x00100010,
    "PatientID": 0x00100020,
    "IssuerOfPatientID": 0x00100021,
    "PatientBirthDate": 0x00100030,
    "PatientSex": 0x00100040,
}
_STUDY = {
    "StudyDate": 0x00080020,
    "StudyTime": 0x00080030,
    "AccessionNumber": 0x00080050,
    "ReferringPhysicianName": 0x00080090,
    "StudyDescription": 0x00081030,
    "StudyInstanceUID": 0x0020000D,
    "StudyID": 0x00200010,
}
_SEQUENCES = (
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "IssuerOfAccessionNumberSequence",
    "ProcedureCodeSequence",
)
_TEXT = frozenset({"PN", "LO", "SH", "ST", "LT", "UT", "UC"})
_STRAY = ("\x1b$)A", "\x1b$)C")


def need(truth: bool, rule: str, detail: str = "") -> None:
    """Raise the defect unless the rule holds. `detail` holds no patient data.

    Raises:
        Defect: RESULT_SELF_CHECK, naming the rule.
    """
    if not truth:
        raise Defect("RESULT_SELF_CHECK", f"{rule}: {detail}" if detail else rule)


def check(ds: Dataset, reference: Dataset) -> None:
    """Patient, study, characters, dates, marks of origin. `reference`: the source whose study the object joins.

    Raises:
        Defect: RESULT_SELF_CHECK, naming the rule.
    """
    same_set = _terms(ds) == _terms(reference)
    for rule, tags in (("patient", _PATIENT), ("study", _STUDY)):
        for keyword, tag in tags.items():
            need(_same(ds, reference, tag, same_set), rule, keyword)
    for keyword in _SEQUENCES:
        need(_plain(reference.get(keyword)) == _plain(ds.get(keyword)), "study", keyword)
    _characters(ds, reference)
    for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber"):
        need(bool(ds.get(keyword)), "origin", keyword)
    equipment = ds.get("ContributingEquipmentSequence") or []
    purposes = [c.CodeValue for e in equipment for c in e.get("PurposeOfReferenceCodeSequence", [])]
    need("109102" in purposes and bool(equipment[0].get("SoftwareVersions")), "origin", "contributing equipment")
    need("AI" in str(ds.get("SeriesDescription", "")), "origin", "series description")
    made = "PresentationCreationDate" if ds.Modality == "PR" else "ContentDate"
    day, study_day = str(ds.get(made) or ""), str(reference.get("StudyDate") or "")
    need(len(day) == 8 and (not study_day or day >= study_day), "date", "content before the study")
    need(ds.get("TimezoneOffsetFromUTC") == reference.get("TimezoneOffsetFromUTC"), "date", "time zone")
    _elements(ds)


def _terms(ds: Dataset) -> tuple[str, ...]:
    value = ds.get("SpecificCharacterSet")
    if value in (None, ""):
        return ()
    return tuple(value) if isinstance(value, MultiValue | list) else (str(value),)


def _same(ds: Dataset, reference: Dataset, tag: int, same_set: bool) -> bool:
    """Byte for byte where both are at hand in one character set, else as read."""
    ours, theirs = ds.get_item(Tag(tag)), reference.get_item(Tag(tag))
    if same_set and isinstance(ours, RawDataElement) and isinstance(theirs, RawDataElement):
        return (ours.value or b"").rstrip(b" \0") == (theirs.value or b"").rstrip(b" \0")
    return _shown(ds, tag) == _shown(reference, tag)


def _shown(ds: Dataset, tag: int) -> str:
    """An element as read. The data set keeps its raw bytes: a later rendering carries them as they are."""
    element = ds.get_item(Tag(tag))
    if isinstance(element, RawDataElement):
        element = convert_raw_data_element(element, encoding=convert_encodings(list(_terms(ds)) or ["ISO_IR 6"]))
    return _clean(element.value).rstrip(" \0") if isinstance(element, DataElement) else ""


def _plain(sequence: object) -> list[object] | None:
    """A sequence as nested lists of public values, to compare across character sets."""
    if sequence is None:
        return None
    items: list[object] = []
    for item in sequence if isinstance(sequence, MultiValue | list) or hasattr(sequence, "__iter__") else []:
        values = [
            (int(e.tag), _plain(e.value) if e.VR == "SQ" else _clean(e.value)) for e in item if e.tag.group % 2 == 0
        ]
        items.append(values)
    return items


def _clean(value: object) -> str:
    text = "" if value is None else str(value)
    for escape in _STRAY:
        text = text.replace(escape, "")
    return text.strip(" \0")


def _characters(ds: Dataset, reference: Dataset) -> None:
    """No damaged text at the top level, other than what the source itself shows; nested text is the tree's check."""
    terms = _terms(ds)
    for tag in ds.keys():  # noqa: SIM118 - iterating a Dataset would read every raw element, the pixels too
        raw = ds.get_item(tag)
        if raw is None or raw.VR not in _TEXT:
            continue
        text = _shown(ds, tag)
        if text == _shown(reference, tag):
            continue  # a source that is mislabelled is carried as it is
        need("\x1b" not in text, "charset", f"escape sequence in {tag}")
        need("\ufffd" not in text, "charset", f"undecodable text in {tag}")
        need(bool(terms) or text.isascii(), "charset", f"text of an undeclared character set in {tag}")


def _elements(ds: Dataset) -> None:
    """No private element and no malformed UID at the top level."""
    for tag in ds.keys():  # noqa: SIM118 - as above
        need(not tag.is_private, "private", str(tag))
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPClassUID"):
        need(UID(str(ds.get(keyword, ""))).is_valid, "uid", keyword)
