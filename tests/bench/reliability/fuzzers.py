"""The coverage-guided fuzzers of tests/fuzz, some seconds each. For F35."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from tests.bench.reliability.lab import Lab
from tests.fuzz.targets import TARGETS

FOUND = Path(__file__).resolve().parents[2] / "fuzz" / "found"
_RUNS = re.compile(rb"(?:Done|#)(\d+)")


def fuzz_parsers(lab: Lab) -> None:
    """Each target in turn; what ends one is moved to .work/bench/reliability/found."""
    if importlib.util.find_spec("atheris") is None:
        raise RuntimeError("atheris is missing: pip install atheris==3.0.0")
    kept = Path(".work/bench/reliability/found")
    inputs: dict[str, int] = {}
    for target in TARGETS:
        before = set((FOUND / target).glob("*"))
        seconds = lab.n("seconds")
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            target,
            "--seconds",
            str(seconds),
            "--seed",
            str(lab.rng.randrange(1, 1 << 31)),
        ]
        ended = subprocess.run(command, capture_output=True, timeout=10 * seconds + 300, check=False)
        inputs[target] = max((int(n) for n in _RUNS.findall(ended.stderr)), default=0)
        for path in sorted(set((FOUND / target).glob("*")) - before):
            kept.mkdir(parents=True, exist_ok=True)
            lab.must(False, f"{target}: {path.name}: {ended.stderr[-200:]!r}")  # noqa: FBT003 - a plain complaint
            path.rename(kept / f"{target}-{path.name}")
        lab.must(ended.returncode == 0, f"{target} ended with {ended.returncode}: {ended.stderr[-300:]!r}")
        lab.must(inputs[target] > 100 * seconds, f"{target}: only {inputs[target]} inputs")
    lab.figures |= {"seconds_each": lab.n("seconds"), "inputs": sum(inputs.values()), "fewest": min(inputs.values())}
