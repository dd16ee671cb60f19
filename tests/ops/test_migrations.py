"""Upgrading without a pause: migrations only add, so programs of the version before go on working on the newer schema."""

from sqlalchemy import text

from casework.ledger import Ledger, migrations
from tests.ledger.ledger_help import NOW, artefacts, claim, queued, record

ADDED = (
    "ALTER TABLE job ADD COLUMN later_column TEXT",
    "ALTER TABLE case_revision ADD COLUMN later_flag INTEGER NOT NULL DEFAULT 0",
    "CREATE TABLE later_table (id INTEGER PRIMARY KEY, word TEXT NOT NULL)",
    "CREATE INDEX later_index ON job (later_column)",
)


def test_doors_of_the_version_before_go_on(empty_url: str) -> None:
    """New columns, a table and an index come under a running door and a door that starts afterwards: both do a whole case."""
    ledger = Ledger.open(empty_url)
    ledger.migrate()
    waiting = queued(ledger, "1.1")
    upgraded = Ledger.open(empty_url)
    with upgraded._database.migration() as connection:
        for statement in ADDED:
            connection.execute(text(statement))
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    upgraded.close()
    started_later = Ledger.open(empty_url)
    try:
        started_later.require_current_schema()
        for door, case_id in (
            (ledger, waiting),
            (started_later, queued(ledger, "2.1", patient_id="2", study_instance_uid="2")),
        ):
            job = claim(door)
            assert job.case_id == case_id
            assert door.heartbeat(job.job_id, job.fence, 60, NOW)
            assert door.finish_job(job.job_id, job.fence, "{}", artefacts(case_id, 1), [], ["pacs"], NOW)
            assert door.claim_delivery("pacs", "sender", 60, NOW)
        record(ledger, "3.1", patient_id="3", study_instance_uid="3")
        assert started_later.read.verify_audit().ok
    finally:
        started_later.close()
        ledger.close()


def test_migrations_only_add() -> None:
    """The rule, for every migration after the first: nothing is dropped, renamed or narrowed while old programs may run."""
    from pathlib import Path

    folder = Path(migrations.__file__).parent / "versions"
    for path in sorted(folder.glob("0*.py")):
        upgrade = path.read_text("utf-8").split("def downgrade")[0]
        if path.name.startswith("0001"):
            continue
        for word in ("drop_table", "drop_column", "alter_column", "rename_table", "drop_index"):
            assert f"op.{word}" not in upgrade, f"{path.name}: {word} waits for the version after next"
