"""Maps, masks, outlines and cines: the right numbers at the right place of the right image, or none at all."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from casework.config import OBJECTS, Report
from casework.report import Rendered, check, heat, render, slices_needed
from casework.result import Outcome, Side
from tests.conformance.studies import NOW, Case, make


def made(case: Case, kind: str) -> list[Dataset]:
    """The objects of one kind, with all others checked beside them."""
    rendered: list[Rendered] = render(case.result, case.sources, Report(), NOW, frozenset(OBJECTS))
    check(rendered, case.result, case.sources)
    return [dcmread(BytesIO(r.data)) for r in rendered if r.kind == kind]


def values(ds: Dataset) -> NDArray[np.float32]:
    """A map's numbers, (frames, rows, cols)."""
    return np.frombuffer(ds.FloatPixelData, "<f4").reshape(ds.NumberOfFrames, ds.Rows, ds.Columns)


def places(ds: Dataset) -> list[float]:
    return [float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in ds.PerFrameFunctionalGroupsSequence]


def changed(case: Case, change: Callable[[Dataset], object], modality: str) -> Case:
    for source in case.sources.values():
        if source.Modality == modality:
            change(source)
    return case


def enhanced(case: Case) -> Case:
    """The case with its classic MR slices as the frames of one Enhanced MR image, last slice first."""
    slices = [s for s in case.sources.values() if s.Modality == "MR"]
    one = dcmread(BytesIO(case.files[str(slices[0].SOPInstanceUID)]), stop_before_pixels=True)
    one.SOPClassUID, one.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.4.1", len(slices)
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = one.PixelSpacing, one.SliceThickness
    shared.PixelMeasuresSequence = [measures]
    one.SharedFunctionalGroupsSequence, one.PerFrameFunctionalGroupsSequence = [shared], []
    for ds in reversed(slices):
        frame, place, plane = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient, plane.ImageOrientationPatient = ds.ImagePositionPatient, ds.ImageOrientationPatient
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [place], [plane]
        one.PerFrameFunctionalGroupsSequence.append(frame)
    for keyword in ("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(one, keyword)
    name = str(one.SOPInstanceUID)
    frames = tuple((name, n) for n in range(1, len(slices) + 1))
    images = []
    for image in case.result.images:
        assert image.depths is not None
        depths = replace(image.depths, slices=frames)
        images.append(replace(image, sources=(name,), depths=depths))
    return Case(case.files, {name: one}, replace(case.result, images=tuple(images)))


def test_a_map_holds_the_heat_of_the_voxels_that_were_read() -> None:
    """Each voxel has the heat of the projection's pixel that was read from it, others are 0; highdicom reads the map."""
    case = make(modalities=("MR",))
    (ds,) = made(case, "parametric-map")
    found, hottest = values(ds), max(float(i.heat.max()) for i in case.result.images)
    assert hottest * 0.9 < found.max() <= hottest
    assert {n for n in range(ds.NumberOfFrames) if found[n].any()} == {0, 2}  # the two slices of tests' projections
    for image in case.result.images:
        assert image.peak is not None
        row, col = (round(v) for v in image.peak)
        assert found[0, row, col] > 0.9 * float(image.heat.max())
        assert found[1:, row, col].max() < 1e-6
    again = highdicom.pm.ParametricMap.from_dataset(ds)
    assert np.array_equal(again.get_frames(), found)


def test_frames_ascend_whatever_the_order_of_the_slices() -> None:
    """Slices that were read from head to foot give a map from foot to head, each frame on its own source."""
    case = enhanced(make(modalities=("MR",)))
    (ds,) = made(case, "parametric-map")
    assert places(ds) == sorted(places(ds))
    references = [f.DerivationImageSequence[0].SourceImageSequence[0] for f in ds.PerFrameFunctionalGroupsSequence]
    assert [r.ReferencedFrameNumber for r in references] == list(range(8, 0, -1))
    assert values(ds)[-1].any()  # the first frame of the source, now the last


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "FrameOfReferenceUID", "PixelSpacing"])
def test_without_geometry_there_is_no_map(keyword: str) -> None:
    """Slices that don't say where they lie give captures and a report, and no map."""
    case = changed(make(modalities=("MR",)), lambda ds: delattr(ds, keyword), "MR")
    assert made(case, "parametric-map") == []
    assert len(made(case, "capture")) == 8


def test_slices_with_a_gap_give_no_map() -> None:
    """A viewer would close the gap and show heat on the wrong slice."""
    case = make(modalities=("MR",))
    last = [s for s in case.sources.values() if s.Modality == "MR"][-1]
    last.ImagePositionPatient = [-75, -75, 40]
    assert made(case, "parametric-map") == []


@pytest.mark.parametrize(("sides", "laterality"), [(("R", "L"), "B"), (("L",), "L")])
def test_a_map_says_which_breast_it_is_of(sides: Sequence[str], laterality: str) -> None:
    """Frame Laterality is the side, or both."""
    (ds,) = made(make(modalities=("MR",), sides=sides), "parametric-map")
    assert ds.SharedFunctionalGroupsSequence[0].FrameAnatomySequence[0].FrameLaterality == laterality


