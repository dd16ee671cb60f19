"""A crash before every system call of one store, over both doors: F02."""

import contextlib
import hashlib
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import httpx

from tests.api.samples import multipart
from tests.api.test_process import key_of, process
from tests.bench import receivers
from tests.bench.instances import image, part10
from tests.bench.reliability.intake import Sender, associated, threads_of, tracing, verdict
from tests.bench.reliability.lab import Lab
from tests.bench.reliability.oracle import dataset_offset

STEPS = "openat,write,pwrite64,fsync,fdatasync,rename,ftruncate,unlink"


def each_syscall(lab: Lab) -> None:
    """F02: one C-STORE, then one STOW of three."""
    each_syscall_of_a_store(lab)
    each_syscall_of_a_request(lab)


def each_syscall_of_a_store(lab: Lab) -> None:
    """Killed before each system call of one store, thread by thread."""
    folder, port, sender = lab.place("store"), receivers.free_port(), Sender()
    positions = _positions(folder, port, sender, lab.folder / "calls")
    chosen = sorted(lab.rng.sample(positions, min(lab.n("positions"), len(positions))))
    reached = 0
    for rank, call, number in chosen:
        with receivers.running(receivers.casework(folder, port=port)) as receiver, associated(port) as peer:
            lab.must(not list((folder / "spool" / "incoming").iterdir()), f"a half file is left after {call} {number}")
            sender.send(peer)
            thread = threads_of(receiver)[rank]
            inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
            with tracing(thread, *inject, out=os.devnull):
                sender.send(peer)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    receiver.process.wait(1.0)
            reached += receiver.process.poll() == -signal.SIGKILL
    receivers.stop(receivers.casework(folder, port=port))
    lab.figures["C-STORE"] = f"{reached} of {len(positions)} positions"
    lab.must(reached > 0.3 * len(chosen), f"only {reached} of {len(chosen)} positions were reached")
    lab.must(not list((folder / "spool" / "incoming").iterdir()), "a half file is left after the last start")
    verdict(lab, folder / "spool", sender.told)


def _positions(folder: Path, port: int, sender: Sender, log: Path) -> list[tuple[int, str, int]]:
    """Where a store can be hit: rank of the thread, system call, its number there."""
    with receivers.running(receivers.casework(folder, port=port)) as receiver, associated(port) as peer:
        sender.send(peer)
        threads = threads_of(receiver)
        with tracing(receiver.process.pid, "-f", "-ff", "-e", f"trace={STEPS}", out=str(log)):
            sender.send(peer)
    found = []
    for rank, thread in enumerate(threads[1:], 1):  # the main thread only watches
        path = log.with_name(f"{log.name}.{thread}")
        lines = path.read_text("latin_1").splitlines() if path.exists() else []
        for call, count in Counter(line.partition("(")[0] for line in lines if "(" in line).items():
            found += [(rank, call, number) for number in range(1, count + 1)]
    return found


def each_syscall_of_a_request(lab: Lab) -> None:
    """Killed before each system call of a request of three parts, as its threads come to it."""
    root, told = lab.place("request") / "var", {}  # type: Path, dict[str, str]
    with process(root) as (running, url):
        _post(root, url, told)
        log = lab.folder / "request-calls"
        with tracing(running.pid, "-f", "-ff", "-e", f"trace={STEPS}", out=str(log)):
            _post(root, url, told)
    most: Counter[str] = Counter()
    for path in log.parent.glob(f"{log.name}.*"):
        lines = path.read_text("latin_1").splitlines()
        for call, count in Counter(line.partition("(")[0] for line in lines if "(" in line).items():
            most[call] = max(most[call], count)
    positions = [(call, number) for call, count in sorted(most.items()) for number in range(1, count + 1)]
    reached = 0
    for call, number in lab.rng.sample(positions, min(lab.n("positions"), len(positions))):
        with process(root) as (running, url):
            lab.must(not list((root / "incoming").iterdir()), f"STOW: a half file is left after {call} {number}")
            inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
            with tracing(running.pid, "-f", *inject, out=os.devnull):
                _post(root, url, told)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.wait(1.0)
            reached += running.poll() == -signal.SIGKILL
    with process(root):
        lab.must(not list((root / "incoming").iterdir()), "STOW: a half file is left after the last start")
    lab.figures["STOW"] = f"{reached} of {len(positions)} positions"
    lab.must(reached, "no position of a request was reached")
    verdict(lab, root, told)


def _post(root: Path, url: str, told: dict[str, str]) -> None:
    """Send three images, and write down those that the answer names as stored."""
    parts = {str(ds.SOPInstanceUID): part10(ds) for ds in (image(), image(), image())}
    body, kind = multipart(list(parts.values()))
    headers = {"Authorization": f"Bearer {key_of(root)}", "Content-Type": kind}
    try:
        answer = httpx.post(f"{url}/dicom-web/studies", content=body, headers=headers, timeout=60)
        stored = answer.json().get("00081199", {}).get("Value", []) if answer.status_code in {200, 202} else []
    except (httpx.TransportError, ValueError):
        return
    for item in stored:
        (uid,) = item["00081155"]["Value"]
        told[uid] = hashlib.sha256(parts[uid][dataset_offset(parts[uid]) :]).hexdigest()
