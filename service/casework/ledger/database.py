"""Connections, and the one write transaction at a time. Owns the engines, the pragmas and the write lock.

SQLite: WAL, synchronous=FULL, one writing connection per process, used only under `WriteLock`; checkpoints run there
too, and so does closing any connection (the last one to close would checkpoint). Readers never wait for a writer.
PostgreSQL: synchronous_commit=on; a writer first locks the audit's head row, so both databases behave the same.
"""

import atexit
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from casework.errors import CaseworkError, Defect, Unavailable
from casework.ledger import audit
from casework.ledger.guards import MARK
from casework.ledger.lock import WriteLock

_Found = TypeVar("_Found")
_TIMEOUT_S = 10.0
_TRUSTED_S = 2.0  # a connection that was used so recently is not asked whether it still lives
_CHECKPOINT_EVERY = 48  # write transactions of this process
_WAL_TOO_LONG_FRAMES = 16_000  # 64 MiB: readers kept it from being reused; wait for them once
_NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "lustre",
    "glusterfs",
    "gpfs",
    "ncpfs",
    "virtiofs",
}
# A host that is cut off in the middle of a write holds the audit's head row, and everybody waits for it: the server ends
# its transaction well before the others' patience does. No write waits for anything outside while it is open.
_PG_OPTIONS = (
    "-c synchronous_commit=on -c lock_timeout=10s -c idle_in_transaction_session_timeout=4s"
    " -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 -c tcp_user_timeout=10000"
)
# The same, seen from the host: what it asked on a dead connection fails within 15 s.
_PG_CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15000,
}


@dataclass(slots=True)
class Tx:
    """One write transaction: its connection, its time, and the audit rows that are written before the commit."""

    connection: Connection
    now: datetime
    entries: list[audit.Entry] = field(default_factory=list)

    def audit(self, event_name: str, actor: str, case_id: str = "", subject: str = "", **detail: Any) -> None:
        """Note what this transaction changes."""
        kept = {key: value for key, value in detail.items() if value not in ("", None)}
        self.entries.append(audit.Entry(self.now, actor, event_name, case_id, subject, kept))


class Database:
    """One process's access to the ledger's database; threads may share it, forked children may not."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.dialect = self.url.get_backend_name()
        self._pid = os.getpid()
        self._failed = ""
        self._commits = 0
        self._lock: WriteLock | None = None
        self._file: tuple[Path, tuple[int, int]] | None = None
        if self.dialect == "sqlite":
            self._open_sqlite()
        elif self.dialect == "postgresql":
            options: dict[str, Any] = {"options": _PG_OPTIONS, **_PG_CONNECT}
            self._writer = create_engine(self.url, connect_args=options, hide_parameters=True, pool_timeout=_TIMEOUT_S)
            _ping_after_rest(self._writer)
            self._reader: Engine = self._writer.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        else:
            raise Defect("CONFIG_INVALID", "storage.ledger_url: sqlite:/// or postgresql+psycopg://")
        atexit.register(self.close)

    # --- SQLite ---

    def _open_sqlite(self) -> None:
        if not self.url.database or self.url.database == ":memory:":
            raise Defect("CONFIG_INVALID", "storage.ledger_url: SQLite needs a file")
        path = Path(self.url.database).resolve()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_network_file_system(path.parent)
        self._lock = WriteLock(path, _TIMEOUT_S)
        try:
            _create(path)
            _become_wal(path, self._lock)
            self._file = (path, _identity(path))
        except (OSError, sqlite3.OperationalError) as error:
            raise Unavailable("LEDGER_UNAVAILABLE", type(error).__name__) from error
        except sqlite3.DatabaseError as error:
            raise Defect("LEDGER_CORRUPT", _sqlite_name(error)) from error
        self._writer = _sqlite_engine(path, self._lock, writes=True)
        self._reader = _sqlite_engine(path, self._lock, writes=False)

    def _checkpoint(self) -> None:
        """Move the WAL into the database now and then, under the lock; its errors stop later writes, not this one."""
        self._commits += 1
        if self.dialect != "sqlite" or self._commits % _CHECKPOINT_EVERY:
            return
        raw = self._writer.raw_connection()
        try:
            driver = cast("sqlite3.Connection", raw.driver_connection)
            _, frames, moved = driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if frames > _WAL_TOO_LONG_FRAMES and moved < frames:
                driver.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        except sqlite3.OperationalError as error:
            self._note_failure(error)
        finally:
            raw.close()

    # --- both ---

    @contextmanager
    def write(self, now: datetime) -> Iterator[Tx]:
        """Run one write transaction; committed when the block ends, rolled back when it raises.

        Raises:
            Unavailable: LEDGER_UNAVAILABLE, nothing was changed (or, on a lost connection, perhaps it was).
            Defect: ILLEGAL_MOVE, LEDGER_CORRUPT or INTERNAL, nothing was changed.
        """
        self._check_usable()
        with self._translated(), self.exclusive():
            with self._writer.begin() as connection:
                head = audit.lock_head(connection)
                tx = Tx(connection, now)
                yield tx
                audit.append(connection, head, tx.entries)
            self._checkpoint()

    @contextmanager
    def write_if(
        self, now: datetime, question: Callable[[Connection], _Found | None]
    ) -> Iterator[tuple[Tx, _Found] | None]:
        """Ask first, and write only if there is an answer; asking keeps nobody else from writing.

        The answer may be out of date when the write begins: ask again. On PostgreSQL both are one transaction, so rows
        that the question locks stay locked until the commit. Raises what `write` raises.
        """
        if self.dialect == "sqlite":
            with self.read() as connection:
                found = question(connection)
            if found is None:
                yield None
                return
            with self.write(now) as tx:
                yield tx, found
            return
        self._check_usable()
        with self._translated(), self._writer.begin() as connection:
            found = question(connection)
            if found is None:
                yield None
                return
            head = audit.lock_head(connection)
            tx = Tx(connection, now)
            yield tx, found
            audit.append(connection, head, tx.entries)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Ask questions of one consistent snapshot.

        Raises:
            Unavailable: LEDGER_UNAVAILABLE.
        """
        self._check_usable(reading=True)
        with self._translated(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """A connection that changes the schema; one process at a time, the others wait."""
        self._check_usable()
        with self._translated(), self.exclusive(), self._writer.begin() as connection:
            if self.dialect == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(7263781902)"))
            yield connection

    def exclusive(self) -> AbstractContextManager[None]:
        """The lock that every writer of an SQLite ledger holds; nothing on PostgreSQL, which locks rows."""
        return self._lock.held() if self._lock else nullcontext()

    def close(self) -> None:
        """Close every connection of this process, under the lock."""
        if os.getpid() != self._pid:
            return
        with self.exclusive():
            self._writer.dispose()
            self._reader.dispose()
        atexit.unregister(self.close)

    def version(self) -> str:
        """The database's own version."""
        if self.dialect == "sqlite":
            return sqlite3.sqlite_version
        with self.read() as connection:
            return str(connection.execute(text("SHOW server_version")).scalar_one())

    def schema(self) -> str:
        """The schema's version, "" before the first migration."""
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return ""
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or "")

    def _check_usable(self, *, reading: bool = False) -> None:
        if os.getpid() != self._pid:
            raise Defect("INTERNAL", "a ledger was carried over a fork; each process opens its own")
        if self._failed and not reading:
            raise Unavailable("LEDGER_UNAVAILABLE", f"stopped after {self._failed}")
        if self._file is not None and _identity(self._file[0]) != self._file[1]:
            # Our connections would go on in the old file, which nobody opens again: what they commit would be lost.
            raise Unavailable("LEDGER_UNAVAILABLE", "the file was removed or replaced; restart")

    def _note_failure(self, error: BaseException | None) -> None:
        """After one failed write or fsync the kernel may have dropped the page: nothing more is written until a restart."""
        name = _sqlite_name(error)
        if name.startswith("SQLITE_IOERR"):
            self._failed = name

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            self._note_failure(error.orig)
            raise _translate(error) from error
        except PoolTimeoutError as error:
            raise Unavailable("LEDGER_UNAVAILABLE", "no free connection") from error


