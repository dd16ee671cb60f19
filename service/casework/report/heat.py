"""Heat-maps as pictures: colour scale, overlay over an untouched grey picture, legend, frame with marks. Does no I/O.

A capture is the picture at a readable size on a black ground, with every mark beside it and none on it: where there
is no heat each pixel keeps its grey value, and what lies under the hottest place is shown again beside it, at the same
scale and without colour. Lightness rises with the heat all along the scale, and blue to yellow is the way that the common
kinds of colour blindness leave alone, so the order of colours is seen by everybody, and on a grey print.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from casework.geometry import Affine2

LONG_SIDE = {"MG": 896, "MR": 640, "US": 640}  # of the picture on the canvas, pixels
OPACITY = 0.5  # of the hottest place
FLOOR = 0.08  # heat below this is not painted
_ANCHORS = (
    (0.0, (64, 24, 128)),
    (0.3, (166, 32, 126)),
    (0.6, (236, 84, 58)),
    (0.85, (253, 172, 44)),
    (1.0, (255, 244, 120)),
)
LEGEND = 268  # width of the column beside the picture, pixels
_MARGIN, _TOP, _BOTTOM, _MIN_WIDTH, _MIN_PANEL = 28, 88, 78, 790, 280
_PLAIN = 236  # side of the piece that is shown without colour, pixels
_WHITE, _GREY, _AMBER, _OUTLINE = (240, 240, 240), (170, 170, 170), (255, 190, 60), (70, 220, 255)


@dataclass(frozen=True, slots=True)
class Marks:
    """The words on a capture. `edges`: what lies at the left, right, top and bottom edge of the picture, or ""."""

    place: str  # side and view
    answer: str
    warning: str
    maker: str
    note: str
    edges: tuple[str, str, str, str]


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that no machine needs one."""
    return ImageFont.load_default(size)


@cache
def colours() -> NDArray[np.uint8]:
    """(256, 3): the colour of each heat from 0 to 1."""
    at = [256 * a for a, _ in _ANCHORS]
    steps = np.arange(256)
    return (
        np.stack([np.interp(steps, at, [c[k] for _, c in _ANCHORS]) for k in range(3)], axis=1).round().astype(np.uint8)
    )


@cache
def _opacities() -> bytes:
    """(256,): how much of the colour is laid over the grey, of 255."""
    heat = np.arange(256) / 255
    ramp = np.clip((heat - FLOOR) / 0.4, 0, 1) ** 0.7
    return bytes((255 * OPACITY * ramp).round().astype(np.uint8))


def upright(
    picture: NDArray[np.uint8], heat: NDArray[np.float32], way: Affine2
) -> tuple[NDArray[np.uint8], NDArray[np.float32], Affine2]:
    """Picture and heat the way round that the source has them, with their map to it.

    Patient Orientation is copied from the source, so a mirrored picture would swap the patient's sides.
    """
    height, width = picture.shape
    if way.matrix[1, 1] < 0:
        picture, heat = picture[:, ::-1], heat[:, ::-1]
        way = Affine2.flip_columns(width).then(way)
    if way.matrix[0, 0] < 0:
        picture, heat = picture[::-1], heat[::-1]
        way = Affine2(np.array([[-1.0, 0.0, height - 1.0], [0.0, 1.0, 0.0]])).then(way)
    return np.ascontiguousarray(picture), np.ascontiguousarray(heat), way


def overlay(picture: NDArray[np.uint8], heat: NDArray[np.float32] | None, size: tuple[int, int]) -> Image.Image:
    """The picture at `size` (width, height) with the heat laid over it; `heat` None or below FLOOR leaves it grey."""
    return _painted(_grey(picture, size), heat)


def _grey(picture: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    enlarged = size[1] > picture.shape[0]
    return Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC if enlarged else Image.Resampling.BILINEAR)


def _warm(heat: NDArray[np.float32] | None) -> bool:
    return heat is not None and heat.size > 0 and float(heat.max()) >= FLOOR


