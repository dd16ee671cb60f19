"""The keeper's door: assembles cases and sweeps, in one loop, until SIGTERM. Holds no state that matters.

Two keepers do no harm: every move is a compare-and-set in the ledger.
"""

import signal
import threading
import time
from datetime import UTC, datetime
from types import FrameType

from casework.config import Settings
from casework.entrypoints.pulse import Pulse
from casework.errors import CaseworkError
from casework.flows.assemble import Assembler
from casework.flows.sweep import Sweeper
from casework.ledger import Ledger
from casework.observe import STAGE_SECONDS, log
from casework.spool import Spool

REST_AFTER_ERROR_S = 2.0
PRESSING_S = 0.1


def run(settings: Settings, stop: threading.Event) -> None:
    """Turn until `stop` is set; a turn that fails is logged and repeated after a rest."""
    ledger = Ledger.open(
        settings.ledger_url, window_days=settings.assembly.window_days, max_attempts=settings.work.max_attempts
    )
    sweeper = Sweeper(ledger, Spool(settings.root, fsync=settings.storage.fsync), settings)
    assembler = Assembler(ledger, settings)
    pulse = Pulse(settings, "keeper")
    sweeper.boot()
    log.info("keeper.started")
    try:
        while not stop.is_set():
            rest_s = _turn(assembler, sweeper, settings)
            pulse.beat({"ok": rest_s < REST_AFTER_ERROR_S})
            stop.wait(rest_s)
    finally:
        assembler.close()
        ledger.close()
    log.info("keeper.stopped")


def _turn(assembler: Assembler, sweeper: Sweeper, settings: Settings) -> float:
    """One look at everything; returns the seconds until the next."""
    try:
        with STAGE_SECONDS.labels("assemble").time():
            sweeper.step(datetime.now(UTC), time.monotonic())
            assembler.step(datetime.now(UTC), time.monotonic())
    except CaseworkError as error:
        log.error("keeper.failed", code=error.code)
    except Exception as error:  # noqa: BLE001 - the outer guard of this loop: one bad row must not stop all cases
        log.error("keeper.failed", code="INTERNAL", error_type=type(error).__name__, where=_where(error))
    else:
        return min(settings.assembly.poll_s, PRESSING_S) if assembler.pressing else settings.assembly.poll_s
    return max(REST_AFTER_ERROR_S, settings.assembly.poll_s)


def _where(error: BaseException) -> str:
    """File and line of the innermost frame: enough to find it, and free of values."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{frame.tb_frame.f_code.co_qualname}:{frame.tb_lineno}" if frame else ""


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    stop = threading.Event()

    def on_signal(_: int, __: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    run(settings, stop)
    return 0
