"""From a run to the package in models/cman: calibrate, evaluate on held-out phantoms, record, write the card.

    python -m models.cman.release --data DATA --run models/cman/runs/NAME [--out models/cman] [--beside TEACHER]

Nothing is chosen on the test set: temperature, shift and thresholds come from validation and, where DATA has it, a set
"calibration" that decided nothing else. 120 patients alone leave a temperature uncertain by a tenth.
"""

import argparse
import itertools
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from casework.engine.onnxrt import OnnxRunner
from casework.engine.runner import SideInputs
from casework.modelspec import SLOTS
from models.cman import beside, card, evaluate, manual, statements
from models.cman.data import Sides, open_all, open_sides
from models.cman.evidence import stats
from models.cman.evidence.baselines import Correction, correction
from models.cman.evidence.shipped import Reader, kept_by_subset, masked
from models.cman.export import NAMES, write_fusion
from models.cman.fuse import logits_of
from models.cman.journal import Journal
from models.cman.net.cman import Fusion
from models.cman.net.config import CONCEPTS, MODALITIES, NetConfig
from models.cman.package import TOLERANCE, parity, write_golden, write_manifest
from models.cman.train import graphs_of, load_net, stage_tokens, train_sets

Tokens = Mapping[str, NDArray[np.float16]]
Logits = Mapping[str, NDArray[np.float64]]
PRECISION_SIDES = 80
HELD_OUT = ("test", "external")
NONE = Correction()
FITTED = ("val", "calibration")
"""What temperature, shifts and thresholds are chosen on, as far as it is there."""
GOLDEN = (("full", MODALITIES), ("mammography-ultrasound", ("MG", "US")), ("mri", ("MR",)))


