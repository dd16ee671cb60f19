"""A phantom case, a PACS and the running service."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from models.cman.phantom.dicom import CaseTruth, write_case
from tests.demo.pacs import Pacs
from tests.demo.service import Service
from tests.simulators.pacs import SimulatedPacs

TINY = Path(__file__).resolve().parents[2] / "models" / "cman-tiny"


class Hospital:
    """A PACS that routes to the service, and the service that answers to the PACS."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.service = Service(folder / "service", CASEWORK_WORK_MODEL=str(TINY), **environment)
        self.pacs = SimulatedPacs(
            folder / "pacs", "PACS", 0, None, f"CMAN@127.0.0.1:{self.service.dicom_port}", 0.5, ()
        )
        self.pacs.start()
        self.client = Pacs("127.0.0.1", self.pacs.port, "PACS")
        self.service.start("PACS", self.pacs.port)

    def stop(self) -> int | None:
        """Stop both; return the service's exit status."""
        status = self.service.stop()
        self.pacs.stop()
        return status

    def send(self, truth: CaseTruth, only: Callable[[Dataset], bool] = lambda _: True) -> list[Dataset]:
        """Send a case's images to the PACS, study by study; return their headers."""
        headers: list[Dataset] = [dcmread(path, stop_before_pixels=True) for path in truth.files]
        chosen = [ds for ds in headers if only(ds)]
        for study in dict.fromkeys(str(ds.StudyInstanceUID) for ds in chosen):
            self.client.store([Path(str(ds.filename)) for ds in chosen if ds.StudyInstanceUID == study], lambda _: None)
        return chosen

    def case(self, truth: CaseTruth) -> dict[str, Any] | None:
        """The newest revision of the patient's case as the API tells it, or None."""
        items = [item for item in self.service.get("/v1/cases", q=truth.patient_id)["items"] if item["newest"]]
        return dict(self.service.get(f"/v1/cases/{items[0]['id']}")) if items else None

    def results(self) -> dict[str, list[Dataset]]:
        """Study -> our results in the PACS."""
        found: dict[str, list[Dataset]] = {}
        for stored in self.pacs.archive.all():
            ds = dcmread(stored.path)
            if ds.Modality in ("SR", "OT"):
                found.setdefault(str(ds.StudyInstanceUID), []).append(ds)
        return found


def make_case(folder: Path, seed: int, **options: Any) -> CaseTruth:
    """A small phantom case."""
    return write_case(folder / f"case-{seed}", seed, full_size=False, **options)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """One hospital for a module's tests; each test uses its own patient."""
    with ExitStack() as stack:
        made = Hospital(tmp_path_factory.mktemp("hospital"))
        stack.callback(made.stop)
        yield made
