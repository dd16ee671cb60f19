"""A Redis that forgets, and a study that kills whoever takes it: what that costs the others. For F11 and F16."""

import random
import statistics
import time
from contextlib import suppress

from casework.case import CaseState, JobState
from tests.bench import queue
from tests.bench.reliability.lab import Lab
from tests.bench.reliability.work import servers
from tests.queue.conftest import Yard
from tests.queue.redis_server import RedisServer

ENGINE_S = 0.2


def redis_forgets(lab: Lab) -> None:
    """F11: at random moments of work all of Redis, or its account of what was taken (`unacked*`), is deleted."""
    slowest, wiped = 0.0, 0
    with servers() as (server, url):
        yard = Yard(lab.place("yard"), server.settings(repeat_s=lab.size["repeat_s"]), url)
        try:
            yard.start_relay()
            worker, cases = yard.start_worker(0.02), []
            for turn in range(lab.n("rounds")):
                cases += yard.add(8)
                time.sleep(lab.rng.uniform(0.0, 0.4))
                wiped += _forget(server, whole=turn % 2 == 0)
                expected = len(cases)
                try:
                    slowest = max(slowest, yard.until(lambda: len(yard.done()) >= expected, within_s=60))  # noqa: B023 - used at once
                except AssertionError:
                    lab.must(False, f"round {turn}: {expected - len(yard.done())} jobs are forgotten")  # noqa: FBT003
                    return
            lab.must(worker.poll() is None, "the worker ended")
            made = queue._verdict(yard, cases)
        finally:
            yard.close()
    lab.figures |= {"rounds": lab.n("rounds"), "keys_deleted": wiped, "caught_up_s": round(slowest, 1)}
    lab.figures |= {"jobs": len(cases), "lost": made["lost"], "doubled": made["doubled"]}
    lab.must(slowest <= 30 + lab.size["repeat_s"], f"it took {slowest:.0f} s to catch up")
    lab.must(not made["lost"], f"{made['lost']} jobs have no result")
    lab.must(not made["doubled"], f"{made['doubled']} jobs have two results")


def _forget(server: RedisServer, *, whole: bool) -> int:
    keys = list(server.admin.scan_iter("*" if whole else "*unacked*"))
    return int(server.admin.delete(*keys)) if keys else 0


def poisoned(lab: Lab) -> None:
    """F16: the wait of honest cases, alone and with studies among them that kill the worker's child natively."""
    with servers() as (server, url):
        alone = _latencies(lab, Yard(lab.place("alone"), server.settings(), url), poison=0)
        server.admin.flushall()
        beside = _latencies(
            lab, Yard(lab.place("beside"), server.settings(), url, first=10_000), poison=lab.n("poison")
        )
    p95 = {name: statistics.quantiles(took, n=20)[18] for name, took in (("alone", alone), ("beside", beside)) if took}
    lab.figures |= {"cases": len(beside), "poisoned": lab.n("poison")}
    lab.figures["p95_s"] = {name: round(value, 2) for name, value in p95.items()}
    lab.must(len(alone) == len(beside) == lab.n("cases"), f"{len(alone)} and {len(beside)} cases have a result")
    if len(p95) == 2:
        lab.must(
            p95["beside"] <= 1.2 * p95["alone"] + 0.2,
            f"the others' p95 rose from {p95['alone']:.2f} to {p95['beside']:.2f} s",
        )


def _latencies(lab: Lab, yard: Yard, poison: int) -> list[float]:
    """Seconds from being queued to its result for each honest case, which come one after the other."""
    dice, began = random.Random(lab.rng.randrange(1 << 32)), {}
    try:
        yard.start_relay()
        workers = [yard.start_worker(ENGINE_S, lease_s=3.0) for _ in range(2)]
        warm = yard.add(4)
        yard.until(lambda: len(yard.done()) == len(warm))
        bad = set(dice.sample(range(lab.n("cases")), poison))
        dead = []
        for number in range(lab.n("cases")):
            if number in bad:
                dead += yard.add(1, accession="DIE")
            [case_id] = yard.add(1)
            began[case_id] = time.time()
            time.sleep(lab.size["every_s"])
        with suppress(AssertionError):
            yard.until(lambda: len(yard.done()) >= len(warm) + len(began), within_s=60)
        with suppress(AssertionError):
            yard.until(lambda: all(_state(yard, one) is CaseState.NEEDS_ATTENTION for one in dead), within_s=60)
        states = [_state(yard, one) for one in dead if _state(yard, one) is not CaseState.NEEDS_ATTENTION]
        lab.must(not states, f"{len(states)} poisoned cases are not given up: {states[:2]}")
        lab.must(all(worker.poll() is None for worker in workers), "a worker ended")
        ended = {run["job"]: run["at"] for run in yard.done()}
        jobs = {case_id: yard.ledger.read.case_view(case_id).jobs[0] for case_id in began}
        return [ended[job.id] - began[one] for one, job in jobs.items() if job.state is JobState.SUCCEEDED]
    finally:
        yard.close()


def _state(yard: Yard, case_id: str) -> CaseState:
    return yard.ledger.read.case(case_id).state
