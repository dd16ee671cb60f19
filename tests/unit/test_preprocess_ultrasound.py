"""Ultrasound: only the picture area, key frames of a cine, and the way back to screen pixels."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from casework.errors import Refused
from casework.preprocess import ultrasound
from casework.preprocess.facts import InstanceFacts
from casework.result import Side
from tests.unit.preprocess_helpers import facts, peak

SHAPE, AREA = (300, 400), (40, 60, 260, 320)  # row0, col0, row1, col1
SIZE = 96


def header(shape: tuple[int, int] = SHAPE, *, region: bool = True, mm: tuple[float, float] = (0.15, 0.15)) -> Dataset:
    ds = Dataset()
    ds.Modality, ds.SOPInstanceUID, ds.StudyInstanceUID, ds.Laterality = "US", "1.8", "1.8.1", "L"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.BitsStored = *shape, 1, 8
    ds.PhotometricInterpretation = "MONOCHROME2"
    if region:
        one = Dataset()
        one.RegionSpatialFormat = one.RegionDataType = 1
        one.RegionLocationMinY0, one.RegionLocationMinX0 = AREA[0], AREA[1]
        one.RegionLocationMaxY1, one.RegionLocationMaxX1 = AREA[2] - 1, AREA[3] - 1
        one.PhysicalUnitsXDirection = one.PhysicalUnitsYDirection = 3
        one.PhysicalDeltaY, one.PhysicalDeltaX = mm[0] / 10, mm[1] / 10
        ds.SequenceOfUltrasoundRegions = [one]
    return ds


def screen(seed: int, dot: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    image = np.zeros(SHAPE, np.uint8)
    image[AREA[0] : AREA[2], AREA[1] : AREA[3]] = rng.integers(60, 120, (AREA[2] - AREA[0], AREA[3] - AREA[1]))
    image[6:18, 10:200:3] = 250  # banner
    if dot is not None:
        image[dot[0] - 2 : dot[0] + 3, dot[1] - 2 : dot[1] + 3] = 255
    return image


@pytest.mark.parametrize("mm", [(0.15, 0.15), (0.2, 0.1)])
@pytest.mark.parametrize("dot", [(60, 80), (200, 300), (255, 65)])
def test_a_dot_comes_back_from_the_tensor_within_a_pixel(dot: tuple[int, int], mm: tuple[float, float]) -> None:
    """Through the region's cut, millimetre-square pixels and padding, back to the screen's pixel."""
    stated = facts(header(mm=mm))
    image = ultrasound.prepare(screen(1, dot), stated, SIZE).images[Side.LEFT, "1"]
    without = ultrasound.prepare(screen(1), stated, SIZE).images[Side.LEFT, "1"]
    found = image.tensor_to_source(peak(image.tensor[0] - without.tensor[0]))[0]
    assert np.abs(found - dot).max() < np.abs(image.tensor_to_source.matrix[:, :2]).max()


def test_the_banner_reaches_neither_tensor_nor_picture() -> None:
    """What lies outside the calibrated region (names are burned in there) is cut away, with and without a region."""
    for region in (True, False):
        stated = facts(header(region=region))
        clean = screen(2)
        clean[:20] = 0
        a, b = (ultrasound.prepare(s, stated, SIZE).images[Side.LEFT, "1"] for s in (screen(2), clean))
        np.testing.assert_array_equal(a.picture, b.picture)
        np.testing.assert_array_equal(a.tensor, b.tensor)


def test_a_missing_region_is_said() -> None:
    """The area is then found from the pixels, near the true one, with a coded remark."""
    prepared = ultrasound.prepare(screen(3), facts(header(region=False)), SIZE)
    assert [(f.code, f.subject) for f in prepared.findings] == [("REGION_UNCALIBRATED", "1.8")]
    box = [int(v) for v in prepared.images[Side.LEFT, "1"].notes["region"].split(",")]
    assert np.abs(np.array(box) - AREA).max() <= 14


def test_a_region_that_is_one_pixel_too_large_still_counts() -> None:
    """Scanners that count from 1 write X1 = Columns; the region is clipped, not thrown away."""
    ds = header()
    ds.SequenceOfUltrasoundRegions[0].RegionLocationMaxX1 = SHAPE[1]
    assert not ultrasound.prepare(screen(4), facts(ds), SIZE).findings


def test_key_frames_are_sharp_and_different() -> None:
    """Of a cine with blurred and repeated frames, the sharp distinct ones are taken, with their own numbers."""
    sharp = [screen(n) for n in (1, 2, 3)]
    blurred = np.full(SHAPE, 90, np.uint8)
    cine = np.stack([blurred, sharp[0], sharp[0], blurred, sharp[1], blurred, sharp[2]])
    cine[4, 100:200, 100:200] = 20
    cine[6, 100:200, 200:300] = 200
    prepared = ultrasound.prepare(cine, facts(header()), SIZE)
    numbers = {i.frame_number for i in prepared.images.values()}
    assert {5, 7} <= numbers
    assert len(numbers & {2, 3}) == 1


def test_a_frozen_cine_gives_one_frame() -> None:
    """The same frame again adds nothing."""
    prepared = ultrasound.prepare(np.stack([screen(1)] * 5), facts(header()), SIZE)
    assert len(prepared.images) == 1


def test_frame_numbers_are_those_of_the_source() -> None:
    """When only some frames were decoded, results still name the source's frames."""
    assert ultrasound.sample_frames(5) == (1, 2, 3, 4, 5)
    sampled = ultrasound.sample_frames(300, 16)
    assert (len(sampled), sampled[0], sampled[-1]) == (16, 1, 300)
    cine = np.stack([screen(n) for n in range(4)])
    prepared = ultrasound.prepare(cine, facts(header()), SIZE, frame_numbers=(10, 20, 30, 40))
    assert {i.frame_number for i in prepared.images.values()} <= {10, 20, 30, 40}


