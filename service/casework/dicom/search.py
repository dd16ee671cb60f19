"""Which studies a PACS holds of a patient, or under an accession number or UID, with their series. Owns nothing.

Asked by C-FIND (study root) or QIDO-RS. What comes back is the PACS's word and may be wrong or hostile: it is bounded, its
UIDs are checked before they are used, and nothing of it is trusted to be the patient's until `whose` has compared it.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # the names are made at import time
    StudyRootQueryRetrieveInformationModelFind,
)

from casework.config import Destination
from casework.dicom import shown
from casework.dicom.header import is_uid
from casework.dicom.query import DimseQuestions, WebQuestions, is_key
from casework.dicom.scu import FindSession
from casework.dicom.web import WebSession
from casework.errors import Refused

STUDIES, SERIES = 500, 500  # no answer is read further
LOOKED_INTO = 3  # series of a study of which an image is asked for
_STUDY = (
    "StudyInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "StudyDate",
    "AccessionNumber",
    "StudyDescription",
)
_SERIES = (
    "SeriesInstanceUID",
    "Modality",
    "BodyPartExamined",
    "SeriesDescription",
    "NumberOfSeriesRelatedInstances",
)


@dataclass(frozen=True, slots=True)
class Person:
    """What tells patients apart beside the ID. name as in DICOM (groups divided by "="), birth_date as DA; "" = not said."""

    patient_id: str
    issuer: str
    name: str
    birth_date: str


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """One series as a PACS describes it. count: instances, 0 when it can't be told. said: what an image says by itself."""

    series_uid: str
    modality: str
    body_part: str
    description: str
    count: int
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """One study as a PACS describes it. series is empty until `details` has asked for it."""

    study_uid: str
    person: Person
    study_date: str
    accession_number: str
    description: str
    series: tuple[FoundSeries, ...] = ()


class Search:
    """One conversation with one PACS.

    Raises (all methods):
        Unavailable: PEER_UNREACHABLE, PEER_REJECTED or PEER_BUSY; an incomplete answer is never returned as complete.
        Refused: PATIENT_ID_MISSING, FETCH_NOT_FOUND for a term that can't be asked for without asking for others too.
    """

    def __init__(self, web: WebQuestions | None, dimse: DimseQuestions | None) -> None:
        self._web, self._dimse = web, dimse

    def of_patient(self, patient_id: str) -> list[FoundStudy]:
        """Every study under a Patient ID (which may be another issuer's)."""
        if not is_key(patient_id):
            raise Refused("PATIENT_ID_MISSING", "the Patient ID can't be used as a key")
        return self._studies({"PatientID": patient_id.strip()})

    def of_term(self, term: str) -> list[FoundStudy]:
        """Studies with this Study Instance UID or accession number."""
        if not is_key(term):
            raise Refused("FETCH_NOT_FOUND", "the identifier can't be used as a key")
        found = self._studies({"StudyInstanceUID": term}) if is_uid(term) else []
        return found or ([] if len(term) > 16 else self._studies({"AccessionNumber": term.strip()}))

    def details(self, found: FoundStudy) -> FoundStudy:
        """The study with its series and their counts."""
        if not is_uid(found.study_uid):
            return found
        if self._web is not None:
            rows = self._web.ask(f"studies/{found.study_uid}/series", {}, _SERIES)
        else:
            assert self._dimse is not None  # noqa: S101 - one of the two is given
            rows = self._dimse.ask("SERIES", {"StudyInstanceUID": found.study_uid}, _SERIES)
        series = tuple(self._one_series(found.study_uid, row) for row in rows[:SERIES])
        return replace(found, series=series)

    def closer(self, found: FoundStudy, modalities: Collection[str]) -> FoundStudy:
        """The study with what one image of some of its series says of the part of the body; silence stays silence."""
        looked = [s for s in found.series if s.modality in modalities and s.count and is_uid(s.series_uid)][
            :LOOKED_INTO
        ]
        known = {s.series_uid: self._looked_into(found.study_uid, s) for s in looked}
        return replace(found, series=tuple(known.get(s.series_uid, s) for s in found.series))

    def _looked_into(self, study_uid: str, series: FoundSeries) -> FoundSeries:
        words = shown.said(self._web, self._dimse, study_uid, series.series_uid)
        stated = words.get("BodyPartExamined", [""])[0]
        return replace(series, body_part=series.body_part or stated, said=tuple(w for v in words.values() for w in v))

    def _studies(self, given: Mapping[str, str]) -> list[FoundStudy]:
        if self._web is not None:
            rows = self._web.ask("studies", given, _STUDY)
        else:
            assert self._dimse is not None  # noqa: S101 - one of the two is given
            rows = self._dimse.ask("STUDY", given, _STUDY)
        # A PACS may match too much; keys are compared here once more.
        mine = [row for row in rows if all(row[key] == value.strip() for key, value in given.items())]
        return [
            FoundStudy(
                row["StudyInstanceUID"],
                Person(row["PatientID"], row["IssuerOfPatientID"], row["PatientName"], row["PatientBirthDate"]),
                row["StudyDate"],
                row["AccessionNumber"],
                row["StudyDescription"],
            )
            for row in mine[:STUDIES]
        ]

    def _one_series(self, study_uid: str, row: Mapping[str, str]) -> FoundSeries:
        uid, number = row["SeriesInstanceUID"], row["NumberOfSeriesRelatedInstances"]
        known = number.isascii() and number.isdecimal()
        count = int(number[:9]) if known else self._count(study_uid, uid)
        return FoundSeries(uid, row["Modality"], row["BodyPartExamined"], row["SeriesDescription"], count)

    def _count(self, study_uid: str, series_uid: str) -> int:
        """How many instances a series has, where the PACS keeps no count."""
        if not is_uid(series_uid):
            return 0
        source = self._web or self._dimse
        return source.instances(study_uid, series_uid) if source is not None else 0


