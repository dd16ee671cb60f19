"""The answer to "why did my study not run?": rows and a timeline. Does no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from casework.ledger.store_process import ProcessRow
from casework.ledger.types import (
    AssociationRow,
    CaseRow,
    DeliveryRow,
    FindingRow,
    JobRow,
    ReceiptRow,
    StudyRow,
)
from casework.ledger.types_fetch import OrderRow


class Stage(StrEnum):
    """Where on its way something stands, or stopped."""

    ASSOCIATION = "association"  # did a sender get through to us
    ADMISSION = "admission"  # was each image taken
    CASE = "case"  # is everything together
    FETCH = "fetch"  # other studies from the PACS
    GATE = "gate"  # can it be analysed
    QUEUE = "queue"
    ENGINE = "engine"
    SEND = "send"
    COMMIT = "commit"  # is it proved that the destination has it
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened, `count` times from `at` to `until`. code: a row of casework.reasons or ""."""

    at: datetime
    until: datetime
    stage: Stage
    event: str
    code: str
    actor: str
    case_id: str
    subject: str
    detail: Mapping[str, str] = field(default_factory=dict)
    count: int = 1


@dataclass(frozen=True, slots=True)
class Queue:
    """Who is ahead of a queued case, and how long that may take. Seconds; None where nothing was measured yet.

    usual_s: median of the newest runs; slow_s: nine of ten were faster; workers: processes that are alive.
    """

    ahead: int
    running: int
    workers: int
    runs: int
    usual_s: float | None
    slow_s: float | None

    @property
    def estimate_s(self) -> tuple[float, float] | None:
        """From about to about, until this case's results are made; None without workers or measurements."""
        if not self.workers or self.usual_s is None or self.slow_s is None:
            return None
        turns = (self.ahead + self.running) / self.workers + 1
        return self.usual_s * turns, self.slow_s * turns


@dataclass(frozen=True, slots=True)
class WhyCase:
    """One case in the answer to "why": its state, the coded reason and what to do next."""

    case: CaseRow
    studies: tuple[StudyRow, ...]
    jobs: tuple[JobRow, ...]
    deliveries: tuple[DeliveryRow, ...]
    findings: tuple[FindingRow, ...]
    code: str  # the reason that explains the state best, a row of casework.reasons
    waiting_until: datetime | None  # when something is due, None when nothing is scheduled
    stage: Stage = Stage.CASE
    blocked: str = ""  # the code why nothing moves at this stage although it could: a process is not there
    queue: Queue | None = None
    result_json: str = ""  # the stored verdict, with the input gate's checks and the choice of images


@dataclass(frozen=True, slots=True)
class Why:
    """What happened to something: associations, receipts (refused and kept aside too), cases. Newest first.

    turned_away: connections of the last day that brought nothing, when nothing at all matched: one may have been it.
    """

    query: str
    matched_by: str  # "case" | "accession" | "study" | "patient" | "instance" | "fetch" | "" when nothing matched
    cases: tuple[WhyCase, ...]
    receipts: tuple[ReceiptRow, ...]
    receipt_counts: Mapping[str, int]  # verdict -> how many in all; `receipts` may be cut
    associations: tuple[AssociationRow, ...]
    next_code: str  # the reason whose next action a person should read
    stage: Stage = Stage.ASSOCIATION
    timeline: tuple[Moment, ...] = ()
    orders: tuple[OrderRow, ...] = ()
    processes: tuple[ProcessRow, ...] = ()
    turned_away: tuple[AssociationRow, ...] = ()
