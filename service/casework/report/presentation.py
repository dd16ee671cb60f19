"""Outlines as Grayscale Softcopy Presentation States: the region on the untouched source image (PS3.3 A.33.1). Does no I/O.

One state an image, so that a viewer that applies one shows that image as its maker meant it, with the outline on top.
"""

import numpy as np
from highdicom.pr import GraphicObject, TextObject
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from casework.report import capture, header, uid
from casework.report.describe import percent
from casework.report.header import Context
from casework.result import HeatImage

KIND = "outline"
_LAYER = "AI"
_COLOUR = [46000, 21000, 26000]  # light cyan in CIELab as DICOM scales it


def possible(ctx: Context, image: HeatImage) -> bool:
    """Grey images with a region only: this kind of state can't say how a colour image is to be shown."""
    source = ctx.sources[image.sources[0]]
    return capture.outlined(ctx.result, image) and str(source.get("PhotometricInterpretation")).startswith("MONOCHROME")


def build(ctx: Context, number: int, image: HeatImage) -> Dataset:
    """The state of one image with a region."""
    source = ctx.sources[image.sources[0]]
    ds = header.heat_object(ctx, ctx.common, KIND, number, what="outlines", modality="PR")
    ds.InstanceNumber = number
    sides = {i.side for _, i in ctx.images if possible(ctx, i)}
    ds.Laterality = sides.pop().value if len(sides) == 1 else None  # 2C: one value for the series
    header.content(ctx, ds, "AI_REGION", f"AI region {capture.label(image)}: where evidence was found")
    ds.PresentationCreationDate, ds.PresentationCreationTime = ds.ContentDate, ds.ContentTime
    for keyword in ("ContentDate", "ContentTime"):
        del ds[keyword]
    shown = header.reference(ctx.instances[image.sources[0]], image.frame_number)
    ds.ReferencedSeriesSequence = [of := Dataset()]
    of.SeriesInstanceUID, of.ReferencedImageSequence = str(source.SeriesInstanceUID), [shown]
    _area(ds, source, shown)
    _grey(ds, source)
    _graphics(ctx, ds, image, source, shown)
    return ds


def _area(ds: Dataset, source: Dataset, shown: Dataset) -> None:
    """The whole image, fitted (PS3.3 C.10.4)."""
    ds.DisplayedAreaSelectionSequence = [area := Dataset()]
    area.ReferencedImageSequence = [shown]
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [int(source.Columns), int(source.Rows)]
    area.PresentationSizeMode = "SCALE TO FIT"
    spacing = source.get("PixelSpacing") or source.get("ImagerPixelSpacing")
    if spacing:
        area.PresentationPixelSpacing = [str(v) for v in spacing]
    else:
        area.PresentationPixelAspectRatio = [1, 1]


def _grey(ds: Dataset, source: Dataset) -> None:
    """The source's own grey: its rescale, first window and polarity, so that the image looks as without the state.

    VOI LUT Function is left out where it is LINEAR, the default: a common viewer shows such images black.
    """
    if "RescaleSlope" in source:
        ds.RescaleIntercept, ds.RescaleSlope = (_number(source[k].value) for k in ("RescaleIntercept", "RescaleSlope"))
        ds.RescaleType = str(source.get("RescaleType") or "US")
    center, width = (_first(source.get(k)) for k in ("WindowCenter", "WindowWidth"))
    if center is not None and width is not None:
        ds.SoftcopyVOILUTSequence = [window := Dataset()]
        window.WindowCenter, window.WindowWidth = _number(center), _number(width)
        function = str(source.get("VOILUTFunction") or "LINEAR")
        if function != "LINEAR":
            window.VOILUTFunction = function
    inverse = (
        source.get("PhotometricInterpretation") == "MONOCHROME1" or source.get("PresentationLUTShape") == "INVERSE"
    )
    ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"


def _first(value: object) -> object:
    return value[0] if isinstance(value, MultiValue | list | tuple) and value else value


def _number(value: object) -> str:
    """A decimal string: the enumerated 0 and 1 must not become 0.0 and 1.0."""
    number = float(str(value))
    return str(int(number)) if number.is_integer() else str(value)


def _graphics(ctx: Context, ds: Dataset, image: HeatImage, source: Dataset, shown: Dataset) -> None:
    points = capture.in_source(image, source)
    side = capture.side_of(ctx.result, image)
    score = "" if side is None or side.probability is None else f" {percent(side.probability)} %"
    ds.GraphicLayerSequence = [layer := Dataset()]
    layer.GraphicLayer, layer.GraphicLayerOrder = _LAYER, 1
    layer.GraphicLayerRecommendedDisplayCIELabValue = _COLOUR
    layer.GraphicLayerDescription = "AI regions"
    ds.GraphicAnnotationSequence = [note := Dataset()]
    note.ReferencedImageSequence, note.GraphicLayer = [shown], _LAYER
    note.GraphicObjectSequence = [
        GraphicObject(
            "POLYLINE",
            np.array(points, float),
            units="PIXEL",
            tracking_id=ctx.say(f"{ctx.result.model.name} {capture.label(image)} hottest area"),
            tracking_uid=uid.region_tracking_uid(ctx.result, image),
        )
    ]
    top = min(points, key=lambda p: p[1])
    words = f"AI region, side {image.side.value}{score} (whole case) - not for diagnosis"
    note.TextObjectSequence = [TextObject(ctx.say(words), units="PIXEL", anchor_point=top)]
