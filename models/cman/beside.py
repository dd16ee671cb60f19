"""A student's answers beside its teacher's on the same held-out sides, for the evaluation and the card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casework.engine.bundle import open_package
from models.cman import evaluate
from models.cman.data import Sides
from models.cman.evidence import cohort, stats
from models.cman.evidence.shipped import Reader, kept_by_subset
from models.cman.net.cman import Cman
from models.cman.net.config import MODALITIES, NetConfig

FULL = "+".join(MODALITIES)
Logits = Mapping[str, NDArray[np.float64]]


def _size(config: NetConfig) -> int:
    """Parameters of one encoder."""
    return sum(p.numel() for p in Cman(config).encoders["MG"].parameters())


def measured(
    teacher: Path,
    config: NetConfig,
    sets: Mapping[str, tuple[Path, Sides]],
    logits: Mapping[str, Logits],
    temperature: float,
) -> dict[str, Any]:
    """What `evaluation["beside"]` holds. sets: cohort -> (folder, sides); logits: the student's, by cohort and subset."""
    package = open_package(teacher)
    reader, cohorts = Reader(package), {}
    for name, (folder, sides) in sets.items():
        told = kept_by_subset(package, reader, folder, cohort.encoded(package, folder), sides)[FULL]
        own = logits[name][FULL]
        pairs = ((own, temperature), (told, package.spec.temperature))
        cohorts[name] = {
            "auc": [stats.auc(sides.label, logit, sides.case)["auc"] for logit, _ in pairs],
            "slope": [evaluate.slope(stats.chances(logit, t), sides.label)[0] for logit, t in pairs],
            "difference": stats.paired(sides.label, own, told, sides.case),
        }
    evaluation = json.loads((teacher / "evaluation.json").read_text("utf-8"))
    return {
        "package": f"{package.spec.name} {package.spec.version}",
        "manifest_sha256": package.sha256,
        "cohorts": cohorts,
        "parameters": [_size(config), _size(NetConfig.from_dict(package.spec.raw["network"]))],
        "pointing_game": evaluation["pointing_game"],
    }
