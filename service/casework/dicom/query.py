"""One question to a PACS: how many MG, MR and US instances does this patient have there, per study? Owns nothing.

Only series of the three modalities count, so that our own results and other objects of the study never matter. An
answer is complete or it is an exception: half an answer would let a case run too early.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydicom.dataset import Dataset
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # the names are made at import time
    StudyRootQueryRetrieveInformationModelFind,
)

from casework.config import Destination
from casework.dicom.scu import FindSession
from casework.dicom.web import WebSession
from casework.errors import Refused

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
    if not patient_id.strip() or any(c in patient_id for c in "*?\\") or not patient_id.isprintable():
        raise Refused("PATIENT_ID_MISSING", "the Patient ID can't be used as a key")
    if destination.kind == "stow":
        with WebSession(destination) as web:
            return _count(_Web(web), patient_id, issuer)
    with FindSession(destination, calling, StudyRootQueryRetrieveInformationModelFind) as finder:
        return _count(_Dimse(finder), patient_id, issuer)


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
_TAGS = {
    "PatientID": "00100020",
    "IssuerOfPatientID": "00100021",
    "StudyInstanceUID": "0020000D",
    "StudyDate": "00080020",
    "SeriesInstanceUID": "0020000E",
    "Modality": "00080060",
    "NumberOfSeriesRelatedInstances": "00201209",
}


class _Dimse:
    """Study root C-FIND, one association for the whole question."""

    def __init__(self, session: FindSession) -> None:
        self._session = session

    def _ask(self, level: str, given: Mapping[str, str], wanted: tuple[str, ...]) -> list[dict[str, str]]:
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
        return self._ask("STUDY", {"PatientID": patient_id}, _STUDY_KEYS)

    def series(self, study_uid: str) -> list[dict[str, str]]:
        return self._ask("SERIES", {"StudyInstanceUID": study_uid}, _SERIES_KEYS)

    def instances(self, study_uid: str, series_uid: str) -> int:
        given = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
        return len(self._ask("IMAGE", given, ("SOPInstanceUID",)))


class _Web:
    """QIDO-RS."""

    def __init__(self, session: WebSession) -> None:
        self._session = session

    def _ask(self, path: str, options: Mapping[str, str], wanted: tuple[str, ...]) -> list[dict[str, str]]:
        fields = {"includefield": ",".join(_TAGS[k] for k in wanted)}
        return [
            {k: _text(match, _TAGS[k]) for k in wanted} for match in self._session.get_json(path, {**options, **fields})
        ]

    def studies(self, patient_id: str) -> list[dict[str, str]]:
        return self._ask("studies", {"PatientID": patient_id}, _STUDY_KEYS)

    def series(self, study_uid: str) -> list[dict[str, str]]:
        return self._ask(f"studies/{_path_uid(study_uid)}/series", {}, _SERIES_KEYS)

    def instances(self, study_uid: str, series_uid: str) -> int:
        path = f"studies/{_path_uid(study_uid)}/series/{_path_uid(series_uid)}/instances"
        return len(self._session.get_json(path, {}))


def _text(match: Mapping[str, Any], tag: str) -> str:
    element = match.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]).strip() if isinstance(values, list) and values else ""


def _path_uid(uid: str) -> str:
    """A UID of the PACS as a path segment; anything else than digits and dots would change the path."""
    if not uid or uid.strip("0123456789.") or len(uid) > 64:
        raise Refused("UID_INVALID", "the PACS answered with an identifier that is not a UID")
    return uid
