"""Ultrasound of a phantom's axilla and lesions: layers, speckle, shadow, a node with cortex and hilum, a cine.

Does no I/O. A frame is the scanner's whole screen: banner, depth ruler and the calibrated picture area.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.cman.phantom.mammogram import LESION, NODE, SPICULATED
from models.cman.phantom.patient import Breast, Lesion, Patient
from models.cman.phantom.texture import power_law, smooth, speckle

AREA_MM = (36.0, 38.0)  # depth, width of the picture area
FULL_SHAPE = (600, 800)  # of the screen


@dataclass(frozen=True, slots=True)
class Sonogram:
    """frames: (F, H, W) uint8 of the screen; truth the same shape, bits; area: row0, col0, row1, col1, ends excluded."""

    side: str
    kind: str  # "node" | "lesion" | "cine"
    frames: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    area: tuple[int, int, int, int]
    mm_per_pixel: float
    frame_time_ms: float
    manufacturer: str


def area_of(shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """The picture area on a screen of `shape`."""
    height = int(shape[0] * 0.84)
    width = int(height * AREA_MM[1] / AREA_MM[0])
    top, left = int(shape[0] * 0.11), (shape[1] - width) // 2
    return top, left, top + height, left + width


def render(
    patient: Patient, breast: Breast, kind: str, shape: tuple[int, int], offsets: tuple[float, ...] = (0.0,)
) -> Sonogram:
    """A still of the node or of the largest lesion, or a cine through the node.

    offsets: one per frame, how far the plane lies from the node's middle, -1 and 1 are its ends.
    """
    area = area_of(shape)
    inner = (area[2] - area[0], area[3] - area[1])
    rng = np.random.default_rng([breast.seed, {"node": 30, "lesion": 31, "cine": 32}[kind]])
    screens, truths = [], []
    tissue = _Tissue.draw(rng, inner)
    for n, offset in enumerate(offsets):
        echo, shadow, truth = _scene(breast, kind, tissue, offset, inner)
        screens.append(_screen(_image(patient, echo, shadow, rng), patient, shape, area, n))
        truths.append(_placed(truth, shape, area))
    return Sonogram(
        side=breast.side,
        kind=kind,
        frames=np.stack(screens),
        truth=np.stack(truths),
        area=area,
        mm_per_pixel=AREA_MM[0] / inner[0],
        frame_time_ms=50.0,
        manufacturer=f"Phantom Sono {patient.probe_mhz:g}",
    )


@dataclass(frozen=True, slots=True)
class _Tissue:
    """The layers of one sweep: depths (mm) and smooth fields that move little between frames."""

    fascia_mm: float
    muscle_mm: float
    tilt: float
    field: NDArray[np.float32]
    center: tuple[float, float]

    @staticmethod
    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> "_Tissue":
        coarse = (max(24, shape[0] // 3), max(24, shape[1] // 3))
        field = np.asarray(
            Image.fromarray(power_law(rng, coarse, 2.4, longest=0.3)).resize(
                (shape[1], shape[0]), Image.Resampling.BILINEAR
            ),
            np.float32,
        )
        return _Tissue(
            fascia_mm=float(rng.uniform(5, 8)),
            muscle_mm=float(rng.uniform(25, 30)),
            tilt=float(rng.normal(0, 0.06)),
            field=field,
            center=(float(rng.uniform(14, 19)), float(rng.normal(0, 3))),
        )


_Scene = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]


def _scene(breast: Breast, kind: str, tissue: _Tissue, offset: float, shape: tuple[int, int]) -> _Scene:
    """Echogenicity, attenuation per row (both (H, W)) and truth."""
    mm = AREA_MM[0] / shape[0]
    depth = ((np.arange(shape[0], dtype=np.float32) + 0.5) * mm)[:, None]
    across = ((np.arange(shape[1], dtype=np.float32) + 0.5) * mm - AREA_MM[1] / 2)[None]
    level = depth + tissue.tilt * across
    echo = np.where(level < 1.6, 1.5, 0.30) + 0.16 * tissue.field
    echo = echo + 0.5 * np.exp(-(((level - tissue.fascia_mm + 0.7 * tissue.field) / 0.45) ** 2))
    striped = 0.26 + 0.22 * np.cos(level * 4.2 + 1.5 * tissue.field) ** 4
    echo = np.where(level > tissue.muscle_mm + tissue.field, striped, echo)
    echo = echo + 0.8 * np.exp(-(((level - tissue.muscle_mm - tissue.field) / 0.5) ** 2))
    shadow = np.zeros(shape, np.float32)
    truth = np.zeros(shape, np.uint8)
    y, x = depth - np.float32(tissue.center[0]), across - np.float32(tissue.center[1])
    if kind == "lesion":
        lesion = max(breast.lesions, key=lambda n: n.radius_mm)
        _lesion(echo, shadow, truth, lesion, (y, x))
    else:
        size = 1.0 if kind == "node" else float(np.sqrt(max(0.25, 1 - 0.75 * offset * offset)))
        _node(echo, truth, breast, size, (y, x))
    return np.clip(echo, 0.02, None).astype(np.float32), shadow, truth


def _node(
    echo: NDArray[np.float32],
    truth: NDArray[np.uint8],
    breast: Breast,
    size: float,
    place: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    """Bean shape: dark cortex of the node's thickness around a bright hilum. In place."""
    node = breast.node
    rng = np.random.default_rng(node.seed)
    turn = float(rng.normal(0, 0.25))
    y = place[0] * np.cos(turn) + place[1] * np.sin(turn)
    x = place[1] * np.cos(turn) - place[0] * np.sin(turn)
    long_mm, short_mm = node.long_mm * size, node.short_mm * size
    outer = np.sqrt((y / short_mm) ** 2 + (x / long_mm) ** 2)
    inner_short = max(0.35, short_mm - node.cortex_mm)
    inner_long = max(0.8, long_mm - node.cortex_mm)
    hilum = np.sqrt(((y - 0.12 * short_mm) / inner_short) ** 2 + (x / inner_long) ** 2)
    inside = outer < 1
    echo[inside] = (0.085 + 0.02 * np.cos(6 * x))[inside]
    core = inside & (hilum < 1)
    echo[core] = (0.62 - 0.2 * hilum)[core]
    rim = np.exp(-(((outer - 1) * short_mm / 0.35) ** 2))
    echo += (0.35 * rim).astype(np.float32)
    truth[inside] |= NODE


