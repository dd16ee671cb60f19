"""Nothing acknowledged is ever missing: failures of the disk and the ledger, crashes between any two steps, drain."""

import contextlib
import errno
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from casework.entrypoints.listener import Listener
from casework.spool import Usage
from tests.bench import receivers
from tests.bench.instances import image
from tests.protocol.conftest import make_settings, migrated
from tests.protocol.peer import EXPLICIT, MR, Peer, encoded, store_one

SUCCESS, NO_RESOURCES = 0, 0xA700
BUSY = (3, bytes([0, 2, 3, 2]))
STEPS = "fsync,fdatasync,rename,pwrite64"


def test_failed_fsync_is_final(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one EIO of fsync: 0xA700, the failed call is never repeated, new associations are turned away, health is red."""
    calls = 0

    def broken(_: int) -> None:
        nonlocal calls
        calls += 1
        raise OSError(errno.EIO, "Input/output error")

    with Peer(listener.port) as peer:
        peer.associate()
        first, second = image(), image()
        with monkeypatch.context() as patch:
            patch.setattr("casework.spool.os.fsync", broken)
            assert peer.store(encoded(first), MR, str(first.SOPInstanceUID)) == NO_RESOURCES
        assert calls == 1
        assert peer.store(encoded(second), MR, str(second.SOPInstanceUID)) == NO_RESOURCES
    with Peer(listener.port) as late:
        assert late.associate() == BUSY
    assert (listener.health()["ok"], listener.health()["code"]) == (False, "STORAGE_FAILED")
    assert not listener.intake.probe()


def test_ledger_failure_stops_intake_until_it_works_again(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the ledger can't commit nothing is acknowledged; when it can again, intake opens by itself."""
    ds = image()
    lock = sqlite3.connect(listener.settings.root / "ledger" / "ledger.db")
    monkeypatch.setattr("casework.ledger.database._TIMEOUT_S", 0.2)
    lock.execute("ALTER TABLE receipt RENAME TO receipt_away")
    lock.commit()
    with Peer(listener.port) as peer:
        peer.associate()
        status = peer.store(encoded(ds), MR, str(ds.SOPInstanceUID))
        assert status in (NO_RESOURCES, 0x0110)
        lock.execute("ALTER TABLE receipt_away RENAME TO receipt")
        lock.commit()
        lock.close()
        assert listener.intake.probe()
        assert peer.store(encoded(ds), MR, str(ds.SOPInstanceUID)) == SUCCESS
    assert listener.health()["ok"]


@pytest.mark.parametrize(("share", "association", "status"), [(0.985, BUSY, None), (0.995, BUSY, NO_RESOURCES)])
def test_disk_watermarks(
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    association: tuple[int, bytes],
    status: int | None,
) -> None:
    """Above the watermark no association begins; above the hard one an open one's instances get 0xA700; then it recovers."""
    ds = image()
    with Peer(listener.port) as peer:
        peer.associate()
        with monkeypatch.context() as patch:
            used = int(share * 1e9)
            patch.setattr(listener.spool, "usage", lambda: Usage(10**9, used, 10**9 - used))
            with Peer(listener.port) as late:
                assert late.associate() == association
            assert peer.store(encoded(ds), MR, str(ds.SOPInstanceUID)) == (status or SUCCESS)
        assert peer.store(encoded(ds), MR, str(ds.SOPInstanceUID)) == SUCCESS
    assert len(set(listener.spool.digests())) == 1


def test_disk_that_fills_while_writing(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC in the middle of an instance: 0xA700, no half file, the next one is stored when there is room."""
    real, ds = os.write, image(rows=256, columns=256)

    def full(fd: int, data: bytes) -> int:
        if len(data) > 10000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    with Peer(listener.port) as peer:
        peer.associate()
        with monkeypatch.context() as patch:
            patch.setattr("casework.spool.os.write", full)
            assert peer.store(encoded(ds), MR, str(ds.SOPInstanceUID)) == NO_RESOURCES
        assert not list((listener.settings.root / "incoming").iterdir())
        assert peer.store(encoded(ds), MR, str(ds.SOPInstanceUID)) == SUCCESS


def test_too_large_an_instance_is_refused_while_it_arrives(start: Callable[..., Listener]) -> None:
    """An instance above the byte limit is refused without filling the disk, and the association goes on."""
    listener = start(max_instance_bytes=20_000)
    big, small = image(rows=256, columns=256), image()
    with Peer(listener.port) as peer:
        peer.associate()
        assert peer.store(encoded(big), MR, str(big.SOPInstanceUID)) == 0xC000
        assert peer.store(encoded(small), MR, str(small.SOPInstanceUID)) == SUCCESS
    assert len(set(listener.spool.digests())) == 1


def test_start_recovers_what_a_dead_process_left(tmp_path: Path) -> None:
    """Half files of dead processes go, those of living ones stay; open associations of a dead listener are closed."""
    settings = migrated(make_settings(tmp_path / "root"))
    first = Listener(settings)
    first.intake.open_association("A", "CMAN", "127.0.0.1")
    alive = first.spool.begin()
    alive.write(b"x")
    (settings.root / "incoming" / f"{first.spool._mark}-dead.part").write_bytes(b"half")
    second = Listener(settings)
    assert [p.name for p in (settings.root / "incoming").iterdir()] == [alive.path.name]
    (row,) = second.ledger.read.associations()
    assert row.closed_at is not None
    alive.abandon()
    for listener in (second, first):
        listener.start()
        listener.stop(1.0)


def present(folder: Path, sop_uid: str) -> bool:
    """Whether the ledger has the instance and the spool its bytes."""
    with sqlite3.connect(folder / "spool" / "ledger" / "ledger.db") as connection:
        rows = list(connection.execute("SELECT sha256 FROM instance WHERE sop_uid = ?", (sop_uid,)))
    return bool(rows) and (folder / "spool" / "objects" / rows[0][0][:2] / rows[0][0]).exists()


def traced(pid: int) -> None:
    """Wait until strace holds every thread of a process."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        states = [p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/status")]
        if states and not any("TracerPid:\t0\n" in state for state in states):
            return
        time.sleep(0.02)
    raise TimeoutError("strace did not attach")


