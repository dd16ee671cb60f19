"""The queue's figures: `python -m tests.bench.queue [storm outage forget scaling writes] [--jobs N] [--kills N] [--outage S]`.

Real workers whose engine takes a fixed time (tests.queue.worker), a real Redis with the shipped configuration, the ledger on
PostgreSQL as in production. Each part prints its figures and what would be a failure; the seed of the storm is printed.
"""

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Protocol

from casework.case import JobState
from casework.config_queue import Queue
from tests.bench import celery_alone
from tests.ledger.postgres_cluster import Cluster
from tests.queue.conftest import Yard, kill_group
from tests.queue.redis_server import RedisServer

SEED = 20261120
_FIRST = itertools.count(0, 100_000)  # patients of each yard in one database


def main() -> int:
    """Run the chosen parts; 1 when something was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--jobs", type=int, default=30_000, help="of the storm")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of the fixed engine in `storm`")
    parser.add_argument("--within", type=float, default=3600.0, help="seconds after the last kill until all is done")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--outage", type=float, default=600.0, help="seconds without Redis")
    parser.add_argument(
        "--pace", type=float, default=0.0, help="seconds between images in `outage`; 0: as fast as they go"
    )
    parser.add_argument("--flushes", type=int, default=50, help="of `forget`")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds of the fixed engine in `scaling`")
    parser.add_argument("--scaled-jobs", type=int, default=40, help="jobs for each worker in `scaling`")
    options = parser.parse_args()
    cluster, server = Cluster(fsync="storm" not in options.parts), RedisServer()  # the storm counts, it times nothing
    failed = False
    try:
        for part in options.parts:
            with tempfile.TemporaryDirectory() as folder:
                _create(cluster, part)
                made = PARTS[part](Path(folder), server, cluster.url(part), options)
            print(json.dumps({part: made}), flush=True)
            failed |= bool(made.get("lost") or made.get("doubled"))
    finally:
        server.close()
        cluster.stop()
    return int(failed)


def _create(cluster: Cluster, name: str) -> None:
    from sqlalchemy import create_engine, text

    engine = create_engine(cluster.url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()


def _verdict(yard: Yard, cases: list[str]) -> dict[str, object]:
    """What became of each case: exactly one result and one delivery for each is right."""
    states: Counter[str] = Counter()
    lost = doubled = 0
    for case_id in cases:
        view = yard.ledger.read.case_view(case_id)
        states[view.case.state] += 1
        lost += not any(job.state is JobState.SUCCEEDED for job in view.jobs)
        doubled += len(view.deliveries) > 1 or len(view.artefacts) > 1
    taken = Counter(run["job"] for run in yard.done())
    return {"lost": lost, "doubled": doubled + sum(n > 1 for n in taken.values()), "states": dict(states)}


class Servers(Protocol):
    """What gives the settings of a queue."""

    def settings(self) -> Queue:
        """They."""


def storm(folder: Path, server: Servers, url: str, options: argparse.Namespace) -> dict[str, object]:
    """F09: kill -9 of the worker group at random moments."""
    dice = random.Random(options.seed)
    yard = Yard(folder, server.settings(), url)
    cases: list[str] = []

    def feed() -> None:
        while len(cases) < options.jobs:
            cases.extend(yard.add(1))

    feeder = threading.Thread(target=feed, daemon=True)
    try:
        yard.start_relay()
        began, kills = time.monotonic(), 0
        feeder.start()  # they come while it is killed
        worker = yard.start_worker(options.pause, lease_s=3.0)
        while kills < options.kills and not _all_done(yard, options.jobs):
            seen, moment = yard.noted(), time.monotonic()
            while yard.noted() == seen and time.monotonic() - moment < 60:
                time.sleep(0.05)  # it is at work again
            time.sleep(dice.uniform(0.0, 0.5))
            kill_group(worker, signal.SIGKILL)
            kills += 1
            worker = yard.start_worker(options.pause, lease_s=3.0)
        feeder.join(options.within)
        yard.until(lambda: _all_done(yard, options.jobs), within_s=options.within, every_s=1.0)
        total = time.monotonic() - began
        tries = Counter(run["attempt"] for run in yard.done())
        made = {
            "jobs": options.jobs,
            "kills": kills,
            "seed": options.seed,
            "seconds": round(total),
            "tries": dict(tries),
        }
        return {**made, **_verdict(yard, cases)}
    finally:
        yard.close()


def _all_done(yard: Yard, jobs: int) -> bool:
    counts = yard.ledger.read.metrics().jobs
    return counts.get(JobState.SUCCEEDED, 0) + counts.get(JobState.DEAD, 0) >= jobs


def outage(folder: Path, server: RedisServer, url: str, options: argparse.Namespace) -> dict[str, object]:
    """F10: Redis is stopped during intake; the intake's rate with and without it, and how soon work goes on."""
    yard = Yard(folder, server.settings(), url)
    stop, pace = threading.Event(), getattr(options, "pace", 0.0)
    cases: list[str] = []

    def take_in() -> None:
        while not stop.wait(pace):
            cases.extend(yard.add(1))

    def rate(seconds: float) -> float:
        before = len(cases)
        time.sleep(seconds)
        return (len(cases) - before) / seconds

    try:
        yard.start_relay()
        yard.start_worker(0.0)
        yard.add(1)
        yard.until(lambda: len(yard.done()) == 1)
        sender = threading.Thread(target=take_in)
        sender.start()
        span = min(options.outage / 2, 60.0)
        with_redis = rate(span)
        server.end(signal.SIGKILL)
        without = rate(options.outage)
        done = len(yard.done())
        server.start()
        back = yard.until(lambda: len(yard.done()) > done, within_s=120)
        again = rate(span)
        stop.set()
        sender.join()
        yard.until(lambda: _all_done(yard, len(cases) + 1), within_s=options.within)
        return {
            "outage_s": options.outage, "pace_s": pace, "jobs": len(cases), "intake_with": round(with_redis, 1), "intake_without": round(without, 1),
            "intake_after": round(again, 1), "first_job_s": round(back, 1), **_verdict(yard, cases),
        }  # fmt: skip
    finally:
        stop.set()
        server.send(signal.SIGCONT) if server.process else server.start()
        yard.close()


