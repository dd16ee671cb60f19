"""The contract's shapes as pydantic models; openapi/openapi.yaml describes them and a test compares the two. No I/O.

Pydantic stops here: handlers turn a request into ledger words at once, and rows into these only to answer.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from casework.case import CaseState, DeliveryState, JobState, Shown, Verdict
from casework.entrypoints.keyfile import Role
from casework.reasons import Family

UID = r"^[0-9]+(\.[0-9]+)*$"
Uid = Annotated[str, StringConstraints(pattern=UID, max_length=64)]
Words = Annotated[str, StringConstraints(max_length=200)]
Term = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Priority(StrEnum):
    """How urgent a case is."""

    ROUTINE = "routine"
    STAT = "stat"


class FieldError(BaseModel):
    """What is wrong with one part of a request; never its value."""

    where: str
    problem: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str = ""
    code: str
    family: Family
    next: str
    request_id: str
    errors: list[FieldError] = []


class Reason(BaseModel):
    """A coded reason in the caller's language."""

    code: str
    family: Family
    text: str
    next: str


class RetractionReason(StrEnum):
    """Why results are withdrawn: the document titles of a rejection note (IHE IOCM)."""

    QUALITY = "RETRACTED_QUALITY"
    SAFETY = "RETRACTED_SAFETY"
    WORKLIST = "RETRACTED_WORKLIST"
    RETENTION = "RETRACTED_RETENTION"


class RetractionOrder(BaseModel):
    """A person's decision to withdraw results."""

    model_config = ConfigDict(extra="forbid")

    reason: RetractionReason
    note: Annotated[str, StringConstraints(max_length=200)] = ""


_SELECTORS = ("study_instance_uids", "accession_number", "patient_id")


def _only(name: str) -> dict[str, Any]:
    """The schema's words for: this selector and none of the others; an issuer goes with a patient only."""
    absent = [other for other in _SELECTORS if other != name]
    absent += [] if name == "patient_id" else ["issuer_of_patient_id"]
    given: dict[str, Any] = {name: {"not": {"type": "null"}}}
    return {"required": [name], "properties": given | {other: {"type": "null"} for other in absent}}


class AnalysisRequest(BaseModel):
    """Exactly one of study_instance_uids, accession_number and patient_id."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"oneOf": [_only(name) for name in _SELECTORS]},
    )

    study_instance_uids: Annotated[list[Uid], Field(min_length=1, max_length=50)] | None = None
    accession_number: Term | None = None
    patient_id: Term | None = None
    issuer_of_patient_id: Annotated[str, StringConstraints(max_length=64)] | None = None
    priority: Priority = Priority.ROUTINE

    @model_validator(mode="after")
    def _one_selector(self) -> Self:
        given = [self.study_instance_uids, self.accession_number, self.patient_id]
        if sum(value is not None for value in given) != 1:
            raise ValueError("exactly one of study_instance_uids, accession_number and patient_id")
        if self.issuer_of_patient_id is not None and self.patient_id is None:
            raise ValueError("issuer_of_patient_id goes with patient_id")
        return self


class ShownState(BaseModel):
    """The state that a person sees, in the caller's language (docs/states.md)."""

    code: Shown
    text: str


class CaseSummary(BaseModel):
    """One line of a list of cases."""

    id: str
    revision: int
    state: CaseState
    shown: ShownState
    waiting_for: list[str]
    waiting_since: datetime | None
    waiting_until: datetime | None
    reason: Reason | None
    detail: str
    priority: Priority
    patient_id: str
    issuer_of_patient_id: str
    accession_numbers: list[str]
    study_instance_uids: list[str]
    modalities: dict[str, int]
    opened_at: datetime
    last_image_at: datetime
    changed_at: datetime
    newest: bool
    retraction: Reason | None


class CasePage(BaseModel):
    """A page of cases."""

    items: list[CaseSummary]
    next_cursor: str | None


class Analysis(BaseModel):
    """One request for analysis and its cases."""

    id: str
    cases: list[CaseSummary]


class Study(BaseModel):
    """One study of a case."""

    study_instance_uid: str
    accession_number: str
    study_date: str
    modalities: dict[str, int]
    received: int
    expected: int | None
    expected_source: str
    first_image_at: datetime | None
    last_image_at: datetime | None


class SideResult(BaseModel):
    """The result of one side."""

    side: Literal["R", "L"]
    outcome: Literal["positive", "negative", "indeterminate", "insufficient"]
    probability: float | None
    shown: str = ""
    band: str = ""
    evidence: dict[str, float]
    modalities: list[str]
    without: dict[str, float] = Field(default_factory=dict)
    spread: float | None = None
    distance: dict[str, float] = Field(default_factory=dict)
    held_back: list[str] = Field(default_factory=list)


class Model(BaseModel):
    """Which model and engine made a result."""

    name: str
    version: str
    sha256: str
    engine: str


class Finding(BaseModel):
    """One coded remark on a case or an image."""

    reason: Reason
    subject: str
    detail: str
    source: str
    at: datetime


class Job(BaseModel):
    """One unit of work of a case."""

    id: int
    kind: str
    state: JobState
    attempt: int
    max_attempts: int
    reason: Reason | None
    next_at: datetime | None
    changed_at: datetime


