"""Every test of the ledger runs on SQLite and on PostgreSQL, each on a fresh, migrated database."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres_cluster import Cluster
from sqlalchemy import create_engine, text

from casework.ledger import Ledger

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
def empty_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any table."""
    if dialect == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    running: Cluster = request.getfixturevalue("cluster")
    name = f"t{next(_numbers)}"
    _admin(running, f"CREATE DATABASE {name}")
    return running.url(name)


@pytest.fixture
def second_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Another database without any table."""
    if dialect == "sqlite":
        return f"sqlite:///{tmp_path / 'second.db'}"
    running: Cluster = request.getfixturevalue("cluster")
    name = f"t{next(_numbers)}"
    _admin(running, f"CREATE DATABASE {name}")
    return running.url(name)


@pytest.fixture
def url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database."""
    if dialect == "sqlite":
        path = tmp_path / "ledger.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    running: Cluster = request.getfixturevalue("cluster")
    name = f"t{next(_numbers)}"
    _admin(running, f"CREATE DATABASE {name} TEMPLATE migrated")
    return running.url(name)


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
