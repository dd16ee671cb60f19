"""The peer of the queue's figures: Celery and Redis without a ledger, late acknowledgement, a task that only sleeps.

`python -m tests.bench.celery_alone URL FILE` is its worker: one prefork child, as ours has; each task appends a line to FILE.
"""

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from celery import Celery

from tests.queue.conftest import kill_group
from tests.queue.redis_server import ROOT, RedisServer


def make_app(url: str, runs: Path) -> Celery:
    """Celery's defaults, but for what makes it comparable: late acknowledgement, one process, one message at a time."""
    app = Celery("alone", broker=url, set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_hijack_root_logger=False,
    )

    def nap(seconds: float) -> None:
        time.sleep(seconds)
        with runs.open("a") as file:
            file.write(json.dumps({"pid": os.getpid(), "at": time.time()}) + "\n")

    app.task(nap, name="nap")
    return app


def measure(folder: Path, server: RedisServer, latency_s: float, jobs: int) -> dict[str, float]:
    """One worker, so many naps: what Celery and Redis add to each."""
    url, runs = f"redis://127.0.0.1:{server.port}/0", folder / "naps"
    app = make_app(url, runs)
    for _ in range(jobs + 3):
        app.send_task("nap", (latency_s,))
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.celery_alone", url, str(runs)]
    worker = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 60 + jobs * latency_s * 2
        while not runs.exists() or len(runs.read_text().splitlines()) < jobs + 3:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        kill_group(worker, signal.SIGKILL)
        app.close()
    ends = [json.loads(line)["at"] for line in runs.read_text().splitlines()][2:]
    gaps = [b - a - latency_s for a, b in itertools.pairwise(ends)]
    return {"overhead_ms": round(1000 * statistics.median(gaps), 1)}


def main(url: str, runs: str) -> None:
    """The worker."""
    app = make_app(url, Path(runs))
    app.Worker(pool="prefork", quiet=True, loglevel="ERROR").start()


if __name__ == "__main__":
    main(*sys.argv[1:3])
