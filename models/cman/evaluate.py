"""Numbers about a trained CMAN: discrimination with confidence intervals, calibration, thresholds, subsets. No files.

Two sides of one patient are not independent, so every interval resamples patients, not sides.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

from models.cman.net.config import MODALITIES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SUBSETS = tuple(s for n in (3, 2, 1) for s in itertools.combinations(MODALITIES, n))


def auc_interval(label: Ints, score: Floats, case: Ints, seed: int, rounds: int = 1000) -> dict[str, float]:
    """AUC with a percentile bootstrap interval over patients."""
    rng = np.random.default_rng(seed)
    cases = np.unique(case)
    members = [np.flatnonzero(case == c) for c in cases]
    values = []
    for _ in range(rounds):
        at = np.concatenate([members[n] for n in rng.integers(0, len(cases), len(cases))])
        if 0 < label[at].sum() < len(at):
            values.append(roc_auc_score(label[at], score[at]))
    low, high = np.percentile(values, [2.5, 97.5])
    return {"auc": float(roc_auc_score(label, score)), "low": float(low), "high": float(high)}


def auc_difference(label: Ints, a: Floats, b: Floats, case: Ints, *, seed: int, rounds: int = 1000) -> dict[str, float]:
    """AUC of a minus AUC of b on the same patients, with a paired bootstrap interval."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(case == c) for c in np.unique(case)]
    values = []
    for _ in range(rounds):
        at = np.concatenate([members[n] for n in rng.integers(0, len(members), len(members))])
        if 0 < label[at].sum() < len(at):
            values.append(roc_auc_score(label[at], a[at]) - roc_auc_score(label[at], b[at]))
    low, high = np.percentile(values, [2.5, 97.5])
    return {
        "difference": float(roc_auc_score(label, a) - roc_auc_score(label, b)),
        "low": float(low),
        "high": float(high),
    }


def _nll(logit: Floats, label: Ints) -> float:
    return float(np.mean(np.logaddexp(0.0, logit) - label * logit))


def calibrate(logit: Floats, present: Floats, label: Ints) -> tuple[float, Floats]:
    """(temperature, shift per modality) that minimise the log loss, on validation.

    present: (N, modalities), 1 where a modality is there; sigmoid((logit + present @ shifts) / temperature).
    """

    def loss(x: Floats) -> float:
        return _nll((logit + present @ x[1:]) / np.exp(x[0]), label)

    found = minimize(loss, np.zeros(1 + present.shape[1]), method="L-BFGS-B")
    return float(np.exp(found.x[0])), found.x[1:]


def slope(prob: Floats, label: Ints) -> tuple[float, float]:
    """Calibration slope and intercept: logistic regression of the label on the logit of the probability."""
    logit = np.log(prob / (1 - prob))
    found = minimize(lambda x: _nll(x[0] * logit + x[1], label), np.array([1.0, 0.0]), method="Nelder-Mead")
    return float(found.x[0]), float(found.x[1])


def expected_calibration_error(prob: Floats, label: Ints, bins: int = 10) -> float:
    """Mean distance between probability and frequency over bins with equal counts."""
    order = np.argsort(prob)
    parts = np.array_split(order, bins)
    return float(sum(len(p) * abs(prob[p].mean() - label[p].mean()) for p in parts if len(p)) / len(prob))


def thresholds(prob: Floats, label: Ints, specificity: float = 0.9, sensitivity: float = 0.95) -> dict[str, float]:
    """positive_at: the lowest threshold with the wanted specificity; negative_below: the highest with the sensitivity."""
    false, true, cut = roc_curve(label, prob)
    positive = float(cut[np.flatnonzero(1 - false >= specificity)[-1]])
    negative = float(cut[np.flatnonzero(true >= sensitivity)[0]])
    positive = float(np.clip(positive, 0.02, 0.98))
    return {"positive_at": round(positive, 3), "negative_below": round(float(np.clip(negative, 0.01, positive)), 3)}


def points(prob: Floats, label: Ints, cut: Mapping[str, float]) -> dict[str, float]:
    """What the two thresholds do: shares of positives and negatives that fall on each side."""
    high, low = prob >= cut["positive_at"], prob < cut["negative_below"]
    positive, negative = label == 1, label == 0
    return {
        "sensitivity_at_positive": float(high[positive].mean()),
        "specificity_at_positive": float((~high)[negative].mean()),
        "sensitivity_at_negative": float((~low)[positive].mean()),
        "specificity_at_negative": float(low[negative].mean()),
        "indeterminate": float((~high & ~low).mean()),
    }


def summary(
    logit: Floats, label: Ints, case: Ints, temperature: float, cut: Mapping[str, float], *, seed: int
) -> dict[str, Any]:
    """All numbers of one set of sides."""
    prob = 1 / (1 + np.exp(-logit / temperature))
    prob = np.clip(prob, 1e-6, 1 - 1e-6)
    steep, offset = slope(prob, label)
    return {
        "sides": len(label),
        "patients": len(np.unique(case)),
        "prevalence": float(label.mean()),
        **auc_interval(label, logit, case, seed),
        "brier": float(brier_score_loss(label, prob)),
        "ece": expected_calibration_error(prob, label),
        "calibration_slope": steep,
        "calibration_intercept": offset,
        **points(prob, label, cut),
    }
