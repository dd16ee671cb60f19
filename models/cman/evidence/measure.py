"""The shipped weights on held-out phantoms: subsets, subgroups, heat-map truth, sanity. Does no I/O of its own."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casework.engine.bundle import ModelPackage
from casework.engine.onnxrt import OnnxRunner
from casework.modelspec import SLOTS
from models.cman.data import Sides
from models.cman.evidence import heat, stats
from models.cman.evidence.baselines import Baseline, same_schedule
from models.cman.evidence.cohort import Tokens
from models.cman.evidence.shipped import Reader, Reading
from models.cman.net.config import MODALITIES

Floats = NDArray[np.float64]
SEED = 1
SANITY_SIDES = 60
LEAST = 10  # positives and negatives that a subgroup needs to be shown


def thresholds_of(package: ModelPackage, subset: str = "+".join(MODALITIES)) -> dict[str, float]:
    """The shipped, prespecified points; those of a subset of modalities where the package has them."""
    own = package.spec.subsets.get(tuple(subset.split("+")))
    cut = own or package.spec
    return {"positive_at": cut.positive_at, "negative_below": cut.negative_below}


def subsets(
    logits: Mapping[str, Floats], sides: Sides, package: ModelPackage, seed: int, rounds: int = 1000
) -> dict[str, Any]:
    """A row a subset, with what all three gain over it."""
    temperature, full = package.spec.temperature, "+".join(MODALITIES)
    result = {}
    for name, logit in logits.items():
        numbers = stats.row(
            logit, sides.label, sides.case, temperature, thresholds_of(package, name), seed=seed, rounds=rounds
        )
        if name != full:
            numbers["all_minus_this"] = stats.paired(sides.label, logits[full], logit, sides.case)
        result[name] = numbers
    ceiling = stats.auc(sides.label, sides.risk, sides.case)
    return {"subsets": result, "ceiling": {"what": "the phantom's own risk as the score", **ceiling}}


def by_patient(logit: Floats, sides: Sides) -> dict[str, float]:
    """AUC of the patient's higher side for a metastasis on either."""
    patients, at = np.unique(sides.case, return_inverse=True)
    higher, either = np.full(len(patients), -np.inf), np.zeros(len(patients), np.int64)
    np.maximum.at(higher, at, logit)
    np.maximum.at(either, at, sides.label)
    return stats.auc(either, higher, patients) | {"patients": len(patients), "prevalence": float(either.mean())}


