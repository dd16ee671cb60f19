"""The inference worker's door: lets the configured queue say in which process the worker lives and what it takes.

Imports no engine: with Celery this process only supervises the one that opens the model, and a fork must not inherit it.
"""

import os

from prometheus_client import start_http_server

from casework.config import Settings
from casework.entrypoints.pulse import Pulse
from casework.observe import log
from casework.queue import INFER, lane_of, open_queue


class InferHands:
    """A `Worker` as the queue's hands."""

    def __init__(self, settings: Settings) -> None:
        from casework.entrypoints.infer_worker import Worker  # the engine is opened here and not in a parent

        self._worker = Worker(settings)
        self._worker.start()
        self._pulse = Pulse(settings, "infer-worker")

    def take(self, job_id: int | None, *, routine_first: bool) -> str | None:
        """Run a case; its lane."""
        ended = self._worker.step(job_id, routine_first=routine_first)
        return None if ended is None else lane_of(ended.priority)

    def beat(self) -> None:
        """Show that the worker is alive."""
        self._pulse.beat(self._worker.health())

    def close(self) -> None:
        """Let go of everything."""
        self._worker.close()


def main(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT, which let the running case end; return the exit status."""
    parent = os.getpid()

    def open_hands() -> InferHands:
        if os.getpid() != parent and settings.metrics.port:  # metrics are counted where the work is
            try:
                start_http_server(settings.metrics.port, settings.metrics.host)
            except OSError as error:
                log.error("metrics.failed", error_type=type(error).__name__)
        return InferHands(settings)

    return open_queue(settings, INFER).work(open_hands)
