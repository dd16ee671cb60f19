"""Statistics of paired readings of the same sides, two sides of a patient not being independent. Does no I/O.

AUC by DeLong's structural components (DeLong et al. 1988, with midranks as in Sun and Xu 2014), summed by patient before
their covariance is taken (Obuchowski 1997): with one side a patient it is DeLong's own. The bootstrap over patients in
evaluate.py is the check on it. No maintained library has the paired, clustered form; the rest is scipy and scikit-learn.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import brier_score_loss

from models.cman import evaluate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def delong(label: Ints, scores: Floats, case: Ints) -> tuple[Floats, Floats]:
    """AUC of each of k scores (k, N) and their covariance (k, k); case (N,): whose side it is.

    Raises:
        ValueError: fewer than two patients have a side of one of the classes.
    """
    positive, negative = scores[:, label == 1], scores[:, label == 0]
    m, n = positive.shape[1], negative.shape[1]
    if not m or not n:
        raise ValueError("an AUC needs sides with and sides without")
    both = stats.rankdata(np.concatenate([positive, negative], 1), axis=1)
    above = (both[:, :m] - stats.rankdata(positive, axis=1)) / n  # per positive: share of negatives below it
    below = 1.0 - (both[:, m:] - stats.rankdata(negative, axis=1)) / m  # per negative: share of positives above it
    auc = above.mean(1)
    patients, at = np.unique(case, return_inverse=True)
    count = len(patients)
    ten, one = (np.zeros((len(scores), count)) for _ in range(2))
    for k in range(len(scores)):
        ten[k] = np.bincount(at[label == 1], above[k] - auc[k], count)
        one[k] = np.bincount(at[label == 0], below[k] - auc[k], count)
    with_ten, with_one = (len(np.unique(at[label == c])) for c in (1, 0))
    if min(with_ten, with_one) < 2:
        raise ValueError("an interval needs two patients with and two without")
    covariance = ten @ ten.T * with_ten / ((with_ten - 1) * m**2) + one @ one.T * with_one / ((with_one - 1) * n**2)
    cross = ten @ one.T * count / ((count - 1) * m * n)
    return auc, covariance + cross + cross.T


def auc(label: Ints, score: Floats, case: Ints) -> dict[str, float]:
    """AUC with DeLong's 95 % interval."""
    value, covariance = delong(label, score[None], case)
    reach = 1.96 * float(np.sqrt(covariance[0, 0]))
    centre = float(value[0])
    return {"auc": centre, "delong_low": max(0.0, centre - reach), "delong_high": min(1.0, centre + reach)}


def paired(label: Ints, a: Floats, b: Floats, case: Ints) -> dict[str, float]:
    """AUC of a minus AUC of b on the same sides: difference, 95 % interval and two-sided p."""
    value, covariance = delong(label, np.stack([a, b]), case)
    difference = float(value[0] - value[1])
    error = float(np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0)))
    p = 1.0 if error == 0.0 else float(2 * stats.norm.sf(abs(difference) / error))
    return {"difference": difference, "low": difference - 1.96 * error, "high": difference + 1.96 * error, "p": p}


def over_folds(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Paired t-test over folds. Folds share training patients, so p is too small; read it beside DeLong's."""
    found = stats.ttest_rel(a, b)
    return {"t": float(found.statistic), "p": float(found.pvalue), "folds": len(a)}


def net_benefit(prob: Floats, label: Ints, at: Floats) -> Floats:
    """Decision curve (Vickers and Elkin 2006): true positives less false ones at the exchange rate of each threshold."""
    high = prob[None] >= at[:, None]
    true, false = (high & (label == 1)).mean(1), (high & (label == 0)).mean(1)
    benefit: Floats = true - false * at / (1 - at)
    return benefit


def scaled(score: Floats, label: Ints) -> float:
    """The temperature that fits a score's logits to labels (validation only)."""
    return evaluate.calibrate(score, np.zeros((len(score), 0)), label)[0]


def chances(logit: Floats, temperature: float) -> Floats:
    """Probabilities, away from 0 and 1 by a millionth."""
    prob: Floats = np.clip(1 / (1 + np.exp(-logit / temperature)), 1e-6, 1 - 1e-6)
    return prob


def row(
    logit: Floats,
    label: Ints,
    case: Ints,
    temperature: float,
    cut: Mapping[str, float],
    *,
    seed: int,
    rounds: int = 1000,
) -> dict[str, Any]:
    """One line of a table: discrimination with both intervals, calibration, the prespecified points."""
    prob = chances(logit, temperature)
    steep, offset = evaluate.slope(prob, label)
    boot = evaluate.auc_interval(label, logit, case, seed, rounds)
    return {
        "sides": len(label),
        "patients": len(np.unique(case)),
        "prevalence": float(label.mean()),
        **auc(label, logit, case),
        "bootstrap_low": boot["low"],
        "bootstrap_high": boot["high"],
        "brier": float(brier_score_loss(label, prob)),
        "ece": evaluate.expected_calibration_error(prob, label),
        "calibration_slope": steep,
        "calibration_intercept": offset,
        **evaluate.points(prob, label, cut),
    }


GROUPS: Mapping[str, tuple[float, ...]] = {
    "density": (0.25, 0.5, 0.75),
    "age": (45, 55, 65),
    "largest_mm": (7.5, 8.25),
}
"""Where numbers are cut into subgroups; mg_vendor, mr_phases and field_t are groups as they are."""


def subgroups(table: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """(column, group's name, members) of every subgroup."""
    for column, cuts in GROUPS.items():
        edges = (-np.inf, *cuts, np.inf)
        for low, high in itertools.pairwise(edges):
            name = f"< {high:g}" if low == -np.inf else f">= {low:g}" if high == np.inf else f"{low:g} to {high:g}"
            yield column, name, (table[column] >= low) & (table[column] < high)
    for column in ("mg_vendor", "mr_phases", "field_t"):
        for value in np.unique(table[column]):
            yield column, str(value) if isinstance(value, str) else f"{value:g}", table[column] == value
