"""A backup that is made while images come brings back every image that was acknowledged before it, or says that it can't."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from casework.config import Settings, Storage
from casework.entrypoints.backup import INDEX, make_backup, restore_backup
from casework.entrypoints.serve import Supervisor
from casework.errors import Defect, Refused
from casework.ledger import Ledger
from casework.spool import Spool
from tests.ledger.postgres_cluster import binaries
from tests.ops.writer import take_in


@pytest.fixture
def settings(tmp_path: Path, url: str) -> Settings:
    return Settings(storage=Storage(root=str(tmp_path / "root"), ledger_url=url))


@pytest.fixture(autouse=True)
def postgres_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{binaries()}:{os.environ['PATH']}")


@pytest.fixture
def elsewhere(tmp_path: Path, empty_url: str) -> Settings:
    """An empty place for a restore: another root, and another file or database."""
    return Settings(storage=Storage(root=str(tmp_path / "new"), ledger_url=empty_url))


def test_what_was_acknowledged_comes_back(
    ledger: Ledger, settings: Settings, elsewhere: Settings, tmp_path: Path, url: str
) -> None:
    """A door writes, the backup is made meanwhile, the door is killed and the root is lost: the restored one has it all."""
    command = [sys.executable, "-m", "tests.ops.writer", str(settings.root), url, "1"]
    door = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert door.stdout
        before = [int(door.stdout.readline()) for _ in range(20)]
        made = make_backup(settings, ledger, tmp_path / "backup", None)
    finally:
        door.kill()
        door.communicate()
    shutil.rmtree(settings.root)
    found = restore_backup(elsewhere, tmp_path / "backup")
    assert found == made
    again = Ledger.open(elsewhere.ledger_url)
    try:
        held = {row.header.sop_instance_uid: row.sha256 for row in again.read.instances(0, 10_000)}
        assert {f"1.2.{n}.1" for n in before} <= set(held)
        for number in before:
            digest = held[f"1.2.{number}.1"]
            assert (elsewhere.root / "objects" / digest[:2] / digest).read_bytes() == f"image {number}".encode() * 50
        assert again.read.verify_audit().ok
        take_in(again, Spool(elsewhere.root), 999)  # and goes on
        assert again.read.verify_audit().ok
    finally:
        again.close()


def test_a_restore_never_goes_over_anything(
    ledger: Ledger, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    """A used ledger, a root with images and a running service are refused, and nothing there changes."""
    take_in(ledger, Spool(settings.root), 1)
    make_backup(settings, ledger, tmp_path / "backup", None)
    with pytest.raises(Refused, match="STATE_FORBIDS"):
        restore_backup(settings, tmp_path / "backup")
    shutil.rmtree(settings.root / "objects")
    with pytest.raises(Refused, match=r"a ledger already|not empty"):
        restore_backup(settings, tmp_path / "backup")
    lock = Supervisor(elsewhere, None)._lock()
    try:
        with pytest.raises(Refused, match="a service runs"):
            restore_backup(elsewhere, tmp_path / "backup")
    finally:
        lock.close()
    with pytest.raises(Refused, match="not empty"):
        make_backup(settings, ledger, tmp_path / "backup", None)


@pytest.mark.parametrize("damage", ["object", "ledger", "missing", "half"])
def test_a_damaged_backup_is_refused(
    ledger: Ledger, settings: Settings, elsewhere: Settings, tmp_path: Path, damage: str
) -> None:
    """A flipped bit in an image or the ledger, a lost image, a backup that was never finished: said, and no ledger is made."""
    digest = take_in(ledger, Spool(settings.root), 1)
    out = tmp_path / "backup"
    made = make_backup(settings, ledger, out, None)
    file = {"object": out / "objects" / digest[:2] / digest, "ledger": out / made.ledger}.get(damage)
    if file:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "missing":
        (out / "objects" / digest[:2] / digest).unlink()
    else:
        (out / INDEX).unlink()
    with pytest.raises((Defect, Refused), match=r"LEDGER_CORRUPT|NOT_FOUND"):
        restore_backup(elsewhere, out)


def test_a_backup_of_a_damaged_store_is_no_backup(ledger: Ledger, settings: Settings, tmp_path: Path) -> None:
    """An image that is gone or changed on the disk stops the backup: it would be found when it is too late."""
    digest = take_in(ledger, Spool(settings.root), 1)
    file = settings.root / "objects" / digest[:2] / digest
    file.write_bytes(b"something else")
    with pytest.raises(Defect, match="not what its name says"):
        make_backup(settings, ledger, tmp_path / "a", None)
    file.unlink()
    with pytest.raises(Defect, match="missing"):
        make_backup(settings, ledger, tmp_path / "b", None)
    assert not (tmp_path / "b" / INDEX).exists()


def test_no_secret_is_in_a_backup(ledger: Ledger, settings: Settings, tmp_path: Path) -> None:
    """Keys and password files stay where they are; the configuration names them."""
    take_in(ledger, Spool(settings.root), 1)
    (settings.root / "secrets").mkdir()
    (settings.root / "secrets" / "api-keys.json").write_text("canary")
    config = tmp_path / "casework.toml"
    config.write_text("[report]\nlanguage = 'zh'\n")
    make_backup(settings, ledger, tmp_path / "backup", config)
    names = {p.name for p in (tmp_path / "backup").rglob("*") if p.is_file()}
    assert "api-keys.json" not in names
    assert "casework.toml" in names
    assert json.loads((tmp_path / "backup" / INDEX).read_text())["objects"] == 1
