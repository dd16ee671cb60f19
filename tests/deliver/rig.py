"""A real ledger and spool with a case whose results are rendered: where the outbox begins."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydicom.dataset import Dataset

from casework.case import Arrival, Artefact, CaseState, Header, Verdict
from casework.config import Assembly, Destination, Dicom, Settings, Storage, Work
from casework.flows.deliver import Breaker, DestinationWorker
from casework.ledger import DeliveryRow, Ledger
from casework.spool import Spool
from tests.deliver.objects import dataset, write

FAST = Work(retry_first_s=0.05, retry_max_s=0.2, heartbeat_s=0.2, lease_s=2.0)


def arrival(ds: Dataset, *, association: str = "a1", at: datetime | None = None, payload: str = "") -> Arrival:
    """A data set as intake would report it."""
    header = Header(
        str(ds.SOPInstanceUID),
        str(ds.SOPClassUID),
        str(ds.StudyInstanceUID),
        str(ds.SeriesInstanceUID),
        str(ds.file_meta.TransferSyntaxUID),
        str(ds.Modality),
        str(ds.PatientID),
        str(ds.get("IssuerOfPatientID", "")),
        str(ds.get("AccessionNumber", "")),
        str(ds.StudyDate),
    )
    digest = (payload or str(ds.SOPInstanceUID)).encode().hex().ljust(64, "0")[:64]
    return Arrival(
        Verdict.ACCEPTED, "", header, digest, 1000, "dimse", "MODALITY", association, at or datetime.now(UTC)
    )


class Rig:
    """Ledger, spool and settings below one folder; no process of the service runs."""

    def __init__(self, folder: Path, *destinations: Destination, work: Work = FAST, assembly: Assembly | None = None):
        self.folder = folder
        self._workers: list[DestinationWorker] = []
        self.settings = Settings(
            dicom=Dicom(ae_title="CMAN"),
            storage=Storage(root=str(folder / "root")),
            work=work,
            assembly=assembly or Assembly(),
            destination=destinations,
        )
        (folder / "root" / "ledger").mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger.open(self.settings.ledger_url)
        self.ledger.migrate()
        self.spool = Spool(folder / "root")

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self.ledger.close()

    def rendered(self, objects: Sequence[Dataset], to: Sequence[str], priority: int = 0) -> str:
        """A case of its own that has just been analysed, with these results on their way to these destinations."""
        now = datetime.now(UTC)
        source = dataset("MG", PatientID=f"P{time.monotonic_ns()}")
        case_id = self.ledger.record([arrival(source)], now)[0].case_id
        assert case_id is not None
        assert self.ledger.move_case(case_id, CaseState.RECEIVING, CaseState.STABLE, "QUEUED", "test", now)
        self.ledger.queue_case(case_id, priority, "test", now)
        job = self.ledger.claim_job("analyse", "test", 60, now)
        assert job is not None
        artefacts = [self.artefact(ds) for ds in objects]
        assert self.ledger.finish_job(job.job_id, job.fence, "{}", artefacts, [], list(to), now)
        return case_id

    def artefact(self, ds: Dataset) -> Artefact:
        """A stored result."""
        data = write(self.folder / "made", ds).path.read_bytes()
        kind = "sr" if ds.Modality == "SR" else "capture"
        return Artefact(
            kind,
            "application/dicom",
            str(ds.StudyInstanceUID),
            str(ds.SeriesInstanceUID),
            str(ds.SOPClassUID),
            str(ds.SOPInstanceUID),
            self.spool.put(data),
            len(data),
            kind,
        )

    def worker(
        self, destination: Destination, *, probe_s: float = 0.2, now: Callable[[], datetime] | None = None
    ) -> DestinationWorker:
        """A destination's worker that does not wait for minutes."""
        clock = {} if now is None else {"now": now}
        worker = DestinationWorker(
            self.ledger,
            self.spool,
            destination,
            self.settings,
            breaker=Breaker(probe_s, longest_s=1.0),
            draw=lambda: 1.0,
            **clock,
        )
        self._workers.append(worker)
        return worker

    def deliveries(self, case_id: str, destination: str = "") -> list[DeliveryRow]:
        """The case's deliveries."""
        rows = self.ledger.read.case_view(case_id).deliveries
        return [row for row in rows if destination in ("", row.destination)]

    def state(self, case_id: str) -> CaseState:
        return self.ledger.read.case(case_id).state

    def turn(self, worker: DestinationWorker) -> None:
        """What the keeper and the worker do in one round."""
        self.ledger.expire_leases(datetime.now(UTC))
        self.ledger.promote_due(datetime.now(UTC))
        worker.step()

    def turn_until(self, worker: DestinationWorker, done: Callable[[], bool], within_s: float = 40.0) -> None:
        """Rounds until `done`."""
        deadline = time.monotonic() + within_s
        while not done():
            assert time.monotonic() < deadline, "not in time"
            self.turn(worker)
            time.sleep(0.01)


def dimse(name: str, port: int, *, timeout_s: float = 10.0, aet: str = "PACS") -> Destination:
    """A destination on loopback."""
    return Destination(name, ae_title=aet, port=port, timeout_s=timeout_s)


def later(destination: Destination, **values: object) -> Destination:
    """The destination with other values."""
    return replace(destination, **values)  # type: ignore[arg-type]  # keyword by keyword


HOUR = timedelta(hours=1)
