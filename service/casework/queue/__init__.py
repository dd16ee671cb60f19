"""One queue port, two adapters: how a worker learns that a job waits. Knows no ledger; owns Celery and Redis (`scale`).

Rules: the ledger is the truth and whatever rings is a doorbell. What crosses a broker is the number of a job and nothing
else. A worker claims that job in the ledger or drops the message, so a lost message costs time and a doubled one nothing.
STAT goes first; after STAT_RUN of them in a row one routine job has its turn, so nothing starves. The same `Turns` decide
wherever STAT and routine work stand in line: the keeper's look, a worker's claim, Celery's queues, each destination's objects.
"""

import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol

from casework.case import STAT_PRIORITY
from casework.config import Settings
from casework.errors import CaseworkError, Defect
from casework.observe import log

STAT, ROUTINE, DELIVER = "stat", "routine", "deliver"
INFER = (STAT, ROUTINE)
# Routine keeps a fifth of every stage in a flood of STAT, so the wait of the oldest is bounded; a STAT job waits for at most
# one routine job more, which is what it waits for anyway when it comes while one runs.
STAT_RUN = 4
POLL_S = 0.1
REST_AFTER_ERROR_S = 2.0


def lane_of(priority: int) -> str:
    """The lane of an inference job."""
    return STAT if priority >= STAT_PRIORITY else ROUTINE


class Turns:
    """Which lane goes first: data for whoever takes from both, one object for each of them."""

    def __init__(self) -> None:
        self._run = 0

    @property
    def routine_first(self) -> bool:
        """Whether a routine job goes first this time."""
        return self._run >= STAT_RUN

    @property
    def order(self) -> tuple[str, ...]:
        """The lanes, the one that goes first this time first."""
        return (ROUTINE, STAT) if self.routine_first else (STAT, ROUTINE)

    def note(self, lane: str) -> None:
        """A job of this lane was taken."""
        self._run = self._run + 1 if lane == STAT else 0


class Hands(Protocol):
    """What does the work. Lives in the process that the queue gives it."""

    def take(self, job_id: int | None, *, routine_first: bool) -> str | None:
        """Claim and run this job, or (None) the best one; its lane, or None when there was nothing to claim.

        Raises:
            CaseworkError: nothing can be claimed for now; the job is still in the ledger.
        """

    def beat(self) -> None:
        """A sign of life, about every two seconds."""

    def close(self) -> None:
        """No more work comes."""


class Bell(Protocol):
    """The keeper's side of a queue with a broker."""

    def check(self) -> None:
        """Refuse a broker that is not safe to use.

        Raises:
            Defect: CONFIG_INVALID, saying what.
            Unavailable: QUEUE_UNAVAILABLE.
        """

    def ring(self, lane: str, job_ids: Sequence[int]) -> None:
        """Tell some worker of the lane about each job. Call it after the commit, never while somebody waits for an answer.

        Raises:
            Unavailable: QUEUE_UNAVAILABLE; some may have been told.
        """

    def depth(self, lane: str) -> int:
        """Messages that nobody took yet.

        Raises:
            Unavailable: QUEUE_UNAVAILABLE.
        """


class LedgerQueue:
    """The embedded default: the worker asks the ledger ten times a second. Nothing else has to run."""

    def work(self, open_hands: Callable[[], Hands]) -> int:
        """Work until SIGTERM or SIGINT, which let the running job end; return the exit status."""
        stop = threading.Event()

        def on_signal(_: int, __: FrameType | None) -> None:
            stop.set()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        hands, turns = open_hands(), Turns()
        try:
            while not stop.is_set():
                hands.beat()
                try:
                    lane = hands.take(None, routine_first=turns.routine_first)
                except CaseworkError as error:
                    log.error("worker.waits", code=error.code)
                    stop.wait(REST_AFTER_ERROR_S)
                    continue
                if lane is None:
                    stop.wait(POLL_S)
                else:
                    turns.note(lane)
        finally:
            hands.close()
        log.info("worker.stopped")
        return 0


class WorkQueue(Protocol):
    """The worker's side of a queue."""

    def work(self, open_hands: Callable[[], Hands]) -> int:
        """Work until SIGTERM; `open_hands` is called in the process that works. Return the exit status.

        Raises:
            Defect: CONFIG_INVALID, the broker is not safe to use.
        """


def open_queue(settings: Settings, lanes: Sequence[str]) -> WorkQueue:
    """The configured adapter for a worker of these lanes."""
    if settings.queue.kind == "ledger":
        return LedgerQueue()
    made: WorkQueue = _scale().CeleryQueue(settings, lanes)
    return made


def open_bell(settings: Settings) -> Bell | None:
    """The configured broker's bell; None where workers ask by themselves."""
    if settings.queue.kind == "ledger":
        return None
    made: Bell = _scale().CeleryBell(settings)
    return made


def _scale() -> Any:
    """The scale adapter, only where it is used: the default needs neither Celery nor Redis."""
    try:
        from casework.queue import scale
    except ModuleNotFoundError as error:
        raise Defect("CONFIG_INVALID", "queue.kind celery needs the packages of casework[scale]") from error
    return scale
