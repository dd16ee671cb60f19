"""The matrix: what each viewer showed of each kind of result, why not where it did not, and small pictures of it."""

import io
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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
# Pictures with a scale and a warning in colour, and how many of the 40,000 points of the harness's look are at least coloured.
COLOURED, LEAST_COLOURED = ("capture", "cine", "slices"), 50
# How a series is opened, and with which settings of OHIF.
WAYS = {
    "link": "by a link, new page",
    "after": "by a double click, over the study's images",
    "shipped": "the same, settings of deploy/viewer",
}
STICKS = "OHIF keeps the MRI's kind of viewport, a volume, for what is opened next in it"


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
    way: str = "link"
    again: bool = False  # the study was opened a second time, since something was not shown the first time


def ways(study: str) -> tuple[str, ...]:
    """How a study's results are opened. Not all ways of what only `full` has: that takes a browser in software too long."""
    if not study.startswith("ohif "):
        return ("link",)
    return ("link", "after", "shipped") if study.endswith(" MR") else ("link", "after")


def excuse(s: Shown) -> str:
    """Why it is no failure of ours that OHIF does not show this, "" when it is one.

    What the profile `ohif` sends has no excuse, but one way of opening it: over an MRI with all phases in one series, as
    all MRIs of that profile have here.
    """
    if s.kind in KNOWN and s.kind not in PROFILES["ohif"]:
        return KNOWN[s.kind]
    over_a_volume = s.way == "after" and s.study.startswith("ohif ") and s.study.endswith(" MR")
    return STICKS if over_a_volume and s.kind in ("capture", "slices") else ""


def figure(shots: Iterable[Shown]) -> str:
    """The demo's result series in words."""
    mine = [s for s in shots if s.kind and s.study.startswith("ohif demo")]
    words = []
    for way, name in WAYS.items():
        opened = [s for s in mine if s.way == way]
        if opened:
            errors = sum(len(s.errors) for s in opened)
            words.append(f"{name}: {sum(s.ok for s in opened)} of {len(opened)} shown, {errors} console errors")
    return f"The demo's result series, opened {'; '.join(words)}."


