"""A ledger with real doors around it, brought into situations by real sockets and real flows; then somebody asks why."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from casework.case import Artefact, CaseState
from casework.config import Destination, Dicom, Settings
from casework.dicom import scu
from casework.dicom.answers import StoreResult
from casework.entrypoints.ask import PacsAnswer, ask_pacs
from casework.entrypoints.explain import explain, next_code
from casework.entrypoints.presence import Presence
from casework.flows.assemble import Assembler
from casework.ledger import ClaimedJob, Why
from tests.deliver.objects import write
from tests.deliver.rig import dimse
from tests.fetch.rig import FAST, FetchRig, breast
from tests.simulators.orthanc import free_port

ACCESSION = "ACC-77"


class World(FetchRig):
    """One service and what a person is told of it."""

    def __init__(self, folder: Path, *destinations: Destination, **sections: Any) -> None:
        super().__init__(folder, *destinations, rules=sections.pop("fetch", FAST))
        self.port = free_port()
        given = {"dicom": Dicom(ae_title="CMAN", port=self.port), **sections}
        self.settings: Settings = replace(self.settings, **given)
        self.asked_at: datetime | None = None

    # --- making things happen --------------------------------------------------------------------------------

    def mg(self, **values: Any) -> Dataset:
        return breast("MG", **{"AccessionNumber": ACCESSION, **values})

    def sends(self, *images: Dataset, calling: str = "MODALITY", called: str = "CMAN") -> list[StoreResult]:
        """A modality sends over a real socket to the listener, which is started for that."""
        if self.listener is None:
            self.listen(self.port)
        there = dimse("us", self.port, aet=called, timeout_s=10.0)
        results = scu.store(there, [write(self.folder / "sent", ds) for ds in images], calling)
        deadline = time.monotonic() + 10
        while not self.ledger.read.associations() or any(not a.closed_at for a in self.ledger.read.associations()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return results

    def assemble(self, after_s: float = 0.0) -> None:
        """The keeper looks, so long after now; twice, as a PACS has to answer in between."""
        assembler = Assembler(self.ledger, self.settings)
        now, clock = datetime.now(UTC), time.monotonic()
        for _ in range(20 if any(d.query for d in self.settings.destination) else 1):
            assembler.step(now + timedelta(seconds=after_s), clock)
            clock += 0.3
            time.sleep(0.02)
        assembler.close()

    def queued(self, *images: Dataset) -> str:
        """A case in the queue."""
        case_id = self.arrives(*(images or (self.mg(),)))
        self.assemble(after_s=120)
        assert self.ledger.read.case(case_id).state is CaseState.QUEUED
        return case_id

    def claimed(self) -> ClaimedJob:
        """A worker takes the next case."""
        job = self.ledger.claim_job("analyse", "worker", 60, datetime.now(UTC))
        assert job is not None
        return job

    def rendered(self, *to: str) -> str:
        """A case whose result is on its way."""
        self.queued()
        job = self.claimed()
        ds = breast("SR", StudyInstanceUID="1.2.9")
        data = write(self.folder / "made", ds).path.read_bytes()
        made = Artefact(
            "sr", "application/dicom", "1.2.9", str(ds.SeriesInstanceUID), str(ds.SOPClassUID), str(ds.SOPInstanceUID),
            self.spool.put(data), len(data), "SR",
        )  # fmt: skip
        assert self.ledger.finish_job(job.job_id, job.fence, "{}", [made], [], list(to), datetime.now(UTC))
        return job.case_id

    def door_ran(self, door: str, error: BaseException | None = None) -> None:
        """A door ran for a moment, and ended."""
        presence = Presence(self.settings, door)
        presence.__enter__()
        time.sleep(0.05)
        presence.__exit__(type(error) if error else None, error, None)

    def doors_run(self, *doors: str) -> Sequence[Presence]:
        """Doors that stay up until the caller ends them."""
        up = [Presence(self.settings, door) for door in doors]
        for presence in up:
            presence.__enter__()
        deadline = time.monotonic() + 10
        while len(self.ledger.read.processes()) < len(doors):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return up

    # --- asking ----------------------------------------------------------------------------------------------

    def ask(self, query: str, *, pacs: bool = False) -> tuple[Why, str, list[str], list[str]]:
        """The answer, the code to act on, and what a person reads in English and Chinese."""
        now = self.asked_at or datetime.now(UTC)
        why = self.ledger.read.why(query, now)
        told: tuple[PacsAnswer, ...] = ask_pacs(self.settings, query) if pacs and not why.cases else ()
        lines = [list(explain(why, language, now, self.settings, told)) for language in ("en", "zh")]
        return why, next_code(why, told), lines[0], lines[1]
