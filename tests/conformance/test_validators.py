"""Independent validators find no error in any result object: dicom3tools (dciodvfy, dcentvfy) and dcmtk (dsrdump, dcmj2pnm)."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydicom import dcmread

from casework.config import Report
from casework.report import check, render
from casework.result import Outcome
from tests.conformance.studies import NOW, Case, make, with_predecessor

PACKAGES = {
    "dciodvfy": "dicom3tools",
    "dcentvfy": "dicom3tools",
    "dsrdump": "dcmtk",
    "dcmconv": "dcmtk",
    "dcmj2pnm": "dcmtk",
}
# Newer than this dciodvfy (June 2022): Device UID of contributing equipment (IHE AIR), Frame of Reference of an SC.
KNOWN_WARNINGS = (
    r"</ContributingEquipmentSequence\(0018,a001\)\[1\]/DeviceUID\(0018,1002\)> - Attribute is not present",
    r"</FrameOfReferenceUID\(0020,0052\)> - Attribute is not present",  # SC with a Frame of Reference
    r"</PositionReferenceIndicator\(0020,1040\)> - Attribute is not present",
    r"</Laterality\(0020,0060\)> - is only permitted to be empty",  # both breasts in one series
)
CASES = {
    "all": make,
    "MG one side": lambda c: make(c, modalities=("MG",), sides=("R",)),
    "MR": lambda c: make(c, modalities=("MR",)),
    "US insufficient": lambda c: make(
        c, modalities=("US",), outcomes={"R": (Outcome.POSITIVE, 0.7), "L": (Outcome.INSUFFICIENT, None)}
    ),
    "negative revision": lambda c: with_predecessor(
        make(c, modalities=("MG", "US"), outcomes=dict.fromkeys("RL", (Outcome.NEGATIVE, 0.02)))
    ),
    "nothing analysed": lambda c: make(
        c, modalities=("US",), outcomes=dict.fromkeys("RL", (Outcome.INSUFFICIENT, None))
    ),
}
CHARSETS = ("utf8", "gb18030", "gbk", "ir58", "ir87", "latin1", "none", "mislabelled")


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one validator; a machine without it fails with the package to install."""
    if shutil.which(name) is None:
        pytest.fail(f"{name} is missing: apt-get install {PACKAGES[name]}")
    return subprocess.run(
        [name, *map(str, arguments)], capture_output=True, encoding="utf-8", errors="replace", check=False
    )


def written(case: Case, folder: Path, language: str) -> list[Path]:
    """The case's DICOM objects as files, self-checked."""
    rendered = render(case.result, case.sources, Report(language=language, institution="General Hospital"), NOW)
    check(rendered, case.result, case.sources)
    folder.mkdir()
    paths = []
    for n, item in enumerate(r for r in rendered if r.media_type == "application/dicom"):
        paths.append(folder / f"{item.kind}{n:02d}.dcm")
        paths[-1].write_bytes(item.data)
    return paths


def readable(paths: Sequence[Path], charset: str, folder: Path) -> list[Path]:
    """Copies in UTF-8: dciodvfy can't split GB characters with a second byte of 5C, dcentvfy compares bytes."""
    if charset in ("utf8", "none"):
        return list(paths)
    folder.mkdir()
    for path in paths:
        if charset == "ir87":  # dcmtk's iconv lacks it
            ds = dcmread(path)
            ds.decode()
            ds.SpecificCharacterSet = "ISO_IR 192"
            ds.save_as(folder / path.name)
        else:
            done = tool("dcmconv", "+U8", path, folder / path.name)
            assert done.returncode == 0, done.stderr
    return [folder / p.name for p in paths]


def complaints(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if re.match(r"(Error|Warning)", line)]
    return [line for line in lines if not any(re.search(known, line) for known in KNOWN_WARNINGS)]


@pytest.mark.parametrize(
    ("charset", "language"), [*((c, "en") for c in CHARSETS), *((c, "zh") for c in ("utf8", "gb18030", "ir87", "none"))]
)
def test_validators_over_character_sets(tmp_path: Path, charset: str, language: str) -> None:
    """A case over two studies is valid in each character set and language, and agrees with its sources."""
    validate(make(charset, modalities=("MG", "US")), tmp_path, charset, language)


@pytest.mark.parametrize("kind", sorted(CASES))
def test_validators_over_cases(tmp_path: Path, kind: str) -> None:
    """One modality, one side, a side or a case that was not analysed, a revision: all are valid."""
    validate(CASES[kind]("utf8"), tmp_path, "utf8", "en")


def validate(case: Case, folder: Path, charset: str, language: str, sources: Sequence[Path] = ()) -> None:
    """Run every validator over the case's results, and over them together with their sources."""
    results = written(case, folder / "results", language)
    sources = sources or case.write(folder / "sources")
    for path in readable(results, charset, folder / "readable") if charset.startswith("gb") else results:
        done = tool("dciodvfy", "-new", path)
        assert complaints(done.stderr + done.stdout) == [], path.name
    for path in results:
        if path.name.startswith("sr"):
            done = tool("dsrdump", path)
            assert done.returncode == 0, done.stderr
            assert "E:" not in done.stderr, done.stderr
        else:
            done = tool("dcmj2pnm", "--write-png", path, folder / "picture.png")
            assert done.returncode == 0, done.stderr
    both = readable([*results, *sources], charset, folder / "both")
    done = tool("dcentvfy", *both)
    ours = [f"/{p.name}" for p in results]
    errors = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")]
    assert [line for line in errors if any(name in line for name in ours)] == []