def _painted(
    grey: Image.Image, heat: NDArray[np.float32] | None, between: Image.Resampling = Image.Resampling.BILINEAR
) -> Image.Image:
    base, size = grey.convert("RGB"), grey.size
    if heat is None or not _warm(heat):
        return base
    levels = Image.fromarray((np.clip(heat, 0, 1) * 255).round().astype(np.uint8))
    hot = levels.resize(size, between)
    mask = hot.point(list(_opacities()))
    box = mask.getbbox()
    if box is not None:
        hot = hot.crop(box)
        hot.putpalette(colours().tobytes())
        base.paste(hot.convert("RGB"), box, mask.crop(box))
    return base


@cache
def _legend(height: int) -> Image.Image:
    """The colour bar with its scale, as painted over mid grey, (width LEGEND, `height`)."""
    panel = Image.new("RGB", (LEGEND, height), (0, 0, 0))
    draw = ImageDraw.Draw(panel)
    top, bottom = 58, height - 16
    steps = np.linspace(255, 0, bottom - top).round().astype(np.uint8)
    alpha = np.frombuffer(_opacities(), np.uint8)[steps][:, None] / 255
    bar = (colours()[steps] * alpha + 70 * (1 - alpha)).round().astype(np.uint8)
    panel.paste(Image.fromarray(np.repeat(bar[:, None, :], 24, axis=1)), (18, top))
    draw.rectangle((17, top - 1, 42, bottom), outline=_GREY)
    for line, text in enumerate(("AI evidence, % of the case's largest", f"colour at most {OPACITY:.0%} opaque")):
        draw.text((14, 8 + 20 * line), text, font=font(15), fill=_GREY)
    words = {0: "not coloured", 100: "strongest"}
    for share in (0, 25, 50, 75, 100):
        y = bottom - (bottom - top) * share / 100
        draw.line((42, y, 48, y), fill=_GREY)
        draw.text((54, y), str(share), font=font(16), fill=_WHITE, anchor="lm")
        draw.text((92, y), words.get(share, ""), font=font(14), fill=_GREY, anchor="lm")
    return panel


@cache
def _caption(words: str) -> Image.Image:
    """Small words that many captures have, drawn once."""
    panel = Image.new("RGB", (LEGEND - 14, 20), (0, 0, 0))
    ImageDraw.Draw(panel).text((0, 0), words, font=font(15), fill=_GREY)
    return panel


