"""Every kind of object x character set x modality through every validator: `python -m tests.conformance.matrix`.

Runs validate-dicom.sh (see CASEWORK_SHARED; its bench is set up once under .work) with --source and --strict, and writes
docs/conformance-matrix.md. A warning passes only with its reason in REMAINDER. 1 when anything else is left.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from pydicom import dcmread

from casework.case import RETRACTIONS
from casework.config import OBJECTS, Report
from casework.report import (
    Rendered,
    check,
    check_not_performed,
    render,
    render_not_performed,
    render_rejection,
)
from tests.conformance import test_not_performed
from tests.conformance.studies import NOW, Case, make
from tests.conformance.test_not_performed import FONT

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".work" / "matrix"
CHARSETS = {
    "utf8": "UTF-8",
    "gb18030 without 5C": "GB18030",
    "ir58": "ISO 2022 IR 58",
    "ir87": "ISO 2022 IR 87",
    "mislabelled": "GBK labelled ISO_IR 100",
}
KINDS = (*OBJECTS, "not-performed", "not-performed-page", "rejection")
SETS: Mapping[str, Sequence[str]] = {"MG": ("MG",), "MR": ("MR",), "US": ("US",), "all": ("MG", "MR", "US")}
# Warnings that stay: (pattern, why).
REMAINDER = (
    (
        r"dciodvfy: .*ContributingEquipmentSequence.*/DeviceUID.*not present in standard DICOM IOD",
        "Device UID of contributing equipment (IHE AIR) is newer than this dciodvfy (June 2022)",
    ),
    (
        r"dciodvfy: .*</(FrameOfReferenceUID|PositionReferenceIndicator)\(.*not present in standard DICOM IOD",
        "Frame of Reference of a Secondary Capture, from its MR source, is newer than this dciodvfy",
    ),
    (
        r"dciodvfy: .*</Laterality\(0020,0060\)> - is only permitted to be empty",
        "both breasts in one series, of sources that state no side of their own",
    ),
    (
        r"dciodvfy: .*(ImageType\(0008,0008\)|FrameType\(0008,9007\))\[4\]> - Unrecognized defined term = <QUANTITY>",
        "the Parametric Map's fourth value is newer than this dciodvfy",
    ),
    (
        r"pixelmed-instance: .*SpecificCharacterSet/value\[\d\]: Unrecognized defined term",
        "PixelMed's instance validator has no list of multi-byte character sets",
    ),
    (
        r"dciodvfy: .*CodingScheme(Designator|UID)\(0008,010[2c]\)\[1\]> - Unrecognized defined term = <(99CASEWORK|2\.25\.\d+)>",
        "the service's own reason codes, identified in the document as PS3.3 C.12.1 asks, are nobody's defined terms",
    ),
    (
        r"(dsrdump: .*unsupported SpecificCharacterSet|dcmconv: .*not convertible to UTF-8).*ISO 2022 IR 87",
        "dcmtk's conversion library here lacks ISO 2022 IR 87, so names are compared as bytes",
    ),
)
# Errors that stay: rules that are about something else.
EXCEPTIONS = (
    (
        r"FAIL R12 \d+-not-performed-page\.dcm: no Source Image Sequence",
        "a page of text is made from no image; those that it is about are its Referenced Images. As sources, all would have to be of one side and view (R17)",
    ),
)


@dataclass
class Cell:
    """One run: objects by kind, errors as reported, warnings by the reason that lets them pass, others."""

    kinds: Counter[str]
    errors: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    validators: str = ""
    allowed: int = 0


def main() -> int:
    """Run all cells, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--tools", default=str(Path(os.environ.get("CASEWORK_SHARED", "../shared")) / "tools/conformance")
    )
    parser.add_argument("--charset", choices=CHARSETS, action="append", help="default: all; a part writes no document")
    parser.add_argument("--set", choices=SETS, action="append", help="default: all; a part writes no document")
    parser.add_argument("--keep", action="store_true", help="read the logs of an earlier run where they are")
    parser.add_argument("--report", action="store_true", help="run nothing: write the document from the logs there are")
    options = parser.parse_args()
    if options.report:
        kept = {(c, n): _kept(c, n) for c in CHARSETS for n in SETS if (_folder(c, n) / "log.txt").exists()}
        (ROOT / "docs" / "conformance-matrix.md").write_text(document(kept), "utf-8")
        return 1 if any(c.errors or c.warnings for c in kept.values()) else 0
    tools, bench = Path(options.tools).resolve(), ROOT / ".work" / "conformance"
    if not (tools / "validate-dicom.sh").exists():
        print(f"{tools}: no validate-dicom.sh; name its folder with --tools or CASEWORK_SHARED", file=sys.stderr)
        return 2
    subprocess.run([tools / "bootstrap.sh"], env={**os.environ, "CONFORMANCE_WORK": str(bench)}, check=True)
    environment = {**os.environ, "VENV": str(bench / "venv"), "DICOM_VALIDATOR_STD": str(bench / "std")}
    cells = {}
    for name in sorted(options.set or SETS, key=lambda n: -len(SETS[n])):  # what covers most comes first
        for charset in options.charset or CHARSETS:
            cells[charset, name] = cell = validated(tools, environment, charset, name, keep=options.keep)
            print(f"{charset} {name}: {cell.kinds.total()} objects, {len(cell.errors)} errors,", flush=True)
            print(f"  {len(cell.warnings)} warnings without a reason, {cell.passed.total()} with one", flush=True)
            for line in (*cell.errors, *cell.warnings):
                print("   ", line)
    if not (options.charset or options.set):
        (ROOT / "docs" / "conformance-matrix.md").write_text(document(cells), "utf-8")
    return 1 if any(c.errors or c.warnings for c in cells.values()) else 0


