"""The spool: names of its own, durable before visible, the first failed flush is the last."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from casework.errors import Defect, Unavailable
from casework.spool import Spool


def test_put_open_drop(tmp_path: Path) -> None:
    """Bytes come back by their digest; the same bytes twice are one object; a dropped one is gone."""
    spool = Spool(tmp_path)
    digest = spool.put(b"abc")
    assert digest == hashlib.sha256(b"abc").hexdigest() == spool.put(b"abc")
    with spool.open(digest) as file:
        assert file.read() == b"abc"
    assert list(spool.digests()) == [digest]
    assert spool.path(digest).stat().st_mode & 0o777 == 0o600
    spool.drop(digest)
    assert not spool.path(digest).exists()


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_only_a_digest_is_a_name(tmp_path: Path, name: str) -> None:
    """Anything but 64 lower-case hexadecimal digits is refused as a path."""
    with pytest.raises(Defect):
        Spool(tmp_path).path(name)


def test_wrong_digest_is_not_kept(tmp_path: Path) -> None:
    """A file is never stored under another digest than that of its bytes."""
    spool = Spool(tmp_path)
    incoming = spool.begin()
    incoming.write(b"abc")
    with pytest.raises(Defect, match="SPOOL_CORRUPT"):
        spool.keep(incoming, "0" * 64)
    incoming.abandon()
    assert not list(spool.digests())


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    """An object replaced by a symbolic link can't be opened."""
    spool = Spool(tmp_path / "root")
    digest = spool.put(b"abc")
    spool.path(digest).unlink()
    (tmp_path / "secret").write_bytes(b"secret")
    spool.path(digest).symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        spool.open(digest)


@pytest.mark.parametrize("broken_call", [1, 2])
def test_first_failed_flush_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_call: int) -> None:
    """EIO of the file's or the folder's flush fails the call and every later one, even when the disk works again."""
    spool, calls = Spool(tmp_path), 0
    real = os.fsync

    def broken(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == broken_call:
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    monkeypatch.setattr("casework.spool.os.fsync", broken)
    for _ in range(2):
        with pytest.raises(Unavailable, match="STORAGE_FAILED"):
            spool.put(b"abc")
    assert calls == broken_call


def test_full_disk_is_not_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC while writing is DISK_LOW, leaves nothing behind, and the next write works."""
    spool = Spool(tmp_path)

    def full(_: int, __: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("casework.spool.os.write", full)
        with pytest.raises(Unavailable, match="DISK_LOW"):
            spool.put(b"abc")
    assert not list((tmp_path / "incoming").iterdir())
    spool.put(b"abc")


@pytest.mark.parametrize("broken_open", [1, 2])
def test_being_short_of_handles_is_not_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_open: int) -> None:
    """EMFILE, for the file or for its folder, fails this call alone: nothing is wrong with the disk."""
    spool, calls = Spool(tmp_path), 0
    real = os.open

    def broken(*arguments: Any, **more: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == broken_open:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr("casework.spool.os.open", broken)
        with pytest.raises(Unavailable, match="RATE_LIMITED"):
            spool.put(b"abc")
    assert not list((tmp_path / "incoming").iterdir())
    spool.put(b"abc")


def test_a_parent_that_may_only_be_passed_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root inside a folder that we can't read is used all the same."""
    real = os.open

    def closed(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path) == str(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *arguments, **more)

    monkeypatch.setattr("casework.spool.os.open", closed)
    assert Spool(tmp_path / "root").put(b"abc")


def test_sweep_spares_the_living(tmp_path: Path) -> None:
    """Only files that no living writer holds are swept."""
    first, second = Spool(tmp_path), Spool(tmp_path)
    alive = first.begin()
    (tmp_path / "incoming" / f"{second._mark}-dead.part").write_bytes(b"x")
    assert second.sweep_incoming() == 1
    alive.write(b"abc")
    first.keep(alive, alive.sha256)
    assert second.sweep_incoming() == 0
    assert len(list(first.digests())) == 1


def test_prepared_cache_is_bounded(tmp_path: Path) -> None:
    """The cache keeps what was used last within its bound; a missing entry is nothing special."""
    spool = Spool(tmp_path)
    for n in range(5):
        path = spool.write_prepared(f"k{n}-abc", [b"x" * 60, b"y" * 40])
        os.utime(path, (1000 + n, 1000 + n))
    os.utime(spool.prepared_path("k0-abc"), (9000, 1000))
    assert spool.trim_prepared(250) == 3
    assert [spool.prepared_path(f"k{n}-abc").exists() for n in range(5)] == [True, False, False, False, True]
    with pytest.raises(Defect):
        spool.prepared_path("../x")


def test_usage(tmp_path: Path) -> None:
    """Usage adds up to at most the file system's size and its share lies between 0 and 1."""
    usage = Spool(tmp_path).usage()
    assert usage.used + usage.free <= usage.total
    assert 0 < usage.share < 1
