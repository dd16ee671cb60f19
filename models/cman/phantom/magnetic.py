"""Dynamic contrast-enhanced breast MRI of a phantom: fat-suppressed T1, prone, 4 to 6 phases, not registered to the rest.

Does no I/O. Volumes are (Z, Y, X): z from inferior to superior as an axial stack is acquired, y anterior to posterior,
x right to left, all in LPS millimetres by `origin` and `spacing`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.cman.phantom.mammogram import LESION, NODE, SPICULATED, WASHOUT
from models.cman.phantom.patient import Breast, Lesion, Patient
from models.cman.phantom.texture import smooth_cube

FIELD_MM = (162.0, 216.0, 340.8)  # z, y, x
FULL_SHAPE = (60, 160, 256)
_CHEST_MM = 150.0  # y of the chest wall, from the anterior edge of the field
_APART_MM = 88.0  # from the midline to a breast's axis
_PHASE_S = (0.0, 95.0, 185.0, 275.0, 365.0, 455.0)


@dataclass(frozen=True, slots=True)
class Dynamic:
    """stored: (P, Z, Y, X) int16; truth: (Z, Y, X) uint8 bits; origin: LPS mm of the first voxel; spacing_mm: z, y, x."""

    stored: NDArray[np.int16]
    truth: NDArray[np.uint8]
    origin_mm: tuple[float, float, float]  # x, y, z
    spacing_mm: tuple[float, float, float]
    times_s: tuple[float, ...]
    manufacturer: str
    field_t: float


def render(patient: Patient, shape: tuple[int, int, int], *, outer: bool = False) -> Dynamic:
    """All phases at `shape` (Z, Y, X), or only the first two and the last.

    The same patient at any shape, but not the same noise and texture.
    """
    rng = np.random.default_rng([patient.seed, 20])
    count = patient.mr_phases
    spacing = (FIELD_MM[0] / shape[0], FIELD_MM[1] / shape[1], FIELD_MM[2] / shape[2])
    z, y, x = (
        ((np.arange(n, dtype=np.float32) + 0.5) * s - offset)
        for n, s, offset in zip(shape, spacing, (FIELD_MM[0] / 2, 0.0, FIELD_MM[2] / 2), strict=True)
    )
    grid = (z[:, None, None], y[None, :, None], x[None, None, :])
    shift = float(rng.normal(0, 5))
    pre, slow = _tissue(patient, grid, shift, shape, rng)
    truth = np.zeros(shape, np.uint8)
    early, late = slow * np.float32(0.55), slow * np.float32(1.0)
    for sign, breast in zip((-1, 1), patient.breasts, strict=True):
        own = np.random.default_rng([breast.seed, 21])
        for lesion in breast.lesions:
            center = _center(breast, lesion, own, sign=sign, shift=shift, shift_mm=patient.hospital.shift_mm)
            _enhance((early, late), truth, lesion, center, (z, y, x))
        _node((pre, early, late), truth, breast, (z, y, x), sign=sign, shift=shift)
    gain = float(rng.uniform(0.7, 1.5)) * 300.0
    times = tuple(t + float(rng.normal(0, 2)) * (t > 0) for t in _PHASE_S[:count])
    noise = 0.028 * patient.hospital.noise * (2.2 / patient.field_t) ** 0.5
    part = [max(0.0, (t - times[1]) / (times[-1] - times[1])) for t in times]
    if outer:
        times, part = (*times[:2], times[-1]), [*part[:2], part[-1]]
    stored = _phases(pre, (early, late), part, rng, gain=gain, noise=noise)
    return Dynamic(
        stored=stored,
        truth=truth,
        origin_mm=(float(x[0]), float(y[0] - _CHEST_MM), float(z[0])),
        spacing_mm=spacing,
        times_s=times,
        manufacturer="Phantom Resonance" if patient.field_t > 2 else "Phantom Magnetics",
        field_t=patient.field_t,
    )


_Grid = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def _tissue(
    patient: Patient, grid: _Grid, shift: float, shape: tuple[int, int, int], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pre-contrast signal and the slow enhancement of normal tissue, both (Z, Y, X), gland about 1."""
    z, y, x = grid
    texture = smooth_cube(rng, shape, 20)
    pre, gland_all = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for sign, breast in zip((-1, 1), patient.breasts, strict=True):
        along, across, high = _half_axes(breast)
        cx = sign * _APART_MM + shift
        inside = 1 - ((x - cx) / across) ** 2 - (z / high) ** 2
        hang = np.clip((_CHEST_MM - y) / along, 0, None) ** 2
        near = np.flatnonzero(np.abs(x[0, 0] - cx) < across)
        part = (slice(None), slice(None), slice(int(near[0]), int(near[-1]) + 1))
        body = np.clip((inside[part] - hang) * 6.0, 0, 1)
        core = np.clip(1.0 - ((x - cx) / (0.72 * across)) ** 2 - (z / (0.72 * high)) ** 2, 0, 1)[part]
        core = core * np.clip(1.25 - np.abs((_CHEST_MM - y) / along - 0.55) * 2.2, 0, 1)
        gland = core * np.clip(0.5 + 0.8 * (patient.density - 0.45) + 0.45 * texture[part], 0, 1)
        pre[part] = np.maximum(pre[part], body * (0.30 + 0.45 * gland))
        gland_all[part] = np.maximum(gland_all[part], gland * (body > 0))
    chest = _chest(z, y, x - shift, rng)
    pre = np.maximum(pre, chest)
    slow = gland_all * np.float32(rng.uniform(0.10, 0.35)) + np.float32(0.08) * (chest > 0.3)
    return pre, slow.astype(np.float32)


