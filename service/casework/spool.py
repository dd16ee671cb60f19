"""Durable content-addressed files on one file system, local or shared by hosts (docs/hosts.md). Owns every path below the storage root.

Rules: a name is a UUID of ours or a SHA-256, never a string from a peer; an object exists under its digest only after its
bytes are on the disk; the first failed fsync is final, because the kernel may have thrown the pages away and a second call
would report success (PostgreSQL's fsync rule, reliability 6.1).
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from casework.errors import Defect, Unavailable
from casework.owner import place

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREPARED_KEY = re.compile(r"[0-9a-z][0-9a-z_-]{1,127}")
_CREATE = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
FOREIGN_S = 3600.0  # nothing is written for so long without a pause that ends the association
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # of handles or memory, for a moment


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of the file system below the spool; `free` is what we may still write."""

    total: int
    used: int
    free: int

    @property
    def share(self) -> float:
        """Used share of what unprivileged processes can use, 0..1."""
        return self.used / (self.used + self.free) if self.used + self.free else 1.0


class Incoming:
    """One file being written: bytes go to disk and into the digest at once. Not thread-safe; one writer."""

    __slots__ = ("_digest", "_fd", "path", "size")

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.size = 0
        self._fd = fd
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Digest of everything written so far, in hex."""
        return self._digest.hexdigest()

    def fileno(self) -> int:
        """The open descriptor, so that a reader can map what was written."""
        return self._fd

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append.

        Raises:
            Unavailable: DISK_LOW when the disk is full, STORAGE_FAILED for any other failure.
        """
        self._digest.update(data)
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._fd, view)
                self.size += written
                view = view[written:]
        except OSError as error:
            raise Unavailable("DISK_LOW" if error.errno in _FULL else "STORAGE_FAILED", error.strerror or "") from error

    def close(self) -> None:
        """Close the descriptor and give up the lock that marks the file as alive."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def abandon(self) -> None:
        """Forget the file: close it and remove it. Safe to call twice."""
        self.close()
        self.path.unlink(missing_ok=True)


class Spool:
    """The storage root: incoming/ (being written), objects/ (durable, by digest), prepared/ (a cache), retired/ (on its way out)."""

    def __init__(self, root: Path, *, fsync: bool = True) -> None:
        self.root = root
        self.failed = False
        self._fsync_on = fsync
        self._mark = hashlib.sha256(place().encode()).hexdigest()[:12]
        self._objects = str(root / "objects")
        self._incoming = root / "incoming"
        self._retired = root / "retired"
        for name in ("incoming", "objects", "prepared", "retired"):
            (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_shards()

    def _make_shards(self) -> None:
        """Make objects/00 to objects/ff once, so that keeping an object never makes, and never flushes, a new directory.

        One level of 256: with two levels nearly every object of a young spool costs two mkdir and two more flushes
        (measured: a third of the time of a batch).
        """
        for number in range(256):
            Path(self._objects, f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        for directory in (self._objects, str(self.root)):
            self._fsync_directory(directory)
        with contextlib.suppress(PermissionError):  # a parent that we may only pass through is not ours to flush
            self._fsync_directory(str(self.root.parent))

    # --- writing ------------------------------------------------------------------------------------------

    def begin(self) -> Incoming:
        """Open a new file in incoming/, locked for as long as it is being written (see `sweep_incoming`).

        Raises:
            Unavailable: STORAGE_FAILED, DISK_LOW, or RATE_LIMITED when this process has no handle left for the moment.
        """
        self._check()
        while True:
            path = self._incoming / f"{self._mark}-{uuid.uuid4().hex}.part"
            try:
                fd = os.open(path, _CREATE, 0o600)
            except OSError as error:
                raise _cannot_open(error) from error
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return Incoming(path, fd)
            os.close(fd)  # a booting process swept it between open and lock

    def keep(self, incoming: Incoming, sha256: str) -> None:
        """Make a file durable under its digest: flush it, rename it, flush the folder. The same digest twice is fine.

        Threads may do this at once; the file system joins their flushes.

        Raises:
            Unavailable: STORAGE_FAILED; then it does not count as kept, and nothing will be kept any more.
            Defect: SPOOL_CORRUPT when `sha256` is not what was written.
        """
        self._check()
        if sha256 != incoming.sha256:
            raise Defect("SPOOL_CORRUPT", "digest differs from the bytes written")
        self._fsync(incoming.fileno())
        try:
            incoming.path.rename(f"{self._objects}/{sha256[:2]}/{sha256}")
        except OSError as error:
            raise self._fail(error) from error
        incoming.close()
        self._fsync_directory(f"{self._objects}/{sha256[:2]}")

    def put(self, data: bytes) -> str:
        """Store bytes durably and return their digest."""
        incoming = self.begin()
        try:
            incoming.write(data)
            sha256 = incoming.sha256
            self.keep(incoming, sha256)
        except BaseException:
            incoming.abandon()
            raise
        return sha256

    def drop(self, sha256: str) -> None:
        """Remove an object; a missing one is fine."""
        self.path(sha256).unlink(missing_ok=True)

    def retire(self, sha256: str, since_s: float) -> bool:
        """Remove an object of which the ledger says since `since_s` (seconds since 1970) that it is gone.

        False: it was stored again since, or so shortly before that somebody may still be about to tell the ledger, and stays.
        It is taken by a rename first, so that what comes under its name meanwhile is never touched.

        Raises:
            Unavailable: RETRY_LATER, somebody is copying the objects (`keeping`).
        """
        path, taken = self.path(sha256), self._retired / sha256
        with self._retiring(wait=False):
            with contextlib.suppress(FileNotFoundError):
                path.rename(taken)
            if not taken.exists():
                return True
            if taken.stat(follow_symlinks=False).st_mtime > since_s - FOREIGN_S:
                taken.rename(path)
                self._fsync_directory(str(path.parent))
                return False
            taken.unlink()
            self._fsync_directory(str(path.parent))
        return True

    def recover_retired(self) -> int:
        """At boot: put back what a process that died had taken; the ledger still says which of it has to go. Returns how many."""
        with self._retiring():
            found = [path for path in self._retired.iterdir() if _SHA256.fullmatch(path.name)]
            for path in found:
                back = self.path(path.name)
                if back.exists():
                    path.unlink()
                else:
                    path.rename(back)
        return len(found)

    def keeping(self) -> contextlib.AbstractContextManager[None]:
        """While this lasts no object is retired, by no process: for who copies what a ledger names."""
        return self._retiring()

    @contextlib.contextmanager
    def _retiring(self, *, wait: bool = True) -> Iterator[None]:
        fd = os.open(self._retired, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise Unavailable("RETRY_LATER", "objects are being copied") from error
        try:
            yield
        finally:
            os.close(fd)

    # --- reading ------------------------------------------------------------------------------------------

    def path(self, sha256: str) -> Path:
        """Where an object is.

        Raises:
            Defect: SPOOL_CORRUPT when the name is not a digest.
        """
        if not _SHA256.fullmatch(sha256):
            raise Defect("SPOOL_CORRUPT", "not a digest")
        return Path(self._objects, sha256[:2], sha256)

    def open(self, sha256: str) -> BinaryIO:
        """Open an object for reading, never following a link."""
        fd = os.open(self.path(sha256), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return os.fdopen(fd, "rb")

    def whole(self, sha256: str) -> bytes:
        """A small object's bytes, which are still what was stored.

        Raises:
            Defect: SPOOL_CORRUPT.
        """
        try:
            with self.open(sha256) as file:
                data = file.read()
        except OSError as error:
            raise Defect("SPOOL_CORRUPT", "a result's bytes are missing") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Defect("SPOOL_CORRUPT", "a result's bytes have changed")
        return data

    def digests(self) -> Iterator[str]:
        """Every object's digest, in no order."""
        for directory, _, names in os.walk(self._objects):
            if len(directory) == len(self._objects) + 3:
                yield from (name for name in names if _SHA256.fullmatch(name))

    def usage(self) -> Usage:
        """How full the file system is."""
        s = os.statvfs(self.root)
        return Usage(s.f_blocks * s.f_frsize, (s.f_blocks - s.f_bfree) * s.f_frsize, s.f_bavail * s.f_frsize)

    def sweep_incoming(self) -> int:
        """Remove the half-written files of dead processes (nobody was told that they are here); return how many.

        A living writer holds a lock on its file, so that doors can start at different times. Locks of other hosts don't
        show on every shared file system: their files go after an hour without a change.
        """
        swept = 0
        for path in self._incoming.glob("*.part"):
            if path.name[:12] != self._mark and time.time() - _changed_at(path) < FOREIGN_S:
                continue
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    swept += 1
                finally:
                    os.close(fd)
        return swept

    # --- prepared cache -----------------------------------------------------------------------------------

    def prepared_path(self, key: str) -> Path:
        """Where the cache holds `key`; the file may be missing at any time, and that is never an error."""
        if not _PREPARED_KEY.fullmatch(key):
            raise Defect("INTERNAL", "prepared key")
        return self.root / "prepared" / key[:2] / key

    def write_prepared(self, key: str, chunks: Iterable[bytes]) -> Path:
        """Write a cache entry atomically. Not flushed: after a crash it is computed again.

        Raises:
            OSError: the entry could not be written; the caller goes on without it.
        """
        path = self.prepared_path(key)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        part = path.with_name(f"{uuid.uuid4().hex}.part")
        try:
            with os.fdopen(os.open(part, _CREATE, 0o600), "wb") as file:
                file.writelines(chunks)
            part.rename(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        return path

    def trim_prepared(self, limit_bytes: int) -> int:
        """Remove the entries that were used longest ago until the cache fits `limit_bytes`; return how many went."""
        entries: list[tuple[float, int, Path]] = []
        for path in (self.root / "prepared").glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    entries.append((max(status.st_atime, status.st_mtime), status.st_size, path))
        size = sum(entry[1] for entry in entries)
        removed = 0
        for _, bytes_, path in sorted(entries):
            if size <= limit_bytes:
                break
            path.unlink(missing_ok=True)
            size -= bytes_
            removed += 1
        return removed

    def age_prepared(self, before_s: float) -> int:
        """Remove entries that nobody used since then (seconds since 1970): they show the images that they were made of."""
        removed = 0
        for path in (self.root / "prepared").glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat(follow_symlinks=False)
                if max(status.st_atime, status.st_mtime) < before_s:
                    path.unlink()
                    removed += 1
        return removed

    # --- flushing -----------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.failed:
            raise Unavailable("STORAGE_FAILED")

    def _fail(self, error: OSError) -> Unavailable:
        self.failed = True
        return Unavailable("STORAGE_FAILED", error.strerror or "")

    def _fsync(self, fd: int) -> None:
        if not self._fsync_on:
            return
        try:
            os.fsync(fd)
        except OSError as error:
            raise self._fail(error) from error

    def _fsync_directory(self, directory: str) -> None:
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            raise
        except OSError as error:
            raise _cannot_open(error) from error
        try:
            self._fsync(fd)
        finally:
            os.close(fd)


def _changed_at(path: Path) -> float:
    try:
        return path.stat(follow_symlinks=False).st_mtime
    except OSError:  # gone meanwhile
        return time.time()


def _cannot_open(error: OSError) -> Unavailable:
    """Why nothing could be opened. Being short of handles passes by itself and says nothing about the disk."""
    if error.errno in _SHORT:
        return Unavailable("RATE_LIMITED", error.strerror or "")
    return Unavailable("DISK_LOW" if error.errno in _FULL else "STORAGE_FAILED", error.strerror or "")
