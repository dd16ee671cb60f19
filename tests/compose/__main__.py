"""`make e2e-compose`: from images to a hospital in a box, and each container restarted in turn while studies arrive.

Exit 0 only when every patient's results came back into the PACS by themselves, in the right studies, once.
"""

import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from rich.console import Console
from rich.table import Table

from models.cman.phantom.dicom import write_case
from tests.compose.stack import DOORS, ROOT, Stack
from tests.demo.pacs import Pacs
from tests.demo.verify import problems

SEED = 20261120
HEALTHY_S = 120.0
RESULT_S = 240.0
RESTARTED = (*DOORS, "postgres", "redis", "pacs")
console = Console(highlight=False)


def main() -> int:
    """Everything; the figures go to .work/compose.json."""
    stack = Stack()
    stack.down()
    try:
        figures: dict[str, Any] = {"build_s": round(stack.build(), 1), "healthy_s": round(stack.up(), 1)}
        console.print(f"built in {figures['build_s']} s, healthy in {figures['healthy_s']} s (at most {HEALTHY_S:.0f})")
        figures["idle"] = [
            {"door": name, "image_mb": round(size), "memory_mib": round(used)} for name, size, used in stack.sizes()
        ]
        _table(figures["idle"])
        wrong = [] if figures["healthy_s"] <= HEALTHY_S else ["not healthy in time"]
        with tempfile.TemporaryDirectory(prefix="casework-compose-") as folder:
            wrong += _answers(stack)
            wrong += _storm(stack, Path(folder), figures)
        out = ROOT / ".work" / "compose.json"
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(figures, indent=1), "utf-8")
    finally:
        stack.down()
    for words in wrong:
        console.print(f"[red]WRONG[/] {words}")
    console.print("[red]FAILED[/]" if wrong else "[green]OK[/]")
    return 1 if wrong else 0


def _answers(stack: Stack) -> list[str]:
    """C-ECHO and REST answer on the published ports, the REST with the key made at first start only."""
    wrong = []
    if not Pacs("127.0.0.1", stack.ports["DICOM_PORT"], "CMAN", calling="PACS").echo():
        wrong.append("the listener does not answer C-ECHO")
    if Pacs("127.0.0.1", stack.ports["DICOM_PORT"], "CMAN", calling="STRANGER").echo():
        wrong.append("the listener answers an AE title that is not on its list")
    if not _get(stack, "/v1/health/ready")["ready"]:
        wrong.append("the API is not ready")
    if _get(stack, "/v1/session")["role"] != "admin":
        wrong.append("the first key is not an admin's")
    return wrong


def _storm(stack: Stack, folder: Path, figures: dict[str, Any]) -> list[str]:
    """One patient with nothing disturbed, then one for each container, restarted while the patient's studies arrive."""
    pacs = Pacs("127.0.0.1", stack.ports["PACS_DICOM_PORT"], "ORTHANC", calling="MODALITY")
    patients: dict[str, dict[str, Dataset]] = {}
    figures["undisturbed_s"] = round(_one(stack, pacs, folder, 0, patients), 1)
    console.print(f"a study stored into the PACS came back with results in {figures['undisturbed_s']} s")
    figures["restarts"] = {}
    for number, service in enumerate(RESTARTED, 1):
        images = _case(folder, number)
        patients[service] = images
        if service == "pacs":  # it must take the images first; then it is gone while results are on their way
            _send(pacs, images)
            stack.compose("restart", "-t", "5", service)
        else:
            _send(pacs, images)
            stack.compose("kill", "-s", "KILL", service)
            time.sleep(2)
            stack.compose("start", service)
        figures["restarts"][service] = round(stack.healthy_again(service), 1)
        console.print(f"{service} restarted under load; well again {figures['restarts'][service]} s after its start")
    wrong = []
    for service, images in patients.items():
        found = _await(pacs, images)
        wrong += [f"{service}: {words}" for words in problems(images, found)]
    figures["patients"] = len(patients)
    return wrong


def _one(stack: Stack, pacs: Pacs, folder: Path, number: int, patients: dict[str, dict[str, Dataset]]) -> float:
    images = _case(folder, number)
    patients["nothing"] = images
    begun = time.monotonic()
    _send(pacs, images)
    _await(pacs, images)
    return time.monotonic() - begun


def _case(folder: Path, number: int) -> dict[str, Dataset]:
    """One small patient's images by SOP Instance UID."""
    place = folder / str(number)
    write_case(place, SEED + number, full_size=False)
    headers = [dcmread(path, stop_before_pixels=True) for path in sorted(place.rglob("*.dcm"))]
    return {str(ds.SOPInstanceUID): ds for ds in headers}


def _send(pacs: Pacs, images: Mapping[str, Dataset]) -> None:
    pacs.store([Path(str(ds.filename)) for ds in images.values()], lambda _: None)


def _await(pacs: Pacs, images: Mapping[str, Dataset]) -> dict[str, Sequence[Dataset]]:
    """Study -> result objects, once every study has an SR and the number no longer grows; what is there at the limit."""
    studies = {str(ds.StudyInstanceUID): ds for ds in images.values()}
    deadline, last = time.monotonic() + RESULT_S, -1
    while True:
        found = {uid: _results(pacs, uid) for uid in studies}
        count = sum(map(len, found.values()))
        complete = all({"SR", "OT"} <= {str(ds.Modality) for ds in objects} for objects in found.values())
        if (complete and count == last) or time.monotonic() > deadline:
            return dict(found)
        last = count
        time.sleep(2)


def _results(pacs: Pacs, study: str) -> list[Dataset]:
    objects: list[Dataset] = []
    try:
        series = [
            str(a.SeriesInstanceUID)
            for a in pacs.find(
                "SERIES", StudyInstanceUID=study, SeriesInstanceUID="", Modality="", SeriesDescription=""
            )
            if a.Modality in ("SR", "OT")
        ]
        for uid in series:
            with tempfile.TemporaryDirectory() as folder:
                objects += [dcmread(path) for path in pacs.get_series(study, uid, Path(folder))]
    except SystemExit:  # the PACS is being restarted
        return []
    return objects


def _get(stack: Stack, path: str) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.ports['HTTP_PORT']}{path}", headers={"Authorization": f"Bearer {stack.admin_key()}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own API on loopback
        return json.load(answer)


def _table(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table("container", "image MB", "memory MiB", title="idle")
    for row in rows:
        table.add_row(str(row["door"]), str(row["image_mb"]), str(row["memory_mib"]))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
