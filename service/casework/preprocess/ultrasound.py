"""Ultrasound frames to network tensors and pictures, with the way back to their pixels. Does no I/O.

Order: grey values -> the 2D tissue region that the header calibrates (PS3.3 C.8.5.5), else the largest changing or
bright area below the banner -> annotation rows outside it never reach tensor or picture -> key frames of a cine by
sharpness and by difference from those already chosen -> stretched -> square by millimetres -> S x S.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from casework.errors import Refused
from casework.geometry import Affine2
from casework.modelspec import SLOTS
from casework.preprocess.facts import InstanceFacts, Region
from casework.preprocess.grid import Box, bounding_box, grow, largest_component, resize, square, to_bytes8
from casework.preprocess.prepared import VERSION, Preparation, PreparedImage
from casework.preprocess.quality import EVEN, even_share, share_at_end
from casework.result import Finding, Side

FRAMES_LOOKED_AT = 16
_COARSE = 64
_LONGEST = 2048  # pixels; a calibration that says more is wrong


def sample_frames(count: int, limit: int = FRAMES_LOOKED_AT) -> tuple[int, ...]:
    """The 1-based frames of a cine that are worth decoding: all, or `limit` spread evenly."""
    if count <= limit:
        return tuple(range(1, count + 1))
    return tuple(round(float(n)) for n in np.linspace(1, count, limit))


def prepare(
    frames: NDArray[np.generic],
    facts: InstanceFacts,
    size: int,
    *,
    frame_numbers: Sequence[int] | None = None,
    limit: int = 3,
) -> Preparation:
    """Prepare up to `limit` frames of one instance, slots "1", "2", "3" from the best on.

    frames: (H, W), (H, W, 3) RGB, (F, H, W) or (F, H, W, 3); frame_numbers: their 1-based numbers in the source when
    they are only some of its frames.

    Raises:
        Refused: LATERALITY_UNKNOWN, LATERALITY_CONFLICT, PIXELS_UNDECODABLE or IMAGE_BLANK.
    """
    side = _side(facts)
    grey = _grey(frames, facts)
    numbers = tuple(frame_numbers or range(1, grey.shape[0] + 1))
    box, mm, findings = _region(grey, facts)
    cut = grey[:, box[0] : box[2], box[1] : box[3]]
    if float(np.ptp(cut)) < 8:
        raise Refused("IMAGE_BLANK")
    if min(even_share(frame) for frame in cut) > EVEN:
        raise Refused("SCREEN_COPY")
    chosen = _key_frames(cut, min(limit, len(SLOTS["US"])))
    images = {
        (side, slot): _one(cut[n], facts, size, number=numbers[n], box=box, mm=mm, place=(side, slot))
        for slot, n in zip(SLOTS["US"], chosen, strict=False)
    }
    return Preparation(images, findings)


def combine(preparations: Sequence[Preparation]) -> Preparation:
    """The frames of several instances in one set of slots per side: every instance's best first, then the seconds."""
    images: dict[tuple[Side, str], PreparedImage] = {}
    for side in Side:
        rows = [[i for (s, _), i in p.images.items() if s is side] for p in preparations]
        ranked = [i for rank in zip_longest(*rows) for i in rank if i is not None]
        for slot, image in zip(SLOTS["US"], ranked, strict=False):
            images[side, slot] = replace(image, slot=slot)
    findings = tuple(f for p in preparations for f in p.findings)
    return Preparation(images, findings)


def _side(facts: InstanceFacts) -> Side:
    if facts.laterality_conflict:
        raise Refused("LATERALITY_CONFLICT")
    if facts.laterality not in ("R", "L"):
        raise Refused("LATERALITY_UNKNOWN")
    return Side(facts.laterality)


def _grey(frames: NDArray[np.generic], facts: InstanceFacts) -> NDArray[np.uint8]:
    """(F, H, W), luminance of colour, more than 8 bits cut to 8."""
    colour = frames.ndim >= 3 and frames.shape[-1] == 3 and frames.shape[-3:-1] == (facts.rows, facts.columns)
    if colour:
        parts = (
            frames[..., n].astype(np.uint32) * np.uint32(w) for n, w in enumerate((77, 150, 29))
        )  # BT.601 in 256ths
        frames = np.minimum(np.asarray(sum(parts)) >> 8, 255).astype(np.uint8)
    if frames.ndim == 2:
        frames = frames[None]
    if frames.ndim != 3 or frames.shape[1:] != (facts.rows, facts.columns):
        raise Refused("PIXELS_UNDECODABLE", f"{frames.shape} for {facts.rows} x {facts.columns}")
    if not colour and facts.bits_stored > 8:
        frames = frames.astype(np.int64) >> (facts.bits_stored - 8)
    grey = np.clip(frames, 0, 255).astype(np.uint8) if frames.dtype != np.uint8 else frames.astype(np.uint8, copy=False)
    return 255 - grey if facts.photometric == "MONOCHROME1" else grey


# --- the region -------------------------------------------------------------------------------------------------


