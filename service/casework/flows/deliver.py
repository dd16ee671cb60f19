"""Results to their destinations: claim, send the stored bytes, settle. Each destination has its own worker and breaker.

An object is rendered once and sent as those bytes every time, so that a second copy after an unknown outcome is the same
object and not another. While a destination's breaker is open only a probe goes there; nothing that happens at one
destination is seen by the worker of another.
"""

import hashlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from casework.case import DeliveryState
from casework.config import Destination, Settings, Work
from casework.dicom import scu, web
from casework.dicom.answers import PEER_LEVEL, Answer, StoreItem, StoreResult, ended
from casework.errors import Defect, Unavailable
from casework.ledger import ClaimedDelivery, Ledger
from casework.observe import log
from casework.queue import Turns, lane_of
from casework.spool import Spool
from casework.tracing import note_span

POLL_S = 0.25
PROBE_S = 60.0
FAILURES_TO_OPEN = 3
FEW_TRIES = 5
_NOT_THERE = frozenset({"PEER_UNREACHABLE", "PEER_TLS", "PEER_REJECTED", "PEER_OUTCOME_UNKNOWN"})


class Sender(Protocol):
    """A way to one destination."""

    def send(self, item: StoreItem) -> StoreResult:
        """Send one object; never raises for what the peer does."""

    def close(self) -> None:
        """Let the connection go."""


def open_sender(destination: Destination, calling: str) -> Sender:
    """The destination's protocol."""
    return web.WebSession(destination) if destination.kind == "stow" else scu.StoreSession(destination, calling)


def probe(destination: Destination, calling: str) -> bool:
    """Whether the destination answers: C-ECHO, or any HTTP answer below 500."""
    if destination.kind == "stow":
        with web.WebSession(destination) as session:
            return session.probe()
    return scu.echo(destination, calling).answer is Answer.STORED


@dataclass
class Breaker:
    """Closed: everything goes. Open: nothing goes but a probe. Times are monotonic seconds.

    A destination that answers probes but goes on failing is tried at intervals that double up to `longest_s`.
    """

    probe_s: float = PROBE_S
    longest_s: float = 1800.0
    failures: int = 0
    probe_at: float | None = None
    interval_s: float = field(default=0.0)

    @property
    def open(self) -> bool:
        """Whether only probes may go."""
        return self.probe_at is not None

    def good(self) -> None:
        """The destination took or judged an object."""
        self.failures, self.probe_at, self.interval_s = 0, None, 0.0

    def bad(self, now: float) -> None:
        """The destination could not be used."""
        self.failures += 1
        if self.failures >= FAILURES_TO_OPEN:
            self.interval_s = min(self.interval_s * 2 or self.probe_s, self.longest_s)
            self.probe_at = now + self.interval_s

    def probed(self, now: float, *, answered: bool) -> None:
        """After a probe: let one object through, or wait for the next probe."""
        self.probe_at = None if answered else now + self.probe_s
        self.failures = FAILURES_TO_OPEN - 1


