"""The viewer matrix says what a run saw: what is not shown is named with its reason, and what is ours and wrong fails it."""

from pathlib import Path

import pytest
from PIL import Image

from tests.viewers import harness, matrix

SR, KO = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.59"


def series(uid: str, sop_class: str, **more: object) -> dict[str, object]:
    """One series of the harness's report."""
    item = {
        "what": uid,
        "uid": uid,
        "modality": "SR",
        "description": "AI | report",
        "instances": 1,
        "sopClasses": [sop_class],
    }
    return item | {"ok": True, "why": "", "labels": [], "errors": [], "file": "a.png"} | more


def lines(folder: Path, *items: dict[str, object]) -> list[matrix.Shown]:
    """Those series as lines, two of them ours."""
    Image.new("RGB", (1600, 1000), "navy").save(folder / "a.png")
    return matrix.read({"results": list(items)}, "MG", {"ours", "key"}, folder)


def test_what_is_not_shown_is_said(tmp_path: Path) -> None:
    """A kind that OHIF has no handler for is no failure, and stands in the matrix as not shown; an unshown SR is one."""
    refused = series("key", KO, ok=False, why="refused")
    shown = lines(tmp_path, series("ours", SR, labels=["Probability: 44 %"]), refused)
    assert matrix.write(tmp_path, shown, {SR: {"orthanc": "no (400)"}}, hangs=True) == []
    text = (tmp_path / "viewers.md").read_text("utf-8")
    assert "| Key Object Selection | **not shown**: OHIF has no handler for this SOP class |" in text
    assert "shown (MG) | no (400)" in text
    assert "AI / report" in text
    assert "OHIF hangs" in text
    shown = lines(tmp_path, series("ours", SR, ok=False, why="blank picture"))
    assert matrix.write(tmp_path, shown, {}, hangs=False) == ["MG: SR AI | report: blank picture"]
    assert "OHIF hangs" not in (tmp_path / "viewers.md").read_text("utf-8")


def test_console_errors_of_our_series_fail_the_run(tmp_path: Path) -> None:
    """An error while one of our series opens is wrong; one while a source opens is written down only."""
    bad = series("ours", SR, errors=["TypeError"])
    assert matrix.write(tmp_path, lines(tmp_path, bad), {}, hangs=False)[-1].endswith("console: TypeError")
    other = series("theirs", SR, errors=["TypeError"])
    assert matrix.write(tmp_path, lines(tmp_path, other), {}, hangs=False) == []


def test_pictures_are_small(tmp_path: Path) -> None:
    """A screenshot is kept at most 900 pixels wide; pictures of an older run go."""
    old = tmp_path / "images" / "viewers" / "old.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    matrix.write(tmp_path, lines(tmp_path, series("ours", SR)), {}, hangs=False)
    (kept,) = (tmp_path / "images" / "viewers").glob("*.png")
    with Image.open(kept) as picture:
        assert picture.width == matrix.WIDTH


def test_a_plain_clone_has_no_harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without CASEWORK_SHARED, or with a folder that lacks the tool, there is no harness, which the verb says."""
    monkeypatch.delenv("CASEWORK_SHARED", raising=False)
    assert harness.source() is None
    monkeypatch.setenv("CASEWORK_SHARED", str(tmp_path))
    assert harness.source() is None
