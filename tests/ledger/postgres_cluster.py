"""A throw-away PostgreSQL for tests: its own folder, a unix socket, no TCP port."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.simulators.orthanc import free_port

INSTALL = "PostgreSQL's initdb and pg_ctl were not found: apt-get install postgresql (or put its bin folder on PATH)"


def binaries() -> Path:
    """The folder that holds initdb and pg_ctl, the newest version of several.

    Raises:
        RuntimeError: saying what to install.
    """
    found = shutil.which("pg_ctl")
    if found and (Path(found).parent / "initdb").exists():
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: float(path.parts[4]))
    if not folders:
        raise RuntimeError(INSTALL)
    return folders[-1].parent


class Cluster:
    """A running server; `stop` ends it and removes its files."""

    def __init__(self, listen: str = "", *, fsync: bool = False) -> None:
        """A unix socket only, or also this address with its /24 network. fsync only where a time is measured."""
        self._bin = binaries()
        self._user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
        if self._user and not any(entry.pw_name == self._user for entry in pwd.getpwall()):
            raise RuntimeError(f"{INSTALL}; there is no user postgres to run it")
        self.folder = Path(tempfile.mkdtemp(prefix="cwpg", dir="/tmp"))
        if self._user:
            shutil.chown(self.folder, self._user)
        data, log = self.folder / "data", self.folder / "log"
        self._run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        self.port = free_port() if listen else 5432
        if listen:
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {listen}/24 trust\n")
        options = f"-k {self.folder} -p {self.port} -c listen_addresses='{listen}' -c fsync={'on' if fsync else 'off'} -c max_connections=60"
        self._run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")

    def url(self, name: str) -> str:
        """SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}&port={self.port}"

    def stop(self) -> None:
        """End the server."""
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [str(self._bin / program), *map(str, arguments)]
        nothing = subprocess.DEVNULL
        subprocess.run(
            command, check=True, timeout=60, cwd="/", user=self._user, stdin=nothing, stdout=nothing, stderr=nothing
        )
