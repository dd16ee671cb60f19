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

from casework.config import PROFILES
from tests.simulators.orthanc import Orthanc

WIDTH, COLOURS = 900, 96
KINDS = {
    "sr": "Structured report (Comprehensive 3D SR, TID 1500)",
    "capture": "Heat-maps (Secondary Capture)",
    "cine": "Heat-map cine (Multi-frame True Color SC)",
    "slices": "MR slices with heat (Multi-frame True Color SC)",
    "parametric-map": "Parametric Map of an MRI",
    "segmentation": "Segmentation of an MRI",
    "segmentation-planar": "Segmentation of a mammogram or ultrasound image",
    "outline": "Presentation state (GSPS)",
    "key-object": "Key Object Selection",
    "not-performed": "AI not performed (Basic Text SR, TID 2000)",
}
# What OHIF 3.13.2 can't show whatever the object says: no failure of ours, but the matrix says it.
_NO_HANDLER = "OHIF has no handler for this SOP class"
KNOWN = {
    "parametric-map": "OHIF can't lay it over an MRI with all phases in one series; shown where each phase is one",
    "segmentation": "OHIF draws none on an MRI with all phases in one series; shown where each phase is one",
    "segmentation-planar": "left to chance: OHIF may open another image of the same series, without the region",
    "outline": _NO_HANDLER,
    "key-object": _NO_HANDLER,
}


@dataclass(frozen=True, slots=True)
class Shown:
    """One line of OHIF's part: a series, the study list or the viewer's start. kind: of a result of ours, else ""."""

    study: str  # profile and modality
    what: str
    kind: str
    instances: int
    ok: bool
    why: str
    labels: tuple[str, ...]
    errors: tuple[str, ...]
    picture: Path | None
    again: bool = False  # the study was opened a second time, since something was not shown the first time


def read(
    report: Mapping[str, Any] | None,
    study: str,
    ours: Mapping[str, Mapping[str, Any]],
    folder: Path,
    *,
    again: bool = False,
) -> list[Shown]:
    """The harness's report as lines; `ours`: the results by Series Instance UID; no report when OHIF hung."""
    if report is None:
        nothing: tuple[str, ...] = ()
        return [
            Shown(study, "the study", "sr", 0, ok=False, why="OHIF hung", labels=nothing, errors=nothing, picture=None)
        ]
    lines: list[Shown] = []
    for item in report["results"]:
        kind = str(ours.get(item.get("uid"), {}).get("kind", ""))
        picture = folder / item["file"] if item.get("file") else None
        lines.append(
            Shown(
                study=study,
                what=f"{item.get('modality', '')} {item.get('description', '')}".strip() or item["what"],
                kind=kind,
                instances=int(item.get("instances", 0)),
                ok=bool(item["ok"]),
                why=str(item.get("why") or ""),
                labels=tuple(item.get("labels") or ()),
                errors=tuple(item.get("errors") or ()),
                picture=picture if item["ok"] and (kind or item["what"] == "study list") else None,
                again=again,
            )
        )
    return lines


def others(pacs: Orthanc, ours: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, dict[str, str]]:
    """Kind -> viewer -> what Orthanc's own picture and dcmtk's text make of one object of it; the text is left in `folder`."""
    found: dict[str, dict[str, str]] = {}
    for item in ours.values():
        kind = str(item["kind"])
        if kind in found:
            continue
        path = f"/studies/{item['study_instance_uid']}/series/{item['series_instance_uid']}/instances/{item['sop_instance_uid']}"
        found[kind] = {"orthanc": _rendered(pacs.url + path + "/rendered")}
        data = pacs.file(str(item["sop_instance_uid"]))
        assert data is not None
        found[kind]["dcmtk"] = _by_dcmtk(data, folder / f"{kind}.html")
    return found


def _rendered(url: str) -> str:
    answer = httpx.get(url, headers={"Accept": "image/png"}, timeout=20)
    if answer.status_code != 200:
        return f"no ({answer.status_code})"
    picture = Image.open(io.BytesIO(answer.content)).convert("RGB")
    colours = picture.getcolors(1 << 24)
    return "yes" if colours and len(colours) > 8 else "blank"