def _region(grey: NDArray[np.uint8], facts: InstanceFacts) -> tuple[Box, tuple[float, float], tuple[Finding, ...]]:
    """The picture area (row0, col0, row1, col1), mm per (row, col), and a finding when it was not stated."""
    usable = [r for r in facts.regions if r.spatial_format == 1 and _inside(r, facts)]
    if usable:
        best = max(usable, key=lambda r: (r.data_type == 1, (r.x1 - r.x0) * (r.y1 - r.y0)))
        mm = (best.mm_per_row or 1.0, best.mm_per_col or 1.0)
        if best.mm_per_row is None or best.mm_per_col is None:
            mm = (1.0, 1.0)
        return (best.y0, best.x0, min(best.y1 + 1, facts.rows), min(best.x1 + 1, facts.columns)), mm, ()
    note = (Finding("REGION_UNCALIBRATED", facts.sop_instance_uid),)
    return _seen_area(grey), (1.0, 1.0), note


def _inside(r: Region, facts: InstanceFacts) -> bool:
    """Corners in order, inside the image (one pixel too far is a common mistake and let pass), not tiny."""
    in_image = 0 <= r.x0 < r.x1 <= facts.columns and 0 <= r.y0 < r.y1 <= facts.rows
    return in_image and (r.x1 - r.x0) >= 32 and (r.y1 - r.y0) >= 32


def _seen_area(grey: NDArray[np.uint8]) -> Box:
    """The box of the largest area with texture; banners, rulers and logos are thin and fall apart when coarse."""
    mean = grey.mean(axis=0, dtype=np.float32)
    h, w = mean.shape
    shape = (max(8, round(h * _COARSE / max(h, w))), max(8, round(w * _COARSE / max(h, w))))
    coarse = resize(mean, shape)
    mask = coarse > max(6.0, 0.12 * float(np.percentile(coarse, 98)))
    box = bounding_box(largest_component(_eroded(mask))) if mask.any() else None
    if box is None:
        return 0, 0, h, w
    sr, sc = h / shape[0], w / shape[1]
    r0, c0 = max(0, int((box[0] - 1) * sr)), max(0, int((box[1] - 1) * sc))
    return r0, c0, min(h, int((box[2] + 1) * sr)), min(w, int((box[3] + 1) * sc))


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """One step smaller, unless that leaves nothing."""
    smaller = mask & ~grow(~mask, 1)
    return smaller if smaller.any() else mask


# --- frames -----------------------------------------------------------------------------------------------------


def _key_frames(cut: NDArray[np.uint8], limit: int) -> list[int]:
    """Indices of the sharpest frame, then of those that add most: sharpness x difference from the chosen."""
    if cut.shape[0] == 1:
        return [0]
    middle = np.stack([_shrunk(f, 128) for f in cut])
    small = np.stack([_shrunk(f, 32) for f in cut])
    edges = np.abs(np.diff(middle, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(middle, axis=2)).mean(axis=(1, 2))
    sharp = edges / max(float(edges.max()), 1e-6)
    chosen = [int(sharp.argmax())]
    while len(chosen) < min(limit, cut.shape[0]):
        apart = np.min([np.abs(small - small[c]).mean(axis=(1, 2)) for c in chosen], axis=0)
        gain = sharp**2 * apart
        gain[chosen] = -1.0
        best = int(gain.argmax())
        if apart[best] < 1.0:
            break  # a frozen image repeated
        chosen.append(best)
    return chosen


def _shrunk(frame: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """(side, side) float32 of a frame."""
    image = Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float32)


def _one(
    frame: NDArray[np.uint8],
    facts: InstanceFacts,
    size: int,
    *,
    number: int,
    box: Box,
    mm: tuple[float, float],
    place: tuple[Side, str],
) -> PreparedImage:
    fine = max(min(mm), max(frame.shape[0] * mm[0], frame.shape[1] * mm[1]) / _LONGEST)
    shape = (max(1, round(frame.shape[0] * mm[0] / fine)), max(1, round(frame.shape[1] * mm[1] / fine)))
    low, high = np.percentile(frame[::2, ::2], (1.0, 99.7))
    grey = np.clip((frame.astype(np.float32) - low) / max(float(high - low), 8.0), 0.0, 1.0).astype(np.float32)
    even = grey if shape == frame.shape else resize(grey, shape)
    tensor, to_even = square(even, size, left=False)
    return PreparedImage(
        side=place[0],
        modality="US",
        slot=place[1],
        study_instance_uid=facts.study_instance_uid,
        tensor=tensor[None],
        picture=to_bytes8(grey),
        tensor_to_picture=to_even.then(Affine2.resize(shape, (frame.shape[0], frame.shape[1]))),
        picture_to_source=Affine2.crop(box[0], box[1]),
        sources=(facts.sop_instance_uid,),
        frame_number=number,
        notes={
            "version": VERSION,
            "region": ",".join(map(str, box)),
            "mm": f"{mm[0]:.4f},{mm[1]:.4f}",
            "clipped": f"{share_at_end(frame, 254):.4f}",
        },
    )
