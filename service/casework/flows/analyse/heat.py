"""From the network's contribution maps to heat-maps on pictures, with regions and peaks in source pixels. Does no I/O.

The network says how many logits each place adds. Only what speaks FOR a finding is shown; places that speak against it
stay grey. All images of a case share one scale, so a faint image means little evidence there; the scale never falls
below `FLOOR_LOGITS`, so that a case without evidence is not painted with its own noise.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from casework.errors import Defect
from casework.geometry import Affine2
from casework.preprocess.prepared import PreparedImage, Projection
from casework.result import Depths, HeatImage

FLOOR_LOGITS = 0.01
_NOTEWORTHY = 0.2  # of the case's scale: below it an image has neither region nor peak
_HALF = 0.5  # of the image's own largest value: the edge of its region
_FINE = 64  # grid on which the region is drawn


def heat_images(
    parts: Iterable[tuple[PreparedImage, NDArray[np.float32]]],
    shapes: Mapping[str, tuple[int, int]],
    *,
    depths: bool = False,
) -> tuple[HeatImage, ...]:
    """Heat-maps of all images of a case.

    parts: each image with its contribution map (h, w) in logits, which covers the image's tensor. shapes: SOP Instance
    UID -> (rows, columns) of the source. depths: also say where projections were read from.
    """
    parts = list(parts)
    scale = max([FLOOR_LOGITS, *(float(contribution.max()) for _, contribution in parts)])
    images = (_heat_image(image, np.clip(c, 0.0, None) / np.float32(scale), shapes) for image, c in parts)
    if not depths:
        return tuple(images)
    return tuple(replace(i, depths=_depths(p.projection)) for i, (p, _) in zip(images, parts, strict=True))


def _depths(projection: Projection | None) -> Depths | None:
    if projection is None:
        return None
    return Depths(projection.slices, projection.depth, projection.picture_to_grid.matrix, projection.to_voxel)


def _heat_image(image: PreparedImage, heat: NDArray[np.float32], shapes: Mapping[str, tuple[int, int]]) -> HeatImage:
    size = image.tensor.shape[-1]
    cell_to_tensor = Affine2.resize((heat.shape[0], heat.shape[1]), (size, size))
    on_picture = _sample(heat, image.picture.shape, cell_to_tensor.then(image.tensor_to_picture).inverse())
    sources, frame, region, peak = image.sources, image.frame_number, None, None
    if float(heat.max()) >= _NOTEWORTHY and float(on_picture.max()) > 0:
        at = np.unravel_index(int(np.argmax(on_picture)), on_picture.shape)
        point = image.locate(float(at[0]), float(at[1]))
        # A projection shows many slices: the one behind the hottest place becomes the reference.
        sources = tuple(dict.fromkeys((point.sop_instance_uid, *image.sources)))
        frame, shape = point.frame_number, shapes[point.sop_instance_uid]
        inside = _clip(np.array([[point.row, point.col]]), shape)[0]
        peak = (float(inside[0]), float(inside[1]))
        if image.planar:
            region = _clip(image.tensor_to_source(_outline(heat, size)), shape)
    return HeatImage(
        side=image.side,
        modality=image.modality,
        view=image.slot,
        study_instance_uid=image.study_instance_uid,
        sources=sources,
        frame_number=frame,
        picture=image.picture,
        heat=on_picture,
        to_source=image.picture_to_source.matrix,
        region=region,
        peak=peak,
    )


def _clip(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.clip(points, 0.0, np.array(shape, np.float64) - 1.0)


def _sample(values: NDArray[np.float32], shape: tuple[int, ...], back: Affine2) -> NDArray[np.float32]:
    """Bilinear samples of `values` on a grid of `shape`; `back` leads from it to `values`. Outside is 0.

    All maps of the preprocessing keep rows as rows, so rows and columns are interpolated one after the other.
    """
    (to_row, mixed, row0), (mixed_too, to_col, col0) = back.matrix
    if abs(mixed) > 1e-9 or abs(mixed_too) > 1e-9:
        raise Defect("INTERNAL", "a preprocessing map turns the image")
    by_rows = _interpolated(values, shape[0], float(to_row), float(row0))
    return np.ascontiguousarray(_interpolated(by_rows.T, shape[1], float(to_col), float(col0)).T)


def _interpolated(values: NDArray[np.float32], count: int, step: float, start: float) -> NDArray[np.float32]:
    """Linear samples at start + step * n of the first axis; 0 outside its area, the end values up to half a cell out."""
    cells = values.shape[0]
    at = start + step * np.arange(count)
    outside = (at < -0.5) | (at > cells - 0.5)
    at = np.clip(at, 0.0, cells - 1.0)
    low = np.minimum(at.astype(np.intp), max(cells - 2, 0))
    share = (at - low).astype(np.float32)[:, None]
    sampled: NDArray[np.float32] = values[low] * (1 - share) + values[np.minimum(low + 1, cells - 1)] * share
    sampled[outside] = 0.0
    return sampled


def _outline(heat: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """Convex outline (N, 2) in tensor (row, col) of the area around the hottest place that is at least half as hot."""
    to_heat = Affine2.resize((_FINE, _FINE), (heat.shape[0], heat.shape[1]))
    fine = _sample(heat, (_FINE, _FINE), to_heat)
    area = _connected(fine >= _HALF * float(fine.max()), np.unravel_index(int(np.argmax(fine)), fine.shape))
    ends: dict[int, tuple[int, int]] = {}
    for r, c in area:
        first, last = ends.get(r, (c, c))
        ends[r] = min(first, c), max(last, c)
    corners = [
        (r + dr, c + dc) for r, (c0, c1) in ends.items() for dr in (-0.5, 0.5) for c, dc in ((c0, -0.5), (c1, 0.5))
    ]
    return Affine2.resize((_FINE, _FINE), (size, size))(_hull(corners))


def _connected(mask: NDArray[np.bool_], start: tuple[np.intp, ...]) -> set[tuple[int, int]]:
    """The pixels joined to `start` by edges."""
    first = (int(start[0]), int(start[1]))
    seen, waiting = {first}, deque([first])
    inside = set(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True))
    while waiting:
        r, c = waiting.popleft()
        for near in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            if near in inside and near not in seen:
                seen.add(near)
                waiting.append(near)
    return seen


def _hull(points: Iterable[tuple[float, float]]) -> NDArray[np.float64]:
    """Convex hull (Andrew's monotone chain)."""
    ordered = sorted(set(points))

    def half(run: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for p in run:
            while len(chain) >= 2:
                (ar, ac), (br, bc) = chain[-2], chain[-1]
                if (br - ar) * (p[1] - ac) - (bc - ac) * (p[0] - ar) > 0:
                    break
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return np.array(half(ordered) + half(reversed(ordered)))
