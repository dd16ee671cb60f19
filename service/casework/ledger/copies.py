"""A whole copy of the ledger at one moment, and back: SQLite's online backup, PostgreSQL's own dump. No password in an argument.

Both are snapshots: what commits while the copy is made is in it whole or not at all.
"""

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import cast

from sqlalchemy import URL, create_engine, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError

from casework.errors import Defect, Refused, Unavailable
from casework.ledger.database import Database

NAMES = {"sqlite": "ledger.db", "postgresql": "ledger.dump"}
_LIMIT_S = 3600.0


def copy_out(database: Database, folder: Path) -> Path:
    """Write a copy into a folder; its path.

    Raises:
        Unavailable: LEDGER_UNAVAILABLE, it could not be made.
    """
    target = folder / NAMES[database.dialect]
    if database.dialect == "sqlite":
        with database.read() as connection:
            source = cast("sqlite3.Connection", connection.connection.driver_connection)
            copy = sqlite3.connect(target)
            try:
                source.backup(copy)
            except sqlite3.Error as error:
                raise Unavailable("LEDGER_UNAVAILABLE", f"backup: {type(error).__name__}") from error
            finally:
                copy.close()
    else:
        _run("pg_dump", database.url, "--format=custom", "--no-owner", "--no-privileges", f"--file={target}")
    _flush(target)
    return target


def copy_in(copy: Path, url: str) -> None:
    """Make the ledger at `url` from a copy.

    Raises:
        Refused: STATE_FORBIDS, there is a ledger already, or the copy is of the other database.
        Unavailable: LEDGER_UNAVAILABLE.
    """
    parsed = make_url(url)
    dialect = parsed.get_backend_name()
    if copy.name != NAMES[dialect]:
        raise Refused("STATE_FORBIDS", f"the backup holds {copy.name}, the configuration names {dialect}")
    refuse_used(url)
    if dialect == "postgresql":
        _run(
            "pg_restore", parsed, "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", str(copy)
        )
        return
    target = Path(str(parsed.database))
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = target.with_suffix(".restoring")
    shutil.copyfile(copy, part)
    part.chmod(0o600)
    _flush(part)
    part.rename(target)
    _flush(target.parent)


def refuse_used(url: str) -> None:
    """Refuse a place that holds a ledger.

    Raises:
        Refused: STATE_FORBIDS.
        Unavailable: LEDGER_UNAVAILABLE.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if Path(str(parsed.database)).exists():
            raise Refused("STATE_FORBIDS", "there is a ledger already; restore goes into an empty place")
        return
    engine = create_engine(parsed, hide_parameters=True)
    try:
        found = inspect(engine).get_table_names()
    except SQLAlchemyError as error:
        raise Unavailable("LEDGER_UNAVAILABLE", type(error).__name__) from error
    finally:
        engine.dispose()
    if found:
        raise Refused("STATE_FORBIDS", "the database is not empty; restore goes into an empty one")


def _run(program: str, url: URL, *arguments: str) -> None:
    """One of PostgreSQL's programs; the password travels in its environment."""
    place = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    environment = {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}
    try:
        done = subprocess.run(  # noqa: S603 - our arguments
            [program, f"--dbname={place}", *arguments],
            env=environment,
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise Defect("CONFIG_INVALID", f"{program} is not on PATH: install PostgreSQL's client programs") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable("LEDGER_UNAVAILABLE", f"{program}: longer than {_LIMIT_S:.0f} s") from error
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Unavailable("LEDGER_UNAVAILABLE", f"{program}: {words[-1][:200] if words else done.returncode}")


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
