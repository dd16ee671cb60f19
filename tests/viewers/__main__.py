"""Run the real OHIF over Orthanc with the service's results of a phantom case; write docs/viewers.md and its pictures.

Exit 0 when every result is shown or OHIF is known not to show its kind, and no console error is ours. Everything it
keeps is in .work/viewers. Needs Orthanc, Chromium, node and the shared harness; without them it says what is missing.
"""

import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from pydicom import Dataset, dcmread
from rich.console import Console

from models.cman.phantom.dicom import write_case
from tests.demo.pacs import Pacs
from tests.demo.service import Service
from tests.simulators import orthanc
from tests.viewers import harness, matrix

ROOT = Path(__file__).resolve().parents[2]
WORK, DOCS = ROOT / ".work" / "viewers", ROOT / "docs"
SEED = 20261101  # a positive side, with evidence in all three modalities
WAIT_S = 180.0
DYNAMIC_S = 90  # of OHIF for a study that it may hang on
console = Console(highlight=False)


def main() -> int:
    """The whole run."""
    lacking = _lacking()
    if lacking:
        console.print("The viewer matrix needs: " + "; ".join(lacking) + ".")
        return 2
    images, dynamic = _case("case", SEED, split=True), _case("dynamic", SEED + 2, split=False)
    shots: list[matrix.Shown] = []
    with ExitStack() as stack:
        for name in ("orthanc", "service"):
            shutil.rmtree(WORK / name, ignore_errors=True)
        service = Service(WORK / "service", profile="full")
        stack.callback(service.stop)
        real = orthanc.Orthanc(WORK / "orthanc", cman_port=service.dicom_port, route=False)
        stack.callback(real.stop)
        real.start()
        service.start(real.aet, real.port)
        console.print("sending two cases to the service and to the PACS")
        for each in (images, dynamic):
            paths = [Path(str(ds.filename)) for ds in each.values()]
            Pacs("127.0.0.1", real.port, real.aet).store(paths, lambda _: None)
            Pacs("127.0.0.1", service.dicom_port, "CMAN", calling=real.aet).store(paths, lambda _: None)
        ours = _results(service, images)
        _results(service, dynamic)
        copied = harness.copy(WORK / "harness")
        address = stack.enter_context(harness.viewer(copied, real.url))
        for study, modality in _studies(images).items():
            console.print(f"OHIF: the {modality} study")
            report = harness.shoot(copied, address, study, WORK / "out" / modality)
            shots += matrix.read(report, modality, set(ours), WORK / "out" / modality)
        study = next(uid for uid, modality in _studies(dynamic).items() if modality == "MR")
        console.print("OHIF: an MR study with all phases in one series")
        hangs = harness.shoot(copied, address, study, WORK / "out" / "dynamic", within_s=DYNAMIC_S) is None
        others = matrix.others(real, ours)
    wrong = matrix.write(DOCS, shots, others, hangs=hangs)
    for words in wrong:
        console.print(f"[red]WRONG[/] {words}", markup=True)
    shown = sum(each.ok for each in shots if each.ours)
    console.print(f"{shown} of {sum(each.ours for each in shots)} result series shown by OHIF; docs/viewers.md")
    return 1 if wrong else 0


def _lacking() -> list[str]:
    """What is missing on this machine, in words."""
    needed = {
        "Orthanc (apt-get install orthanc orthanc-dicomweb)": orthanc.available(),
        "Chromium (apt-get install chromium)": Path("/usr/bin/chromium").exists(),
        "node and npm (apt-get install nodejs npm)": bool(shutil.which("node") and shutil.which("npm")),
        "dcmtk (apt-get install dcmtk)": bool(shutil.which("dsr2html")),
        "the OHIF harness: CASEWORK_SHARED must name a folder with tools/ohif": harness.source() is not None,
    }
    return [words for words, there in needed.items() if not there]


def _case(name: str, seed: int, *, split: bool) -> dict[str, Dataset]:
    """Write a case once; the header of every image by SOP Instance UID, with its path as `filename`.

    Small images: a browser that draws in software takes minutes over full-size mammograms. split: a series per phase.
    """
    folder = WORK / name
    if not (folder / "complete").exists():
        console.print("making a case (kept for the next run)")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_case(folder, seed, full_size=False, series_per_phase=split)
        (folder / "complete").touch()
    headers = [dcmread(path, stop_before_pixels=True) for path in sorted(folder.rglob("*.dcm"))]
    return {str(ds.SOPInstanceUID): ds for ds in headers}


def _studies(images: dict[str, Dataset]) -> dict[str, str]:
    return {str(ds.StudyInstanceUID): str(ds.Modality) for ds in images.values()}


def _results(service: Service, images: dict[str, Dataset]) -> dict[str, dict[str, str]]:
    """The DICOM results of a case, once delivered, by Series Instance UID."""
    case = _await(service, str(next(iter(images.values())).PatientID))
    items = service.get(f"/v1/cases/{case}/results")["artefacts"]
    return {item["series_instance_uid"]: item for item in items if item["media_type"] == "application/dicom"}


def _await(service: Service, patient: str) -> str:
    """Wait until the patient's case is delivered; its id."""
    deadline = time.monotonic() + WAIT_S
    state = "no case"
    while time.monotonic() < deadline:
        for item in service.get("/v1/cases", q=patient)["items"]:
            state = item["state"]
            if state == "delivered" and item["newest"]:
                return str(item["id"])
        time.sleep(0.3)
    raise SystemExit(f"no result after {WAIT_S:.0f} s ({state}); see {WORK / 'service' / 'service.log'}")


if __name__ == "__main__":
    sys.exit(main())
