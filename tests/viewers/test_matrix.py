"""The viewer matrix says what a run saw: what is not shown is named with its reason, and what is ours and wrong fails it."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from casework.config import PROFILES
from tests.viewers import harness, matrix

OURS: Mapping[str, Mapping[str, str]] = {
    "ours": {"kind": "sr"},
    "key": {"kind": "key-object"},
    "cuts": {"kind": "slices"},
}


def series(uid: str, **more: object) -> dict[str, object]:
    """One series of the harness's report."""
    item: dict[str, object] = {"what": uid, "uid": uid, "modality": "SR", "description": "AI | report", "instances": 1}
    return (
        item | {"ok": True, "why": "", "labels": [], "errors": [], "file": "a.png", "canvas": {"coloured": 400}} | more
    )


def lines(folder: Path, *items: dict[str, object]) -> list[matrix.Shown]:
    """Those series as lines, three of them ours."""
    Image.new("RGB", (1600, 1000), "navy").save(folder / "a.png")
    return matrix.read({"results": list(items)}, "ohif MG", OURS, folder)


def test_what_is_not_shown_is_said(tmp_path: Path) -> None:
    """A kind that OHIF has no handler for is no failure, and stands in the matrix as not shown; an unshown SR is one."""
    refused = series("key", ok=False, why="refused")
    shown = lines(tmp_path, series("ours", labels=["Probability: 44 %"]), refused)
    assert matrix.write(tmp_path, shown, {"sr": {"orthanc": "no (400)"}}) == []
    text = (tmp_path / "viewers.md").read_text("utf-8")
    assert (
        "| Key Object Selection | no | **not shown**, by a link, new page: OHIF has no handler for this SOP class |"
        in text
    )
    assert "shown by a link, new page | no (400)" in text
    assert "AI / report" in text
    for uid in ("ours", "cuts"):
        shown = lines(tmp_path, series(uid, ok=False, why="blank picture"))
        assert matrix.write(tmp_path, shown, {}) == [
            "ohif MG: SR AI | report, opened by a link, new page: blank picture"
        ]


def test_a_hanging_viewer_fails_the_run(tmp_path: Path) -> None:
    """OHIF that never answers is a result that is not shown."""
    assert matrix.write(tmp_path, matrix.read(None, "ohif MR", OURS, tmp_path), {}) == [
        "ohif MR: the study, opened by a link, new page: OHIF hung"
    ]


@pytest.mark.parametrize("way", matrix.WAYS)
def test_only_one_way_over_an_mri_is_excused(tmp_path: Path, way: str) -> None:
    """Slices that stay black over an MRI's volume are OHIF's limit; by a link, or with our settings, they fail the run."""
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    black = {"results": [series("cuts", ok=False, why="image not loaded", errors=["Error compiling shader"])]}
    shown = matrix.read(black, "ohif suspicious MR", OURS, tmp_path, way=way)
    assert bool(matrix.write(tmp_path, shown, {})) is (way != "after")
    assert "| no (1) |" in (tmp_path / "viewers.md").read_text("utf-8")
    assert matrix.write(tmp_path, matrix.read(black, "ohif demo US", OURS, tmp_path, way=way), {})


def test_a_grey_heat_map_is_not_shown(tmp_path: Path) -> None:
    """A canvas without the scale's colours does not show a heat-map, whatever the viewer says that it shows."""
    (grey,) = lines(tmp_path, series("cuts", canvas={"lit": 9000, "coloured": 0, "colours": 200}))
    assert not grey.ok
    assert "colours" in grey.why
    assert lines(tmp_path, series("cuts"))[0].ok


def test_the_figure_counts_each_way(tmp_path: Path) -> None:
    """The demo's series are counted apart by how they were opened; other studies' are not among them."""
    report = {"results": [series("ours"), series("cuts", ok=False, errors=["TypeError"])]}
    shown = [s for way in ("link", "after") for s in matrix.read(report, "ohif demo MR", OURS, tmp_path, way=way)]
    words = matrix.figure([*shown, *lines(tmp_path, series("ours"))])
    assert words.count("1 of 2 shown, 1 console errors") == 2


def test_a_changed_harness_is_noticed() -> None:
    """What the run adds to the shared harness is added once, or the run says that it knows another one."""
    text = "\n".join(harness.CHANGES)
    assert "ONLY" in harness.changed(text)
    with pytest.raises(SystemExit, match=r"shoot\.mjs"):
        harness.changed("")


def test_nothing_that_ohif_cannot_show_is_in_its_profile() -> None:
    """The profile `ohif` has none of the kinds that the matrix excuses."""
    assert not set(PROFILES["ohif"]) & set(matrix.KNOWN)
    assert set(PROFILES["ohif"]) | set(matrix.KNOWN) == set(PROFILES["full"])


def test_console_errors_of_our_series_fail_the_run(tmp_path: Path) -> None:
    """An error while one of our series opens is wrong; one while a source opens is written down only."""
    bad = series("ours", errors=["TypeError"])
    assert matrix.write(tmp_path, lines(tmp_path, bad), {})[-1].endswith("console: TypeError")
    other = series("theirs", errors=["TypeError"])
    assert matrix.write(tmp_path, lines(tmp_path, other), {}) == []


def test_pictures_are_small(tmp_path: Path) -> None:
    """A screenshot is kept at most 900 pixels wide; pictures of an older run go."""
    old = tmp_path / "images" / "viewers" / "old.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    matrix.write(tmp_path, lines(tmp_path, series("ours")), {})
    (kept,) = (tmp_path / "images" / "viewers").glob("*.png")
    with Image.open(kept) as picture:
        assert picture.width == matrix.WIDTH


def test_a_plain_clone_has_no_harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without CASEWORK_SHARED, or with a folder that lacks the tool, there is no harness, which the verb says."""
    monkeypatch.delenv("CASEWORK_SHARED", raising=False)
    assert harness.source() is None
    monkeypatch.setenv("CASEWORK_SHARED", str(tmp_path))
    assert harness.source() is None
