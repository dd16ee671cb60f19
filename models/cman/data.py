"""Prepared sides as arrays on disk, for training and evaluation. Reads files only.

A folder per set (written by `python -m models.cman.phantom.dataset`), N sides, S the input size, g = S / 16:

    MG.npy, MR.npy, US.npy                     uint8 (N, slots, channels, S, S): prepared tensors times 255
    MG_mask.npy, ...                           uint8 (N, slots): 1 where there is an image
    MG_truth.npy, ...                          uint8 (N, slots, 4, g, g): per token and concept (net.config.CONCEPTS) the
                                               share of the token's area times 255; cortex: thickness, see the writer
    label.npy uint8, risk.npy float32, case.npy int64 (N,): metastasis, its probability, the patient
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.cman.net.config import MODALITIES


@dataclass(frozen=True, slots=True)
class Sides:
    """One set of sides; images and truth stay on disk until they are used."""

    images: Mapping[str, NDArray[np.uint8]]
    masks: Mapping[str, NDArray[np.uint8]]
    truth: Mapping[str, NDArray[np.uint8]]
    label: NDArray[np.int64]
    risk: NDArray[np.float64]
    case: NDArray[np.int64]

    def part(self, at: NDArray[np.int64]) -> "Sides":
        """Some of the sides, in memory."""
        return Sides(
            {m: a[at] for m, a in self.images.items()},
            {m: a[at] for m, a in self.masks.items()},
            {m: a[at] for m, a in self.truth.items()},
            self.label[at],
            self.risk[at],
            self.case[at],
        )


def open_sides(folder: Path) -> Sides:
    """Open a set."""
    images = {m: np.load(folder / f"{m}.npy", mmap_mode="r") for m in MODALITIES}
    masks = {m: np.load(folder / f"{m}_mask.npy") for m in MODALITIES}
    truth = {m: np.load(folder / f"{m}_truth.npy", mmap_mode="r") for m in MODALITIES}
    label, risk, case = (np.load(folder / f"{name}.npy") for name in ("label", "risk", "case"))
    return Sides(images, masks, truth, label.astype(np.int64), risk.astype(np.float64), case.astype(np.int64))