def test_a_mask_is_the_region_of_its_image() -> None:
    """Of a mammogram the mask is the region's polygon, of an MRI the hottest voxels of the suspected side alone."""
    case = make(modalities=("MG", "MR"))
    flat = made(case, "segmentation-planar")
    regions = [i for i in case.result.images if i.modality == "MG" and i.side is Side.RIGHT]
    assert not any("FrameOfReferenceUID" in ds for ds in flat)
    assert len(flat) == len(regions) == 2
    for ds, image in zip(flat, regions, strict=True):
        assert image.region is not None
        rows, cols = np.nonzero(highdicom.seg.Segmentation.from_dataset(ds).pixel_array.reshape(ds.Rows, ds.Columns))
        assert (rows.mean(), cols.mean()) == pytest.approx(image.region.mean(axis=0), abs=1)
    (volume,) = made(case, "segmentation")
    assert "FrameOfReferenceUID" in volume
    assert [s.SegmentLabel for s in volume.SegmentSequence] == ["AI activation R"]
    assert places(volume) == [0.0]


def test_slices_with_heat_are_those_that_hold_the_region() -> None:
    """At least two, since validators disagree about one frame alone. Of slices that are needed the picture is shown in the captures' frame; heat is on voxels that were read, and on no others."""
    case = make(modalities=("MR",))
    assert slices_needed(case.result, case.sources) == list(case.result.planes)
    (ds,) = made(case, "slices")
    (uid, frame), picture = next(iter(case.result.planes.items()))
    source, beside = ds.SourceImageSequence
    assert (source.ReferencedSOPInstanceUID, frame, ds.NumberOfFrames) == (uid, 1, 2)
    assert beside.ReferencedSOPInstanceUID != uid
    assert list(ds.PatientOrientation) == ["L", "P"]
    assert len(ds.FrameLabelVector) == 2
    (numbers,) = made(case, "parametric-map")
    warm = values(numbers)[0] >= heat.FLOOR
    at = heat.Layout.of(picture.shape, "MR")
    shown = ds.pixel_array[0][at.corner[1] :, at.corner[0] :][: at.size[1], : at.size[0]].astype(int)
    cells = shown.reshape(128, 5, 128, 5, 3)
    coloured = (cells.max(axis=-1) - cells.min(axis=-1)).max(axis=(1, 3)) > 2
    assert np.array_equal(coloured, warm)
    grey = np.repeat(np.repeat(~warm, 5, axis=0), 5, axis=1)
    assert set(shown[grey].ravel()) == {90}


def test_no_slices_are_needed_on_negative_sides() -> None:
    """Where nothing is suspected no slice is decoded again, and none is shown."""
    case = make(modalities=("MR",), outcomes=dict.fromkeys("RL", (Outcome.NEGATIVE, 0.02)))
    assert slices_needed(case.result, case.sources) == []
    assert made(case, "slices") == []


def test_a_mask_of_an_image_without_pixel_size_is_not_made() -> None:
    """Viewers need millimetres; a size is never invented."""
    case = changed(make(modalities=("MG",)), lambda ds: delattr(ds, "ImagerPixelSpacing"), "MG")
    assert made(case, "segmentation-planar") == []
    assert len(made(case, "outline")) == 2


def test_an_outline_leaves_the_image_as_it_is_shown() -> None:
    """The state carries the source's first window, rescale and polarity, and never VOI LUT Function LINEAR."""

    def inverse(ds: Dataset) -> None:
        ds.PhotometricInterpretation = "MONOCHROME1"
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = [2000, 1500], [3000, 2500], "LINEAR"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"

    for ds in made(changed(make(modalities=("MG",)), inverse, "MG"), "outline"):
        (window,) = ds.SoftcopyVOILUTSequence
        assert (window.WindowCenter, window.WindowWidth) == (2000, 3000)
        assert "VOILUTFunction" not in window
        assert ds.PresentationLUTShape == "INVERSE"
        assert (str(ds.RescaleIntercept), str(ds.RescaleSlope)) == ("0", "1")


@pytest.mark.parametrize(("samples", "photometric"), [(3, "RGB"), (1, "PALETTE COLOR")])
def test_a_colour_image_gets_no_grey_outline(samples: int, photometric: str) -> None:
    """A grey presentation state can't say how a colour image is shown; its mask is made all the same."""

    def colour(ds: Dataset) -> None:
        ds.SamplesPerPixel, ds.PhotometricInterpretation = samples, photometric

    case = changed(make(modalities=("US",)), colour, "US")
    assert made(case, "outline") == []
    assert len(made(case, "segmentation-planar")) == 1


def test_a_cine_has_the_analysed_frames_alone() -> None:
    """Frames 2 and 4 of a cine of four: two frames that say so, each as its own capture; one frame alone is no cine."""
    case = make(modalities=("US",), us_frames=(4, 2))
    cines = made(case, "cine")
    captures = {ds.ImageComments[:6]: ds for ds in made(case, "capture")}
    assert [list(ds.FrameLabelVector) for ds in cines] == [["frame 2", "frame 4"]] * 2
    assert list(cines[0].SourceImageSequence[0].ReferencedFrameNumber) == [2, 4]
    assert cines[0].pixel_array.shape[0] == 2
    assert np.array_equal(cines[0].pixel_array[0], captures["R US 2"].pixel_array)
    assert made(make(modalities=("US",), us_frames=(2,)), "cine") == []