def read(
    report: Mapping[str, Any] | None,
    study: str,
    ours: Mapping[str, Mapping[str, Any]],
    folder: Path,
    *,
    way: str = "link",
    again: bool = False,
) -> list[Shown]:
    """The harness's report as lines; `ours`: the results by Series Instance UID; no report when OHIF hung."""
    if report is None:
        nothing: tuple[str, ...] = ()
        return [
            Shown(
                study,
                "the study",
                "sr",
                0,
                ok=False,
                why="OHIF hung",
                labels=nothing,
                errors=nothing,
                picture=None,
                way=way,
            )
        ]
    lines: list[Shown] = []
    for item in report["results"]:
        kind = str(ours.get(item.get("uid"), {}).get("kind", ""))
        picture = folder / item["file"] if item.get("file") else None
        colours = int((item.get("canvas") or {}).get("coloured", 0))
        grey = bool(item["ok"]) and kind in COLOURED and colours < LEAST_COLOURED
        lines.append(
            Shown(
                study=study,
                what=f"{item.get('modality', '')} {item.get('description', '')}".strip() or item["what"],
                kind=kind,
                instances=int(item.get("instances", 0)),
                ok=bool(item["ok"]) and not grey,
                why="a picture without the heat-map's colours" if grey else str(item.get("why") or ""),
                labels=tuple(item.get("labels") or ()),
                errors=tuple(item.get("errors") or ()),
                picture=picture
                if item["ok"] and not grey and way == "link" and (kind or item["what"] == "study list")
                else None,
                way=way,
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


def write(
    docs: Path, shots: Sequence[Shown], elsewhere: Mapping[str, Mapping[str, str]], *, minutes: float = 0
) -> list[str]:
    """Write docs/viewers.md and its pictures; what is wrong, in words."""
    folder = docs / "images" / "viewers"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    names = {n: _keep(shot, folder, n) for n, shot in enumerate(shots) if shot.picture is not None}
    wrong = []
    for s in shots:
        excused = bool(excuse(s))
        if (s.kind or s.what == "study list") and not s.ok and not excused:
            wrong.append(f"{s.study}: {s.what}, opened {WAYS[s.way]}: {s.why}")
        wrong += [f"{s.study}: {s.what}: console: {e}" for e in s.errors if s.kind and not excused]
    text = [
        *_head(),
        *_outcome(shots, wrong, minutes),
        *_table(shots, elsewhere),
        *_series(shots),
        *_remarks(),
        *_pictures(shots, names),
    ]
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
        "shown**, else the run fails. With `ARGS=--full` a second case and a study that is not analysed go out with `full`, in Chinese, which",
        "OHIF can't show whole; where that has no rows below, what is said of it was seen in earlier runs.",
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
    """All ways of one kind in a cell: where it was shown, and why not elsewhere."""
    words = []
    for way, name in WAYS.items():
        opened = [s for s in mine if s.way == way]
        lost = [s for s in opened if not s.ok]
        if not opened:
            continue
        if not lost and mine[0].kind not in KNOWN:
            words.append(f"shown {name}")
            continue
        some = (
            f" in {', '.join(s.study for s in opened if s.ok)}{' only' if lost else ''}"
            if len(lost) < len(opened)
            else ""
        )
        why = excuse(opened[0]) or "; ".join(dict.fromkeys(excuse(s) or s.why for s in lost))
        words.append(f"{'shown' if some else '**not shown**'}{some}, {name}: {_cell(why)}")
    return "; ".join(words)


def _outcome(shots: Sequence[Shown], wrong: Sequence[str], minutes: float) -> list[str]:
    passed = "passed" if not wrong else "did not pass: " + _cell("; ".join(wrong))
    return [f"The run of {datetime.now(UTC).date()} took {minutes:.0f} minutes and {passed}.", figure(shots), ""]


def _series(shots: Sequence[Shown]) -> list[str]:
    """A line for each series: in which ways it was shown."""
    lines = [
        "## OHIF, series by series",
        "",
        f"| study | series | objects | {' | '.join(WAYS.values())} | labels, or why not |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    found: dict[tuple[str, str], dict[str, Shown]] = {}
    for s in shots:
        found.setdefault((s.study, s.what), {})[s.way] = s
    for (study, what), opened in found.items():
        first = next(iter(opened.values()))
        said = dict.fromkeys(excuse(s) or s.why for s in opened.values() if not s.ok)
        words = _cell("; ".join([*first.labels[:4], *said]))
        mark = "**" if first.kind else ""
        cells = " | ".join(_yes(opened.get(way)) for way in WAYS)
        lines.append(f"| {study} | {mark}{_cell(what)}{mark} | {first.instances or ''} | {cells} | {words} |")
    return [
        *lines,
        "",
        "Bold: ours. A study's name is its profile, case and modality. A number in brackets: console errors. -: not opened in this way.",
        "",
    ]


def _yes(s: Shown | None) -> str:
    if s is None:
        return "-"
    return ("yes" if s.ok else "no") + (f" ({len(s.errors)})" if s.errors else "") + (", second try" if s.again else "")


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
        "- **Heat-maps opened over such an MRI** stay black in OHIF as it is released: for a volume over time it sets the viewport's kind to volume and never",
        "  sets it back, so the next series in that viewport is drawn as one. Captures have no place in space, and a volume without one does not compile",
        '  (`vtkMaximumNumberOfSamples NaN`, "Error compiling shader"); a place that they don\'t have is not invented for it. They are shown by a link to the',
        "  series (`initialSeriesInstanceUID`), in another pane (a layout of two, which is how they are compared), and with the settings in deploy/viewer/app-config.js: its extension",
        "  `picturesAreStacks`, which any OHIF 3.13 takes, says of each picture that it is one. The last column of ways is a run with those settings.",
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