def subgroups(logit: Floats, sides: Sides, table: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """AUC by subgroup, where it has enough sides of both kinds."""
    rows = []
    for column, name, members in stats.subgroups(table):
        label = sides.label[members]
        if min(label.sum(), (1 - label).sum()) >= LEAST:
            numbers = stats.auc(label, logit[members], sides.case[members])
            rows.append({"by": column, "group": name, "sides": len(label), "positive": int(label.sum()), **numbers})
    return rows


def heat_truth(reader: Reader, tokens: Tokens, sides: Sides, bits: Mapping[str, NDArray[np.uint8]]) -> dict[str, Any]:
    """Pointing and overlap over all positive sides with everything that they have."""
    tally, positive = heat.Tally(), np.flatnonzero(sides.label == 1)
    for n in range(0, len(positive), 16):
        at = positive[n : n + 16]
        masks = {m: sides.masks[m][at] for m in SLOTS}
        tally.add(reader.read({m: tokens[m][at] for m in SLOTS}, masks), {m: bits[m][at] for m in SLOTS}, masks)
    return tally.result()


def randomised(reader: Reader, tokens: Tokens, sides: Sides, seed: int) -> dict[str, Any]:
    """Maps with the shipped weights against maps with the fusion's input weights in random order.

    Shuffling the channels of every token is the same as shuffling the columns of the first layer's weights: the weights
    keep their values and lose what they learned (Adebayo et al. 2018 ask a map to notice).
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(tokens["MG"].shape[2])
    at = np.flatnonzero(sides.label == 1)[:SANITY_SIDES]
    masks = {m: sides.masks[m][at] for m in SLOTS}
    some = {m: np.asarray(tokens[m][at]) for m in SLOTS}
    told, shuffled = reader.read(some, masks), reader.read({m: t[:, :, order] for m, t in some.items()}, masks)
    values = heat.likeness(told, shuffled, masks)
    return {
        "sides": len(at),
        "maps": len(values),
        "correlation_mean": float(values.mean()),
        "correlation_p95_abs": float(np.percentile(np.abs(values), 95)),
        "logit_correlation": float(np.corrcoef(told.logit, shuffled.logit)[0, 1]),
    }


def painted_over(
    runner: OnnxRunner, reader: Reader, sides: Sides, bits: Mapping[str, NDArray[np.uint8]], table: Mapping[str, Any]
) -> dict[str, Any]:
    """Logits of positive sides before and after what the label depends on is painted over in every image.

    Beside it, the same area painted over elsewhere (the mask of the next side): what the painting itself does.
    """
    at = np.flatnonzero((sides.label == 1) & (table["both"] > 0))[:SANITY_SIDES]
    logits = {}
    for name, shift in (("as it is", None), ("lesions and nodes painted over", 0), ("elsewhere", 1)):
        found = []
        for n, side in enumerate(at):
            where = side if not shift else at[(n + shift) % len(at)]
            tokens = {}
            for m in SLOTS:
                images = np.asarray(sides.images[m][side])
                if shift is not None:
                    wanted = bits[m][where] & ~(bits[m][side] if shift else np.uint8(0))
                    images = heat.painted_over(images, wanted, heat.LESION | heat.NODE)
                tokens[m] = runner.encode(m, images.astype(np.float32) / np.float32(255.0))[None]
            masks = {m: sides.masks[m][side : side + 1] for m in SLOTS}
            found.append(float(reader.read(tokens, masks).logit[0]))
        logits[name] = np.array(found)
    before = logits["as it is"]
    return {"sides": len(at)} | {
        name: {
            "mean_logit": float(v.mean()),
            "mean_drop": float((before - v).mean()),
            "share_lower": float((v < before).mean()),
        }
        for name, v in logits.items()
    }


def beside(
    package: ModelPackage, reader: Reader, tokens: Tokens, sides: Sides, bits: Mapping[str, Any], *, full: Floats
) -> dict[str, Any]:
    """Another package on the same sides with all three modalities: its row, how far it is from `full`, its maps."""
    logit = reader.logits(tokens, sides.masks)
    temperature, cut = package.spec.temperature, thresholds_of(package)
    return {
        **stats.row(logit, sides.label, sides.case, temperature, cut, seed=SEED, rounds=500),
        "this_minus_shipped": stats.paired(sides.label, logit, full, sides.case),
        "heat": heat_truth(reader, tokens, sides, bits),
    }


def compared(
    baselines: Mapping[str, Baseline], sets: Mapping[str, Sides], shipped: Mapping[str, Floats], seed: int
) -> dict[str, Any]:
    """The baselines' table: every head on every cohort, temperature from validation, paired with CMAN of the same folds and steps."""
    result: dict[str, Any] = {}
    for cohort in ("test", "external"):
        sides = sets[cohort]
        rows: dict[str, Any] = {}
        for name, head in baselines.items():
            logit = head.mean(cohort)
            temperature = head.chosen["temperature"]
            rows[name] = stats.row(logit, sides.label, sides.case, temperature, head.chosen, seed=seed, rounds=500)
            rows[name]["folds"] = [
                float(stats.delong(sides.label, f[None].astype(float), sides.case)[0][0]) for f in head.folds[cohort]
            ]
            rows[name]["held_out"] = list(head.held_out_auc)
            rows[name]["training"] = dict(head.training)
            partner = _partner(name, baselines)
            if partner:
                best = baselines[partner].mean(cohort)
                rows[name]["cman_minus_this"] = stats.paired(sides.label, best, logit, sides.case)
            rows[name]["shipped_minus_this"] = stats.paired(sides.label, shipped[cohort], logit, sides.case)
        for name, numbers in rows.items():
            partner = _partner(name, baselines)
            if partner and len(numbers["folds"]) == len(rows[partner]["folds"]) > 1:
                numbers["t_test_over_folds"] = stats.over_folds(rows[partner]["folds"], numbers["folds"])
        result[cohort] = rows
    for name, row in result["external"].items():
        row["lost"] = _lost(*(result[c][name] for c in ("test", "external")))
    return result


def _partner(name: str, baselines: Mapping[str, Baseline]) -> str:
    """The CMAN that a head is compared with: the one of the same number of steps; none for itself."""
    head, steps = same_schedule(name)
    return f"cman{steps}" if head != "cman" and f"cman{steps}" in baselines else ""


def _lost(test: Mapping[str, Any], external: Mapping[str, Any]) -> dict[str, float]:
    """How much AUC a head has less at the other hospital, and how much more it loses than CMAN: two sets of patients."""
    errors = [(r["delong_high"] - r["delong_low"]) / 3.92 for r in (test, external)]
    less, error = test["auc"] - external["auc"], float(np.hypot(*errors))
    found = {"auc": less, "low": less - 1.96 * error, "high": less + 1.96 * error}
    pairs = [r["cman_minus_this"] for r in (test, external) if "cman_minus_this" in r]
    if len(pairs) == len(errors):
        more = pairs[1]["difference"] - pairs[0]["difference"]
        error = float(np.hypot(*((p["high"] - p["low"]) / 3.92 for p in pairs)))
        found |= {"more_than_cman": more, "more_low": more - 1.96 * error, "more_high": more + 1.96 * error}
    return found


def worst(logit: Floats, sides: Sides, temperature: float, count: int = 3) -> dict[str, list[int]]:
    """The sides with the most confident wrong answers."""
    prob = stats.chances(logit, temperature)
    order = np.argsort(prob)
    missed = [int(n) for n in order if sides.label[n] == 1][:count]
    alarmed = [int(n) for n in order[::-1] if sides.label[n] == 0][:count]
    return {"missed": missed, "false_alarms": alarmed}


def reading_of(reader: Reader, tokens: Tokens, sides: Sides, side: int) -> Reading:
    """One side's reading."""
    at = np.array([side])
    return reader.read({m: tokens[m][at] for m in SLOTS}, {m: sides.masks[m][at] for m in SLOTS})
