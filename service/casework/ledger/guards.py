"""Database triggers that refuse what must never happen, generated from the transition tables. Does no I/O of its own.

Refused by the database itself, whoever asks: a state move that casework.case doesn't list, a new row in another state
than the first, deleting rows of the record, changing what was received, changing the audit.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, text

from casework.case import (
    CANDIDATE_MOVES,
    CASE_MOVES,
    DELIVERY_MOVES,
    JOB_MOVES,
    NOTICE_MOVES,
    ORDER_MOVES,
    CandidateState,
    CaseState,
    DeliveryState,
    JobState,
    NoticeState,
    OrderState,
)

MARK = "ILLEGAL_MOVE"  # begins the message of every refusal

_STATES: tuple[tuple[str, Mapping[Any, frozenset[Any]], StrEnum], ...] = (
    ("case_revision", CASE_MOVES, CaseState.RECEIVING),
    ("job", JOB_MOVES, JobState.READY),
    ("delivery", DELIVERY_MOVES, DeliveryState.PENDING),
    ("fetch_order", ORDER_MOVES, OrderState.DUE),
    ("fetch_candidate", CANDIDATE_MOVES, CandidateState.SEEN),
    ("notice", NOTICE_MOVES, NoticeState.PENDING),
)
_NEVER_DELETED = (
    "case_root", "study", "instance", "receipt", "case_revision", "job", "artefact", "delivery", "finding", "request",
    "exclusion", "doubt", "withdrawal", "commitment", "notice", "audit", "audit_head", "fetch_order", "fetch_candidate",
    "removal", "hold",
)  # fmt: skip
_NEVER_CHANGED = ("instance", "receipt", "artefact", "withdrawal", "audit", "finding")


def _rules() -> Iterator[tuple[str, str, str, str, str]]:
    """Yield (name, event, table, condition, message); the condition is SQL that both databases read."""
    for table, moves, first in _STATES:
        legal = " OR ".join(
            f"(OLD.state = '{source}' AND NEW.state IN ({', '.join(repr(str(t)) for t in sorted(targets))}))"
            for source, targets in moves.items()
            if targets
        )
        yield (f"{table}_move", "UPDATE", table, f"OLD.state <> NEW.state AND NOT ({legal})", "state move")
        yield (f"{table}_first", "INSERT", table, f"NEW.state <> '{first}'", "first state")
        yield (f"{table}_id", "UPDATE", table, "OLD.id <> NEW.id", "identity")
    for table in _NEVER_DELETED:
        yield (f"{table}_keep", "DELETE", table, "1 = 1", "delete")
    for table in _NEVER_CHANGED:
        yield (f"{table}_frozen", "UPDATE", table, "1 = 1", "change")
    yield ("audit_head_forward", "UPDATE", "audit_head", "NEW.seq <= OLD.seq", "head")
    yield ("fence_forward", "UPDATE", "job", "NEW.fence < OLD.fence OR NEW.attempt < 0", "fence")
    for table in ("delivery", "fetch_order", "fetch_candidate"):
        yield (f"{table}_fence_forward", "UPDATE", table, "NEW.fence < OLD.fence", "fence")


def statements(dialect: str) -> list[str]:
    """SQL that installs every guard anew on `dialect` ("sqlite" or "postgresql")."""
    made: list[str] = []
    if dialect == "postgresql":
        made.append(
            "CREATE OR REPLACE FUNCTION casework_refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{MARK} % %', TG_TABLE_NAME, TG_ARGV[0]; END $$"
        )
        for table in _NEVER_DELETED:
            made.append(f"DROP TRIGGER IF EXISTS {table}_truncate ON {table}")
            made.append(
                f"CREATE TRIGGER {table}_truncate BEFORE TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION casework_refuse('truncate')"
            )
    for name, event, table, condition, message in _rules():
        if dialect == "postgresql":
            made.append(f"DROP TRIGGER IF EXISTS {name} ON {table}")
            made.append(
                f"CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW WHEN ({condition}) "
                f"EXECUTE FUNCTION casework_refuse('{message}')"
            )
        else:
            made.append(f"DROP TRIGGER IF EXISTS {name}")
            made.append(
                f"CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW WHEN {condition} "
                f"BEGIN SELECT RAISE(ABORT, '{MARK} {table} {message}'); END"
            )
    return made


def install(connection: Connection) -> None:
    """Install or renew every guard. Called by migrations after the tables changed."""
    for statement in statements(connection.dialect.name):
        connection.execute(text(statement.replace(":", "\\:")))


def remove(connection: Connection) -> None:
    """Take the guards away before their tables go (a downgrade)."""
    postgresql = connection.dialect.name == "postgresql"
    for name, _, table, _, _ in _rules():
        connection.execute(text(f"DROP TRIGGER IF EXISTS {name}" + (f" ON {table}" if postgresql else "")))
    if postgresql:
        for table in _NEVER_DELETED:
            connection.execute(text(f"DROP TRIGGER IF EXISTS {table}_truncate ON {table}"))
        connection.execute(text("DROP FUNCTION IF EXISTS casework_refuse()"))
