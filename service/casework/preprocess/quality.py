"""What the gate measures on pixels: clipping, motion between phases, pictures without a picture. Does no I/O.

The limits were set between what phantoms and real files show and what a reader would call spoiled (docs/gate.md).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CLIPPED = {"MG": 0.05, "MR": 0.02, "US": 0.10}
"""Share of the tissue at the end of the grey scale above which an image counts as clipped."""
MOTION_MM = 4.0
"""Shift between phases above which the patient moved: resting phantoms measure up to 2.9 mm on the grid used."""
EVEN = 0.8
"""Share of the two commonest greys above which a screen shows no picture: real ultrasound has up to 0.71, text 0.87."""
_PLANES = (0.3, 0.5, 0.7)  # of the stack
_STRIDE = 2


def share_at_end(values: NDArray[np.float32] | NDArray[np.uint8], end: float) -> float:
    """The share of values at or above `end`."""
    return float((values >= end).mean()) if values.size else 0.0


def even_share(frame: NDArray[np.uint8]) -> float:
    """The share of the two commonest greys (h, w): text and empty screens are ink and paper, tissue is neither."""
    return float(np.sort(np.bincount(frame.ravel(), minlength=256))[-2:].sum() / max(1, frame.size))


def motion_mm(first: NDArray[np.float32], later: Sequence[NDArray[np.float32]], spacing: tuple[float, ...]) -> float:
    """The largest in-plane shift between volumes (Z, Y, X), in mm; spacing (z, y, x).

    Phase correlation of three planes, the median of them: enhancement changes how bright a place is, not where edges
    lie. Sees the whole body move, not one breast deform.
    """
    planes = sorted({int(first.shape[0] * f) for f in _PLANES})
    before = [_spectrum(first[z]) for z in planes]
    shifts = []
    for volume in later:
        moved = [_shift(a, _spectrum(volume[z])) for a, z in zip(before, planes, strict=True)]
        shifts.append(float(np.median([np.hypot(r * spacing[1], c * spacing[2]) for r, c in moved])) * _STRIDE)
    return max(shifts, default=0.0)


def _spectrum(plane: NDArray[np.float32]) -> tuple[NDArray[np.complex128], tuple[int, int]]:
    small = np.sqrt(np.maximum(plane[::_STRIDE, ::_STRIDE], 0.0))
    window = np.hanning(small.shape[0])[:, None] * np.hanning(small.shape[1])[None]
    return np.fft.rfft2((small - small.mean()) * window), (small.shape[0], small.shape[1])


def _shift(
    a: tuple[NDArray[np.complex128], tuple[int, int]], b: tuple[NDArray[np.complex128], tuple[int, int]]
) -> tuple[int, int]:
    cross = a[0] * np.conj(b[0])
    size = np.abs(cross)
    surface = np.fft.irfft2(cross / (size + 1e-6 * max(float(size.max()), 1e-12)), s=a[1])
    peak = np.unravel_index(int(surface.argmax()), surface.shape)
    rows, cols = (int(at) if at <= n // 2 else int(at) - n for at, n in zip(peak, a[1], strict=True))
    return rows, cols
