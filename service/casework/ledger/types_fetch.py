"""The ledger's rows about studies that are fetched from a PACS. Does no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from casework.case import CandidateState, OrderState


@dataclass(frozen=True, slots=True)
class HereStudy:
    """One study that is here already. modalities: accepted images by modality; elsewhere: those of another part of the body."""

    study_uid: str
    study_date: str
    modalities: Mapping[str, int]
    accession_number: str = ""
    elsewhere: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ClaimedOrder:
    """One question that its owner holds until the lease ends.

    term: what a person asked for, when it is not a case; anchor: the day around which the case's window lies, and
    sample_sha256: one of its objects, both None and "" without a case.
    """

    order_id: int
    fence: int
    attempt: int
    by_person: bool
    term: str
    root_id: str
    patient_id: str
    issuer_of_patient_id: str
    anchor: datetime | None
    here: tuple[HereStudy, ...]
    sample_sha256: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One study that a PACS named, with what was decided. code "" = chosen.

    modalities: images by modality; series: modality -> Series Instance UID -> images, those that would be fetched.
    """

    study_uid: str
    accession_number: str
    study_date: str
    modalities: Mapping[str, int]
    series: Mapping[str, Mapping[str, int]]
    role: str  # "sibling" | "prior" | "asked"
    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ClaimedCandidate:
    """One study to fetch, held until the lease ends. patient_id "" = any (a person asked for the study itself)."""

    candidate_id: int
    fence: int
    attempt: int
    study_uid: str
    series: Mapping[str, Mapping[str, int]]
    modalities: Mapping[str, int]
    role: str
    patient_id: str
    issuer_of_patient_id: str

    @property
    def images(self) -> int:
        """How many images the PACS says there are to fetch."""
        return images_in(self.series)


def images_in(series: Mapping[str, Mapping[str, int]]) -> int:
    """All images of all series."""
    return sum(sum(one.values()) for one in series.values())


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One study that a PACS named, chosen or rejected and why, and how its fetch goes."""

    id: int
    destination: str
    study_uid: str
    accession_number: str
    study_date: str
    modalities: Mapping[str, int]
    role: str
    state: CandidateState
    code: str
    detail: str
    attempt: int
    counts: Mapping[str, int]
    next_at: datetime | None
    started_at: datetime | None
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class OrderRow:
    """One question to one PACS, and the studies that it named, newest first."""

    id: int
    destination: str
    term: str
    actor: str
    state: OrderState
    code: str
    attempt: int
    next_at: datetime | None
    asked_at: datetime | None
    created_at: datetime
    changed_at: datetime
    candidates: tuple[CandidateRow, ...]
