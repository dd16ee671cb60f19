"""Run the real OHIF over Orthanc with the service's results; write docs/viewers.md and its pictures.

The demo's case goes to an Orthanc with the profile `ohif`, in English: every result series has to be shown, opened by a link
and by a double click. With --full, a second case and a study that is not analysed go to another one with the profile `full`, in
Chinese: what OHIF can't show is said in the document.

Exit 0 when that holds and no console error is ours. Everything it keeps is in .work/viewers. Needs Orthanc, Chromium,
node and the shared harness; without them it says what is missing.
"""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pydicom import Dataset, dcmread
from rich.console import Console

from models.cman.phantom.dicom import write_case
from tests.demo.__main__ import SEED
from tests.demo.pacs import Pacs
from tests.demo.service import Service
from tests.simulators import orthanc
from tests.viewers import harness, matrix

ROOT = Path(__file__).resolve().parents[2]
WORK, DOCS = ROOT / ".work" / "viewers", ROOT / "docs"
SECOND = 20261101  # a positive side with evidence in all three modalities
WAIT_S = 240.0
console = Console(highlight=False)
Images = dict[str, Dataset]  # headers by SOP Instance UID, each with its path as `filename`
Case = tuple[str, Images, tuple[str, ...]]  # name, images, modalities to look at


def main() -> int:
    """The whole run."""
    lacking = _lacking()
    if lacking:
        console.print("The viewer matrix needs: " + "; ".join(lacking) + ".")
        return 2
    copied = harness.copy(WORK / "harness")
    suspicious = _case("suspicious", SECOND, split=False)
    begun = time.monotonic()
    shots, others = _hospital(
        copied, "ohif", "en", [("demo", _case("demo", SEED), ("MG", "MR", "US")), ("suspicious", suspicious, ("MR",))]
    )
    if "--full" in sys.argv:
        more, further = _others()
        shots, others = [*shots, *more], others | further
    wrong = matrix.write(DOCS, shots, others, minutes=(time.monotonic() - begun) / 60)
    for words in wrong:
        console.print(f"[red]WRONG[/] {words}", markup=True)
    console.print(f"{matrix.figure(shots)} docs/viewers.md")
    return 1 if wrong else 0


def _others() -> tuple[list[matrix.Shown], dict[str, dict[str, str]]]:
    """What the profile `full` adds, most of which OHIF can't show."""
    apart = ("phases apart", _case("phases-apart", SECOND, split=True), ("MG", "MR"))
    silent = ("not analysed", _implants(_case("implants", SECOND + 4)), ("MG",))
    return _hospital(WORK / "harness", "full", "zh", [apart, silent])


def _hospital(
    copied: Path, profile: str, language: str, cases: Sequence[Case]
) -> tuple[list[matrix.Shown], dict[str, dict[str, str]]]:
    """Cases through a service into an Orthanc, then their studies in OHIF; what others make of each kind of object."""
    shots: list[matrix.Shown] = []
    with ExitStack() as stack:
        for name in ("orthanc", "service"):
            shutil.rmtree(WORK / name / profile, ignore_errors=True)
        service = Service(WORK / "service" / profile, profile=profile, CASEWORK_REPORT_LANGUAGE=language)
        stack.callback(service.stop)
        pacs = orthanc.Orthanc(WORK / "orthanc" / profile, cman_port=service.dicom_port, route=False)
        stack.callback(pacs.stop)
        pacs.start()
        service.start(pacs.aet, pacs.port)
        console.print(f"sending {len(cases)} case(s) to a service with the profile {profile} and to its PACS")
        for _, images, _ in cases:
            paths = [Path(str(ds.filename)) for ds in images.values()]
            Pacs("127.0.0.1", pacs.port, pacs.aet).store(paths, lambda _: None)
            Pacs("127.0.0.1", service.dicom_port, "CMAN", calling=pacs.aet).store(paths, lambda _: None)
        ours = {uid: item for _, images, _ in cases for uid, item in _results(service, images).items()}
        address = stack.enter_context(harness.viewer(copied, pacs.url))
        for what, images, modalities in cases:
            for study, modality in _studies(images).items():
                if modality in modalities:
                    name = f"{profile} {what} {modality}"
                    console.print(f"OHIF: {name}")
                    mine = {uid: item for uid, item in ours.items() if item["study_instance_uid"] == study}
                    shots += _look(copied, address, name, mine, shots)
        return shots, matrix.others(pacs, ours, WORK / "out")


def _look(
    copied: Path, address: str, name: str, results: Mapping[str, Mapping[str, str]], before: Sequence[matrix.Shown]
) -> list[matrix.Shown]:
    """A study's results in OHIF: each by a link; in the other ways, what `before` lacks of their kinds over that modality.

    What is not shown is tried once more: a browser that draws in software sometimes fails on a busy machine.
    """
    study = next(iter(results.values()))["study_instance_uid"]
    found: list[matrix.Shown] = []
    for way in matrix.ways(name):
        done = {s.kind for s in before if s.way == way != "link" and s.study[-2:] == name[-2:]}
        only = [uid for uid, item in results.items() if item["kind"] not in done]
        if not only:
            continue
        harness.settings(copied, shipped=way == "shipped")
        out = WORK / "out" / f"{name.replace(' ', '-')}-{way}"
        for again in (False, True):
            report = harness.shoot(copied, address, study, out, only=only, linked=way == "link")
            lines = matrix.read(report, name, results, out, way=way, again=again)
            if all(line.ok or matrix.excuse(line) for line in lines):
                break
        found += lines
    return found


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


def _case(name: str, seed: int, *, split: bool | None = None) -> Images:
    """Write a case once. split: a series per phase of the MRI; None as the demo has it, all phases in one.

    Small images: a browser that draws in software takes minutes over full-size mammograms.
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


def _implants(images: Images) -> Images:
    """The case's mammograms, now with an implant, for which nothing is analysed."""
    left = {uid: ds for uid, ds in images.items() if ds.Modality == "MG"}
    for ds in left.values():
        whole = dcmread(str(ds.filename))
        whole.BreastImplantPresent = "YES"
        whole.save_as(str(ds.filename))
    return left


def _studies(images: Images) -> dict[str, str]:
    return {str(ds.StudyInstanceUID): str(ds.Modality) for ds in images.values()}


def _results(service: Service, images: Images) -> dict[str, dict[str, str]]:
    """The DICOM results of a case, once they were sent, by Series Instance UID."""
    case = _await(service, str(next(iter(images.values())).PatientID))
    items = service.get(f"/v1/cases/{case}/results")["artefacts"]
    return {item["series_instance_uid"]: item for item in items if item["media_type"] == "application/dicom"}


def _await(service: Service, patient: str) -> str:
    """Wait until all that was made of the patient's case was sent; its id."""
    deadline = time.monotonic() + WAIT_S
    state = "no case"
    while time.monotonic() < deadline:
        for item in service.get("/v1/cases", q=patient)["items"]:
            state = item["state"]
            if state in ("delivered", "rejected") and item["newest"]:
                sent = service.get(f"/v1/cases/{item['id']}/results")["deliveries"]
                if sent and all(one["state"] in ("stored", "committed") for one in sent):
                    return str(item["id"])
        time.sleep(0.3)
    raise SystemExit(f"no result after {WAIT_S:.0f} s ({state}); see {service.folder / 'service.log'}")


if __name__ == "__main__":
    sys.exit(main())
