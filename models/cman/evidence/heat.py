"""Heat-map truth: does the map lie on the lesion, and does it depend on what it should? Does no I/O.

A map is compared with the phantom's own mask at the map's resolution (S/4). Only images that show a lesion or node count,
and only of positive sides. Two pointing games are given: the largest contribution (what the overlay shows hottest for a
positive reading) and the largest by size: where evidence may have either sign, an image that speaks against has its lesion
at the coldest place and its hottest place is anywhere (the weights before 0.2.0).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from casework.modelspec import SLOTS
from models.cman.evidence.shipped import Reading

LESION, NODE = 1, 8
NEAR = 4  # pixels of the map: one token
TOP = 0.05  # share of an image's pixels that is compared by overlap

Bits = NDArray[np.uint8]


def _near(truth: NDArray[np.bool_], row: int, col: int) -> bool:
    return bool(truth[max(row - NEAR, 0) : row + NEAR + 1, max(col - NEAR, 0) : col + NEAR + 1].any())


def _peak(heat: NDArray[np.float32]) -> tuple[int, int]:
    row, col = np.unravel_index(int(heat.argmax()), heat.shape)
    return int(row), int(col)


def chance(truth: NDArray[np.bool_]) -> float:
    """How often a place drawn at random would count as a hit."""
    wide = np.pad(truth, NEAR)
    grown = np.zeros_like(truth)
    for dy in range(2 * NEAR + 1):
        for dx in range(2 * NEAR + 1):
            grown |= wide[dy : dy + truth.shape[0], dx : dx + truth.shape[1]]
    return float(grown.mean())


class Tally:
    """Counts over images, by modality."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[float, ...]]] = {m: [] for m in SLOTS}

    def add(self, reading: Reading, bits: Mapping[str, Bits], masks: Mapping[str, Bits]) -> None:
        """Add some sides: their reading, truth bits (n, slots, S/4, S/4) and masks (n, slots)."""
        for modality in SLOTS:
            for side, slot in np.argwhere(masks[modality] > 0):
                truth = (bits[modality][side, slot] & (LESION | NODE)) > 0
                if truth.any():
                    self._rows[modality].append(_image(reading.heat[modality][side, slot], truth))

    def result(self) -> dict[str, dict[str, float]]:
        """Means by modality."""
        names = ("hottest_on_target", "strongest_on_target", "iou_top", "mass_on_target", "by_chance", "speaks_for")
        found = {}
        for modality, rows in self._rows.items():
            means = np.mean(rows, 0) if rows else np.full(len(names), np.nan)
            found[modality] = {"images": len(rows)} | {n: float(v) for n, v in zip(names, means, strict=True)}
            supporting = [r[0] for r in rows if r[5] > 0]
            found[modality]["hottest_on_target_where_it_speaks_for"] = float(np.mean(supporting or [np.nan]))
        return found


def _image(heat: NDArray[np.float32], truth: NDArray[np.bool_]) -> tuple[float, ...]:
    size = np.abs(heat)
    top = size >= np.quantile(size, 1 - TOP)
    overlap = float((top & truth).sum() / (top | truth).sum())
    mass = float(size[truth].sum() / max(float(size.sum()), 1e-12))
    return (_near(truth, *_peak(heat)), _near(truth, *_peak(size)), overlap, mass, chance(truth), heat.sum() > 0)


def likeness(a: Reading, b: Reading, masks: Mapping[str, Bits]) -> NDArray[np.float64]:
    """Correlation of two readings' maps image by image, for the check with randomised weights."""
    values = []
    for modality in SLOTS:
        for side, slot in np.argwhere(masks[modality] > 0):
            pair = [r.heat[modality][side, slot].ravel() for r in (a, b)]
            if min(float(p.std()) for p in pair) > 0:
                values.append(float(np.corrcoef(*pair)[0, 1]))
    return np.array(values)


def painted_over(images: Bits, bits: Bits, wanted: int) -> Bits:
    """Images (slots, C, S, S) with what `wanted` names replaced by the image's own tissue around it.

    bits: (slots, S/4, S/4). Each marked region takes, channel by channel, the mean of a ring of 12 pixels around it; the
    ring of all regions of an image is shared, which keeps it simple and leaves no lesion in it.
    """
    out = images.copy()
    scale = images.shape[-1] // bits.shape[-1]
    for slot in range(len(images)):
        marked = np.kron((bits[slot] & wanted) > 0, np.ones((scale, scale), bool))
        if not marked.any():
            continue
        inner, outer = _grown(marked, 4), _grown(marked, 16)
        ring = outer & ~inner & (images[slot].max(0) > 0)
        if ring.any():
            for channel in range(images.shape[1]):
                out[slot, channel][inner] = int(images[slot, channel][ring].mean())
    return out


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """A mask grown by a square of half side `by`."""
    for axis in (0, 1):
        sums = np.cumsum(np.pad(mask, [(by + 1, by) if a == axis else (0, 0) for a in (0, 1)]).astype(np.int32), axis)
        n = mask.shape[axis]
        high, low = (np.take(sums, np.arange(s, s + n), axis) for s in (2 * by + 1, 0))
        mask = (high - low) > 0
    return mask
