"""Dynamic breast MRI to four projections a side, with the way back to slices. Does no I/O.

Order: planes of the commonest geometry -> phases -> pre, early and late volume in LPS axes -> subtraction -> split at the
body's midline -> projections along the brightest difference, all three channels read at the same voxel, so that the
kinetics of a pixel are those of one place. Difference d becomes d / (d + h), h the body's pre-contrast reference, which
needs no clipping and no vendor's grey scale.

Tensors: AX rows anterior to posterior, columns lateral to medial; SAG rows superior to inferior, columns posterior to
anterior; the same for both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from casework.geometry import Affine2
from casework.preprocess.facts import InstanceFacts
from casework.preprocess.grid import resize, square, to_bytes8
from casework.preprocess.planes import Plane, Series, arrange
from casework.preprocess.prepared import VERSION, Preparation, PreparedImage, Projection
from casework.preprocess.quality import motion_mm, share_at_end
from casework.result import Finding, Side

_EARLY_S, _LATE_S = 120.0, 420.0  # after the first phase
_ONE_BREAST_MM, _TWO_BREASTS_MM = 220.0, 200.0  # tissue from right to left: at most, at least
_OFF_CENTRE_MM = 40.0  # breast coils hold the patient's midline near x = 0
_OTHER_SIDE_MM = 30.0  # one breast whose middle lies so far across the patient's midline is the other one
_UPTAKE = 0.05  # of the reference: less is no contrast agent
_MORE_UP = 1.2  # the largest rises against the largest falls
_LONGEST = 2048  # pixels; a spacing that asks for more is wrong
_PICTURE = 512  # longest side of a projection's picture, about


@dataclass(frozen=True, slots=True)
class _Volumes:
    """pre, early - pre and late - pre, (Z, Y, X) float32; z to inferior, y to posterior, x to the patient's left; mm.

    to_source: (3, 4), (z, y, x, 1) -> (plane index, source row, source column).
    """

    pre: NDArray[np.float32]
    early: NDArray[np.float32]
    late: NDArray[np.float32]
    spacing: tuple[float, float, float]
    to_source: NDArray[np.float64]
    planes: tuple[Plane, ...]  # of the early phase
    reference: float
    notes: dict[str, str]


def prepare(stacks: Sequence[NDArray[np.generic]], facts: Sequence[InstanceFacts], size: int) -> Preparation:
    """Prepare all phases of one dynamic study, in any order.

    stacks: stored values, one per instance: (rows, cols) of a classic slice or (frames, rows, cols) of an Enhanced MR.
    Without at least three phases of one geometry, without uptake, or with sides that can't be told, there are no images,
    and the first finding says so.
    """
    series, findings = arrange(stacks, facts)
    if series is None:
        return Preparation({}, tuple(findings))
    volumes, subject = _volumes(series), series.phases[0][0].facts.series_instance_uid
    if volumes is None:
        return Preparation({}, (Finding("IMAGE_BLANK", subject), *findings))
    if not _has_uptake(volumes):
        return Preparation({}, (Finding("CONTRAST_NOT_SEEN", subject), *findings))
    sides = _sides(volumes, series)
    if not sides:
        return Preparation({}, (Finding("SIDES_UNCERTAIN", subject), *findings))
    images = {}
    for side, (first, last) in sides.items():
        for slot, slab in _slabs(volumes, (first, last)).items():
            images[side, slot] = _project(volumes, side, slot, slab, size)
    return Preparation(images, tuple(findings))


# --- volumes ----------------------------------------------------------------------------------------------------


def _volumes(series: Series) -> _Volumes | None:
    times = series.times_s
    early, late = _pick(times, _EARLY_S, 1, series), _pick(times, _LATE_S, len(series.phases) - 1, series)
    if late <= early:
        late = len(series.phases) - 1
    order, flips, spacing, to_source = _lps(series)
    pre, first, last = (_cube(series.phases[n], order, flips) for n in (0, early, late))
    reference = _reference(pre)
    if not reference > 0 or not all(np.isfinite(v).all() for v in (pre, first, last)):
        return None
    body = pre[::2, ::2, ::2] > 0.15 * np.percentile(pre[::2, ::4, ::4], 99)
    notes = {
        "version": VERSION,
        "motion_mm": f"{motion_mm(pre, (first, last), spacing):.1f}",
        "clipped": f"{max(share_at_end(v[::2, ::2, ::2][body], float(v.max())) for v in (pre, first, last)):.4f}",
        "phases": str(len(series.phases)),
        "early_late": f"{early},{late}",
        "times_s": ",".join("?" if t is None else f"{t:.0f}" for t in times),
        "spacing_mm": ",".join(f"{v:.3f}" for v in spacing),
        "reference": f"{reference:.1f}",
    }
    return _Volumes(pre, first - pre, last - pre, spacing, to_source, series.phases[early], reference, notes)


def _pick(times: Sequence[float | None], wanted_s: float, otherwise: int, series: Series) -> int:
    """The phase after the first whose time is nearest; `otherwise` where times are not stated."""
    known = [(abs(t - wanted_s), n) for n, t in enumerate(times) if n > 0 and t is not None]
    return min(known)[1] if len(known) == len(series.phases) - 1 and len(set(times)) > 2 else otherwise


def _cube(planes: Sequence[Plane], order: tuple[int, ...], flips: tuple[bool, ...]) -> NDArray[np.float32]:
    """The planes of a phase as a cube in LPS axes (a copy in memory order)."""
    shape = (len(planes), planes[0].facts.rows, planes[0].facts.columns)
    cube = np.empty(shape, np.float32)
    for n, plane in enumerate(planes):
        cube[n] = plane.pixels
        if (plane.own.slope, plane.own.intercept) != (1.0, 0.0):
            cube[n] = cube[n] * np.float32(plane.own.slope) + np.float32(plane.own.intercept)
    turned = cube.transpose(order)
    steps = tuple(slice(None, None, -1 if f else 1) for f in flips)
    return np.ascontiguousarray(turned[steps])


def _lps(series: Series) -> tuple[tuple[int, ...], tuple[bool, ...], tuple[float, float, float], NDArray[np.float64]]:
    """How (plane, row, col) axes become (inferior, posterior, left): order, flips, mm, and the matrix back."""
    plane = series.phases[0][0]
    across, down = np.array(plane.own.orientation[:3]), np.array(plane.own.orientation[3:])
    axes = np.stack([np.cross(across, down), down, across])  # rows: LPS direction of plane, row, col index
    wanted = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    match = wanted @ axes.T
    order = _assignment(np.abs(match))
    flips = tuple(bool(match[n, order[n]] < 0) for n in range(3))
    steps_mm = (series.step_mm, plane.own.spacing_mm[0], plane.own.spacing_mm[1])
    lengths = (len(series.phases[0]), plane.facts.rows, plane.facts.columns)
    back = np.zeros((3, 4))
    for n, axis in enumerate(order):
        back[axis, n] = -1.0 if flips[n] else 1.0
        back[axis, 3] = lengths[axis] - 1.0 if flips[n] else 0.0
    return order, flips, (steps_mm[order[0]], steps_mm[order[1]], steps_mm[order[2]]), back


def _assignment(match: NDArray[np.float64]) -> tuple[int, int, int]:
    """For each wanted axis the index axis nearest to it, each used once."""
    choices = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    return max(choices, key=lambda c: float(sum(match[n, c[n]] for n in range(3))))


def _reference(pre: NDArray[np.float32]) -> float:
    """A typical pre-contrast tissue value: the upper quartile of the body's voxels."""
    sample = pre[::2, ::4, ::4]
    body = sample[sample > 0.15 * np.percentile(sample, 99)]
    return float(np.percentile(body, 75)) if body.size else 0.0


