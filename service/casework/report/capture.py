"""Heat-map Secondary Captures: one RGB image per analysed image, in the study it belongs to (PS3.3 A.8.1). Does no I/O."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from casework.geometry import Affine2
from casework.report import codes, header, heat, texts, uid
from casework.report.charset import Charset
from casework.report.describe import said_percent
from casework.report.encode import frozen, to_file
from casework.report.header import PROGRAM_VERSION, Context
from casework.result import CaseResult, HeatImage, Outcome, Side, SideResult

WARNING = "AI RESEARCH - NOT FOR DIAGNOSIS. Read only with the source images."
Key = tuple[tuple[str, ...], int | None]
_OUTLINED = (Outcome.POSITIVE, Outcome.INDETERMINATE)


def label(image: HeatImage) -> str:
    """Short words for lists, e.g. "R MLO"."""
    return f"{image.side.value} {texts.view_mark(image.modality, image.view)}"


def side_of(result: CaseResult, image: HeatImage) -> SideResult | None:
    """The result of the image's side."""
    return next((s for s in result.sides if s.side is image.side), None)


def outlined(result: CaseResult, image: HeatImage) -> bool:
    """Whether the hottest area is outlined: not on a side that is negative, where an outline would look like a lesion."""
    return image.region is not None and image.side in outlined_sides(result)


def outlined_sides(result: CaseResult) -> list[Side]:
    """The sides whose images have outlines."""
    return [s.side for s in result.sides if s.outcome in _OUTLINED]


def laterality_of(source: Dataset) -> str:
    """The side that a source states, "" when none or both."""
    stated = str(source.get("ImageLaterality") or source.get("Laterality") or "")
    return stated if stated in ("R", "L") else ""


def orientation_of(image: HeatImage, source: Dataset) -> tuple[str, str]:
    """Patient Orientation of the picture (PS3.3 C.7.6.1.1.1): row and column direction, ("", "") when unknown.

    MR projections are always shown the radiological way round (casework.preprocess.mri); others as the source is.
    """
    if image.modality == "MR":
        return ("P", "F") if image.view == "SAG" else ("L", "P")
    stated = source.get("PatientOrientation")
    if isinstance(stated, MultiValue | list | tuple) and len(stated) == 2:
        return (str(stated[0]), str(stated[1]))
    return ("", "")


def _opposite(letters: str) -> str:
    return letters.translate(str.maketrans("LRPAHF", "RLAPFH"))


def draw(result: CaseResult, image: HeatImage, source: Dataset, issued: str) -> Image.Image:
    """The capture's picture. issued: which revision says so, and when."""
    picture, heat_map, way = image.picture, image.heat, Affine2(image.to_source)
    if image.modality != "MR":
        picture, heat_map, way = heat.upright(picture, heat_map, way)
    side = side_of(result, image)
    analysed = side is not None and side.outcome is not Outcome.INSUFFICIENT
    right, down = orientation_of(image, source)
    return heat.capture(
        picture,
        heat_map if analysed else None,
        way,
        region=image.region if outlined(result, image) else None,
        modality=image.modality,
        marks=heat.Marks(
            place=f"{image.side.value}  {texts.view_mark(image.modality, image.view)}",
            answer=_answer(side, image),
            warning=WARNING,
            maker=f"AI  {result.model.name} {result.model.version}",
            note=f"{_note(image, source)}   {issued}",
            edges=(_opposite(right), right, _opposite(down), down),
        ),
    )


def _answer(side: SideResult | None, image: HeatImage) -> str:
    axilla = texts.axilla(image.side, "en")
    if side is None or side.outcome is Outcome.INSUFFICIENT or side.probability is None:
        return f"{axilla}: NOT ANALYSED - not a negative result"
    return f"{axilla} (whole case): {said_percent(side.probability, 'en')} %, {texts.say(f'word.{side.outcome.value}', 'en')}"


