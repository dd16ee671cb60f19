"""Four-view mammograms of a phantom: compressed breast, texture, pectoral muscle, lesions, several vendors' looks.

Does no I/O. Drawn with the chest wall at the left and superior or lateral at the top; the right breast is mirrored at the
end, as it hangs. Anatomy is drawn at 1,024 rows at most and enlarged, noise is added at full size.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.cman.phantom.patient import Breast, Lesion, Patient
from models.cman.phantom.texture import enlarge, power_law, smooth

FIELD_MM = (240.0, 195.0)  # of the detector
FULL_SHAPE = (4096, 3328)
BITS = 12
LESION, SPICULATED, WASHOUT, NODE = 1, 2, 4, 8  # bits of a truth mask
_DRAWN_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Mammogram:
    """stored: (rows, columns) uint16 of BITS bits; truth: uint8 bits at the same or a smaller grid of the same area."""

    side: str
    view: str
    stored: NDArray[np.uint16]
    truth: NDArray[np.uint8]
    spacing_mm: float
    photometric: str
    voi_function: str
    window: tuple[float, float]  # center, width
    lut: NDArray[np.uint16] | None
    manufacturer: str


_MAKERS = {
    "linear": "Phantom Senoscope",
    "sigmoid": "Phantom Mammolux",
    "inverted": "Phantom Clearview",
    "lut": "Phantom Northray",
    "exact": "Phantom Seronix",
}


def render(patient: Patient, breast: Breast, view: str, rows: int) -> Mammogram:
    """One view at `rows` rows (columns in the detector's proportion).

    The same patient at any size, but not the same texture, and lesions shift anew; `truth` always fits `stored`.
    """
    rng = np.random.default_rng([breast.seed, 10 if view == "CC" else 11])
    drawn_rows = min(rows, _DRAWN_ROWS)
    shape = (rows, round(rows * FULL_SHAPE[1] / FULL_SHAPE[0]))
    drawn = (drawn_rows, round(drawn_rows * FULL_SHAPE[1] / FULL_SHAPE[0]))
    anatomy, truth = _anatomy(patient, breast, view, drawn, rng)
    tone = enlarge(anatomy, shape)
    tone = np.where(tone > 1e-3, tone + _noise(rng, shape, patient.hospital.noise), 0)  # vendors blacken the air
    stored, look = _stored(np.clip(tone, 0, 1), patient.mg_vendor)
    if breast.side == "R":
        stored, truth = stored[:, ::-1], truth[:, ::-1]
    _mark(stored, f"{breast.side}{view}", inverted=look[0] == "MONOCHROME1", left=breast.side == "R")
    return Mammogram(
        side=breast.side,
        view=view,
        stored=np.ascontiguousarray(stored),
        truth=np.ascontiguousarray(truth),
        spacing_mm=FIELD_MM[0] / rows,
        photometric=look[0],
        voi_function=look[1],
        window=look[2],
        lut=look[3],
        manufacturer=_MAKERS[patient.mg_vendor],
    )


# --- anatomy ----------------------------------------------------------------------------------------------------


def _anatomy(
    patient: Patient, breast: Breast, view: str, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Display-like values 0..1, air 0, and the truth mask."""
    mm = FIELD_MM[0] / shape[0]
    y = ((np.arange(shape[0], dtype=np.float32) + 0.5) * mm - FIELD_MM[0] / 2)[:, None]
    x = ((np.arange(shape[1], dtype=np.float32) + 0.5) * mm)[None]
    rim, middle = _outline(breast, view, y, rng)
    thickness = np.sqrt(np.clip((rim - x) / 14.0, 0.0, 1.0))
    fat = 0.26 * thickness
    gland = _gland(patient.density, (y - middle) / breast.radius_mm, x / breast.depth_mm, rng)
    tone = fat + 0.42 * gland * thickness
    if view == "MLO":
        tone = np.maximum(tone, _pectoral(y, x, middle, rng))
    tone += 0.05 * thickness * _strands(rng, shape, mm)
    truth = np.zeros(shape, np.uint8)
    for lesion in breast.lesions:
        center = _center(breast, lesion, view, rng, middle=middle, shift_mm=patient.hospital.shift_mm)
        _draw_lesion(tone, truth, lesion, center, mm=mm, contrast=patient.hospital.contrast)
    blur = (0.12 + patient.hospital.blur) / mm
    return smooth(np.clip(tone, 0, 1), (blur, blur)) * (thickness > 0), truth * (thickness > 0)


def _outline(
    breast: Breast, view: str, y: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], float]:
    """Distance of the skin from the chest wall per row, mm (rows, 1), and the row of the nipple, mm."""
    middle = float(rng.normal(0, 4)) - (18.0 if view == "MLO" else 0.0)
    across = np.clip(np.abs((y - middle) / breast.radius_mm), 0, 1)
    rim = breast.depth_mm * np.sqrt(1 - across**2.4)
    nipple = 6.0 * np.exp(-(((y - middle) / 5.0) ** 2))
    rim = rim + nipple * (rim > 0)
    if view == "MLO":
        tail = float(rng.uniform(38, 52)) * np.clip((middle + 0.4 * breast.radius_mm - y) / 60.0, 0, 1)
        rim = np.maximum(rim, tail)
    return rim.astype(np.float32), middle


