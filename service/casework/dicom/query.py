"""One question to a PACS: how many MG, MR and US instances does this patient have there, per study? Owns nothing.

Only series of the three modalities count, so that our own results and other objects of the study never matter. An
answer is complete or it is an exception: half an answer would let a case run too early.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # the names are made at import time
    StudyRootQueryRetrieveInformationModelFind,
)

from casework.config import Destination
from casework.dicom.scu import FindSession
from casework.dicom.web import WebSession
from casework.errors import Refused, Unavailable

WANTED_MODALITIES = frozenset({"MG", "MR", "US"})


@dataclass(frozen=True, slots=True)
class HeldStudy:
    """One study as a PACS knows it. count: instances in series of the wanted modalities (never 0)."""

    study_uid: str
    study_date: str  # DA, "" when the PACS does not say
    count: int


class _Source(Protocol):
    """The three levels of the question, whatever the protocol."""

    def studies(self, patient_id: str) -> Iterable[Mapping[str, str]]: ...

    def series(self, study_uid: str) -> Iterable[Mapping[str, str]]: ...

    def instances(self, study_uid: str, series_uid: str) -> int: ...


def held_by_patient(destination: Destination, calling: str, patient_id: str, issuer: str) -> list[HeldStudy]:
    """Ask one destination.

    Raises:
        Refused: PATIENT_ID_MISSING for an ID that can't be asked for: an empty key or a wildcard would match every
            patient (PS3.4 C.2.2.2).
        Unavailable: PEER_UNREACHABLE, PEER_REJECTED or PEER_BUSY.
    """
    if not is_key(patient_id):
        raise Refused("PATIENT_ID_MISSING", "the Patient ID can't be used as a key")
    if destination.kind == "stow":
        with WebSession(destination) as web:
            return _count(WebQuestions(web), patient_id, issuer)
    with FindSession(destination, calling, StudyRootQueryRetrieveInformationModelFind) as finder:
        return _count(DimseQuestions(finder), patient_id, issuer)


def is_key(value: str) -> bool:
    """Whether a value asks for itself only: not empty, no wildcard, no list of values."""
    return bool(value.strip()) and not any(c in value for c in "*?\\") and value.isprintable()


def held_instances(destination: Destination, calling: str, series: Iterable[tuple[str, str]]) -> set[str]:
    """The SOP Instance UIDs that a destination holds in these series of ours (Study and Series Instance UID).

    Asked at the level of instances: a PACS that counts them may count what it has not stored yet.

    Raises:
        Unavailable: PEER_UNREACHABLE, PEER_REJECTED or PEER_BUSY.
    """
    wanted = list(dict.fromkeys(series))
    if destination.kind == "stow":
        with WebSession(destination) as web:
            return {uid for pair in wanted for uid in WebQuestions(web).held(*pair)}
    with FindSession(destination, calling, StudyRootQueryRetrieveInformationModelFind) as finder:
        return {uid for pair in wanted for uid in DimseQuestions(finder).held(*pair)}


def _count(source: _Source, patient_id: str, issuer: str) -> list[HeldStudy]:
    """Add up the wanted series of every study that is really this patient's (PACS may match without regard to case)."""
    held = []
    for study in source.studies(patient_id):
        theirs = study["IssuerOfPatientID"]
        if study["PatientID"] != patient_id.strip() or (issuer and theirs and theirs != issuer.strip()):
            continue
        uid = study["StudyInstanceUID"]
        wanted = [s for s in source.series(uid) if s["Modality"] in WANTED_MODALITIES]
        count = sum(_instances(source, uid, series) for series in wanted)
        if count:
            held.append(HeldStudy(uid, study["StudyDate"], count))
    return held


def _instances(source: _Source, study_uid: str, series: Mapping[str, str]) -> int:
    """The series' own count, or a count of its instances where the PACS does not keep one."""
    number = series["NumberOfSeriesRelatedInstances"]
    return int(number) if number.isdecimal() else source.instances(study_uid, series["SeriesInstanceUID"])


_STUDY_KEYS = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "StudyDate")
_SERIES_KEYS = ("SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances")
TAGS = {
    "PatientID": "00100020",
    "IssuerOfPatientID": "00100021",
    "StudyInstanceUID": "0020000D",
    "StudyDate": "00080020",
    "SeriesInstanceUID": "0020000E",
    "Modality": "00080060",
    "PatientName": "00100010",
    "PatientBirthDate": "00100030",
    "AccessionNumber": "00080050",
    "StudyDescription": "00081030",
    "SeriesDescription": "0008103E",
    "BodyPartExamined": "00180015",
    "NumberOfSeriesRelatedInstances": "00201209",
}


