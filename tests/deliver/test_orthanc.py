"""Delivery into a real Orthanc, by C-STORE and by STOW-RS; and its routing, which our own results must not enter."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from casework.case import CaseState
from casework.config import Destination
from casework.dicom import scu
from tests.deliver.objects import body, dataset, write
from tests.deliver.rig import Rig, dimse
from tests.simulators import orthanc, pacs

MakeRig = Callable[..., Rig]


@pytest.mark.parametrize("kind", ["dimse", "stow"])
def test_orthanc_holds_each_result_once_and_as_rendered(make_rig: MakeRig, tmp_path: Path, kind: str) -> None:
    """SR and captures arrive in Orthanc byte for byte; sending all of them again changes nothing."""
    with orthanc.running(tmp_path / "orthanc", route=False) as real:
        destination = dimse("o", real.port, aet="ORTHANC", timeout_s=10)
        if kind == "stow":
            destination = Destination("o", kind="stow", url=real.url, timeout_s=10)
        rig = make_rig(destination)
        results = [dataset("SR"), dataset(payload=2_000_000), dataset()]
        case_id = rig.rendered(results, ["o"])
        worker = rig.worker(destination)
        rig.turn_until(worker, lambda: rig.state(case_id) is CaseState.DELIVERED)
        worker.close()
        with scu.StoreSession(dimse("o", real.port, aet="ORTHANC"), "CMAN") as again:
            for ds in results:
                again.send(write(tmp_path / "again", ds))
        assert len(real.get("/instances")) == 3
        for ds in results:
            got = real.file(str(ds.SOPInstanceUID))
            assert got is not None
            (tmp_path / "got.dcm").write_bytes(got)
            assert body(tmp_path / "got.dcm") == body(rig.folder / "made" / f"{ds.SOPInstanceUID}.dcm")


def test_an_orthanc_that_does_not_know_us_is_tried_again(make_rig: MakeRig, tmp_path: Path) -> None:
    """Orthanc accepts the association of an unknown AE and then drops it: that is no success, and it is tried again."""
    options = {"DicomAlwaysAllowStore": False}
    with orthanc.running(tmp_path / "orthanc", route=False, cman_aet="SOMEBODY", options=options) as real:
        destination = dimse("o", real.port, aet="ORTHANC")
        rig = make_rig(destination)
        case_id = rig.rendered([dataset("SR")], ["o"])
        rig.turn(rig.worker(destination))
        (delivery,) = rig.deliveries(case_id)
        assert delivery.code in ("PEER_OUTCOME_UNKNOWN", "PEER_REJECTED")
        assert delivery.next_at is not None
        assert real.get("/instances") == []


def test_orthanc_routes_images_and_never_our_results(tmp_path: Path) -> None:
    """Images of the three modalities go to CMAN soon after they came, results of CMAN never, a late image does."""
    with (
        pacs.running(tmp_path / "cman", aet="CMAN") as cman,
        orthanc.running(tmp_path / "orthanc", cman_port=cman.port) as real,
    ):
        there = dimse("o", real.port, aet="ORTHANC")
        first = dataset("MR")
        late = dataset("MR", StudyInstanceUID=first.StudyInstanceUID, SeriesInstanceUID=first.SeriesInstanceUID)
        ours = dataset("MG")  # would be routed, were it not from CMAN
        scu.store(there, [write(tmp_path / "out", ds) for ds in (first, dataset("US"), dataset("OT"))], "MODALITY")
        scu.store(there, [write(tmp_path / "out", ours)], "CMAN")
        wait(lambda: len(cman.archive.all()) >= 2)
        scu.store(there, [write(tmp_path / "out", late)], "MODALITY")
        wait(lambda: cman.holds(str(late.SOPInstanceUID)) is not None)
        time.sleep(1.5)
        assert {s.value("Modality") for s in cman.archive.all()} == {"MR", "US"}
        assert len(cman.archive.all()) == 3


def wait(done: Callable[[], bool], within_s: float = 20.0) -> None:
    started = time.monotonic()
    while not done():
        assert time.monotonic() - started < within_s
        time.sleep(0.05)
