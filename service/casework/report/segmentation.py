"""Activated regions as binary Segmentations (PS3.3 A.51), where there is a plane to draw them on. Does no I/O.

What is segmented is where the model found its evidence, never an organ or a lesion: category and type say so. Only sides
that are positive or undetermined have regions; on a negative side an outline would look like a lesion.
"""

from collections.abc import Sequence

import numpy as np
from highdicom import AlgorithmIdentificationSequence, PixelMeasuresSequence, PlaneOrientationSequence
from highdicom.seg import SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from casework.report import capture, codes, header, space, uid
from casework.report.header import Context
from casework.result import CaseResult, HeatImage, Side

KIND, PLANAR = "segmentation", "segmentation-planar"
NOTEWORTHY = (
    0.2  # of the case's largest activation: below it an image has no region, and neither has a side of a volume
)
_CENTIMETRES = 3  # Physical Units X Direction (PS3.3 C.8.5.5.1.15)
_COLOUR = [46000, 21000, 26000]  # light cyan in CIELab as DICOM scales it, the outline's colour on captures
EDGE = 0.5  # of the side's largest activation: the edge of the region in a volume, as on single images


def possible(ctx: Context, image: HeatImage) -> bool:
    """A region on one planar image that states a pixel size, which viewers need."""
    return capture.outlined(ctx.result, image) and _spacing(ctx.sources[image.sources[0]]) is not None


def sides_on_slices(result: CaseResult, images: Sequence[HeatImage]) -> list[Side]:
    """The sides with a region in a volume."""
    noteworthy = {i.side for i in images if i.heat.size and float(i.heat.max()) >= NOTEWORTHY}
    return [s for s in capture.outlined_sides(result) if s in noteworthy]