def _has_uptake(volumes: _Volumes) -> bool:
    """Whether contrast agent came: the largest rises are real, and clearly larger than the largest falls.

    Phases in the wrong order fall, phases without contrast agent differ by noise alone, up as much as down.
    """
    early, late = (v[::2, ::2, ::2] for v in (volumes.early, volumes.late))
    up = float(np.percentile(np.maximum(early, late), 99.99))
    down = -float(np.percentile(np.minimum(early, late), 0.01))
    return up > _UPTAKE * volumes.reference and up > _MORE_UP * down


def _sides(volumes: _Volumes, series: Series) -> dict[Side, tuple[int, int]]:
    """Column ranges (first, end) of the sides: split at the body's middle, or the one side that the headers state.

    Empty when the sides can't be told: half of one breast must not pass for the other one.
    """
    coarse = volumes.pre[::2, ::2].max(axis=(0, 1)) > 0.3 * volumes.reference
    cols = np.flatnonzero(coarse)
    first, last = (int(cols[0]), int(cols[-1]) + 1) if cols.size else (0, coarse.size)
    width_mm = (last - first) * volumes.spacing[2]
    planes = [p for phase in series.phases for p in phase]
    stated = {p.facts.laterality for p in planes}
    if any(p.facts.laterality_conflict for p in planes):
        return {}
    middle = (first + last) // 2
    if stated & {"R", "L"}:
        side = Side("R" if "R" in stated else "L")
        away_mm = _left_mm(volumes, middle) * (1 if side is Side.RIGHT else -1)  # to the other side's breast
        alone = len(stated) == 1 and width_mm < _ONE_BREAST_MM and away_mm < _OTHER_SIDE_MM
        return {side: (first, last)} if alone else {}
    if width_mm < _TWO_BREASTS_MM or abs(_left_mm(volumes, middle)) > _OFF_CENTRE_MM:
        return {}
    return {Side.RIGHT: (first, middle), Side.LEFT: (middle, last)}


