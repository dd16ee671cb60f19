"""The contract's shapes for fetching and for "why": as in `schemas`, compared with openapi/openapi.yaml by a test. No I/O."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from casework.case import CandidateState, CaseState, OrderState
from casework.entrypoints.api.schemas import (
    Association,
    Delivery,
    Finding,
    Job,
    Reason,
    Receipt,
    ShownState,
    Study,
    Term,
)
from casework.ledger import Stage


class FetchRequest(BaseModel):
    """Whose other studies, or which study, to fetch: a case id, an accession number or a Study Instance UID."""

    model_config = ConfigDict(extra="forbid")

    term: Term


class Candidate(BaseModel):
    """One study that a PACS named."""

    id: int
    study_instance_uid: str
    accession_number: str
    study_date: str
    modalities: dict[str, int]
    role: str
    state: CandidateState
    reason: Reason
    detail: str
    attempt: int
    counts: dict[str, int]
    next_at: datetime | None
    started_at: datetime | None
    changed_at: datetime


class FetchOrder(BaseModel):
    """One question to one PACS and its candidates."""

    id: int
    destination: str
    actor: str
    state: OrderState
    reason: Reason | None
    attempt: int
    next_at: datetime | None
    asked_at: datetime | None
    changed_at: datetime
    candidates: list[Candidate]


class FetchList(BaseModel):
    """Orders, newest first."""

    items: list[FetchOrder]


class Moment(BaseModel):
    """Something that happened, `count` times from `at` to `until`."""

    at: datetime
    until: datetime
    stage: Stage
    stage_text: str
    event: str
    text: str
    reason: Reason | None
    actor: str
    case_id: str
    subject: str
    detail: dict[str, str]
    count: int


class QueueAhead(BaseModel):
    """Who is ahead of a queued case. Seconds; null where nothing was measured yet."""

    ahead: int
    running: int
    workers: int
    runs: int
    usual_s: float | None
    slow_s: float | None
    from_s: float | None
    to_s: float | None


class Process(BaseModel):
    """One door of the service as it last showed itself."""

    door: str
    alive: bool
    state: str
    reason: Reason | None
    started_at: datetime
    beat_at: datetime
    last_error: Reason | None
    last_error_at: datetime | None


class Listener(BaseModel):
    """Where a sender has to send to."""

    ae_title: str
    host: str
    port: int


class HeldStudy(BaseModel):
    """One study that a PACS holds."""

    study_instance_uid: str
    accession_number: str
    study_date: str
    modalities: dict[str, int]


class PacsHolding(BaseModel):
    """What one PACS said when it was asked."""

    destination: str
    reason: Reason
    studies: list[HeldStudy]


class WhyRequest(BaseModel):
    """A search whose term stays out of the address; an operator may have the PACS asked, too."""

    model_config = ConfigDict(extra="forbid")

    q: Term
    ask_pacs: bool = False


class WhyCase(BaseModel):
    """One case in the answer to "why"."""

    id: str
    revision: int
    state: CaseState
    shown: ShownState
    reason: Reason
    waiting_for: list[str]
    waiting_since: datetime | None
    waiting_until: datetime | None
    changed_at: datetime
    studies: list[Study]
    findings: list[Finding]
    jobs: list[Job]
    deliveries: list[Delivery]
    stage: Stage
    blocked: Reason | None
    queue: QueueAhead | None


class Why(BaseModel):
    """Everything known of a search term."""

    query: str
    matched_by: str
    next: Reason
    cases: list[WhyCase]
    receipt_counts: dict[str, int]
    receipts: list[Receipt]
    associations: list[Association]
    stage: Stage
    stage_text: str
    timeline: list[Moment]
    fetches: list[FetchOrder]
    processes: list[Process]
    turned_away: list[Association]
    turned_away_counts: dict[str, int]
    listener: Listener
    pacs: list[PacsHolding]
