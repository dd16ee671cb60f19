"""The delivery worker's door: what leaves the service. Runs until SIGTERM.

For each destination that gets results one thread sends and one asks for proof; each webhook has a thread of its own.
On SIGTERM a sending in progress is finished (its own deadline bounds it); one that is cut by SIGKILL is repeated with the
same bytes once its lease has ended.
"""

import signal
import threading
from dataclasses import dataclass, field
from types import FrameType

from casework.config import Settings
from casework.entrypoints.pulse import EVERY_S, Pulse
from casework.errors import CaseworkError
from casework.flows.deliver import DestinationWorker
from casework.flows.prove import Prover
from casework.flows.webhooks import Notifier
from casework.ledger import Ledger
from casework.observe import log
from casework.queue import DELIVER, open_queue
from casework.spool import Spool

Worker = DestinationWorker | Prover | Notifier
REST_AFTER_ERROR_S = 2.0
DRAIN_S = 50.0


@dataclass
class Rings:
    """Wakes every sending thread: one event each, since each waits in its own time."""

    events: list[threading.Event] = field(default_factory=list)

    def add(self) -> threading.Event:
        """One thread's event."""
        self.events.append(threading.Event())
        return self.events[-1]

    def ring(self) -> None:
        """There is something to send, or to end."""
        for event in self.events:
            event.set()


def run(settings: Settings, stop: threading.Event, drain_s: float = DRAIN_S, rings: Rings | None = None) -> bool:
    """Deliver until `stop` is set; True when every thread ended within drain_s."""
    rings = rings or Rings()
    ledger = Ledger.open(settings.ledger_url)
    spool = Spool(settings.root, fsync=settings.storage.fsync)
    places = [d for d in settings.destination if d.send]
    workers: list[Worker] = [DestinationWorker(ledger, spool, d, settings) for d in places]
    workers += [Prover(ledger, d, settings) for d in places]
    workers += [Notifier(ledger, hook, settings) for hook in settings.webhook]
    threads = [
        threading.Thread(target=_loop, args=(w, stop, rings.add()), daemon=True, name=f"{type(w).__name__}-{_name(w)}")
        for w in workers
    ]
    for thread in threads:
        thread.start()
    log.info("deliver.started", count=len(threads))
    pulse = Pulse(settings, "deliver-worker")
    pulse.beat({"ok": True})
    while not stop.wait(EVERY_S):
        pulse.beat({"ok": all(thread.is_alive() for thread in threads)})
    rings.ring()
    deadline = threading.Event()
    timer = threading.Timer(drain_s, deadline.set)
    timer.daemon = True
    timer.start()
    while any(thread.is_alive() for thread in threads) and not deadline.wait(0.05):
        pass
    timer.cancel()
    whole = not any(thread.is_alive() for thread in threads)
    if whole:
        ledger.close()
    log.info("deliver.stopped", state="drained" if whole else "cut")
    return whole


def _loop(worker: Worker, stop: threading.Event, rung: threading.Event) -> None:
    while not stop.is_set():
        rung.clear()
        rest_s = _turn(worker)
        if not stop.is_set():
            rung.wait(rest_s)
    worker.close()


class DeliverHands:
    """The threads behind a bell: a message wakes them, the ledger tells them what to send and in which order."""

    def __init__(self, settings: Settings) -> None:
        self._stop, self._rings = threading.Event(), Rings()
        self._thread = threading.Thread(target=run, args=(settings, self._stop, DRAIN_S, self._rings), name="deliver")
        self._thread.start()

    def take(self, job_id: int | None, *, routine_first: bool) -> str:  # noqa: ARG002 - the port's signature
        """Wake everybody."""
        self._rings.ring()
        return DELIVER

    def beat(self) -> None:
        """`run` shows that it is alive."""

    def close(self) -> None:
        """Drain."""
        self._stop.set()
        self._thread.join()


def _name(worker: Worker) -> str:
    return worker.name if isinstance(worker, Notifier) else worker.destination.name


def _turn(worker: Worker) -> float:
    """One delivery, probe, look for proof or event; returns the seconds until the next turn."""
    try:
        return worker.step()
    except CaseworkError as error:
        log.error("deliver.failed", destination=_name(worker), code=error.code)
    except Exception as error:  # noqa: BLE001 - the outer guard of this loop: the claim's lease brings the delivery back
        log.error("deliver.failed", destination=_name(worker), code="INTERNAL", error_type=type(error).__name__)
        worker.close()
    return REST_AFTER_ERROR_S


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    if settings.queue.kind == "celery":
        return open_queue(settings, [DELIVER]).work(lambda: DeliverHands(settings))
    stop = threading.Event()

    def on_signal(_: int, __: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    run(settings, stop)
    return 0
