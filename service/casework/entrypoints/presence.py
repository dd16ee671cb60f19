"""A door's row in the ledger: it runs, since when, and which error it met last. One thread; never in the door's way.

The files of `pulse` tell this machine how its doors are; the ledger tells everybody who asks why a study did not run.
"""

import os
import socket
import threading
from datetime import UTC, datetime
from types import TracebackType

from casework.config import Settings
from casework.errors import CaseworkError
from casework.ledger import Ledger, ProcessRow
from casework.observe import last_error, log

EVERY_S = 15.0
SETTLED_S = 5.0  # a door that ends sooner never ran: its earlier failure stays the answer


class Presence:
    """`with Presence(settings, door)`: beats while the block runs, and says how it ended."""

    def __init__(self, settings: Settings, door: str, every_s: float = EVERY_S, settled_s: float = SETTLED_S) -> None:
        self._settings, self._door, self._every_s, self._settled_s = settings, door, every_s, settled_s
        self._started = datetime.now(UTC)
        self._done = threading.Event()
        self._ended = ("stopped", "")
        self._thread = threading.Thread(target=self._beat_on, daemon=True, name="presence")

    def __enter__(self) -> "Presence":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, SystemExit):
            self._ended = ("failed", error.code if isinstance(error, CaseworkError) else "INTERNAL")
        self._done.set()
        self._thread.join(5.0)

    def _beat_on(self) -> None:
        ledger: Ledger | None = None
        starts, wait_s = True, self._settled_s
        while True:
            done = self._done.is_set()
            try:
                ledger = ledger or Ledger.open(self._settings.ledger_url)
                ledger.beat(self._row(*(self._ended if done else ("running", ""))), starts=starts and not done)
            except CaseworkError as error:  # the ledger is away: the next beat tells
                log.warning("presence.failed", code=error.code)
            if done:
                break
            self._done.wait(wait_s)
            starts, wait_s = False, self._every_s
        if ledger is not None:
            ledger.close()

    def _row(self, state: str, code: str) -> ProcessRow:
        found = last_error()
        return ProcessRow(
            door=self._door,
            host=socket.gethostname(),
            pid=os.getpid(),
            state=state,
            code=code,
            started_at=self._started,
            beat_at=datetime.now(UTC),
            error_code=found[0] if found else "",
            error_at=found[1] if found else None,
        )
