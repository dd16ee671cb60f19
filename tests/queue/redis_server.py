"""A throw-away Redis with the configuration and the permissions that are shipped, on a free loopback port."""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from casework.config_queue import Queue
from tests.simulators.orthanc import free_port

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "made-for-a-test"  # noqa: S105 - of a server that lives for a test


class RedisServer:
    """A server that can be stopped, killed and started again over its data; `close` removes everything."""

    def __init__(self, *options: str, acl: str | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="cwredis")
        self.folder = Path(self._temporary.name)
        self.port = free_port()
        shipped = (ROOT / "deploy/redis/users.acl").read_text("utf-8")
        rules = (acl or shipped).replace("@PASSWORD@", PASSWORD)
        # A person who looks, as in the container's own shell: the service's user can't.
        (self.folder / "users.acl").write_text(rules.replace("user default off", "user default on nopass ~* &* +@all"))
        (self.folder / "password").write_text(PASSWORD)
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.admin = redis.Redis(port=self.port, socket_timeout=10)
        self.start()

    def start(self) -> None:
        """Start over what is on the disk."""
        command = [
            "redis-server", str(ROOT / "deploy/redis/redis.conf"), "--bind", "127.0.0.1", "--port", str(self.port),
            "--dir", str(self.folder), "--aclfile", str(self.folder / "users.acl"), *self._options,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                self.admin.ping()
            except redis.exceptions.RedisError:
                assert self.process.poll() is None, "redis-server did not start"
                time.sleep(0.05)
            else:
                return
        raise TimeoutError("redis-server does not answer")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process
        os.kill(self.process.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait."""
        if self.process:
            self.send(number)
            self.process.wait(20)
            self.process = None

    def close(self) -> None:
        """End it and remove its files."""
        if self.process:
            self.send(signal.SIGCONT)
        self.end(signal.SIGKILL)
        self.admin.close()
        self._temporary.cleanup()

    def settings(self, host: str = "127.0.0.1", **changes: Any) -> Queue:
        """The queue settings that use it."""
        url = f"redis://casework@{host}:{self.port}/0"
        return Queue(kind="celery", url=url, password_file=str(self.folder / "password"), **changes)
