"""Several processes on one ledger: none does another's work, none loses what was acknowledged, none damages the file."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import event, make_url

from casework.errors import Defect, Unavailable
from casework.ledger import Ledger, database
from casework.ledger.lock import WriteLock
from tests.ledger.ledger_help import NOW, artefacts, at, new_case, queued, record
from tests.ledger.postgres_cluster import Cluster

CHILD = ("-m", "tests.ledger.ledger_child")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start children; those that still run at the end of the test are killed."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, *CHILD, *arguments]
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield begin
    for child in running:
        child.kill()
        child.communicate()


def line(child: "subprocess.Popen[str]") -> str:
    """The child's next line."""
    assert child.stdout
    return child.stdout.readline().strip()


def go(child: "subprocess.Popen[str]") -> None:
    """Let a waiting child begin."""
    assert child.stdin
    child.stdin.write("\n")
    child.stdin.flush()


def test_two_processes_claim_each_job_once(ledger: Ledger, url: str, start: Start) -> None:
    """Two workers that claim at the same time get all the jobs between them, none twice."""
    for n in range(30):
        queued(ledger, f"{n}.1", patient_id=str(n), study_instance_uid=str(n))
    children = [start("claim_all", url, f"w{n}") for n in range(2)]
    assert [line(child) for child in children] == ["ready", "ready"]
    for child in children:
        go(child)
    claimed = [child.communicate(timeout=60)[0].split() for child in children]
    assert sorted(map(int, claimed[0] + claimed[1])) == list(range(1, 31))
    assert all(claimed), "both should have had work"
    assert ledger.read.metrics().jobs == {"leased": 30}


def test_claims_step_around_each_other(cluster: Cluster) -> None:
    """On PostgreSQL a worker that is about to claim a case holds up nobody: the next takes the next case, images still come."""
    _create(cluster, "skip")
    url = cluster.url("skip")
    ledger = Ledger.open(url)
    ledger.migrate()
    try:
        first, second = (queued(ledger, f"{n}.1", patient_id=str(n), study_instance_uid=str(n)) for n in (1, 2))
        root = ledger.read.case(first).root_id
        with psycopg.connect(_plain(url)) as other:
            other.execute("SELECT 1 FROM case_root WHERE id = %s FOR NO KEY UPDATE", (root,))
            began = time.monotonic()
            taken = ledger.claim_job("analyse", "b", 60, NOW)
            assert taken
            assert taken.case_id == second
            assert ledger.claim_job("analyse", "b", 60, NOW) is None
            record(ledger, "1.2", patient_id="1", study_instance_uid="1", now=at(1))
            assert time.monotonic() - began < 5
    finally:
        ledger.close()


def test_a_job_costs_the_ledger_few_questions(ledger: Ledger) -> None:
    """A claim is at most 8 statements and an end with one result 15: each is a round trip for a worker on another host."""
    queued(ledger, "1.1")
    counted: list[str] = []

    def count(_: object, __: object, statement: str, *___: object) -> None:
        counted.append(statement)

    database = ledger._database
    engines = {id(engine): engine for engine in (database._writer, database._reader)}
    if database.dialect == "postgresql":  # one pool and one set of listeners
        engines.pop(id(database._reader))
    for engine in engines.values():
        event.listen(engine, "before_cursor_execute", count)
    job = ledger.claim_job("analyse", "w", 60, NOW)
    assert job
    claimed = [s for s in counted if not s.startswith("BEGIN")]
    assert len(claimed) <= 8, claimed
    counted.clear()
    assert ledger.finish_job(job.job_id, job.fence, "{}", artefacts(job.case_id, 1), [], ["pacs"], NOW)
    ended = [s for s in counted if not s.startswith("BEGIN")]
    assert len(ended) <= 15, ended


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _create(cluster: Cluster, name: str) -> None:
    with psycopg.connect(_plain(cluster.url("postgres")), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())


def test_kill_inside_a_transaction(ledger: Ledger, url: str, start: Start) -> None:
    """Kill -9 between a write and its commit leaves nothing behind, and the next writer waits for nobody."""
    new_case(ledger)
    before = ledger.read.verify_audit()
    child = start("stop_inside", url)
    assert line(child) == "inside"
    child.kill()
    child.wait()
    began = time.monotonic()
    record(ledger, "1.2", now=at(1))
    assert time.monotonic() - began < 5
    assert "never" not in {a.id for a in ledger.read.associations()}
    after = ledger.read.verify_audit()
    assert after.ok
    assert after.rows == before.rows + 1


