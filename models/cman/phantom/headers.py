"""The facts of phantom arrays as preprocessing reads them from a header; a minimal data set is built for each. No I/O."""

from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset

from casework.preprocess.facts import FrameFacts, InstanceFacts
from models.cman.phantom.magnetic import Dynamic
from models.cman.phantom.mammogram import BITS, Mammogram
from models.cman.phantom.sonogram import Sonogram


def describe_mammogram(ds: Dataset, image: Mammogram) -> None:
    """Set the attributes of the image, its grey values, side and view on `ds`."""
    ds.Modality = "MG"
    ds.ImageLaterality, ds.ViewPosition = image.side, image.view
    row = "P" if image.side == "R" else "A"
    down = {"R": {"CC": "L", "MLO": "FL"}, "L": {"CC": "R", "MLO": "FR"}}[image.side][image.view]
    ds.PatientOrientation = [row, down]
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.PhotometricInterpretation = image.photometric
    ds.Rows, ds.Columns, ds.SamplesPerPixel = *image.stored.shape, 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, BITS, BITS - 1, 0
    ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = *image.window, image.voi_function
    if image.lut is not None:
        entry = Dataset()
        entry.add_new("LUTDescriptor", "US", [len(image.lut), 300, 12])
        entry.LUTExplanation = "NORMAL"
        entry.add_new("LUTData", "OW", image.lut.astype("<u2").tobytes())
        ds.VOILUTSequence = [entry]
        del ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    ds.ImagerPixelSpacing = [round(image.spacing_mm, 6)] * 2


def describe_sonogram(ds: Dataset, image: Sonogram) -> None:
    """Set the attributes of the frames, side and calibrated region on `ds`."""
    ds.Modality = "US"
    ds.Laterality = image.side
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns, ds.SamplesPerPixel = *image.frames.shape[1:], 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    if image.frames.shape[0] > 1:
        ds.NumberOfFrames = image.frames.shape[0]
        ds.FrameTime = image.frame_time_ms
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinY0, region.RegionLocationMinX0 = image.area[0], image.area[1]
    region.RegionLocationMaxY1, region.RegionLocationMaxX1 = image.area[2] - 1, image.area[3] - 1
    region.ReferencePixelX0 = region.ReferencePixelY0 = 0
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.ReferencePixelPhysicalValueX = region.ReferencePixelPhysicalValueY = 0.0
    region.PhysicalDeltaX = region.PhysicalDeltaY = image.mm_per_pixel / 10
    ds.SequenceOfUltrasoundRegions = [region]


def mammogram_facts(image: Mammogram, uid: str, study: str) -> InstanceFacts:
    """Facts of a mammogram that never was a file."""
    ds = Dataset()
    describe_mammogram(ds, image)
    ds.SOPInstanceUID, ds.StudyInstanceUID = uid, study
    return InstanceFacts.from_dataset(ds)


def sonogram_facts(image: Sonogram, uid: str, study: str, number: int) -> InstanceFacts:
    """Facts of an ultrasound image that never was a file."""
    ds = Dataset()
    describe_sonogram(ds, image)
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.InstanceNumber = uid, study, number
    return InstanceFacts.from_dataset(ds)


def dynamic_facts(image: Dynamic, uid: str, study: str) -> InstanceFacts:
    """Facts of all phases as one multi-frame instance, frames by phase, then by slice."""
    ds = Dataset()
    ds.Modality, ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "MR", uid, study, f"{study}.1"
    phases, slices, ds.Rows, ds.Columns = image.stored.shape
    ds.NumberOfFrames, ds.SamplesPerPixel, ds.BitsStored = phases * slices, 1, 16
    ds.PhotometricInterpretation = "MONOCHROME2"
    first = FrameFacts(
        position=(),
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        spacing_mm=(image.spacing_mm[1], image.spacing_mm[2]),
        temporal_position=1,
        acquired_s=None,
        trigger_ms=None,
        slope=1.0,
        intercept=0.0,
        b_value=None,
        contrast_phase="",
    )
    x, y, z = image.origin_mm
    frames = tuple(
        replace(
            first, position=(x, y, z + n * image.spacing_mm[0]), temporal_position=p + 1, acquired_s=image.times_s[p]
        )
        for p in range(phases)
        for n in range(slices)
    )
    return replace(InstanceFacts.from_dataset(ds), frames=frames)


def as_stack(image: Dynamic) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    """The phases as the frames that `dynamic_facts` describes, (P * Z, Y, X)."""
    return image.stored.reshape(-1, *image.stored.shape[2:])
