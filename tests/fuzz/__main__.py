"""Fuzz one parser with atheris, guided by coverage.

    python -m tests.fuzz header --seconds 600 [--corpus FOLDER] [--shared ../shared/data]
    python -m tests.fuzz header --corpus FOLDER --smallest      # keep in tests/fuzz/corpus what reaches all that FOLDER reaches
    python -m tests.fuzz coverage                               # how much of each parser that kept corpus reaches

atheris is not among the pinned packages (it is large and for Linux only): pip install atheris==3.0.0. What it finds goes into
tests/fuzz/found/<target>/ and is then run by the tests for ever, as the kept corpus is. Nothing of --shared may be kept: it is
other people's.
"""

import argparse
import hashlib
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).parent
PARSERS = {  # by parser: its modules, and the targets that reach it
    "header": (("dicom/header.py", "dicom/scanner.py"), ("header",)),
    "multipart": (("dicom/stow.py",), ("multipart", "content_type")),
    "manifest": (("modelspec.py",), ("manifest",)),
}
GOAL = 90  # per cent of lines and branches
LARGEST = 4096  # bytes of an input that is kept
TraceFunction = Callable[[FrameType, str, Any], Any]


def main() -> None:
    """One of three verbs: run until the time is over or something was found; keep the smallest corpus; measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=20261120)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--corpus", type=Path, help="a folder that keeps what was learnt for the next run")
    parser.add_argument("--smallest", action="store_true")
    options = parser.parse_args()
    if options.target == "coverage":
        sys.exit(measure())
    if options.smallest:
        shrink(options.target, options.corpus)
        return
    with tempfile.TemporaryDirectory() as folder:
        fuzz(options, Path(options.corpus or folder))


def fuzz(options: argparse.Namespace, corpus: Path) -> None:
    """Let libFuzzer run; it ends the process."""
    import atheris

    with atheris.instrument_imports(include=["casework"]):
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import TARGETS
    corpus.mkdir(parents=True, exist_ok=True)
    found, kept = HERE / "found" / options.target, HERE / "corpus" / options.target
    for folder in (found, kept):
        folder.mkdir(parents=True, exist_ok=True)
    flags = ["-timeout=600", "-rss_limit_mb=1024", "-max_len=65536", f"-artifact_prefix={found}/"]
    for number, data in enumerate(seeds(options.target, options.shared)):
        (corpus / f"seed-{number}").write_bytes(data)
    flags += [f"-max_total_time={options.seconds}", f"-seed={options.seed}", str(corpus), str(kept)]
    atheris.Setup([sys.argv[0], *flags], TARGETS[options.target])
    atheris.Fuzz()


def shrink(target: str, learnt: Path) -> None:
    """Keep of what was learnt the smallest inputs that take a new step between two lines of the parser."""
    from tests.fuzz.seeds import seeds
    from tests.fuzz.targets import TARGETS

    modules = tuple(
        f"/casework/{module}" for found, targets in PARSERS.values() if target in targets for module in found
    )
    kept, known = HERE / "corpus" / target, set[tuple[str, int, int]]()
    kept.mkdir(parents=True, exist_ok=True)

    def steps(data: bytes) -> set[tuple[str, int, int]]:
        taken, last = set[tuple[str, int, int]](), [("", 0)]

        def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
            name = frame.f_code.co_filename
            if not name.endswith(modules):
                return None
            if event == "line":
                taken.add((name, last[0][1] if last[0][0] == name else 0, frame.f_lineno))
                last[0] = (name, frame.f_lineno)
            return trace

        sys.settrace(trace)
        try:
            TARGETS[target](data)
        finally:
            sys.settrace(None)
        return taken

    for data in seeds(target):
        known |= steps(data)
    before = {path.read_bytes() for path in (*kept.glob("*"), *learnt.glob("*"))}
    for path in kept.glob("*"):
        path.unlink()
    for data in sorted((one for one in before if len(one) <= LARGEST), key=lambda one: (len(one), one)):
        if new := steps(data) - known:
            known |= new
            (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    sizes = [path.stat().st_size for path in kept.glob("*")]
    print(f"{target}: {len(sizes)} of {len(before)} inputs kept, {sum(sizes)} bytes")


def measure() -> int:
    """Print which share of its parser's lines and branches each kept corpus reaches; 1 when one is below the goal."""
    import coverage

    seen = coverage.Coverage(data_file=None, config_file=False, branch=True, include=["*/casework/*"])
    seen.start()
    from tests.fuzz.seeds import seeds
    from tests.fuzz.targets import TARGETS

    for _, targets in PARSERS.values():
        for target in targets:
            for data in [*seeds(target), *(path.read_bytes() for path in sorted((HERE / "corpus" / target).glob("*")))]:
                TARGETS[target](data)
    seen.stop()
    low = 0
    for parser, (modules, _) in PARSERS.items():
        share = seen.report(file=io.StringIO(), include=[f"*/casework/{module}" for module in modules])
        print(f"{parser}: {share:.1f} % of lines and branches of {', '.join(modules)}")
        low |= share < GOAL
    return low


if __name__ == "__main__":
    main()