def _note(image: HeatImage, source: Dataset) -> str:
    words = [texts.modality(image.modality, "en"), f"casework {PROGRAM_VERSION}"]
    if len(image.sources) > 1:
        words.insert(1, texts.say("projection", "en", count=len(image.sources)))
    elif int(source.get("NumberOfFrames") or 1) > 1:
        words.insert(1, f"frame {image.frame_number}")
    return "   ".join(words)


def underlay(image: HeatImage) -> bytes:
    """The source's picture as the preview has it, without heat, for a page that lays it over the preview."""
    picture = image.picture
    if image.modality != "MR":
        picture, _, _ = heat.upright(picture, image.heat, Affine2(image.to_source))
    return _png(heat.underlay(picture, image.modality), transparency=0)


def png(picture: Image.Image) -> bytes:
    """The capture at half size for the page and the API."""
    return _png(picture.reduce(2))


def _png(picture: Image.Image, **options: int) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=1, **options)
    return buffer.getvalue()


def common(ctx: Context) -> Dataset:
    """What all captures of a study say alike, once for all of them."""
    ds = Dataset()
    header.series(
        ctx,
        ds,
        modality="OT",
        uid=uid.series_uid(ctx.key, ctx.study, "capture"),
        number=uid.SC_SERIES_NUMBER,
        description=f"AI {ctx.result.model.name} heat-maps - not for diagnosis",
        kind=codes.CLASS_ACTIVATION,
    )
    if not all(laterality_of(ctx.sources[i.sources[0]]) for _, i in ctx.images):
        ds.Laterality = None  # 2C: one value for the series, empty for a bilateral examination
    ds.DerivationCodeSequence = [codes.concept(codes.CLASS_ACTIVATION)]
    ds.DerivationDescription = f"AI heat-map (class activation) over the source picture, opacity to {heat.OPACITY:.0%}"
    ds.ConversionType = "WSD"
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = f"{ctx.local:%Y%m%d}", f"{ctx.local:%H%M%S}"
    ds.RecognizableVisualFeatures = "NO"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.update(ctx.common)
    return frozen(ds, ctx.charset)


def to_dicom(ctx: Context, number: int, image: HeatImage, picture: Image.Image) -> bytes:
    """The capture as a Secondary Capture object; `number` is its Instance Number."""
    source = ctx.sources[image.sources[0]]
    ds = header.start(ctx, ctx.captures, uid.SC_CLASS, uid.instance_uid(ctx.key, ctx.study, "capture", number))
    ds.InstanceNumber = number
    ds.ImageComments = ctx.say(f"{label(image)}. {WARNING} {header.issued(ctx).capitalize()}.")
    anatomy(ctx, ds, image, source)
    ds.update(ctx.lists[key_of(image)])
    history(ds, ctx.charset, [ctx.sources[s] for s in image.sources])
    ds.Rows, ds.Columns = picture.height, picture.width
    ds.add_new("PixelData", "OB", picture.tobytes())  # an even number of bytes: the width is even
    return to_file(ds, ctx.charset, f"CASEWORK_{PROGRAM_VERSION}")


def anatomy(ctx: Context, ds: Dataset, image: HeatImage, source: Dataset) -> None:
    """Side, view, region and orientation, as the source states them (PS3.3 C.7.6.1, 10.5)."""
    stated = laterality_of(source)
    if stated:
        ds.ImageLaterality = stated
    right, down = orientation_of(image, source)
    ds.PatientOrientation = [right, down] if right else None
    header.carry(ds, ctx.charset, source, "BodyPartExamined")
    region = Dataset()
    region.update(codes.concept(codes.BREAST))
    region.AnatomicRegionModifierSequence = [codes.concept(codes.SIDES[image.side])]
    ds.AnatomicRegionSequence = [region]
    ds.PrimaryAnatomicStructureSequence = [codes.concept(codes.AXILLARY_NODE)]  # what the answer is about; a query key
    if image.modality == "MG":
        _view(ctx, ds, image, source)
    if source.get("FrameOfReferenceUID"):
        ds.FrameOfReferenceUID = str(source.FrameOfReferenceUID)
        ds.PositionReferenceIndicator = None
        header.carry(ds, ctx.charset, source, "PositionReferenceIndicator")


