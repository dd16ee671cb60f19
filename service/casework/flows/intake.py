"""One way in for C-STORE and STOW-RS: stream to the spool, read the header, make it durable, record it, only then answer.

Order (reliability 6.1): bytes to incoming/ with their digest; bounded header; fsync of the file, rename, fsync of its folder,
each in the door's own thread, so that the file system joins concurrent flushes (measured a third faster than one shared
flush under load); then one shared turn of the writer thread: ONE ledger transaction for every instance that is there, at
most 64. Instances that are still being flushed are waited for, up to 5 ms, so a single sender pays no delay. An answer is
given after COMMIT and never before.

Failures: a failed fsync is final (STORAGE_FAILED) and a failed transaction lasts until a later one works
(LEDGER_UNAVAILABLE); both answer 0xA700 / 503, and `failure` tells the doors to stop accepting.
"""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from casework import owner
from casework.case import Arrival, Header, Recorded, Verdict
from casework.config import Settings
from casework.dicom import classes
from casework.dicom.header import FileMeta, is_uid, parse_file_meta, part10_prefix, peek, read_mapped
from casework.errors import CaseworkError, Defect, Refused, Unavailable
from casework.observe import INSTANCES, STORE_SECONDS, log
from casework.spool import Incoming, Spool
from casework.tracing import note_span

MAX_BATCH = 64
GATHER_S = 0.005
SEEN_EVERY_S = 20.0
REJECTION_ROWS, REJECTION_ROWS_PER_S = 20.0, 1.0
_META_ROOM = 72 << 10


class Recorder(Protocol):
    """What intake needs of the ledger."""

    def record(self, arrivals: Sequence[Arrival], now: datetime) -> list[Recorded]:
        """Record a batch in one transaction."""

    def open_association(  # noqa: PLR0917 - the ledger's signature
        self,
        id: str,  # noqa: A002 - the ledger's word
        calling: str,
        called: str,
        address: str,
        now: datetime,
        owner: str = "",
    ) -> None:
        """Record that an association began."""

    def see_associations(self, owner: str, now: datetime) -> None:
        """Record that this process still has its open ones."""

    def close_association(self, id: str, end: str, code: str, counts: dict[str, int], now: datetime) -> None:  # noqa: A002 - the ledger's word
        """Record how it ended."""


