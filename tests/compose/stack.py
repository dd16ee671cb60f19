"""One compose project of its own, on free ports, with its own volumes; gone afterwards. Needs a Docker engine with Compose v2."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.simulators.orthanc import free_port

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("DICOM_PORT", "HTTP_PORT", "PACS_DICOM_PORT", "PACS_HTTP_PORT")
DOORS = ("listener", "api", "keeper", "infer-worker", "deliver-worker")


class Stack:
    """The containers of docker-compose.yml with the profile `pacs`."""

    def __init__(self, project: str = "casework-e2e") -> None:
        self.ports = {name: free_port() for name in PORTS}
        self._environment = {**os.environ, **{name: str(port) for name, port in self.ports.items()}}
        self._command = ["docker", "compose", "-p", project, "--profile", "pacs"]

    def compose(self, *arguments: str, within_s: float = 600.0) -> str:
        """One compose command's output.

        Raises:
            SystemExit: it failed; its last words are the message.
        """
        with tempfile.TemporaryFile() as output:  # not a pipe: BuildKit may leave a child that keeps it open
            ended = subprocess.run(
                [*self._command, *arguments],
                cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                timeout=within_s, check=False,
            )  # fmt: skip
            output.seek(0)
            said = output.read().decode("utf-8", "replace")
        if ended.returncode:
            raise SystemExit(f"docker compose {' '.join(arguments)} ended with {ended.returncode}:\n{said[-3000:]}")
        return said

    def build(self) -> float:
        """Build the images; seconds."""
        begun = time.monotonic()
        subprocess.run(["sh", "deploy/secrets.sh"], cwd=ROOT, check=True)
        self.compose("build", "-q", within_s=1500)
        return time.monotonic() - begun

    def up(self) -> float:
        """Start everything; seconds until every container is healthy."""
        begun = time.monotonic()
        self.compose("up", "-d", "--wait", "--wait-timeout", "180")
        return time.monotonic() - begun

    def down(self) -> None:
        """Remove containers, network and volumes."""
        self.compose("down", "-v", "--timeout", "20")

    def admin_key(self) -> str:
        """The key that the API made at its first start."""
        return self.compose("exec", "-T", "api", "cat", "/var/lib/casework/secrets/admin.key").strip()

    def healthy_again(self, service: str, within_s: float = 90.0) -> float:
        """Seconds until `service` reports healthy (or runs, where it has no check).

        Raises:
            SystemExit: it does not.
        """
        begun = time.monotonic()
        while time.monotonic() - begun < within_s:
            rows = self.rows()
            if any(
                r["Service"] == service and r["State"] == "running" and r.get("Health", "") in ("", "healthy")
                for r in rows
            ):
                return time.monotonic() - begun
            time.sleep(0.5)
        raise SystemExit(
            f"{service} is not healthy after {within_s:.0f} s:\n{self.compose('logs', '--tail', '20', service)}"
        )

    def rows(self) -> list[dict[str, Any]]:
        """`compose ps` as rows."""
        said = self.compose("ps", "-a", "--format", "json")
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]

    def sizes(self) -> list[tuple[str, float, float]]:
        """Door, image size in MB, memory in MiB."""
        found = []
        for row in self.rows():
            if row["State"] != "running":
                continue
            size = _docker("image", "inspect", "-f", "{{.Size}}", row["Image"])
            used = _docker("stats", "--no-stream", "--format", "{{.MemUsage}}", row["Name"]).split("/")[0].strip()
            scale = {"KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0}[used[-3:]]
            found.append((str(row["Service"]), int(size) / 1e6, float(used[:-3]) * scale))
        return sorted(found)


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()
