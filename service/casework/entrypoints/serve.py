"""The supervisor of `casework serve`: every door as a child process, restarted when it dies, drained on SIGTERM.

Owns the storage root: a lock file keeps a second supervisor out. Holds no other state; killing it at any moment loses
nothing, since each child is told by the kernel that its parent died and drains.
"""

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from casework.config import Settings
from casework.errors import Unavailable
from casework.ledger import Ledger
from casework.observe import log

DOORS = ("listener", "api", "keeper", "infer-worker", "deliver-worker")
FETCHER = "fetch-worker"  # only where a PACS is configured to fetch from
DRAIN_S = 60.0
HEALTHY_AFTER_S = 30.0  # a child that lived this long starts its back-off anew


@dataclass
class Child:
    """One door: its command, its process and when it may start again (monotonic seconds)."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    due_at: float = 0.0
    failures: int = 0

    def start(self, now: float) -> None:
        """Start the process in the supervisor's session, with the supervisor's standard error."""
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)  # noqa: S603 - fixed argument list
        self.started_at = now
        log.info("child.started", child=self.name, pid=self.process.pid)

    def tend(self, now: float) -> None:
        """Start it when it is due; note an exit and choose the next start (1 s doubling to 30 s, jittered)."""
        if self.process is None:
            if now >= self.due_at:
                try:
                    self.start(now)
                except OSError as error:  # no process or no memory to be had: the other doors go on
                    log.error("child.not_started", child=self.name, error_type=type(error).__name__)
                    self._wait(now, -1)
            return
        status = self.process.poll()
        if status is None:
            return
        self.failures = 0 if now - self.started_at > HEALTHY_AFTER_S else self.failures
        self._wait(now, status)

    def _wait(self, now: float, status: int) -> None:
        self.failures += 1
        wait = min(30.0, 2.0 ** max(0, self.failures - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        log.error("child.exited", child=self.name, status=status, seconds=round(wait, 1))
        self.process, self.due_at = None, now + wait


@dataclass
class Supervisor:
    """Runs the doors until a signal asks it to stop."""

    settings: Settings
    config: Path | None
    doors: Sequence[str] = DOORS
    stopping: bool = False
    children: list[Child] = field(default_factory=list)

    def run(self) -> int:
        """Return the exit status: 0 when every child drained in time."""
        lock = self._lock()
        try:
            ledger = Ledger.open(self.settings.ledger_url)
            ledger.migrate()
            ledger.close()
            signal.signal(signal.SIGTERM, self._stop)
            signal.signal(signal.SIGINT, self._stop)
            fetcher = (FETCHER,) if any(d.retrieve for d in self.settings.destination) else ()
            self.children = [Child(door, self._command(door)) for door in (*self.doors, *fetcher)]
            while not self.stopping:
                for child in self.children:
                    child.tend(time.monotonic())
                time.sleep(0.2)
            return self._drain()
        finally:
            lock.close()

    def _lock(self) -> IO[str]:
        """Hold the storage root for this supervisor alone."""
        root = self.settings.root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = (root / "serve.lock").open("a")  # whoever holds it may have written into it
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.close()
            raise Unavailable("ALREADY_RUNNING", str(root)) from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        return handle

    def _command(self, door: str) -> list[str]:
        config = ["--config", str(self.config)] if self.config else []
        return [sys.executable, "-m", "casework", door, "--supervised", str(os.getpid()), *config]

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _drain(self) -> int:
        """Ask every child to finish, wait, and kill what is left."""
        running = [c for c in self.children if c.process is not None]
        for child in running:
            _signal(child, signal.SIGTERM)
        deadline = time.monotonic() + DRAIN_S
        late = 0
        for child in running:
            assert child.process is not None  # noqa: S101 - running was filtered on it
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                late += 1
                log.error("child.killed", child=child.name)
                _signal(child, signal.SIGKILL)
                child.process.wait()
        log.info("serve.stopped", count=late)
        return 1 if late else 0


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process is not None and child.process.poll() is None:
        child.process.send_signal(number)