def validated(tools: Path, environment: Mapping[str, str], charset: str, name: str, *, keep: bool) -> Cell:
    """Make one case's objects of every kind, and run the validators over them and their sources."""
    folder = _folder(charset, name)
    if keep and (folder / "log.txt").exists():
        return _kept(charset, name)
    shutil.rmtree(folder, ignore_errors=True)
    case = make(charset, modalities=SETS[name], us_frames=(2, 3))
    case.write(folder / "sources")
    paths: list[Path] = []
    kinds = Counter[str]()
    for n, item in enumerate(everything(case)):
        paths.append(folder / f"{n:02d}-{item.kind}.dcm")
        paths[-1].write_bytes(item.data)
        kinds[item.kind] += 1
    command: list[str | Path] = [
        tools / "validate-dicom.sh",
        "--require-all",
        "--strict",
        "--source",
        folder / "sources",
        *paths,
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    (folder / "log.txt").write_text(done.stdout + done.stderr)
    return read(done.stdout, Cell(kinds))


def everything(case: Case) -> list[Rendered]:
    """The case's result objects of every kind; notes that withdraw them; and what its studies get when nothing is analysed."""
    rendered = render(case.result, case.sources, Report(institution="General Hospital"), NOW, frozenset(OBJECTS))
    check(rendered, case.result, case.sources)
    made = [r for r in rendered if r.media_type == "application/dicom"]
    for n, study in enumerate(dict.fromkeys(r.study_instance_uid for r in made)):
        own = [dcmread(BytesIO(r.data), stop_before_pixels=True) for r in made if r.study_instance_uid == study]
        made += [render_rejection("c1", code, own, ("en", "zh")[n % 2], NOW) for code in RETRACTIONS[n::3]]
    for language in ("en", "zh"):
        studies = test_not_performed.silent(case)
        result = test_not_performed.stopped(case, "PATIENT_IDENTITY_CONFLICT", "NO_USABLE_IMAGE")
        told = render_not_performed(result, studies, Report(language=language, pdf_font=FONT), NOW, pages=True)
        check_not_performed(told, result, studies, pages=True)
        made += told
    return made


def _folder(charset: str, name: str) -> Path:
    return WORK / f"{charset.split(maxsplit=1)[0]}-{name}"


def _kept(charset: str, name: str) -> Cell:
    """What an earlier run found."""
    folder = _folder(charset, name)
    kinds = Counter(path.stem.partition("-")[2] for path in folder.glob("*.dcm"))
    return read((folder / "log.txt").read_text(), Cell(kinds))


def read(output: str, cell: Cell) -> Cell:
    """Sort the validators' lines into a cell."""
    finished = False
    for line in output.splitlines():
        if line.startswith("validators: "):
            cell.validators = line.removeprefix("validators: ")
        elif total := re.match(r"total: \d+ objects, (\d+) errors, (\d+) warnings, (\d+) allowed", line):
            cell.allowed, finished = int(total[3]), True
        elif found := re.match(r"\s+([EW]) ", line):
            known, left = (EXCEPTIONS, cell.errors) if found[1] == "E" else (REMAINDER, cell.warnings)
            reasons = [why for pattern, why in known if re.search(pattern, line)]
            if reasons:
                cell.passed[reasons[0]] += 1
            else:
                left.append(line.strip())
    if not finished:
        cell.errors.append("the validators did not finish")
    return cell


def document(cells: Mapping[tuple[str, str], Cell]) -> str:
    """docs/conformance-matrix.md."""
    first = next(iter(cells.values()))
    objects = sum(c.kinds.total() for c in cells.values())
    lines = [
        "# Conformance of the whole object set",
        "",
        "Written by `python -m tests.conformance.matrix` (`make matrix`), which runs every validator with `--source`, `--strict` and",
        "`--require-all` over invented cases: right side suspicious, left below the threshold, one study a modality.",
        f"{objects} objects. In each cell: objects / errors without a reason below / warnings without one / either with one.",
        "",
        "| character set of the source | " + " | ".join(SETS) + " |",
        "| --- |" + " --- |" * len(SETS),
    ]
    for charset, title in CHARSETS.items():
        row = [cells.get((charset, name)) for name in SETS]
        said = [
            f"{c.kinds.total()} / {len(c.errors)} / {len(c.warnings)} / {c.passed.total()}" if c else "not run"
            for c in row
        ]
        lines.append(f"| {title} | " + " | ".join(said) + " |")
    lines += [
        "",
        "Objects by kind (per character set):",
        "",
        "| kind | " + " | ".join(SETS) + " |",
        "| --- |" + " --- |" * len(SETS),
    ]
    for kind in KINDS:
        one = {name: cell for (_, name), cell in cells.items()}  # the same in all character sets
        lines.append(f"| {kind} | " + " | ".join(str(one[n].kinds[kind] if n in one else "-") for n in SETS) + " |")
    counted = sum((c.passed for c in cells.values()), Counter[str]())
    lines += [
        "",
        "## What stays",
        "",
        "The first is an error of a house rule, the others are warnings.",
        "",
        "| line | count | why |",
        "| --- | --- | --- |",
    ]
    for pattern, why in (*EXCEPTIONS, *REMAINDER):
        shown = pattern.replace("\\", "").replace("|", "\\|")
        lines.append(f"| `{shown}` | {counted[why]} | {why} |")
    lines += [
        "",
        f"Validators: {first.validators}; house rules R01 to R22. Known false alarms of the validators (their own list, each with",
        f"its reason) were passed over {sum(c.allowed for c in cells.values())} times. A GB18030 character whose second byte is 5C (such as",
        "\u8aa0) is split by dciodvfy, dcmpschk and dsrdump, and dcmpschk knows no rare ones, so the row's names have neither; that such names are carried byte for byte",
        "is tests/conformance/test_charset.py's to prove, and test_validators.py validates them in UTF-8. Not covered: colour ultrasound outlines (a grey presentation state can't show",
        "them, so none is made), what a commercial viewer makes of the objects (see viewers.md).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
