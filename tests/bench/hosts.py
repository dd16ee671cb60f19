"""Several hosts as network namespaces: `sudo python -m tests.bench.hosts`. Two listeners, four workers, one of each cut off.

Each host has its own network, host name and process numbers; the ledger is PostgreSQL, the spool a shared folder, Redis rings.
In the middle the links of one listener and one worker go down without a word. Then: whatever was acknowledged is in the
ledger, every case has one result, and the dead listener's associations are closed by their silence. Needs root and iproute2.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_context
from sqlalchemy import create_engine, text

from casework.case import JobState
from tests.bench.instances import MR_CLASS, image
from tests.ledger.postgres_cluster import Cluster
from tests.queue.conftest import Yard
from tests.queue.redis_server import ROOT, RedisServer

BRIDGE, HERE, NET = "cwbr0", "10.77.0.1", "10.77.0"
HOSTS = {"cwlis1": 11, "cwlis2": 12, "cwwrk1": 21, "cwwrk2": 22, "cwwrk3": 23, "cwwrk4": 24}


def run(*command: str, check: bool = True) -> None:
    """Run a command quietly."""
    subprocess.run(command, check=check, capture_output=True)


def network() -> None:
    """A bridge and a namespace for each host."""
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "addr", "add", f"{HERE}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    for name, number in HOSTS.items():
        run("ip", "netns", "add", name)
        run("ip", "link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", f"v{name}", "master", BRIDGE, "up")
        run("ip", "-n", name, "addr", "add", f"{NET}.{number}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "link", "set", "lo", "up")


def tear_down() -> None:
    """Remove it."""
    for name in HOSTS:
        run("ip", "netns", "del", name, check=False)
        run("ip", "link", "del", f"v{name}", check=False)  # a namespace lives as long as its last process
    run("ip", "link", "del", BRIDGE, check=False)


def on(host: str, *command: str, environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a program on a host."""
    inside = 'hostname "$0"; exec "$@"'
    whole = [
        "ip",
        "netns",
        "exec",
        host,
        "unshare",
        "--uts",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-c",
        inside,
        host,
    ]
    with log.open("ab") as out:
        return subprocess.Popen([*whole, *command], cwd=ROOT, env={**os.environ, **environment}, stderr=out, stdout=out)


def main() -> int:
    """Run the trial; 1 when something was lost or doubled."""
    patients, started = int(sys.argv[1]) if len(sys.argv) > 1 else 24, time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="cwhosts"))
    processes: list[subprocess.Popen[bytes]] = []
    tear_down()
    network()
    cluster = Cluster(listen=HERE)
    server = RedisServer("--bind", "0.0.0.0", "--protected-mode", "no")  # noqa: S104 - the bridge's namespaces
    try:
        engine = create_engine(cluster.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("CREATE DATABASE hosts"))
        engine.dispose()
        url = f"postgresql+psycopg://postgres@{HERE}:{cluster.port}/hosts"
        queue = server.settings(host=HERE)
        yard = Yard(folder, queue, url)
        peers = "".join(f'[[dicom.peer]]\nae_title = "SENDER"\naddress = "{HERE}"\n' for _ in "1")
        (folder / "casework.toml").write_text(peers + '[[destination]]\nname = "pacs"\nae_title = "P"\nsend = false\n')
        environment = {
            "CASEWORK_CONFIG": str(folder / "casework.toml"), "CASEWORK_STORAGE_ROOT": str(folder / "root"),
            "CASEWORK_STORAGE_LEDGER_URL": url, "CASEWORK_DICOM_HOST": "0.0.0.0",  # noqa: S104 - a namespace of its own
            "CASEWORK_STORAGE_RESERVE_BYTES": "1000000", "CASEWORK_STORAGE_WATERMARK": "0.98",
            "CASEWORK_STORAGE_HARD_WATERMARK": "0.99", "CASEWORK_ASSEMBLY_QUIET_S": "4", "CASEWORK_QUEUE_KIND": "celery",
            "CASEWORK_QUEUE_URL": queue.url, "CASEWORK_QUEUE_PASSWORD_FILE": queue.password_file,
        }  # fmt: skip
        (folder / "worker.json").write_text(
            json.dumps({"queue": {"kind": "celery", "url": queue.url, "password_file": queue.password_file}, "url": url,
                        "latency_s": 1.0, "lease_s": 10.0, "runs": str(folder / "runs"), "destinations": []})
        )  # fmt: skip
        casework = [sys.executable, "-W", "ignore", "-m", "casework"]
        for host in HOSTS:
            worker = [sys.executable, "-W", "ignore", "-m", "tests.queue.worker", str(folder / "worker.json")]
            command = [*casework, "listener"] if "lis" in host else worker
            processes.append(on(host, *command, environment=environment, log=folder / f"{host}.log"))
        keeper = subprocess.Popen([*casework, "keeper"], cwd=ROOT, env={**os.environ, **environment}, stderr=(folder / "keeper.log").open("wb"))  # fmt: skip
        processes.append(keeper)
        trial = Trial(yard, patients, folder)
        made = trial.run()
        print(json.dumps({"hosts": {**made, "seconds": round(time.monotonic() - started)}}))
        return int(bool(made["lost"] or made["doubled"] or made["acknowledged_missing"]))
    finally:
        for process in processes:
            process.kill()  # unshare hands no other signal on; nothing here is lost by it
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        server.close()
        cluster.stop()
        tear_down()
        shutil.rmtree(folder, ignore_errors=True)


