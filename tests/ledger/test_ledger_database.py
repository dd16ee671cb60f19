"""Opening, migrating, and telling a broken or unsuitable database from a good one."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect

from casework.errors import Defect, Unavailable
from casework.ledger import SCHEMA, Ledger, database
from casework.ledger.schema import metadata
from tests.ledger.ledger_help import NOW, change, delivered, new_case, raw, record

CHILD = ("-m", "tests.ledger.ledger_child")


@pytest.fixture
def empty_url(new_url: Callable[[], str]) -> str:
    """A database without tables."""
    return new_url()


@pytest.fixture
def empty(empty_url: str) -> Iterator[Ledger]:
    """A ledger without tables."""
    ledger = Ledger.open(empty_url)
    yield ledger
    ledger.close()


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names()) - {"alembic_version"}
    finally:
        engine.dispose()


def test_up_down_up(empty: Ledger, empty_url: str) -> None:
    """The migrations make every table, take every table away, and make them again."""
    assert empty.info().schema == ""
    with pytest.raises(Defect, match="casework migrate"):
        empty.require_current_schema()
    empty.migrate()
    empty.require_current_schema()
    assert empty.info().schema == SCHEMA
    assert tables(empty_url) == set(metadata.tables)
    delivered(empty)
    empty.unmigrate("base")
    assert tables(empty_url) == set()
    empty.migrate()
    assert new_case(empty)
    assert empty.read.verify_audit().ok


def test_migrations_make_the_schema(url: str, new_url: Callable[[], str]) -> None:
    """The migrated database is what the code's tables say; a change without a migration fails here."""
    with raw(url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        found = checks(connection)
        second = new_url()
        Ledger.open(second).close()
        with raw(second) as other:
            metadata.create_all(other)
            assert found == checks(other)
            assert len(found) == 8


def checks(connection: Connection) -> set[tuple[str, str | None, str]]:
    """The CHECK constraints of all tables, which Alembic doesn't compare."""
    look = inspect(connection)
    return {(t, str(c["name"]), c["sqltext"]) for t in metadata.tables for c in look.get_check_constraints(t)}


def test_migrating_twice_changes_nothing(ledger: Ledger) -> None:
    """Migrating a current ledger keeps its content."""
    case_id = new_case(ledger)
    ledger.migrate()
    assert ledger.read.case(case_id).id == case_id


def test_processes_that_migrate_together(empty_url: str) -> None:
    """Three processes that start on an empty database at the same time all end with the same schema."""
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen([sys.executable, *CHILD, "migrate", empty_url], stdin=pipe, stdout=pipe, text=True)
        for _ in range(3)
    ]
    answers = [child.communicate("\n", timeout=60)[0].split() for child in children]
    assert answers == [["ready", answers[0][1]]] * 3
    assert [child.returncode for child in children] == [0, 0, 0]


def test_newer_ledger_is_refused(ledger: Ledger, url: str) -> None:
    """A program doesn't touch a ledger that a newer version has migrated."""
    change(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Defect, match="CONFIG_INVALID"):
        ledger.migrate()


def test_info(ledger: Ledger, dialect: str) -> None:
    """Health shows which database, which version of it, and which schema."""
    info = ledger.info()
    assert info.dialect == dialect
    assert info.version.split(".")[0].isdigit()
    assert info.schema
    assert bool(info.notes) is (dialect == "sqlite")


def test_pragmas(ledger: Ledger, url: str, dialect: str) -> None:
    """Writers are fully synchronised: WAL with FULL on SQLite, synchronous_commit on PostgreSQL."""
    with ledger._database.write(NOW) as tx:
        if dialect == "sqlite":
            assert one(tx.connection, "PRAGMA journal_mode") == "wal"
            assert one(tx.connection, "PRAGMA synchronous") == 2
            assert one(tx.connection, "PRAGMA foreign_keys") == 1
            assert one(tx.connection, "PRAGMA busy_timeout") == 10000
            assert one(tx.connection, "PRAGMA wal_autocheckpoint") == 0
            assert one(tx.connection, "PRAGMA recursive_triggers") == 1
        else:
            assert one(tx.connection, "SHOW synchronous_commit") == "on"
            assert one(tx.connection, "SHOW lock_timeout") == "10s"