def test_kill_at_random_loses_nothing_acknowledged(ledger: Ledger, url: str, start: Start, dialect: str) -> None:
    """Senders killed at random moments: every image that was acknowledged is there, and the chain verifies."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged: set[str] = set()
    for turn in range(4):
        children = [start("send", url, f"{turn}.{n}", "0") for n in range(2)]
        for child in children:
            assert line(child) == "ready"
        time.sleep(chance.uniform(0.05, 0.4))
        for child in children:
            child.kill()
        for child in children:
            lines = child.communicate()[0].splitlines(keepends=True)
            acknowledged |= {text.split()[0] for text in lines if text.endswith("\n")}
    assert len(acknowledged) > 10
    stored = {row.header.sop_instance_uid for row in ledger.read.instances_of_open_cases(0, 100_000)}
    assert acknowledged <= stored
    assert ledger.read.verify_audit().ok
    if dialect == "sqlite":
        assert _integrity(url) == "ok"


def test_hammer(open_ledger: Callable[..., Ledger], url: str, start: Start, dialect: str) -> None:
    """Four processes write, checkpoint, open and close at once while two threads read: nothing is lost or damaged."""
    ledger = open_ledger()
    children = [start("hammer", url, str(n), "4") for n in range(4)]
    while any(child.poll() is None for child in children):
        ledger.read.metrics()
        time.sleep(0.01)
    assert [child.returncode for child in children] == [0, 0, 0, 0]
    assert ledger.read.metrics().instances == 160
    assert ledger.read.verify_audit().ok
    assert len(ledger.read.list_cases().items) == 4
    if dialect == "sqlite":
        assert _integrity(url) == "ok"


def _integrity(url: str) -> str:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def test_ledger_is_not_carried_over_a_fork(ledger: Ledger) -> None:
    """A forked child that uses its parent's ledger is told so instead of sharing its connections."""
    new_case(ledger)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ledger.read.metrics()
            os.write(writing, b"used")
        except Defect as error:
            os.write(writing, error.detail.encode())
        ledger.close()
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        assert "fork" in answer.read()
    record(ledger, "1.2", now=NOW)
    assert ledger.read.verify_audit().ok


# --- the write lock (SQLite) ----------------------------------------------------------------------------------


def test_lock_excludes_processes(tmp_path: Path, start: Start) -> None:
    """Four processes that add to a number without any other care never lose an addition."""
    (tmp_path / "number").write_text("0")
    children = [start("count_up", str(tmp_path), "50") for _ in range(4)]
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0, 0]
    assert (tmp_path / "number").read_text() == "200"


def test_lock_is_fair(tmp_path: Path) -> None:
    """A writer that lets go and asks again at once can't overtake one that has been waiting."""
    greedy, patient = (WriteLock(tmp_path / "x.db", 30) for _ in range(2))
    order: list[str] = []

    def wait() -> None:
        with patient.held():
            order.append("patient")
            time.sleep(0.01)

    for _ in range(20):
        order.clear()
        with greedy.held():
            waiter = threading.Thread(target=wait)
            waiter.start()
            time.sleep(0.05)
        with greedy.held():
            order.append("greedy")
        waiter.join()
        assert order == ["patient", "greedy"]


def test_lock_gives_up_in_time_and_recovers(tmp_path: Path, start: Start) -> None:
    """A holder that hangs is an error after the timeout, not a hang; when it dies, the lock is free at once."""
    child = start("hold", str(tmp_path))
    assert line(child) == "ready"
    lock = WriteLock(tmp_path / "ledger.db", 0.2)
    for _ in range(2):
        with pytest.raises(Unavailable, match="LEDGER_UNAVAILABLE"), lock.held():
            pass
    child.kill()
    child.wait()
    time.sleep(0.1)
    with WriteLock(tmp_path / "ledger.db", 5).held():
        pass


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_a_host_that_is_cut_off_in_a_write_holds_up_the_others_for_seconds(
    open_ledger: Callable[..., Ledger], url: str, start: Start
) -> None:
    """PostgreSQL ends the silent writer's transaction before the patience of others ends: their write waits and succeeds."""
    ledger = open_ledger()
    child = start("stop_inside", url)
    assert line(child) == "inside"
    began = time.monotonic()
    assert record(ledger, "1.1")[0].instance_id
    assert 1.0 < time.monotonic() - began < 10.0
    child.kill()
    child.wait()


def test_writer_that_hangs_is_an_error_elsewhere(
    open_ledger: Callable[..., Ledger], url: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a writer hangs, other writers get LEDGER_UNAVAILABLE in time; when it dies they work again."""
    monkeypatch.setattr(database, "_TIMEOUT_S", 0.3)
    monkeypatch.setattr(database, "_PG_OPTIONS", "-c synchronous_commit=on -c lock_timeout=300ms")
    ledger = open_ledger()
    child = start("stop_inside", url)
    assert line(child) == "inside"
    with pytest.raises(Unavailable, match="LEDGER_UNAVAILABLE"):
        record(ledger, "1.1")
    child.kill()
    child.wait()
    time.sleep(0.2)
    assert record(ledger, "1.1")[0].instance_id


def test_readers_do_not_wait_for_a_writer(ledger: Ledger, url: str, start: Start, dialect: str) -> None:
    """While another process sits inside a write transaction, questions are answered from the last committed state."""
    case_id = new_case(ledger)
    child = start("stop_inside", url)
    assert line(child) == "inside"
    began = time.monotonic()
    assert ledger.read.case(case_id).id == case_id
    assert ledger.claim_job("analyse", "w", 60, NOW) is None
    assert ledger.expire_leases(NOW).total == 0
    assert ledger.promote_due(NOW).total == 0
    assert time.monotonic() - began < 2
    child.send_signal(signal.SIGKILL)