class Doubt(BaseModel):
    """Something about a case's images that a person has to decide, or has decided."""

    id: int
    reason: Reason
    subject: str
    sha256: str
    stops: bool
    at: datetime
    decision: Literal["", "accepted", "dismissed"]
    decided_by: str
    decided_at: datetime | None


class Exclusion(BaseModel):
    """An image that a person took out of a case, or replaced."""

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    modality: str
    sha256: str
    reason: Reason
    detail: str
    actor: str
    at: datetime
    replaced_by: str


class DecisionRequest(BaseModel):
    """What to do about open doubts: all of them, or those about one UID."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["accepted", "dismissed"]
    subject: Uid | None = None
    detail: Words = ""
    seen: list[int] | None = Field(default=None, max_length=10_000)


class ExclusionRequest(BaseModel):
    """Which images to take out (an instance, a series or a study), or to put back."""

    model_config = ConfigDict(extra="forbid")

    uid: Uid
    reason: Literal["EXCLUDED_WRONG_PATIENT", "EXCLUDED_WRONG_SIDE", "EXCLUDED_POOR_QUALITY", "EXCLUDED_OTHER"]
    detail: Words = ""
    restore: bool = False


class GateCheck(BaseModel):
    """What one check of the input gate came to."""

    reason: Reason
    severity: Literal["pass", "warn", "stop", "not_available"]
    value: str
    subjects: list[str]


class Choice(BaseModel):
    """Images of one series that share a fate."""

    modality: str
    series_instance_uid: str
    used: bool
    reason: Reason | None
    detail: str
    sop_instance_uids: list[str]


class Case(CaseSummary):
    """One case in full."""

    newest_id: str
    studies: list[Study]
    sides: list[SideResult]
    model: Model | None
    report: str
    stage_seconds: dict[str, float]
    findings: list[Finding]
    doubts: list[Doubt]
    exclusions: list[Exclusion]
    gate: list[GateCheck]
    choices: list[Choice]
    jobs: list[Job]
    disclaimer: str


class Event(BaseModel):
    """One step of a case's timeline."""

    sequence: int
    at: datetime
    actor: str
    event: str
    subject: str
    reason: Reason | None
    detail: dict[str, Any]


class EventList(BaseModel):
    """A case's timeline."""

    items: list[Event]


class SummaryBlock(BaseModel):
    """A heading, "" for none, with its sentences."""

    heading: str
    lines: list[str]


class Summary(BaseModel):
    """One page on a case in words."""

    language: Literal["en", "zh"]
    register_: Literal["radiologist", "plain"] = Field(alias="register")
    title: str
    mark: str
    patient: str
    warnings: list[str]
    blocks: list[SummaryBlock]
    reviewed: bool

    model_config = ConfigDict(populate_by_name=True)


class Artefact(BaseModel):
    """One rendered object."""

    id: int
    kind: str
    media_type: str
    label: str
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    sha256: str
    size: int
    created_at: datetime
    url: str
    retracted: bool


class Delivery(BaseModel):
    """One object on its way to one destination."""

    id: int
    case_id: str
    artefact_id: int
    kind: str
    label: str
    sop_instance_uid: str
    destination: str
    state: DeliveryState
    attempt: int
    status: str
    reason: Reason | None
    first_at: datetime
    next_at: datetime | None
    changed_at: datetime
    proof: str
    stored_at: datetime | None


class DeliveryPage(BaseModel):
    """A page of deliveries."""

    items: list[Delivery]
    next_cursor: int | None


class ResultList(BaseModel):
    """What a case produced and where it went."""

    artefacts: list[Artefact]
    deliveries: list[Delivery]


class Receipt(BaseModel):
    """One arrival and how it ended."""

    id: int
    received_at: datetime
    door: str
    peer: str
    verdict: Verdict
    reason: Reason | None
    sop_instance_uid: str
    study_instance_uid: str
    modality: str
    accession_number: str
    size: int
    association_id: str


class ReceiptPage(BaseModel):
    """A page of receipts."""

    items: list[Receipt]
    next_cursor: int | None


class Association(BaseModel):
    """One association and how it ended."""

    id: str
    calling: str
    called: str
    address: str
    opened_at: datetime
    closed_at: datetime | None
    end: str
    reason: Reason | None
    counts: dict[str, int]


class AssociationPage(BaseModel):
    """A page of associations."""

    items: list[Association]
    next_cursor: int | None


class StoreResponse(BaseModel):
    """The Store Instances response module as DICOM JSON, keyed by tag."""

    model_config = ConfigDict(extra="allow")


class Session(BaseModel):
    """Who the key belongs to."""

    name: str
    role: Role
    version: str


class Live(BaseModel):
    """The process answers."""

    status: str


class Check(BaseModel):
    """One condition of being ready."""

    name: str
    ok: bool
    code: str


class Engine(BaseModel):
    """The engine that a worker serves with, as it was examined at the worker's start."""

    engine: str
    passport: str
    sha256: str
    fallback: bool
    alive: bool


class Ready(BaseModel):
    """Whether the service can work, and what its workers compute with."""

    ready: bool
    checks: list[Check]
    engines: list[Engine]
