"""The failure bench: `python -m tests.bench.reliability [F09 ...] [--scale ci|small|full] [--seed N] [--no-controls]`.

Each experiment runs in a process of its own, then its negative control on a mutant of the product. The result is written to
.work/bench/reliability/F09.json; `--keep` also puts it into docs/reliability.json, from which `make docs` makes the page.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.reliability.experiments import EXPERIMENTS
from tests.bench.reliability.lab import Experiment
from tests.bench.reliability.mutant import without_guard
from tests.bench.reliability.page import KEPT

ROOT = Path(__file__).resolve().parents[3]
OUT = ROOT / ".work" / "bench" / "reliability"
CI = frozenset("F01 F02 F03 F04 F05 F08 F20 F23 F24 F25 F28 F29 F30 F31 F34".split())  # noqa: SIM905 - reads better
"""The reduced run: what needs nothing but a shell's permissions and no other test runs."""
CI_CONTROLS = frozenset({"F01", "F03", "F23", "F29"})


def main() -> int:
    """Run what was asked for; 1 when a promise was broken or a control was not caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="F01 F02 ...; default: all of the scale")
    parser.add_argument("--scale", default="small", choices=["ci", "small", "full"])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--no-controls", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write into docs/reliability.json")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    names = options.only or [n for n in EXPERIMENTS if options.scale != "ci" or n in CI]
    print(f"failure bench, scale {options.scale}, seed {options.seed}, load {os.getloadavg()[0]:.1f}", flush=True)
    bad = []
    for name in names:
        experiment = EXPERIMENTS[name]
        size = experiment.size(options.scale)
        if experiment.run is None:
            continue
        controls = not options.no_controls and (options.only or options.scale != "ci" or name in CI_CONTROLS)
        made = trial(experiment, size, options.seed, controls=controls)
        made |= {"scale": options.scale, "load": round(os.getloadavg()[0], 1)}
        (OUT / f"{name}.json").write_text(json.dumps(made, indent=1), "utf-8")
        if options.keep:
            keep(made)
        print(line(made), flush=True)
        if not made["passed"] or made["control"] in {"not caught", "broken"}:
            bad.append(name)
    print("NOT as it must be: " + ", ".join(bad) if bad else "as it must be")
    return int(bool(bad))


def trial(experiment: Experiment, size: Mapping[str, float], seed: int, *, controls: bool) -> dict[str, Any]:
    """The experiment and its control."""
    with tempfile.TemporaryDirectory(prefix="cwbench-") as temporary:
        folder = Path(temporary)
        real = _run(experiment.id, size, seed, folder / "real.json", dict(os.environ))
        made: dict[str, Any] = {
            "id": experiment.id, "date": f"{datetime.now(UTC):%Y-%m-%d}", "seed": seed, "size": dict(size),
            "passed": not real["complaints"] and not real["error"],
            **{key: real[key] for key in ("figures", "complaints", "error", "seconds")}, "control": "not run",
        }  # fmt: skip
        if controls and experiment.control is not None:
            environment = without_guard(folder / "mutant", experiment.control)
            less = {**size, **experiment.control.size}
            mutant = _run(experiment.id, less, seed, folder / "mutant.json", environment)
            assert mutant["product"] == str(folder / "mutant" / "casework"), mutant
            made["control"] = "broken" if mutant["error"] else "caught" if mutant["complaints"] else "not caught"
            made["control_said"] = (mutant["complaints"] or [mutant["error"]])[0][:300]
        return made


def _run(name: str, size: Mapping[str, float], seed: int, out: Path, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.reliability.one", name, str(seed), json.dumps(dict(size)), str(out)]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if not out.exists():
        return {
            "figures": {},
            "complaints": [],
            "error": ended.stderr[-600:] or "no result",
            "seconds": 0,
            "product": "",
        }
    if ended.returncode:
        print(ended.stderr[-2000:], file=sys.stderr)
    return dict(json.loads(out.read_text("utf-8")))


def keep(made: Mapping[str, Any]) -> None:
    """Put a result into the file that docs/reliability.md is made from."""
    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    kept[made["id"]] = made
    rows = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in sorted(kept.items())]
    KEPT.write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")


def line(made: Mapping[str, Any]) -> str:
    """A result in one line."""
    verdict = "ok" if made["passed"] else "BROKEN " + "; ".join(made["complaints"] or [made["error"]])[:1500]
    control = made["control"] + (f" ({made['control_said']})" if made["control"] in {"broken", "caught"} else "")
    return f"{made['id']} {verdict} {json.dumps(made['figures'])} control: {control} [{made['seconds']} s, seed {made['seed']}]"


if __name__ == "__main__":
    sys.exit(main())
