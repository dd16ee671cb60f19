"""Intake under kills, power cuts, broken and full disks: F01 to F07."""

import contextlib
import hashlib
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from tests.api.samples import multipart
from tests.api.test_process import key_of, process
from tests.bench import receivers
from tests.bench.instances import image, part10
from tests.bench.killstorm import Journal, Template, check, storm
from tests.bench.receivers import Receiver
from tests.bench.reliability import powercut
from tests.bench.reliability.lab import Lab
from tests.bench.reliability.oracle import compare
from tests.protocol.peer import MR, Peer, encoded

OUT_OF_RESOURCES = 0xA700


def random_kills(lab: Lab) -> None:
    """F01."""
    journals = [Journal(k) for k in range(lab.n("senders"))]
    slowest = storm(lab.folder / "storm", journals, lab.n("rounds"), lab.rng, fsync=True, watch=False)
    try:
        told, missing, altered = check(lab.folder / "storm", journals)
    except RuntimeError as error:
        lab.must(False, str(error))  # noqa: FBT003 - a plain complaint
        return
    lab.figures |= {"rounds": lab.n("rounds"), "acknowledged": told, "missing": missing, "altered": altered}
    lab.figures["slowest_start_s"] = round(slowest, 1)
    lab.must(told > lab.n("rounds"), f"only {told} acknowledged: the storm did not happen")
    lab.must(not missing + altered, f"{missing} acknowledged instances are missing, {altered} are altered")


class Sender:
    """Sends instances one by one and writes down what was acknowledged, and when."""

    def __init__(self, number: int = 0, rows: int = 96) -> None:
        self.journal, self._template = Journal(number), Template(rows)
        self.acknowledged_at: list[tuple[float, str]] = []

    @property
    def told(self) -> dict[str, str]:
        """SOP Instance UID -> digest of what was acknowledged."""
        return self.journal.acknowledged

    def send(self, peer: Peer) -> int:
        """Send the next instance; its status, -1 for none."""
        uid = self.journal.next_uid()
        data = self._template.make(uid)
        try:
            status = peer.store(data, MR, uid)
        except OSError:
            status = -1
        if status == 0:
            self.acknowledged_at.append((time.time(), uid))
            self.told[uid] = hashlib.sha256(data).hexdigest()
        return status


@contextlib.contextmanager
def associated(port: int) -> Iterator[Peer]:
    """An open association."""
    with Peer(port) as peer:
        kind, _ = peer.associate()
        if kind != 2:
            raise ConnectionError("the association was turned away")
        yield peer


def verdict(lab: Lab, root: Path, told: dict[str, str], ledger: Path | None = None) -> None:
    """Compare and complain."""
    try:
        missing, altered = compare(root / "objects", ledger or root / "ledger" / "ledger.db", told)
    except (RuntimeError, OSError) as error:
        lab.must(False, str(error))  # noqa: FBT003 - a plain complaint
        return
    lab.figures |= {"acknowledged": len(told), "missing": missing, "altered": altered}
    lab.must(not missing + altered, f"{missing} of {len(told)} acknowledged instances are missing, {altered} altered")


def threads_of(receiver: Receiver) -> list[int]:
    """Its threads, the oldest first."""
    return sorted(int(p.name) for p in Path(f"/proc/{receiver.process.pid}/task").iterdir())


