"""Every test of the ledger runs on SQLite and on PostgreSQL, each on a fresh, migrated database."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from casework.ledger import Ledger, migrations
from casework.ledger.audit import GENESIS
from casework.ledger.schema import metadata
from tests.ledger.postgres_cluster import Cluster

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One PostgreSQL server for the session, with a migrated template database."""
    try:
        running = Cluster()
    except RuntimeError as error:
        pytest.fail(str(error))
    _admin(running, "CREATE DATABASE migrated")
    ledger = Ledger.open(running.url("migrated"))
    ledger.migrate()
    ledger.close()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{path}")
    ledger.migrate()
    ledger.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Which database a test runs on."""
    return str(request.param)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of fully synchronised ledgers would only measure the disk."""
    memory = Path("/dev/shm")  # noqa: S108 - emptied below
    path = Path(tempfile.mkdtemp(prefix="ledger", dir=memory if memory.is_dir() else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def new_url(dialect: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[[], str]]:
    """Make databases without any table; they are dropped at the test's end."""
    made: list[str] = []

    def make() -> str:
        made.append(f"t{next(_numbers)}")
        if dialect == "sqlite":
            return f"sqlite:///{folder / made[-1] / 'ledger.db'}"
        running: Cluster = request.getfixturevalue("cluster")
        _admin(running, f"CREATE DATABASE {made[-1]}")
        return running.url(made[-1])

    yield make
    for name in made if dialect == "postgresql" else ():
        _admin(request.getfixturevalue("cluster"), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def url(dialect: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """A migrated database without content."""
    if dialect == "sqlite":
        path = folder / "ledger.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    running: Cluster = request.getfixturevalue("cluster")
    _wipe(running.url("migrated"))
    return running.url("migrated")


@pytest.fixture
def open_ledger(url: str) -> Iterator[Callable[..., Ledger]]:
    """Open ledgers of the test's database; all are closed at its end."""
    opened: list[Ledger] = []

    def make(**settings: int) -> Ledger:
        opened.append(Ledger.open(url, **settings))
        return opened[-1]

    yield make
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Callable[..., Ledger]) -> Ledger:
    """An open ledger."""
    return open_ledger()


def _admin(running: Cluster, statement: str) -> None:
    engine = create_engine(running.url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _newest() -> str:
    """The newest migration's number."""
    folder = Path(migrations.__file__).parent / "versions"
    return max(path.name for path in folder.glob("0*.py"))[:4]


def _wipe(url: str) -> None:
    """Empty a database as its superuser can: guards and foreign keys are off in this session only."""
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'migrated' AND pid <> pg_backend_pid()"
    )
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(others))
        connection.execute(text("SET session_replication_role = replica"))
        for table in metadata.tables:
            connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - own names
        connection.execute(text("INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, :start)"), {"start": GENESIS})
        connection.execute(text("SELECT setval(c.oid, 1, false) FROM pg_class c WHERE c.relkind = 'S'"))
        connection.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": _newest()})
    engine.dispose()
