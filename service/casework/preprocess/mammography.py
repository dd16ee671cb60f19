"""One mammogram to a network tensor and a display picture, with the way back to its pixels. Does no I/O.

Order: reduce to about 1,024 rows (block mean, or the caller's reduced JPEG 2000 decode) -> modality rescale -> VOI
(PS3.3 C.11.2) -> MONOCHROME1 inverted -> padding black -> breast found -> stretched to the breast's own percentiles ->
all else black -> cropped -> chest wall to the left edge -> square -> S x S by area mean.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from casework.errors import Refused
from casework.geometry import Affine2
from casework.modelspec import SLOTS
from casework.preprocess.facts import InstanceFacts, Lut, Window
from casework.preprocess.grid import (
    Box,
    block_mean,
    block_to_source,
    bounding_box,
    grow,
    largest_component,
    square,
    to_bytes8,
)
from casework.preprocess.prepared import VERSION, PreparedImage
from casework.preprocess.quality import share_at_end
from casework.result import Side

PICTURE_PIXELS = 1024
_COARSE = 96  # longest side of the grid on which the breast is found
_LOW, _HIGH = 1.0, 99.7  # percentiles of the breast that become 0 and 1


def reduction(rows: int, columns: int) -> int:
    """How many times a mammogram is halved before anything else: the longest side stays at or above PICTURE_PIXELS."""
    return max(0, (max(rows, columns) // PICTURE_PIXELS).bit_length() - 1)


def prepare(pixels: NDArray[np.generic], facts: InstanceFacts, size: int, *, reduce: int = 0) -> PreparedImage:
    """Prepare one mammogram.

    pixels: (H, W) stored values; with reduce = k, a JPEG 2000 decode at resolution level k, whose pixel (i, j) lies at
    source pixel (2^k i, 2^k j), the grid of the wavelet's low-pass samples (ISO 15444-1 annex F).

    Raises:
        Refused: LATERALITY_UNKNOWN, LATERALITY_CONFLICT, VIEW_UNKNOWN, PIXELS_UNDECODABLE (not one grey plane, or not of
            the size that the header says) or IMAGE_BLANK (no breast in it).
    """
    side, slot = _place(facts)
    _check(pixels, facts, reduce)
    rest = max(0, reduction(facts.rows, facts.columns) - reduce)
    grid = block_mean(pixels, 2**rest)
    scale = float(2**reduce)
    to_source = block_to_source(2**rest).then(Affine2(np.array([[scale, 0, 0], [0, scale, 0.0]])))
    grey = display(grid, facts)
    if not np.isfinite(grey).all():
        raise Refused("PIXELS_UNDECODABLE", "the header's grey scale is not finite")
    breast, box = _find_breast(grey)
    wall, ratio = _chest_wall(breast)
    tensor, to_grid = _tensor(grey, breast, box, size, mirror=wall == "right")
    usual = "right" if side is Side.RIGHT else "left"
    return PreparedImage(
        side=side,
        modality="MG",
        slot=slot,
        study_instance_uid=facts.study_instance_uid,
        tensor=tensor[None],
        picture=to_bytes8(grey),
        tensor_to_picture=to_grid,
        picture_to_source=to_source,
        sources=(facts.sop_instance_uid,),
        notes={
            "version": VERSION,
            "voi": _voi_name(facts),
            "reduce": f"{reduce}+{rest}",
            "crop": ",".join(map(str, box)),
            "chest_wall": wall,
            "wall_ratio": f"{ratio:.2f}",
            "clipped": f"{share_at_end(grey[breast], 0.995):.4f}",
            "orientation": "as usual" if wall == (facts.chest_wall or usual) else "unexpected",
        },
    )


def _place(facts: InstanceFacts) -> tuple[Side, str]:
    if facts.laterality_conflict:
        raise Refused("LATERALITY_CONFLICT")
    if facts.laterality not in ("R", "L"):
        raise Refused("LATERALITY_UNKNOWN")
    if facts.view not in SLOTS["MG"]:
        raise Refused("VIEW_UNKNOWN")
    return Side(facts.laterality), facts.view


def _check(pixels: NDArray[np.generic], facts: InstanceFacts, reduce: int) -> None:
    expected = tuple(-(-n // 2**reduce) for n in (facts.rows, facts.columns))
    if facts.samples != 1 or pixels.shape != expected:
        raise Refused("PIXELS_UNDECODABLE", f"{pixels.shape} is not one grey plane of {expected}")


# --- grey values ------------------------------------------------------------------------------------------------


def display(stored: NDArray[np.generic], facts: InstanceFacts) -> NDArray[np.float32]:
    """Stored values (H, W) as display values 0..1, white = dense."""
    values = stored.astype(np.float32)
    padded = None
    if facts.padding is not None:
        padded = (values >= facts.padding[0]) & (values <= facts.padding[1])
    if facts.slope != 1.0 or facts.intercept != 0.0:
        values = values * np.float32(facts.slope) + np.float32(facts.intercept)
    if facts.voi_luts:
        grey = _by_lut(values, facts.voi_luts[0])
    elif facts.windows:
        grey = _by_window(values, facts.windows[0], facts.voi_function)
    else:
        grey = _by_range(values, padded)
    if facts.photometric == "MONOCHROME1":
        grey = 1.0 - grey
    if padded is not None:
        grey[padded] = 0.0
    return grey


def _voi_name(facts: InstanceFacts) -> str:
    if facts.voi_luts:
        return "LUT"
    return facts.voi_function if facts.windows else "RANGE"


def _by_lut(values: NDArray[np.float32], lut: Lut) -> NDArray[np.float32]:
    """Look up, values outside take the end entries (PS3.3 C.11.2.1.1)."""
    index = np.clip(np.rint(values) - lut.first, 0, lut.data.size - 1).astype(np.intp)
    return (lut.data / np.float32(2**lut.bits - 1))[index].astype(np.float32)


def _by_window(values: NDArray[np.float32], window: Window, function: str) -> NDArray[np.float32]:
    """LINEAR, LINEAR_EXACT and SIGMOID (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    c, w = np.float32(window.center), np.float32(window.width)
    match function:
        case "SIGMOID":
            return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - c) / w, -60, 60)))
        case "LINEAR_EXACT":
            grey = (values - c) / w + 0.5
        case _:
            grey = (values - (c - 0.5)) / max(w - 1.0, np.float32(1e-3)) + 0.5
    return np.clip(grey, 0.0, 1.0).astype(np.float32)


