"""MR slices through the activated regions with their heat, as Multi-frame True Colour Secondary Capture (PS3.3 A.8.5). Does no I/O.

Only slices that hold a region of a suspected side are in it, in ascending position, each as its source shows it. Heat is on the very
voxels that a projection was read from, like in the map and the mask: nothing is smeared to others, and those stay grey.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from casework.geometry import Affine2
from casework.report import capture, codes, header, heat, segmentation, space, texts
from casework.report.codes import concept
from casework.report.describe import said_percent
from casework.report.header import Context
from casework.result import CaseResult, HeatImage

KIND = "slices"
_LABELS = 0x00182002  # Frame Label Vector
_DIRECTIONS = (("R", "L"), ("A", "P"), ("F", "H"))  # towards the lower and the higher x, y, z (LPS)
Frame = tuple[str, int]


def needed(result: CaseResult, sources: Mapping[str, Dataset]) -> list[Frame]:
    """(instance, frame) of all slices that hold an activated region, whose pictures `CaseResult.planes` should have."""
    found: list[Frame] = []
    for study in dict.fromkeys(i.study_instance_uid for i in result.images if i.modality == "MR"):
        images = [i for i in result.images if i.modality == "MR" and i.study_instance_uid == study]
        volume = space.volume(sources, images)
        if volume is not None:
            found += _marked(result, images, volume)
    return found


def _marked(result: CaseResult, images: Sequence[HeatImage], found: space.Volume) -> list[Frame]:
    """The slices with a region, in the volume's order."""
    through = np.zeros(len(found.planes), bool)
    for side in segmentation.sides_on_slices(result, images):
        through |= segmentation.hottest(found.heat([i for i in images if i.side is side])).any(axis=(1, 2))
    if through.sum() == 1 < through.size:  # with one beside it: validators disagree about a series of one frame
        (only,) = np.flatnonzero(through)
        through[only - 1 if only else 1] = True
    return [(found.planes[n].uid, found.planes[n].frame) for n in np.flatnonzero(through)]


def build(ctx: Context, number: int, images: Sequence[HeatImage], found: space.Volume) -> Dataset:
    """The slices of one MR study, for which `CaseResult.planes` has pictures."""
    ds = header.heat_object(ctx, ctx.captures, KIND, number, what="heat on MR slices")
    laid = found.heat(images)
    chosen = [n for n, p in enumerate(found.planes) if (p.uid, p.frame) in ctx.result.planes]
    frames = [
        _draw(ctx, found, n, ctx.result.planes[found.planes[n].uid, found.planes[n].frame], laid[n]) for n in chosen
    ]
    ds.InstanceNumber = number
    ds.ImageComments = ctx.say(f"MR, {len(frames)} slices through activated regions. {capture.WARNING}")
    _place(ctx, ds, found)
    names = tuple(dict.fromkeys(found.planes[n].uid for n in chosen))
    ds.update(capture.referenced_series(ctx, names))
    ds.SourceImageSequence = [_made_from(ctx, found.planes[n]) for n in chosen]
    capture.history(ds, ctx.charset, [ctx.sources[name] for name in names])
    ds.NumberOfFrames = len(frames)
    if len(frames) > 1:  # 1C: of a single frame neither may be there
        ds.FrameIncrementPointer, ds.FrameLabelVector = _LABELS, [_label(found, n) for n in chosen]
    ds.Rows, ds.Columns = frames[0].height, frames[0].width
    ds.add_new("PixelData", "OB", b"".join(frame.tobytes() for frame in frames))
    return ds


def _made_from(ctx: Context, plane: space.Plane) -> Dataset:
    item = header.reference(ctx.instances[plane.uid], plane.frame)
    item.PurposeOfReferenceCodeSequence = [concept(codes.SOURCE_FOR_PROCESSING)]
    return item


def _label(found: space.Volume, n: int) -> str:
    return f"slice {n + 1} of {len(found.planes)}"


def _place(ctx: Context, ds: Dataset, found: space.Volume) -> None:
    """Both breasts, and the way round that the slices have."""
    source = ctx.sources[found.planes[0].uid]
    ds.Laterality = None
    header.carry(ds, ctx.charset, source, "BodyPartExamined")
    region = Dataset()
    region.update(concept(codes.BREAST))
    region.AnatomicRegionModifierSequence = [concept(codes.BOTH_SIDES)]
    ds.AnatomicRegionSequence = [region]
    ds.PrimaryAnatomicStructureSequence = [concept(codes.AXILLARY_NODE)]
    orientation = found.planes[0].orientation
    ds.PatientOrientation = [towards(orientation[:3])[1], towards(orientation[3:])[1]]
    space.frame_of_reference(ctx, ds, source)


def towards(direction: Sequence[float]) -> tuple[str, str]:
    """Where a line in the patient comes from and goes to, as letters of its largest part."""
    axis = int(np.argmax(np.abs(direction)))
    low, high = _DIRECTIONS[axis]
    return (low, high) if direction[axis] > 0 else (high, low)


def _draw(
    ctx: Context, found: space.Volume, n: int, picture: NDArray[np.uint8], laid: NDArray[np.float32]
) -> Image.Image:
    """One slice in the frame that captures have."""
    plane = found.planes[n]
    (left, right), (top, bottom) = towards(plane.orientation[:3]), towards(plane.orientation[3:])
    answers = [
        f"{s.side.value} axilla {said_percent(s.probability, 'en')} %, {texts.say(f'word.{s.outcome.value}', 'en')}"
        for s in ctx.result.sides
        if s.probability is not None
    ]
    marks = heat.Marks(
        place=f"MR  {_label(found, n)}",
        answer="; ".join(answers),
        warning=capture.WARNING,
        maker=f"AI  {ctx.result.model.name} {ctx.result.model.version}",
        note=f"MRI   colour on voxels that the network read, no others   casework {header.PROGRAM_VERSION}   {header.issued(ctx)}",
        edges=(left, right, top, bottom),
    )
    return heat.capture(picture, laid, Affine2(np.eye(2, 3)), region=None, modality="MR", marks=marks, blocks=True)
