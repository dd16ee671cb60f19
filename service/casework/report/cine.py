"""Analysed frames of an ultrasound cine with their heat, as Multi-frame True Colour Secondary Capture (PS3.3 A.8.5). Does no I/O.

Only frames that the network read are in it, in the order of the source: on the others there would be no heat to show, and
an old heat-map on a new frame would be an invention. Frame Label Vector says which frame of the source each one is.
"""

from collections.abc import Sequence

from pydicom.dataset import Dataset

from casework.report import capture, codes, header
from casework.report.header import Context
from casework.result import HeatImage

KIND = "cine"
_LABELS = 0x00182002  # Frame Label Vector


def groups(ctx: Context) -> list[list[HeatImage]]:
    """The analysed frames of each multi-frame ultrasound image and side, where there are several."""
    found: dict[tuple[str, str], list[HeatImage]] = {}
    for _, image in ctx.images:
        if image.modality == "US" and ctx.instances[image.sources[0]].frames > 1:
            found.setdefault((image.sources[0], image.side.value), []).append(image)
    ordered = (sorted(images, key=lambda i: i.frame_number) for images in found.values())
    return [images for images in ordered if len(images) > 1]


def build(ctx: Context, number: int, images: Sequence[HeatImage]) -> Dataset:
    """One cine; `number` is its Instance Number."""
    source = ctx.sources[images[0].sources[0]]
    ds = header.heat_object(ctx, ctx.captures, KIND, number, what="heat-map cine")
    ds.InstanceNumber = number
    ds.ImageComments = ctx.say(f"{images[0].side.value} US cine, {len(images)} analysed frames. {capture.WARNING}")
    capture.anatomy(ctx, ds, images[0], source)
    ds.update(capture.referenced_series(ctx, [images[0].sources[0]]))
    made_from = header.reference(ctx.instances[images[0].sources[0]])
    made_from.ReferencedFrameNumber = [i.frame_number for i in images]
    made_from.PurposeOfReferenceCodeSequence = [codes.concept(codes.SOURCE_FOR_PROCESSING)]
    ds.SourceImageSequence = [made_from]
    capture.history(ds, ctx.charset, [source])
    ds.NumberOfFrames, ds.FrameIncrementPointer = len(images), _LABELS
    ds.FrameLabelVector = [f"frame {i.frame_number}" for i in images]
    frames = [capture.draw(ctx.result, image, source, header.issued(ctx)) for image in images]
    ds.Rows, ds.Columns = frames[0].height, frames[0].width
    ds.add_new("PixelData", "OB", b"".join(frame.tobytes() for frame in frames))
    return ds
