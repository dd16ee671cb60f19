"""One writer at a time for an SQLite ledger, across processes and threads. Owns <ledger>.lock and <ledger>.turn.

Why: SQLite 3.7.0 to 3.51.2 can corrupt a WAL database when two connections write or checkpoint at the same moment
(sqlite.org/wal.html, "the WAL-reset bug"). Whoever writes, checkpoints or closes a connection holds this lock, so two
never do. Waiters sleep in the kernel; the second file is a turnstile, so a busy writer can't overtake a waiting one.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from casework.errors import Unavailable


class WriteLock:
    """A fair, re-entrant (per thread), kill-safe lock; the kernel frees it when its process dies."""

    def __init__(self, database: Path, timeout_s: float = 10.0) -> None:
        self._paths = (database.with_suffix(".turn"), database.with_suffix(".lock"))
        self._timeout_s = timeout_s
        self._mutex = threading.RLock()
        self._depth = 0
        self._fd = -1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            Unavailable: LEDGER_UNAVAILABLE, somebody has held it for longer than the timeout.
        """
        deadline = time.monotonic() + self._timeout_s
        if not self._mutex.acquire(timeout=self._timeout_s):
            raise Unavailable("LEDGER_UNAVAILABLE", "write lock")
        try:
            if self._depth == 0:
                self._fd = self._take(deadline)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    _free(self._fd)
                    self._fd = -1
        finally:
            self._mutex.release()

    def _take(self, deadline: float) -> int:
        turn = _flock(self._paths[0], deadline)
        try:
            return _flock(self._paths[1], deadline)
        finally:
            _free(turn)


def _free(fd: int) -> None:
    """Unlock by name, not by closing alone: a child forked meanwhile shares the open file and would keep the lock."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _flock(path: Path, deadline: float) -> int:
    """Return a descriptor that holds an exclusive flock on `path`."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _wait(fd, deadline)
    return fd


def _wait(fd: int, deadline: float) -> int:
    """Block in a helper thread, because flock has no time limit; one that comes too late lets go at once."""
    guard = threading.Lock()
    done = threading.Event()
    given_up = False

    def block() -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with guard:
            if given_up:
                _free(fd)
            else:
                done.set()

    threading.Thread(target=block, name="ledger-lock", daemon=True).start()
    done.wait(max(0.0, deadline - time.monotonic()))
    with guard:
        if not done.is_set():
            given_up = True
            raise Unavailable("LEDGER_UNAVAILABLE", "write lock")
    return fd
