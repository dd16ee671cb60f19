"""Prepared sides from disk, for training and evaluation. Reads files only.

The folder is one that `python -m models.cman.phantom.dataset` wrote (phantom/README.md): tensors as bytes, presence, and
truth bits at a quarter of the tensor's size. Here the bits become what each token (16 x 16 pixels) shows.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.cman.net.config import CONCEPTS, MODALITIES

LESION, SPICULATED, WASHOUT, NODE = 1, 2, 4, 8
TOKEN = 16
_CORTEX_MM = (0.8, 5.2)  # thinnest and thickest cortex of a phantom


@dataclass(frozen=True, slots=True)
class Sides:
    """N sides. images: uint8 (N, slots, C, S, S), on disk until used; masks: uint8 (N, slots).

    truth: uint8 (N, slots, K, g, g), K as CONCEPTS: lesion and node are shares of the token's area times 255; the others
    are 255 times a property of the lesion or node that lies there, 0 elsewhere.
    """

    images: Mapping[str, NDArray[np.uint8]]
    masks: Mapping[str, NDArray[np.uint8]]
    truth: Mapping[str, NDArray[np.uint8]]
    label: NDArray[np.int64]
    risk: NDArray[np.float64]
    case: NDArray[np.int64]
    preprocess: str
    known: bool = True  # whether the truth is known; of real cases it is not, and is all zero

    def part_without_images(self, at: NDArray[np.int64]) -> "Sides":
        """Some of the sides, without their pixels: for readers of tokens."""
        return replace(self, images={}).part(at)

    def part(self, at: NDArray[np.int64]) -> "Sides":
        """Some of the sides, in memory."""
        return Sides(
            {m: a[at] for m, a in self.images.items()},
            {m: a[at] for m, a in self.masks.items()},
            {m: a[at] for m, a in self.truth.items()},
            self.label[at],
            self.risk[at],
            self.case[at],
            self.preprocess,
            self.known,
        )


def _share(bits: NDArray[np.bool_], cut: int) -> NDArray[np.float32]:
    """Mean over cut x cut blocks of the last two axes."""
    *lead, h, w = bits.shape
    blocks: NDArray[np.float32] = bits.reshape(*lead, h // cut, cut, w // cut, cut).mean((-3, -1), dtype=np.float32)
    return blocks


def concepts(bits: NDArray[np.uint8], cortex_mm: NDArray[np.float64], step: int) -> NDArray[np.uint8]:
    """Truth per token from bits (N, slots, S / step, S / step)."""
    cut = TOKEN // step
    lesion, spiculated, washout, node = (_share((bits & b) > 0, cut) for b in (LESION, SPICULATED, WASHOUT, NODE))
    thick = np.clip((cortex_mm - _CORTEX_MM[0]) / (_CORTEX_MM[1] - _CORTEX_MM[0]), 0, 1)[:, None, None, None]
    found = {
        "lesion": lesion,
        "spiculation": (spiculated > 0.5 * lesion) & (lesion > 0),
        "washout": (washout > 0.5 * lesion) & (lesion > 0),
        "node": node,
        "cortex": thick * (node > 0),
    }
    return np.stack([np.rint(255 * found[c]).astype(np.uint8) for c in CONCEPTS], 2)


def open_all(folders: Sequence[Path]) -> Sides:
    """Several sets as one, in memory; a single one stays on disk.

    Raises:
        ValueError: there is none, or they were prepared in different ways.
    """
    sets = [open_sides(f) for f in folders]
    if len(sets) == 1:
        return sets[0]
    if len({s.preprocess for s in sets}) != 1:
        raise ValueError(f"sets of {len({s.preprocess for s in sets})} preprocessings in {list(map(str, folders))}")
    return Sides(
        {m: np.concatenate([s.images[m] for s in sets]) for m in MODALITIES},
        {m: np.concatenate([s.masks[m] for s in sets]) for m in MODALITIES},
        {m: np.concatenate([s.truth[m] for s in sets]) for m in MODALITIES},
        np.concatenate([s.label for s in sets]),
        np.concatenate([s.risk for s in sets]),
        np.concatenate([s.case for s in sets]),
        sets[0].preprocess,
        all(s.known for s in sets),
    )


def open_sides(folder: Path) -> Sides:
    """Open a set."""
    about = json.loads((folder / "about.json").read_text("utf-8"))
    with (folder / "sides.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cortex = np.array([float(r["cortex_mm"]) for r in rows])
    names = {m: m.lower() for m in MODALITIES}
    return Sides(
        {m: np.load(folder / f"images_{n}.npy", mmap_mode="r") for m, n in names.items()},
        {m: np.load(folder / f"present_{n}.npy") for m, n in names.items()},
        {m: concepts(np.load(folder / f"masks_{n}.npy"), cortex, about["mask_step"]) for m, n in names.items()},
        np.array([int(r["label"]) for r in rows], np.int64),
        np.array([float(r["risk"]) for r in rows]),
        np.array([int(r["seed"]) for r in rows], np.int64),
        str(about["preprocess"]),
        bool(about.get("truth", True)),
    )
