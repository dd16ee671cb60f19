"""The rejection note that withdraws results of ours: a Key Object Selection by IHE IOCM (RAD TF-3 4.66, PS3.3 A.35.4).

One note for each study and set of objects: it lies in the study of what it rejects, carries that study's patient and study
attributes as the rejected objects do, byte for byte, and references every one of them. Its title says why, in the code that
archives act on. Images are IMAGE items, documents and presentation states COMPOSITE ones (TID 2010). Does no I/O.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes as dictionary
from pydicom.sr.coding import Code

from casework.case import REJECTION, RETRACTIONS, Artefact, derive_uid
from casework.errors import Defect
from casework.reasons import reason
from casework.report import check_header, codes, header
from casework.report.charset import Charset, declared
from casework.report.check_header import need
from casework.report.codes import concept
from casework.report.encode import to_file
from casework.report.rendering import Rendered

CLASS = "1.2.840.10008.5.1.4.1.1.88.59"  # Key Object Selection Document
SERIES_NUMBER = 9010
TITLES: dict[str, Code] = dict(
    zip(
        RETRACTIONS,
        (
            dictionary.DCM.RejectedForQualityReasons,
            dictionary.DCM.RejectedForPatientSafetyReasons,
            dictionary.DCM.IncorrectModalityWorklistEntry,
            dictionary.DCM.DataRetentionPolicyExpired,
        ),
        strict=True,
    )
)
_DESCRIPTION = Code("113012", "DCM", "Key Object Description")
_OBSERVER_TYPE, _DEVICE = Code("121005", "DCM", "Observer Type"), Code("121007", "DCM", "Device")
_OBSERVER_UID = Code("121012", "DCM", "Device Observer UID")
_EQUIPMENT = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceSerialNumber",
    "InstitutionName",
    "ContributingEquipmentSequence",
)
_FIRST = ("sr", "not-performed")
_DOCUMENTS = ("1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.11.")  # reports, presentation states


def render_rejection(case_id: str, code: str, objects: Sequence[Dataset], language: str, now: datetime) -> Rendered:
    """Withdraw these objects of ours, all of one study.

    code: one of case.RETRACTIONS. objects: as they were rendered, without pixels; the first one's patient, study and
    equipment are carried.

    Raises:
        Defect: RESULT_SELF_CHECK, the note is not what it should be, or can't be written.
    """
    reference = objects[0]
    charset = Charset(declared(reference), declared(reference))
    named = sorted((str(o.SeriesInstanceUID), str(o.SOPClassUID), str(o.SOPInstanceUID)) for o in objects)
    key = hashlib.sha256("|".join(uid for _, _, uid in named).encode()).hexdigest()
    study = str(reference.StudyInstanceUID)
    ds = Dataset()
    if charset.terms:
        ds.SpecificCharacterSet = list(charset.terms)
    try:
        for keyword in header.REQUIRED:
            setattr(ds, keyword, None)
        for keyword in (*header.REQUIRED, *header.CARRIED, *_EQUIPMENT):
            header.carry(ds, charset, reference, keyword)
        _series(ds, derive_uid("series", REJECTION, case_id, code, study, key), reference, now)
        ds.SOPClassUID, ds.SOPInstanceUID = CLASS, derive_uid("instance", REJECTION, case_id, code, study, key)
        ds.ReferencedPerformedProcedureStepSequence = []
        ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(study, named)]
        if "ReferencedRequestSequence" in reference:
            header.carry(ds, charset, reference, "ReferencedRequestSequence")
        words = reason(code)
        said = words.zh if language == "zh" and charset.fits(words.zh) else words.en
        _tree(ds, code, said, reference, named)
        data = to_file(ds, charset, f"CASEWORK_{header.PROGRAM_VERSION}")
    except ValueError as error:
        raise Defect("RESULT_SELF_CHECK", str(error)) from error
    uid, series = str(ds.SOPInstanceUID), str(ds.SeriesInstanceUID)
    note = Rendered(REJECTION, "application/dicom", study, series, CLASS, uid, TITLES[code].meaning, data)
    check_rejection(note, code, objects)
    return note


def readable(artefacts: Sequence[Artefact], read: Callable[[Artefact], Dataset]) -> list[Dataset]:
    """Objects of one study to withdraw, those that can be read first; of one that was damaged what the ledger knows of it.

    A withdrawal must not wait for a backup: a note needs one header of the study, and of each object its identifiers.

    Raises:
        Defect: SPOOL_CORRUPT, none of them can be read.
    """
    whole, damaged, last = list[Dataset](), list[Artefact](), Defect("SPOOL_CORRUPT")
    for one in artefacts:
        try:
            whole.append(read(one))
        except Defect as defect:
            damaged.append(one)
            last = defect
    if not whole:
        raise last
    for one in damaged:
        known = Dataset()
        known.StudyInstanceUID, known.SeriesInstanceUID = one.study_instance_uid, one.series_instance_uid
        known.SOPClassUID, known.SOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
        known.PatientID = whole[0].PatientID
        whole.append(known)
    return whole


def to_reject(reached: Mapping[str, Sequence[Artefact]]) -> list[tuple[list[Artefact], list[str]]]:
    """The sets of objects that need a note each, by what each destination has of each study, and the destinations.

    Reports come first: theirs is the header that a note carries.
    """
    known, sets = dict[str, Artefact](), dict[tuple[str, ...], list[str]]()
    for destination, artefacts in reached.items():
        by_study: dict[str, tuple[str, ...]] = {}
        for one in sorted(artefacts, key=lambda a: (a.kind not in _FIRST, a.sop_instance_uid)):
            known[one.sop_instance_uid] = one
            by_study[one.study_instance_uid] = (*by_study.get(one.study_instance_uid, ()), one.sop_instance_uid)
        for uids in by_study.values():
            sets.setdefault(uids, []).append(destination)
    return [([known[uid] for uid in uids], destinations) for uids, destinations in sets.items()]


def _series(ds: Dataset, uid: str, reference: Dataset, now: datetime) -> None:
    """A series of its own, and the time in the study's own zone."""
    local = header.local_time(reference, now)
    ds.InstanceCreationDate = ds.ContentDate = ds.SeriesDate = f"{local:%Y%m%d}"
    ds.InstanceCreationTime = ds.ContentTime = ds.SeriesTime = f"{local:%H%M%S}"
    ds.Modality, ds.SeriesInstanceUID, ds.SeriesNumber, ds.InstanceNumber = "KO", uid, SERIES_NUMBER, 1
    ds.SeriesDescription = "AI RETRACTED: results withdrawn"