def by_subset(logits: Logits, sides: Sides, chosen: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A summary per subset of modalities, and how much all three gain over each. logits: by subset, the full one first."""
    result, full = {}, next(iter(logits.values()))
    for subset, logit in logits.items():
        numbers = evaluate.summary(logit, sides.label, sides.case, chosen["temperature"], chosen, seed=seed)
        if logit is not full:
            numbers["all_minus_this"] = evaluate.auc_difference(sides.label, full, logit, sides.case, seed=seed)
        result[subset] = numbers
    risk = evaluate.auc_interval(sides.label, sides.risk, sides.case, seed)
    return {"subsets": result, "ceiling": {"what": "the phantom's own risk as the score", **risk}}


def all_logits(fusion: Fusion, tokens: Tokens, sides: Sides) -> dict[str, NDArray[np.float64]]:
    """Logits by subset of modalities, the full one first."""
    return {"+".join(s): logits_of(fusion, tokens, masked(sides, s)) for s in evaluate.SUBSETS}


def together(logits: Mapping[str, Logits], sets: Mapping[str, Sides]) -> tuple[Logits, NDArray[np.int64]]:
    """The sets of FITTED as one: logits by subset and labels; logits: by set and subset."""
    names = [n for n in FITTED if n in logits]
    label = np.concatenate([sets[n].label for n in names])
    return {s: np.concatenate([logits[n][s] for n in names]) for s in logits[names[0]]}, label


def choose(logits: Logits, label: NDArray[np.int64], correction: Correction = NONE) -> dict[str, Any]:
    """A shift per modality, temperature and thresholds (see FITTED); logits: by subset, the full one first.

    correction: of the temperature, for chance in the patients that it is fitted on.

    The shifts are fitted over all subsets together, so that a missing modality moves no probability by itself; the
    temperature and the thresholds on full input alone, for which they are promised.
    """
    subsets = [name.split("+") for name in logits]
    there = [np.tile([float(m in s) for m in MODALITIES], (len(label), 1)) for s in subsets]
    stacked = np.concatenate(list(logits.values()))
    _, shifts = evaluate.calibrate(stacked, np.concatenate(there), np.tile(label, len(subsets)))
    full = next(iter(logits.values())) + shifts.sum()
    temperature = round(stats.scaled(full, label) * correction.factor, 4)
    named = {m: float(s) for m, s in zip(MODALITIES, shifts, strict=True)}
    return {
        "temperature": temperature,
        "shifts": named,
        "correction": asdict(correction),
        **evaluate.thresholds(stats.chances(full, temperature), label),
    }


def inputs_of(sides: Sides, at: NDArray[np.int64]) -> SideInputs:
    """Engine inputs of some sides."""
    some = sides.part(at)
    return SideInputs(
        {m: np.asarray(some.images[m]).astype(np.float32) / np.float32(255.0) for m in MODALITIES},
        {m: some.masks[m].astype(np.float32) for m in MODALITIES},
    )


def precision(fast: OnnxRunner, exact: OnnxRunner, sides: Sides, temperature: float, cut: float) -> dict[str, Any]:
    """int8 against fp32 encoders on test sides: probabilities, flips at positive_at, heat-maps, AUC."""
    differences, flips, correlations = [], 0, []
    logits: list[NDArray[np.float32]] = []
    count = min(PRECISION_SIDES, len(sides.label))
    for n in range(0, count - 1, 2):
        inputs = inputs_of(sides, np.array([n, n + 1]))
        a, b = fast.run(inputs), exact.run(inputs)
        pa, pb = (1 / (1 + np.exp(-o.logit / temperature)) for o in (a, b))
        differences.extend(np.abs(pa - pb))
        logits.append(np.stack([a.logit, b.logit]))
        flips += int(((pa >= cut) != (pb >= cut)).sum())
        for side in range(2):
            maps = [np.concatenate([o.heat[m][side].ravel() for m in SLOTS]) for o in (a, b)]
            correlations.append(float(np.corrcoef(maps[0], maps[1])[0, 1]))
    values, (own, other) = np.array(differences), np.concatenate(logits, 1).astype(np.float64)
    label, case = sides.label[: len(values)], sides.case[: len(values)]
    return {
        "sides": len(values),
        "mean_abs_dp": float(values.mean()),
        "p99_abs_dp": float(np.percentile(values, 99)),
        "max_abs_dp": float(values.max()),
        "flips_at_positive": flips,
        "heat_correlation_mean": float(np.mean(correlations)),
        "heat_correlation_min": float(np.min(correlations)),
        "auc_minus_fp32": stats.paired(label, own, other, case),
    }


def pointing(reader: Reader, tokens: Tokens, sides: Sides, count: int = 300) -> dict[str, Any]:
    """Where the largest contribution of an image lies: on a lesion (or node) or beside it, for positive sides."""
    lesion, node = CONCEPTS.index("lesion"), CONCEPTS.index("node")
    hits: dict[str, list[bool]] = {m: [] for m in MODALITIES}
    for at in np.flatnonzero(sides.label == 1)[:count]:
        here = slice(at, at + 1)
        told = reader.read({m: tokens[m][here] for m in MODALITIES}, {m: sides.masks[m][here] for m in MODALITIES})
        for modality, slot in ((m, s) for m in MODALITIES for s in range(len(SLOTS[m]))):
            truth = np.maximum(sides.truth[modality][at, slot, lesion], sides.truth[modality][at, slot, node])
            if not sides.masks[modality][at, slot] or not truth.any():
                continue
            heat = told.heat[modality][0, slot]
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


def shifted(fusion: Fusion, shifts: Mapping[str, float]) -> Fusion:
    """The calibration's shifts inside the head's base, so contributions still sum to the logit."""
    with torch.no_grad():
        for modality, shift in shifts.items():
            fusion.pool.base[modality] += shift
    return fusion


def evaluated(  # noqa: PLR0917  # what was trained, on what it is looked at
    config: NetConfig,
    sets: Mapping[str, Sides],
    logits: Mapping[str, Logits],
    folders: Mapping[str, Path],
    chosen: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """What evaluation.json holds, but for the training's log.

    logits: of each set that is evaluated, by subset of modalities; folders: precision -> where its four graphs lie.
    """
    fast, exact = (OnnxRunner(graphs_of(folders[p], config), 2) for p in ("int8", "fp32"))
    return {
        "seed": seed,
        "what": statements.EVALUATION,
        "sets": {n: {"sides": len(s.label), "patients": len(np.unique(s.case))} for n, s in sets.items()},
        "calibration": chosen,
        **{n: by_subset(by, sets[n], chosen, seed) for n, by in logits.items()},
        "int8_against_fp32": precision(fast, exact, sets["test"], chosen["temperature"], chosen["positive_at"]),
        "machine": {"processor": platform.processor() or platform.machine(), "onnxruntime": onnxruntime.__version__},
    }


def manifest_of(
    name: str, config: NetConfig, evaluation: Mapping[str, Any], preprocess: str, kind: str
) -> dict[str, Any]:
    """The manifest, but for what is known only when its files are there. kind: "int8" or "fp32"."""
    chosen = evaluation["calibration"]
    return {
        "name": name,
        "version": statements.VERSION,
        "intended_use": statements.INTENDED_USE,
        "training": statements.training(evaluation),
        "training_statement": statements.training_statement(evaluation),
        "licence": "Apache-2.0",
        "input_size": config.input_size,
        "precision": kind,
        "preprocess": preprocess,
        "graphs": NAMES,
        "golden": [],
        "golden_tolerance": TOLERANCE,
        "thresholds": {k: chosen[k] for k in ("positive_at", "negative_below")},
        "temperature": chosen["temperature"],
        "requires": statements.REQUIRES,
        "files": {},
        "network": config.as_dict(),
        "opset": 18,
    }


def write(out: Path, graphs: Path, manifest: dict[str, Any], evaluation: Mapping[str, Any], test: Sides) -> None:
    """Put graphs, golden samples, evaluation, card and manifest into `out`; the manifest states its parity already."""
    out.mkdir(exist_ok=True)
    for file in NAMES.values():
        shutil.copyfile(graphs / file, out / file)
    manifest["golden"] = record_golden(out, manifest, test)
    (out / "evaluation.json").write_text(json.dumps(evaluation, indent=1) + "\n", "utf-8")
    (out / "MODEL_CARD.md").write_text(card.write(manifest, evaluation), "utf-8")
    files = itertools.chain(NAMES.values(), manifest["golden"], ["evaluation.json", "MODEL_CARD.md"])
    write_manifest(out, manifest, list(files))
    manual.store(out)  # not among the manifest's files: `make evidence` of these very weights writes it anew


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--name", default="cman")
    parser.add_argument("--beside", type=Path, help="the package that taught this one's encoders")
    parser.add_argument(
        "--baselines", type=Path, help="docs/evidence, where DATA are its internal and validation cohorts"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    log = Journal(options.run)
    sets = {n: open_sides(options.data / n) for n in (*FITTED, *HELD_OUT) if (options.data / n).exists()}
    tokens = {n: {m: stage_tokens(options.run, m, options.data / n, log) for m in MODALITIES} for n in sets}
    net = load_net(options.run)
    raw = {n: all_logits(net.fusion, tokens[n], sets[n]) for n in FITTED if n in sets}
    # A set "calibration" is larger than chance; validation alone is put right by what the folds say of it.
    alone = options.baselines and "calibration" not in sets
    known = open_all(train_sets(options.data, options.run))
    chosen = choose(*together(raw, sets), correction(options.baselines, known, sets["val"]) if alone else NONE)
    log("calibration", **chosen)
    shifted(net.fusion, chosen["shifts"])
    folders = {p: options.run / f"release-{p}" for p in ("int8", "fp32")}
    for name, folder in folders.items():
        shutil.copytree(options.run / name, folder, dirs_exist_ok=True)
        write_fusion(net.fusion, folder)
    seen = {**sets, "train": known}
    made = graphs_of(folders["int8"], net.config)
    reader = Reader(made, options.threads)
    looked_at = ("val", *(n for n in HELD_OUT if n in sets))
    logits = {n: kept_by_subset(made, reader, options.data / n, tokens[n], sets[n]) for n in looked_at}
    evaluation = evaluated(net.config, seen, logits, folders, chosen, options.seed)
    evaluation["pointing_game"] = pointing(reader, tokens["test"], sets["test"])
    if options.beside:
        held_out = {n: (options.data / n, sets[n]) for n in HELD_OUT if n in sets}
        evaluation["beside"] = beside.measured(options.beside, net.config, held_out, logits, chosen["temperature"])
    evaluation["training_log"] = log.entries()
    first = sets["test"].part(np.arange(min(8, len(sets["test"].label))))
    case = {m: np.asarray(first.images[m]) for m in MODALITIES} | {f"{m}_mask": first.masks[m] for m in MODALITIES}
    # The float network is for the bench; too large for the repository.
    for kind, out in (("fp32", options.run / "fp32-package"), ("int8", options.out)):
        manifest = manifest_of(options.name, net.config, evaluation, sets["test"].preprocess, kind)
        manifest["parity"] = parity(net, folders["fp32"], manifest, case)
        write(out, folders[kind], manifest, evaluation, sets["test"])


if __name__ == "__main__":
    main()
