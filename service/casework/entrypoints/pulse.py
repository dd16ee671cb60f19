"""The sign of life of a door: health and metrics as files in `<storage.root>/health`, one pair for each host and door.

A container's health check (`python -m casework.entrypoints.pulse DOOR`, which imports next to nothing since it runs every
few seconds) and a person with a shell read them. Written at most every two seconds, each atomically; a full disk must not
end the door. What a host that is gone left behind is removed after a week.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from casework.config import Settings, load

EVERY_S = 2.0
FORGET_S = 7 * 86400.0
STALE_S = 120.0  # older: the door hangs or is gone; a worker is silent while it runs a slow case


class Pulse:
    """Writes one door's sign of life."""

    def __init__(self, settings: Settings, door: str) -> None:
        self._folder = settings.root / "health"
        self._name = _name(door)
        self._due = 0.0
        with contextlib.suppress(OSError):
            for old in self._folder.iterdir():
                if time.time() - old.stat().st_mtime > FORGET_S:
                    old.unlink()

    def beat(self, health: Mapping[str, object]) -> None:
        """Write `health` ("ok" among it) and this process's metrics, unless that was done just now."""
        if time.monotonic() < self._due:
            return
        from prometheus_client import REGISTRY, generate_latest  # not for the health check

        self._due = time.monotonic() + EVERY_S
        stamped = {**health, "pid": os.getpid(), "at": datetime.now(UTC).isoformat()}
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for suffix, data in (("json", json.dumps(stamped).encode()), ("prom", generate_latest(REGISTRY))):
                part = self._folder / f"{self._name}.{suffix}.{os.getpid()}.part"
                part.write_bytes(data)
                part.replace(self._folder / f"{self._name}.{suffix}")


def look(settings: Settings, door: str, now: datetime, *, only_alive: bool = False) -> str:
    """What is wrong with this host's `door`, "" when it is well.

    only_alive: a door that is there and says that it can't work (a full disk, a database that is away) is alive; to kill it
    for that would mend nothing.
    """
    if door == "api":
        return _ask(settings, "/v1/health/live" if only_alive else "/v1/health/ready")
    try:
        health = json.loads((settings.root / "health" / f"{_name(door)}.json").read_text("utf-8"))
        age_s = (now - datetime.fromisoformat(health["at"])).total_seconds()
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"no sign of life: {type(error).__name__}"
    if age_s > STALE_S:
        return f"silent for {age_s:.0f} s"
    return "" if only_alive or health.get("ok") else str(health.get("code") or "not well")


def _ask(settings: Settings, path: str) -> str:
    import http.client  # half of the check's time, and only one door needs it
    import ssl

    port = settings.http.port
    connection: http.client.HTTPConnection
    if settings.tls.https:  # it asks itself, so there is nobody to mistake it for; its certificate names its host
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=4, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        names = settings.http.allowed_hosts  # an API that is called by these only answers to no other
        connection.request("GET", path, headers={"Host": names[0]} if names else {})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer: {type(error).__name__}"
    finally:
        connection.close()
    return "" if status == 200 else f"answers {status}"


def _name(door: str) -> str:
    host = "".join(c if c.isalnum() or c in "-." else "_" for c in socket.gethostname())
    return f"{host.lstrip('.')}.{door.replace('-', '_')}"


def main(door: str, question: str = "well") -> int:
    """The check of a container: 0 when this host's `door` is well (or "alive"); says on standard error what is wrong."""
    problem = look(load(), door, datetime.now(UTC), only_alive=question == "alive")
    if problem:
        sys.stderr.write(f"{door}: {problem}\n")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
