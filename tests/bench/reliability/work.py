"""Workers that die, Redis that dies, clocks that jump, a hospital in trouble: F08, F09, F10, F12, F24, F26, F42."""

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from pydicom import Dataset, dcmread

from casework.config_queue import Queue
from models.cman.phantom.dicom import CaseTruth
from tests.api.samples import multipart
from tests.api.test_process import key_of
from tests.bench import queue, receivers
from tests.bench.instances import part10
from tests.bench.reliability.intake import Sender, associated, verdict
from tests.bench.reliability.lab import Lab
from tests.bench.reliability.traffic import rows
from tests.demo.verify import problems
from tests.e2e.conftest import Hospital, make_case
from tests.ledger.postgres_cluster import Cluster
from tests.protocol.peer import Peer, encoded
from tests.queue.conftest import Yard, kill_group
from tests.queue.redis_server import RedisServer
from tests.simulators.pacs import SimulatedPacs

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
Sent = list[tuple[CaseTruth, list[Dataset]]]
DOORS = ("listener", "keeper", "infer-worker", "deliver-worker", "api")


class Embedded:
    """The ledger as the queue, in the place of a Redis."""

    def settings(self) -> Queue:
        """The default."""
        return Queue()


def _storm(lab: Lab, folder: Path, servers: queue.Servers, url: str) -> None:
    options = argparse.Namespace(
        jobs=lab.n("jobs"),
        kills=lab.n("kills"),
        within=lab.size["within"],
        pause=lab.size.get("pause", 0.0),
        seed=lab.rng.randrange(1 << 32),
    )
    try:
        made = queue.storm(folder, servers, url, options)
    except AssertionError as error:
        lab.must(False, f"jobs are left that nobody does: {str(error)[-200:]}")  # noqa: FBT003 - a plain complaint
        return
    lab.figures |= {key: made[key] for key in ("jobs", "kills", "lost", "doubled", "seconds")}
    lab.must(not made["lost"], f"{made['lost']} jobs have no result: {made['states']}")
    lab.must(not made["doubled"], f"{made['doubled']} jobs have two results")
    lab.must(made["kills"], "nothing was killed")


def worker_kills(lab: Lab) -> None:
    """F08."""
    _storm(lab, lab.place("yard"), Embedded(), "")


@contextmanager
def servers() -> Iterator[tuple[RedisServer, str]]:
    """A Redis as shipped, and an empty PostgreSQL."""
    cluster, server = Cluster(), RedisServer()
    try:
        queue._create(cluster, "bench")
        yield server, cluster.url("bench")
    finally:
        server.close()
        cluster.stop()


def celery_storm(lab: Lab) -> None:
    """F09."""
    with servers() as (server, url):
        _storm(lab, lab.place("yard"), server, url)


def redis_away(lab: Lab) -> None:
    """F10: Redis is killed during intake."""
    with servers() as (server, url):
        options = argparse.Namespace(outage=lab.size["seconds"], within=lab.size["within"], pace=lab.size["pace_s"])
        try:
            made = queue.outage(lab.place("yard"), server, url, options)
        except AssertionError:
            lab.must(False, "jobs wait although Redis is back")  # noqa: FBT003 - a plain complaint
            return
    lab.figures |= {
        key: made[key] for key in ("outage_s", "intake_with", "intake_without", "first_job_s", "lost", "doubled")
    }
    lab.must(not made["lost"], f"{made['lost']} jobs have no result")
    lab.must(not made["doubled"], f"{made['doubled']} jobs have two results")
    lab.must(float(str(made["first_job_s"])) <= 15, f"the first job came {made['first_job_s']} s after Redis was back")
    share = float(str(made["intake_without"])) / max(0.1, float(str(made["intake_with"])))
    lab.must(share >= 0.95, f"intake fell to {share:.0%} without Redis")


