"""Prepares the images of cases that are still arriving, so that a case's latency is the network and the results.

It only fills the cache that `Inputs` reads: everything works the same when it never ran. It gives way to running cases
and keeps the cache within its bound.
"""

import threading
import time
from datetime import datetime, timedelta

from casework.case import CaseState
from casework.config import Settings
from casework.errors import CaseworkError
from casework.flows.analyse.case import Clock
from casework.flows.analyse.inputs import Inputs
from casework.ledger import CaseRow, Ledger
from casework.observe import log
from casework.spool import Spool

_OPEN = (CaseState.RECEIVING, CaseState.STABLE, CaseState.QUEUED)
_SERIES_QUIET = timedelta(seconds=0.4)  # a dynamic series is prepared as a whole: not while its slices still come
_TRIM_EVERY_S = 30.0


class _GaveWay(Exception):
    """A case is running; preparing goes on afterwards."""


class PrepareAhead:
    """One step looks at all open cases once and prepares what is new in them."""

    def __init__(self, ledger: Ledger, spool: Spool, inputs: Inputs, settings: Settings, now: Clock) -> None:
        self._ledger, self._spool, self._inputs, self._settings, self._now = ledger, spool, inputs, settings, now
        self._done: dict[str, tuple[datetime, bool]] = {}
        self._trimmed_at = time.monotonic()
        self.busy = threading.Event()
        self.stopping = threading.Event()

    def step(self) -> int:
        """Prepare what is new; return how many cases were looked into."""
        self._trim()
        cases = self._ledger.cases_in(*_OPEN)
        self._done = {c.id: self._done[c.id] for c in cases if c.id in self._done}
        looked = 0
        for case in sorted(cases, key=lambda c: (c.state is not CaseState.QUEUED, c.last_at)):
            quiet = case.state is not CaseState.RECEIVING or self._now() - case.last_at >= _SERIES_QUIET
            if self._done.get(case.id) == (case.last_at, quiet):
                continue
            try:
                self._prepare(case, quiet=quiet)
            except _GaveWay:
                return looked
            self._done[case.id] = (case.last_at, quiet)
            looked += 1
        return looked

    def _prepare(self, case: CaseRow, *, quiet: bool) -> None:
        try:
            rows = self._ledger.case_inputs(case.id)
            ready = self._inputs.ready(rows, mri=quiet, pause=self._pause)
            used = {uid for image in ready.images.values() for uid in image.sources}
            for row in rows:
                if row.header.sop_instance_uid in used:
                    self._pause()
                    self._inputs.header(row)
        except CaseworkError as error:
            # The case itself will meet the same and say it; here it only costs the head start.
            log.warning("prepare.failed", case_id=case.id, code=error.code)

    def _pause(self) -> None:
        if self.busy.is_set() or self.stopping.is_set():
            raise _GaveWay

    def _trim(self) -> None:
        if time.monotonic() - self._trimmed_at >= _TRIM_EVERY_S:
            self._trimmed_at = time.monotonic()
            self._spool.trim_prepared(self._settings.storage.prepared_bytes)
