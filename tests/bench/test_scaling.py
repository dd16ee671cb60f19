"""The capacity simulation decides as the service does, and what it prints could have been otherwise."""

import random
from datetime import UTC, datetime
from pathlib import Path

from casework.case import STAT_PRIORITY
from casework.config_queue import Queue
from casework.queue import Turns, lane_of
from tests.bench.scaling import Never
from tests.bench.scaling_world import Case, Costs, Demand, Lanes, Plant, _Day, complete_after, run, share
from tests.queue.conftest import Yard

SEED = 20261120
SMALL = Demand(cases_a_year=400_000)


def test_jobs_are_taken_in_the_ledgers_order(tmp_path: Path) -> None:
    """The same jobs, put in and taken at the same moments: the simulation and a real ledger hand out the same one each time."""
    dice = random.Random(SEED)
    yard, lanes, ours, theirs = Yard(tmp_path, Queue()), Lanes(), Turns(), Turns()
    put = taken = 0
    try:
        while taken < 60:
            if put < 60 and dice.random() < 0.55:
                priority = STAT_PRIORITY if dice.random() < 0.6 else 0
                yard.add(1, priority)
                put += 1
                lanes.put(Case(put, priority, 0, 0.0))
                continue
            job = yard.ledger.claim_job("analyse", "w", 60.0, datetime.now(UTC), routine_first=theirs.routine_first)
            case = lanes.take(ours)
            assert (job and job.job_id) == (case and case.number), f"seed {SEED}"
            if job:
                theirs.note(lane_of(job.priority))
                taken += 1
    finally:
        yard.close()


def test_a_case_is_complete_when_the_rule_says_so() -> None:
    """With the PACS's count a second, without it a quiet minute, ten seconds for STAT."""
    assert complete_after(stat=False, known=True) == 1.0
    assert complete_after(stat=False, known=False) == 60.0
    assert complete_after(stat=True, known=False) == 10.0


def test_the_keeper_is_one_process() -> None:
    """What waits for it shows: in a flood of STAT a keeper that takes STAT strictly first leaves routine work behind, one that goes by turns doesn't."""
    flood = Demand(cases_a_year=400_000, burst_times=120.0, burst_s=900.0, burst_stat_share=0.9)
    longest = {}
    for name, turns in {"turns": Turns(), "strict": Never()}.items():
        day = _Day(Plant(4), flood, Costs(), SEED)
        day.turns_of_keeper = turns
        longest[name] = day.run().waits(stat=False)[-1]
    assert longest["turns"] < 0.2 * longest["strict"], longest


def test_no_case_is_lost_and_time_runs_forward() -> None:
    """Every case that arrives is delivered, in the order of its steps; two runs of a seed are one day."""
    day = run(Plant(1), SMALL, Costs(), SEED)
    assert len(day.cases) > 1000
    assert all(c.begun < c.last_image < c.queued <= c.claimed < c.written < c.delivered for c in day.cases)
    again = run(Plant(1), SMALL, Costs(), SEED)
    assert [c.delivered for c in again.cases] == [c.delivered for c in day.cases]


def test_stat_overtakes_and_nothing_starves() -> None:
    """In a burst STAT waits less than routine work; when all of it is STAT, routine work has its turn, and has not without the rule."""
    burst = Demand(cases_a_year=400_000, burst_times=60.0, burst_s=900.0)
    mixed = run(Plant(1, stat_share=0.05), burst, Costs(), SEED)
    assert share(mixed.waits(stat=True), 0.99) < 0.2 * share(mixed.waits(stat=False), 0.99)
    flood = Demand(cases_a_year=400_000, burst_times=60.0, burst_s=900.0, burst_stat_share=1.0)
    fair, unfair = (run(Plant(1, turns=turns), flood, Costs(), SEED).waits(stat=False)[-1] for turns in (Turns, Never))
    assert fair < 0.7 * unfair
