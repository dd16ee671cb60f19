"""Evidence of a package: draw held-out phantoms, let the shipped weights read them, write docs/evidence. No torch.

    python -m models.cman.evidence [--package models/cman] [--student models/cman-lite] [--work .work/evidence]
        [--out docs/evidence] [--share 1.0]

About a quarter of an hour on two cores, most of it drawing and encoding 1,200 patients; what is in --work is not made
again. The shipped weights' numbers are all measured here. The baselines' scores are read from the committed
baselines.npz, which hours of training made (folds.py, with its seeds and command in baselines.json); their table is
computed here from those scores. --share draws only a part of every cohort, to try the command: its numbers go elsewhere.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from casework.engine.bundle import ModelPackage, open_package
from casework.engine.onnxrt import OnnxRunner
from casework.modelspec import SLOTS
from models.cman.data import Sides, open_sides
from models.cman.evidence import baselines, cohort, measure, plots, report, stats
from models.cman.evidence.shipped import Reader, kept_by_subset
from models.cman.net.config import MODALITIES

ROOT = Path(__file__).resolve().parents[3]
FULL = "+".join(MODALITIES)
Engines = tuple[OnnxRunner, Reader]
Logits = NDArray[np.float64]


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def __call__(self, what: str) -> None:
        now = time.monotonic()
        self.seconds[what] = round(now - self._last, 1)
        self._last = now
        print(f"{what}: {self.seconds[what]:.0f} s", flush=True)


def _pictures(out: Path, sides: Sides, logits: dict[str, Logits], package: ModelPackage, name: str) -> None:
    temperature = package.spec.temperature
    chosen = {k: logits[k] for k in (FULL, *MODALITIES)}
    probs = {k: stats.chances(v, temperature) for k, v in chosen.items()}
    plots.roc(out / f"roc-{name}.png", sides.label, chosen, f"{name}: shipped weights")
    plots.calibration(out / f"calibration-{name}.png", sides.label, {FULL: probs[FULL]}, name)
    plots.decision(out / f"decision-{name}.png", sides.label, probs, name)
    plots.confusion(
        out / f"confusion-{name}.png", sides.label, probs, {k: measure.thresholds_of(package, k) for k in probs}
    )


def _read(
    one: cohort.Cohort, options: argparse.Namespace, package: ModelPackage, engines: Engines, clock: _Clock
) -> tuple[dict[str, Any], Sides, Logits]:
    """Everything about one cohort: its part of the evidence, its sides, the logits on full input."""
    runner, reader = engines
    folder = cohort.drawn(one, options.work, package.spec.input_size, options.workers)
    clock(f"{one.name} drawn")
    tokens = cohort.encoded(package, folder, options.workers)
    clock(f"{one.name} encoded")
    sides, table = open_sides(folder), cohort.table(folder)
    logits = kept_by_subset(package, reader, folder, tokens, sides)
    clock(f"{one.name} read")
    bits = {m: np.load(folder / f"masks_{m.lower()}.npy", mmap_mode="r") for m in SLOTS}
    found = measure.subsets(logits, sides, package, measure.SEED)
    found["subgroups"] = measure.subgroups(logits[FULL], sides, table)
    found["by_patient"] = measure.by_patient(logits[FULL], sides)
    found["heat"] = measure.heat_truth(reader, tokens, sides, bits)
    _pictures(options.out, sides, logits, package, one.name)
    clock(f"{one.name} statistics")
    if one.name == "test":
        found["sanity"] = {
            "randomised": measure.randomised(reader, tokens, sides, measure.SEED),
            "painted_over": measure.painted_over(runner, reader, sides, bits, table),
        }
        report.worst(options.out / "worst.png", reader, (tokens, sides, bits), logits[FULL], package)
        clock("sanity")
    return found, sides, logits[FULL]


def _student(
    options: argparse.Namespace, folders: Mapping[str, Path], sets: Mapping[str, Sides], full: Mapping[str, Logits]
) -> dict[str, Any]:
    """The student's package beside the shipped one on the same sides."""
    package = open_package(options.student)
    reader = Reader(package, options.workers)
    found: dict[str, Any] = {"package": package.spec.name, "version": package.spec.version}
    found |= {"manifest_sha256": package.sha256, "precision": package.spec.precision}
    for name, folder in folders.items():
        tokens = cohort.encoded(package, folder, options.workers)
        bits = {m: np.load(folder / f"masks_{m.lower()}.npy", mmap_mode="r") for m in SLOTS}
        found[name] = measure.beside(package, reader, tokens, sets[name], bits, full=full[name])
    return found


def _studies(path: Path, package: ModelPackage) -> dict[str, Any]:
    """What studies.py found, if it was about these weights."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if found and found["manifest_sha256"] != package.sha256:
        raise ValueError(f"{path} is about other weights than {package.spec.name} {package.spec.version}")
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=ROOT / "models" / "cman")
    parser.add_argument(
        "--student", type=Path, default=ROOT / "models" / "cman-lite", help="compared on the same sides"
    )
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "evidence")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "evidence")
    parser.add_argument("--baselines", type=Path, default=ROOT / "docs" / "evidence")
    parser.add_argument("--share", type=float, default=1.0, help="part of every cohort; less than 1 is only a trial")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.share < 1 and options.out == parser.get_default("out"):
        parser.error("a trial must not be written over the evidence: name --out")
    return options


def main() -> None:
    """Measure and write."""
    options = _options()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    clock = _Clock()
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    package = open_package(options.package)
    engines = OnnxRunner(package, options.workers), Reader(package, options.workers)
    evidence: dict[str, Any] = {"package": package.spec.name, "version": package.spec.version, "seed": measure.SEED}
    evidence |= {"manifest_sha256": package.sha256, "share": options.share, "cohorts": {}}
    full: dict[str, Logits] = {}
    sets: dict[str, Sides] = {}
    for plan in (cohort.TEST, cohort.EXTERNAL):
        one = replace(plan, patients=max(12, round(plan.patients * options.share)))
        evidence[one.name], sets[one.name], full[one.name] = _read(one, options, package, engines, clock)
        names = baselines.digest(sets[one.name].case, sets[one.name].label)
        evidence["cohorts"][one.name] = {
            "seed": one.seed,
            "patients": one.patients,
            "hospital": one.hospital,
            "digest": names,
        }
    if (options.student / "manifest.json").exists():
        evidence["student"] = _student(options, {n: options.work / n for n in sets}, sets, full)
        clock("student")
    if options.share == 1.0:
        found = baselines.load(options.baselines, {n: f["digest"] for n, f in evidence["cohorts"].items()})
        evidence["baselines"] = measure.compared(found, sets, full, measure.SEED)
        for name in sets if found else ():
            heads = {h: one.mean(name) for h, one in found.items() if not baselines.same_schedule(h)[1]}
            heads["shipped"] = full[name]
            plots.roc(
                options.out / f"roc-heads-{name}.png", sets[name].label, heads, f"{name}: heads on the same folds"
            )
        clock("baselines")
        evidence["studies"] = _studies(options.baselines / "studies.json", package)
    evidence["seconds"] = clock.seconds
    evidence["machine"] = {"cores": os.cpu_count(), "onnxruntime": onnxruntime.__version__}
    text = json.dumps(evidence, indent=1) + "\n"
    (options.out / "evidence.json").write_text(text, "utf-8")
    (options.out / "README.md").write_text(report.page(json.loads(text)), "utf-8")
    print(f"{options.out}: evidence.json, README.md and pictures; {sum(clock.seconds.values()) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
