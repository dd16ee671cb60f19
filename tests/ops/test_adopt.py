"""Images that lie in the spool and in no ledger come in again by one command: nothing is lost, doubled, changed or deleted."""

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from sqlalchemy import create_engine, insert

from casework.case import Verdict
from casework.config import Settings, Storage
from casework.entrypoints.adopt import adopt
from casework.entrypoints.backup import make_backup, restore_backup
from casework.flows.intake import Answer, Context, Intake
from casework.ledger import Ledger
from casework.ledger.schema_retention import removal
from casework.spool import Spool
from tests.api.samples import SR, mammogram
from tests.ledger.postgres_cluster import binaries


@pytest.fixture
def settings(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PATH", f"{binaries()}:{os.environ['PATH']}")
    return Settings(storage=Storage(root=str(tmp_path / "root"), ledger_url=url, reserve_bytes=0, hard_watermark=0.999))


def send(ledger: Ledger, settings: Settings, *files: bytes) -> list[Answer]:
    """Through the intake, as from a door."""
    answers = []
    with closing(Intake(Spool(settings.root), ledger, settings)) as intake:
        for file in files:
            reception = intake.start_part10(Context("stow", "TEST", ""))
            reception.write(file)
            answers.append(reception.finish())
    return answers


def held(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "objects").glob("*/*")}


def test_an_older_ledger_over_todays_spool(
    ledger: Ledger, settings: Settings, tmp_path: Path, url: str, empty_url: str
) -> None:
    """A ledger of this morning over the images of today: each one that it doesn't know is in it afterwards, once."""
    send(ledger, settings, mammogram(SOPInstanceUID="1.2.3.1", PatientID="P-1"))
    make_backup(settings, ledger, tmp_path / "backup", None)
    later = [
        mammogram(SOPInstanceUID=f"1.2.3.{n}", StudyInstanceUID=f"1.2.{n}", PatientID=f"P-{n}") for n in range(2, 6)
    ]
    told = [answer.sha256 for answer in send(ledger, settings, *later)]
    other = mammogram(SOPInstanceUID="1.2.3.2", StudyInstanceUID="1.2.2", PatientID="P-2", Rows=2)
    aside = send(ledger, settings, other)[0]
    assert aside.verdict is Verdict.KEPT_ASIDE
    before = held(settings.root)

    again = replace(settings, storage=replace(settings.storage, ledger_url=empty_url))
    restore_backup(again, tmp_path / "backup", over_images=True)
    restored = Ledger.open(again.ledger_url)
    try:
        found = adopt(again, restored, settled_s=0)
        assert found == Counter({"accepted": 4, f"kept_aside {aside.code}": 1})
        assert {row.sha256 for row in restored.read.instances()} >= set(told)
        assert len(restored.read.instances()) == 5
        assert held(settings.root) == before
        assert restored.read.verify_audit().ok
        assert {row.door for row in restored.read.receipts(5)} == {"adopt"}
        assert adopt(again, restored, settled_s=0) == Counter()
        assert [answer.verdict for answer in send(restored, again, later[0])] == [Verdict.DUPLICATE]
    finally:
        restored.close()


def test_what_is_damaged_ours_or_no_image_stays_where_it_is(ledger: Ledger, settings: Settings) -> None:
    """Flipped bits are told, own results and other files are left; no row is made of them, no byte is changed."""
    spool = Spool(settings.root)
    [known] = send(ledger, settings, mammogram())
    damaged = spool.put(mammogram(PatientID="P-2"))
    data = bytearray(spool.path(damaged).read_bytes())
    data[-1] ^= 1
    spool.path(damaged).write_bytes(data)
    ours = dcmread(
        DicomBytesIO(mammogram(SOPInstanceUID="2.25.7", Modality="SR", Manufacturer=settings.report.manufacturer))
    )
    ours.SOPClassUID = ours.file_meta.MediaStorageSOPClassUID = SR
    del ours.PixelData
    buffer = DicomBytesIO()
    ours.save_as(buffer, enforce_file_format=True)
    spool.put(buffer.getvalue())
    spool.put(b"{}")
    before, rows = held(settings.root), ledger.read.verify_audit().rows
    assert adopt(settings, ledger, settled_s=0) == Counter({"changed": 1, "result": 1, "no image": 1})
    assert held(settings.root) == before
    assert ledger.read.verify_audit().rows == rows
    assert [row.sha256 for row in ledger.read.instances()] == [known.sha256]


def test_what_a_door_has_in_hand_is_left_to_it(ledger: Ledger, settings: Settings) -> None:
    """An image of this moment is not taken from the door that keeps it; a dry run only counts."""
    spool = Spool(settings.root)
    digest = spool.put(mammogram())
    assert adopt(settings, ledger) == Counter()
    os.utime(spool.path(digest), times=(time.time() - 61,) * 2)
    assert adopt(settings, ledger, dry=True) == Counter(unknown=1)
    assert ledger.read.instances() == []
    assert adopt(settings, ledger) == Counter(accepted=1)


def test_a_backup_holds_what_was_kept_aside(
    ledger: Ledger, settings: Settings, tmp_path: Path, new_root: Callable[[], Settings]
) -> None:
    """Bytes that a person may still accept come back with the rest."""
    send(ledger, settings, mammogram(SOPInstanceUID="1.2.3.1"))
    [aside] = send(ledger, settings, mammogram(SOPInstanceUID="1.2.3.1", Rows=2))
    make_backup(settings, ledger, tmp_path / "backup", None)
    elsewhere = new_root()
    restore_backup(elsewhere, tmp_path / "backup")
    assert aside.sha256 in held(elsewhere.root)


def test_what_was_kept_aside_and_removed_by_policy_is_not_missed(
    ledger: Ledger, settings: Settings, tmp_path: Path, url: str
) -> None:
    """A backup doesn't look for bytes that retention took."""
    send(ledger, settings, mammogram(SOPInstanceUID="1.2.3.1"))
    [aside] = send(ledger, settings, mammogram(SOPInstanceUID="1.2.3.1", Rows=2))
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(insert(removal).values(sha256=aside.sha256, kind="images", days=1, at=datetime.now(UTC)))
    engine.dispose()
    Spool(settings.root).drop(aside.sha256)
    make_backup(settings, ledger, tmp_path / "backup", None)
    assert aside.sha256 not in held(tmp_path / "backup")


@pytest.fixture
def new_root(tmp_path: Path, empty_url: str) -> Callable[[], Settings]:
    return lambda: Settings(storage=Storage(root=str(tmp_path / "new"), ledger_url=empty_url))
