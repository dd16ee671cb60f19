"""The three receivers that the intake bench compares, each started fresh in a folder of its own and ended by its pid."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

HOST = "127.0.0.1"
LAUNCH = (
    "import sys, pathlib\n"
    "from casework.config import load\n"
    "from casework.entrypoints.listener import main\n"
    "from casework.ledger import Ledger\n"
    "from casework.observe import setup_logging\n"
    "settings = load(pathlib.Path(sys.argv[1]))\n"
    "setup_logging('listener', 'WARNING')\n"
    "ledger = Ledger.open(settings.ledger_url)\n"
    "ledger.migrate()\n"
    "ledger.close()\n"
    "sys.exit(main(settings))\n"
)


def free_port() -> int:
    """A port that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Receiver:
    """A running receiver."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    folder: Path
    ae_title: str = "CMAN"

    def rss_mb(self) -> float:
        """Resident memory of the process and its children, MB (10^6)."""
        me = psutil.Process(self.process.pid)
        return sum(p.memory_info().rss for p in [me, *me.children(recursive=True)]) / 1e6

    def cpu_s(self) -> float:
        """CPU seconds of the process so far, with those of children that ended."""
        t = psutil.Process(self.process.pid).cpu_times()
        return t.user + t.system + t.children_user + t.children_system


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 180.0) -> None:
    """Wait until a port accepts.

    Raises:
        RuntimeError: it did not, or the process ended.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the receiver ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 0.2):
            return
        time.sleep(0.02)
    raise RuntimeError("the receiver did not start")


def _launch(
    name: str, command: Sequence[str], port: int, folder: Path, environ: dict[str, str] | None = None
) -> Receiver:
    with (folder / "output.log").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | (environ or {}))
    wait_for(port, process)
    return Receiver(name, port, process, folder)


def casework(
    folder: Path,
    *,
    port: int = 0,
    fsync: bool = True,
    prelude: str = "",
    wrap: Sequence[str] = (),
    environ: dict[str, str] | None = None,
) -> Receiver:
    """Our listener, with its defaults: fsync, ledger, header checks. `prelude` is Python run before it starts.

    wrap: a command that starts it, such as strace; the process is then the wrapper's. environ: settings that win.
    """
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "casework.toml"
    config.write_text(
        f"[dicom]\nport = {port}\n[storage]\nroot = '{folder}/spool'\nreserve_bytes = 1000000\nwatermark = 0.97\n"
        f"hard_watermark = 0.98\nfsync = {str(fsync).lower()}\n"
    )
    command = [*wrap, sys.executable, "-c", prelude + LAUNCH, str(config)]
    return _launch("casework", command, port, folder, environ)


def orthanc(folder: Path) -> Receiver:
    """Orthanc as Debian ships it, with its own defaults (SyncStorageArea true); only ports and folders are set."""
    port = free_port()
    folder.mkdir(parents=True)
    config = folder / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "db"),
                "IndexDirectory": str(folder / "db"),
                "DicomPort": port,
                "HttpPort": free_port(),
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "Plugins": [],
            }
        )
    )
    program = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "Orthanc"
    return _launch("Orthanc", [program, str(config)], port, folder)


def storescp(folder: Path) -> Receiver:
    """DCMTK's storescp, one process per association, no fsync and no index."""
    port = free_port()
    out = folder / "out"
    out.mkdir(parents=True)
    return _launch("storescp", ["storescp", "--fork", "+xa", "-od", str(out), str(port)], port, folder)


@contextlib.contextmanager
def running(receiver: Receiver) -> Iterator[Receiver]:
    """End the receiver at the end of the block."""
    try:
        yield receiver
    finally:
        stop(receiver)


def stop(receiver: Receiver) -> None:
    """SIGTERM, then SIGKILL; only what was started here."""
    if receiver.process.poll() is None:
        receiver.process.send_signal(signal.SIGTERM)
        try:
            receiver.process.wait(30)
        except subprocess.TimeoutExpired:
            receiver.process.kill()
            receiver.process.wait(10)