class DimseQuestions:
    """Study root C-FIND, one association for the whole question."""

    def __init__(self, session: FindSession) -> None:
        self._session = session

    def ask(self, level: str, given: Mapping[str, str], wanted: tuple[str, ...]) -> list[dict[str, str]]:
        """Matches at "STUDY", "SERIES" or "IMAGE" level; `given` holds the keys, "" for what a match lacks."""
        query = Dataset()
        if not all(value.isascii() for value in given.values()):
            query.SpecificCharacterSet = "ISO_IR 192"
        query.QueryRetrieveLevel = level
        for keyword in wanted:
            setattr(query, keyword, None)
        for keyword, value in given.items():
            setattr(query, keyword, value)
        return [
            {k: str(m.get(k) if m.get(k) is not None else "").strip() for k in wanted}
            for m in self._session.find(query)
        ]

    def studies(self, patient_id: str) -> list[dict[str, str]]:
        """Studies under a Patient ID."""
        return self.ask("STUDY", {"PatientID": patient_id}, _STUDY_KEYS)

    def series(self, study_uid: str) -> list[dict[str, str]]:
        """Series of a study."""
        return self.ask("SERIES", {"StudyInstanceUID": study_uid}, _SERIES_KEYS)

    def held(self, study_uid: str, series_uid: str) -> list[str]:
        """The SOP Instance UIDs of a series."""
        given = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
        return [found["SOPInstanceUID"] for found in self.ask("IMAGE", given, ("SOPInstanceUID",))]

    def image(self, study_uid: str, series_uid: str, uid: str, wanted: tuple[str, ...]) -> dict[str, Any]:
        """These attributes of one image in the DICOM JSON model, as far as the PACS returns them."""
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID, query.SeriesInstanceUID, query.SOPInstanceUID = study_uid, series_uid, uid
        for keyword in wanted:
            setattr(query, keyword, [] if dictionary_VR(keyword) == "SQ" else None)
        found = self._session.find(query)
        try:
            return {k: found[0][k].to_json_dict(None, 0) for k in wanted if found and k in found[0]}
        except (AttributeError, LookupError, TypeError, ValueError, NotImplementedError) as error:
            raise Unavailable("PEER_BUSY", f"C-FIND {type(error).__name__}") from error

    def instances(self, study_uid: str, series_uid: str) -> int:
        """How many instances a series has."""
        return len(self.held(study_uid, series_uid))


class WebQuestions:
    """QIDO-RS."""

    def __init__(self, session: WebSession) -> None:
        self._session = session

    def ask(self, path: str, options: Mapping[str, str], wanted: tuple[str, ...]) -> list[dict[str, str]]:
        """Matches below a path of the service; `options` holds the keys, "" for what a match lacks."""
        # Repeated and not as a list: Orthanc doesn't see through a comma that is written %2C.
        fields = {"includefield": [TAGS[k] for k in wanted]}
        return [
            {k: _text(match, TAGS[k]) for k in wanted} for match in self._session.get_json(path, {**options, **fields})
        ]

    def studies(self, patient_id: str) -> list[dict[str, str]]:
        """Studies under a Patient ID."""
        return self.ask("studies", {"PatientID": patient_id}, _STUDY_KEYS)

    def series(self, study_uid: str) -> list[dict[str, str]]:
        """Series of a study."""
        return self.ask(f"studies/{path_uid(study_uid)}/series", {}, _SERIES_KEYS)

    def held(self, study_uid: str, series_uid: str) -> list[str]:
        """The SOP Instance UIDs of a series."""
        path = f"studies/{path_uid(study_uid)}/series/{path_uid(series_uid)}/instances"
        return [_text(found, "00080018") for found in self._session.get_json(path, {})]

    def image(self, study_uid: str, series_uid: str, uid: str, wanted: tuple[str, ...]) -> dict[str, Any]:
        """These attributes of one image in the DICOM JSON model."""
        path = f"studies/{path_uid(study_uid)}/series/{path_uid(series_uid)}/instances/{path_uid(uid)}/metadata"
        found = self._session.get_json(path, {})
        tags = {keyword: f"{tag_for_keyword(keyword) or 0:08X}" for keyword in wanted}
        return {k: found[0][tag] for k, tag in tags.items() if found and tag in found[0]}

    def instances(self, study_uid: str, series_uid: str) -> int:
        """How many instances a series has."""
        return len(self.held(study_uid, series_uid))


def _text(match: Mapping[str, Any], tag: str) -> str:
    element = match.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    value = values[0] if isinstance(values, list) and values else ""
    if isinstance(value, dict):  # a person's name: its groups as in the binary encoding (PS3.18 F.2.2)
        groups = (str(value.get(group) or "") for group in ("Alphabetic", "Ideographic", "Phonetic"))
        value = "=".join(groups).rstrip("=")
    return str(value).strip()


def path_uid(uid: str) -> str:
    """A UID of the PACS as a path segment; anything else than digits and dots would change the path."""
    if not uid or uid.strip("0123456789.") or len(uid) > 64:
        raise Refused("UID_INVALID", "the PACS answered with an identifier that is not a UID")
    return uid