@dataclass(frozen=True, slots=True)
class Context:
    """Where an instance comes from. The SOP UIDs are the C-STORE command's, the study's is STOW's; "" = none given.

    A fetch also names whose image it asked for.
    """

    door: str  # "dimse" | "stow" | "fetch" | "adopt"
    peer: str
    association_id: str
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender is told. REFUSED with an UNAVAILABLE code means: nothing is wrong with it, try again."""

    verdict: Verdict
    code: str
    header: Header | None = None
    sha256: str = ""
    instance_id: int | None = None
    case_id: str | None = None


@dataclass(slots=True)
class _Pending:
    """One instance, or one call, that waits for the writer."""

    arrival: Arrival | None = None
    call: Callable[[], Any] | None = None
    recorded: Recorded | None = None
    error: CaseworkError | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Reception:
    """One instance on its way in. `write` never raises: what goes wrong is told by `finish`, once, with a code."""

    def __init__(self, intake: "Intake", context: Context, syntax: str | None) -> None:
        self._intake = intake
        self._context = context
        self._incoming: Incoming | None = None
        self._problem: CaseworkError | None = None
        self._began = time.monotonic()
        self._meta: bytearray | None = None if syntax else bytearray()
        self._syntax = syntax
        self._start = bytearray()  # kept only where there is no room for the rest, to say of whom it was
        self._guard(lambda: self._open(syntax))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes; after a problem they are thrown away."""
        if self._problem is None:
            self._guard(lambda: self._take(data))
        elif self._problem.code == "DISK_LOW" and len(self._start) < _META_ROOM:
            self._start += data[: _META_ROOM - len(self._start)]

    def finish(self) -> Answer:
        """Wait until the instance is durable and recorded, or say why it is not."""
        if self._problem is None and self._meta is not None:
            self._guard(lambda: self._start_part10(final=True))
        if self._problem is not None or self._incoming is None:
            self.abandon()
            problem = self._problem or Refused("NOT_DICOM")
            return self._intake.refuse(problem, self._context, self._of_whom() if self._start else None)
        incoming, self._incoming = self._incoming, None
        answer = self._intake.receive(incoming, self._context)
        note_span("receive", answer.case_id or "", time.monotonic() - self._began, code=answer.code)
        return answer

    def _of_whom(self) -> Header | None:
        """What the beginning of an instance says for which there is no room."""
        context, start = self._context, bytes(self._start)
        if self._syntax is None:
            return peek(start)
        if not (is_uid(context.sop_class_uid) and is_uid(context.sop_instance_uid)):
            return None
        return peek(part10_prefix(context.sop_class_uid, context.sop_instance_uid, self._syntax) + start)

    def abandon(self) -> None:
        """The sender went away: forget what came so far."""
        if self._incoming is not None:
            self._incoming.abandon()
            self._incoming = None

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            step()
        except CaseworkError as error:
            self._problem = error
            self.abandon()

    def _open(self, syntax: str | None) -> None:
        self._incoming = self._intake.begin()
        if syntax is not None:
            context = self._context
            if not (is_uid(context.sop_class_uid) and is_uid(context.sop_instance_uid)):
                raise Refused("UID_INVALID", "command")
            self._incoming.write(part10_prefix(context.sop_class_uid, context.sop_instance_uid, syntax))

    def _take(self, data: bytes | bytearray | memoryview) -> None:
        if self._meta is None:
            self._append(data)
            return
        self._meta += data
        if len(self._meta) >= _META_ROOM:
            self._start_part10(final=False)

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        if self._incoming is None:
            raise Refused("NOT_DICOM")
        if self._incoming.size + len(data) > self._intake.max_instance_bytes:
            raise Refused("TOO_LARGE")
        self._incoming.write(data)

    def _start_part10(self, *, final: bool) -> None:
        """Replace the sender's preamble and file meta by ours, once enough of the file is here."""
        buffered, self._meta = self._meta or bytearray(), None
        if final and not buffered:
            raise Refused("NOT_DICOM", "empty")
        meta: FileMeta = parse_file_meta(bytes(buffered))
        if meta.transfer_syntax_uid not in classes.TRANSFER_SYNTAXES:
            raise Refused("TRANSFER_SYNTAX_NOT_ACCEPTED")
        self._append(part10_prefix(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid))
        self._append(memoryview(buffered)[meta.dataset_offset :])


