"""The rows that the ledger hands out, frozen; the questions it takes. Does no I/O.

All times are aware UTC datetimes. Ids: a case's id is opaque text (one per revision), all others are integers.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from casework.case import (
    ANALYSE,
    STAT_PRIORITY,
    STOPPING,
    Artefact,
    CaseState,
    DeliveryState,
    Header,
    JobState,
    NoticeState,
    Verdict,
)

Withheld = Mapping[str, Collection[str]]
"""By destination: the kinds of artefacts that it does not get."""
EVERYTHING: Withheld = {}


class FindingLike(Protocol):
    """What the ledger needs of a finding (`casework.result.Finding` is one; importing it would pull numpy in)."""

    @property
    def code(self) -> str:
        """A row of `casework.reasons`."""

    @property
    def subject(self) -> str:
        """A SOP Instance UID, a modality, a side, or ""."""

    @property
    def detail(self) -> str:
        """Words for a person."""


@dataclass(frozen=True, slots=True)
class CaseRow:
    """One revision of a case. `root_id` is shared by all revisions; `last_at` is when its newest image came.

    requested_at: when a person asked for it to run now (it counts as complete); None otherwise.
    waiting_for: modalities that the complete case still waits for, until waiting_until; waiting_since: when such a wait
    first began, in this revision or an older one.
    """

    id: str
    root_id: str
    revision: int
    predecessor: str | None
    state: CaseState
    reason: str
    detail: str
    priority: int
    patient_id: str
    issuer_of_patient_id: str
    opened_at: datetime
    last_at: datetime
    changed_at: datetime
    requested_at: datetime | None
    waiting_for: tuple[str, ...] = ()
    waiting_since: datetime | None = None
    waiting_until: datetime | None = None
    retraction: str = ""  # why the results were withdrawn, a code of case.RETRACTIONS; "" = they stand

    @property
    def stat(self) -> bool:
        """Whether it is urgent beyond its turn in the queue."""
        return self.priority >= STAT_PRIORITY


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a complete case still waits for."""

    modalities: tuple[str, ...]
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One study of a case. `modalities` counts accepted instances; a study that is only expected has none.

    expected: instances that the PACS (or a caller) says there are, None when nobody said; source: who said it.
    """

    study_uid: str
    accession_number: str
    study_date: str
    modalities: Mapping[str, int]
    first_at: datetime | None
    last_at: datetime | None
    expected: int | None
    expected_source: str
    excluded: int = 0  # instances that came and that a person took out

    @property
    def received(self) -> int:
        """Accepted instances of this study."""
        return sum(self.modalities.values())


@dataclass(frozen=True, slots=True)
class DoubtRow:
    """Something about a case's images that a person has to decide, or has decided ("accepted" | "dismissed").

    subject: the SOP Instance UID whose other bytes (`sha256`) were kept aside, or the Study Instance UID that names two
    patients (then sha256 is "").
    """

    id: int
    code: str  # UID_CONFLICT | SIDE_CHANGED | IDENTITY_CHANGED | PATIENT_IDENTITY_CONFLICT
    subject: str
    sha256: str
    at: datetime
    decision: str
    decided_by: str
    decided_at: datetime | None

    @property
    def stops(self) -> bool:
        """Whether nothing of the case is analysed or sent until it is decided."""
        return not self.decision and self.code in STOPPING


@dataclass(frozen=True, slots=True)
class ExclusionRow:
    """An image that was taken out of its case, or replaced: what was said, by whom and when."""

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    modality: str
    sha256: str
    code: str
    detail: str
    actor: str
    at: datetime
    replaced_by: str  # SHA-256 of the bytes that stand in its place, "" when none do


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One accepted instance."""

    id: int
    header: Header
    sha256: str
    size: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that its owner holds until the lease ends. `attempt` is 1 at the first claim."""

    job_id: int
    case_id: str
    fence: int
    attempt: int
    max_attempts: int
    priority: int = 0
    kind: str = ANALYSE


@dataclass(frozen=True, slots=True)
class ArtefactRow:
    """A stored artefact and its id. withdrawn: the code, one of case.RETRACTIONS. issued: a destination has it, or may get it."""

    id: int
    case_id: str
    artefact: Artefact
    created_at: datetime
    withdrawn: str = ""
    issued: bool = False


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """One object to send to one destination. `first_at` is when it was first due (for the horizon)."""

    delivery_id: int
    case_id: str
    destination: str
    artefact: Artefact
    fence: int
    attempt: int
    first_at: datetime
    priority: int


@dataclass(frozen=True, slots=True)
class Unproved:
    """One stored object whose destination has yet to prove that it holds it. `asked`: a commitment was asked for."""

    delivery_id: int
    case_id: str
    artefact: Artefact
    stored_at: datetime
    asked: bool


@dataclass(frozen=True, slots=True)
class News:
    """One move of a case, as the audit has it. `event_id`: the same for every webhook, unique everywhere."""

    seq: int
    at: datetime
    case_id: str
    was: CaseState
    state: CaseState
    code: str
    event_id: str


@dataclass(frozen=True, slots=True)
class ClaimedNotice:
    """One event to send. `created_at` is when it was put on its way (for the horizon)."""

    notice_id: int
    case_id: str
    event_id: str
    body: str
    attempt: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NoticeRow:
    """One event on its way to one webhook, and how its last try ended."""

    id: int
    webhook: str
    case_id: str
    event_id: str
    state: NoticeState
    attempt: int
    status: str
    code: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Retraction:
    """What a case's results are withdrawn from: for each destination the objects that it has, or may have."""

    case: CaseRow
    reached: Mapping[str, tuple[Artefact, ...]]
    older: tuple[str, ...] = ()  # revisions that are withdrawn with it


