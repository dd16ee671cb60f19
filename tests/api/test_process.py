"""The API as a process of its own: it starts from settings alone, drains on SIGTERM and ends with status 0."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from casework.entrypoints.api.server import listen
from casework.errors import Defect
from tests.api.samples import mammogram, multipart

PROGRAM = (
    "import sys; from casework.config import load; from casework.entrypoints.api import main; "
    "from casework.ledger import Ledger; from casework.observe import setup_logging; setup_logging('api'); s = load(); "
    "(s.root / 'ledger').mkdir(parents=True, exist_ok=True); l = Ledger.open(s.ledger_url); l.migrate(); l.close(); sys.exit(main(s))"
)


@contextmanager
def process(root: Path, **changes: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start the API; give the process and its address when it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"STORAGE_ROOT": str(root), "STORAGE_RESERVE_BYTES": "0", "HTTP_PORT": str(port)}
    settings |= {"STORAGE_WATERMARK": "0.98", "STORAGE_HARD_WATERMARK": "0.99"} | changes
    environment = os.environ | {f"CASEWORK_{name}": value for name, value in settings.items()}
    log = (root.parent / "api.log").open("wb")
    running = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=log)
    base_url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                if httpx.get(base_url + "/v1/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                assert running.poll() is None, (root.parent / "api.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield running, base_url
    finally:
        running.kill()
        running.wait()
        log.close()


def key_of(root: Path) -> str:
    """The admin key that the first start made."""
    return (root / "secrets" / "admin.key").read_text().strip()


def test_first_start_and_log(tmp_path: Path) -> None:
    """From defaults alone: an admin key is made and works, and neither key nor search term is in the log."""
    with process(tmp_path / "var") as (running, base_url):
        key = key_of(tmp_path / "var")
        with httpx.Client(base_url=base_url, headers={"Authorization": f"Bearer {key}"}) as client:
            assert client.get("/v1/session").json()["role"] == "admin"
            client.get("/v1/why", params={"q": "CANARYTERM"})
            body, content_type = multipart(
                [mammogram(AccessionNumber="CANARYACC", PatientID="CANARYPAT", PatientName="CANARY^PN")]
            )
            assert (
                client.post("/dicom-web/studies", content=body, headers={"Content-Type": content_type}).status_code
                == 200
            )
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
    log = (tmp_path / "api.log").read_text()
    assert '"event": "http.request"' in log
    assert '"event": "api.stopped"' in log
    assert "CANARY" not in log
    assert key not in log


def test_a_drain_finishes_what_has_begun(tmp_path: Path) -> None:
    """SIGTERM in the middle of an upload: new connections are refused, the upload is answered, the process ends with 0."""
    body, content_type = multipart([mammogram(), mammogram()])
    answer: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield body[:900]
        begun.set()
        go_on.wait(20)
        yield body[900:]

    with process(tmp_path / "var") as (running, base_url):
        headers = {"Authorization": f"Bearer {key_of(tmp_path / 'var')}", "Content-Type": content_type}

        def upload() -> None:
            answer.append(
                httpx.post(base_url + "/dicom-web/studies", content=pieces(), headers=headers, timeout=30).status_code
            )

        sender = threading.Thread(target=upload)
        sender.start()
        assert begun.wait(10)
        time.sleep(0.3)
        running.send_signal(signal.SIGTERM)
        time.sleep(0.7)
        with pytest.raises(httpx.TransportError):
            httpx.get(base_url + "/v1/health/live")
        assert running.poll() is None
        go_on.set()
        sender.join(20)
        assert answer == [200]
        assert running.wait(20) == 0


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    """A port that somebody else has is a coded refusal to start."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(Defect) as caught:
            listen("127.0.0.1", other.getsockname()[1])
    assert caught.value.code == "CONFIG_INVALID"
    assert "http.port" in str(caught.value)
