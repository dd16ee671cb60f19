"""MR activation as a Parametric Map: one 32-bit float frame a source slice, in ascending position (PS3.3 A.75). Does no I/O.

Ascending along row x column, since a common viewer draws frames in another order on the wrong slices without a warning.
"""

from collections.abc import Sequence

import numpy as np
from highdicom.pm import RealWorldValueMapping
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from casework.report import capture, codes, header, space
from casework.report.header import Context
from casework.result import HeatImage

KIND = "parametric-map"


def build(ctx: Context, number: int, images: Sequence[HeatImage], found: space.Volume) -> Dataset:
    """The map of one MR study."""
    ds = header.heat_object(ctx, ctx.common, KIND, number, what="activation map")
    source = ctx.sources[found.planes[0].uid]
    space.frame_of_reference(ctx, ds, source)
    header.carry(ds, ctx.charset, source, "BodyPartExamined")
    ds.InstanceNumber = number
    ds.update(capture.referenced_series(ctx, tuple(dict.fromkeys(p.uid for p in found.planes))))
    header.content(ctx, ds, "ACTIVATION", "AI class activation, share of the case's largest value")
    _image(ctx, ds, found, found.heat(images))
    space.organise(ctx, ds, [("ImagePositionPatient", "PlanePositionSequence")])
    shared = space.shared_geometry(found)
    _shared(shared, images)
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [_frame(ctx, n, plane) for n, plane in enumerate(found.planes, 1)]
    return ds


def _image(ctx: Context, ds: Dataset, found: space.Volume, heat: NDArray[np.float32]) -> None:
    """Image pixel (float), general image and map attributes (PS3.3 C.7.6.24, C.8.32)."""
    capture.history(ds, ctx.charset, [ctx.sources[u] for u in dict.fromkeys(p.uid for p in found.planes)])
    ds.BurnedInAnnotation = "NO"  # numbers, no picture
    ds.RecognizableVisualFeatures = "NO"
    ds.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]
    ds.ContentQualification, ds.AcquisitionContextSequence = "RESEARCH", []
    ds.PixelPresentation, ds.PresentationLUTShape = "MONOCHROME", "IDENTITY"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.BitsAllocated = 1, "MONOCHROME2", 32
    ds.NumberOfFrames, ds.Rows, ds.Columns = heat.shape
    ds.add_new("FloatPixelData", "OF", heat.astype("<f4").tobytes())


def _shared(ds: Dataset, images: Sequence[HeatImage]) -> None:
    """Anatomy, quantity, window and frame type, alike in all frames."""
    sides = {i.side for i in images}
    ds.FrameAnatomySequence = [anatomy := Dataset()]
    anatomy.FrameLaterality = sides.pop().value if len(sides) == 1 else "B"
    anatomy.AnatomicRegionSequence = [codes.concept(codes.BREAST)]
    ds.RealWorldValueMappingSequence = [
        RealWorldValueMapping(
            lut_label="ACTIVATION",
            lut_explanation="share of the case's largest activation",
            unit=codes.concept(codes.NO_UNITS),
            value_range=(0.0, 1.0),
            slope=1.0,
            intercept=0.0,
            quantity_definition=codes.concept(codes.CLASS_ACTIVATION),
        )
    ]
    ds.PixelValueTransformationSequence = [identity := Dataset()]
    identity.RescaleIntercept, identity.RescaleSlope, identity.RescaleType = "0", "1", "US"
    ds.FrameVOILUTSequence = [window := Dataset()]
    window.WindowCenter, window.WindowWidth = DSfloat("0.5"), DSfloat("1")
    ds.ParametricMapFrameTypeSequence = [kind := Dataset()]
    kind.FrameType = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]


def _frame(ctx: Context, number: int, plane: space.Plane) -> Dataset:
    ds = space.indexed(number)
    space.place(ds, plane)
    space.derived_from(ctx, ds, plane.uid, plane.frame)
    return ds
