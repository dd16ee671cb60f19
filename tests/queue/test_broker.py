"""The broker may lose, double and forge messages, hang or die: no job is lost, none runs twice, nothing foreign runs."""

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from casework import config
from casework.config import Settings
from casework.config_queue import Queue
from casework.entrypoints import deliver_worker
from casework.errors import Defect, Unavailable
from casework.flows.relay import Relay
from casework.ledger import Ledger
from casework.queue import open_bell
from casework.queue.scale import CeleryBell
from tests.queue.conftest import Yard
from tests.queue.redis_server import RedisServer


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that this test may break."""
    server = RedisServer()
    yield server
    server.close()


class Stroke:
    """A bell that notes what is rung and can be away."""

    def __init__(self) -> None:
        self.rung: list[int] = []
        self.left: int | None = None
        self.away = False

    def check(self) -> None: ...

    def ring(self, lane: str, job_ids: Any) -> None:
        if self.away:
            raise Unavailable("QUEUE_UNAVAILABLE")
        self.rung += [job for job in job_ids if lane != "deliver"]

    def depth(self, lane: str) -> int:
        return (len(self.rung) if self.left is None else self.left) if lane != "deliver" else 99


def test_the_relay_says_each_job_once_and_again_only_when_messages_are_missing(celery_yard: Yard) -> None:
    """New jobs are rung at once; after the period again where the broker holds fewer messages than were sent."""
    celery_yard.add(3)
    bell = Stroke()
    relay = Relay(celery_yard.ledger, bell, celery_yard.queue)
    assert relay.step(0.0) == 3
    celery_yard.add(1)
    assert [relay.step(1.0), relay.step(60.0), relay.step(79.0)] == [1, 0, 0]
    bell.left = 3
    assert [relay.step(79.5), relay.step(80.1), relay.step(80.2)] == [0, 4, 0]
    assert sorted(bell.rung) == sorted(bell.rung[:4] * 2)


def test_a_broker_that_is_away_changes_nothing(celery_yard: Yard) -> None:
    """A failed publish leaves the job as it was; it is said when the broker is back."""
    celery_yard.add(2)
    bell = Stroke()
    bell.away = True
    relay = Relay(celery_yard.ledger, bell, celery_yard.queue)
    for clock in (0.0, 1.0):
        with pytest.raises(Unavailable):
            relay.step(clock)
    bell.away = False
    assert relay.step(2.0) == 2


def test_no_more_than_the_window_is_said_ahead(celery_yard: Yard) -> None:
    """A backlog makes no backlog in the broker: the oldest jobs are said, and others when those are gone."""
    celery_yard.add(5)
    bell = Stroke()
    relay = Relay(celery_yard.ledger, bell, replace(celery_yard.queue, window=2))
    assert [relay.step(0.0), relay.step(1.0)] == [2, 0]
    now = datetime.now(UTC)
    assert celery_yard.ledger.claim_job("analyse", "w", 60.0, now, bell.rung[0])
    assert relay.step(2.0) == 1
    assert bell.rung == sorted(bell.rung)


def test_foreign_and_corrupt_messages_are_dropped(celery_yard: Yard, redis_server: RedisServer, tmp_path: Path) -> None:
    """Broken JSON, a pickle, an unknown task, an unknown job and 10 MB: nothing is run, the worker goes on."""
    admin, mark = redis_server.admin, tmp_path / "executed"
    settings = Settings(queue=celery_yard.queue)
    bell = CeleryBell(settings)
    bell.ring("routine", [1])
    good = json.loads(admin.lpop("casework:routine"))  # type: ignore[arg-type]

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (mark,))

    def message(body: bytes = b"", **changes: Any) -> bytes:
        made = {**good, **changes, "headers": {**good["headers"], **changes.get("headers", {})}}
        return json.dumps({**made, **({"body": base64.b64encode(body).decode()} if body else {})}).encode()

    arguments = lambda *a: json.dumps([list(a), {}, {}]).encode()  # noqa: E731
    bad = [
        b"{", b"\xff\xfe", b"[]", b"7", b"{}", json.dumps({"body": "x", "properties": {}}).encode(),
        message(pickle.dumps(Evil()), **{"content-type": "application/x-python-serialize"}),
        message(headers={"task": "os.system"}), message(headers={"task": "celery.chord"}),
        message(arguments(999_999)), message(arguments("1; DROP")), message(arguments()), message(arguments(1, 2)),
        message(arguments(1 << 70)), message(arguments("x" * 10_000_000)), message(arguments({"a": 1})),
    ]  # fmt: skip
    for one in bad:
        admin.lpush("casework:routine", one)
    worker = celery_yard.start_worker()
    celery_yard.until(lambda: admin.llen("casework:routine") == 0)
    celery_yard.add(1)
    celery_yard.start_relay()
    celery_yard.until(lambda: len(celery_yard.done()) == 1)
    assert worker.poll() is None
    assert not mark.exists()
    assert len([run for run in celery_yard.runs() if "drop" in run]) == 1  # only the unknown job came to the ledger
    assert celery_yard.log().count('"queue.dropped"') >= 12
    assert "DROP" not in celery_yard.log()


def test_a_job_that_is_said_five_times_runs_once(celery_yard: Yard) -> None:
    """Doubled messages are dropped by the ledger, soon."""
    celery_yard.add(8)
    bell = CeleryBell(Settings(queue=celery_yard.queue))
    jobs = [job for job, _ in celery_yard.ledger.read.waiting_jobs("analyse", 100)]
    for _ in range(5):
        bell.ring("routine", jobs)
    for _ in range(2):
        celery_yard.start_worker(0.01)
    celery_yard.until(lambda: len(celery_yard.runs()) == 40)
    assert len(celery_yard.done()) == 8
    drops = sorted(run["seconds"] for run in celery_yard.runs() if "drop" in run)
    assert len(drops) == 32
    assert drops[len(drops) // 2] < 0.05


def test_a_redis_that_forgets_everything_costs_time_only(own_redis: RedisServer, new_yard: Any) -> None:
    """FLUSHALL with messages waiting and one taken, then kill -9 and a start without data: every job runs once."""
    yard: Yard = new_yard(own_redis.settings(repeat_s=1.0))
    yard.add(20)
    yard.start_relay()
    yard.until(lambda: own_redis.admin.llen("casework:routine") == 20)
    own_redis.admin.flushall()
    yard.start_worker(0.02)
    yard.until(lambda: len(yard.done()) >= 5)
    own_redis.admin.flushall()
    own_redis.end(signal.SIGKILL)
    for path in own_redis.folder.glob("appendonlydir/*"):
        path.unlink()
    yard.add(5)
    own_redis.start()
    yard.until(lambda: len(yard.done()) == 25)
    assert {run["attempt"] for run in yard.done()} == {1}
    assert '"queue.away"' in yard.log()


def test_a_redis_that_hangs_does_not_hold_up_the_keeper(own_redis: RedisServer, new_yard: Any) -> None:
    """SIGSTOP: cases go on to be queued in the ledger; the relay says so and goes on later."""
    yard: Yard = new_yard(own_redis.settings())
    bell = CeleryBell(Settings(queue=yard.queue))
    own_redis.send(signal.SIGSTOP)
    began = time.monotonic()
    yard.add(3)
    assert time.monotonic() - began < 5.0
    with pytest.raises(Unavailable):
        bell.depth("routine")
    own_redis.send(signal.SIGCONT)
    Relay(yard.ledger, bell, yard.queue).step(0.0)
    assert own_redis.admin.llen("casework:routine") == 3


@pytest.mark.parametrize(
    ("options", "acl", "names"),
    [
        (["--appendonly", "no"], None, "appendonly"),
        (["--maxmemory-policy", "allkeys-lru"], None, "noeviction"),
        ([], "user default off\nuser casework on >@PASSWORD@ ~* &* +@all\n", "may do more"),
        ([], "user default off\nuser casework on >another ~casework:* +@all\n", "Authentication"),
    ],
)
def test_an_unsafe_redis_is_refused(options: list[str], acl: str | None, names: str) -> None:
    """No persistence, eviction, a user who may do everything, a wrong password: named, and not used."""
    server = RedisServer(*options, acl=acl)
    try:
        with pytest.raises(Defect, match=names):
            CeleryBell(Settings(queue=server.settings())).check()
    finally:
        server.close()


def test_the_shipped_redis_is_accepted(redis_server: RedisServer) -> None:
    """deploy/redis is a configuration that starts; its user can ring and look, and nothing else."""
    CeleryBell(Settings(queue=redis_server.settings())).check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CELERY_RESULT_BACKEND", "redis://127.0.0.1/1"),
        ("CELERY_BROKER_URL", "redis://127.0.0.1/1"),
        ("CELERY_BROKER_READ_URL", "redis://127.0.0.1/1"),
    ],
)
def test_celerys_own_environment_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A result backend or another broker from the environment stops the start."""
    monkeypatch.setenv(name, value)
    (tmp_path / "password").write_text("x")
    queue = Queue(kind="celery", url="redis://casework@127.0.0.1:1/0", password_file=str(tmp_path / "password"))
    with pytest.raises(Defect, match="Celery's"):
        CeleryBell(Settings(queue=queue))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"KIND": "kafka"}, "kind"),
        ({"URL": "memory://"}, "url"),
        ({"URL": "redis://u:secret@h:1/0"}, "password"),
        ({"VISIBILITY_S": "1800"}, "visibility_s"),
        ({"SOFT_LIMIT_BEFORE_S": "900"}, "soft_limit"),
        ({"REPEAT_S": "5"}, "repeat_s"),
        ({"WINDOW": "0"}, "window"),
        ({"PREFIX": "*"}, "prefix"),
    ],
)
def test_unsafe_settings_are_refused(changes: dict[str, str], names: str) -> None:
    """A visibility timeout within the time limits, and other combinations that lose time or jobs, stop the start."""
    given = {"KIND": "celery", "URL": "redis://casework@redis:6379/0", **changes}
    with pytest.raises(Defect, match=names):
        config.load(None, {f"CASEWORK_QUEUE_{key}": value for key, value in given.items()})


