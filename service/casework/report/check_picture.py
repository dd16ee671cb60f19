"""Self-check of a capture's pixels: it shows the picture that it names, the right way round, and colour where the heat is.

Written apart from what draws: means of cells are compared, so that no way of enlarging matters. Does no I/O.
"""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from casework.report.check_header import need
from casework.report.heat import FLOOR, Layout
from casework.result import HeatImage

_CELLS = 24  # each way
_MEAN_DIFFERENCE = (
    3.0  # grey levels of 255, over the cells without heat: phantoms' own differ by 1.7 at most, others by 4.7 and more
)
_OF_CONTRAST = 0.08  # or this share of the cells' own spread: sampled noise grows with it
_SAMPLES = 256  # each way at least, of the pixels that a mean is taken from
_COLOUR = 24  # between the largest and the smallest of red, green and blue, where heat is at least half
_STRONG = 0.5
_AROUND = 6  # pixels, each way: an outline's black border may cross the very place


def check(ds: Dataset, image: HeatImage, *, analysed: bool) -> None:
    """The picture of one capture (RGB, 8 bit) against the image that it was made from.

    analysed: whether the image's side has an answer; without one a capture has no colour.

    Raises:
        Defect: RESULT_SELF_CHECK, rule "picture".
    """
    at = Layout.of(image.picture.shape, image.modality)
    need((ds.Columns, ds.Rows) == at.canvas, "picture", "canvas")
    (left, top), (width, height) = at.corner, at.size
    drawn = np.frombuffer(ds.PixelData, np.uint8, ds.Rows * ds.Columns * 3).reshape(ds.Rows, ds.Columns, 3)
    drawn = drawn[top : top + height, left : left + width]
    picture, heat = _as_source(image)
    if min(picture.shape) >= 2 * _CELLS:  # below, enlarging changes the means themselves
        warm = _cells(_sampled(heat), np.maximum) >= FLOOR / 2
        cold, meant = ~(warm & analysed), _means(picture)
        difference = np.abs(_means(drawn[..., 1]) - meant)[cold]
        most = max(_MEAN_DIFFERENCE, _OF_CONTRAST * float(meant.std()))
        need(not difference.size or float(difference.mean()) <= most, "picture", "not the image that it names")
    if analysed and heat.size and float(heat.max()) >= _STRONG:
        row, col = np.unravel_index(int(heat.argmax()), heat.shape)
        y, x = (int((n + 0.5) * size / of) for n, size, of in zip((row, col), (height, width), heat.shape, strict=True))
        around = drawn[max(0, y - _AROUND) : y + _AROUND + 1, max(0, x - _AROUND) : x + _AROUND + 1].astype(int)
        need(int(np.ptp(around, axis=2).max()) >= _COLOUR, "picture", "no colour where the heat is strongest")


def _as_source(image: HeatImage) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Picture and heat the way round in which the source is; a projection is shown as it is."""
    rows, cols = 1, 1
    if image.modality != "MR":
        rows, cols = (-1 if image.to_source[0, 0] < 0 else 1), (-1 if image.to_source[1, 1] < 0 else 1)
    return image.picture[::rows, ::cols], image.heat[::rows, ::cols]


def _sampled(plane: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    step = max(1, min(plane.shape) // _SAMPLES)
    return plane[::step, ::step].astype(np.float32)


def _edges(length: int) -> NDArray[np.intp]:
    return np.linspace(0, length, _CELLS, endpoint=False).astype(np.intp)


def _cells(plane: NDArray[np.float32], by: np.ufunc) -> NDArray[np.float32]:
    rows = by.reduceat(plane, _edges(plane.shape[0]), axis=0)
    return np.asarray(by.reduceat(rows, _edges(plane.shape[1]), axis=1), np.float32)


def _means(plane: NDArray[np.uint8]) -> NDArray[np.float32]:
    sampled = _sampled(plane)
    rows, cols = (np.diff([*_edges(n), n]) for n in sampled.shape)
    return np.asarray(_cells(sampled, np.add) / np.outer(rows, cols), np.float32)