def _by_range(values: NDArray[np.float32], padded: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Without a VOI: the range of the values that are not padding."""
    used = values if padded is None or padded.all() else values[~padded]
    low, high = np.percentile(used[::4] if used.ndim == 1 else used[::2, ::2], (0.1, 99.9))
    return np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0).astype(np.float32)


# --- the breast -------------------------------------------------------------------------------------------------


def _find_breast(grey: NDArray[np.float32]) -> tuple[NDArray[np.bool_], Box]:
    """Mask (H, W) of the breast, a little wider than it, and its box.

    Raises:
        Refused: IMAGE_BLANK.
    """
    h, w = grey.shape
    step = max(h, w) / _COARSE
    coarse_shape = (max(8, round(h / step)), max(8, round(w / step)))
    coarse = np.asarray(
        Image.fromarray(grey).resize((coarse_shape[1], coarse_shape[0]), Image.Resampling.BOX), np.float32
    )
    if np.ptp(coarse) < 0.05:
        raise Refused("IMAGE_BLANK")
    mask = largest_component(coarse > _threshold(coarse))
    if mask.mean() < 0.02:
        raise Refused("IMAGE_BLANK")
    wide = grow(mask, 1)
    full = np.asarray(Image.fromarray(wide).resize((w, h), Image.Resampling.NEAREST), np.bool_)
    box = bounding_box(full)
    if box is None:
        raise Refused("IMAGE_BLANK")
    return full, box


def _threshold(coarse: NDArray[np.float32]) -> float:
    """Between the air, the commonest value of the darker half, and tissue."""
    low, high = float(coarse.min()), float(np.percentile(coarse, 99.5))
    counts, edges = np.histogram(coarse, bins=64, range=(low, max(high, low + 0.01)))
    air = float(edges[int(counts[:32].argmax())])
    return air + 0.08 * (high - air) + 0.01


def _chest_wall(breast: NDArray[np.bool_]) -> tuple[str, float]:
    """The edge, "left" or "right", at which the breast is tallest, and how many times as tall as at the other one."""
    heights = breast.sum(axis=0)
    cols = np.flatnonzero(heights)
    band = max(1, cols.size // 8)
    left, right = float(heights[cols[:band]].sum()), float(heights[cols[-band:]].sum())
    return "left" if left >= right else "right", max(left, right) / max(1.0, min(left, right))


def _tensor(
    grey: NDArray[np.float32], breast: NDArray[np.bool_], box: Box, size: int, *, mirror: bool
) -> tuple[NDArray[np.float32], Affine2]:
    """Stretch, blacken outside, crop, mirror, square. The way back leads to `grey`'s pixels."""
    r0, c0, r1, c1 = box
    crop, inside = grey[r0:r1, c0:c1], breast[r0:r1, c0:c1]
    low, high = np.percentile(crop[::2, ::2][inside[::2, ::2]], (_LOW, _HIGH))
    stretched = np.where(inside, np.clip((crop - low) / max(high - low, 1e-3), 0.0, 1.0), 0.0).astype(np.float32)
    back = Affine2.crop(r0, c0)
    if mirror:
        stretched, back = stretched[:, ::-1], Affine2.flip_columns(c1 - c0).then(back)
    tensor, to_crop = square(stretched, size, left=True)
    return tensor, to_crop.then(back)