class Intake:
    """The flow. One per process; `close` ends its writer thread after everything that waits has been answered."""

    def __init__(
        self,
        spool: Spool,
        ledger: Recorder,
        settings: Settings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._spool, self._ledger, self._settings, self._now = spool, ledger, settings, now
        self.max_instance_bytes = settings.dicom.max_instance_bytes
        self.failure = ""
        self._waiting: list[_Pending] = []
        self._wake = threading.Condition()
        self._closing = False
        self._closed = False
        self._rejections = (REJECTION_ROWS, 0.0)  # rows left, and when that was (monotonic seconds)
        self._coming = 0
        self._owner = owner.process()
        self._open: set[str] = set()  # associations, and requests, that end here
        self._seen_at = time.monotonic()
        self._writer = threading.Thread(target=self._write_forever, name="intake-writer", daemon=True)
        self._writer.start()

    # --- for the doors ------------------------------------------------------------------------------------

    def admit(self) -> str:
        """The code why no new association or request should begin now, or ""."""
        if self.failure or self._spool.failed:
            return self.failure or "STORAGE_FAILED"
        if self._closing:
            return "SHUTTING_DOWN"
        return self._disk(self._settings.storage.watermark)

    def start_dataset(self, context: Context, transfer_syntax: str) -> Reception:
        """Begin an instance whose data set arrives without file meta (C-STORE); the context holds the command's UIDs."""
        return Reception(self, context, transfer_syntax)

    def start_part10(self, context: Context) -> Reception:
        """Begin an instance that arrives as a Part 10 file (STOW-RS)."""
        return Reception(self, context, None)

    def begin(self) -> Incoming:
        """Open a file in the spool for an instance.

        Raises:
            Unavailable: DISK_LOW above the hard watermark, STORAGE_FAILED, LEDGER_UNAVAILABLE.
        """
        code = self.failure or self._disk(self._settings.storage.hard_watermark)
        if code:
            raise Unavailable(code)
        return self._spool.begin()

    def receive(self, incoming: Incoming, context: Context) -> Answer:
        """Judge a complete Part 10 file and make it durable. Returns when it is committed, or when it never will be."""
        header: Header | None = None
        with STORE_SECONDS.labels(context.door).time():
            try:
                header = read_mapped(incoming.fileno(), self._settings.dicom.max_frames_bytes)
                self._compare(header, context)
                verdict, code = self._judge(header)
                with self._wake:
                    self._coming += 1
                try:
                    self._spool.keep(incoming, incoming.sha256)
                finally:
                    with self._wake:
                        self._coming -= 1
                arrival = self._arrival(context, verdict, code, header, incoming)
                recorded = self._submit(_Pending(arrival=arrival)).recorded
            except CaseworkError as error:
                incoming.abandon()
                return self.refuse(error, context, header)
            except BaseException:
                incoming.abandon()
                raise
        if recorded is None:
            raise AssertionError("the writer answers with a row or an error")
        INSTANCES.labels(context.door, recorded.verdict, recorded.code).inc()
        return Answer(recorded.verdict, recorded.code, header, arrival.sha256, recorded.instance_id, recorded.case_id)

    def refuse(self, error: CaseworkError, context: Context, header: Header | None = None) -> Answer:
        """Answer for an instance that is not kept. The sender's mistakes get a row; our own troubles are for the log.

        A header that could be read goes with the row, so that a search for the study finds the refusal. A full disk gets
        rows too, so many a second, as long as the ledger has room: nobody waits for them.
        """
        INSTANCES.labels(context.door, Verdict.REFUSED, error.code).inc()
        if isinstance(error, Refused):
            arrival = self._arrival(context, Verdict.REFUSED, error.code, header, None)
            try:
                self._submit(_Pending(arrival=arrival))
            except CaseworkError as other:
                error = other
        elif error.code == "DISK_LOW" and header is not None:
            told = self._arrival(context, Verdict.REFUSED, error.code, header, None)
            self._note(lambda: self._ledger.record([told], self._now()))
        if isinstance(error, Unavailable) and error.code in ("STORAGE_FAILED", "LEDGER_UNAVAILABLE"):
            self._fail(error)
        log.warning("intake.refused", door=context.door, code=error.code, association_id=context.association_id)
        return Answer(Verdict.REFUSED, error.code, header)

    def open_association(self, calling: str, called: str, address: str) -> str:
        """Record a new association and return its id.

        Raises:
            Unavailable: LEDGER_UNAVAILABLE.
        """
        association_id, now = str(uuid.uuid4()), self._now()
        call = lambda: self._ledger.open_association(association_id, calling, called, address, now, self._owner)  # noqa: E731 - one use
        self._submit(_Pending(call=call))
        with self._wake:
            self._open.add(association_id)
            self._wake.notify()
        return association_id

    def close_association(self, association_id: str, end: str, code: str, counts: dict[str, int]) -> None:
        """Record how an association ended.

        Raises:
            Unavailable: LEDGER_UNAVAILABLE; the row is closed at the next start.
        """
        now = self._now()
        with self._wake:
            self._open.discard(association_id)
        self._submit(_Pending(call=lambda: self._ledger.close_association(association_id, end, code, counts, now)))

    def note_rejection(self, calling: str, called: str, address: str, code: str) -> None:
        """Write a row for an association that was turned away, without waiting.

        So many a second and no more, the rest is in the log: a peer that hammers the port must neither fill the ledger
        nor take the writer's time from images.
        """
        association_id, now = str(uuid.uuid4()), self._now()

        def call() -> None:
            self._ledger.open_association(association_id, calling, called, address, now)
            self._ledger.close_association(association_id, "rejected", code, {}, now)

        self._note(call)

    def _note(self, call: Callable[[], Any]) -> None:
        """Let the writer do this some time, or forget it where there are too many of them."""
        with self._wake:
            clock = time.monotonic()
            left, then = self._rejections
            left = min(REJECTION_ROWS, left + (clock - then) * REJECTION_ROWS_PER_S)
            self._rejections = (left - 1.0 if left >= 1.0 else left, clock)
            if left >= 1.0 and not self._closing:
                self._waiting.append(_Pending(call=call))
                self._wake.notify()

    def probe(self) -> bool:
        """Try an empty transaction after the ledger failed; True when intake works."""
        if self.failure == "LEDGER_UNAVAILABLE":
            try:
                self._submit(_Pending(call=lambda: self._ledger.record([], self._now())))
                self.failure = ""
            except CaseworkError:
                return False
        return not self.failure and not self._spool.failed

    def close(self) -> None:
        """Answer everything that waits, then stop."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._writer.join()

    # --- judging ------------------------------------------------------------------------------------------

    def _judge(self, header: Header) -> tuple[Verdict, str]:
        verdict, code = classes.judge(header, self._settings.report.manufacturer)
        if verdict is Verdict.REFUSED:
            raise Refused(code)
        return verdict, code

    def _compare(self, header: Header, context: Context) -> None:
        if context.sop_instance_uid and (header.sop_class_uid, header.sop_instance_uid) != (
            context.sop_class_uid,
            context.sop_instance_uid,
        ):
            raise Refused("UID_MISMATCH")
        if context.study_instance_uid not in ("", header.study_instance_uid):
            raise Refused("UID_MISMATCH")
        if context.patient_id:
            theirs = header.issuer_of_patient_id.strip()
            strange = bool(context.issuer_of_patient_id and theirs and theirs != context.issuer_of_patient_id)
            if strange or header.patient_id.strip() != context.patient_id:
                raise Refused("FETCH_WRONG_PATIENT")

    def _disk(self, watermark: float) -> str:
        usage = self._spool.usage()
        full = usage.share > watermark or usage.free < self._settings.storage.reserve_bytes
        return "DISK_LOW" if full else ""

    def _arrival(
        self, context: Context, verdict: Verdict, code: str, header: Header | None, stored: Incoming | None
    ) -> Arrival:
        sha256, size = (stored.sha256, stored.size) if stored else ("", 0)
        return Arrival(
            verdict, code, header, sha256, size, context.door, context.peer, context.association_id, self._now()
        )

    # --- the writer ---------------------------------------------------------------------------------------

    def _submit(self, pending: _Pending) -> _Pending:
        with self._wake:
            if self._closed:
                raise Unavailable("SHUTTING_DOWN")
            self._waiting.append(pending)
            self._wake.notify()
        pending.done.wait()
        if pending.error is not None:
            raise pending.error
        return pending

    def _write_forever(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing and not self._unseen():
                    self._wake.wait(SEEN_EVERY_S if self._open else None)
                if self._unseen():
                    self._seen_at = time.monotonic()
                    self._waiting.append(_Pending(call=lambda: self._ledger.see_associations(self._owner, self._now())))
                deadline = time.monotonic() + GATHER_S
                while self._coming and len(self._waiting) < MAX_BATCH and (left := deadline - time.monotonic()) > 0:
                    self._wake.wait(left)
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                if not batch:
                    self._closed = True
                    return
            try:
                self._turn(batch)
            except CaseworkError as error:
                self._spoil(batch, error)
            except Exception as error:  # noqa: BLE001 - the writer's outer guard: a driver's error must never end the thread
                log.error("intake.writer", error_type=type(error).__name__)
                self._one_by_one(batch)

    def _unseen(self) -> bool:
        """Whether it is time to say that our associations are open; other hosts close those of a silent process."""
        return bool(self._open) and time.monotonic() - self._seen_at >= SEEN_EVERY_S

    def _turn(self, batch: list[_Pending]) -> None:
        """One ledger transaction for all instances of the batch, their answers, then the calls."""
        arrivals = [p for p in batch if p.arrival is not None]
        if arrivals:
            rows = self._ledger.record([p.arrival for p in arrivals if p.arrival is not None], self._now())
            for pending, row in zip(arrivals, rows, strict=True):
                pending.recorded = row
                pending.done.set()
        for pending in batch:
            if pending.call is not None:
                pending.call()
                pending.done.set()

    def _one_by_one(self, batch: list[_Pending]) -> None:
        """After an unexpected error: only the item that causes it may fail, not those that shared its turn."""
        for pending in batch:
            if pending.done.is_set():
                continue
            try:
                self._turn([pending])
            except CaseworkError as error:
                self._spoil([pending], error)
            except Exception as error:  # noqa: BLE001 - part of the writer's outer guard
                log.error("intake.item", error_type=type(error).__name__)
                self._spoil([pending], Defect("INTERNAL", type(error).__name__))

    def _spoil(self, batch: list[_Pending], error: CaseworkError) -> None:
        """Nobody in this batch may be told that it worked, unless that was already committed."""
        if isinstance(error, Unavailable):
            self._fail(error)
        for pending in batch:
            if not pending.done.is_set():
                pending.error = error
                pending.done.set()

    def _fail(self, error: CaseworkError) -> None:
        if self.failure != "STORAGE_FAILED":
            self.failure = error.code
        log.error("intake.failed", code=error.code)
