"""The matrix: what each viewer showed of each kind of result, why not where it did not, and small pictures of it."""

import io
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from pydicom import dcmread

from tests.simulators.orthanc import Orthanc

WIDTH, COLOURS = 900, 96
KINDS = {
    "1.2.840.10008.5.1.4.1.1.88.34": "Structured report (Comprehensive 3D SR, TID 1500)",
    "1.2.840.10008.5.1.4.1.1.88.33": "Structured report (Comprehensive SR, TID 1500)",
    "1.2.840.10008.5.1.4.1.1.7": "Heat-maps (Secondary Capture)",
    "1.2.840.10008.5.1.4.1.1.7.4": "Heat-map cine (Multi-frame True Color SC)",
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "Parametric Map",
    "1.2.840.10008.5.1.4.1.1.11.1": "Presentation state (GSPS)",
    "1.2.840.10008.5.1.4.1.1.88.59": "Key Object Selection",
}
# What OHIF 3.13.2 can't show whatever the object says (results.md 9): no failure of ours, but the matrix says it.
KNOWN = {
    "1.2.840.10008.5.1.4.1.1.11.1": "OHIF has no handler for this SOP class",
    "1.2.840.10008.5.1.4.1.1.88.59": "OHIF has no handler for this SOP class",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """One line of OHIF's part: a series, the study list or the viewer's start."""

    study: str  # modality
    what: str
    sop_class: str
    instances: int
    ours: bool
    ok: bool
    why: str
    labels: tuple[str, ...]
    errors: tuple[str, ...]
    picture: Path | None


def read(report: Mapping[str, Any] | None, study: str, ours: set[str], folder: Path) -> list[Shown]:
    """The harness's report as lines; `ours`: the Series Instance UIDs of results."""
    lines: list[Shown] = []
    if report is None:
        nothing: tuple[str, ...] = ()
        return [
            Shown(
                study,
                "the study",
                "",
                0,
                ours=True,
                ok=False,
                why="OHIF hung",
                labels=nothing,
                errors=nothing,
                picture=None,
            )
        ]
    for item in report["results"]:
        classes = item.get("sopClasses", [])
        picture = folder / item["file"] if item.get("file") else None
        mine = item.get("uid") in ours
        lines.append(
            Shown(
                study=study,
                what=f"{item.get('modality', '')} {item.get('description', '')}".strip() or item["what"],
                sop_class=classes[0] if classes else "",
                instances=int(item.get("instances", 0)),
                ours=mine,
                ok=bool(item["ok"]),
                why=str(item.get("why") or ""),
                labels=tuple(item.get("labels") or ()),
                errors=tuple(item.get("errors") or ()),
                picture=picture if item["ok"] and (mine or item["what"] == "study list") else None,
            )
        )
    return lines


def others(pacs: Orthanc, ours: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """SOP class -> viewer -> what Orthanc's own picture and dcmtk's text make of one object of it."""
    found: dict[str, dict[str, str]] = {}
    for item in ours.values():
        sop_class = str(item["sop_class_uid"])
        if sop_class in found:
            continue
        path = f"/studies/{item['study_instance_uid']}/series/{item['series_instance_uid']}/instances/{item['sop_instance_uid']}"
        found[sop_class] = {"orthanc": _rendered(pacs.url + path + "/rendered")}
        data = pacs.file(str(item["sop_instance_uid"]))
        assert data is not None
        found[sop_class]["dcmtk"] = _by_dcmtk(data)
    return found


def _rendered(url: str) -> str:
    answer = httpx.get(url, headers={"Accept": "image/png"}, timeout=20)
    if answer.status_code != 200:
        return f"no ({answer.status_code})"
    picture = Image.open(io.BytesIO(answer.content)).convert("RGB")
    colours = picture.getcolors(1 << 24)
    return "yes" if colours and len(colours) > 8 else "blank"


def _by_dcmtk(data: bytes) -> str:
    """dsr2html for documents, dcmj2pnm for pictures; what dcmtk has no tool for is said so."""
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(data)
        file.flush()
        header = dcmread(file.name, stop_before_pixels=True)
        if str(header.Modality) in ("SR", "KO"):
            made = subprocess.run(["dsr2html", "+U8", file.name], capture_output=True, check=False)
            text = re.sub(r"<[^>]*>", " ", made.stdout.decode("utf-8", "replace"))
            return f"yes, {len(text.split())} words" if made.returncode == 0 and len(text.split()) > 20 else "no"
        if "Rows" not in header or str(header.Modality) in ("PR",):
            return "no tool"
        made = subprocess.run(["dcmj2pnm", "+on", "+F", "1", file.name, "/dev/null"], capture_output=True, check=False)
        return "yes" if made.returncode == 0 else "no"


def write(docs: Path, shots: Sequence[Shown], elsewhere: Mapping[str, Mapping[str, str]], *, hangs: bool) -> list[str]:
    """Write docs/viewers.md and its pictures; what is wrong, in words."""
    folder = docs / "images" / "viewers"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    names = {n: _keep(shot, folder, n) for n, shot in enumerate(shots) if shot.picture is not None}
    wrong = [f"{s.study}: {s.what}: {s.why}" for s in shots if s.ours and not s.ok and s.sop_class not in KNOWN]
    wrong += [f"{s.study}: {s.what}: console: {e}" for s in shots if s.ours for e in s.errors]
    wrong += [f"{s.study}: {s.what}: {s.why}" for s in shots if s.what == "study list" and not s.ok]
    text = (
        "\n".join([*_head(), *_table(shots, elsewhere), *_series(shots), *_remarks(hangs), *_pictures(shots, names)])
        + "\n"
    )
    (docs / "viewers.md").write_text(text, "utf-8")
    return wrong


def _keep(shot: Shown, folder: Path, number: int) -> str:
    """The screenshot, small: an indexed PNG."""
    assert shot.picture is not None
    name = f"{shot.study}-{number:02d}-{re.sub(r'[^a-z0-9]+', '-', shot.what.lower())[:40].strip('-')}.png"
    with Image.open(shot.picture) as picture:
        small = picture.convert("RGB")
        small.thumbnail((WIDTH, WIDTH))
        small.quantize(COLOURS).save(folder / name, optimize=True)
    return name


def _head() -> list[str]:
    return [
        "# What viewers show",
        "",
        "Written by `make viewers` (tests/viewers): a phantom case through the service into Orthanc 1.10, then OHIF 3.13.2 in headless",
        "Chromium over Orthanc's DICOMweb, Orthanc's own pictures (`/rendered`) and dcmtk 3.6.7 (`dsr2html`, `dcmj2pnm`).",
        "Only synthetic phantoms are on the pictures. Weasis, dcm4chee's viewers and commercial workstations were not run.",
        "",
    ]


def _table(shots: Sequence[Shown], elsewhere: Mapping[str, Mapping[str, str]]) -> list[str]:
    lines = ["| result | OHIF 3.13.2 | Orthanc 1.10 picture | dcmtk 3.6.7 |", "| --- | --- | --- | --- |"]
    for sop_class, name in KINDS.items():
        mine = [s for s in shots if s.ours and s.sop_class == sop_class]
        if not mine:
            continue
        other = elsewhere.get(sop_class, {})
        lines.append(f"| {name} | {_ohif(mine)} | {other.get('orthanc', '-')} | {other.get('dcmtk', '-')} |")
    return [*lines, ""]


def _ohif(mine: Sequence[Shown]) -> str:
    shown = [s for s in mine if s.ok]
    if len(shown) == len(mine):
        return f"shown ({', '.join(s.study for s in mine)})"
    why = KNOWN.get(mine[0].sop_class) or "; ".join(dict.fromkeys(s.why for s in mine if not s.ok))
    some = f"shown in {', '.join(s.study for s in shown)}; " if shown else ""
    return f"{some}**not shown**: {_cell(why)}"


def _series(shots: Iterable[Shown]) -> list[str]:
    lines = [
        "## OHIF, series by series",
        "",
        "| study | series | objects | shown | labels, or why not | console errors |",
    ]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for s in shots:
        said = ", ".join(s.labels[:4]) if s.ok else KNOWN.get(s.sop_class) or s.why
        mark = "**" if s.ours else ""
        lines.append(
            f"| {s.study} | {mark}{_cell(s.what)}{mark} | {s.instances or ''} | {'yes' if s.ok else 'no'} | {_cell(said)} | {len(s.errors)} |"
        )
    return [*lines, "", "Bold: ours.", ""]


def _remarks(hangs: bool) -> list[str]:
    """What the run can't say in a cell."""
    dynamic = "**OHIF hangs** on it (its viewport is set up again and again), so the browser's tab has to be closed"
    return [
        "## What to know",
        "",
        "- Of an SR of TID 1500 OHIF draws the numbers and regions with their labels; it never shows the text, the codes or the algorithm.",
        "  Side, outcome and limits are on the heat-maps and on the service's own page.",
        "- A finding site appears as its code value before its meaning; that is OHIF's label, the meaning is in the report.",
        "- A dynamic MRI with **all phases in one series** is one volume over time for OHIF. Opening the SR of such a study: "
        + (dynamic if hangs else "shown")
        + ". With a series per phase everything is shown (above).",
        "- OHIF's cine control lies over the upper edge of a series of several pictures until it is closed.",
        "",
    ]


def _pictures(shots: Sequence[Shown], names: Mapping[int, str]) -> list[str]:
    lines = ["## Pictures", ""]
    for number, name in names.items():
        shot = shots[number]
        lines += [f"{shot.study}, {shot.what}:", "", f"![{shot.study} {_cell(shot.what)}](images/viewers/{name})", ""]
    return lines


def _cell(text: str) -> str:
    """Text that can't break a table."""
    return re.sub(r"\s+", " ", text).replace("|", "/")[:160]
