"""A ledger, a queue of either kind with its relay, and worker processes."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from casework.case import CaseState
from casework.config import Settings
from casework.config_queue import Queue
from casework.errors import CaseworkError
from casework.flows.relay import Relay
from casework.ledger import Ledger, Selector
from casework.queue import open_bell
from tests.ledger.ledger_help import arrival
from tests.queue.redis_server import ROOT, RedisServer


class Yard:
    """Jobs in a ledger, workers on them, and what the workers did."""

    def __init__(self, folder: Path, queue: Queue, url: str = "", first: int = 0) -> None:
        self.folder, self.queue = folder, queue
        self.url = url or f"sqlite:///{folder / 'ledger' / 'ledger.db'}"
        self.ledger = Ledger.open(self.url)
        self.ledger.migrate()
        self.workers: list[subprocess.Popen[bytes]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.relay: Relay | None = None
        self._made = first

    def receive(self, count: int, priority: int = 0, accession: str = "A") -> list[str]:
        """Make so many cases that receive, the urgent ones asked for by a person; their ids."""
        now, cases = datetime.now(UTC), []
        for _ in range(count):
            self._made += 1
            n = self._made
            changes = {"study_instance_uid": f"1.2.{n}", "patient_id": f"P{n}", "accession_number": f"{accession}{n}"}
            case_id = self.ledger.record([arrival(f"1.2.{n}.1", **changes)], now)[0].case_id
            assert case_id
            if priority:
                self.ledger.request_analysis(f"k{n}", "h", Selector((f"1.2.{n}",)), "doctor", now, priority=priority)
            cases.append(case_id)
        return cases

    def add(self, count: int, priority: int = 0, accession: str = "A") -> list[str]:
        """Make so many queued cases; their ids."""
        now, cases = datetime.now(UTC), self.receive(count, accession=accession)
        for case_id in cases:
            assert self.ledger.move_case(case_id, CaseState.RECEIVING, CaseState.STABLE, "", "assemble", now)
            assert self.ledger.queue_case(case_id, priority, "assemble", now)
        return cases

    def start_worker(self, latency_s: float = 0.0, lease_s: float = 60.0) -> "subprocess.Popen[bytes]":
        """Start a worker process in a group of its own."""
        given = {
            "queue": asdict(self.queue), "url": self.url, "latency_s": latency_s, "lease_s": lease_s,
            "runs": str(self.folder / "runs"), "destinations": ["pacs"],
        }  # fmt: skip
        config = self.folder / f"worker{len(self.workers)}.json"
        config.write_text(json.dumps(given))
        command = [sys.executable, "-W", "ignore", "-m", "tests.queue.worker", str(config)]
        with (self.folder / "log").open("ab") as log:
            worker = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
        self.workers.append(worker)
        return worker

    def start_relay(self) -> None:
        """The keeper's part: rings, and takes back what died."""
        bell = open_bell(Settings(queue=self.queue))
        self.relay = Relay(self.ledger, bell, self.queue) if bell else None
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._stop.wait(0.1):
            try:
                self.ledger.expire_leases(datetime.now(UTC))
                if self.relay:
                    self.relay.step(time.monotonic())
            except CaseworkError:
                self._stop.wait(1.0)

    def runs(self) -> list[dict[str, Any]]:
        """What the workers noted."""
        path = self.folder / "runs"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def noted(self) -> int:
        """Bytes of it: whether something was added, for who asks often."""
        path = self.folder / "runs"
        return path.stat().st_size if path.exists() else 0

    def done(self) -> list[dict[str, Any]]:
        """The runs whose result was taken."""
        return [run for run in self.runs() if run.get("done")]

    def until(self, what: Callable[[], bool], within_s: float = 60.0, every_s: float = 0.05) -> float:
        """Wait until something is so; the seconds it took."""
        began = time.monotonic()
        while not what():
            assert time.monotonic() - began < within_s, (self.folder / "log").read_text()[-3000:]
            time.sleep(every_s)
        return time.monotonic() - began

    def log(self) -> str:
        """What the workers said."""
        return (self.folder / "log").read_text()

    def close(self) -> None:
        """End everything that was started here."""
        self._stop.set()
        if self._thread:
            self._thread.join(40)
        for worker in self.workers:
            if worker.poll() is None:
                kill_group(worker, signal.SIGKILL)
        self.ledger.close()


def kill_group(worker: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Signal a worker and its child."""
    import os

    os.killpg(worker.pid, number)
    if number is signal.SIGKILL:
        worker.wait(20)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for the session."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def new_yard(tmp_path: Path) -> Iterator[Callable[[Queue], Yard]]:
    """Make a yard; it is closed at the test's end."""
    made: list[Yard] = []

    def make(queue: Queue) -> Yard:
        made.append(Yard(tmp_path, queue))
        return made[-1]

    yield make
    for yard in made:
        yard.close()


@pytest.fixture(params=["ledger", "celery"])
def yard(request: pytest.FixtureRequest, new_yard: Callable[[Queue], Yard]) -> Yard:
    """A yard with each adapter."""
    if request.param == "ledger":
        return new_yard(Queue())
    server: RedisServer = request.getfixturevalue("redis_server")
    server.admin.flushall()
    return new_yard(server.settings())


@pytest.fixture
def celery_yard(redis_server: RedisServer, new_yard: Callable[[Queue], Yard]) -> Yard:
    """A yard with Celery and Redis."""
    redis_server.admin.flushall()
    return new_yard(redis_server.settings())