def test_slots_take_every_instances_best_first() -> None:
    """Two stills and a cine: one frame of each before a second of any."""
    cine = np.stack([screen(n) for n in range(4)])
    parts = [
        ultrasound.prepare(cine, replace(facts(header()), sop_instance_uid="c"), SIZE),
        ultrasound.prepare(screen(7), replace(facts(header()), sop_instance_uid="a"), SIZE),
        ultrasound.prepare(screen(8), replace(facts(header()), sop_instance_uid="r", laterality="R"), SIZE),
    ]
    combined = ultrasound.combine(parts).images
    assert [combined[Side.LEFT, s].sources[0] for s in "123"] == ["c", "a", "c"]
    assert [s for side, s in combined if side is Side.RIGHT] == ["1"]
    assert all(image.slot == slot for (_, slot), image in combined.items())


def test_colour_frames_become_their_luminance() -> None:
    """RGB grey equals the grey image."""
    grey = screen(5)
    ds = header()
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3, "RGB"
    a = ultrasound.prepare(grey, facts(header()), SIZE).images[Side.LEFT, "1"]
    b = ultrasound.prepare(np.stack([grey] * 3, axis=-1), facts(ds), SIZE).images[Side.LEFT, "1"]
    np.testing.assert_allclose(a.tensor, b.tensor, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"laterality": ""}, "LATERALITY_UNKNOWN"),
        ({"laterality": "B"}, "LATERALITY_UNKNOWN"),
        ({"laterality": "", "laterality_conflict": True}, "LATERALITY_CONFLICT"),
        ({"rows": 10}, "PIXELS_UNDECODABLE"),
    ],
)
def test_what_cannot_be_placed_is_refused_with_its_code(changes: dict[str, object], code: str) -> None:
    """No side, two sides, or other pixels than stated: never a guess."""
    with pytest.raises(Refused) as refused:
        ultrasound.prepare(screen(1), replace(facts(header()), **changes), SIZE)  # type: ignore[arg-type]  # field names as data
    assert refused.value.code == code


def test_an_empty_screen_is_refused() -> None:
    """A black frame has a code of its own."""
    with pytest.raises(Refused) as refused:
        ultrasound.prepare(np.zeros(SHAPE, np.uint8), facts(header()), SIZE)
    assert refused.value.code == "IMAGE_BLANK"


def real_screens() -> list[tuple[str, NDArray[np.uint8], InstanceFacts]]:
    """One made here, and the grey real ones where CASEWORK_SHARED names a folder."""
    out = [("made", screen(9), facts(header()))]
    shared = os.environ.get("CASEWORK_SHARED")
    for path in sorted((Path(shared) / "data").glob("us_philips*.dcm")) if shared else []:
        ds = pydicom.dcmread(path)
        out.append((path.stem, pixel_array(ds).astype(np.uint8), InstanceFacts.from_dataset(ds)))
    return out


@pytest.mark.parametrize(("pixels", "stated"), [s[1:] for s in real_screens()], ids=[s[0] for s in real_screens()])
def test_a_screen_is_cut_to_its_picture(pixels: NDArray[np.uint8], stated: InstanceFacts) -> None:
    """Scanners' screens: less than the whole screen is kept, and it is not empty."""
    image = ultrasound.prepare(pixels, replace(stated, laterality="R"), 224).images[Side.RIGHT, "1"]
    assert image.picture.size < 0.97 * pixels.size
    assert image.tensor.mean() > 0.02