def _ping_after_rest(engine: Engine) -> None:
    """Ask a pooled connection whether it lives when it has rested: asking before every use costs each write a round trip."""

    @event.listens_for(engine, "checkin")
    def _rests(_: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _woken(connection: Any, record: Any, _: Any) -> None:
        if time.monotonic() - record.info.get("used", time.monotonic()) < _TRUSTED_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool throws it away and opens another


def _identity(path: Path) -> tuple[int, int]:
    """Which file a path names now; (0, 0) for none."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _create(path: Path) -> None:
    """Make the file, closed to others, unless it is there.

    A file that is there is never opened here: closing any descriptor of it would drop the locks that SQLite holds for this
    process's other connections (sqlite.org/howtocorrupt.html, 2.2), and the next process to close would then remove the WAL
    under them.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _become_wal(path: Path, lock: WriteLock) -> None:
    with lock.held():
        connection = sqlite3.connect(path, timeout=_TIMEOUT_S)
        try:
            if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                raise Defect("CONFIG_INVALID", "storage.ledger_url: this file system can't do WAL")
        finally:
            connection.close()


def _sqlite_engine(path: Path, lock: WriteLock, *, writes: bool) -> Engine:
    class _Connection(sqlite3.Connection):
        def close(self) -> None:
            with lock.held():  # the last connection to close checkpoints
                super().close()

    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": _TIMEOUT_S, "check_same_thread": False, "factory": _Connection},
        pool_size=1 if writes else 20,
        max_overflow=0,
        pool_timeout=_TIMEOUT_S,
        hide_parameters=True,
    )
    pragmas = ["synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON", "wal_autocheckpoint=0"]
    if not writes:
        pragmas.append("query_only=ON")

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, not by the driver's guess
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _sqlite_name(error: BaseException | None) -> str:
    return str(getattr(error, "sqlite_errorname", ""))


def _translate(error: DBAPIError) -> CaseworkError:
    """Turn a driver's error into one of ours, without quoting values."""
    name = _sqlite_name(error.orig) or str(getattr(error.orig, "sqlstate", "")) or type(error.orig).__name__
    if MARK in str(error.orig):
        return Defect("ILLEGAL_MOVE", "refused by the database")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "XX001", "XX002")):
        return Defect("LEDGER_CORRUPT", name)
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        return Unavailable("LEDGER_UNAVAILABLE", name)
    return Defect("INTERNAL", name)


def refuse_network_file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """SQLite's locks and WAL need a local disk.

    Raises:
        Defect: CONFIG_INVALID, naming the file system.
    """
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # not Linux: nothing to ask
        return
    best, kind = Path("/"), ""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape"))
        if folder.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, right.split()[0]
    if kind.removeprefix("fuse.") in _NETWORK | {"sshfs", "s3fs", "rclone"}:
        raise Defect("CONFIG_INVALID", f"storage.ledger_url: {kind} is a network file system; use PostgreSQL")