def forget(folder: Path, server: RedisServer, url: str, options: argparse.Namespace) -> dict[str, object]:
    """F11: FLUSHALL at random moments while jobs come and run; how long until all is done after the last."""
    dice = random.Random(options.seed)
    yard = Yard(folder, server.settings(), url)
    cases: list[str] = []
    try:
        yard.start_relay()
        yard.start_worker(0.02)
        for _ in range(options.flushes):
            cases += yard.add(dice.randrange(20))
            time.sleep(dice.uniform(0.0, 1.0))
            server.admin.flushall()
        after = yard.until(lambda: _all_done(yard, len(cases)), within_s=300, every_s=0.5)
        made = {"flushes": options.flushes, "seed": options.seed, "jobs": len(cases), "done_after_s": round(after, 1)}
        return {**made, **_verdict(yard, cases)}
    finally:
        yard.close()


def scaling(folder: Path, server: RedisServer, url: str, options: argparse.Namespace) -> dict[str, object]:
    """Throughput of 1, 2 and 4 workers with a fixed engine, each adapter; what the queue adds to a job, and what Celery alone does."""
    made: dict[str, object] = {"latency_s": options.latency, "load": round(os.getloadavg()[0], 1)}
    made["celery_alone"] = celery_alone.measure(folder, server, options.latency, options.scaled_jobs)
    for kind in ("celery", "ledger"):
        for workers in (1, 2, 4):
            server.admin.flushall()
            place = folder / f"{kind}{workers}"
            place.mkdir()
            yard = Yard(place, server.settings() if kind == "celery" else Queue(), url, first=next(_FIRST))
            try:
                made[f"{kind}_{workers}"] = _throughput(yard, workers, options)
            finally:
                yard.close()
    return made


def _throughput(yard: Yard, workers: int, options: argparse.Namespace) -> dict[str, float]:
    yard.start_relay()
    for _ in range(workers):
        yard.start_worker(options.latency)
    warm = 3 * workers
    yard.add(warm + options.scaled_jobs * workers)
    yard.until(lambda: len(yard.done()) >= warm + options.scaled_jobs * workers, within_s=600)
    runs = yard.done()[warm:]
    span = runs[-1]["at"] - yard.done()[warm - 1]["at"]
    gaps: list[float] = []
    for pid in {run["pid"] for run in runs}:
        ends = [run for run in yard.done() if run["pid"] == pid]
        gaps += [b["at"] - a["at"] - options.latency for a, b in itertools.pairwise(ends)]
    ledger = statistics.median(run["all"] - options.latency for run in runs)
    return {
        "jobs_per_s": round(len(runs) / span, 2),
        "of_linear": round(len(runs) / span * options.latency / workers, 3),
        "overhead_ms": round(1000 * statistics.median(gaps), 1),
        "of_it_ledger_ms": round(1000 * ledger, 1),
    }


def writes(folder: Path, _: RedisServer, url: str, __: argparse.Namespace) -> dict[str, object]:
    """What the audit's head row, which every PostgreSQL writer takes first, allows: claims and ends by 1 to 8 threads."""
    from datetime import UTC, datetime

    from casework.ledger import Ledger

    yard = Yard(folder, Queue(), url)
    made: dict[str, object] = {}
    try:
        for threads in (1, 4, 8):
            yard.add(40 * threads)
            ended: list[int] = []

            def work(ended: list[int] = ended) -> None:
                ledger = Ledger.open(url)
                while job := ledger.claim_job("analyse", "bench", 60.0, datetime.now(UTC)):
                    ledger.finish_job(job.job_id, job.fence, "{}", [], [], [], datetime.now(UTC))
                    ended.append(job.job_id)
                ledger.close()

            begun = time.monotonic()
            running = [threading.Thread(target=work) for _ in range(threads)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            rate = len(ended) / (time.monotonic() - begun)
            made[f"{threads}_claimers"] = {"jobs_per_s": round(rate, 1), "writes_per_s": round(2 * rate, 1)}
        return made
    finally:
        yard.close()


PARTS = {"storm": storm, "outage": outage, "forget": forget, "scaling": scaling, "writes": writes}

if __name__ == "__main__":
    sys.exit(main())