@pytest.mark.parametrize("when", range(1, 7))
def test_kill_at_each_step_of_a_store(tmp_path: Path, when: int) -> None:
    """Killed at the n-th fsync, rename or ledger write of a C-STORE, no acknowledged instance is missing after a restart."""
    receiver = receivers.casework(tmp_path)
    tracer = subprocess.Popen(
        [
            *("strace", "-f", "-q", "-o", str(tmp_path / "strace"), "-e", f"trace={STEPS}"),
            *("-e", f"inject={STEPS}:signal=SIGKILL:when={when}", "-p", str(receiver.process.pid)),
        ]
    )
    try:
        traced(receiver.process.pid)
        acknowledged = []
        end = time.monotonic() + 60
        while receiver.process.poll() is None and time.monotonic() < end:
            ds = image()
            with contextlib.suppress(OSError):  # the kill comes in the middle of some store
                if store_one(receiver.port, ds) == SUCCESS:
                    acknowledged.append(str(ds.SOPInstanceUID))
        receiver.process.wait(10)
        assert receiver.process.returncode == -signal.SIGKILL
    finally:
        receivers.stop(receiver)
        tracer.wait(10)
    with receivers.running(receivers.casework(tmp_path, port=receiver.port)) as again:
        assert all(present(tmp_path, uid) for uid in acknowledged)
        assert not list((tmp_path / "spool" / "incoming").iterdir())
        assert store_one(again.port, image()) == SUCCESS


def test_sigterm_drains(tmp_path: Path) -> None:
    """On SIGTERM the port closes within a second, the open association finishes its instance, exit status 0."""
    receiver = receivers.casework(tmp_path)
    with Peer(receiver.port) as peer:
        peer.associate()
        os.kill(receiver.process.pid, signal.SIGTERM)
        time.sleep(1.5)
        with pytest.raises(OSError, match="refused"):
            Peer(receiver.port)
        ds = image()
        assert peer.store(encoded(ds), MR, str(ds.SOPInstanceUID)) == SUCCESS
        assert peer.release() == 6
    assert receiver.process.wait(10) == 0
    assert present(tmp_path, str(ds.SOPInstanceUID))


