"""Hostile files through the real doors of a whole service, whose workers then open what was accepted. For F34."""

import hashlib
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from casework.dicom.header import parse_file_meta
from casework.errors import Refused
from tests import corpora
from tests.api.samples import MG, mammogram, multipart
from tests.bench.reliability.lab import Lab
from tests.bench.reliability.traffic import rows
from tests.demo.service import Service
from tests.e2e.conftest import TINY
from tests.fuzz.test_targets import mutate
from tests.protocol.peer import EXPLICIT, Peer

ROOT = Path(__file__).resolve().parents[3]
SHARED = Path(os.environ.get("CASEWORK_SHARED") or ROOT.parent / "shared") / "data"
HANG_S = 10.0


@dataclass(frozen=True)
class Hostile:
    """One file and where it comes from."""

    name: str
    data: bytes


def hostile_files(count: int, rng: random.Random) -> tuple[list[Hostile], int]:
    """Files that `python -m tests.corpora` fetched (a sample where there are more), filled up with mutants; how many were fetched."""
    found = corpora.files()
    chosen = rng.sample(found, count) if len(found) > count else found
    fetched = [Hostile(f"{path.parent.name}/{path.stem[:12]}", path.read_bytes()) for path in chosen]
    seeds = [mammogram(PatientID="P-7", Manufacturer=maker) for maker in ("A", "B")]
    seeds += [path.read_bytes() for path in sorted(SHARED.rglob("*.dcm")) if path.stat().st_size < 1 << 20]
    made = [Hostile(f"mutant-{n}", mutate(rng, rng.choice(seeds))) for n in range(count - len(fetched))]
    return fetched + made, len(fetched)


def hostile_corpus(lab: Lab) -> None:
    """Each file by STOW-RS as it is, and its data set by C-STORE; one receipt each, no door ends, what was accepted is looked at."""
    files, fetched = hostile_files(lab.n("files"), lab.rng)
    settings = {"CASEWORK_WORK_MODEL": str(TINY), "CASEWORK_ASSEMBLY_QUIET_S": "2"}
    service = Service(lab.folder / "s", **settings)
    service.start("TEST", 1)
    root = lab.folder / "s" / "storage"
    try:
        doors = _doors(service)
        stow, dimse, slowest = Counter[str](), Counter[str](), 0.0
        key = (root / "secrets" / "admin.key").read_text().strip()
        with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
            for file in files:
                began = time.monotonic()
                stow[_by_stow(client, service.url, file)] += 1
                dimse[_by_dimse(service.dicom_port, file)] += 1
                took = time.monotonic() - began
                slowest = max(slowest, took)
                lab.must(took < 2 * HANG_S, f"{file.name} took {took:.0f} s")
        _settle(lab, service, lab.size["within"])
        verdicts = {
            str(word): int(str(count))
            for word, count in rows(root, "SELECT verdict, count(*) FROM receipt GROUP BY verdict")
        }
        states = {
            str(word): int(str(count))
            for word, count in rows(root, "SELECT state, count(*) FROM case_revision GROUP BY state")
        }
        ended = [name for pid, name in doors.items() if not psutil.pid_exists(pid)]
        memory = {
            name: round(psutil.Process(pid).memory_info().rss / 1e6)
            for pid, name in doors.items()
            if psutil.pid_exists(pid)
        }
    finally:
        status = service.stop()
    lab.figures |= {
        "files": len(files),
        "of_corpora": fetched,
        "stow": dict(stow),
        "dimse": dict(dimse),
        "receipts": verdicts,
    }
    lab.figures |= {"cases": states, "slowest_s": round(slowest, 1), "memory_mb": memory}
    lab.must(not ended, f"doors ended: {ended}")
    lab.must(status == 0, f"the service ended with {status}")
    answered = {"accepted", "refused", "not negotiated"}
    strange = {word: count for word, count in (stow + dimse).items() if word not in answered}
    lab.must(not strange, f"answers that are none of the three: {strange}")
    came = 2 * len(files) - dimse["not negotiated"]
    lab.must(sum(verdicts.values()) == came, f"{sum(verdicts.values())} receipts for {came} arrivals")
    lab.must(not {"queued", "running"} & set(states), f"cases that never end: {states}")
    log = (lab.folder / "s" / "service.log").read_text("utf-8", "replace")
    lab.must("python.uncaught" not in log, f"{log.count('python.uncaught')} uncaught errors in the log")
    lab.must(max(memory.values(), default=0) < 2000, f"memory: {memory}")


def _doors(service: Service) -> dict[int, str]:
    """Process id -> name of each door."""
    return {
        child.pid: child.cmdline()[3]
        for child in psutil.Process(service.pid).children()
        if "casework" in child.cmdline()
    }


def _by_stow(client: httpx.Client, url: str, file: Hostile) -> str:
    """The outcome of one request with this file."""
    body, kind = multipart([file.data], hashlib.sha256(file.data).hexdigest())
    try:
        answer = client.post(f"{url}/dicom-web/studies", content=body, headers={"Content-Type": kind})
    except httpx.TransportError as error:
        return type(error).__name__
    if answer.status_code == 200:
        return "accepted"
    named = (
        answer.status_code in (202, 409) and {"00081198", "0008119A"} & answer.json().keys()
    )  # with a UID, without one
    return "refused" if named else f"HTTP {answer.status_code}"


def _by_dimse(port: int, file: Hostile) -> str:
    """The outcome of one C-STORE of the data set, under the UIDs and the syntax that the file's meta information names."""
    try:
        meta = parse_file_meta(file.data)
        names = meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid
        start = meta.dataset_offset
    except Refused:
        names, start = (MG, "2.999." + str(int(hashlib.sha256(file.data).hexdigest()[:24], 16)), EXPLICIT), 0
    try:
        with Peer(port) as peer:
            if peer.associate({1: (names[0], [names[2]])})[0] != 2:
                return "turned away"
            if peer.results[1][0]:
                return "not negotiated"
            status = peer.store(file.data[start:], names[0], names[1])
            peer.release()
    except OSError as error:
        return type(error).__name__
    return "accepted" if status == 0 or status >> 12 == 0xB else "refused" if status > 0 else "no answer"


def _settle(lab: Lab, service: Service, within_s: float) -> None:
    """Wait until no case is on its way to its end any more."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        going = [
            service.get("/v1/cases", state=state)["items"] for state in ("receiving", "stable", "queued", "running")
        ]
        if not any(going):
            return
        time.sleep(1.0)
    lab.must(not any(going), f"cases are not at their end after {within_s:.0f} s")