def _without_colour(grey: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """The place around the hottest point at the overlay's own scale, as it is under the colour."""
    row, col = np.unravel_index(int(heat.argmax()), heat.shape)
    x, y = (float(col) + 0.5) * grey.width / heat.shape[1], (float(row) + 0.5) * grey.height / heat.shape[0]
    left = round(min(max(x - _PLAIN / 2, 0), max(grey.width - _PLAIN, 0)))
    top = round(min(max(y - _PLAIN / 2, 0), max(grey.height - _PLAIN, 0)))
    return grey.crop((left, top, min(left + _PLAIN, grey.width), min(top + _PLAIN, grey.height))).convert("RGB")


def _polygon(
    region: NDArray[np.float64], way: Affine2, scale: float, corner: tuple[int, int]
) -> list[tuple[float, float]]:
    """A region of source (row, col) as canvas (x, y)."""
    points = (way.inverse()(np.asarray(region, np.float64)) + 0.5) * scale
    return [(corner[0] + float(c), corner[1] + float(r)) for r, c in points]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a picture is on its capture. canvas, size: (width, height); corner: (x, y) of the picture's first pixel."""

    scale: float
    canvas: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, shape: tuple[int, ...], modality: str) -> "Layout":
        """The layout of a picture (h, w)."""
        scale = LONG_SIDE.get(modality, 640) / max(shape)
        size = (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))
        width = max(_MIN_WIDTH, size[0] + 2 * _MARGIN + LEGEND)
        panel = max(size[1], _MIN_PANEL)
        corner = (_MARGIN + (width - LEGEND - 2 * _MARGIN - size[0]) // 2, _TOP + _MARGIN + (panel - size[1]) // 2)
        return cls(scale, (width + width % 2, _TOP + panel + 2 * _MARGIN + _BOTTOM), corner, size)


def capture(
    picture: NDArray[np.uint8],
    heat: NDArray[np.float32] | None,
    way: Affine2,
    *,
    region: NDArray[np.float64] | None,
    modality: str,
    marks: Marks,
    blocks: bool = False,
) -> Image.Image:
    """The whole capture, RGB. `picture` (h, w) and `heat` as `upright` gives them; `region` in source (row, col).

    blocks: each pixel's heat fills that pixel and none beside it.
    """
    at = Layout.of(picture.shape, modality)
    canvas = Image.new("RGB", at.canvas, (0, 0, 0))
    corner, size = at.corner, at.size
    grey = _grey(picture, size)
    between = Image.Resampling.NEAREST if blocks else Image.Resampling.BILINEAR
    canvas.paste(_painted(grey, heat, between), corner)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((corner[0] - 1, corner[1] - 1, corner[0] + size[0], corner[1] + size[1]), outline=(60, 60, 60))
    if region is not None and len(region) >= 3:
        points = _polygon(region, way, at.scale, corner)
        draw.line([*points, points[0]], fill=(0, 0, 0), width=5, joint="curve")
        draw.line([*points, points[0]], fill=_OUTLINE, width=2, joint="curve")
    if heat is not None:
        column = (canvas.width - LEGEND, _TOP + _MARGIN // 2, max(size[1], _MIN_PANEL) + _MARGIN)
        _beside(canvas, draw, grey, heat, column)
    _write(draw, marks, canvas.size, corner, size)
    return canvas


def underlay(picture: NDArray[np.uint8], modality: str) -> Image.Image:
    """The picture where its capture shows it, without colour: L, half the capture's size, 0 where there is nothing.

    Black is 1, so that it can be told from nothing.
    """
    at = Layout.of(picture.shape, modality)
    canvas, (left, top) = ((at.canvas[0] + 1) // 2, (at.canvas[1] + 1) // 2), (at.corner[0] // 2, at.corner[1] // 2)
    shown = _grey(picture, (max(1, at.size[0] // 2), max(1, at.size[1] // 2)))
    grey = Image.new("L", canvas)
    grey.paste(shown.point([1, *range(1, 256)]), (left, top))
    return grey


def _beside(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    grey: Image.Image,
    heat: NDArray[np.float32],
    column: tuple[int, int, int],
) -> None:
    """Legend, and below it the hottest place without colour. column: left, top, height."""
    left, top, height = column
    legend = height - _PLAIN - 46
    canvas.paste(_legend(max(legend, 200)), (left, top))
    if not _warm(heat):
        canvas.paste(_caption(f"no place here reaches {FLOOR:.0%}"), (left + 14, top + max(legend, 200) + 8))
    elif legend >= 200:
        plain = _without_colour(grey, heat)
        at = (left + 18, top + height - _PLAIN)
        canvas.paste(plain, at)
        draw.rectangle((at[0] - 1, at[1] - 1, at[0] + plain.width, at[1] + plain.height), outline=_GREY)
        canvas.paste(_caption("hottest place without colour"), (left + 14, at[1] - 26))


def _write(
    draw: ImageDraw.ImageDraw, marks: Marks, canvas: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]
) -> None:
    """All words: beside the picture, never on it."""
    width, height = canvas
    room = width - 2 * _MARGIN
    draw.text((_MARGIN, 12), marks.place, font=font(34), fill=_WHITE)
    draw.text((width - _MARGIN, 16), marks.maker, font=font(17), fill=_GREY, anchor="ra")
    draw.text((_MARGIN, 56), marks.answer, font=_fitting(marks.answer, 21, room), fill=_WHITE)
    low = height - _BOTTOM
    draw.text((_MARGIN, low + 12), marks.warning, font=_fitting(marks.warning, 20, room), fill=_AMBER)
    draw.text((_MARGIN, low + 44), marks.note, font=_fitting(marks.note, 16, room), fill=_GREY)
    middle = (corner[0] + size[0] // 2, corner[1] + size[1] // 2)
    places: Sequence[tuple[float, float]] = (
        (corner[0] - 15, middle[1]),
        (corner[0] + size[0] + 14, middle[1]),
        (middle[0], corner[1] - 14),
        (middle[0], corner[1] + size[1] + 14),
    )
    for text, place in zip(marks.edges, places, strict=True):
        if text:
            draw.text(place, text, font=font(17), fill=_GREY, anchor="mm")


@lru_cache(maxsize=256)
def _fitting(text: str, size: int, room: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font in which the whole text fits: a warning that is cut is none. Down to 12 pixels, from `size`."""
    while size > 12 and font(size).getlength(text) > room:
        size -= 1
    return font(size)