def on_image(ctx: Context, number: int, image: HeatImage) -> Dataset:
    """The region of one planar image for which it is `possible`.

    Raises:
        ValueError: it is not.
    """
    source = ctx.sources[image.sources[0]]
    spacing = _spacing(source)
    if image.region is None or spacing is None:
        raise ValueError("an image without region or pixel size")
    ds = _start(ctx, PLANAR, number, [image.sources[0]])
    header.carry(ds, ctx.charset, source, "PatientOrientation")
    ds.SegmentSequence = [_segment(ctx, 1, image.side, uid.region_tracking_uid(ctx.result, image))]
    space.organise(ctx, ds, [("ReferencedSegmentNumber", "SegmentIdentificationSequence")])
    # A viewer draws nothing without a plane: the picture's own, in millimetres at the detector.
    shared = Dataset()
    shared.PixelMeasuresSequence = PixelMeasuresSequence(spacing, 1.0)
    shared.PlaneOrientationSequence = PlaneOrientationSequence("PATIENT", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    ds.SharedFunctionalGroupsSequence = [shared]
    frame = space.indexed(1)
    space.derived_from(ctx, frame, image.sources[0], image.frame_number)
    _belongs(frame, 1)
    ds.PerFrameFunctionalGroupsSequence = [frame]
    _pixels(ds, filled(image.region, (int(source.Rows), int(source.Columns)))[None])
    return ds


def on_slices(ctx: Context, number: int, images: Sequence[HeatImage], found: space.Volume) -> Dataset:
    """The regions of an MR study, one segment a side, on the slices that hold any of them.

    Raises:
        ValueError: a side's heat lies outside the slices.
    """
    ds = _start(ctx, KIND, number, list(dict.fromkeys(p.uid for p in found.planes)))
    space.frame_of_reference(ctx, ds, ctx.sources[found.planes[0].uid])
    segments, frames, masks = [], [], []
    for segment, side in enumerate(sides_on_slices(ctx.result, images), 1):
        mask = hottest(found.heat([i for i in images if i.side is side]))
        segments.append(_segment(ctx, segment, side, uid.tracking_uid(ctx.result, side)))
        for n in np.flatnonzero(mask.any(axis=(1, 2))):
            plane = found.planes[n]
            frame = space.indexed(segment, int(n) + 1)
            space.place(frame, plane)
            space.derived_from(ctx, frame, plane.uid, plane.frame)
            _belongs(frame, segment)
            frames.append(frame)
            masks.append(mask[n])
    ds.SegmentSequence = segments
    pointers = [("ReferencedSegmentNumber", "SegmentIdentificationSequence")]
    space.organise(ctx, ds, [*pointers, ("ImagePositionPatient", "PlanePositionSequence")])
    ds.SharedFunctionalGroupsSequence = [space.shared_geometry(found)]
    ds.PerFrameFunctionalGroupsSequence = frames
    _pixels(ds, np.stack(masks))
    return ds


def filled(region: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of a polygon (N, 2) of (row, col) pixel centres."""
    canvas = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(canvas).polygon([(float(c), float(r)) for r, c in region], fill=1)
    return np.asarray(canvas, bool)


def hottest(heat: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The voxels that hold at least EDGE of the largest activation.

    Raises:
        ValueError: there is none.
    """
    most = float(heat.max())
    if most <= 0:
        raise ValueError("heat outside its slices")
    return heat >= EDGE * most


def _start(ctx: Context, kind: str, number: int, names: Sequence[str]) -> Dataset:
    ds = header.heat_object(ctx, ctx.common, kind, number, what="activated regions", modality="SEG")
    sources = [ctx.sources[n] for n in names]
    header.carry(ds, ctx.charset, sources[0], "BodyPartExamined")
    ds.InstanceNumber = number
    ds.update(capture.referenced_series(ctx, names))
    header.content(ctx, ds, "ACTIVATION", "AI activated regions: where evidence was found, no outline of anatomy")
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.SegmentationType, ds.SegmentsOverlap = "BINARY", "NO"
    capture.history(ds, ctx.charset, sources)
    ds.BurnedInAnnotation = "NO"  # a mask
    return ds


def _spacing(source: Dataset) -> tuple[float, float] | None:
    """Millimetres (row, col) of a pixel: the patient's plane, else the detector's; of an ultrasound region in cm."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        stated = source.get(keyword)
        if stated is not None and len(stated) == 2 and min(float(v) for v in stated) > 0:
            return float(stated[0]), float(stated[1])
    for region in source.get("SequenceOfUltrasoundRegions", []):
        if region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == _CENTIMETRES:
            return abs(10 * float(region.PhysicalDeltaY)), abs(10 * float(region.PhysicalDeltaX))
    return None


def _segment(ctx: Context, number: int, side: Side, tracking: str) -> SegmentDescription:
    model = ctx.result.model
    words = ctx.say(f"{model.name} {side.value} activation")
    segment = SegmentDescription(
        segment_number=number,
        segment_label=f"AI activation {side.value}",
        segmented_property_category=codes.concept(codes.SPATIAL_CONCEPT),
        segmented_property_type=codes.concept(codes.CLASS_ACTIVATION),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=ctx.say(model.name),
            version=ctx.say(model.version),
            family=codes.concept(codes.ARTIFICIAL_INTELLIGENCE),
            source=header.own(ctx, ctx.settings.manufacturer, "casework"),
        ),
        tracking_uid=tracking,
        tracking_id=words,
    )
    region = CodedConcept.from_code(codes.BREAST)
    region.AnatomicRegionModifierSequence = [codes.concept(codes.SIDES[side])]
    segment.AnatomicRegionSequence = [region]
    segment.RecommendedDisplayCIELabValue = _COLOUR
    return segment


def _belongs(frame: Dataset, number: int) -> None:
    frame.SegmentIdentificationSequence = [item := Dataset()]
    item.ReferencedSegmentNumber = number


def _pixels(ds: Dataset, masks: NDArray[np.bool_]) -> None:
    """Image pixel of (N, rows, cols), one bit a pixel, the first in the lowest bit (PS3.5 8.1.1)."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 1, 1, 0, 0
    ds.NumberOfFrames, ds.Rows, ds.Columns = masks.shape
    packed = np.packbits(masks.ravel(), bitorder="little").tobytes()
    ds.add_new("PixelData", "OB", packed + b"\0" * (len(packed) % 2))
