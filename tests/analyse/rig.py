"""A worker with the real ledger, spool, children, engine and report in a folder."""

import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from casework.case import Arrival, CaseState, Verdict
from casework.config import Settings, Storage, Work
from casework.dicom.header import read_header
from casework.entrypoints.infer_worker import Worker
from casework.ledger import Ledger
from casework.preprocess.child import COMMAND
from casework.preprocess.prepared import VERSION
from casework.spool import Spool

MODELS = Path(__file__).parents[2] / "models"


def model(folder: Path, name: str = "cman-tiny") -> Path:
    """A copy of a package that says it was trained with this preprocessing: tests of the path, not of the answer."""
    copy = folder / name
    shutil.copytree(MODELS / name, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["preprocess"] = VERSION
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


class Rig:
    """One storage root, a ledger in it, and helpers that do what the other doors do."""

    def __init__(self, root: Path, **work: Any) -> None:
        self.root = root
        work.setdefault("report_process", False)  # most tests make the reports here: a process more costs a second each
        package = work.pop("model", None) or model(root / "models")
        self.settings = Settings(
            storage=Storage(
                root=str(root / "var"),
                reserve_bytes=0,
                watermark=0.99,
                hard_watermark=0.995,
                fsync=work.pop("fsync", True),
            ),
            work=Work(model=str(package), threads=2, **work),
        )
        self.settings.root.mkdir(parents=True)
        self.spool = Spool(self.settings.root)
        self.ledger = Ledger.open(self.settings.ledger_url)
        self.ledger.migrate()

    def arrive(self, files: Iterable[Path]) -> str:
        """Keep files in the spool and record them, as intake does; return the case's id."""
        arrivals = []
        now = datetime.now(UTC)
        for file in files:
            digest, size = self.spool.put(file.read_bytes()), file.stat().st_size
            arrivals.append(
                Arrival(Verdict.ACCEPTED, "", read_header(file), digest, size, "dimse", "TEST", uuid.uuid4().hex, now)
            )
        recorded = self.ledger.record(arrivals, now)
        (case_id,) = {r.case_id for r in recorded}
        assert case_id is not None
        return case_id

    def queue(self, case_id: str) -> None:
        """Declare a case complete, as assembly does."""
        now = datetime.now(UTC)
        assert self.ledger.move_case(case_id, CaseState.RECEIVING, CaseState.STABLE, "", "test", now)
        assert self.ledger.queue_case(case_id, 0, "test", now) is not None

    def worker(self, decoder: Sequence[str] = COMMAND) -> Worker:
        """A worker on this root; the caller closes it."""
        return Worker(self.settings, decoder)

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()


def changed(path: Path, target: Path, change: Callable[[Dataset], None]) -> Path:
    """A copy of a file with attributes changed."""
    ds = dcmread(path)
    change(ds)
    ds.save_as(target)
    return target