def _evidence(study: str, named: Iterable[tuple[str, str, str]]) -> Dataset:
    """Study, series, instance (PS3.3 C.17.2, Hierarchical SOP Instance Reference)."""
    item = Dataset()
    item.StudyInstanceUID = study
    by_series: dict[str, list[Dataset]] = {}
    for series, sop_class, uid in named:
        by_series.setdefault(series, []).append(_reference(sop_class, uid))
    item.ReferencedSeriesSequence = []
    for series, references in by_series.items():
        one = Dataset()
        one.ReferencedSOPSequence, one.SeriesInstanceUID = references, series
        item.ReferencedSeriesSequence.append(one)
    return item


def _reference(sop_class: str, uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    return item


def _tree(ds: Dataset, code: str, words: str, reference: Dataset, named: Iterable[tuple[str, str, str]]) -> None:
    """TID 2010: the title, the device that observes (TID 1002, 1004), words, and every object."""
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [concept(TITLES[code])]
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    ds.ContentTemplateSequence = [template]
    kind = _item("HAS OBS CONTEXT", "CODE", _OBSERVER_TYPE)
    kind.ConceptCodeSequence = [concept(_DEVICE)]
    device = _item("HAS OBS CONTEXT", "UIDREF", _OBSERVER_UID)
    device.UID = str(reference.ContributingEquipmentSequence[0].DeviceUID)
    described = _item("CONTAINS", "TEXT", _DESCRIPTION)
    described.TextValue = words
    ds.ContentSequence = [kind, device, described]
    for _, sop_class, uid in named:
        item = _item("CONTAINS", "COMPOSITE" if sop_class.startswith(_DOCUMENTS) else "IMAGE")
        item.ReferencedSOPSequence = [_reference(sop_class, uid)]
        ds.ContentSequence.append(item)


def _item(relationship: str, value_type: str, name: Code | None = None) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, value_type
    if name is not None:
        item.ConceptNameCodeSequence = [codes.concept(name)]
    return item


# --- the check: what is read back is compared with what it withdraws ---------------------------------------------

_EXPECTED = {
    "RETRACTED_QUALITY": "113001",
    "RETRACTED_SAFETY": "113037",
    "RETRACTED_WORKLIST": "113038",
    "RETRACTED_RETENTION": "113039",
}


def check_rejection(note: Rendered, code: str, objects: Sequence[Dataset]) -> None:
    """Compare a note with the objects that it withdraws.

    Raises:
        Defect: RESULT_SELF_CHECK, its detail naming the rule.
    """
    try:
        ds = dcmread(BytesIO(note.data))
        studies = {str(o.StudyInstanceUID) for o in objects}
        need(
            studies == {note.study_instance_uid} == {str(ds.StudyInstanceUID)}, "study", "not the study of its objects"
        )
        need({str(o.PatientID) for o in objects} == {str(ds.PatientID)}, "patient", "objects of another patient")
        check_header.check(ds, objects[0])
        need(
            (ds.SOPClassUID, ds.Modality) == (CLASS, "KO") and note.sop_instance_uid == ds.SOPInstanceUID, "uid", "kind"
        )
        title = ds.ConceptNameCodeSequence[0]
        need((title.CodeValue, title.CodingSchemeDesignator) == (_EXPECTED[code], "DCM"), "title", "not the reason's")
        want = {(str(o.SeriesInstanceUID), str(o.SOPClassUID), str(o.SOPInstanceUID)) for o in objects}
        (evidence,) = ds.CurrentRequestedProcedureEvidenceSequence
        listed = {
            (str(s.SeriesInstanceUID), str(r.ReferencedSOPClassUID), str(r.ReferencedSOPInstanceUID))
            for s in evidence.ReferencedSeriesSequence
            for r in s.ReferencedSOPSequence
        }
        items = [r for i in ds.ContentSequence for r in i.get("ReferencedSOPSequence", [])]
        named = [str(r.ReferencedSOPInstanceUID) for r in items]
        need(str(evidence.StudyInstanceUID) == note.study_instance_uid and listed == want, "references", "evidence")
        need(len(named) == len(set(named)) and set(named) == {uid for _, _, uid in want}, "references", "content")
        need(
            note.sop_instance_uid not in named and note.series_instance_uid not in {s for s, _, _ in want},
            "uid",
            "reused",
        )
    except (InvalidDicomError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise Defect("RESULT_SELF_CHECK", f"file: {type(error).__name__} [{REJECTION}]") from error