def test_ledgers_claim_by_number(celery_yard: Yard) -> None:
    """A number claims that job or nothing."""
    ledger: Ledger = celery_yard.ledger
    celery_yard.add(2)
    first, second = (job for job, _ in ledger.read.waiting_jobs("analyse", 10))
    now = datetime.now(UTC)
    taken = ledger.claim_job("analyse", "a", 60.0, now, second)
    assert taken
    assert taken.job_id == second
    assert ledger.claim_job("analyse", "b", 60.0, now, second) is None
    assert ledger.claim_job("analyse", "b", 60.0, now, 10**15) is None
    assert [job for job, _ in ledger.read.waiting_jobs("analyse", 10)] == [first]


def test_a_bell_wakes_the_senders(celery_yard: Yard, redis_server: RedisServer, tmp_path: Path) -> None:
    """The delivery door as a process under Celery: what is rung is taken off the queue soon, and SIGTERM ends it with 0."""
    environment = {
        **os.environ,
        "CASEWORK_STORAGE_ROOT": str(tmp_path / "root"), "CASEWORK_STORAGE_LEDGER_URL": celery_yard.url,
        "CASEWORK_QUEUE_KIND": "celery", "CASEWORK_QUEUE_URL": celery_yard.queue.url,
        "CASEWORK_QUEUE_PASSWORD_FILE": celery_yard.queue.password_file,
    }  # fmt: skip
    bell = CeleryBell(Settings(queue=celery_yard.queue))
    bell.ring("deliver", [1, 2])
    door = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "casework", "deliver-worker"], env=environment)
    try:
        celery_yard.until(lambda: redis_server.admin.llen("casework:deliver") == 0)
        door.terminate()
        assert door.wait(30) == 0
    finally:
        door.kill()
        door.wait()


def test_a_ring_ends_the_rest_of_every_sender() -> None:
    """Each thread that waits in its own time is woken by one ring, and a ring during its work is not lost."""
    rings, turns, stop = deliver_worker.Rings(), [], threading.Event()

    class Sender:
        def step(self) -> float:
            turns.append(1)
            return 60.0

        def close(self) -> None: ...

    threads = [
        threading.Thread(target=deliver_worker._loop, args=(Sender(), stop, rings.add()), daemon=True) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(turns) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    rings.ring()
    while len(turns) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    rings.ring()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert len(turns) >= 4


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Celery the scale adapter says what to install; the default doesn't need it."""
    monkeypatch.delattr("casework.queue.scale", raising=False)
    monkeypatch.setitem(sys.modules, "casework.queue.scale", None)
    with pytest.raises(Defect, match="scale"):
        open_bell(Settings(queue=Queue(kind="celery", url="redis://casework@127.0.0.1:1/0")))
    assert open_bell(Settings()) is None
