"""Small array tools that the three modalities share: block mean, resize, square, largest component. Does no I/O."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from casework.geometry import Affine2

Box = tuple[int, int, int, int]  # row0, col0, row1, col1; ends excluded


def block_mean(image: NDArray[np.generic], factor: int) -> NDArray[np.generic]:
    """Mean of factor x factor blocks of (H, W); the last ones are filled up by repeating the edge.

    Sums row by row so that a 27 MB mammogram needs no float copy of itself.
    """
    if factor == 1:
        return image
    pad_r, pad_c = -image.shape[0] % factor, -image.shape[1] % factor
    if pad_r or pad_c:
        image = np.pad(image, ((0, pad_r), (0, pad_c)), mode="edge")
    wide = np.int32 if np.issubdtype(image.dtype, np.integer) else np.float32
    rows = sum(image[k::factor].astype(wide) for k in range(factor))
    total = sum(np.asarray(rows)[:, k::factor] for k in range(factor))
    return (np.asarray(total) / np.float32(factor * factor)).astype(np.float32)


def block_to_source(factor: int) -> Affine2:
    """From a block mean's pixels to the pixels it was made from."""
    shift = (factor - 1) / 2
    return Affine2(np.array([[factor, 0.0, shift], [0.0, factor, shift]]))


def resize(image: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Resize (H, W) to `shape`: area mean when it gets smaller in both directions, else antialiased bilinear."""
    smaller = shape[0] <= image.shape[0] and shape[1] <= image.shape[1]
    kind = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    out = Image.fromarray(np.ascontiguousarray(image, np.float32)).resize((shape[1], shape[0]), kind)
    return np.asarray(out, np.float32)


def to_bytes8(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """0..1 to 0..255."""
    return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest 4-connected component of a small mask (H, W); all False stays all False.

    Labels spread along whole rows and columns per sweep, so a few sweeps are enough for breast-like shapes.
    """
    labels = np.where(mask, np.arange(1, mask.size + 1, dtype=np.int64).reshape(mask.shape), 0)
    for _ in range(mask.size):
        before = labels
        for axis in (0, 1):
            for forward in (True, False):
                labels = _spread(labels, mask, axis, forward=forward)
        if np.array_equal(before, labels):
            break
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    return (labels == counts.argmax()) & mask


def _spread(labels: NDArray[np.int64], mask: NDArray[np.bool_], axis: int, *, forward: bool) -> NDArray[np.int64]:
    """Running maximum of the labels along an axis, restarted at every gap of the mask."""
    if axis == 1:
        return _spread(labels.T, mask.T, 0, forward=forward).T
    if not forward:
        return _spread(labels[::-1], mask[::-1], 0, forward=True)[::-1]
    # Adding a term that grows with every gap makes the running maximum forget what lies before the gap.
    runs = np.cumsum(~mask, axis=0) * np.int64(labels.size + 1)
    spread = np.maximum.accumulate(labels + runs, axis=0) - runs
    return np.where(mask, spread, 0)


def grow(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Dilate by `steps` pixels (4-neighbours)."""
    for _ in range(steps):
        wide = mask.copy()
        wide[1:] |= mask[:-1]
        wide[:-1] |= mask[1:]
        wide[:, 1:] |= mask[:, :-1]
        wide[:, :-1] |= mask[:, 1:]
        mask = wide
    return mask


def bounding_box(mask: NDArray[np.bool_]) -> Box | None:
    """The tightest box around True, None when there is none."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1


def square(image: NDArray[np.float32], size: int, *, left: bool) -> tuple[NDArray[np.float32], Affine2]:
    """Pad (H, W) with zeros to a square and resize to (size, size); the way back leads to `image`'s pixels.

    Rows are centred; columns start at the left edge when `left`, else are centred as well.
    """
    h, w = image.shape
    side = max(h, w)
    top, start = (side - h) // 2, 0 if left else (side - w) // 2
    full = np.zeros((side, side), np.float32)
    full[top : top + h, start : start + w] = image
    back = Affine2.resize((size, size), (side, side)).then(Affine2.crop(-top, -start))
    return resize(full, (size, size)), back
