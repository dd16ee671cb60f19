"""The keeper's door: assembles cases and sweeps, in one loop, until SIGTERM. Holds no state that matters.

Two keepers do no harm: every move is a compare-and-set in the ledger. Where workers are told by a broker, a second thread
tells them: a broker that hangs must hold up neither completeness nor leases.
"""

import signal
import threading
import time
from datetime import UTC, datetime
from types import FrameType

from casework.config import Settings
from casework.entrypoints.pulse import Pulse
from casework.errors import CaseworkError, Unavailable
from casework.flows.assemble import Assembler
from casework.flows.relay import Relay
from casework.flows.retention import Retainer
from casework.flows.sweep import Sweeper
from casework.ledger import Ledger
from casework.observe import STAGE_SECONDS, log
from casework.queue import Bell, open_bell
from casework.spool import Spool

REST_AFTER_ERROR_S = 2.0
PRESSING_S = 0.1
RELAY_S = 0.1


def run(settings: Settings, stop: threading.Event) -> None:
    """Turn until `stop` is set; a turn that fails is logged and repeated after a rest.

    Raises:
        Defect: CONFIG_INVALID, the broker is not safe to use.
    """
    bell = open_bell(settings)
    if bell is not None:
        _refuse(bell)
    ledger = Ledger.open(
        settings.ledger_url, window_days=settings.assembly.window_days, max_attempts=settings.work.max_attempts
    )
    spool = Spool(settings.root, fsync=settings.storage.fsync)
    sweeper, retainer = Sweeper(ledger, spool, settings), Retainer(ledger, spool, settings.retention)
    assembler = Assembler(ledger, settings)
    pulse = Pulse(settings, "keeper")
    sweeper.boot()
    relay = bell and threading.Thread(
        target=_relay, args=(Relay(ledger, bell, settings.queue), stop), name="relay", daemon=True
    )
    if relay:
        relay.start()
    log.info("keeper.started")
    try:
        while not stop.is_set():
            rest_s = _turn(assembler, sweeper, retainer, settings)
            pulse.beat({"ok": rest_s < REST_AFTER_ERROR_S})
            stop.wait(rest_s)
    finally:
        if relay:
            relay.join(REST_AFTER_ERROR_S)
        assembler.close()
        ledger.close()
    log.info("keeper.stopped")


def _refuse(bell: Bell) -> None:
    try:
        bell.check()
    except Unavailable as error:  # it may come back; the workers check it too
        log.warning("queue.away", code=error.code)


def _relay(relay: Relay, stop: threading.Event) -> None:
    """Ring the bell until `stop` is set."""
    rest_s = 0.0
    while not stop.wait(rest_s):
        rest_s = RELAY_S
        try:
            relay.step(time.monotonic())
        except CaseworkError as error:
            log.warning("relay.failed", code=error.code)
            rest_s = REST_AFTER_ERROR_S
        except Exception as error:  # noqa: BLE001 - the outer guard of this loop: the next turn says it again
            log.error("relay.failed", code="INTERNAL", error_type=type(error).__name__, where=_where(error))
            rest_s = REST_AFTER_ERROR_S


def _turn(assembler: Assembler, sweeper: Sweeper, retainer: Retainer, settings: Settings) -> float:
    """One look at everything; returns the seconds until the next."""
    try:
        with STAGE_SECONDS.labels("assemble").time():
            sweeper.step(datetime.now(UTC), time.monotonic())
            assembler.step(datetime.now(UTC), time.monotonic())
            retainer.step(datetime.now(UTC), time.monotonic())
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
