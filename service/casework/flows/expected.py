"""How many images a PACS holds for the patients of open cases. Owns one thread per asked PACS, and no database.

The keeper asks for looks and reads answers, and never waits: a PACS that hangs costs only its own thread. Questions are
bounded: one at a time per PACS, each case at growing intervals, and none for a while after a failure.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from casework.config import Destination
from casework.dicom.query import HeldStudy, held_by_patient
from casework.errors import CaseworkError
from casework.observe import log

LONGEST_INTERVAL_S = 15.0
REST_AFTER_FAILURE_S = 10.0
LONGEST_REST_S = 60.0
ASK_LIMIT_S = 10.0  # a question is not worth waiting for longer, whatever the destination's timeout for results is

Ask = Callable[[Destination, str, str, str], list[HeldStudy]]


@dataclass(frozen=True, slots=True)
class Look:
    """What one PACS says of one patient. Times are monotonic seconds of the asker.

    asked_at: when the newest question was put; since: when the first of the unbroken run of equal answers was put.
    """

    studies: tuple[HeldStudy, ...]
    asked_at: float
    since: float

    @property
    def unchanged_s(self) -> float:
        """How long the PACS has been saying this."""
        return self.asked_at - self.since


@dataclass(frozen=True, slots=True)
class Question:
    """One patient to ask for."""

    case_id: str
    patient_id: str
    issuer: str
    asked_at: float


class PacsWatch:
    """One PACS: a thread that asks, and the newest look per case."""

    def __init__(
        self,
        destination: Destination,
        calling: str,
        *,
        first_interval_s: float,
        ask: Ask = held_by_patient,
        rest_s: float = REST_AFTER_FAILURE_S,
    ) -> None:
        self._destination = replace(destination, timeout_s=min(destination.timeout_s, ASK_LIMIT_S))
        self._calling, self._ask = calling, ask
        self._first_s = first_interval_s
        self._rest_s = self._first_rest_s = rest_s
        self._resting_until = 0.0
        self._lock = threading.Lock()
        self._looks: dict[str, Look] = {}
        self._due: dict[str, tuple[float, float]] = {}  # case -> (not before, interval)
        self._waiting: set[str] = set()
        self._questions: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"pacs-{destination.name}")
        self._thread.start()

    def want(self, question: Question, *, urgent: bool) -> None:
        """Ask soon, unless it is too early. `urgent`: everything seems to be here, so the shortest interval holds."""
        now = question.asked_at
        with self._lock:
            not_before, interval = self._due.get(question.case_id, (0.0, self._first_s))
            if urgent and interval > self._first_s:
                not_before, interval = 0.0, self._first_s
            if question.case_id in self._waiting or now < not_before or now < self._resting_until:
                return
            longer = interval if urgent else min(interval * 2, LONGEST_INTERVAL_S)
            self._due[question.case_id] = (now + interval, longer)
            self._waiting.add(question.case_id)
        self._questions.put(question)

    def look(self, case_id: str) -> Look | None:
        """The newest answer, None when there is none."""
        with self._lock:
            return self._looks.get(case_id)

    def forget(self, keep: Iterable[str]) -> None:
        """Drop what belongs to cases that no longer wait."""
        kept = set(keep)
        with self._lock:
            for table in (self._looks, self._due):
                for case_id in table.keys() - kept:
                    table.pop(case_id)

    def close(self, wait_s: float = 0.0) -> None:
        """Stop after the question that is being asked; it is not waited for longer than `wait_s`."""
        self._questions.put(None)
        self._thread.join(wait_s)

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            try:
                studies = self._ask(self._destination, self._calling, question.patient_id, question.issuer)
            except Exception as error:  # noqa: BLE001 - outer guard: an answer that can't be read must not end the asking
                self._failed(question, error)
            else:
                self._answered(question, tuple(sorted(studies, key=lambda s: s.study_uid)))

    def _answered(self, question: Question, studies: tuple[HeldStudy, ...]) -> None:
        with self._lock:
            self._waiting.discard(question.case_id)
            self._rest_s = self._first_rest_s
            before = self._looks.get(question.case_id)
            since = before.since if before and before.studies == studies else question.asked_at
            self._looks[question.case_id] = Look(studies, question.asked_at, since)

    def _failed(self, question: Question, error: Exception) -> None:
        with self._lock:
            self._waiting.discard(question.case_id)
            self._resting_until = time.monotonic() + self._rest_s
            self._rest_s = min(self._rest_s * 2, LONGEST_REST_S)
        code = error.code if isinstance(error, CaseworkError) else "PEER_UNREACHABLE"
        kind, name = type(error).__name__, self._destination.name
        log.warning("assemble.count_unknown", destination=name, case_id=question.case_id, code=code, error_type=kind)


def counts(look: Look, wanted: Callable[[HeldStudy], bool]) -> Mapping[str, int]:
    """Study -> instances, of the studies that belong to the case."""
    return {study.study_uid: study.count for study in look.studies if wanted(study)}