def _left_mm(volumes: _Volumes, column: int) -> float:
    """The patient's x (LPS, mm) of a column of the cube, in the middle of its other axes."""
    depth, height = volumes.pre.shape[:2]
    index, row, col = volumes.to_source @ np.array([depth / 2, height / 2, column, 1.0])
    plane = volumes.planes[int(np.clip(round(index), 0, len(volumes.planes) - 1))].own
    down_mm, across_mm = plane.spacing_mm
    return float(plane.position[0] + plane.orientation[0] * col * across_mm + plane.orientation[3] * row * down_mm)


# --- projections ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Slab:
    """One projection on its grid: brightest voxel's depth, both differences there, mean of pre; origin (z, y, x)."""

    axis: int  # 0 = along z, 2 = along x
    origin: tuple[int, int, int]
    depth_count: int
    depth: NDArray[np.int16]
    early: NDArray[np.float32]
    late: NDArray[np.float32]
    pre: NDArray[np.float32]


def _slabs(volumes: _Volumes, cols: tuple[int, int]) -> dict[str, _Slab]:
    """The projections of one side, by slot."""
    y0, y1 = _rows(volumes, cols)
    count = volumes.pre.shape[0]
    half = count // 2
    upper = _slab(volumes, (slice(0, half), slice(y0, y1), slice(*cols)), 0)
    lower = _slab(volumes, (slice(half, count), slice(y0, y1), slice(*cols)), 0)
    sagittal = _slab(volumes, (slice(0, count), slice(y0, y1), slice(*cols)), 2)
    return {"AX": _joined(upper, lower), "SAG": sagittal, "AX_SUP": upper, "AX_INF": lower}


def _slab(volumes: _Volumes, part: tuple[slice, slice, slice], axis: int) -> _Slab:
    """Project along `axis`: the largest early or late difference decides the voxel for both."""
    early, late = (np.moveaxis(v[part], axis, 0) for v in (volumes.early, volumes.late))
    larger = np.maximum(early, late, order="C")
    best = larger[0].copy()
    depth = np.zeros(best.shape, np.int16)
    for n in range(1, larger.shape[0]):
        np.copyto(depth, np.int16(n), where=larger[n] > best)
        np.maximum(best, larger[n], out=best)
    index = depth.astype(np.intp)[None]
    first, last = (np.take_along_axis(v, index, 0)[0] for v in (early, late))
    origin = (part[0].start, part[1].start, part[2].start)
    return _Slab(axis, origin, larger.shape[0], depth, first, last, volumes.pre[part].mean(axis=axis))


def _joined(upper: _Slab, lower: _Slab) -> _Slab:
    """Two slabs that lie one behind the other, as one."""
    further = np.maximum(lower.early, lower.late) > np.maximum(upper.early, upper.late)
    count = upper.depth_count + lower.depth_count
    return replace(
        upper,
        depth_count=count,
        depth=np.where(further, lower.depth + np.int16(upper.depth_count), upper.depth).astype(np.int16),
        early=np.where(further, lower.early, upper.early),
        late=np.where(further, lower.late, upper.late),
        pre=(upper.pre * upper.depth_count + lower.pre * lower.depth_count) / np.float32(count),
    )