def _gland(
    density: float, v: NDArray[np.float32], w: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Fibroglandular share 0..1 (rows, cols): a cone towards the nipple, broken up by power-law texture."""
    shape = (v.shape[0], w.shape[1])
    reach = 0.5 + 0.3 * density
    inside = np.exp(-((v / reach) ** 2) * 1.6 - ((w - 0.5) / (0.75 * reach)) ** 2 * 1.6)
    texture = power_law(rng, shape, 2.9, longest=0.35)
    fine = power_law(rng, shape, 2.2, longest=0.06)
    drive = 2.6 * (density - 0.55) + 0.85 * texture + 0.35 * fine + 2.2 * (inside - 0.5)
    return (inside / (1 + np.exp(-2.2 * drive))).astype(np.float32)


def _strands(rng: np.random.Generator, shape: tuple[int, int], mm: float) -> NDArray[np.float32]:
    """Cooper's ligaments and vessels: thin ridges where a smooth field passes zero."""
    field = power_law(rng, shape, 3.6, longest=0.3)
    steep = np.hypot(*np.gradient(field)).astype(np.float32) + 0.02
    return np.exp(-((field / steep * mm / 1.3) ** 2)).astype(np.float32)


def _pectoral(
    y: NDArray[np.float32], x: NDArray[np.float32], middle: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The muscle: a bright triangle from the top left corner, slightly bowed."""
    width, length = float(rng.uniform(45, 70)), float(rng.uniform(110, 145)) + middle
    down = (y + FIELD_MM[0] / 2) / length
    edge = width * (1 - down) + 6.0 * np.sin(np.pi * np.clip(down, 0, 1))
    return (0.62 / (1 + np.exp(np.clip((x - edge) / 1.2, -30, 30))) * (down < 1.1)).astype(np.float32)


# --- lesions ----------------------------------------------------------------------------------------------------


def _center(
    breast: Breast, lesion: Lesion, view: str, rng: np.random.Generator, *, middle: float, shift_mm: float
) -> tuple[float, float]:
    """(y, x) in mm. CC looks along v; MLO along the oblique, its rows run from superior lateral to inferior medial."""
    u, v, w = lesion.place
    across = u if view == "CC" else (u + v) / math.sqrt(2)
    dy, dx = rng.normal(0, shift_mm, 2)
    return middle + 0.86 * across * breast.radius_mm + dy, 0.9 * w * breast.depth_mm + 4 + dx


def _draw_lesion(
    tone: NDArray[np.float32],
    truth: NDArray[np.uint8],
    lesion: Lesion,
    center: tuple[float, float],
    *,
    mm: float,
    contrast: float,
) -> None:
    """Add a mass: round and smooth, or ragged with straight spicules of about two radii. In place."""
    rng = np.random.default_rng(lesion.seed)
    reach = 3.2 * lesion.radius_mm
    r0, r1 = (int(np.clip((center[0] + s * reach + FIELD_MM[0] / 2) / mm, 0, tone.shape[0])) for s in (-1, 1))
    c0, c1 = (int(np.clip((center[1] + s * reach) / mm, 0, tone.shape[1])) for s in (-1, 1))
    if r1 <= r0 or c1 <= c0:
        return
    y = ((np.arange(r0, r1, dtype=np.float32) + 0.5) * mm - FIELD_MM[0] / 2 - np.float32(center[0]))[:, None]
    x = ((np.arange(c0, c1, dtype=np.float32) + 0.5) * mm - np.float32(center[1]))[None]
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    wobble = sum(
        float(rng.normal(0, a)) * np.cos(k * angle + float(rng.uniform(0, 6.3))) for k, a in ((2, 0.10), (3, 0.06))
    )
    edge = lesion.radius_mm * (0.82 if lesion.spiculated else 1.0) * (1 + wobble)
    soft = 1.5 if lesion.spiculated else 0.7
    mass = 0.30 * lesion.mass / (1 + np.exp(np.clip((radius - edge) / soft, -30, 30)))
    if lesion.spiculated:
        mass = np.maximum(mass, 0.25 * lesion.mass * _spicules(rng, lesion.radius_mm, y, x))
    tone[r0:r1, c0:c1] += (contrast * mass).astype(np.float32)
    inside = radius < 1.15 * edge
    bits = LESION | (SPICULATED if lesion.spiculated else 0) | (WASHOUT if lesion.washout else 0)
    truth[r0:r1, c0:c1] |= np.where(inside, bits, 0).astype(np.uint8)


def _spicules(
    rng: np.random.Generator, radius_mm: float, y: NDArray[np.float32], x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Straight lines from the centre, thinning outwards, 0..1 (rows, cols)."""
    lines = np.zeros(np.broadcast_shapes(y.shape, x.shape), np.float32)
    count = int(rng.integers(9, 14))
    turns = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
    for turn, length in zip(turns, rng.uniform(1.6, 2.6, count), strict=True):
        cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
        along, off = x * cos + y * sin, y * cos - x * sin
        left = np.clip(1 - along / np.float32(length * radius_mm), 0, 1) * (along > 0)
        width = 0.45 + 1.1 * left
        lines = np.maximum(lines, np.exp(-((off / width) ** 2)) * np.sqrt(left))
    return lines


# --- detector ---------------------------------------------------------------------------------------------------


def _noise(rng: np.random.Generator, shape: tuple[int, int], factor: float) -> NDArray[np.float32]:
    """Quantum noise, as much as processing for presentation leaves of it; pixels above 1 mm average it away."""
    mm = FIELD_MM[0] / shape[0]
    sigma = factor * min(0.008, 0.008 / mm)
    tile = rng.standard_normal((min(shape[0], 1024), min(shape[1], 832)), np.float32) * np.float32(sigma)
    times = (-(-shape[0] // tile.shape[0]), -(-shape[1] // tile.shape[1]))
    return np.tile(tile, times)[: shape[0], : shape[1]]


_Look = tuple[str, str, tuple[float, float], NDArray[np.uint16] | None]


def _stored(tone: NDArray[np.float32], vendor: str) -> tuple[NDArray[np.uint16], _Look]:
    """Stored values whose VOI gives back `tone`, each vendor in its own way."""
    values: NDArray[np.floating[Any]]
    look: _Look
    match vendor:
        case "sigmoid":
            t = np.clip(tone, 0.01, 0.99)
            values, look = 1900 - 850 / 4 * np.log(1 / t - 1), ("MONOCHROME2", "SIGMOID", (1900.0, 850.0), None)
        case "inverted":
            values, look = 3600 - 3200 * tone, ("MONOCHROME1", "LINEAR", (2000.5, 3201.0), None)
        case "lut":
            values, look = 300 + 3000 * tone**1.6, ("MONOCHROME2", "LINEAR", (1800.0, 3000.0), _lut())
        case "exact":
            values, look = 500 + 2800 * tone, ("MONOCHROME2", "LINEAR_EXACT", (1900.0, 2800.0), None)
        case _:
            values, look = 150 + 3600 * tone, ("MONOCHROME2", "LINEAR", (1950.5, 3601.0), None)
    return np.clip(np.rint(values), 0, 2**BITS - 1).astype(np.uint16), look


def _lut() -> NDArray[np.uint16]:
    """The inverse of the "lut" vendor's curve for stored values 300 to 3300, 12 bits."""
    return np.rint((np.arange(3001) / 3000.0) ** (1 / 1.6) * 4095).astype(np.uint16)


def _mark(stored: NDArray[np.uint16], text: str, *, inverted: bool, left: bool) -> None:
    """The lead marker beside the breast, in place."""
    h, w = stored.shape
    label = Image.new("L", (44, 14), 0)
    ImageDraw.Draw(label).text((3, 1), text, fill=255)
    scale = max(1, h // 420)
    bits = np.kron(np.asarray(label) > 127, np.ones((scale, scale), bool))
    r0, c0 = h // 14, (w // 20 if left else w - w // 20 - bits.shape[1])
    place = stored[r0 : r0 + bits.shape[0], max(c0, 0) : max(c0, 0) + bits.shape[1]]
    place[bits[: place.shape[0], : place.shape[1]]] = 300 if inverted else 3500
