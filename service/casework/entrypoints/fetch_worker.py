"""The fetcher's door: one thread for each PACS that is fetched from, until SIGTERM. Images go to intake, as any others.

A process of its own: a slow PACS keeps only its own thread waiting, never assembly or delivery. A fetch that is cut by
SIGKILL is repeated once its lease has ended; images that came before count as duplicates.
"""

import contextlib
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from casework.case import Verdict
from casework.config import Destination, Settings
from casework.dicom.retrieve import Sink, Take
from casework.entrypoints.pulse import Pulse
from casework.errors import CaseworkError
from casework.flows.fetch import Fetcher
from casework.flows.intake import Context, Intake, Reception
from casework.ledger import ClaimedCandidate, Ledger
from casework.observe import log
from casework.spool import Spool

REST_AFTER_ERROR_S = 5.0
DRAIN_S = 50.0


class _Sink:
    """One image: bytes to intake, its answer in two words."""

    def __init__(self, reception: Reception, counts: Counter[str]) -> None:
        self._reception, self._counts = reception, counts
        self.write, self.abandon = reception.write, reception.abandon

    def finish(self) -> tuple[Verdict, str]:
        """Wait for the answer."""
        answer = self._reception.finish()
        self._counts[answer.verdict] += 1
        return answer.verdict, answer.code


class _Take:
    """Images of one study, which have to be of that study and patient."""

    def __init__(self, intake: Intake, claimed: ClaimedCandidate, peer: str, association_id: str) -> None:
        self._intake, self._claimed, self._peer, self._association_id = intake, claimed, peer, association_id
        self.counts: Counter[str] = Counter()

    def part10(self) -> Sink:
        """An image that comes as a Part 10 file."""
        return _Sink(self._intake.start_part10(self._context("", "")), self.counts)

    def dataset(self, sop_class: str, sop_instance: str, transfer_syntax: str) -> Sink:
        """An image that comes as a data set."""
        return _Sink(self._intake.start_dataset(self._context(sop_class, sop_instance), transfer_syntax), self.counts)

    def _context(self, sop_class: str, sop_instance: str) -> Context:
        asked = self._claimed
        return Context(
            "fetch",
            self._peer,
            self._association_id,
            sop_class,
            sop_instance,
            asked.study_uid,
            asked.patient_id,
            asked.issuer_of_patient_id,
        )


class IntakeDoor:
    """Intake, in the fetcher's words. A fetch shows up in the association log; a C-MOVE comes as associations anyway."""

    def __init__(self, intake: Intake, settings: Settings) -> None:
        self._intake, self._settings = intake, settings

    def admit(self) -> str:
        """The code why nothing can be taken now, or ""."""
        if self._intake.failure:
            self._intake.probe()
        return self._intake.admit()

    @contextmanager
    def receiving(self, claimed: ClaimedCandidate, destination: Destination) -> Iterator[Take]:
        """Take the images of one study for the length of a block."""
        if destination.retrieve == "move":
            yield _Take(self._intake, claimed, destination.name, "")
            return
        peer = destination.ae_title or destination.name
        address = destination.host if destination.kind == "dimse" else "fetch"
        opened = self._intake.open_association(peer, self._settings.dicom.ae_title, address)
        take, end = _Take(self._intake, claimed, peer, opened), "aborted"
        try:
            yield take
            end = "released"
        finally:
            with contextlib.suppress(CaseworkError):
                self._intake.close_association(opened, end, "", dict(take.counts))


def run(settings: Settings, stop: threading.Event, drain_s: float = DRAIN_S) -> bool:
    """Fetch until `stop` is set; True when every thread ended within drain_s."""
    ledger = Ledger.open(settings.ledger_url, window_days=settings.assembly.window_days)
    spool = Spool(settings.root, fsync=settings.storage.fsync)
    intake = Intake(spool, ledger, settings)
    door = IntakeDoor(intake, settings)
    fetchers = [Fetcher(ledger, spool, d, settings, door, stop=stop) for d in settings.destination if d.retrieve]
    threads = [
        threading.Thread(target=_loop, args=(one, stop), daemon=True, name=f"fetch-{one.destination.name}")
        for one in fetchers
    ]
    for thread in threads:
        thread.start()
    log.info("fetch.started", count=len(threads))
    pulse = Pulse(settings, "fetch_worker")
    while not stop.wait(1.0):
        code = door.admit()
        pulse.beat({"ok": not code and all(thread.is_alive() for thread in threads), "code": code})
    for thread in threads:
        thread.join(drain_s / max(1, len(threads)))
    whole = not any(thread.is_alive() for thread in threads)
    if whole:
        intake.close()
        ledger.close()
    log.info("fetch.stopped", state="drained" if whole else "cut")
    return whole


def _loop(fetcher: Fetcher, stop: threading.Event) -> None:
    while not stop.is_set():
        stop.wait(_turn(fetcher))


def _turn(fetcher: Fetcher) -> float:
    """One question or one study; returns the seconds until the next turn."""
    try:
        return fetcher.step()
    except CaseworkError as error:
        log.error("fetch.failed", destination=fetcher.destination.name, code=error.code)
    except Exception as error:  # noqa: BLE001 - the outer guard of this loop: the claim's lease brings the study back
        log.error(
            "fetch.failed", destination=fetcher.destination.name, code="INTERNAL", error_type=type(error).__name__
        )
    return REST_AFTER_ERROR_S


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    stop = threading.Event()

    def on_signal(_: int, __: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    run(settings, stop)
    return 0