def redis_kills(lab: Lab) -> None:
    """F12: Redis is killed and started, stopped and continued, with jobs on their way."""
    slowest = 0.0
    with servers() as (server, url):
        yard = Yard(lab.place("yard"), server.settings(), url)
        try:
            yard.start_relay()
            worker = yard.start_worker(0.0)
            total = 0
            for turn in range(lab.n("rounds")):
                yard.add(3)
                total += 3
                time.sleep(lab.rng.uniform(0, 0.3))
                if turn % 5 == 4:
                    server.send(signal.SIGSTOP)
                    time.sleep(lab.size["stopped_s"])
                    server.send(signal.SIGCONT)
                else:
                    server.end(signal.SIGKILL)
                    server.start()
                expected = total
                try:
                    slowest = max(slowest, yard.until(lambda: len(yard.done()) >= expected, within_s=120))  # noqa: B023 - used at once
                except AssertionError:
                    lab.must(False, f"round {turn}: jobs wait although Redis is back")  # noqa: FBT003
                    return
            lab.must(slowest <= 60, f"it took {slowest:.0f} s to go on")
            lab.must(worker.poll() is None, "the worker ended")
            jobs = [run["job"] for run in yard.done()]
            lab.must(len(jobs) == len(set(jobs)) == total, f"{len(jobs)} results of {total} jobs")
        finally:
            yard.close()
    lab.figures |= {"rounds": lab.n("rounds"), "jobs": total, "slowest_s": round(slowest, 1), "restarts_by_hand": 0}


