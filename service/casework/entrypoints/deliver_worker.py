"""The delivery worker's door: what leaves the service. Runs until SIGTERM.

For each destination that gets results one thread sends and one asks for proof; each webhook has a thread of its own.
On SIGTERM a sending in progress is finished (its own deadline bounds it); one that is cut by SIGKILL is repeated with the
same bytes once its lease has ended.
"""

import signal
import threading
from types import FrameType

from casework.config import Settings
from casework.entrypoints.pulse import EVERY_S, Pulse
from casework.errors import CaseworkError
from casework.flows.deliver import DestinationWorker
from casework.flows.prove import Prover
from casework.flows.webhooks import Notifier
from casework.ledger import Ledger
from casework.observe import log
from casework.spool import Spool

Worker = DestinationWorker | Prover | Notifier
REST_AFTER_ERROR_S = 2.0
DRAIN_S = 50.0


def run(settings: Settings, stop: threading.Event, drain_s: float = DRAIN_S) -> bool:
    """Deliver until `stop` is set; True when every thread ended within drain_s."""
    ledger = Ledger.open(settings.ledger_url)
    spool = Spool(settings.root, fsync=settings.storage.fsync)
    places = [d for d in settings.destination if d.send]
    workers: list[Worker] = [DestinationWorker(ledger, spool, d, settings) for d in places]
    workers += [Prover(ledger, d, settings) for d in places]
    workers += [Notifier(ledger, hook, settings) for hook in settings.webhook]
    threads = [
        threading.Thread(target=_loop, args=(w, stop), daemon=True, name=f"{type(w).__name__}-{_name(w)}")
        for w in workers
    ]
    for thread in threads:
        thread.start()
    log.info("deliver.started", count=len(threads))
    pulse = Pulse(settings, "deliver-worker")
    pulse.beat({"ok": True})
    while not stop.wait(EVERY_S):
        pulse.beat({"ok": all(thread.is_alive() for thread in threads)})
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


def _loop(worker: Worker, stop: threading.Event) -> None:
    while not stop.is_set():
        stop.wait(_turn(worker))
    worker.close()


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
    stop = threading.Event()

    def on_signal(_: int, __: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    run(settings, stop)
    return 0