def test_one_bad_row_fails_alone(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that the ledger can't take for an unexpected reason fails alone; those in the same batch are stored."""
    real, poison = listener.ledger.record, image()

    def record(arrivals, now):  # type: ignore[no-untyped-def]  # as the real one
        if any(a.header and a.header.sop_instance_uid == poison.SOPInstanceUID for a in arrivals):
            raise ValueError("unexpected")
        return real(arrivals, now)

    monkeypatch.setattr(listener.ledger, "record", record)
    statuses: dict[str, int] = {}

    def send(ds) -> None:  # type: ignore[no-untyped-def]  # a Dataset
        statuses[str(ds.SOPInstanceUID)] = store_one(listener.port, ds)

    threads = [threading.Thread(target=send, args=(ds,)) for ds in [image(), poison, image(), image()]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.pop(str(poison.SOPInstanceUID)) == 0x0110
    assert list(statuses.values()) == [SUCCESS] * 3
    assert listener.health()["ok"]


def test_peers_are_checked_before_the_disk(start: Callable[..., Listener]) -> None:
    """A listener without room tells only known peers so; settings without a shared disk floor behave the same."""
    listener = start()
    listener.intake._settings = replace(
        listener.settings, storage=replace(listener.settings.storage, reserve_bytes=1 << 60)
    )
    with Peer(listener.port) as stranger:
        assert stranger.associate({1: (MR, [EXPLICIT])}, called="WRONG") == (3, bytes([0, 1, 1, 7]))
    with Peer(listener.port) as known:
        assert known.associate() == BUSY


def test_short_of_handles_only_this_instance_fails(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the process has no handle left an instance gets 0xA700, and the next one is taken: intake does not stop."""
    real, broken = os.open, [True]

    def short(path: str, *arguments: int, **more: int) -> int:
        if str(path).endswith(".part") and broken:
            broken.clear()
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, *arguments, **more)

    first, second = image(), image()
    with Peer(listener.port) as peer:
        peer.associate()
        monkeypatch.setattr("casework.spool.os.open", short)
        assert peer.store(encoded(first), MR, str(first.SOPInstanceUID)) == NO_RESOURCES
        assert peer.store(encoded(second), MR, str(second.SOPInstanceUID)) == SUCCESS
    assert listener.health()["ok"]


def test_a_header_that_breaks_the_reader_leaves_nothing(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error while an instance is judged ends its association, and its half file is gone at once."""

    def broken(*_: object) -> None:
        raise ArithmeticError

    ds = image()
    monkeypatch.setattr("casework.flows.intake.read_mapped", broken)
    with Peer(listener.port) as peer:
        peer.associate()
        assert peer.store(encoded(ds), MR, str(ds.SOPInstanceUID)) == -1
    assert not list((listener.settings.root / "incoming").iterdir())


def test_the_probe_asks_the_ledger(listener: Listener) -> None:
    """Intake does not open again while the ledger still can't write."""
    intake = listener.intake
    with listener.ledger._database.exclusive():
        listener.ledger._database._failed = "SQLITE_IOERR_FSYNC"
    intake.failure = "LEDGER_UNAVAILABLE"
    assert not intake.probe()
    assert intake.admit() == "LEDGER_UNAVAILABLE"
    listener.ledger._database._failed = ""
    assert intake.probe()
    assert intake.admit() == ""


def test_a_hammered_port_does_not_fill_the_ledger(listener: Listener) -> None:
    """Of many associations that are turned away at once only the first few get a row."""
    for _ in range(200):
        listener.intake.note_rejection("X", "Y", "127.0.0.1", "AE_NOT_ALLOWED")
    listener.intake.open_association("LAST", "CMAN", "127.0.0.1")
    rejected = [row for row in listener.ledger.read.associations(500) if row.end == "rejected"]
    assert 15 <= len(rejected) <= 30


def test_a_thread_that_cannot_start_gives_its_place_back(
    start: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the system gives no more threads the peer is turned away, and its place is free for the next."""
    listener = start(max_associations=1)

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("casework.dicom.scp.threading.Thread.start", none)
        with Peer(listener.port) as peer:
            assert peer.associate() == BUSY
    with Peer(listener.port) as peer:
        assert peer.associate()[0] == 2
        assert peer.echo() == SUCCESS
