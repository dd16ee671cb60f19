"""The ledger: the SQL truth about what arrived, what runs and what left. The only owner of SQLAlchemy.

Owns the database and its lock files. `Ledger` is the one object that others use; its rows are in `casework.ledger.types`.
"""

from pathlib import Path

from casework.errors import Defect
from casework.ledger.database import Database
from casework.ledger.read import Read
from casework.ledger.store_cases import CaseStore
from casework.ledger.store_changes import EXCLUSIONS, ChangeStore
from casework.ledger.store_delivery import DeliveryStore
from casework.ledger.store_fetch import FetchStore
from casework.ledger.store_intake import IntakeStore
from casework.ledger.store_jobs import JobStore
from casework.ledger.store_model import ModelStore
from casework.ledger.store_notice import NoticeStore
from casework.ledger.store_people import PeopleStore
from casework.ledger.store_process import ProcessRow, ProcessStore
from casework.ledger.store_proof import ProofStore
from casework.ledger.store_retention import Due, Leaving, RetentionStore, Rule, rules
from casework.ledger.store_retract import RetractStore
from casework.ledger.types import (
    ArtefactRow,
    AssociationRow,
    AuditCheck,
    AuditHead,
    CaseItem,
    CaseRow,
    CaseView,
    ClaimedDelivery,
    ClaimedJob,
    ClaimedNotice,
    DatabaseInfo,
    DeliveryRow,
    DoubtRow,
    Event,
    ExclusionRow,
    FindingLike,
    FindingRow,
    InputRow,
    InstanceRow,
    JobRow,
    Metrics,
    News,
    NoticeRow,
    Page,
    ReceiptRow,
    Requested,
    Resend,
    Retraction,
    Selector,
    StudyRow,
    Swept,
    Unproved,
    Waiting,
)
from casework.ledger.types_fetch import CandidateRow, ClaimedCandidate, ClaimedOrder, HereStudy, Listed, OrderRow
from casework.ledger.types_why import Moment, Queue, Stage, Why, WhyCase

__all__ = [
    "EXCLUSIONS",
    "SCHEMA",
    "ArtefactRow",
    "AssociationRow",
    "AuditCheck",
    "AuditHead",
    "CandidateRow",
    "CaseItem",
    "CaseRow",
    "CaseView",
    "ClaimedCandidate",
    "ClaimedDelivery",
    "ClaimedJob",
    "ClaimedNotice",
    "ClaimedOrder",
    "DatabaseInfo",
    "DeliveryRow",
    "DoubtRow",
    "Due",
    "Event",
    "ExclusionRow",
    "FindingLike",
    "FindingRow",
    "HereStudy",
    "InputRow",
    "InstanceRow",
    "JobRow",
    "Leaving",
    "Ledger",
    "Listed",
    "Metrics",
    "Moment",
    "News",
    "NoticeRow",
    "OrderRow",
    "Page",
    "ProcessRow",
    "Queue",
    "Read",
    "ReceiptRow",
    "Requested",
    "Resend",
    "Retraction",
    "Rule",
    "Selector",
    "Stage",
    "StudyRow",
    "Swept",
    "Unproved",
    "Waiting",
    "Why",
    "WhyCase",
    "rules",
]

SCHEMA = "0001"  # the newest migration


class Ledger(
    IntakeStore,
    CaseStore,
    ChangeStore,
    JobStore,
    DeliveryStore,
    ProofStore,
    RetractStore,
    RetentionStore,
    NoticeStore,
    PeopleStore,
    FetchStore,
    ProcessStore,
    ModelStore,
):
    """One process's ledger; its threads may share it, a forked child opens its own."""

    def __init__(self, database: Database, *, window_days: int, max_attempts: int) -> None:
        self._database = database
        self._window_days = window_days
        self._max_attempts = max_attempts
        self.read = Read(database)

    @classmethod
    def open(cls, url: str, *, window_days: int = 90, max_attempts: int = 3) -> "Ledger":
        """Open the ledger at an SQLAlchemy URL (`sqlite:///...` or `postgresql+psycopg://...`).

        Raises:
            Unavailable: LEDGER_UNAVAILABLE.
            Defect: CONFIG_INVALID (a network file system, another database), LEDGER_CORRUPT.
        """
        return cls(Database(url), window_days=window_days, max_attempts=max_attempts)

    def migrate(self) -> None:
        """At boot: check the file and bring the schema to this program's version; safe to run in several processes.

        Raises:
            Defect: LEDGER_CORRUPT; CONFIG_INVALID, the ledger was made by a newer version.
        """
        from casework.ledger.migrate import upgrade  # Alembic only where it is used: doors stay small

        upgrade(self._database)

    def require_current_schema(self) -> None:
        """For doors that start alone: refuse an older schema; a newer one serves older programs too (migrations add).

        Raises:
            Defect: CONFIG_INVALID, naming the command to run.
        """
        found = self._database.schema()
        if found < SCHEMA:
            raise Defect("CONFIG_INVALID", f"the ledger's schema is {found or 'missing'}: run `casework migrate` first")

    def unmigrate(self, revision: str) -> None:
        """Take the schema back to an older version ("base" removes everything)."""
        from casework.ledger.migrate import downgrade

        downgrade(self._database, revision)

    def copy_to(self, folder: Path) -> Path:
        """Write a whole copy of the ledger as it is at one moment into a folder; its path.

        Raises:
            Unavailable: LEDGER_UNAVAILABLE.
            Defect: CONFIG_INVALID, PostgreSQL's client programs are missing.
        """
        from casework.ledger.copies import copy_out  # only a command needs it

        return copy_out(self._database, folder)

    def info(self) -> DatabaseInfo:
        """What health shows: database, its version, the schema's version, what is worth a note."""
        notes: tuple[str, ...] = ()
        if self._database.dialect == "sqlite":
            notes = ("WAL, synchronous=FULL; writes and checkpoints are serialised by a file lock",)
        return DatabaseInfo(self._database.dialect, self._database.version(), self._database.schema(), notes)

    def close(self) -> None:
        """Close this process's connections."""
        self._database.close()
