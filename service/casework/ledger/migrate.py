"""Brings the schema to the newest version, and checks the file, at boot. The migrations are Alembic's, in this package."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from casework.errors import Defect
from casework.ledger.database import Database


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(database: Database, revision: str = "head") -> None:
    """Check the file, then run the migrations up to `revision`.

    Raises:
        Defect: LEDGER_CORRUPT; CONFIG_INVALID, the database is newer than this program.
    """
    with database.migration() as connection:
        _quick_check(connection)
        config = _config(connection)
        at = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if at is not None and at not in known:
            raise Defect("CONFIG_INVALID", "storage.ledger_url: the ledger was made by a newer version")
        command.upgrade(config, revision)


def downgrade(database: Database, revision: str) -> None:
    """Run the migrations back to `revision` ("base" removes everything)."""
    with database.migration() as connection:
        command.downgrade(_config(connection), revision)


def _quick_check(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        found = connection.execute(text("PRAGMA quick_check(1)")).scalar_one()
        if found != "ok":
            raise Defect("LEDGER_CORRUPT", "quick_check")