@dataclass(frozen=True, slots=True)
class Resend:
    """What follows a proof that failed: when the same bytes go again, and how often at most."""

    at: datetime
    most: int


@dataclass(frozen=True, slots=True)
class Selector:
    """Which cases a caller means: any of the given values that are not empty must match (all of them)."""

    study_uids: tuple[str, ...] = ()
    accession_number: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""


@dataclass(frozen=True, slots=True)
class Requested:
    """Answer to a request for analysis. `replayed`: the same key and request were answered before."""

    case_ids: tuple[str, ...]
    replayed: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep moved."""

    jobs_ready: int = 0
    jobs_dead: int = 0
    deliveries: int = 0

    @property
    def total(self) -> int:
        """All rows moved."""
        return self.jobs_ready + self.jobs_dead + self.deliveries


# --- answers of ledger.read ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InputRow:
    """One instance of a case with the findings about it (codes with detail), e.g. why it was left out."""

    instance: InstanceRow
    findings: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class FindingRow:
    """One coded remark on a case."""

    code: str
    subject: str
    detail: str
    source: str  # "intake" | "assemble" | "analyse" | "deliver"
    at: datetime


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job of a case."""

    id: int
    case_id: str
    kind: str
    state: JobState
    attempt: int
    max_attempts: int
    owner: str
    lease_until: datetime | None
    next_at: datetime | None
    code: str
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One object on its way to one destination. `status`: the last answer as text, e.g. "0x0000" or "HTTP 409"."""

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
    code: str
    first_at: datetime
    next_at: datetime | None
    changed_at: datetime
    proof: str = ""  # "commitment" | "query": how it is to be proved or was; "" = the destination's word is enough
    stored_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """One arrival at a door and how it ended."""

    id: int
    verdict: Verdict
    code: str
    door: str
    peer: str
    association_id: str
    sop_instance_uid: str
    study_instance_uid: str
    modality: str
    patient_id: str
    accession_number: str
    sha256: str
    size: int
    instance_id: int | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class AssociationRow:
    """One association (or HTTP request) and how it ended; `closed_at` None while it is open."""

    id: str
    calling: str
    called: str
    address: str
    opened_at: datetime
    closed_at: datetime | None
    end: str
    code: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CaseItem:
    """One line of a list of cases."""

    case: CaseRow
    accession_numbers: tuple[str, ...]
    study_uids: tuple[str, ...]
    modalities: Mapping[str, int]
    newest: bool


@dataclass(frozen=True, slots=True)
class Page:
    """One page of cases, newest first. `next_cursor` "" = the end."""

    items: tuple[CaseItem, ...]
    next_cursor: str


@dataclass(frozen=True, slots=True)
class CaseView:
    """Everything about one revision of a case. `result_json`: the result as the analysis stored it, "" before."""

    case: CaseRow
    newest_id: str
    studies: tuple[StudyRow, ...]
    modalities: Mapping[str, int]
    inputs: tuple[InputRow, ...]
    revisions: tuple[CaseRow, ...]
    jobs: tuple[JobRow, ...]
    artefacts: tuple[ArtefactRow, ...]
    deliveries: tuple[DeliveryRow, ...]
    findings: tuple[FindingRow, ...]
    result_json: str
    doubts: tuple[DoubtRow, ...] = ()
    exclusions: tuple[ExclusionRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """One audit row. `detail` holds what changed, e.g. from, to, code, counts."""

    seq: int
    at: datetime
    actor: str
    event: str
    case_id: str
    subject: str
    detail: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Counts for health, Prometheus and the status page. Ages are the caller's: now - oldest."""

    cases: Mapping[str, int]
    jobs: Mapping[str, int]
    deliveries: Mapping[str, Mapping[str, int]]  # destination -> state -> count
    queue_depth: int
    oldest_queued_at: datetime | None
    delivery_backlog: int
    oldest_delivery_at: datetime | None
    open_associations: int
    instances: int
    unproved: Mapping[str, tuple[int, datetime]] = field(default_factory=dict)  # destination -> count, oldest stored_at
    notices: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # webhook -> state -> count


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Number and hash of the audit's newest row."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """Result of verifying the audit chain. `first_bad` is the sequence number of the first row that does not verify."""

    ok: bool
    rows: int
    head: str
    first_bad: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class DatabaseInfo:
    """What health shows about the database."""

    dialect: str
    version: str
    schema: str
    notes: tuple[str, ...] = field(default=())
