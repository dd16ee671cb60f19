"""The API's process: neighbours, socket, deadlines and a drain on SIGTERM. The only place where uvicorn is known."""

import asyncio
import signal
import socket
import ssl
from asyncio import constants as asyncio_constants
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import uvicorn
from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from uvicorn.protocols.http.h11_impl import H11Protocol

from casework.config import Settings
from casework.entrypoints.api.app import guarded
from casework.entrypoints.api.auth import open_keyring
from casework.entrypoints.api.door import Door
from casework.entrypoints.api.gate import HEADER_BYTES
from casework.entrypoints.api.routes_service import LedgerCollector
from casework.errors import Defect
from casework.flows.intake import Intake
from casework.ledger import Ledger
from casework.observe import log
from casework.spool import Spool
from casework.tls import https_context

HEADER_DEADLINE_S = 10.0  # from the connection, or the end of the answer before, to a complete request head
KEEP_ALIVE_S = 15
MAX_CONNECTIONS = 512
DRAIN_S = 45


class DeadlineProtocol(H11Protocol):
    """HTTP/1.1 whose request heads must be complete in time; uvicorn alone waits for ever (slow-loris)."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the deadline with the connection."""
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Stop it when a head is complete; start it when the next one begins."""
        if self._idle() and self._deadline is None:
            self._start()
        super().data_received(data)
        if not self._idle():
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop()
        super().connection_lost(exc)

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start(self) -> None:
        self._deadline = self.loop.call_later(HEADER_DEADLINE_S, self._late)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self._idle() and not self.transport.is_closing():
            self.transport.close()


class DrainingServer(uvicorn.Server):
    """A server that ends with status 0 after a signal; uvicorn would raise the signal again and die of it."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take SIGTERM and SIGINT as the wish to drain."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def main(settings: Settings) -> int:
    """Serve until a signal; return the exit status."""
    asyncio_constants.SSL_HANDSHAKE_TIMEOUT = (
        HEADER_DEADLINE_S  # uvicorn has no setting for it; the default is a minute
    )
    keys = open_keyring(settings)
    listening = listen(settings.http.host, settings.http.port)
    spool = Spool(settings.root, fsync=settings.storage.fsync)
    ledger = Ledger.open(
        settings.ledger_url, window_days=settings.assembly.window_days, max_attempts=settings.work.max_attempts
    )
    intake = Intake(spool, ledger, settings)
    try:
        door = Door(settings, ledger, spool, intake, keys, lambda: datetime.now(UTC))
        if settings.metrics.port:
            _open_metrics(door)
        server = DrainingServer(configure(door, https_context(settings)))
        log.info("api.listening", host=settings.http.host, port=listening.getsockname()[1])
        server.run(sockets=[listening])
    finally:
        intake.close()
        ledger.close()
        listening.close()
        keys.close()
    log.info("api.stopped")
    return 0


def _open_metrics(door: Door) -> None:
    """This process's metrics and the ledger's counts on the port for Prometheus."""
    joined = CollectorRegistry(auto_describe=False)
    joined.register(REGISTRY)
    joined.register(LedgerCollector(door))
    start_http_server(door.settings.metrics.port, door.settings.metrics.host, joined)


def configure(door: Door, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """How uvicorn serves this door; over HTTPS where there is a context."""
    return uvicorn.Config(
        guarded(door),
        http=DeadlineProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=HEADER_BYTES,
        # uvicorn by itself would read the certificate once, and allow suites of its own choice.
        ssl_context_factory=(lambda _config, _default: tls) if tls is not None else None,
    )


def listen(host: str, port: int) -> socket.socket:
    """Bind the port.

    Raises:
        Defect: CONFIG_INVALID when it is taken or not ours to take.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise Defect("CONFIG_INVALID", f"http.port {port}: {error.strerror}") from error
    listening.set_inheritable(False)
    return listening
