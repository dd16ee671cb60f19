"""Run the demo; exit 0 only when the SR and the heat-maps arrived in the right studies with the right identity.

Everything it keeps is in .work/demo (case, PACS, service) and demo-out (what it fetched); `make clean` removes both.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from models.cman.phantom.dicom import write_case
from tests.demo.pacs import Pacs
from tests.demo.service import Service
from tests.demo.verify import problems
from tests.simulators import orthanc
from tests.simulators.pacs import SimulatedPacs

ROOT = Path(__file__).resolve().parents[2]
WORK, OUT = ROOT / ".work" / "demo", ROOT / "demo-out"
FINISHED = WORK / "finished"
SEED = 20261120
WAIT_S = 75.0
console = Console(highlight=False)


def main() -> int:
    """The whole demo."""
    begun = time.monotonic()
    stages: list[tuple[str, float]] = []
    with ExitStack() as stack:
        with _stage("make the case (deterministic, kept for the next run)", stages):
            images = _case()
        if not FINISHED.exists():  # the last run did not succeed: begin with an empty PACS and an empty service
            for name in ("orthanc", "simulator", "service"):
                shutil.rmtree(WORK / name, ignore_errors=True)
        service = Service(WORK / "service")
        stack.callback(service.stop)
        with _stage("start the PACS", stages):
            pacs, which = _pacs(stack, service.dicom_port)
        console.print(f"  PACS: {which}")
        with _stage("start the service", stages):
            service.start(pacs.ae_title, pacs.port)
        console.print(f"  service: {service.url} (status page), AE CMAN on port {service.dicom_port}")
        before = _known_results(pacs, images)
        with _stage("send three studies to the PACS, which routes them", stages):
            _send(pacs, images)
        with _stage("assembly, analysis and delivery", stages):
            case = _await(service, pacs, images)
        with _stage("fetch the results from the PACS", stages):
            found = _fetch(pacs, images)
        wrong = list(problems(images, found))
        wrong += _same_as_before(before, found)
        _keep(service, case, found)
        _tell(service, case, stages, time.monotonic() - begun)
    for words in wrong:
        console.print(f"[red]WRONG[/] {words}")
    count = sum(len(objects) for objects in found.values())
    again = "the same ones as before, no duplicates" if before else "written by this run"
    console.print(
        f"{'[red]FAILED[/]' if wrong else '[green]OK[/]'}: {count} result objects in {len(found)} studies, {again}; see {OUT.name}/"
    )
    if wrong:
        return 1
    FINISHED.touch()
    return 0


def _case() -> dict[str, Dataset]:
    """Write the case once; return the header of every image by SOP Instance UID, with its path as `filename`."""
    folder = WORK / "case"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with _progress() as progress:
            task = progress.add_task("images", total=None)
            write_case(folder, SEED, report=lambda _, done, total: progress.update(task, completed=done, total=total))
        (folder / "complete").touch()
    headers = [dcmread(path, stop_before_pixels=True) for path in sorted(folder.rglob("*.dcm"))]
    return {str(ds.SOPInstanceUID): ds for ds in headers}


def _pacs(stack: ExitStack, cman_port: int) -> tuple[Pacs, str]:
    """A PACS whose one rule routes MG, MR and US to us: Orthanc where it is installed, else the simulator."""
    if orthanc.available():
        real = orthanc.Orthanc(WORK / "orthanc", cman_port=cman_port)
        stack.callback(real.stop)
        real.start()
        return Pacs("127.0.0.1", real.port, real.aet), "Orthanc " + str(real.get("/system")["Version"])
    port = orthanc.free_port()
    simulated = SimulatedPacs(WORK / "simulator", "PACS", port, None, f"CMAN@127.0.0.1:{cman_port}", 1.0, ())
    simulated.start()
    stack.callback(simulated.stop)
    return Pacs("127.0.0.1", port, "PACS"), "the repository's simulator (Orthanc is not installed)"


def _send(pacs: Pacs, images: dict[str, Dataset]) -> None:
    with _progress() as progress:
        task = progress.add_task("images", total=len(images))
        for study in dict.fromkeys(str(ds.StudyInstanceUID) for ds in images.values()):
            paths = [Path(str(ds.filename)) for ds in images.values() if ds.StudyInstanceUID == study]
            pacs.store(paths, lambda _: progress.advance(task))


def _await(service: Service, pacs: Pacs, images: dict[str, Dataset]) -> dict[str, Any]:
    """Wait until the case is delivered and the PACS shows an SR in each study; return the case as the API tells it."""
    patient = str(next(iter(images.values())).PatientID)
    deadline = time.monotonic() + WAIT_S
    words, case = "", None
    with console.status("waiting") as status:
        while time.monotonic() < deadline:
            items = service.get("/v1/cases", q=patient)["items"]
            newest = [item for item in items if item["newest"]]
            if newest:
                case = service.get(f"/v1/cases/{newest[0]['id']}")
                reason = case["reason"] or {}
                words = f"{case['state']}: {reason.get('message', reason.get('code', ''))}"
                arrived = sum(case["modalities"].values())
                status.update(f"{arrived} of {len(images)} images; {words}")
                if case["state"] == "delivered" and arrived == len(images) and len(_known_results(pacs, images)) == 3:
                    return dict(case)
                if case["state"] in ("needs_attention", "rejected"):
                    break
            time.sleep(0.2)
    raise SystemExit(f"no result after {WAIT_S:.0f} s: {words or 'no case'}; see {WORK / 'service' / 'service.log'}")


def _result_series(pacs: Pacs, study: str) -> Iterator[str]:
    for answer in pacs.find("SERIES", StudyInstanceUID=study, SeriesInstanceUID="", Modality="", SeriesDescription=""):
        if answer.Modality in ("SR", "OT") and str(answer.get("SeriesDescription", "")).startswith("AI"):
            yield str(answer.SeriesInstanceUID)


def _known_results(pacs: Pacs, images: dict[str, Dataset]) -> dict[str, set[str]]:
    """Study -> SOP Instance UIDs of our results that the PACS holds; only studies that have an SR and a capture."""
    known = {}
    for study in dict.fromkeys(str(ds.StudyInstanceUID) for ds in images.values()):
        series = list(_result_series(pacs, study))
        if len(series) >= 2:
            keys = {"StudyInstanceUID": study, "SOPInstanceUID": ""}
            known[study] = {
                str(a.SOPInstanceUID) for s in series for a in pacs.find("IMAGE", SeriesInstanceUID=s, **keys)
            }
    return known


def _fetch(pacs: Pacs, images: dict[str, Dataset]) -> dict[str, list[Dataset]]:
    """C-GET every result series into demo-out; return study -> objects."""
    shutil.rmtree(OUT, ignore_errors=True)
    found: dict[str, list[Dataset]] = {}
    for study in dict.fromkeys(str(ds.StudyInstanceUID) for ds in images.values()):
        modality = next(str(ds.Modality) for ds in images.values() if ds.StudyInstanceUID == study)
        for number, series in enumerate(_result_series(pacs, study)):
            folder = OUT / modality / f"series-{number}"
            folder.mkdir(parents=True)
            found.setdefault(study, []).extend(dcmread(path) for path in pacs.get_series(study, series, folder))
    return found


def _same_as_before(before: dict[str, set[str]], found: dict[str, list[Dataset]]) -> list[str]:
    if not before:
        return []
    now = {study: {str(ds.SOPInstanceUID) for ds in objects} for study, objects in found.items()}
    return [] if now == before else ["the results are not those of the first run"]


def _keep(service: Service, case: dict[str, Any], found: dict[str, list[Dataset]]) -> None:
    """Write previews beside the DICOM objects, the structured result, and the report in words."""
    artefacts = service.get(f"/v1/cases/{case['id']}/results")["artefacts"]
    modality_of = {
        str(ds.StudyInstanceUID): Path(str(ds.filename)).parts[-3] for objects in found.values() for ds in objects
    }
    for item in artefacts:
        if item["kind"] == "preview":
            name = f"{item['label'].replace(' ', '-').replace('/', '-')}-{item['id']}.png"
            (OUT / modality_of[item["study_instance_uid"]] / name).write_bytes(service.download(item["url"]))
        elif item["kind"] == "result-json":
            result = json.loads(service.download(item["url"]))
            (OUT / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False), "utf-8")
            for language, text in result.get("words", {}).items():
                (OUT / f"report.{language}.txt").write_text(text, "utf-8")


def _tell(service: Service, case: dict[str, Any], stages: list[tuple[str, float]], total: float) -> None:
    """Print the report in words and the table of time per stage."""
    report = OUT / "report.en.txt"
    if report.exists():
        console.rule("report in words")
        console.print(report.read_text("utf-8"), markup=False)
    table = Table("stage", "seconds", title="time per stage")
    for name, seconds in stages:
        table.add_row(name, f"{seconds:.2f}")
    for name, seconds in case["stage_seconds"].items():
        table.add_row(f"  analysis: {name}", f"{seconds:.3f}")
    for name, seconds in _timeline(service, case):
        table.add_row(f"  case: {name}", f"{seconds:.2f}")
    table.add_row("all", f"{total:.1f}")
    console.print(table)


def _timeline(service: Service, case: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Seconds between the last image and each later state of the case."""
    from datetime import datetime

    last = datetime.fromisoformat(case["last_image_at"])
    for event in service.get(f"/v1/cases/{case['id']}/events")["items"]:
        state = event.get("detail", {}).get("to")
        if state in ("queued", "running", "rendered", "delivering", "delivered"):
            yield f"last image to {state}", (datetime.fromisoformat(event["at"]) - last).total_seconds()


def _progress() -> Progress:
    return Progress(
        TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


@contextmanager
def _stage(name: str, stages: list[tuple[str, float]]) -> Iterator[None]:
    console.print(f"[bold]{name}[/]")
    begun = time.monotonic()
    yield
    stages.append((name, time.monotonic() - begun))


if __name__ == "__main__":
    sys.exit(main())