def backoff_s(work: Work, attempt: int, draw: Callable[[], float]) -> float:
    """Seconds until the next try: doubling, full jitter, at least a second. draw: uniform in 0..1."""
    ceiling = min(work.retry_first_s * 2.0 ** min(max(attempt - 1, 0), 30), work.retry_max_s)
    return max(ceiling * draw(), min(1.0, work.retry_first_s))


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the ledger is told of one try."""

    state: DeliveryState
    code: str
    next_at: datetime | None = None


_FINAL = {
    Answer.STORED: DeliveryState.STORED,
    Answer.WARNED: DeliveryState.STORED_WITH_WARNING,
    Answer.NEVER: DeliveryState.DEAD,
}


def settle(result: StoreResult, next_at: datetime, *, few: int, overdue: bool) -> Settlement:
    """Turn an answer into a state (reliability 6.4).

    few: answers of class FEW so far, this one included. overdue: whether the horizon has passed.
    """
    state = _FINAL.get(result.answer)
    if state is not None:
        return Settlement(state, result.code)
    if result.answer is Answer.FEW and few >= FEW_TRIES:
        return Settlement(DeliveryState.DEAD, "PEER_REFUSED_OBJECT")
    if overdue:
        return Settlement(DeliveryState.DEAD, "DELIVERY_HORIZON")
    again = DeliveryState.UNKNOWN if result.answer is Answer.UNKNOWN else DeliveryState.RETRY_WAIT
    return Settlement(again, result.code, next_at)


class DestinationWorker:
    """Empties one destination's part of the outbox. One thread runs `step` in a loop."""

    def __init__(
        self,
        ledger: Ledger,
        spool: Spool,
        destination: Destination,
        settings: Settings,
        *,
        breaker: Breaker | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.destination = destination
        self.breaker = breaker or Breaker(longest_s=settings.work.retry_max_s)
        self._ledger, self._spool, self._work = ledger, spool, settings.work
        self._calling = settings.dicom.ae_title
        self._now, self._draw = now, draw
        self._sender: Sender | None = None
        self._turns = Turns()
        self._few: dict[
            int, int
        ] = {}  # delivery -> answers of class FEW; lost at a restart, which only means more tries
        self._oldest: datetime | None = None  # first_at of the oldest delivery that failed here

    def step(self) -> float:
        """Do one thing; return the seconds to wait before the next."""
        if self.breaker.open and not self._probe():
            return min(POLL_S * 4, self.breaker.probe_s)
        claim = self._claim()
        if claim is None:
            self.close()
            return POLL_S
        began = time.monotonic()
        result = self._send(claim)
        note_span("deliver", claim.case_id, time.monotonic() - began, destination=claim.destination, code=result.code)
        self._finish(claim, result)
        self._judge(claim, result)
        return 0.0

    def close(self) -> None:
        """Release the association."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _claim(self) -> ClaimedDelivery | None:
        first = self._turns.routine_first
        claim = self._ledger.claim_delivery(
            self.destination.name, "deliver", self._work.lease_s, self._now(), routine_first=first
        )
        if claim is not None:
            self._turns.note(lane_of(claim.priority))
        return claim

    def _probe(self) -> bool:
        """When a probe is due: ask, and let the breaker know. Returns whether objects may go."""
        self.close()
        if self.breaker.probe_at is None or time.monotonic() < self.breaker.probe_at:
            return False
        answered = probe(self.destination, self._calling)
        self.breaker.probed(time.monotonic(), answered=answered)
        log.info("deliver.probe", destination=self.destination.name, state="up" if answered else "down")
        if not answered:
            self._bury()
        return answered

    def _bury(self) -> None:
        """Nothing is claimed while the breaker is open, so the horizon of what waits is looked at here."""
        horizon = timedelta(seconds=self._work.retry_horizon_s)
        while self._oldest is not None and self._now() - self._oldest >= horizon:
            claim = self._claim()
            if claim is None:
                return
            self._finish(claim, ended(claim.artefact.sop_instance_uid, "unreachable"))
            self._oldest = claim.first_at

    def _send(self, claim: ClaimedDelivery) -> StoreResult:
        artefact = claim.artefact
        path = self._spool.path(artefact.sha256)
        item = StoreItem(path, artefact.sop_class_uid, artefact.sop_instance_uid)
        if not _intact(self._spool, artefact.sha256):
            return ended(artefact.sop_instance_uid, "unreadable")
        try:
            self._sender = self._sender or open_sender(self.destination, self._calling)
        except OSError:  # the token file
            return ended(artefact.sop_instance_uid, "unreachable")
        except Defect:  # its certificates
            return ended(artefact.sop_instance_uid, "tls")
        try:
            with _Heartbeat(self._ledger, claim, self._work, self._now):
                return self._sender.send(item)
        except Exception as error:  # noqa: BLE001 - outer guard: one object must reach its horizon like any other
            log.error("deliver.crashed", destination=self.destination.name, error_type=type(error).__name__)
            self.close()
            return ended(artefact.sop_instance_uid, "broken")

    def _finish(self, claim: ClaimedDelivery, result: StoreResult) -> None:
        """Tell the ledger, then the breaker."""
        if result.answer is Answer.FEW:
            self._few[claim.delivery_id] = self._few.get(claim.delivery_id, 0) + 1
        few = self._few.get(claim.delivery_id, 0)
        now = self._now()
        settlement = settle(
            result,
            now + timedelta(seconds=self._wait_s(claim, result)),
            few=few,
            overdue=now - claim.first_at >= timedelta(seconds=self._work.retry_horizon_s),
        )
        held = self._ledger.finish_delivery(
            claim.delivery_id,
            claim.fence,
            settlement.state,
            result.words,
            settlement.code,
            settlement.next_at,
            now,
            self.destination.proves,
        )
        if settlement.next_at is None:
            self._few.pop(claim.delivery_id, None)
        report = log.info if settlement.state in _STORED else log.warning
        report(
            "deliver.sent" if held else "deliver.fenced_off",
            destination=self.destination.name,
            delivery_id=claim.delivery_id,
            case_id=claim.case_id,
            attempt=claim.attempt,
            state=str(settlement.state),
            code=settlement.code,
            status=result.words,
        )

    def _wait_s(self, claim: ClaimedDelivery, result: StoreResult) -> float:
        """A destination that is not there is the breaker's business: once it is back, nothing waits longer than a probe."""
        wait = backoff_s(self._work, claim.attempt, self._draw)
        if result.code in _NOT_THERE:
            wait = min(wait, self.breaker.probe_s)
        return min(max(wait, result.retry_after_s), max(self._work.retry_max_s, 1.0))

    def _judge(self, claim: ClaimedDelivery, result: StoreResult) -> None:
        if result.code in PEER_LEVEL:
            self._oldest = min(self._oldest or claim.first_at, claim.first_at)
            self.breaker.bad(time.monotonic())
        elif result.status is not None:
            self._oldest = None
            self.breaker.good()


_STORED = (DeliveryState.STORED, DeliveryState.STORED_WITH_WARNING)


class _Heartbeat:
    """Keeps the claim while a slow destination takes an object."""

    def __init__(self, ledger: Ledger, claim: ClaimedDelivery, work: Work, now: Callable[[], datetime]) -> None:
        self._ledger, self._claim, self._work, self._now = ledger, claim, work, now
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"heartbeat-{claim.delivery_id}")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._work.heartbeat_s):
            try:
                held = self._ledger.heartbeat_delivery(
                    self._claim.delivery_id, self._claim.fence, self._work.lease_s, self._now()
                )
            except Unavailable:
                continue  # the ledger may come back before the lease ends; the fence decides
            if not held:
                return


def _intact(spool: Spool, sha256: str) -> bool:
    """Whether the stored bytes are still what was rendered."""
    try:
        with spool.open(sha256) as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            return digest.hexdigest() == sha256
    except OSError:
        return False