def one(connection: Any, statement: str) -> Any:
    return connection.exec_driver_sql(statement).scalar_one()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql+pymysql://x/y"])
def test_unsuitable_address_is_refused(url: str) -> None:
    """A database in memory, or of another maker, is refused when it is opened."""
    with pytest.raises(Defect, match="CONFIG_INVALID"):
        Ledger.open(url)


def test_unreachable_server_is_unavailable(tmp_path: Path) -> None:
    """A server that isn't there is LEDGER_UNAVAILABLE, for writing and for reading."""
    ledger = Ledger.open(f"postgresql+psycopg://postgres@/x?host={tmp_path}")
    with pytest.raises(Unavailable, match="LEDGER_UNAVAILABLE"):
        record(ledger, "1.1")
    with pytest.raises(Unavailable, match="LEDGER_UNAVAILABLE"):
        ledger.read.metrics()
    ledger.close()


def test_missing_table_is_a_defect(empty: Ledger) -> None:
    """Using a ledger that was never migrated is an error of ours, not a lost image."""
    with pytest.raises((Defect, Unavailable)):
        record(empty, "1.1")


# --- SQLite only ----------------------------------------------------------------------------------------------


def test_files_are_private(tmp_path: Path) -> None:
    """The ledger's files can be read by their owner only."""
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'deep' / 'ledger.db'}")
    ledger.migrate()
    new_case(ledger)
    for path in (tmp_path / "deep").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert (tmp_path / "deep").stat().st_mode & 0o077 == 0
    ledger.close()


def test_garbage_is_corrupt(tmp_path: Path) -> None:
    """A file that is no database is LEDGER_CORRUPT when it is opened."""
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is not a database, it only looks like one" * 100)
    with pytest.raises(Defect, match="LEDGER_CORRUPT"):
        Ledger.open(f"sqlite:///{path}")


def test_damaged_page_is_corrupt(tmp_path: Path) -> None:
    """A damaged page is found by the check at boot."""
    path = tmp_path / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{path}")
    ledger.migrate()
    record(ledger, *(f"1.{n}" for n in range(600)))
    ledger.close()
    content = bytearray(path.read_bytes())
    for start in range(len(content) - 4096 * 20, len(content), 4096):
        content[start : start + 64] = b"\xee" * 64
    path.write_bytes(content)
    again = Ledger.open(f"sqlite:///{path}")
    with pytest.raises(Defect, match="LEDGER_CORRUPT"):
        again.migrate()
    again.close()


def test_unwritable_folder_is_unavailable(tmp_path: Path) -> None:
    """A place where no file can be made is LEDGER_UNAVAILABLE."""
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(Unavailable, match="LEDGER_UNAVAILABLE"):
        Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")