class Trial:
    """Sends patients to both listeners, cuts two hosts off, counts."""

    def __init__(self, yard: Yard, patients: int, folder: Path) -> None:
        self.yard, self.folder = yard, folder
        self.left = list(range(patients))
        self.patients = patients
        self.acknowledged: list[str] = []
        self.lock = threading.Lock()

    def run(self) -> dict[str, object]:
        """The whole course."""
        senders = [
            threading.Thread(target=self.send, args=(f"{NET}.{n}",), daemon=True) for n in (11, 12) for _ in range(2)
        ]
        for sender in senders:
            sender.start()
        self.yard.until(lambda: len(self.yard.done()) >= 2, within_s=120)
        for host in ("cwlis2", "cwwrk4"):
            run("ip", "link", "set", f"v{host}", "down")
        cut = time.monotonic()
        for sender in senders:
            sender.join()
        read = self.yard.ledger.read
        self.yard.until(
            lambda: read.metrics().jobs.get(JobState.SUCCEEDED, 0) >= self.patients, within_s=240
        )  # fmt: skip
        done = time.monotonic() - cut
        self.yard.until(lambda: read.metrics().open_associations == 0, within_s=240)
        with create_engine(self.yard.url).connect() as connection:
            held = set(connection.execute(text("SELECT sop_uid FROM instance")).scalars())
            rows = connection.execute(text("SELECT case_id, count(*) FROM artefact GROUP BY case_id")).all()
            ends = Counter(connection.execute(text("SELECT ended FROM association")).scalars())
            again = connection.execute(text("SELECT count(*) FROM job WHERE attempt > 1")).scalar_one()
        return {
            "patients": self.patients, "acknowledged": len(self.acknowledged),
            "acknowledged_missing": len(set(self.acknowledged) - held), "lost": self.patients - len(rows),
            "doubled": sum(count > 1 for _, count in rows), "jobs_tried_again": again, "associations": dict(ends),
            "all_done_s_after_cut": round(done, 1), "associations_closed_s_after_cut": round(time.monotonic() - cut, 1),
            "workers": len({run["host"] for run in self.yard.done()}), "audit": read.verify_audit().ok,
        }  # fmt: skip

    def send(self, address: str) -> None:
        """Send patients to one listener; what it does not answer goes to the other, as behind a load balancer."""
        while True:
            with self.lock:
                if not self.left:
                    return
                number = self.left.pop()
            study = generate_uid(entropy_srcs=[str(number)])
            images = [
                image(PatientID=f"P{number}", StudyInstanceUID=study, SeriesInstanceUID=f"{study[:50]}.1",
                      AccessionNumber=f"A{number}") for _ in range(3)
            ]  # fmt: skip
            waiting = images
            while waiting:
                waiting = self.try_send(address, waiting)
                if waiting:
                    address = f"{NET}.11"

    def try_send(self, address: str, images: list[Dataset]) -> list[Dataset]:
        """Send over one association; what was not acknowledged."""
        ae = AE("SENDER")
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
        ae.requested_contexts = [build_context(MR_CLASS, "1.2.840.10008.1.2.1")]
        assoc = ae.associate(address, 11112, ae_title="CMAN")
        if not assoc.is_established:
            time.sleep(0.5)
            return images
        left = []
        for ds in images:
            status = assoc.send_c_store(ds) if assoc.is_established else None
            if status is not None and getattr(status, "Status", 1) == 0:
                self.acknowledged.append(str(ds.SOPInstanceUID))
            else:
                left.append(ds)
            time.sleep(0.05)
        if assoc.is_established:
            assoc.release()
        return left


if __name__ == "__main__":
    sys.exit(main())
