"""The scale adapter: Celery 5.7 over Redis rings, workers on any number of hosts answer. The only owner of both.

A message that is foreign, corrupt, doubled or stale is dropped and counted; nothing in it is run, kept or logged. Losing
all of Redis costs the relay's `queue.repeat_s`, not a job.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty
from typing import Any

import redis
from celery import Celery, signals
from celery.exceptions import Reject
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu import Queue as KombuQueue
from kombu.exceptions import OperationalError
from kombu.transport import redis as kombu_redis
from kombu.transport.virtual import QoS as VirtualQoS
from kombu.utils.scheduling import round_robin_cycle

from casework.config import Settings
from casework.errors import CaseworkError, Unavailable
from casework.observe import QUEUE_DROPPED, log
from casework.queue import DELIVER, INFER, REST_AFTER_ERROR_S, ROUTINE, Hands, Turns
from casework.queue.broker import refuse_unsafe_app, refuse_unsafe_redis

TASK = "casework.rung"
BEAT_S = 2.0
_ONE_TRY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}
_REDIS_AWAY = (OperationalError, redis.exceptions.RedisError, OSError)


# --- how Celery is set, each with its reason ------------------------------------------------------------------


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Every setting that differs from Celery's default, or that we would not want changed by a later one."""
    queue = settings.queue
    return {
        # A message is a number in JSON; pickle would run code of whoever can write to Redis.
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # Results are in the ledger. A result backend would be a second truth, and unbounded.
        "result_backend": None,
        "task_ignore_result": True,
        # The message stays until the ledger row is final: after a crash the bell rings again before the relay notices.
        "task_acks_late": True,
        # A job that kills its process must not come back by itself (34 runs in 28 s were measured): the ledger counts tries.
        "task_reject_on_worker_lost": False,
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        # With late acknowledgement: one message a process, so none waits behind a running case.
        "worker_prefetch_multiplier": 1,
        # An endless loop in native code: the soft limit ends the case with a reason, the hard one the process.
        "task_soft_time_limit": queue.time_limit_s - queue.soft_limit_before_s,
        "task_time_limit": queue.time_limit_s,
        # A broker that is away at start or later is waited for: the container must not crash in a circle.
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A running case is the ledger's. Killing it because Redis restarted would waste it and one of its tries.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # The relay repeats from the ledger; Celery's own retries would only hold it up.
        "task_publish_retry": False,
        # SIGTERM is a warm shutdown: the running case ends, the container's grace (90 s) is the bound, the lease the net.
        "worker_soft_shutdown_timeout": 0.0,
        # Opening a model and checking its golden samples takes longer than Celery's 4 s, after which it kills the child.
        "worker_proc_alive_timeout": 300.0,
        # One process for each worker: it holds the model. It lives until it grows, since a new one opens the model again.
        "worker_concurrency": 1,
        "worker_max_tasks_per_child": None,
        "worker_max_memory_per_child": queue.max_memory_bytes // 1024,
        # Nobody asks workers over Redis; without it the user needs no publish and subscribe.
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        # Our own log, whose fields are on a list: Celery's lines quote messages.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_consumer": "casework.queue.scale:Consumer",
        "task_queues": [KombuQueue(name) for name in (*INFER, DELIVER)],
        "task_default_queue": ROUTINE,
        "task_create_missing_queues": False,
        "timezone": "UTC",
        "broker_transport_options": {
            # Longer than the longest task: a message that is given out twice while its task runs blocks the queue's head.
            "visibility_timeout": queue.visibility_s,
            # Half-open connections show within a minute.
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
            # Another program on the same Redis must neither see our keys nor set a shorter visibility timeout.
            "global_keyprefix": queue.prefix,
            # One list for each queue; urgency is a queue of its own.
            "priority_steps": [0],
            "queue_order_strategy": "casework.queue.scale:Lanes",
        },
    }


class Lanes(round_robin_cycle):
    """The order in which kombu asks the queues: `Turns`, as for the ledger's own queue."""

    def __init__(self, it: Any = None) -> None:
        super().__init__(it)
        self._turns = Turns()

    def consume(self, n: int) -> list[str]:
        """The queues' names, the one that goes first first."""
        first = self._turns.order[0]
        return sorted(self.items[:n], key=lambda name: name != first)

    def rotate(self, last_used: str) -> str:
        """A message came from this queue."""
        self._turns.note(last_used)
        return last_used


