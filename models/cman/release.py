"""From a run to the package in models/cman: calibrate, evaluate on held-out phantoms, record, write the card.

    python -m models.cman.release --data DATA --run models/cman/runs/NAME [--out models/cman]

Nothing is chosen on the test set: temperature, shift and thresholds come from validation.
"""

import argparse
import itertools
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from casework.engine.onnxrt import OnnxRunner
from casework.engine.runner import SideInputs
from casework.modelspec import SLOTS
from models.cman import card, evaluate, manual, statements
from models.cman.data import Sides, open_all, open_sides
from models.cman.export import NAMES, write_fusion
from models.cman.fuse import logits_of
from models.cman.journal import Journal
from models.cman.net.cman import Cman, Fusion
from models.cman.net.config import MODALITIES
from models.cman.package import TOLERANCE, parity, write_golden, write_manifest
from models.cman.train import load_net, runner_of, stage_tokens, train_sets

Tokens = Mapping[str, NDArray[np.float16]]
PRECISION_SIDES = 80
HELD_OUT = ("test", "external")
GOLDEN = (("full", MODALITIES), ("mammography-ultrasound", ("MG", "US")), ("mri", ("MR",)))


def masked(sides: Sides, subset: tuple[str, ...]) -> dict[str, NDArray[np.uint8]]:
    """The masks with only a subset of modalities."""
    return {m: sides.masks[m] if m in subset else np.zeros_like(sides.masks[m]) for m in MODALITIES}