def _project(volumes: _Volumes, side: Side, slot: str, slab: _Slab, size: int) -> PreparedImage:
    """One projection as an image; the picture has the radiological orientation."""
    h = np.float32(volumes.reference)
    gained = [np.clip(d, 0, None) for d in (slab.early, slab.late)]
    channels = [np.clip(slab.pre / (2 * h), 0, 1), *(d / (d + h) for d in gained)]
    mm = volumes.spacing[1:] if slab.axis == 0 else (volumes.spacing[0], volumes.spacing[1])
    flat, to_grid = _isotropic(channels, mm)
    mirrored = side is Side.LEFT or slab.axis == 2  # columns of the grid run right to left, or anterior to posterior
    tensor, to_flat = _oriented(flat, size, mirror=mirrored)
    to_voxel = _to_voxel(volumes.to_source, slab.axis, slab.origin)
    picture, picture_to_grid = _picture(np.maximum(channels[1], channels[2]), mm)
    peak = np.unravel_index(int(np.argmax(slab.early)), slab.early.shape)
    return PreparedImage(
        side=side,
        modality="MR",
        slot=slot,
        study_instance_uid=volumes.planes[0].facts.study_instance_uid,
        tensor=tensor,
        picture=picture,
        tensor_to_picture=to_flat.then(to_grid).then(picture_to_grid.inverse()),
        picture_to_source=picture_to_grid.then(Affine2(_in_plane(to_voxel))),
        sources=_sources(volumes, to_voxel, slab.depth, (int(peak[0]), int(peak[1]))),
        planar=bool(np.all(to_voxel[1:, 2] == 0)),
        projection=Projection(
            slices=tuple((p.facts.sop_instance_uid, p.frame + 1) for p in volumes.planes),
            depth=slab.depth,
            depth_count=slab.depth_count,
            picture_to_grid=picture_to_grid,
            to_voxel=to_voxel,
        ),
        notes=volumes.notes,
    )


def _rows(volumes: _Volumes, cols: tuple[int, int]) -> tuple[int, int]:
    """Rows (first, end) that hold tissue of this side."""
    tissue = volumes.pre[::2, :, cols[0] : cols[1] : 2].max(axis=(0, 2)) > 0.3 * volumes.reference
    found = np.flatnonzero(tissue)
    return (int(found[0]), int(found[-1]) + 1) if found.size else (0, tissue.size)


def _isotropic(
    channels: Sequence[NDArray[np.float32]], mm: tuple[float, ...]
) -> tuple[list[NDArray[np.float32]], Affine2]:
    """Stretch the coarser direction so that pixels are square; the way back leads to the grid."""
    shape = channels[0].shape
    fine = max(min(mm), shape[0] * mm[0] / _LONGEST, shape[1] * mm[1] / _LONGEST)
    wanted = (max(1, round(shape[0] * mm[0] / fine)), max(1, round(shape[1] * mm[1] / fine)))
    if wanted == shape:
        return list(channels), Affine2.identity()
    return [resize(c, wanted) for c in channels], Affine2.resize(wanted, (shape[0], shape[1]))


def _oriented(flat: Sequence[NDArray[np.float32]], size: int, *, mirror: bool) -> tuple[NDArray[np.float32], Affine2]:
    """Mirror where the side asks for it, square, resize: (C, S, S) and the way back to the flat channels."""
    back = Affine2.flip_columns(flat[0].shape[1]) if mirror else Affine2.identity()
    squares = [square(np.ascontiguousarray(c[:, ::-1]) if mirror else c, size, left=False) for c in flat]
    return np.stack([s for s, _ in squares]), squares[0][1].then(back)


def _picture(grey: NDArray[np.float32], mm: tuple[float, ...]) -> tuple[NDArray[np.uint8], Affine2]:
    """The difference projection with square pixels at about _PICTURE, and the way back to the grid."""
    lengths = (grey.shape[0] * mm[0], grey.shape[1] * mm[1])
    scale = _PICTURE / max(lengths)
    shape = (max(1, round(lengths[0] * scale)), max(1, round(lengths[1] * scale)))
    top = max(float(np.percentile(grey, 99.9)), 0.2)
    return to_bytes8(resize(grey / np.float32(top), shape)), Affine2.resize(shape, (grey.shape[0], grey.shape[1]))


def _to_voxel(to_source: NDArray[np.float64], axis: int, origin: tuple[int, int, int]) -> NDArray[np.float64]:
    """(3, 4): (grid row, grid col, depth, 1) -> (plane index, source row, source column)."""
    pick = np.zeros((4, 4))
    for n, volume_axis in enumerate((1, 2, 0) if axis == 0 else (0, 1, 2)):
        pick[volume_axis, n] = 1.0
    pick[:3, 3], pick[3, 3] = origin, 1.0
    voxel: NDArray[np.float64] = to_source @ pick
    return voxel


def _in_plane(to_voxel: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (row, col) part for depth 0; only meaningful where depth moves neither."""
    return to_voxel[1:][:, [0, 1, 3]]


def _sources(
    volumes: _Volumes, to_voxel: NDArray[np.float64], depth: NDArray[np.int16], peak: tuple[int, int]
) -> tuple[str, ...]:
    """The early phase's instances; the one with the brightest difference first."""
    best = round(float(to_voxel[0] @ np.array([peak[0], peak[1], depth[peak], 1.0])))
    uids = [p.facts.sop_instance_uid for p in volumes.planes]
    return tuple(dict.fromkeys([uids[best], *uids]))