@contextmanager
def jumping_clock(folder: Path) -> Iterator[Callable[[float], None]]:
    """Processes started inside see a wall clock that can be moved by seconds; the monotonic clock stays true."""
    if not FAKETIME.exists():
        raise RuntimeError("libfaketime is missing: apt-get install libfaketime")
    file, before = folder / "clock", dict(os.environ)
    # libfaketime 0.9.10 breaks the call below Python's sleep when the monotonic clock stays true: sleep by select instead.
    (folder / "sitecustomize.py").write_text(
        "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds)[0] and None\n"
    )

    def move(seconds: float) -> None:
        (folder / "clock.new").write_text(f"{seconds:+.0f}\n")
        (folder / "clock.new").replace(file)

    move(0)
    os.environ |= {
        "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1", "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    try:
        yield move
    finally:
        os.environ.clear()
        os.environ.update(before)


def clocks(lab: Lab) -> None:
    """F24: leases under workers whose clocks jump, and intake under a door whose clock does."""
    folder = lab.place("yard")
    yard = Yard(folder, Queue())
    try:
        with jumping_clock(folder) as move:
            yard.start_relay()
            cases, turns = yard.add(lab.n("jobs")), (7200, -7200, 600, -600, 3600, -3600, 0)
            for offset in turns[: lab.n("jumps")]:
                move(offset)
                worker = yard.start_worker(0.5, lease_s=3.0)
                seen = len(yard.runs())
                with suppress(AssertionError):  # all done: nothing left to begin
                    yard.until(lambda: len(yard.runs()) > seen, within_s=20)  # noqa: B023 - used at once
                time.sleep(0.2)
                kill_group(worker, signal.SIGKILL)  # in the middle of a job whose lease is of that clock
            move(0)
            yard.start_worker(0.0, lease_s=3.0)
        try:
            yard.until(lambda: queue._all_done(yard, len(cases)), within_s=lab.size["within"])
        except AssertionError:
            lab.must(False, "a job is stuck behind a lease of another clock")  # noqa: FBT003 - a plain complaint
        made = queue._verdict(yard, cases)
        lab.must(not made["lost"], f"{made['lost']} jobs have no result: {made['states']}")
        lab.must(not made["doubled"], f"{made['doubled']} jobs have two results")
        lab.must(yard.ledger.read.verify_audit().ok, "the audit chain is broken")
        lab.figures |= {"jobs": len(cases), "jumps": lab.n("jumps"), "lost": made["lost"], "doubled": made["doubled"]}
    finally:
        yard.close()
    door, sender = lab.place("door"), Sender()
    with jumping_clock(door) as move, receivers.running(receivers.casework(door)) as receiver:
        with associated(receiver.port) as peer:
            for offset in (0, 3600, -3600, -7200, 600):
                move(offset)
                lab.must(sender.send(peer) == 0, f"no answer after the clock went by {offset} s")
        lab.must(receiver.process.poll() is None, "the listener ended")
    verdict(lab, door / "spool", sender.told)


def hospital(lab: Lab) -> None:
    """F26 and F42: a PACS, the whole service, cases that come all the while, and things that break."""
    settings = {"CASEWORK_WORK_LEASE_S": "6", "CASEWORK_WORK_HEARTBEAT_S": "2", "CASEWORK_WORK_MAX_ATTEMPTS": "50"}
    site = Hospital(lab.folder / "h", **settings)
    done, outages = threading.Event(), 0
    sent: Sent = []
    try:
        sender = threading.Thread(target=_send_cases, args=(lab, site, sent, done))
        sender.start()
        deadline, kills = time.monotonic() + lab.size["seconds"], 0
        parent = psutil.Process(site.service.pid)
        begun: dict[str, float] = {}
        while time.monotonic() < deadline:
            time.sleep(lab.rng.uniform(0.5, 1.5) * lab.size["every_s"])
            begun = begun or _held(parent)
            if lab.n("outages") and lab.rng.random() < 0.25:
                outages += 1
                _pacs_away(lab, site)
            else:
                kills += _kill(parent, lab.rng.choice(DOORS))
        done.set()
        sender.join()
        late = _undelivered(site, sent, lab.size["within"])
        lab.must(not late, f"{len(late)} of {len(sent)} cases are not delivered: {late[:3]}")
        for truth, headers in sent:
            wrong = [] if late else _wrong(site, truth, headers)
            lab.must(not wrong, f"{truth.patient_id}: {wrong[:2]}")
        ended = _held(parent)
        grown = {key: round(ended[key] - begun[key], 1) for key in ended}
        lab.figures |= {
            "seconds": lab.n("seconds"),
            "cases": len(sent),
            "kills": kills,
            "outages": outages,
            "growth": grown,
        }
        lab.must(kills, "nothing was killed")
        lab.must(grown["handles"] < 60, f"{grown['handles']:.0f} more open files")
    finally:
        done.set()
        status = site.stop()
    lab.must(status == 0, f"the service ended with {status}")


def analysed_once(lab: Lab) -> None:
    """F20's other half: the whole service gets one study several times at once over both doors, and analyses it once."""
    site, truth = Hospital(lab.folder / "h"), make_case(lab.folder, 4300)
    root = lab.folder / "h" / "service" / "storage"
    images: list[Dataset] = [ds for ds in map(dcmread, truth.files) if ds.Modality == "MG"]
    try:

        def by_dimse(chosen: list[Dataset]) -> None:
            with Peer(site.service.dicom_port) as peer:
                kinds = {1: (str(chosen[0].SOPClassUID), [str(chosen[0].file_meta.TransferSyntaxUID)])}
                lab.must(peer.associate(kinds, calling="PACS")[0] == 2, "an association was turned away")
                for ds in chosen:
                    status = peer.store(encoded(ds), str(ds.SOPClassUID), str(ds.SOPInstanceUID))
                    lab.must(status == 0, f"C-STORE answered {status:#x}")

        def by_stow(chosen: list[Dataset]) -> None:
            body, kind = multipart([part10(ds) for ds in chosen])
            headers = {"Authorization": f"Bearer {key_of(root)}", "Content-Type": kind}
            answer = httpx.post(f"{site.service.url}/dicom-web/studies", content=body, headers=headers, timeout=120)
            lab.must(answer.status_code == 200, f"STOW answered {answer.status_code}")

        orders = [lab.rng.sample(images, len(images)) for _ in range(lab.n("times"))]
        work = [threading.Thread(target=by_stow if n % 2 else by_dimse, args=(o,)) for n, o in enumerate(orders)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        late = _undelivered(site, [(truth, images)], lab.size["within"])
        by_stow(images)  # and once more when the result is there
        lab.must(not late, f"not delivered: {late}")
        wrong = [] if late else _wrong(site, truth, images)
        lab.must(not wrong, f"{wrong[:2]}")
        analyses = rows(root, "SELECT count(*) FROM job WHERE kind = 'analyse'")[0][0]
        revisions = rows(root, "SELECT count(*) FROM case_revision")[0][0]
        lab.must((analyses, revisions) == (1, 1), f"{analyses} analyses, {revisions} revisions of one study")
        lab.figures |= {"analyses": analyses, "sendings_to_a_whole_service": len(orders) + 1}
    finally:
        site.stop()


def _send_cases(lab: Lab, site: Hospital, sent: Sent, done: threading.Event) -> None:
    number = 4000
    while not done.is_set() and len(sent) < lab.n("cases"):
        number += 1
        truth = make_case(lab.folder, number)
        while not done.is_set():
            try:
                sent.append((truth, site.send(truth, lambda ds: ds.Modality == "MG")))
                break
            except (SystemExit, OSError, RuntimeError):  # the PACS is away: a modality tries again
                done.wait(1.0)
        done.wait(lab.size["every_s"])


def _kill(parent: psutil.Process, door: str) -> int:
    for process in parent.children():
        with suppress(psutil.Error):
            if door in process.cmdline():
                process.kill()
                return 1
    return 0


def _pacs_away(lab: Lab, site: Hospital) -> None:
    """The PACS stops, and comes back on the same address with what it had."""
    port, route = site.pacs.port, f"CMAN@127.0.0.1:{site.service.dicom_port}"
    site.pacs.stop()
    time.sleep(lab.rng.uniform(0.5, 2.0) * lab.size["every_s"])
    site.pacs = SimulatedPacs(site.folder / "pacs", "PACS", port, None, route, 0.5, ())
    site.pacs.start()


def _undelivered(site: Hospital, sent: Sent, within_s: float) -> list[str]:
    """Cases that have not all their images analysed and delivered in time."""
    deadline, waiting = time.monotonic() + within_s, list(sent)
    while waiting and time.monotonic() < deadline:
        with suppress(httpx.TransportError):  # a door that was killed often waits up to 30 s before it starts again
            waiting = [(truth, headers) for truth, headers in waiting if not _through(site.case(truth), len(headers))]
        time.sleep(0.5)
    states = [site.case(truth) for truth, _ in waiting]
    return [f"{case['state']} {case['reason']}" if case else "never came" for case in states]


def _through(case: dict[str, Any] | None, images: int) -> bool:
    return case is not None and case["modalities"].get("MG") == images and case["state"] == "delivered"


def _wrong(site: Hospital, truth: Any, headers: list[Any]) -> list[str]:
    """What is wrong with a case's objects in the PACS: not exactly the newest revision's, or not of this patient."""
    case = site.case(truth)
    assert case is not None
    artefacts = site.service.get(f"/v1/cases/{case['id']}/results")["artefacts"]
    newest = {a["sop_instance_uid"] for a in artefacts if a["media_type"] == "application/dicom"}
    results = site.results()
    mine = {study: [ds for ds in results.get(study, []) if str(ds.SOPInstanceUID) in newest]
            for study in {str(ds.StudyInstanceUID) for ds in headers}}  # fmt: skip
    found = [str(p) for p in problems({str(ds.SOPInstanceUID): ds for ds in headers}, mine)]
    held = sum(len(objects) for objects in mine.values())
    return found + ([] if held == len(newest) else [f"{held} of {len(newest)} objects in the PACS"])


def _held(parent: psutil.Process) -> dict[str, float]:
    """Memory (MB) and open files of the supervisor and its doors."""
    memory = handles = 0.0
    for process in [parent, *parent.children()]:
        with suppress(psutil.Error):
            memory += process.memory_info().rss / 1e6
            handles += process.num_fds()
    return {"memory_mb": memory, "handles": handles}