def by_subset(fusion: Fusion, tokens: Tokens, sides: Sides, chosen: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A summary per subset of modalities, and how much all three gain over each."""
    logits = {s: logits_of(fusion, tokens, masked(sides, s)) for s in evaluate.SUBSETS}
    result = {}
    for subset, logit in logits.items():
        numbers = evaluate.summary(logit, sides.label, sides.case, chosen["temperature"], chosen, seed=seed)
        if subset != MODALITIES:
            numbers["all_minus_this"] = evaluate.auc_difference(
                sides.label, logits[MODALITIES], logit, sides.case, seed=seed
            )
        result["+".join(subset)] = numbers
    risk = evaluate.auc_interval(sides.label, sides.risk, sides.case, seed)
    return {"subsets": result, "ceiling": {"what": "the phantom's own risk as the score", **risk}}


def choose(fusion: Fusion, tokens: Tokens, val: Sides) -> dict[str, Any]:
    """Temperature and a shift per modality (over all subsets together) and thresholds (full input), from validation."""
    logits = [logits_of(fusion, tokens, masked(val, s)) for s in evaluate.SUBSETS]
    there = [np.tile([float(m in s) for m in MODALITIES], (len(val.label), 1)) for s in evaluate.SUBSETS]
    label = np.tile(val.label, len(logits))
    temperature, shifts = evaluate.calibrate(np.concatenate(logits), np.concatenate(there), label)
    prob = 1 / (1 + np.exp(-(logits[0] + shifts.sum()) / temperature))
    named = {m: float(s) for m, s in zip(MODALITIES, shifts, strict=True)}
    return {"temperature": round(temperature, 4), "shifts": named, **evaluate.thresholds(prob, val.label)}


def inputs_of(sides: Sides, at: NDArray[np.int64]) -> SideInputs:
    """Engine inputs of some sides."""
    some = sides.part(at)
    return SideInputs(
        {m: np.asarray(some.images[m]).astype(np.float32) / np.float32(255.0) for m in MODALITIES},
        {m: some.masks[m].astype(np.float32) for m in MODALITIES},
    )


def precision(fast: OnnxRunner, exact: OnnxRunner, sides: Sides, temperature: float, cut: float) -> dict[str, Any]:
    """int8 against fp32 encoders on test sides: probabilities, flips at positive_at, correlation of heat-maps."""
    differences, flips, correlations = [], 0, []
    count = min(PRECISION_SIDES, len(sides.label))
    for n in range(0, count - 1, 2):
        inputs = inputs_of(sides, np.array([n, n + 1]))
        a, b = fast.run(inputs), exact.run(inputs)
        pa, pb = (1 / (1 + np.exp(-o.logit / temperature)) for o in (a, b))
        differences.extend(np.abs(pa - pb))
        flips += int(((pa >= cut) != (pb >= cut)).sum())
        for side in range(2):
            maps = [np.concatenate([o.heat[m][side].ravel() for m in SLOTS]) for o in (a, b)]
            correlations.append(float(np.corrcoef(maps[0], maps[1])[0, 1]))
    values = np.array(differences)
    return {
        "sides": len(values),
        "mean_abs_dp": float(values.mean()),
        "p99_abs_dp": float(np.percentile(values, 99)),
        "max_abs_dp": float(values.max()),
        "flips_at_positive": flips,
        "heat_correlation_mean": float(np.mean(correlations)),
        "heat_correlation_min": float(np.min(correlations)),
    }


def pointing(runner: OnnxRunner, sides: Sides, count: int = 300) -> dict[str, Any]:
    """Where the largest contribution of an image lies: on a lesion (or node) or beside it, for positive sides."""
    from models.cman.net.config import CONCEPTS

    lesion, node = CONCEPTS.index("lesion"), CONCEPTS.index("node")
    hits: dict[str, list[bool]] = {m: [] for m in MODALITIES}
    for at in np.flatnonzero(sides.label == 1)[:count]:
        outputs = runner.run(inputs_of(sides, np.array([at])))
        for modality, slot in ((m, s) for m in MODALITIES for s in range(len(SLOTS[m]))):
            truth = np.maximum(sides.truth[modality][at, slot, lesion], sides.truth[modality][at, slot, node])
            if not sides.masks[modality][at, slot] or not truth.any():
                continue
            heat = outputs.heat[modality][0, slot]
            row, col = np.unravel_index(int(heat.argmax()), heat.shape)
            step = heat.shape[0] // truth.shape[0]
            r, c = int(row) // step, int(col) // step
            near = truth[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2]
            hits[modality].append(bool(near.max() > 0))
    return {m: {"images": len(h), "share_on_target": float(np.mean(h)) if h else None} for m, h in hits.items()}


def record_golden(out: Path, manifest: Mapping[str, Any], test: Sides) -> list[str]:
    """Golden samples from the first patient of the test set whose sides differ in label."""
    pairs = [np.flatnonzero(test.case == c) for c in np.unique(test.case)]
    at = next((p for p in pairs if len(p) == 2 and test.label[p].sum() == 1), pairs[0])
    some = test.part(at)
    names = []
    for name, subset in GOLDEN:
        case = {m: np.asarray(some.images[m]) for m in MODALITIES}
        case |= {f"{m}_mask": mask for m, mask in masked(some, subset).items()}
        for modality in set(MODALITIES) - set(subset):
            case[modality] = np.zeros_like(case[modality])
        names.append(write_golden(out, manifest, name, case))
    return names


def shifted(net: Cman, shifts: Mapping[str, float]) -> Cman:
    """The calibration's shifts inside the head's b: attention sums to one, so contributions still sum to the logit."""
    with torch.no_grad():
        for modality, shift in shifts.items():
            net.fusion.pool.evidence[modality].bias += shift
    return net


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--name", default="cman")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(2)
    log = Journal(options.run)
    sets = {n: open_sides(options.data / n) for n in ("val", *HELD_OUT) if (options.data / n).exists()}
    tokens = {n: {m: stage_tokens(options.run, m, options.data / n, log) for m in MODALITIES} for n in sets}
    sets["train"] = open_all(train_sets(options.data, options.run))
    net = load_net(options.run)
    chosen = choose(net.fusion, tokens["val"], sets["val"])
    log("calibration", **chosen)
    net = shifted(net, chosen["shifts"])
    numbers = {n: by_subset(net.fusion, t, sets[n], chosen, options.seed) for n, t in tokens.items()}
    folders = {p: options.run / f"release-{p}" for p in ("int8", "fp32")}
    for name, folder in folders.items():
        shutil.copytree(options.run / name, folder, dirs_exist_ok=True)
        write_fusion(net, folder)
    fast, exact = (runner_of(f) for f in folders.values())
    at_positive = chosen["positive_at"]
    evaluation = {
        "seed": options.seed,
        "what": statements.EVALUATION,
        "sets": {n: {"sides": len(s.label), "patients": len(np.unique(s.case))} for n, s in sets.items()},
        "training_log": [json.loads(line) for line in (options.run / "log.jsonl").read_text("utf-8").splitlines()],
        "calibration": chosen,
        **numbers,
        "int8_against_fp32": precision(fast, exact, sets["test"], chosen["temperature"], at_positive),
        "pointing_game": pointing(fast, sets["test"]),
        "machine": {"processor": platform.processor() or platform.machine(), "onnxruntime": onnxruntime.__version__},
    }
    write(options.out, folders, net, chosen, evaluation, sets["test"], name=options.name)
    # The same network without quantisation, for the bench; too large for the repository.
    write(
        options.run / "fp32-package",
        folders,
        net,
        chosen,
        evaluation,
        sets["test"],
        precision="fp32",
        name=options.name,
    )


def write(  # noqa: PLR0917  # private in all but name, called once
    out: Path,
    folders: Mapping[str, Path],
    net: Cman,
    chosen: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    test: Sides,
    precision: str = "int8",
    name: str = "cman",
) -> None:
    """Put graphs, golden samples, evaluation, card and manifest into `out`."""
    out.mkdir(exist_ok=True)
    for file in NAMES.values():
        shutil.copyfile(folders[precision] / file, out / file)
    manifest: dict[str, Any] = {
        "name": name,
        "version": statements.VERSION,
        "intended_use": statements.INTENDED_USE,
        "training": statements.training(evaluation),
        "training_statement": statements.training_statement(evaluation),
        "licence": "Apache-2.0",
        "input_size": net.config.input_size,
        "precision": precision,
        "preprocess": test.preprocess,
        "graphs": NAMES,
        "golden": [],
        "golden_tolerance": TOLERANCE,
        "thresholds": {k: chosen[k] for k in ("positive_at", "negative_below")},
        "temperature": chosen["temperature"],
        "requires": statements.REQUIRES,
        "files": {},
        "network": net.config.as_dict(),
        "opset": 18,
    }
    first = test.part(np.arange(min(8, len(test.label))))
    case = {m: np.asarray(first.images[m]) for m in MODALITIES} | {f"{m}_mask": first.masks[m] for m in MODALITIES}
    manifest["parity"] = parity(net, folders["fp32"], manifest, case)
    manifest["golden"] = record_golden(out, manifest, test)
    (out / "evaluation.json").write_text(json.dumps(evaluation, indent=1) + "\n", "utf-8")
    (out / "MODEL_CARD.md").write_text(card.write(manifest, evaluation), "utf-8")
    files = itertools.chain(NAMES.values(), manifest["golden"], ["evaluation.json", "MODEL_CARD.md"])
    write_manifest(out, manifest, list(files))
    manual.store(out)  # not among the manifest's files: `make evidence` of these very weights writes it anew


if __name__ == "__main__":
    main()
