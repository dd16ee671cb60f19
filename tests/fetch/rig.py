"""A real ledger, spool and intake with a fetcher, and the listener where a PACS moves images to us."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from casework.case import CandidateState
from casework.config import Assembly, Destination, Dicom, Fetch, Settings, Storage
from casework.dicom import scu
from casework.entrypoints.fetch_worker import IntakeDoor
from casework.entrypoints.listener import Listener
from casework.flows.fetch import Fetcher
from casework.flows.intake import Context, Intake
from casework.ledger import CandidateRow, Ledger
from casework.spool import Spool
from tests.deliver.objects import dataset, write
from tests.deliver.rig import dimse

FAST = Fetch(retry_first_s=0.01, retry_max_s=0.02, max_attempts=2, images_per_s=10_000.0, time_zone="UTC")
DAY = "20260110"


def breast(modality: str = "MG", **values: Any) -> Dataset:
    """An image of patient P1's breast; keywords override."""
    given = {"StudyDate": DAY, "PatientBirthDate": "19700101", "BodyPartExamined": "BREAST", **values}
    return dataset(modality, **given)


class FetchRig:
    """Everything below one folder; `step` is one turn of the fetcher."""

    def __init__(self, folder: Path, *destinations: Destination, rules: Fetch = FAST) -> None:
        self.folder = folder
        self.settings = Settings(
            dicom=Dicom(ae_title="CMAN"),
            storage=Storage(root=str(folder / "root"), reserve_bytes=0, watermark=0.98, hard_watermark=0.99),
            assembly=Assembly(window_days=90),
            fetch=rules,
            destination=destinations,
        )
        (folder / "root" / "ledger").mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger.open(self.settings.ledger_url)
        self.ledger.migrate()
        self.spool = Spool(folder / "root")
        self.intake = Intake(self.spool, self.ledger, self.settings)
        self.door = IntakeDoor(self.intake, self.settings)
        self.at: datetime | None = None
        self.fetchers = [self.fetcher(d) for d in destinations]
        self.listener: Listener | None = None

    def listen(self, port: int) -> None:
        """Take what a PACS moves to us."""
        self.listener = Listener(replace(self.settings, dicom=replace(self.settings.dicom, port=port)))
        self.listener.start()

    def fetcher(self, destination: Destination) -> Fetcher:
        return Fetcher(self.ledger, self.spool, destination, self.settings, self.door, now=self.now)

    def now(self) -> datetime:
        return self.at or datetime.now(UTC)

    def close(self) -> None:
        if self.listener is not None:
            self.listener.stop(5)
        self.intake.close()
        self.ledger.close()

    def arrives(self, *images: Dataset) -> str:
        """Images come in as from a modality; returns the case."""
        case_id = ""
        for ds in images:
            reception = self.intake.start_part10(Context("stow", "MODALITY", "a1"))
            reception.write(write(self.folder / "made", ds).path.read_bytes())
            answer = reception.finish()
            assert answer.code == "", answer
            case_id = answer.case_id or ""
        return case_id

    def run(self, turns: int = 30) -> None:
        """Turns until nothing is left to do now."""
        for _ in range(turns):
            if all(fetcher.step() > 0 for fetcher in self.fetchers):
                return
        raise AssertionError("no end")

    def run_until(self, done: Callable[[], bool], within_s: float = 30.0) -> None:
        """Turns until `done`, with the waits between tries."""
        deadline = time.monotonic() + within_s
        while not done():
            assert time.monotonic() < deadline, "not in time"
            self.run()
            time.sleep(0.01)

    def candidates(self, case_id: str = "", term: str = "") -> list[CandidateRow]:
        read = self.ledger.read
        orders = read.fetches(case_id) if case_id else read.fetches_of_term(term)
        return [row for order in orders for row in order.candidates]

    def told(self, case_id: str) -> dict[str, tuple[CandidateState, str]]:
        """Study -> state and code."""
        return {row.study_uid: (row.state, row.code) for row in self.candidates(case_id)}

    def images(self, case_id: str) -> dict[str, str]:
        """SOP Instance UID -> transfer syntax of what the case holds."""
        rows = self.ledger.case_inputs(case_id)
        return {row.header.sop_instance_uid: row.header.transfer_syntax_uid for row in rows}


def fill(port: int, folder: Path, *images: Dataset, aet: str = "PACS") -> None:
    """Put images into a PACS."""
    there = replace(dimse("fill", port, aet=aet), timeout_s=20.0)
    results = scu.store(there, [write(folder, ds) for ds in images], "MODALITY")
    assert all(result.answer.name.startswith("STORED") for result in results), results