def test_failed_disk_write_stops_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an I/O error nothing more is written until a restart, since the kernel may have dropped the page."""
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.migrate()
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
    ledger._database._note_failure(error)
    with pytest.raises(Unavailable, match="SQLITE_IOERR_FSYNC"):
        record(ledger, "1.1")
    assert ledger.read.metrics().instances == 0
    ledger.close()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_was_taken_away_is_not_written(tmp_path: Path, how: str) -> None:
    """Once the file is gone or another one nothing is acknowledged: commits into the old file would be lost at a restart."""
    path = tmp_path / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{path}")
    ledger.migrate()
    record(ledger, "1.1")
    if how == "replaced":
        (tmp_path / "copy.db").write_bytes(path.read_bytes())
        (tmp_path / "copy.db").replace(path)
    else:
        path.unlink()
    with pytest.raises(Unavailable, match="removed or replaced"):
        record(ledger, "1.2")
    with pytest.raises(Unavailable, match="removed or replaced"):
        ledger.read.metrics()
    ledger.close()


def test_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    """With no room left a batch is refused whole, nothing of it stays, and writing goes on once there is room."""
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.migrate()
    case_id = new_case(ledger, "1.0")
    with ledger._database.write(NOW) as tx:
        pages = one(tx.connection, "PRAGMA page_count")
        one(tx.connection, f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable, match="SQLITE_FULL"):
        record(ledger, *(f"1.{n}" for n in range(1, 300)))
    assert ledger.read.metrics().instances == 1
    with ledger._database.write(NOW) as tx:
        one(tx.connection, f"PRAGMA max_page_count = {pages * 10}")
    assert record(ledger, *(f"1.{n}" for n in range(1, 300)))[0].case_id == case_id
    assert ledger.read.verify_audit().ok
    ledger.close()


def test_a_recording_of_nothing_writes(tmp_path: Path) -> None:
    """What intake asks to see whether the ledger works again has to reach the disk: a commit of nothing works on a full one."""
    path = tmp_path / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{path}")
    ledger.migrate()
    before = path.with_name("ledger.db-wal").read_bytes()
    ledger.record([], NOW)
    assert path.with_name("ledger.db-wal").read_bytes() != before
    assert ledger.read.processes() == []
    ledger.close()


MOUNTS = """21 1 8:1 / / rw - ext4 /dev/vda rw
40 21 0:50 / /data rw - nfs4 server:/x rw
41 40 0:51 / /data/local\\040disk rw - xfs /dev/vdb rw
42 21 0:52 / /home/me/remote rw - fuse.sshfs me@there rw
"""


@pytest.mark.parametrize(
    ("folder", "refused"),
    [("/data", True), ("/data/x", True), ("/data/local disk/x", False), ("/var", False), ("/database", False),
     ("/home/me/remote/a", True)],
)  # fmt: skip
def test_network_file_system_is_refused(tmp_path: Path, folder: str, refused: bool) -> None:
    """SQLite's locks need a local disk; NFS, SMB and the like are refused by the mount that holds the folder."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    if refused:
        with pytest.raises(Defect, match="network file system"):
            database.refuse_network_file_system(Path(folder), mounts)
    else:
        database.refuse_network_file_system(Path(folder), mounts)


def test_long_wal_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The WAL is moved into the database while the ledger runs, so it doesn't grow without bound."""
    path = tmp_path / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{path}")
    ledger.migrate()
    sizes = []
    for number in range(4 * database._CHECKPOINT_EVERY):
        record(ledger, *(f"1.{number}.{n}" for n in range(4)))
        sizes.append(Path(f"{path}-wal").stat().st_size)
    assert sizes[-1] < 3 * sizes[database._CHECKPOINT_EVERY]
    ledger.close()
    assert not Path(f"{path}-wal").exists()


def test_two_ledgers_of_one_process_keep_their_locks(tmp_path: Path) -> None:
    """A second ledger beside the first drops no lock: another process that closes leaves the WAL, and no commit is lost."""
    path = tmp_path / "ledger.db"
    url = f"sqlite:///{path}"
    first = Ledger.open(url)
    first.migrate()
    record(first, "1.1")
    second = Ledger.open(url)
    second.read.metrics()
    wal = path.with_name("ledger.db-wal")
    before = wal.stat().st_ino
    subprocess.run([sys.executable, *CHILD, "send", url, "9", "1"], check=True, capture_output=True, timeout=60)
    assert wal.exists()
    assert wal.stat().st_ino == before
    record(first, "1.2")
    record(second, "1.3")
    with sqlite3.connect(path) as anybody:
        found = {row[0] for row in anybody.execute("SELECT sop_uid FROM instance")}
        assert anybody.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    anybody.close()
    assert {"1.1", "1.2", "1.3"} <= found
    second.close()
    first.close()
