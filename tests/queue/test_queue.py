"""What both adapters of the queue port promise: the same tests, real worker processes, a real Redis."""

import signal
import time
from datetime import UTC, datetime

import pytest

from casework.case import STAT_PRIORITY, TELL, CaseState, JobState
from casework.config import Assembly, Settings
from casework.flows import assemble
from tests.queue.conftest import Yard, kill_group


def jobs_of(yard: Yard, case_id: str) -> list[tuple[JobState, int]]:
    """State and tries of a case's jobs."""
    return [(job.state, job.attempt) for job in yard.ledger.read.case_view(case_id).jobs]


def test_every_job_runs_once(yard: Yard) -> None:
    """Two workers take all jobs, none twice, and leave when they are asked to."""
    cases = yard.add(30)
    yard.start_relay()
    workers = [yard.start_worker(0.005) for _ in range(2)]
    late = yard.add(10)
    yard.until(lambda: len(yard.done()) == 40)
    assert sorted(run["job"] for run in yard.done()) == sorted({run["job"] for run in yard.runs() if "job" in run})
    assert all(jobs_of(yard, case_id) == [(JobState.SUCCEEDED, 1)] for case_id in (*cases, *late))
    for worker in workers:
        worker.terminate()
    assert [worker.wait(30) for worker in workers] == [0, 0]


def test_stat_overtakes_and_nothing_starves(yard: Yard) -> None:
    """STAT jobs that come last run first, yet every fifth turn is a routine job's."""
    yard.add(10)
    yard.add(14, priority=100)
    yard.start_relay()
    if yard.relay:
        yard.until(
            lambda: bool(yard.relay and yard.relay.bell.depth("stat") == 14 and yard.relay.bell.depth("routine") == 10)
        )
    yard.start_worker(0.005)
    yard.until(lambda: len(yard.done()) == 24)
    order = "".join("S" if run["priority"] else "r" for run in yard.done())
    assert order == "SSSSrSSSSrSSSSrSSrrrrrrr"


def test_a_flood_of_stat_starves_nobody(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """From reception to result under STAT that never ends: ten routine cases are done within 80 jobs, behind most of those."""
    monkeypatch.setattr(assemble, "AT_ONCE", 10)
    keeper = assemble.Assembler(yard.ledger, Settings(assembly=Assembly(quiet_s=0.0)))
    yard.receive(10)
    yard.start_relay()
    yard.start_worker(0.02)
    until = time.monotonic() + 40
    while sum(not run["priority"] for run in yard.done()) < 10:
        assert time.monotonic() < until, "starved"
        yard.receive(10, STAT_PRIORITY)  # as many as a look queues, more than the worker does meanwhile
        keeper.step(datetime.now(UTC), time.monotonic())
    order = "".join("S" if run["priority"] else "r" for run in yard.done())
    assert 30 <= order.rindex("r") < 80, order


def test_a_worker_that_is_killed_loses_nothing(yard: Yard) -> None:
    """Kill -9 of the worker and its child in the middle of a job: another try is made once the lease has ended."""
    [case_id] = yard.add(1)
    yard.start_relay()
    first = yard.start_worker(30.0, lease_s=2.0)
    yard.until(lambda: jobs_of(yard, case_id)[0][0] is JobState.LEASED)
    kill_group(first, signal.SIGKILL)
    yard.start_worker(0.0)
    yard.until(lambda: len(yard.done()) == 1)
    assert jobs_of(yard, case_id) == [(JobState.SUCCEEDED, 2)]


def test_a_poison_job_ends_after_its_tries(yard: Yard) -> None:
    """A case that crashes its process in native code three times needs a person; the cases behind it run."""
    [poison] = yard.add(1, accession="DIE")
    behind = yard.add(3)
    yard.start_relay()
    worker = yard.start_worker(0.0, lease_s=0.7)

    def over() -> bool:
        nonlocal worker
        if worker.poll() is not None:  # without a parent process the supervisor starts it again
            worker = yard.start_worker(0.0, lease_s=0.7)
        return yard.ledger.read.case(poison).state is CaseState.NEEDS_ATTENTION and len(yard.done()) == 3

    yard.until(over, within_s=90)
    dead, *others = jobs_of(yard, poison)
    assert dead == (JobState.DEAD, 3)
    assert [job.kind for job in yard.ledger.read.case_view(poison).jobs[1:]] == [TELL] * len(others)
    assert yard.ledger.read.case(poison).reason == "ATTEMPTS_EXHAUSTED"
    assert all(jobs_of(yard, case_id) == [(JobState.SUCCEEDED, 1)] for case_id in behind)


def test_sigterm_lets_the_running_job_end(yard: Yard) -> None:
    """Drain: the job in hand is finished, the next one isn't begun, the exit status is 0."""
    first, second = yard.add(2)
    yard.start_relay()
    worker = yard.start_worker(1.5)
    yard.until(lambda: jobs_of(yard, first)[0][0] is JobState.LEASED)
    worker.terminate()
    assert worker.wait(30) == 0
    assert jobs_of(yard, first) == [(JobState.SUCCEEDED, 1)]
    assert jobs_of(yard, second) == [(JobState.READY, 0)]


def test_a_paused_workers_result_is_refused(yard: Yard) -> None:
    """A worker that slept through its lease is fenced off: its result changes nothing, the other's counts."""
    [case_id] = yard.add(1)
    yard.start_relay()
    slow = yard.start_worker(1.0, lease_s=1.5)
    yard.until(lambda: jobs_of(yard, case_id)[0][0] is JobState.LEASED)
    kill_group(slow, signal.SIGSTOP)
    yard.until(lambda: bool(yard.ledger.read.next_due() is None) or jobs_of(yard, case_id)[0][0] is JobState.READY)
    yard.start_worker(0.0)
    yard.until(lambda: len(yard.done()) == 1)
    kill_group(slow, signal.SIGCONT)
    yard.until(lambda: sum("job" in run for run in yard.runs()) == 2)
    assert [run["done"] for run in yard.runs() if "job" in run] == [True, False]
    assert jobs_of(yard, case_id) == [(JobState.SUCCEEDED, 2)]
    assert yard.ledger.read.verify_audit().ok