class QoS(kombu_redis.QoS):
    """kombu's account of messages in hand; one that can't be acknowledged is let go.

    kombu 5.7 keeps it when Redis went away during the task, logs that, and with one message a process never asks Redis
    for another: the worker sits there for good (seen in tests/queue, reliability.md F12). Let go, the next question to
    Redis fails and the consumer connects anew; the ledger drops the message when it comes back.
    """

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge."""
        self._or_let_go(super().ack, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject."""
        self._or_let_go(super().reject, delivery_tag, requeue=requeue)

    def _or_let_go(self, end: Callable[..., None], delivery_tag: str, **options: bool) -> None:
        try:
            end(delivery_tag, **options)
        except Exception:
            VirtualQoS.ack(self, delivery_tag)
            raise


class Channel(kombu_redis.Channel):
    """kombu's channel; a list item that is no message is dropped instead of ending the worker."""

    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            dropped("corrupt", error)
            raise Empty from None


class Transport(kombu_redis.Transport):
    """kombu's transport with our channel."""

    Channel = Channel


class Consumer(CeleryConsumer):
    """Celery's consumer; it looks for a broker that is away every few seconds, not every thirty, and says so."""

    def ensure_connected(self, conn: Any) -> Any:
        """Return the connection once it is there."""
        look = conn.ensure_connection

        def soon(errback: Any, *arguments: Any, **options: Any) -> Any:
            def away(error: BaseException, interval: float) -> None:
                log.warning("queue.away", code="QUEUE_UNAVAILABLE", error_type=type(error).__name__, seconds=interval)
                errback(error, interval)

            return look(away, *arguments, interval_start=1, interval_step=1, interval_max=5, **options)

        conn.ensure_connection = soon
        return super().ensure_connected(conn)


def dropped(why: str, error: BaseException | None = None) -> None:
    """Count a message that nothing came of; its content is not ours to repeat."""
    QUEUE_DROPPED.labels(why).inc()
    log.warning("queue.dropped", reason=why, error_type=type(error).__name__ if error else "")


def make_app(settings: Settings) -> Celery:
    """The Celery application.

    Raises:
        Defect: CONFIG_INVALID, something outside (CELERY_*) has changed what must not be changed.
    """
    for library in ("celery", "kombu", "redis", "billiard"):
        logger = logging.getLogger(library)
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    signals.setup_logging.connect(_keep_our_logging, weak=False)
    app = Celery("casework", broker=settings.queue_url, set_as_current=False, fixups=[])
    app.conf.update(celery_settings(settings), broker_transport="casework.queue.scale:Transport")
    refuse_unsafe_app(app.conf, settings.queue_url)
    return app


def _keep_our_logging(**_: Any) -> None:
    """Celery sets up no logging when somebody listens to this signal."""


def _client(settings: Settings) -> "redis.Redis":
    return redis.Redis.from_url(
        settings.queue_url, socket_timeout=5, socket_connect_timeout=5, health_check_interval=25
    )


# --- the keeper's side ----------------------------------------------------------------------------------------


