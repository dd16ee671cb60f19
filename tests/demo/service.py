"""The demo's own casework: settings for free ports, the process, and its REST API as any client would use it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tests.simulators.orthanc import free_port

CONFIG = """# Written by make demo.
[dicom]
port = {dicom_port}

[[dicom.peer]]
ae_title = "{pacs_aet}"

[http]
port = {http_port}

[storage]
root = "{root}"
watermark = 0.97
hard_watermark = 0.98
reserve_bytes = 1073741824

[assembly]
quiet_s = 20

[[destination]]
name = "pacs"
ae_title = "{pacs_aet}"
port = {pacs_port}
profile = "{profile}"
query = true
"""


class Service:
    """`casework serve` in a folder, on free ports."""

    def __init__(self, folder: Path, profile: str = "standard", **environment: str) -> None:
        self.folder, self.profile = folder, profile  # which objects the PACS gets
        self.environment = environment  # CASEWORK_... settings that win over the file
        self.config = folder / "casework.toml"
        self.dicom_port, self.http_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None

    def start(self, pacs_aet: str, pacs_port: int) -> None:
        """Write the settings, start, and wait until it says ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        root = self.folder / "storage"
        names = {
            "dicom_port": self.dicom_port,
            "http_port": self.http_port,
            "pacs_aet": pacs_aet,
            "pacs_port": pacs_port,
            "profile": self.profile,
        }
        self.config.write_text(CONFIG.format(root=root, **names), "utf-8")
        with (self.folder / "service.log").open("ab") as log:
            command = [sys.executable, "-m", "casework", "serve", "--config", str(self.config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | self.environment)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/v1/health/ready", timeout=2).status_code == 200:
                    key = (root / "secrets" / "admin.key").read_text("utf-8").strip()
                    self._client = httpx.Client(
                        base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=30
                    )
                    return
            except (httpx.HTTPError, OSError):
                pass
            time.sleep(0.1)
        raise SystemExit(f"the service did not become ready; see {self.folder / 'service.log'}")

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> int | None:
        """Drain it and return its exit status; a service that does not end within a minute is killed."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(70)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode

    def get(self, path: str, **parameters: str) -> Any:
        """GET of a JSON answer. A connection that broke because the API was restarted is tried again."""
        assert self._client is not None
        for wait_s in (0.5, 2.0, 5.0, 0.0):
            try:
                answer = self._client.get(path, params=parameters)
                answer.raise_for_status()
                return answer.json()
            except httpx.TransportError:
                if not wait_s:
                    raise
                time.sleep(wait_s)
        raise AssertionError

    def download(self, path: str) -> bytes:
        """GET of an artefact's bytes."""
        assert self._client is not None
        answer = self._client.get(path, headers={"Accept": "*/*"})
        answer.raise_for_status()
        return answer.content