def _view(ctx: Context, ds: Dataset, image: HeatImage, source: Dataset) -> None:
    """A mammogram's view: the source's code, else the one of its View Position. An empty modifier is illegal here."""
    header.carry(ds, ctx.charset, source, "ViewCodeSequence")
    if not source.get("ViewCodeSequence"):
        if image.view in codes.VIEWS:
            ds.ViewCodeSequence = [codes.concept(codes.VIEWS[image.view])]
    elif "ViewModifierCodeSequence" in ds.ViewCodeSequence[0] and not ds.ViewCodeSequence[0].ViewModifierCodeSequence:
        del ds.ViewCodeSequence[0].ViewModifierCodeSequence


def key_of(image: HeatImage) -> Key:
    """What decides the lists of an image's sources; a projection names whole images."""
    return image.sources, None if image.modality == "MR" else image.frame_number


def made_from(ctx: Context) -> dict[Key, Dataset]:
    """The lists of every image's sources (PS3.3 C.7.6.1, C.12.2): long ones, and many images have the same."""
    purpose = Dataset()
    purpose.PurposeOfReferenceCodeSequence = [codes.concept(codes.SOURCE_FOR_PROCESSING)]
    purpose = frozen(purpose, ctx.charset)
    items: dict[tuple[str, int | None], Dataset] = {}
    series: dict[frozenset[str], Dataset] = {}
    lists = {}
    for names, frame in dict.fromkeys(key_of(image) for _, image in ctx.images):
        for name in names:
            if (name, frame) not in items:
                items[name, frame] = item = header.reference(ctx.instances[name], frame)
                item.update(purpose)
        if frozenset(names) not in series:
            series[frozenset(names)] = frozen(referenced_series(ctx, names), ctx.charset)
        ds = Dataset()
        ds.SourceImageSequence = [items[name, frame] for name in names]
        lists[names, frame] = frozen(ds, ctx.charset)
        lists[names, frame].update(series[frozenset(names)])
    return lists


def referenced_series(ctx: Context, names: Sequence[str]) -> Dataset:
    """Common Instance Reference (PS3.3 C.12.2)."""
    by_series: dict[str, list[Dataset]] = {}
    for name in names:
        source = ctx.instances[name]
        by_series.setdefault(source.series, []).append(header.reference(source))
    ds = Dataset()
    ds.ReferencedSeriesSequence = [_series_item(s, refs) for s, refs in by_series.items()]
    return ds


def _series_item(series_uid: str, references: Sequence[Dataset]) -> Dataset:
    ds = Dataset()
    ds.SeriesInstanceUID, ds.ReferencedInstanceSequence = series_uid, list(references)
    return ds


def history(ds: Dataset, charset: Charset, sources: Sequence[Dataset]) -> None:
    """Lossy history and burned-in identity come along from any source (PS3.3 C.7.6.1.1.5)."""
    lossy = next((s for s in sources if s.get("LossyImageCompression") == "01"), None)
    ds.LossyImageCompression = "01" if lossy is not None else "00"
    if lossy is not None:
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            header.carry(ds, charset, lossy, keyword)
    ds.BurnedInAnnotation = "YES" if any(s.get("BurnedInAnnotation") == "YES" for s in sources) else "NO"


def in_source(image: HeatImage, source: Dataset) -> list[tuple[float, float]]:
    """The region as closed (column, row) points of an SR: origin at the corner of the first pixel (PS3.3 C.18.6.1.2)."""
    if image.region is None:
        return []
    limits = np.array([float(source.Columns), float(source.Rows)])
    points = np.asarray(image.region, np.float64)[:, ::-1] + 0.5
    if (points < -1).any() or (points > limits + 1).any():
        raise ValueError(f"region of {label(image)} lies outside its image")
    clipped = np.clip(points, 0, limits)
    closed = np.vstack([clipped, clipped[:1]])
    return [(float(x), float(y)) for x, y in closed]