@contextlib.contextmanager
def tracing(task: int, *options: str, out: str) -> Iterator[None]:
    """Trace a task for as long as the block lasts."""
    tracer = subprocess.Popen(["strace", "-q", "-o", out, *options, "-p", str(task)], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while "TracerPid:\t0\n" in Path(f"/proc/{task}/status").read_text():
            if time.monotonic() > end:
                raise TimeoutError("strace did not attach")
            time.sleep(0.01)
        yield
    finally:
        tracer.terminate()
        tracer.wait(20)


def power_cuts(lab: Lab) -> None:
    """F03: nothing acknowledged is lost by a power cut at any acknowledgement."""
    lost, damaged, cuts = _cuts(lab, fsync=True)
    lab.must(not lost, f"{lost} acknowledged instances lost in {cuts} power cuts")
    lab.must(not damaged, f"the ledger is damaged after {damaged} of {cuts} power cuts")


def power_cuts_without_fsync(lab: Lab) -> None:
    """F04: the same with storage.fsync off must lose something."""
    lost, damaged, _ = _cuts(lab, fsync=False)
    lab.must(lost + damaged, "no loss is reported without fsync: the bench is blind")


def _cuts(lab: Lab, *, fsync: bool) -> tuple[int, int, int]:
    """Record stores of several senders, cut at acknowledgements; what was lost in all, damaged ledgers, cuts."""
    folder, port = lab.folder, receivers.free_port()
    senders = [Sender(k) for k in range(4)]
    with receivers.running(receivers.casework(folder, port=port, fsync=fsync)), associated(port) as peer:
        senders[0].send(peer)
    before, root = powercut.snapshot(folder / "spool", folder / "before"), folder / "spool"
    logs = lab.place("logs") / "log"
    receiver = receivers.casework(folder, port=port, fsync=fsync, wrap=[*powercut.STRACE, "-o", str(logs)])
    with receivers.running(receiver):
        work = [threading.Thread(target=_send_many, args=(port, s, lab.n("images") // 4)) for s in senders]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        for child in psutil.Process(receiver.process.pid).children():  # strace hands no signal on
            child.kill()
        receiver.process.wait(30)
    ops = powercut.recorded(logs, root)
    told = sorted(entry for s in senders for entry in s.acknowledged_at)
    digests = {uid: digest for s in senders for uid, digest in s.told.items()}
    moments = sorted(lab.rng.sample(range(len(told)), min(lab.n("cuts"), len(told))))
    disk, position, lost, damaged = powercut.Disk(before, root), 0, 0, 0
    for number, index in enumerate(moments):
        while position < len(ops) and ops[position].end <= told[index][0]:
            disk.play(ops[position])
            position += 1
        for mode in ("nothing", "some", "torn"):
            after = folder / f"cut{number}{mode}"
            disk.cut(after, lab.rng, mode)
            try:
                expected = {uid: digests[uid] for _, uid in told[: index + 1]}
                lost += sum(compare(after / "objects", after / "ledger" / "ledger.db", expected))
            except Exception as error:  # noqa: BLE001 - a ledger that can't be read is what is looked for
                damaged += 1
                lab.figures["damage"] = f"{type(error).__name__}: {error}"[:80]
    flushes = sum(op.call == "fsync" for op in ops)
    lab.figures |= {
        "acknowledged": len(told),
        "cuts": 3 * len(moments),
        "flushes": flushes,
        "lost": lost,
        "damaged": damaged,
    }
    lab.must(len(told) > lab.n("images") // 2, "too little was acknowledged to mean anything")
    return lost, damaged, 3 * len(moments)


def _send_many(port: int, sender: Sender, count: int) -> None:
    with associated(port) as peer:
        for _ in range(count):
            sender.send(peer)


def failed_flush(lab: Lab) -> None:
    """F05: EIO of an fsync, at the file and at the folder, is final until a restart."""
    for turn in range(lab.n("rounds")):
        folder, port, sender = lab.place(f"r{turn}"), receivers.free_port(), Sender()
        with receivers.running(receivers.casework(folder, port=port)) as receiver, associated(port) as peer:
            sender.send(peer)
            log, when = folder / "fsync.log", 1 + turn % 2  # of the association's thread: the file's, or the folder's
            thread = threads_of(receiver)[-1]
            with tracing(thread, "-e", "trace=fsync", "-e", f"inject=fsync:error=EIO:when={when}", out=str(log)):
                first = sender.send(peer)
                second = sender.send(peer)
                began = time.monotonic()
                try:
                    with associated(port):
                        lab.must(False, "an association was accepted after a failed flush")  # noqa: FBT003
                except (ConnectionError, OSError):
                    pass
                refused_s = time.monotonic() - began
            lines = [line for line in log.read_text().splitlines() if line.startswith("fsync")]
            lab.must(first == second == OUT_OF_RESOURCES, f"after EIO the answers are {first:#x} and {second:#x}")
            lab.must(len(lines) == when, f"{len(lines)} flushes, {when} expected: a failed one was repeated")
            health = _health(folder, wanted=False)
            lab.must(health.get("code") == "STORAGE_FAILED", f"health says {health.get('code')!r}")
            lab.figures |= {"answer": f"0x{first & 0xFFFF:04X}", "turned_away_s": round(refused_s, 2)}
        with receivers.running(receivers.casework(folder, port=port)), associated(port) as peer:
            lab.must(sender.send(peer) == 0, "no intake after a restart")
        verdict(lab, folder / "spool", sender.told)


def _health(folder: Path, *, wanted: bool, within_s: float = 20.0) -> dict[str, object]:
    """The listener's own sign of life, once it says `wanted`, or as it is after a while."""
    end, health = time.monotonic() + within_s, {}
    while time.monotonic() < end:
        for path in (folder / "spool" / "health").glob("*listener.json"):
            with contextlib.suppress(ValueError, OSError):
                health = json.loads(path.read_text())
        if health and bool(health.get("ok")) is wanted:
            break
        time.sleep(0.2)
    return dict(health)


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of its own in memory; needs root."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "bench", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def full_disk(lab: Lab) -> None:
    """F06: by the watermarks, and without them by ENOSPC in the middle of a write."""
    for name, marks in {"watermarks": ("0.90", "0.95"), "ENOSPC": ("0.998", "0.999")}.items():
        folder, port, sender = lab.place(name), receivers.free_port(), Sender(rows=512)
        away = {
            "CASEWORK_STORAGE_LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
            "CASEWORK_STORAGE_WATERMARK": marks[0], "CASEWORK_STORAGE_HARD_WATERMARK": marks[1],
            "CASEWORK_STORAGE_RESERVE_BYTES": "0",
        }  # fmt: skip
        with small_disk(folder / "spool", f"{lab.n('mib')}m") as root:
            (root / "ballast").write_bytes(bytes(4 << 20))
            with receivers.running(receivers.casework(folder, port=port, environ=away)) as receiver:
                with associated(port) as peer:
                    answers = [sender.send(peer) for _ in range(7 * lab.n("mib"))]  # of half a MiB
                    refused = Counter(f"0x{a & 0xFFFF:04X}" for a in answers if a != 0)
                    kept = len(sender.told)
                    lab.must(set(refused) == {"0xA700"}, f"{name}: refused with {dict(refused)}")
                    lab.must(not list((root / "incoming").iterdir()), f"{name}: a half file is left")
                    (root / "ballast").unlink()
                    began = time.monotonic()
                    while sender.send(peer) != 0 and time.monotonic() - began < 10:
                        time.sleep(0.2)
                recovery = time.monotonic() - began
                lab.must(len(sender.told) > kept, f"{name}: no intake 10 s after there was room again")
                lab.must(receiver.process.poll() is None, f"{name}: the listener ended")
            if name == "watermarks":
                _stow_into_a_full_disk(lab, root, away["CASEWORK_STORAGE_LEDGER_URL"], sender.told)
            lab.figures[name] = f"{kept} kept, {sum(refused.values())} refused, back in {recovery:.1f} s"
            verdict(lab, root, sender.told, folder / "ledger.db")


def _stow_into_a_full_disk(lab: Lab, root: Path, ledger: str, told: dict[str, str]) -> None:
    """507 while there is no room, 200 once there is."""
    ds = image(rows=256, columns=256)
    body, kind = multipart([part10(ds)])
    with process(root, STORAGE_LEDGER_URL=ledger) as (_, url):
        headers = {"Authorization": f"Bearer {key_of(root)}", "Content-Type": kind}
        room = os.statvfs(root)
        (root / "ballast").write_bytes(bytes(room.f_bavail * room.f_frsize))
        full = httpx.post(f"{url}/dicom-web/studies", content=body, headers=headers, timeout=60).status_code
        lab.must(full == 507, f"STOW into a full disk answers {full}")
        lab.must(not list((root / "incoming").iterdir()), "STOW: a half file is left")
        (root / "ballast").unlink()
        free = httpx.post(f"{url}/dicom-web/studies", content=body, headers=headers, timeout=60).status_code
        lab.must(free == 200, f"STOW answers {free} although there is room")
    told[str(ds.SOPInstanceUID)] = hashlib.sha256(encoded(ds)).hexdigest()
    lab.figures["STOW"] = f"{full}, then {free}"


def full_ledger(lab: Lab) -> None:
    """F07: the ledger's own disk is full, then one of its writes fails with EIO."""
    folder, port, sender = lab.folder, receivers.free_port(), Sender()
    with small_disk(folder / "small", "12m") as small:
        place = {"CASEWORK_STORAGE_LEDGER_URL": f"sqlite:///{small / 'ledger.db'}"}
        with receivers.running(receivers.casework(folder, port=port, environ=place)) as receiver:
            with associated(port) as peer:
                sender.send(peer)
                free = os.statvfs(small)
                (small / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize))
                answers = [sender.send(peer) for _ in range(lab.n("images"))]  # some pages may still fit
                lab.must(OUT_OF_RESOURCES in answers, f"a full ledger answers {sorted(set(answers))}")
                lab.must(_health(folder, wanted=False).get("code") == "LEDGER_UNAVAILABLE", "health stays green")
                (small / "ballast").unlink()
            back = _until_stored(port, sender)
            lab.must(back < 30, "no intake after there was room again")
            lab.must(receiver.process.poll() is None, "the listener ended")
            with associated(port) as peer, tracing(receiver.process.pid, "-f", *EIO, out=os.devnull):
                broken = [sender.send(peer) for _ in range(3)]
            lab.must(0 not in broken, "an instance was acknowledged although the ledger could not write")
            lab.must(receiver.process.poll() is None, "the listener ended on EIO")
        with receivers.running(receivers.casework(folder, port=port, environ=place)):
            lab.must(_until_stored(port, sender) < 30, "no intake after a restart")
        lab.figures |= {"refused_when_full": sum(a != 0 for a in answers), "refused_on_EIO": len(broken)}
        lab.figures["back_s"] = round(back, 1)
        verdict(lab, folder / "spool", sender.told, small / "ledger.db")


EIO = ("-e", "trace=pwrite64", "-e", "inject=pwrite64:error=EIO")


def _until_stored(port: int, sender: Sender) -> float:
    began = time.monotonic()
    while time.monotonic() - began < 30:
        with contextlib.suppress(OSError), associated(port) as peer:
            if sender.send(peer) == 0:
                break
        time.sleep(0.2)
    return time.monotonic() - began
