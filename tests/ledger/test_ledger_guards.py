"""The database itself refuses what must never happen, whoever asks."""

from collections import deque
from enum import StrEnum
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from casework.case import CASE_MOVES, DELIVERY_MOVES, JOB_MOVES, CaseState, DeliveryState, JobState
from casework.errors import Defect
from casework.ledger import Ledger, guards
from casework.ledger.schema import metadata
from tests.ledger.ledger_help import C, change, delivering, new_case, queued, raw

TABLES: dict[str, tuple[Any, Any, StrEnum]] = {
    "case_revision": (CaseState, CASE_MOVES, CaseState.RECEIVING),
    "job": (JobState, JOB_MOVES, JobState.READY),
    "delivery": (DeliveryState, DELIVERY_MOVES, DeliveryState.PENDING),
}


MOVE = "UPDATE {0} SET state = '{1}' WHERE id = {2}"
COPY = "INSERT INTO {0} ({1}) SELECT {2} FROM {0} LIMIT 1"
ROW = {"case_revision": "'fresh'", "job": "9999", "delivery": "9999"}  # the id that a test's own row gets


def path_to(table: str, goal: StrEnum) -> list[StrEnum]:
    """The shortest chain of legal moves from the first state."""
    _, moves, first = TABLES[table]
    queue: deque[list[StrEnum]] = deque([[first]])
    seen = {first}
    while queue:
        path = queue.popleft()
        if path[-1] == goal:
            return path[1:]
        for target in sorted(moves[path[-1]] - seen):
            seen.add(target)
            queue.append([*path, target])
    raise AssertionError(f"{goal} can't be reached")


def refused(connection: Connection, statement: str) -> bool:
    """Whether the database refuses a statement; a refusal leaves the transaction usable."""
    point = connection.begin_nested()
    try:
        connection.execute(text(statement))
    except DBAPIError as error:
        point.rollback()
        return guards.MARK in str(error.orig)
    point.rollback()
    return False


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_total(table: str) -> None:
    """Every state is listed, every target is a state, none moves to itself, and every state can be reached."""
    states, moves, _ = TABLES[table]
    assert set(moves) == set(states)
    for source, targets in moves.items():
        assert targets <= set(states)
        assert source not in targets
        path_to(table, source)


@pytest.mark.parametrize("table", TABLES)
def test_database_decides_every_move(ledger: Ledger, url: str, table: str) -> None:
    """From every state, by raw SQL, exactly the moves of the table are possible; the others are refused."""
    delivering(ledger)
    states, moves, first = TABLES[table]
    with raw(url) as connection:
        columns = [c.name for c in metadata.tables[table].columns]
        for source in states:
            point = connection.begin_nested()
            fresh_row(connection, table, columns, first)
            for step in path_to(table, source):
                connection.execute(text(MOVE.format(table, step, ROW[table])))
            for target in states:
                statement = MOVE.format(table, target, ROW[table])
                legal = target in moves[source] or target == source
                assert refused(connection, statement) is not legal, (table, source, target)
            point.rollback()


def fresh_row(connection: Connection, table: str, columns: list[str], first: StrEnum) -> None:
    """Copy the one existing row under a new id, in the first state."""
    new = {"id": ROW[table], "state": f"'{first}'", "revision": "999", "no": "9999", "destination": "'elsewhere'"}
    chosen = ", ".join(f'"{name}"' for name in columns)
    values = ", ".join(new.get(name, f'"{name}"') for name in columns)
    connection.execute(text(COPY.format(table, chosen, values)))


@pytest.mark.parametrize("table", TABLES)
def test_rows_begin_in_the_first_state(ledger: Ledger, url: str, table: str) -> None:
    """A row can't be inserted in any state but the first."""
    delivering(ledger)
    states, _, first = TABLES[table]
    columns = [c.name for c in metadata.tables[table].columns]
    with raw(url) as connection:
        for state in states:
            if state == first:
                continue
            point = connection.begin_nested()
            with pytest.raises(DBAPIError, match=guards.MARK):
                fresh_row(connection, table, columns, state)
            point.rollback()


def test_unknown_state_is_refused(ledger: Ledger, url: str) -> None:
    """A word that is no state is refused."""
    new_case(ledger)
    with pytest.raises(DBAPIError):
        change(url, "UPDATE case_revision SET state = 'happy'")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit", "UPDATE audit SET actor = 'x'", "DELETE FROM audit_head", "UPDATE audit_head SET seq = 0",
        "DELETE FROM instance", "UPDATE instance SET sha256 = 'x'", "DELETE FROM receipt",
        "UPDATE receipt SET verdict = 'refused'", "DELETE FROM case_revision", "DELETE FROM job", "DELETE FROM delivery",
        "DELETE FROM artefact", "UPDATE artefact SET sha256 = 'x'", "UPDATE case_revision SET id = 'x'",
        "UPDATE job SET fence = fence - 1", "UPDATE delivery SET fence = fence - 1", "DELETE FROM study",
        "DELETE FROM case_root",
    ],
)  # fmt: skip
def test_the_record_is_append_only(ledger: Ledger, url: str, statement: str) -> None:
    """What was received, made, moved and audited can't be deleted or rewritten by plain SQL."""
    delivering(ledger)
    with raw(url) as connection:
        assert refused(connection, statement)


def test_replace_is_no_way_round(ledger: Ledger, url: str, dialect: str) -> None:
    """SQLite's REPLACE and PostgreSQL's TRUNCATE don't get past the guards."""
    new_case(ledger)
    if dialect == "sqlite":
        with raw(url) as connection:
            connection.execute(text("PRAGMA recursive_triggers=ON"))
            assert refused(connection, "REPLACE INTO audit SELECT * FROM audit WHERE seq = 1")
    else:
        with raw(url) as connection:
            assert refused(connection, "TRUNCATE audit")


def test_a_rule_broken_in_code_is_a_defect(ledger: Ledger) -> None:
    """A move that the tables don't list raises ILLEGAL_MOVE and changes nothing."""
    case_id = queued(ledger)
    with pytest.raises(Defect, match="ILLEGAL_MOVE"):
        ledger.move_case(case_id, C.QUEUED, C.DELIVERED, "", "test", ledger.read.case(case_id).changed_at)
    assert ledger.read.case(case_id).state is C.QUEUED


def test_installed_guards_are_those_of_the_tables(ledger: Ledger, url: str, dialect: str) -> None:
    """The triggers in a migrated database are the ones that today's tables make (else a migration is missing)."""
    del ledger
    with raw(url) as connection:
        if dialect == "sqlite":
            rows = connection.execute(text("SELECT sql FROM sqlite_master WHERE type = 'trigger'")).scalars()
            wanted = {s for s in guards.statements(dialect) if s.startswith("CREATE TRIGGER")}
            assert {str(row) for row in rows} == wanted
        else:
            names = connection.execute(text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")).scalars().all()
            made = [s.split()[2] for s in guards.statements(dialect) if s.startswith("CREATE TRIGGER")]
            assert sorted(names) == sorted(made)
