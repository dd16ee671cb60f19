"""Scores of the baselines that `folds.py` trained, as committed: docs/evidence/baselines.npz and .json. Runs without torch.

    python -m models.cman.evidence.baselines --data DATA --runs RUNS [LONGER ...] --out docs/evidence

gathers RUNS (one file a head and fold) into the two files; heads of further folders, trained for other numbers of steps, are
named with theirs (cman-600). Training them takes hours; reading them takes no time, and the
table is computed anew from the scores. A digest of the cohort's labels ties a score to its side: scores of another cohort
are refused.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.cman import evaluate
from models.cman.data import Sides
from models.cman.evidence import stats

COHORTS = ("internal", "validation", "test", "external")


@dataclass(frozen=True, slots=True)
class Baseline:
    """One head.

    folds: cohort -> logits (folds, N); out_of_fold: (N,) on the internal cohort; chosen: temperature, positive_at and
    negative_below, from the validation cohort only.
    """

    folds: Mapping[str, NDArray[np.float32]]
    out_of_fold: NDArray[np.float32]
    chosen: Mapping[str, float]
    held_out_auc: Sequence[float] = ()  # each fold's, on the internal patients that it held out; none with --whole
    training: Mapping[str, Any] = field(default_factory=dict)  # steps, batch, parameters, cpu_s a fold, network

    def mean(self, cohort: str) -> NDArray[np.float64]:
        """The mean logit of the folds' heads: what stands in the tables for the held-out cohorts."""
        return self.folds[cohort].mean(0, dtype=np.float64)


def digest(case: NDArray[np.int64], label: NDArray[np.int64]) -> str:
    """Names the sides that scores belong to."""
    return hashlib.sha256(np.stack([case, label]).astype("<i8").tobytes()).hexdigest()[:16]


def same_schedule(name: str) -> tuple[str, str]:
    """A head's own name and the ending of those that had its number of steps: ("early-maps", "-600") or ("mg", "")."""
    head, _, steps = name.rpartition("-")
    return (head, f"-{steps}") if steps.isdigit() else (name, "")


def _training(head: Mapping[str, Any]) -> dict[str, Any]:
    """What a head cost, from what its folds say of themselves."""
    plan = head["plan"].get("schedule", head["plan"])
    return {
        "steps": plan["steps"],
        "batch": plan.get("batch"),
        "network": head["plan"].get("network", ""),
        "parameters": head["parameters"],
        "cpu_s": sum(f["cpu_s"] for f in head["folds"]) / len(head["folds"]),
    }


def gather(
    runs: Path, digests: Mapping[str, str], labels: Mapping[str, NDArray[np.int64]], *, further: bool = False
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """All finished heads of a folder: arrays named head/cohort, and what is to be known of them.

    further: name the heads with their steps too.

    labels: of the validation cohort, from which temperature and thresholds are chosen, and of the internal one, for the AUC
    on what each fold held out.

    Raises:
        ValueError: a head has folds of different plans.
    """
    arrays: dict[str, NDArray[Any]] = {}
    about: dict[str, Any] = {"cohorts": dict(digests), "heads": {}}
    for head in sorted({p.stem.rsplit("-", 1)[0] for p in runs.glob("*-[0-9].npz")}):
        files = [np.load(p) for p in sorted(runs.glob(f"{head}-[0-9].npz"))]
        facts = [json.loads(str(f["about"])) for f in files]
        if len({json.dumps(a["plan"]) for a in facts}) != 1:
            raise ValueError(f"{head}: folds of different plans")
        known = {"plan": facts[0]["plan"], "parameters": facts[0]["parameters"]} | {
            "folds": [{k: a[k] for k in ("fold", "cpu_s", "wall_s")} for a in facts]
        }
        name = f"{head}-{_training(known)['steps']}" if further else head
        about["heads"][name] = known
        total = sum(len(f["held"]) for f in files)
        last = [int(f["held"].max()) + 1 for f in files if len(f["held"])]
        whole = np.full(max(total, *last, 0), np.nan, np.float32)
        for f in files:
            whole[f["held"]] = f["internal"]
        arrays[f"{name}/internal"] = whole
        for cohort in COHORTS[1:]:
            if all(cohort in f.files for f in files):
                arrays[f"{name}/{cohort}"] = np.stack([f[cohort] for f in files]).astype(np.float16)
        logit = arrays[f"{name}/validation"].mean(0, dtype=np.float64)
        temperature = stats.scaled(logit, labels["validation"])
        cut = evaluate.thresholds(stats.chances(logit, temperature), labels["validation"])
        about["heads"][name]["chosen"] = {"temperature": temperature, **cut}
        held = [float(roc_auc_score(labels["internal"][f["held"]], f["internal"])) for f in files if len(f["held"])]
        about["heads"][name]["held_out_auc"] = held
    return arrays, about


@dataclass(frozen=True, slots=True)
class Correction:
    """A factor on a temperature that was fitted on validation, and how many unseen sides say so."""

    factor: float = 1.0
    sides: int = 0


def correction(folder: Path, internal: Sides, validation: Sides) -> Correction:
    """How much flatter CMAN's logits have to be than the validation patients alone suggest.

    The temperature of the five folds' CMAN on the 1,200 patients whom each has not seen, over that of the same heads on the
    validation patients: what is chance in those 120. A temperature that was fitted on them is corrected by this factor.

    Raises:
        ValueError: the scores are of other sides.
    """
    about = json.loads((folder / "baselines.json").read_text("utf-8"))
    for cohort, sides in (("internal", internal), ("validation", validation)):
        if about["cohorts"][cohort] != digest(sides.case, sides.label):
            raise ValueError(f"{folder} was scored on another {cohort} cohort")
    with np.load(folder / "baselines.npz") as arrays:
        apart, inside = arrays["cman/internal"].astype(np.float64), arrays["cman/validation"].astype(np.float64)
    there = np.isfinite(apart)
    known = float(np.mean([stats.scaled(fold, validation.label) for fold in inside]))
    return Correction(stats.scaled(apart[there], internal.label[: len(apart)][there]) / known, int(there.sum()))


def load(folder: Path, digests: Mapping[str, str]) -> dict[str, Baseline]:
    """The committed baselines by name; none when there are none.

    Raises:
        ValueError: they were scored on other sides than `digests` names.
    """
    path = folder / "baselines.npz"
    if not path.exists():
        return {}
    about = json.loads((folder / "baselines.json").read_text("utf-8"))
    for cohort, value in digests.items():
        if about["cohorts"].get(cohort) != value:
            raise ValueError(f"{path} was scored on another {cohort} cohort")
    found = {}
    with np.load(path) as arrays:
        for name, head in about["heads"].items():
            folds = {c: arrays[f"{name}/{c}"].astype(np.float32) for c in COHORTS[1:] if f"{name}/{c}" in arrays.files}
            found[name] = Baseline(
                folds, arrays[f"{name}/internal"], head["chosen"], head["held_out_auc"], _training(head)
            )
    return found


def main() -> None:
    """Gather."""
    from models.cman.data import open_sides

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    digests, labels = {}, {}
    for cohort in COHORTS:
        if (options.data / cohort / "about.json").exists():
            sides = open_sides(options.data / cohort)
            digests[cohort], labels[cohort] = digest(sides.case, sides.label), sides.label
    arrays, about = gather(options.runs[0], digests, labels)
    for folder in options.runs[1:]:
        more, facts = gather(folder, digests, labels, further=True)
        arrays |= more
        about["heads"] |= facts["heads"]
    np.savez_compressed(options.out / "baselines.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub of **kwds
    (options.out / "baselines.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
