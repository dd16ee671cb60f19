"""What the package says of its own training, for the service's gate and readout: put into a package after its release.

    python -m models.cman.reference --data DATA/val [DATA/calibration] [--package models/cman]

Writes reference.npz (where the images lie in the encoders' pooled features), and into manifest.json: `reference`,
`subset_thresholds` (positive_at with specificity 0.90 and negative_below with sensitivity 0.95 for each subset of
modalities) and `trained_on`. The clouds are of the first set of --data, the thresholds of all of them; the weights have seen none.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casework.engine.bundle import Reference, open_package
from casework.engine.golden import check_golden
from casework.engine.onnxrt import OnnxRunner
from casework.modelspec import SLOTS
from models.cman import evaluate
from models.cman.data import Sides, open_sides
from models.cman.evidence import cohort, stats
from models.cman.evidence.shipped import Reader, kept_by_subset

FOLDS = 5
SHRINK = 0.1  # of the covariance towards a round cloud: there are few more images than features
USUAL = 99.5  # percentile of held-out images that still counts as usual
TRAINED_ON: dict[str, Any] = {
    "what": "Synthetic phantoms only (models/cman/phantom). No real scanner and no real patient is inside this range.",
    "age_years": [25, 88],
    "sexes": ["F"],
    "manufacturers": {
        "MG": ["Phantom Senoscope", "Phantom Mammolux", "Phantom Clearview"],
        "MR": ["Phantom Resonance", "Phantom Magnetics"],
        "US": ["Phantom Sono 7.5", "Phantom Sono 10", "Phantom Sono 12"],
    },
    "spacing_mm": {"MG": [0.04, 0.5], "MR": [0.9, 5.1]},
    "implants": False,
    "synthetic": False,
}

Floats = NDArray[np.float32]


def features(tokens: cohort.Tokens, sides: Sides) -> dict[str, Floats]:
    """Pooled features (sides, slots, d) of every image.

    Raises:
        ValueError: an image is missing: a cloud is made of whole sides.
    """
    if not all(sides.masks[m].all() for m in SLOTS):
        raise ValueError("a reference needs sides with every image")
    return {m: np.stack([np.asarray(t, np.float32).mean(axis=(2, 3)) for t in tokens[m]]) for m in SLOTS}


def fit(known: Floats, held_out: Floats) -> tuple[Reference, NDArray[np.float64]]:
    """Clouds of (n, slots, d) features with limit 1, and the distances of held-out sides."""
    mean, inverse = known.mean(axis=0), []
    for slot in range(known.shape[1]):
        spread = np.cov(known[:, slot].T).astype(np.float64)
        width = len(spread)
        rounder = (1 - SHRINK) * spread + SHRINK * np.trace(spread) / width * np.eye(width)
        inverse.append(np.linalg.inv(rounder) / width)
    reference = Reference(mean.astype(np.float32), np.stack(inverse).astype(np.float32), 1.0)
    return reference, np.array([reference.distance(side) for side in held_out])


def reference_of(found: Mapping[str, Floats], patient: NDArray[Any]) -> dict[str, Reference]:
    """The clouds of all images, and limits from patients that a cloud was not made of, fold by fold."""
    names = np.unique(patient)
    fold = {name: n % FOLDS for n, name in enumerate(names)}
    of = np.array([fold[p] for p in patient])
    result = {}
    for modality, values in found.items():
        apart = np.concatenate([fit(values[of != n], values[of == n])[1] for n in range(FOLDS)])
        whole, _ = fit(values, values[:0])
        result[modality] = Reference(whole.mean, whole.inverse, float(np.percentile(apart, USUAL)))
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Write reference.npz and the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--package", type=Path, default=Path(__file__).parent)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    package = open_package(options.package)
    sets = [(f, open_sides(f), cohort.encoded(package, f, options.threads)) for f in options.data]
    _, sides, tokens = sets[0]
    found = reference_of(features(tokens, sides), sides.case)
    arrays: dict[str, Any] = {}
    for modality, one in found.items():
        arrays |= {f"{modality}_mean": one.mean, f"{modality}_inverse": one.inverse}
        arrays[f"{modality}_limit"] = np.float64(one.limit)
    np.savez_compressed(options.package / "reference.npz", **arrays)
    reader = Reader(package, options.threads)
    logits = [kept_by_subset(package, reader, folder, told, some) for folder, some, told in sets]
    label = np.concatenate([some.label for _, some, _ in sets])
    prob = {n: stats.chances(np.concatenate([k[n] for k in logits]), package.spec.temperature) for n in logits[0]}
    full = "+".join(SLOTS)
    manifest = json.loads((options.package / "manifest.json").read_text("utf-8"))
    manifest["reference"] = "reference.npz"
    manifest["subset_thresholds"] = {n: evaluate.thresholds(p, label) for n, p in prob.items() if n != full}
    manifest["trained_on"] = TRAINED_ON
    manifest["files"]["reference.npz"] = hashlib.sha256((options.package / "reference.npz").read_bytes()).hexdigest()
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (options.package / "manifest.json").write_text(text, "utf-8")
    written = open_package(options.package)
    check_golden(OnnxRunner(written, threads=2), written)
    print(json.dumps(manifest["subset_thresholds"], indent=1))
    print({m: round(r.limit, 3) for m, r in found.items()})


if __name__ == "__main__":
    main()
