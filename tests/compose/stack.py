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
PORTS = (
    "DICOM_PORT",
    "HTTP_PORT",
    "PACS_DICOM_PORT",
    "PACS_HTTP_PORT",
    "VIEWER_PORT",
    "PROMETHEUS_PORT",
    "GRAFANA_PORT",
)
DOORS = ("listener", "api", "keeper", "infer-worker", "deliver-worker", "fetch-worker")
BUILT = ("migrate", "infer-worker")  # one service for each image
GRAFANA = "grafana/grafana:12.2.1"
PROMETHEUS = "prom/prometheus:v3.7.3"


class Stack:
    """The containers of docker-compose.yml: the profile `pacs`, and on request what looks on."""

    def __init__(self, project: str = "casework-e2e") -> None:
        self.ports = {name: free_port() for name in PORTS}
        self._environment = {**os.environ, **{name: str(port) for name, port in self.ports.items()}}
        self._healthy_s: dict[str, float] = {}
        self._command = ["docker", "compose", "-p", project, "--profile", "*"]

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

    def build(self, *services: str) -> float:
        """Build the images of these services (default: ours); seconds."""
        begun = time.monotonic()
        subprocess.run(["sh", "deploy/secrets.sh"], cwd=ROOT, check=True)
        self.compose("build", "-q", *(services or BUILT), within_s=1500)
        return time.monotonic() - begun

    def up(self) -> float:
        """The profile `pacs`: seconds until every container is healthy."""
        return self._up("postgres", "redis", "migrate", *DOORS, "pacs")

    def up_beside(self) -> tuple[float, bool]:
        """Viewer, Prometheus and, where its image can be had, Grafana; seconds, and whether Grafana is there."""
        if not _have(PROMETHEUS):
            standin = "casework-e2e-prometheus"
            _docker("build", "-q", "-t", standin, "-f", str(ROOT / "tests/compose/standins/prometheus.Dockerfile"), str(ROOT / "tests/compose/standins"))  # fmt: skip
            self._environment["PROMETHEUS_IMAGE"] = standin
        grafana = _have(GRAFANA)
        return self._up("viewer", "prometheus", *(["grafana"] if grafana else [])), grafana

    def _up(self, *services: str) -> float:
        begun = time.monotonic()
        # `migrate` ends when it is done, which --wait takes for a failure when it is named; what depends on it waits for it.
        named = [s for s in services if s != "migrate"]
        watched = [
            "docker",
            "events",
            "--filter",
            "event=start",
            "--filter",
            "event=health_status",
            "--format",
            "{{json .}}",
        ]
        with tempfile.TemporaryFile() as said, subprocess.Popen(watched, stdout=said) as events:
            try:
                self.compose("up", "-d", "--no-build", "--wait", "--wait-timeout", "300", *named)
                taken = time.monotonic() - begun
            finally:
                events.terminate()
            events.wait(20)
            said.seek(0)
            self._note_starts(said.read().decode())
        return taken

    def _note_starts(self, events: str) -> None:
        """How long each container took from its start to its first good check."""
        started: dict[str, int] = {}
        for event in map(json.loads, events.splitlines()):
            name = event["Actor"]["Attributes"].get("com.docker.compose.service", "")
            if event["Action"] == "start":
                started[name] = event["timeNano"]
            elif event["Action"] == "health_status: healthy" and name in started:
                self._healthy_s.setdefault(name, (event["timeNano"] - started[name]) / 1e9)

    def down(self) -> None:
        """Remove containers, network and volumes."""
        self.compose("down", "-v", "--timeout", "20")

    def kill(self, service: str) -> None:
        """Kill -9, as a machine that fails does; it stays down."""
        self.compose("kill", "-s", "KILL", service)

    def admin_key(self) -> str:
        """The key that the API made at its first start."""
        return self.compose("exec", "-T", "api", "cat", "/var/lib/casework/secrets/admin.key").strip()

    def ask(self, query: str) -> list[list[str]]:
        """The rows of an SQL question to the ledger."""
        said = self.compose("exec", "-T", "postgres", "psql", "-h", "127.0.0.1", "-U", "casework", "-d", "casework", "-At", "-F", "|", "-c", query)  # fmt: skip
        return [line.split("|") for line in said.splitlines() if line]

    def healthy_again(self, service: str, within_s: float = 120.0) -> float:
        """Seconds until `service` reports healthy (or runs, where it has no check).

        Raises:
            SystemExit: it does not.
        """
        begun = time.monotonic()
        while time.monotonic() - begun < within_s:
            if any(
                r["Service"] == service and r["State"] == "running" and r.get("Health", "") in ("", "healthy")
                for r in self.rows()
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

    def sizes(self) -> list[dict[str, Any]]:
        """Of every running container: image in MB, memory in MiB, seconds from its start to healthy, processor seconds so far."""
        found = []
        for row in self.rows():
            if row["State"] != "running":
                continue
            image = _docker("image", "inspect", "-f", "{{.Size}}", row["Image"])
            used = _docker("stats", "--no-stream", "--format", "{{.MemUsage}}", row["Name"]).split("/")[0].strip()
            scale = {"KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0}[used[-3:]]
            healthy = self._healthy_s.get(row["Service"])
            found.append(
                {
                    "container": str(row["Service"]), "image_mb": round(int(image) / 1e6),
                    "memory_mib": round(float(used[:-3]) * scale), "healthy_s": healthy and round(healthy, 1),
                    "processor_s": round(_processor_s(row["Name"]), 1),
                }
            )  # fmt: skip
        return sorted(found, key=lambda row: row["container"])


def _processor_s(container: str) -> float:
    """Of everything that ran in it since its start; control groups of version 1 or 2."""
    said = _docker("exec", container, "sh", "-c", "cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null || cat /sys/fs/cgroup/cpu.stat")  # fmt: skip
    words = said.split()
    return int(words[0]) / 1e9 if len(words) == 1 else int(words[words.index("usage_usec") + 1]) / 1e6


def _have(image: str) -> bool:
    """Whether an image is here or can be pulled."""
    known = ["docker", "image", "inspect", image], ["docker", "pull", "-q", image]
    return any(subprocess.run(ask, capture_output=True, timeout=600, check=False).returncode == 0 for ask in known)


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()
