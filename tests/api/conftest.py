"""A real API on a free port: uvicorn, SQLite ledger, spool, intake. Nothing is replaced."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import structlog
import uvicorn

from casework.config import Destination, Http, Settings, Storage
from casework.entrypoints.api.auth import open_keyring
from casework.entrypoints.api.door import Door
from casework.entrypoints.api.server import configure, listen
from casework.entrypoints.keyfile import Role, new_key
from casework.flows.intake import Intake
from casework.ledger import Ledger
from casework.spool import Spool
from casework.tls import https_context


@dataclass
class Api:
    """A running API and what its routes stand on."""

    door: Door
    base_url: str
    keys: dict[str, str]

    def client(self, role: str = "admin", **headers: str) -> httpx.Client:
        """A client with a key of this role; "" = without a key."""
        if role:
            headers["Authorization"] = f"Bearer {self.keys[role]}"
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=20)

    @property
    def ledger(self) -> Ledger:
        """The ledger that the API reads."""
        return self.door.ledger

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.base_url.rsplit(":", 1)[1])


def make_settings(root: Path, **http: object) -> tuple[Settings, dict[str, str]]:
    """Settings for a root of its own, with a key for every role."""
    keys, rows = {}, []
    for role in Role:
        keys[role.value], kept = new_key()
        rows.append({"name": f"{role}-key", "sha256": kept, "role": role.value})
    root.mkdir(parents=True, exist_ok=True)
    file = root / "keys.json"
    file.write_text(json.dumps({"keys": rows}))
    file.chmod(0o600)
    storage = Storage(root=str(root / "var"), reserve_bytes=0, watermark=0.98, hard_watermark=0.99)
    pacs = Destination("pacs", ae_title="PACS", port=104)
    settings = Settings(http=Http(port=0, keys_file=str(file), **http), storage=storage, destination=(pacs,))  # type: ignore[arg-type]
    return settings, keys


def make_door(settings: Settings) -> Door:
    """The neighbours, real ones."""
    spool = Spool(settings.root, fsync=settings.storage.fsync)
    (settings.root / "ledger").mkdir(parents=True, exist_ok=True)
    ledger = Ledger.open(settings.ledger_url)
    ledger.migrate()
    intake = Intake(spool, ledger, settings)
    return Door(settings, ledger, spool, intake, open_keyring(settings), lambda: datetime.now(UTC))


@contextmanager
def serving(
    root: Path, change: Callable[[Settings], Settings] = lambda settings: settings, **http: object
) -> Iterator[Api]:
    """Serve until the block ends; `change` makes other settings of the usual ones."""
    settings, keys = make_settings(root, **http)
    door = make_door(change(settings))
    with run_server(door) as port:
        yield Api(door, f"{'https' if door.settings.tls.https else 'http'}://127.0.0.1:{port}", keys)
    door.intake.close()
    door.ledger.close()


@contextmanager
def run_server(door: Door) -> Iterator[int]:
    """Run uvicorn in a thread; give its port."""
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(configure(door, https_context(door.settings)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline, "uvicorn did not start"
        time.sleep(0.01)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive(), "uvicorn did not stop"


@pytest.fixture(scope="session", autouse=True)
def _quiet_log() -> Iterator[None]:
    """Log lines of the server's threads would be printed between the dots."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One API for a module's tests."""
    with serving(tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture
def own_api(tmp_path: Path) -> Iterator[Api]:
    """An API for one test alone."""
    with serving(tmp_path) as running:
        yield running


def raw(port: int, data: bytes, wait_s: float = 5.0) -> bytes:
    """Send bytes as they are; return everything until the peer closes, which it must within `wait_s`."""
    with socket.create_connection(("127.0.0.1", port), wait_s) as connection:
        connection.settimeout(wait_s)
        answer = b""
        # A peer that closes with our bytes unread resets the connection; that counts as closed. A timeout does not.
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
            while piece := connection.recv(65536):
                answer += piece
        return answer
