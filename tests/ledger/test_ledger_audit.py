"""The audit: complete, ordered, and no change of it goes unseen."""

import random
from typing import Any

import pytest
from sqlalchemy import Connection, text

from casework.case import CASE_MOVES, CaseState, Verdict
from casework.ledger import Ledger, audit, guards
from tests.ledger.ledger_help import NOW, C, arrival, at, claim, delivered, new_case, queued, raw, record

ROUNDS = 1000
SHIFT = 10_000  # numbers that no row of these tests has
COLUMNS = ("at", "actor", "event", "case_id", "subject", "detail", "hash", "seq")


def test_chain_verifies(ledger: Ledger) -> None:
    """The chain of an untouched ledger verifies, and its head is the hash of its last row."""
    assert ledger.read.verify_audit().rows == 0
    delivered(ledger)
    found = ledger.read.verify_audit()
    assert found.ok
    assert found.rows == len(ledger.read.audit()) > 10
    assert len(found.head) == 64


def test_long_chain_is_read_in_pieces(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain that is longer than one piece verifies just the same."""
    monkeypatch.setattr(audit, "_CHUNK", 3)
    delivered(ledger)
    assert ledger.read.verify_audit().ok


@pytest.mark.timeout(300)
def test_every_edit_is_found(ledger: Ledger, url: str) -> None:
    """Of 1,000 random edits, deletions, insertions and swaps all are found, and the first bad row is named."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    delivered(ledger)
    record(ledger, "1.2.3.1.7", now=at(10))
    count = ledger.read.verify_audit().rows
    missed = []
    with raw(url) as connection:
        guards.remove(connection)
        assert audit.verify(connection).ok
        for number in range(ROUNDS):
            point = connection.begin_nested()
            what, first = mutate(connection, chance, count)
            found = audit.verify(connection)
            if found.ok or found.first_bad != first:
                missed.append((number, what, first, found))
            point.rollback()
        assert audit.verify(connection).ok
    assert not missed, missed[:3]


def mutate(connection: Connection, chance: random.Random, count: int) -> tuple[str, int]:
    """Do one random harm; return what, and the number of the first row that should be named."""
    kind = chance.choice(["edit", "delete", "swap", "insert", "tail", "head"])
    one, two = sorted(chance.sample(range(1, count + 1), 2))
    if kind == "edit":
        return edit(connection, chance, one)
    if kind == "delete":
        execute(connection, "DELETE FROM audit WHERE seq = :one", one=one)
    elif kind == "swap":
        execute(connection, "UPDATE audit SET seq = :far WHERE seq = :one", far=SHIFT, one=one)
        execute(connection, "UPDATE audit SET seq = :one WHERE seq = :two", one=one, two=two)
        execute(connection, "UPDATE audit SET seq = :two WHERE seq = :far", two=two, far=SHIFT)
    elif kind == "insert":
        copy = "INSERT INTO audit SELECT :new, at, actor, event, case_id, subject, detail, hash FROM audit WHERE seq = :one"
        execute(connection, copy, new=count + 1, one=one)
        return "insert", count + 1
    elif kind == "tail":
        execute(connection, "DELETE FROM audit WHERE seq > :one", one=one)
        return "tail", one + 1
    else:
        execute(connection, "UPDATE audit_head SET hash = :hash", hash="f" * 64)
        return "head", count
    return kind, one


def edit(connection: Connection, chance: random.Random, row: int) -> tuple[str, int]:
    """Change one column of one row by one character or by one."""
    column = chance.choice(COLUMNS)
    if column == "seq":
        execute(connection, "UPDATE audit SET seq = :far WHERE seq = :row", far=SHIFT, row=row)
        return "edit seq", row
    if column == "at":
        execute(connection, "UPDATE audit SET at = at + 1 WHERE seq = :row", row=row)
        return "edit at", row
    old = str(connection.execute(text(f"SELECT {column} FROM audit WHERE seq = {row}")).scalar_one())  # noqa: S608 - own names
    place = chance.randrange(max(1, len(old)))
    new = old[:place] + chance.choice("0123456789abcdef {}") + old[place + 1 :]
    new = new if new != old else old[:-1] + ("x" if column != "hash" else "g")
    execute(connection, f"UPDATE audit SET {column} = :new WHERE seq = :row", new=new, row=row)  # noqa: S608 - own names
    return f"edit {column}", row


def execute(connection: Connection, statement: str, **values: Any) -> None:
    connection.execute(text(statement), values)


def test_a_chain_made_anew_is_convicted_by_a_kept_head(ledger: Ledger, url: str) -> None:
    """Who may write everything can chain it all anew, but not to the head that was kept elsewhere; cutting rows off fails too."""
    delivered(ledger)
    kept = ledger.read.audit_head()
    assert kept.hash == ledger.read.verify_audit().head
    record(ledger, "1.2.3.1.7", now=at(10))
    assert ledger.read.verify_audit(kept).ok, "a chain that went on still has it"
    with raw(url) as connection:
        guards.remove(connection)
        connection.execute(text("UPDATE audit SET actor = 'nobody' WHERE seq = 3"))
        last, rows = audit.GENESIS, list(audit._raw_rows(connection))
        for row in rows:
            last = audit._hash(last, row.at_us, row._mapping)
            connection.execute(text("UPDATE audit SET hash = :h WHERE seq = :s"), {"h": last, "s": row.seq})
        connection.execute(text("UPDATE audit_head SET hash = :h"), {"h": last})
        assert audit.verify(connection).ok
        found = audit.verify(connection, kept)
        assert (found.ok, found.first_bad, found.problem) == (False, kept.seq, "not the kept head")
        cut = rows[kept.seq - 3]
        connection.execute(text("DELETE FROM audit WHERE seq > :s"), {"s": cut.seq})
        again = connection.execute(text("SELECT hash FROM audit WHERE seq = :s"), {"s": cut.seq}).scalar_one()
        connection.execute(text("UPDATE audit_head SET hash = :h, seq = :s"), {"h": again, "s": cut.seq})
        assert audit.verify(connection).ok
        assert not audit.verify(connection, kept).ok


def test_lost_head_is_found(ledger: Ledger, url: str) -> None:
    """A chain without its head does not verify."""
    new_case(ledger)
    with raw(url) as connection:
        guards.remove(connection)
        execute(connection, "DELETE FROM audit_head")
        assert not audit.verify(connection).ok


def test_every_state_change_has_its_row(ledger: Ledger, url: str) -> None:
    """Following the audit's moves from RECEIVING leads to the state that each case has."""
    delivered(ledger)
    queued(ledger, "9.1", study_instance_uid="9", patient_id="P9")
    job = claim(ledger)
    ledger.reject_job(job.job_id, job.fence, "NO_USABLE_IMAGE", [], NOW)
    state: dict[str, CaseState] = {}
    for event in ledger.read.audit():
        if event.event == "case.opened":
            state[event.case_id] = C.RECEIVING
        if event.event == "case.moved":
            assert state[event.case_id] == event.detail["from"]
            state[event.case_id] = C(str(event.detail["to"]))
            assert state[event.case_id] in CASE_MOVES[C(str(event.detail["from"]))]
    page = ledger.read.list_cases()
    assert {item.case.id: item.case.state for item in page.items} == state
    assert sorted(state.values()) == [C.DELIVERED, C.REJECTED]


def test_rollback_leaves_no_audit(ledger: Ledger) -> None:
    """A transaction that fails leaves neither its change nor its audit row."""
    new_case(ledger)
    before = ledger.read.verify_audit()

    def fail() -> None:
        with ledger._database.write(NOW) as tx:
            tx.audit("case.moved", "test", "x")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert ledger.read.verify_audit() == before


def test_timeline_tells_the_story(ledger: Ledger) -> None:
    """The timeline of a case has its events in order with actor and codes, and no event of another case."""
    case_id = delivered(ledger)
    new_case(ledger, "9.1", study_instance_uid="9", patient_id="P9")
    events = ledger.read.timeline(case_id)
    assert [e.event for e in events][:2] == ["case.opened", "instances.accepted"]
    assert {e.case_id for e in events} == {case_id}
    assert [e.seq for e in events] == sorted(e.seq for e in events)
    assert events[-1].detail["to"] == C.DELIVERED
    assert ledger.read.audit(after_seq=events[-1].seq)[0].event == "case.opened"


def test_conflict_and_refusal_are_audited(ledger: Ledger) -> None:
    """A UID conflict gets its own audit row; refused arrivals are counted by code."""
    record(ledger, "1.1")
    refused = [arrival(u, verdict=Verdict.REFUSED, code="TRUNCATED", sha256="", header=None) for u in ("5.1", "5.2")]
    ledger.record([arrival("1.1", sha256="f" * 64), arrival("1.1", sha256="e" * 64), *refused], NOW)
    kept = [e for e in ledger.read.audit() if e.event == "instances.kept_aside"]
    assert [e.detail["sha256"] for e in kept] == [["f" * 64], ["e" * 64]]
    assert kept[0].detail["code"] == "UID_CONFLICT"
    told = [e.detail for e in ledger.read.audit() if e.event == "instances.refused"]
    assert [(d["code"], d["count"]) for d in told] == [("TRUNCATED", 2)]
