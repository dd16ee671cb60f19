"""Much, big, doubled and broken-off traffic that is honest: F20, F23, F25, F27, F28, F29."""

import hashlib
import signal
import sqlite3
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import httpx
import psutil
from pydicom.uid import generate_uid

from tests.api.samples import multipart
from tests.api.test_process import key_of, process
from tests.bench import receivers
from tests.bench.instances import MG_PRESENTATION, image, part10
from tests.bench.reliability.intake import Sender, associated, verdict
from tests.bench.reliability.lab import Lab
from tests.bench.reliability.oracle import dataset_offset
from tests.protocol.peer import EXPLICIT, MR, Peer, command, encoded, fragment, pdu


def rows(root: Path, query: str) -> list[tuple[object, ...]]:
    """Ask the ledger's file."""
    with closing(sqlite3.connect(root / "ledger" / "ledger.db")) as connection:
        return list(connection.execute(query))


def many_ways_at_once(lab: Lab) -> None:
    """F20: one study over both doors, several times at once, in different orders."""
    root = lab.folder / "spool"
    images = [
        image(StudyInstanceUID="1.2.3.4", SeriesInstanceUID="1.2.3.4.1", InstanceNumber=n)
        for n in range(lab.n("images"))
    ]
    told: dict[str, str] = {}
    with receivers.running(receivers.casework(lab.folder)) as receiver, process(root) as (_, url):
        data = {str(ds.SOPInstanceUID): encoded(ds) for ds in images}
        order = list(data)

        def by_dimse(chosen: list[str]) -> None:
            with associated(receiver.port) as peer:
                for uid in chosen:
                    if peer.store(data[uid], MR, uid) == 0:
                        told[uid] = hashlib.sha256(data[uid]).hexdigest()

        def by_stow(chosen: list[str]) -> None:
            parts = [part10(ds) for ds in sorted(images, key=lambda ds: chosen.index(str(ds.SOPInstanceUID)))]
            body, kind = multipart(parts)
            headers = {"Authorization": f"Bearer {key_of(root)}", "Content-Type": kind}
            answer = httpx.post(f"{url}/dicom-web/studies", content=body, headers=headers, timeout=120)
            lab.must(answer.status_code == 200, f"STOW answered {answer.status_code}")

        orders = [order, order[::-1], *(lab.rng.sample(order, len(order)) for _ in range(lab.n("times") - 2))]
        work = [threading.Thread(target=by_stow if n % 2 else by_dimse, args=(o,)) for n, o in enumerate(orders)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
    held = rows(root, "SELECT count(*), count(DISTINCT sop_uid) FROM instance")[0]
    cases = rows(root, "SELECT count(*) FROM case_revision")[0][0]
    lab.must(held == (len(images), len(images)), f"{held} rows for {len(images)} images")
    lab.must(cases == 1, f"{cases} cases")
    lab.figures |= {"images": len(images), "sendings": len(orders), "rows": held[0], "cases": cases}
    verdict(lab, root, told)


def broken_off(lab: Lab) -> None:
    """F23: after k acknowledged instances an association is aborted, cut or reset in the middle of the next."""
    receiver, sender, halves = receivers.casework(lab.folder), Sender(), []
    with receivers.running(receiver):
        for turn in range(lab.n("rounds")):
            with Peer(receiver.port) as peer:
                peer.associate()
                for _ in range(lab.rng.randrange(4)):
                    sender.send(peer)
                ds = image(rows=64, columns=64)
                halves.append(str(ds.SOPInstanceUID))
                peer.send(fragment(1, 3, command(1, MR, halves[-1], data=True)))
                peer.send(fragment(1, 0, encoded(ds)[: lab.rng.randrange(2, 7000)]))
                if turn % 3 == 0:
                    peer.send(pdu(7, bytes(4)))
        deadline = time.monotonic() + 30
        while rows(lab.folder / "spool", "SELECT count(*) FROM association WHERE closed_at IS NULL") != [(0,)]:
            if time.monotonic() > deadline:
                lab.must(False, "associations stay open")  # noqa: FBT003 - a plain complaint
                break
            time.sleep(0.2)
        lab.must(not list((lab.folder / "spool" / "incoming").iterdir()), "a half file is left")
    known = {uid for (uid,) in rows(lab.folder / "spool", "SELECT sop_uid FROM instance")}
    lab.must(not known & set(halves), f"{len(known & set(halves))} instances were taken that were never whole")
    lab.figures |= {"associations": lab.n("rounds"), "broken_off": len(halves)}
    verdict(lab, lab.folder / "spool", sender.told)


def drains(lab: Lab) -> None:
    """F25: SIGTERM while senders are at work; one association goes on with what it has begun."""
    port, senders, slowest, closed = receivers.free_port(), [Sender(k) for k in range(5)], 0.0, 0.0
    for turn in range(lab.n("rounds")):
        receiver = receivers.casework(lab.folder, port=port)
        try:
            work = [threading.Thread(target=_send_on, args=(port, s)) for s in senders[1:]]
            with associated(port) as polite:
                for thread in work:
                    thread.start()
                time.sleep(lab.rng.uniform(0.1, 0.5))
                began = time.monotonic()
                receiver.process.send_signal(signal.SIGTERM)
                closed = max(closed, _closes(port))
                lab.must(senders[0].send(polite) == 0, f"round {turn}: an open association was not let finish")
                with suppress(OSError):
                    polite.release()
            for thread in work:
                thread.join()
            try:
                status: int | None = receiver.process.wait(70)
            except subprocess.TimeoutExpired:
                status = None
            slowest = max(slowest, time.monotonic() - began)
            lab.must(status == 0, f"round {turn}: exit status {status}")
        finally:
            receivers.stop(receiver)
    lab.must(slowest <= 60, f"a drain took {slowest:.0f} s")
    lab.must(closed <= lab.size["closed_s"], f"the port stayed open for {closed:.1f} s")
    lab.figures |= {"drains": lab.n("rounds"), "port_closed_s": round(closed, 2), "slowest_exit_s": round(slowest, 2)}
    verdict(lab, lab.folder / "spool", {uid: d for s in senders for uid, d in s.told.items()})


def _send_on(port: int, sender: Sender) -> None:
    """Associations of five instances, until one is turned away."""
    with suppress(OSError):
        while True:
            with associated(port) as peer:
                for _ in range(5):
                    if sender.send(peer) != 0:
                        return
                peer.release()


def _closes(port: int) -> float:
    """How long new connections are still let in."""
    began = time.monotonic()
    while time.monotonic() - began < 30:
        try:
            Peer(port).sock.close()
        except OSError:
            break
        time.sleep(0.05)
    return time.monotonic() - began


def many_small(lab: Lab) -> None:
    """F27: thousands of 32 KiB instances over one association, then over ten."""
    receiver, count = receivers.casework(lab.folder), lab.n("images")
    told: dict[str, str] = {}
    with receivers.running(receiver):
        warm = Sender(99, rows=128)
        _many(receiver.port, warm, 50)
        before = receiver.rss_mb()
        for number, lines in enumerate((1, 10)):
            senders = [Sender(10 * number + k, rows=128) for k in range(lines)]
            work = [threading.Thread(target=_many, args=(receiver.port, s, count // lines)) for s in senders]
            began = time.monotonic()
            for thread in work:
                thread.start()
            for thread in work:
                thread.join()
            done = {uid: d for s in senders for uid, d in s.told.items()}
            lab.must(len(done) == count // lines * lines, f"{len(done)} of {count} acknowledged over {lines}")
            lab.figures[f"per_s_over_{lines}"] = round(len(done) / (time.monotonic() - began))
            told |= done
        grown = receiver.rss_mb() - before
    lab.figures["memory_growth_mb"] = round(grown, 1)
    lab.must(grown < lab.size.get("growth_mb", 100), f"memory grew by {grown:.0f} MB")
    verdict(lab, lab.folder / "spool", told)


def _many(port: int, sender: Sender, count: int) -> None:
    with suppress(OSError), associated(port) as peer:
        for _ in range(count):
            sender.send(peer)
        peer.release()


def huge(lab: Lab) -> None:
    """F28: one instance of gigabytes over each door; memory stays flat and nothing is written outside the spool."""
    frames, root = lab.n("mib") // 8, lab.folder / "spool"
    ds = image(MG_PRESENTATION, 2048, 2048, NumberOfFrames=frames)
    head, tail = encoded(ds)[: -(2048 * 2048 * 2) - 4] + (frames << 23).to_bytes(4, "little"), [bytes(8 << 20)] * frames
    whole = hashlib.sha256(head)
    for frame in tail:
        whole.update(frame)
    small, answers = Sender(), {}  # type: Sender, dict[str, object]
    told = {str(ds.SOPInstanceUID): whole.hexdigest()}
    with receivers.running(receivers.casework(lab.folder)) as receiver:

        def store() -> None:
            with Peer(receiver.port) as peer:
                peer.sock.settimeout(570)
                peer.associate({1: (MG_PRESENTATION, [EXPLICIT])})
                pieces = (frame[at : at + 200_000] for frame in [head, *tail] for at in range(0, len(frame), 200_000))
                answers["C-STORE"] = peer.store_pieces(pieces, MG_PRESENTATION, str(ds.SOPInstanceUID))

        _many(receiver.port, small, 3)
        _watched(lab, "C-STORE", receiver.process.pid, store)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file = part10(ds)[: -(2048 * 2048 * 2) - 4] + (frames << 23).to_bytes(4, "little")
    whole = hashlib.sha256(file[dataset_offset(file) :])
    for frame in tail:
        whole.update(frame)
    with process(root) as (api, url):

        def post() -> None:
            start = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file
            headers = {"Authorization": f"Bearer {key_of(root)}", "Content-Type": multipart([], "b")[1]}
            body = iter([start, *tail, b"\r\n--b--\r\n"])
            answers["STOW"] = httpx.post(
                f"{url}/dicom-web/studies", content=body, headers=headers, timeout=570
            ).status_code

        _watched(lab, "STOW", api.pid, post)
    told[str(ds.SOPInstanceUID)] = whole.hexdigest()
    lab.must(answers == {"C-STORE": 0, "STOW": 200}, f"the answers are {answers}")
    lab.figures["mib_each"] = lab.n("mib")
    verdict(lab, root, {**small.told, **told})


def _watched(lab: Lab, name: str, pid: int, work: Callable[[], None]) -> None:
    """How much a process grows while something is sent to it, and which files it has open."""
    me, seen, paths = psutil.Process(pid), 0.0, set[str]()
    before, thread = me.memory_info().rss, threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        seen = max(seen, (me.memory_info().rss - before) / 1e6)
        paths |= {f.path for f in me.open_files()}
        thread.join(0.1)
    lab.must(seen < 64, f"{name}: memory grew by {seen:.0f} MB")
    strange = [p for p in paths if not p.startswith(str(lab.folder))]
    lab.must(not strange, f"{name}: written outside the storage root: {strange[:3]}")
    lab.figures[f"{name}_growth_mb"] = round(seen, 1)


def many_associations(lab: Lab) -> None:
    """F29: as many associations as are allowed at once, and one more."""
    count, each = lab.n("associations"), lab.n("images")
    limits = {"CASEWORK_DICOM_MAX_ASSOCIATIONS": str(count), "CASEWORK_DICOM_MAX_ASSOCIATIONS_PER_PEER": str(count)}
    senders, took = [Sender(k) for k in range(count)], []
    with receivers.running(receivers.casework(lab.folder, environ=limits)) as receiver:
        inside, go_on = threading.Barrier(count + 1), threading.Event()

        def work(sender: Sender) -> None:
            with associated(receiver.port) as peer:
                peer.sock.settimeout(300)
                inside.wait(120)
                go_on.wait(120)
                for _ in range(each):
                    began = time.monotonic()
                    sender.send(peer)
                    took.append(time.monotonic() - began)

        threads = [threading.Thread(target=work, args=(s,)) for s in senders]
        for thread in threads:
            thread.start()
        try:
            inside.wait(120)
            with Peer(receiver.port) as late:
                lab.must(
                    late.associate() == (3, bytes([0, 2, 3, 2])), "one more than the limit isn't turned away cleanly"
                )
        except threading.BrokenBarrierError:
            lab.must(False, "an association below the limit was turned away")  # noqa: FBT003 - a plain complaint
        go_on.set()
        for thread in threads:
            thread.join()
    told = {uid: d for s in senders for uid, d in s.told.items()}
    lab.must(len(told) == count * each, f"{len(told)} of {count * each} acknowledged")
    p99 = statistics.quantiles(took, n=100)[98] if len(took) > 100 else max(took, default=0)
    lab.figures |= {"associations": count, "stores": len(told), "p99_s": round(p99, 2)}
    lab.must(p99 <= lab.size.get("p99_s", 60), f"p99 of a store is {p99:.1f} s")
    verdict(lab, lab.folder / "spool", told)