def _lesion(
    echo: NDArray[np.float32],
    shadow: NDArray[np.float32],
    truth: NDArray[np.uint8],
    lesion: Lesion,
    place: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    """A dark mass with a shadow or enhancement below it that tells nothing. In place."""
    rng = np.random.default_rng([lesion.seed, 5])
    y, x = place
    tall = float(rng.uniform(0.7, 1.05))
    angle = np.arctan2(y, x)
    wobble = 1 + sum(float(rng.normal(0, 0.07)) * np.cos(k * angle + float(rng.uniform(0, 6))) for k in (2, 3, 5))
    radius = np.sqrt((y / tall) ** 2 + x**2) / (0.85 * lesion.radius_mm * wobble)
    inside = radius < 1
    echo[inside] = 0.07
    echo += (0.25 * np.exp(-(((radius - 1.08) / 0.09) ** 2))).astype(np.float32)
    below = (y > 0) & (np.abs(x) < 0.75 * lesion.radius_mm)
    shadow += np.where(below, float(rng.uniform(-0.25, 0.9)), 0.0).astype(np.float32)
    truth[inside] |= LESION | (SPICULATED if lesion.spiculated else 0)


def _image(
    patient: Patient, echo: NDArray[np.float32], shadow: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Speckle, attenuation, shadow, log compression to 8 bits."""
    mm = AREA_MM[0] / echo.shape[0]
    pulse = (max(0.45, 1.1 / patient.probe_mhz / mm), max(0.6, 2.6 / patient.probe_mhz / mm))
    seen = smooth(echo, (0.5 * pulse[0] + patient.hospital.blur / mm * 0.3, 0.6 * pulse[1]))
    wet = smooth(shadow, (0.5, 0.8 / mm * 0.5)) if shadow.any() else shadow
    depth = np.linspace(0, 1, echo.shape[0], dtype=np.float32)[:, None]
    envelope = speckle(rng, (echo.shape[0], echo.shape[1]), pulse) * seen * np.exp(-0.5 * depth - wet)
    envelope = envelope + np.float32(0.012 * patient.hospital.noise)
    decibel = 20 * np.log10(envelope)
    grey = (decibel + 42) / 46
    return (np.clip(grey, 0, 1) * 255).astype(np.uint8)


def _screen(
    picture: NDArray[np.uint8], patient: Patient, shape: tuple[int, int], area: tuple[int, int, int, int], frame: int
) -> NDArray[np.uint8]:
    """The scanner's screen: picture, banner (no identity in it), ruler, frame counter."""
    screen = np.zeros(shape, np.uint8)
    screen[area[0] : area[2], area[1] : area[3]] = picture
    if shape[0] >= 300:
        canvas = Image.fromarray(screen)
        pen = ImageDraw.Draw(canvas)
        pen.text((12, 10), f"PHANTOM  L{patient.probe_mhz:g}  MI 1.1  FR {frame + 1}", fill=200)
        for n in range(5):
            row = area[0] + (area[2] - area[0]) * n // 4
            pen.line((area[3] + 6, row, area[3] + 14, row), fill=180)
        screen = np.array(canvas)
    return screen


def _placed(truth: NDArray[np.uint8], shape: tuple[int, int], area: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    out = np.zeros(shape, np.uint8)
    out[area[0] : area[2], area[1] : area[3]] = truth
    return out