def _half_axes(breast: Breast) -> tuple[float, float, float]:
    """Prone: longer towards the nipple than when compressed, narrower across. (y, x, z) mm."""
    return 1.2 * breast.depth_mm, 0.95 * breast.radius_mm, 1.0 * breast.radius_mm


def _chest(
    z: NDArray[np.float32], y: NDArray[np.float32], x: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Chest wall and pectoral muscles: a curved band with the dark lung behind it; no heart."""
    bow = _CHEST_MM + 26.0 * (x / 150.0) ** 2 + 4.0 * np.cos(z / 50.0)
    first = int(np.searchsorted(y[0, :, 0], _CHEST_MM - 10))  # nothing of the chest lies further forward
    depth = y[:, first:] - bow
    ribs = 0.08 * np.cos(z / 4.5 + float(rng.uniform(0, 6)))
    wall = np.clip(depth / 3.0 + 1, 0, 1) * np.clip((27.0 - depth) / 4.0, 0, 1) * (0.48 + ribs)
    out = np.zeros(np.broadcast_shapes(z.shape, y.shape, x.shape), np.float32)
    out[:, first:] = (wall + 0.07 * (depth > 24.0)) * (np.abs(x) < 163.0)
    return out


def _center(
    breast: Breast, lesion: Lesion, rng: np.random.Generator, *, sign: int, shift: float, shift_mm: float
) -> tuple[float, float, float]:
    """(z, y, x) mm. u = -1 is lateral, away from the midline; v = -1 superior; w = 1 the nipple."""
    u, v, w = lesion.place
    along, across, high = _half_axes(breast)
    dz, dy, dx = rng.normal(0, shift_mm, 3)
    room = math.sqrt(max(0.1, 1 - (0.8 * u) ** 2 - (0.75 * v) ** 2))
    x = sign * _APART_MM + shift - sign * 0.8 * u * across
    return -0.75 * v * high + dz, _CHEST_MM - 6 - 0.82 * w * along * room + dy, x + dx


def _box(
    center: tuple[float, float, float], reach: float, axes: _Grid
) -> tuple[tuple[slice, slice, slice], NDArray[np.float32]]:
    """The part of the grid within reach, and squared distances there (mm2)."""
    spans = [np.flatnonzero(np.abs(a - c) <= reach) for a, c in zip(axes, center, strict=True)]
    part = tuple(slice(int(s[0]), int(s[-1]) + 1) if s.size else slice(0, 0) for s in spans)
    dz, dy, dx = (a[p] - np.float32(c) for a, p, c in zip(axes, part, center, strict=True))
    square = dz[:, None, None] ** 2 + dy[None, :, None] ** 2 + dx[None, None, :] ** 2
    return (part[0], part[1], part[2]), square.astype(np.float32)


def _enhance(
    added: tuple[NDArray[np.float32], NDArray[np.float32]],
    truth: NDArray[np.uint8],
    lesion: Lesion,
    center: tuple[float, float, float],
    axes: _Grid,
) -> None:
    """Add a lesion: wash-out falls from early to late, persistent rises. In place."""
    rng = np.random.default_rng([lesion.seed, 3])
    early, late = added
    part, square = _box(center, lesion.radius_mm * 2.0, axes)
    if not square.size:
        return
    radius = 1.05 * lesion.radius_mm
    shape = 1 / (1 + np.exp(np.clip((np.sqrt(square) - radius) / 1.2, -30, 30)))
    change = float(rng.uniform(0.5, 0.68)) if lesion.washout else float(rng.uniform(1.05, 1.35))
    first = lesion.uptake * (1.0 if lesion.washout else float(rng.uniform(0.7, 1.0)))
    early[part] = np.maximum(early[part], first * shape)
    late[part] = np.where(shape > 0.3, first * change * shape, np.maximum(late[part], first * change * shape))
    bits = LESION | (SPICULATED if lesion.spiculated else 0) | (WASHOUT if lesion.washout else 0)
    truth[part] |= np.where(square < radius * radius, bits, 0).astype(np.uint8)


def _node(
    signal: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    truth: NDArray[np.uint8],
    breast: Breast,
    axes: _Grid,
    *,
    sign: int,
    shift: float,
) -> None:
    """An axillary node in the posterior lateral corner; its size and curve tell nothing about the cortex."""
    rng = np.random.default_rng([breast.node.seed, 4])
    pre, early, late = signal
    center = (
        float(rng.uniform(35, 60)),
        _CHEST_MM + float(rng.uniform(12, 20)),
        sign * float(rng.uniform(138, 150)) + shift,
    )
    part, square = _box(center, 9.0, axes)
    if not square.size:
        return
    shape = 1 / (1 + np.exp(np.clip((np.sqrt(square) - 4.5) / 1.0, -30, 30)))
    level = float(rng.uniform(0.5, 0.8))
    pre[part] = np.maximum(pre[part], 0.5 * shape)
    early[part] = np.maximum(early[part], level * shape)
    late[part] = np.maximum(late[part], level * shape)
    truth[part] |= np.where(square < 4.5**2, NODE, 0).astype(np.uint8)


def _phases(
    pre: NDArray[np.float32],
    added: tuple[NDArray[np.float32], NDArray[np.float32]],
    parts: Sequence[float],
    rng: np.random.Generator,
    *,
    gain: float,
    noise: float,
) -> NDArray[np.int16]:
    """Signal of every phase: early at the second, late at the last, in between along the line. Rician-like floor."""
    out = np.empty((len(parts), *pre.shape), np.int16)
    for n, part in enumerate(parts):
        signal = rng.standard_normal(pre.shape, np.float32)
        signal *= np.float32(noise)
        signal += pre
        if n > 0:
            signal += added[0] * np.float32(1 - part)
            signal += added[1] * np.float32(part)
        np.abs(signal, out=signal)
        signal *= np.float32(gain)
        out[n] = signal + np.float32(0.5)
    return out