@contextmanager
def searching(destination: Destination, calling: str) -> Iterator[Search]:
    """A conversation for the length of a block."""
    if destination.kind == "stow":
        with WebSession(destination) as web:
            yield Search(WebQuestions(web), None)
    else:
        with FindSession(destination, calling, StudyRootQueryRetrieveInformationModelFind) as finder:
            yield Search(None, DimseQuestions(finder))


def person_of(path: Path) -> Person:
    """Who a stored object is of; everything "" when that can't be read."""
    wanted = ["PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "SpecificCharacterSet"]
    try:
        ds = dcmread(path, stop_before_pixels=True, specific_tags=wanted)
        return Person(*(str(ds.get(keyword) or "").strip() for keyword in wanted[:4]))
    except (OSError, InvalidDicomError, ValueError, TypeError, AttributeError, NotImplementedError):
        return Person("", "", "", "")


def contradiction(ours: Person, theirs: Person) -> str:
    """What says that two are different people, "" when nothing does: silence contradicts nothing.

    Patient ID exactly, issuer and birth date where both state one; names by group, where both write the same one, as sets
    of words: a middle name that one of them leaves out is no contradiction, another family name is. Characters have to be
    the same, all of them.
    """
    if ours.patient_id.strip() != theirs.patient_id.strip():
        return "PatientID"
    for keyword, one, other in (
        ("IssuerOfPatientID", ours.issuer.strip(), theirs.issuer.strip()),
        ("PatientBirthDate", _date(ours.birth_date), _date(theirs.birth_date)),
    ):
        if one and other and one != other:
            return keyword
    for one_group, other_group in zip(ours.name.split("="), theirs.name.split("="), strict=False):
        if _differ(_plain(one_group), _plain(other_group)):
            return "PatientName"
    return ""


def _date(value: str) -> str:
    return value.strip().replace(".", "").replace("-", "")


def _plain(group: str) -> str:
    """A name without case, accents and punctuation; its words divided by single spaces."""
    plain = unicodedata.normalize("NFKD", group).casefold()
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join(re.findall(r"\w+", plain.replace("_", " ")))


def _differ(one: str, other: str) -> bool:
    """Whether two written names are of different people; one in letters and one in characters can't be compared."""
    ideographic = [any(ord(c) > 0x2E7F for c in name) for name in (one, other)]
    if not one or not other or ideographic[0] != ideographic[1] or one.replace(" ", "") == other.replace(" ", ""):
        return False
    first, second = set(one.split()), set(other.split())
    return ideographic[0] or not (first <= second or second <= first)