class CeleryBell:
    """Publishes job ids."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app = make_app(settings)
        # One try for a connection: the relay's next turn is the next.
        self._app.conf.broker_transport_options = {**self._app.conf.broker_transport_options, **_ONE_TRY}
        self._task = _declare(self._app, lambda _: None)
        self._producer: Any = None
        self._redis = _client(settings)

    def check(self) -> None:
        """Refuse a broker that is not safe to use."""
        with self._translated():
            refuse_unsafe_redis(self._redis, self._settings.queue)

    def ring(self, lane: str, job_ids: Sequence[int]) -> None:
        """Tell some worker of the lane about each job."""
        with self._translated():
            if self._producer is None:
                self._producer = self._app.amqp.Producer(self._app.connection_for_write())
            for job_id in job_ids:
                self._task.apply_async((job_id,), queue=lane, producer=self._producer, retry=False)

    def depth(self, lane: str) -> int:
        """Messages that nobody took yet."""
        with self._translated():
            return int(self._redis.llen(self._settings.queue.prefix + lane))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _REDIS_AWAY as error:
            if self._producer is not None:  # its sockets may be half open: a new one next time
                with suppress(*_REDIS_AWAY):
                    self._producer.connection.collect(socket_timeout=1)
                self._producer = None
            raise Unavailable("QUEUE_UNAVAILABLE", type(error).__name__) from error


# --- the worker's side ----------------------------------------------------------------------------------------


class CeleryQueue:
    """A Celery worker around `Hands`.

    Inference: prefork with one child, which opens the model (a CUDA context doesn't survive a fork) and which the time
    limit or a native crash may end without the worker. Deliveries: the message only wakes a thread, so one process does.
    """

    def __init__(self, settings: Settings, lanes: Sequence[str]) -> None:
        self._settings, self._lanes = settings, list(lanes)
        self._app = make_app(settings)
        self._open_hands: Callable[[], Hands] | None = None
        self._hands: Hands | None = None
        self._done = threading.Event()
        self._pid = os.getpid()
        _declare(self._app, self._rung)

    def work(self, open_hands: Callable[[], Hands]) -> int:
        """Work until SIGTERM; return the exit status."""
        self._await_redis()
        self._open_hands = open_hands
        signals.worker_process_init.connect(self._child_begins, weak=False)
        signals.worker_process_shutdown.connect(self._child_ends, weak=False)
        signals.task_unknown.connect(_foreign, weak=False)
        signals.task_rejected.connect(_foreign, weak=False)
        worker = self._app.Worker(
            pool="solo" if self._lanes == [DELIVER] else "prefork",
            queues=self._lanes,
            hostname=f"casework-{os.getpid()}@{os.uname().nodename}",
            quiet=True,
            without_gossip=True,  # nothing between workers: the ledger knows who does what
            without_mingle=True,
            without_heartbeat=True,
            optimization="fair",
        )
        worker.start()
        if self._hands is not None:  # solo
            self._child_ends()
        log.info("worker.stopped")
        return int(worker.exitcode or 0)

    def _await_redis(self) -> None:
        """Wait until Redis answers, then refuse one that is not safe. SIGTERM still ends the process here."""
        client = _client(self._settings)
        while True:
            try:
                refuse_unsafe_redis(client, self._settings.queue)
            except _REDIS_AWAY as error:
                log.warning("queue.away", code="QUEUE_UNAVAILABLE", error_type=type(error).__name__)
                time.sleep(REST_AFTER_ERROR_S)
            else:
                client.close()
                return

    # --- in the process that works

    def _child_begins(self, **_: Any) -> None:
        if self._open_hands is None:
            return
        try:
            self._hands = self._open_hands()
        except CaseworkError as error:  # Celery would swallow it and go on without a model
            log.error("worker.failed", code=error.code)
            if os.getpid() != self._pid:
                os.kill(self._pid, signal.SIGTERM)
            os._exit(4)
        threading.Thread(target=self._beats, args=(self._hands,), name="beat", daemon=True).start()

    def _child_ends(self, **_: Any) -> None:
        self._done.set()
        if self._hands is not None:
            self._hands.close()
            self._hands = None

    def _beats(self, hands: Hands) -> None:
        while True:
            hands.beat()
            if self._done.wait(BEAT_S):
                return

    def _rung(self, job_id: object) -> None:
        """One message."""
        if self._hands is None or not isinstance(job_id, int) or isinstance(job_id, bool) or not 0 < job_id < 1 << 63:
            dropped("foreign")
            return
        began = time.monotonic()
        try:
            lane = self._hands.take(job_id, routine_first=False)
        except CaseworkError as error:
            log.error("worker.waits", code=error.code)
            time.sleep(REST_AFTER_ERROR_S)
            raise Reject(error.code, requeue=True) from error  # perhaps another worker can
        if lane is None:
            QUEUE_DROPPED.labels("stale").inc()
            log.info("queue.dropped", reason="stale", job_id=job_id, seconds=round(time.monotonic() - began, 4))


def _declare(app: Celery, run: Callable[[object], None]) -> Any:
    def rung(*arguments: object, **_: object) -> None:
        run(arguments[0] if len(arguments) == 1 else None)

    return app.task(rung, name=TASK, ignore_result=True)


def _foreign(**_: Any) -> None:
    dropped("foreign")