def _by_dcmtk(data: bytes, page: Path) -> str:
    """dsr2html for documents, dcmj2pnm for pictures; what dcmtk has no tool for is said so."""
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(data)
        file.flush()
        header = dcmread(file.name, stop_before_pixels=True)
        if str(header.Modality) in ("SR", "KO"):
            made = subprocess.run(["dsr2html", "+U8", file.name], capture_output=True, check=False)
            page.write_bytes(made.stdout)
            text = re.sub(r"<[^>]*>", " ", made.stdout.decode("utf-8", "replace"))
            return f"yes, {len(text.split())} words" if made.returncode == 0 and len(text.split()) > 20 else "no"
        if "Rows" not in header or str(header.Modality) in ("PR",):
            return "no tool"
        made = subprocess.run(["dcmj2pnm", "+on", "+F", "1", file.name, "/dev/null"], capture_output=True, check=False)
        return "yes" if made.returncode == 0 else "no"


def write(docs: Path, shots: Sequence[Shown], elsewhere: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Write docs/viewers.md and its pictures; what is wrong, in words. What the profile `ohif` sends has no excuse."""
    folder = docs / "images" / "viewers"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    names = {n: _keep(shot, folder, n) for n, shot in enumerate(shots) if shot.picture is not None}
    wrong = []
    for s in shots:
        excused = s.kind in KNOWN and s.kind not in PROFILES["ohif"]
        if (s.kind or s.what == "study list") and not s.ok and not excused:
            wrong.append(f"{s.study}: {s.what}: {s.why}")
        wrong += [f"{s.study}: {s.what}: console: {e}" for e in s.errors if s.kind and not excused]
    text = [*_head(), *_table(shots, elsewhere), *_series(shots), *_remarks(), *_pictures(shots, names)]
    (docs / "viewers.md").write_text("\n".join(text) + "\n", "utf-8")
    return wrong


def _keep(shot: Shown, folder: Path, number: int) -> str:
    """The screenshot, small: an indexed PNG."""
    assert shot.picture is not None
    name = f"{number:02d}-{_slug(shot.study)}-{_slug(shot.what)}.png"
    with Image.open(shot.picture) as picture:
        small = picture.convert("RGB")
        small.thumbnail((WIDTH, WIDTH))
        small.quantize(COLOURS).save(folder / name, optimize=True)
    return name


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-")


def _head() -> list[str]:
    return [
        "# What viewers show",
        "",
        "Written by `make viewers` (tests/viewers): phantoms through the service into Orthanc 1.10, then OHIF 3.13.2 (the newest release) in",
        "headless Chromium over Orthanc's DICOMweb, Orthanc's own pictures (`/rendered`) and dcmtk 3.6.7 (`dsr2html`, `dcmj2pnm`).",
        "The demo's case (small images, all phases of its MRI in one series) goes out with the profile `ohif`: **every series of it has to be",
        "shown**, else the run fails. A second case and a study that is not analysed go out with `full`, in Chinese, which OHIF can't show whole.",
        "",
    ]


def _table(shots: Sequence[Shown], elsewhere: Mapping[str, Mapping[str, str]]) -> list[str]:
    lines = [
        "| result | in `ohif` | OHIF 3.13.2 | Orthanc 1.10 picture | dcmtk 3.6.7 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, name in KINDS.items():
        mine = [s for s in shots if s.kind == kind]
        if mine:
            other = elsewhere.get(kind, {})
            sent = "yes" if kind in PROFILES["ohif"] or kind == "not-performed" else "no"
            lines.append(
                f"| {name} | {sent} | {_ohif(mine)} | {other.get('orthanc', '-')} | {other.get('dcmtk', '-')} |"
            )
    return [*lines, ""]


def _ohif(mine: Sequence[Shown]) -> str:
    shown = [s for s in mine if s.ok]
    if mine[0].kind not in KNOWN and len(shown) == len(mine):
        return f"shown ({', '.join(s.study for s in mine)})"
    why = KNOWN.get(mine[0].kind) or "; ".join(dict.fromkeys(s.why for s in mine if not s.ok))
    some = f"shown in {', '.join(s.study for s in shown)}; " if shown else ""
    return f"{some}**not shown**: {_cell(why)}" if len(shown) < len(mine) else f"{some}{_cell(why)}"


def _series(shots: Iterable[Shown]) -> list[str]:
    lines = [
        "## OHIF, series by series",
        "",
        "| study | series | objects | shown | labels, or why not | console errors |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for s in shots:
        tried = f"{s.study} (second try)" if s.again else s.study
        said = ", ".join(s.labels[:4]) if s.ok else f"{s.why} ({KNOWN[s.kind]})" if s.kind in KNOWN else s.why
        mark = "**" if s.kind else ""
        lines.append(
            f"| {tried} | {mark}{_cell(s.what)}{mark} | {s.instances or ''} | {'yes' if s.ok else 'no'} | {_cell(said)} | {len(s.errors)} |"
        )
    return [*lines, "", "Bold: ours. A study's name is its profile, case and modality.", ""]


def _remarks() -> list[str]:
    """What the run can't say in a cell."""
    return [
        "## What to know",
        "",
        "- Of an SR of TID 1500 OHIF draws the numbers and regions with their labels; it never shows the text, the codes or the algorithm.",
        '  Side, outcome and limits are on the heat-maps and on the service\'s own page. A report that says "AI not performed" it shows whole.',
        "- A finding site appears as its code value before its meaning (`363698007: Breast`); that is OHIF's label. A region is never called",
        "  axilla, node or cancer: it says where in the images of a breast the evidence lies.",
        "- **MRI with all phases in one series**: OHIF makes one volume over time of it. A report with a place on one of its slices hangs the browser's tab",
        "  for good: the report's viewport asks for a stack, the volume for a volume, and each sets the other up again. An MRI's number comes",
        "  from all slices, so our report says it on the projection's heat-map instead; that is shown.",
        "- On such an MRI OHIF opens no parametric map (it looks for the volume under another name) and draws no segmentation. The profile",
        "  `ohif-phases` has both, for scanners that make a series of each phase; `ohif` has the slices with heat (`slices`) instead.",
        "- After such an MRI was shown, OHIF takes whatever is opened next *in the same viewport* for a volume: heat-maps opened by a double click stay black",
        '  ("Error compiling shader"). They are shown when the report is opened first, which leads to them.',
        "- **Segmentations of mammograms and single ultrasound images** are not in the profile `ohif`. OHIF makes one image set of each mammogram of a series.",
        "  When a segmentation's header arrives before the mammograms', OHIF later takes the first image set of that *series*, not the one that is referred",
        "  to: the region of the right breast may open the left one, without any region. The report's outline (`sr`) shows the same region on",
        "  the right image. For other viewers they are in `full`, or in a profile of one's own as `segmentation-planar`.",
        "- Presentation states and key objects have no handler in any release of OHIF (its issues 4106 and 3644 are open), and no extension adds",
        "  one. They are in `full` and `mammography-workstation` for viewers that have.",
        "- OHIF's cine control lies over the upper edge of a series of several pictures until it is closed.",
        "- Not run: Weasis and dcm4chee (in no package registry that this project uses: neither in Debian nor in npm or PyPI), commercial workstations.",
        "",
    ]


def _pictures(shots: Sequence[Shown], names: Mapping[int, str]) -> list[str]:
    lines = ["## Pictures", "", "Only synthetic phantoms.", ""]
    for number, name in names.items():
        shot = shots[number]
        lines += [f"{shot.study}, {shot.what}:", "", f"![{shot.study} {_cell(shot.what)}](images/viewers/{name})", ""]
    return lines


def _cell(text: str) -> str:
    """Text that can't break a table."""
    return re.sub(r"\s+", " ", text).replace("|", "/")[:160]
