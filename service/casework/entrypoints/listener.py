"""The DICOM door: wires spool, ledger, intake and the SCP together, recovers at start, drains on SIGTERM.

Start: half-written files of dead processes go (nobody was told that they are here), associations that a dead process left
open are closed (those of a silent one on another host after two minutes, by the keeper). An object that reached the spool but not the ledger was never acknowledged: its sender repeats it, and it
then gets its row under the same digest.
"""

import resource
import signal
import threading
import time
from datetime import UTC, datetime
from types import FrameType

from casework import owner, tls
from casework.config import Settings
from casework.dicom import status
from casework.dicom.guard import Caller
from casework.dicom.scp import Server, Sink
from casework.entrypoints.pulse import Pulse
from casework.errors import CaseworkError
from casework.flows.commitment import CommitmentReports
from casework.flows.intake import Answer, Context, Intake, Reception
from casework.ledger import Ledger
from casework.observe import log
from casework.spool import Spool

DRAIN_S = 50.0
_TICK_S = 1.0


class _DimseSink:
    """One C-STORE: bytes to intake, the answer to a status."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self.write = reception.write
        self.abandon = reception.abandon

    def finish(self) -> tuple[int, str]:
        """Wait for the answer."""
        answer: Answer = self._reception.finish()
        return status.status_of(answer.verdict, answer.code), answer.code


class DimseDoor:
    """Intake and commitment reports, in the SCP's words."""

    def __init__(self, intake: Intake, reports: CommitmentReports) -> None:
        self._intake, self._reports = intake, reports
        self.draining = False

    def admit(self) -> str:
        """The code why no association should begin now, or ""."""
        return "SHUTTING_DOWN" if self.draining else self._intake.admit()

    def opened(self, caller: Caller) -> str:
        """Record the association."""
        return self._intake.open_association(caller.calling, caller.called, caller.address)

    def rejected(self, caller: Caller, code: str) -> None:
        """Record an association that was turned away."""
        self._intake.note_rejection(caller.calling, caller.called, caller.address, code)

    def closed(self, association_id: str, end: str, code: str, counts: dict[str, int]) -> None:
        """Record its end."""
        self._intake.close_association(association_id, end, code, counts)

    def begin(self, association_id: str, caller: Caller, sop_class: str, sop_instance: str, syntax: str) -> Sink:
        """Begin an instance."""
        context = Context("dimse", caller.calling, association_id, sop_class, sop_instance)
        return _DimseSink(self._intake.start_dataset(context, syntax))

    def report(self, caller: Caller, syntax: str) -> Sink:
        """Begin a storage commitment report."""
        return self._reports.begin(caller.calling, syntax)


class Listener:
    """The whole door in one object, so that tests can run it inside their own process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        settings.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.spool = Spool(settings.root, fsync=settings.storage.fsync)
        self.ledger = Ledger.open(settings.ledger_url, window_days=settings.assembly.window_days)
        swept = self.spool.sweep_incoming()
        stale = self.ledger.close_stale_associations(datetime.now(UTC), owner.dead_at_boot)
        log.info("listener.recovered", kind="half files", count=swept)
        log.info("listener.recovered", kind="associations", count=stale)
        self.intake = Intake(self.spool, self.ledger, settings)
        reports = CommitmentReports(self.ledger, settings)
        self.door = DimseDoor(self.intake, reports)
        self.server = Server(
            settings.dicom,
            self.door,
            reporters=reports.peers,
            plain=settings.tls.plain_dicom,
            tls_port=settings.tls.dicom_port,
            tls=tls.dicom_port(settings),
        )
        self.port, self.tls_port = self.server.port, self.server.tls_port

    def start(self) -> None:
        """Begin to accept."""
        self.server.start()
        log.info("listener.started", port=self.port)

    def stop(self, drain_s: float = DRAIN_S) -> bool:
        """Drain and close everything; True when no association had to be cut."""
        self.door.draining = True
        whole = self.server.stop(drain_s)
        self.intake.close()
        self.ledger.close()
        return whole

    def health(self) -> dict[str, object]:
        """What the health route and `casework doctor` read."""
        code = self.intake.admit()
        return {
            "ok": not code,
            "code": code,
            "port": self.port,
            "tls_port": self.tls_port,
            "associations": self.server.open_associations,
        }


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    stop = threading.Event()

    def on_signal(_: int, __: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the usual soft limit of 1,024 is less than a full lobby
    listener = Listener(settings)
    listener.start()
    pulse = Pulse(settings, "listener")
    while not stop.wait(_TICK_S):
        try:
            listener.intake.probe()
        except CaseworkError as error:
            log.error("listener.probe", code=error.code)
        pulse.beat(listener.health())
    began = time.monotonic()
    whole = listener.stop()
    log.info("listener.stopped", seconds=round(time.monotonic() - began, 2), state="drained" if whole else "cut")
    return 0
