"""Cohorts of phantoms and the shipped encoders' tokens for them, made once and kept on disk. Runs without torch.

A cohort is what `python -m models.cman.phantom.dataset` writes; its tokens are what the package's own encoders say of its
images, through the service's runner. Both are made only where they are missing; a cohort that another preprocessing, seed
or size wrote is refused, never mixed in.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from casework.engine.bundle import ModelPackage
from casework.engine.onnxrt import OnnxRunner
from casework.modelspec import SLOTS
from casework.preprocess.prepared import VERSION
from models.cman.data import Sides, open_sides
from models.cman.phantom import dataset

Tokens = Mapping[str, NDArray[np.float16]]


@dataclass(frozen=True, slots=True)
class Cohort:
    """One set of patients by its seed: patients seed * 1,000,000 and up (phantom/README.md)."""

    name: str
    seed: int
    patients: int
    hospital: str = "A"


INTERNAL = Cohort("internal", 41, 1200)
VALIDATION = Cohort("validation", 45, 120)
TEST = Cohort("test", 51, 1000)
EXTERNAL = Cohort("external", 61, 200, "B")
"""None of these seeds was used for the shipped weights (1, 2, 4, 11, 21, 31)."""


def drawn(cohort: Cohort, folder: Path, size: int, workers: int) -> Path:
    """The cohort's folder below `folder`, drawn if it is not there; whole or not there at all.

    Raises:
        ValueError: what lies there is another cohort.
    """
    out = folder / cohort.name
    if not (out / "about.json").exists():
        part = folder / f"{cohort.name}.part"
        dataset.write(
            part, cases=cohort.patients, seed=cohort.seed, size=size, hospital=cohort.hospital, workers=workers
        )
        part.rename(out)
    about = json.loads((out / "about.json").read_text("utf-8"))
    wanted = (cohort.seed, 2 * cohort.patients, size, cohort.hospital, VERSION)
    if (about["seed"], about["sides"], about["size"], about["hospital"]["name"], about["preprocess"]) != wanted:
        raise ValueError(f"{out} holds another cohort than {wanted}")
    return out


def encoded(
    package: ModelPackage, folder: Path, threads: int = 2, batch: int = 16, modalities: Iterable[str] = tuple(SLOTS)
) -> Tokens:
    """Token maps (N, slots, d, g, g) of a cohort by modality, cached beside it under the encoder's digest."""
    runner = OnnxRunner(package, threads)
    sides: Sides | None = None
    tokens = {}
    for modality in modalities:
        digest = package.spec.files[package.spec.graphs[modality]][:12]
        path = folder / f"tokens_{modality.lower()}_{digest}.npy"
        if not path.exists():
            sides = sides or open_sides(folder)
            _encode(runner, sides, modality, path, batch)
        tokens[modality] = np.load(path, mmap_mode="r")
    return tokens


def _encode(runner: OnnxRunner, sides: Sides, modality: str, path: Path, batch: int) -> None:
    mask = sides.masks[modality]
    side, slot = np.nonzero(mask)
    shape = runner.encode(modality, np.zeros((1, *sides.images[modality].shape[2:]), np.float32)).shape[1:]
    array = np.zeros((*mask.shape, *shape), np.float16)
    for n in range(0, len(side), batch):
        at = (side[n : n + batch], slot[n : n + batch])
        array[at] = runner.encode(modality, sides.images[modality][at].astype(np.float32) / np.float32(255.0))
    part = path.with_suffix(".part.npy")
    np.save(part, array)
    part.rename(path)


def table(folder: Path) -> dict[str, NDArray[np.float64] | NDArray[np.str_]]:
    """The columns of sides.csv, numbers as numbers."""
    with (folder / "sides.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns: dict[str, NDArray[np.float64] | NDArray[np.str_]] = {}
    for name in rows[0]:
        values = [r[name] for r in rows]
        words = name in ("patient", "side", "mg_vendor")
        columns[name] = np.array(values) if words else np.array(values, np.float64)
    return columns
