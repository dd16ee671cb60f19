"""The pictures of docs/evidence: ROC, calibration, decision curves, confusion, worst errors. Writes where it is told."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import RocCurveDisplay

from models.cman.evidence import stats

mpl.use("Agg")
from matplotlib import pyplot as plt

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _save(path: Path) -> None:
    plt.tight_layout()
    # No date and no version inside: the same numbers give the same file.
    plt.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close()


def roc(path: Path, label: Ints, logits: Mapping[str, Floats], title: str) -> None:
    """One curve a reader."""
    _, axes = plt.subplots(figsize=(5.6, 5.2))
    for name, logit in logits.items():
        RocCurveDisplay.from_predictions(label, logit, name=name, ax=axes)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axes.set_title(title)
    axes.legend(fontsize=7)
    _save(path)


def calibration(path: Path, label: Ints, probs: Mapping[str, Floats], title: str) -> None:
    """Reliability over ten bins with equal counts."""
    _, axes = plt.subplots(figsize=(5.2, 5.0))
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    for name, prob in probs.items():
        true, said = calibration_curve(label, prob, n_bins=10, strategy="quantile")
        axes.plot(said, true, "o-", markersize=3, linewidth=1, label=name)
    axes.set(xlabel="probability said", ylabel="share with metastasis", title=title)
    axes.legend(fontsize=7)
    _save(path)


def decision(path: Path, label: Ints, probs: Mapping[str, Floats], title: str) -> None:
    """Net benefit over thresholds, beside treating all and none."""
    at = np.linspace(0.02, 0.8, 79)
    _, axes = plt.subplots(figsize=(5.6, 4.2))
    for name, prob in probs.items():
        axes.plot(at, stats.net_benefit(prob, label, at), linewidth=1.2, label=name)
    axes.plot(at, stats.net_benefit(np.ones(len(label)), label, at), color="0.5", linewidth=0.8, label="all")
    axes.axhline(0, color="0.7", linewidth=0.8, label="none")
    axes.set(xlabel="threshold", ylabel="net benefit", title=title, ylim=(-0.05, float(label.mean()) + 0.03))
    axes.legend(fontsize=7)
    _save(path)


def confusion(path: Path, label: Ints, probs: Mapping[str, Floats], cuts: Mapping[str, Mapping[str, float]]) -> None:
    """Label against the three outcomes by the thresholds, one panel a reader."""
    _, panels = plt.subplots(1, len(probs), figsize=(3.3 * len(probs), 2.7), squeeze=False)
    for axes, (name, prob) in zip(panels[0], probs.items(), strict=True):
        outcome = np.digitize(prob, [cuts[name]["negative_below"], cuts[name]["positive_at"]])
        table = np.array([[((label == y) & (outcome == o)).sum() for o in range(3)] for y in (0, 1)])
        axes.imshow(table / table.sum(1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
        for (row, col), count in np.ndenumerate(table):
            axes.text(col, row, str(count), ha="center", va="center", fontsize=8)
        axes.set_xticks(range(3), ["negative", "indeterminate", "positive"], fontsize=6)
        axes.set_yticks(range(2), ["no metastasis", "metastasis"], fontsize=6)
        axes.set_title(name, fontsize=8)
    _save(path)


def case(path: Path, rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    """Sides as rows of images with their maps and the true outlines: the worst errors, for the manual.

    Each image: {"image": (S, S), "heat": (s, s), "truth": (s, s) bool, "title": str}.
    """
    wide = max(len(images) for _, images in rows)
    _, panels = plt.subplots(len(rows), wide, figsize=(1.5 * wide, 1.75 * len(rows)), squeeze=False)
    for line, (words, images) in zip(panels, rows, strict=True):
        for axes in line:
            axes.axis("off")
        strongest = max(float(np.abs(i["heat"]).max()) for i in images) or 1.0
        for axes, one in zip(line, images, strict=False):
            size = one["image"].shape[0]
            axes.imshow(one["image"], cmap="gray", vmin=0, vmax=255)
            extent = (-0.5, size - 0.5, size - 0.5, -0.5)
            alpha = np.clip(np.abs(one["heat"]) / strongest, 0, 1) * 0.65
            axes.imshow(one["heat"], cmap="seismic", vmin=-strongest, vmax=strongest, alpha=alpha, extent=extent)
            if one["truth"].any():
                axes.contour(
                    np.kron(one["truth"], np.ones((size // len(one["truth"]),) * 2)),
                    [0.5],
                    colors="lime",
                    linewidths=0.5,
                )
            axes.set_title(one["title"], fontsize=5, pad=2)
        line[0].text(0, -0.06, words, fontsize=5.5, transform=line[0].transAxes, va="top")
    _save(path)
