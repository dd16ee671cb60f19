"""Self-check of cines, maps, segmentations, outlines and key objects against the result and its sources. Does no I/O.

Written apart from what builds them: classes, codes and limits are this check's own.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from pydicom.dataset import Dataset

from casework.report import check_sr
from casework.report.check_header import need
from casework.result import CaseResult, HeatImage, Outcome

CLASSES = {
    "cine": ("1.2.840.10008.5.1.4.1.1.7.4", "OT", 9004),
    "parametric-map": ("1.2.840.10008.5.1.4.1.1.30", "OT", 9005),
    "segmentation": ("1.2.840.10008.5.1.4.1.1.66.4", "SEG", 9006),
    "segmentation-planar": ("1.2.840.10008.5.1.4.1.1.66.4", "SEG", 9013),
    "slices": ("1.2.840.10008.5.1.4.1.1.7.4", "OT", 9012),
    "outline": ("1.2.840.10008.5.1.4.1.1.11.1", "PR", 9007),
    "key-object": ("1.2.840.10008.5.1.4.1.1.88.59", "KO", 9008),
}
Sources = Mapping[str, Dataset]
_SIDES = {"24028007": "R", "7771000": "L"}
_SUSPECTED = (Outcome.POSITIVE, Outcome.INDETERMINATE)


def check(kind: str, ds: Dataset, result: CaseResult, sources: Sources) -> tuple[tuple[str, str], ...]:
    """One object of one of CLASSES; (instance, class) of all that it refers to.

    Raises:
        Defect: RESULT_SELF_CHECK, naming the rule.
    """
    images = [i for i in result.images if i.study_instance_uid == ds.StudyInstanceUID]
    if kind == "key-object":
        return _key_object(ds, result, images, sources)
    words = f"{ds.SeriesDescription} {ds.get('ImageComments', '')}".lower()
    need("not for diagnosis" in words, kind, "warning")
    match kind:
        case "cine":
            return _cine(ds, images, sources)
        case "slices":
            return _slices(ds, result, images, sources)
        case "parametric-map":
            return _map(ds, images, sources)
        case "segmentation" | "segmentation-planar":
            return _segmentation(ds, result, images, sources)
        case _:
            return _outline(ds, result, sources)


def suspected(result: CaseResult) -> set[str]:
    """The sides that may have outlines."""
    return {s.side.value for s in result.sides if s.outcome in _SUSPECTED}


def _pair(reference: Dataset) -> tuple[str, str]:
    return str(reference.ReferencedSOPInstanceUID), str(reference.ReferencedSOPClassUID)


def _series(ds: Dataset, keyword: str) -> tuple[tuple[str, str], ...]:
    return tuple(_pair(r) for s in ds.ReferencedSeriesSequence for r in s.get(keyword, []))


def _frame_of(reference: Dataset) -> int:
    return int(reference.get("ReferencedFrameNumber") or 1)


def _modifier(region: Dataset) -> str:
    return _SIDES.get(str(region.AnatomicRegionModifierSequence[0].CodeValue), "")


def _of_both(region: Dataset) -> bool:
    return str(region.AnatomicRegionModifierSequence[0].CodeValue) == "51440002"


def _stated(source: Dataset) -> str:
    value = str(source.get("ImageLaterality") or source.get("Laterality") or "")
    return value if value in ("R", "L") else ""


# --- cine -------------------------------------------------------------------------------------------------------


def _cine(ds: Dataset, images: Sequence[HeatImage], sources: Sources) -> tuple[tuple[str, str], ...]:
    """Exactly the frames of one source that were analysed on one side, in order."""
    side = _modifier(ds.AnatomicRegionSequence[0])
    need((ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.BitsAllocated) == ("RGB", 3, 8), "cine", "not RGB")
    need(len(ds.PixelData) == ds.NumberOfFrames * ds.Rows * ds.Columns * 3, "cine", "size")
    need(list(ds.ImageType) == ["DERIVED", "SECONDARY"] and ds.ConversionType == "WSD", "cine", "kind")
    need(len(ds.SourceImageSequence) == 1, "references", "not one source")
    uid, sop_class = _pair(ds.SourceImageSequence[0])
    need(uid in sources, "references", "a source outside the case")
    stated = ds.SourceImageSequence[0].ReferencedFrameNumber
    frames = [int(stated)] if isinstance(stated, int) else [int(f) for f in stated]
    meant = sorted(i.frame_number for i in images if i.sources[0] == uid and i.side.value == side)
    need(frames == meant and len(frames) == ds.NumberOfFrames, "cine", "not the analysed frames of this side")
    need(list(ds.FrameLabelVector) == [f"frame {f}" for f in frames], "cine", "labels")
    source = sources[uid]
    need(_stated(source) in ("", side) and (ds.get("ImageLaterality") or "") == _stated(source), "side", "cine")
    need(f" {side} " in f" {ds.ImageComments} ", "side", "label")
    for keyword, value in (("BurnedInAnnotation", "YES"), ("LossyImageCompression", "01")):
        need((ds.get(keyword) == value) == (source.get(keyword) == value), "cine", keyword)
    return ((uid, sop_class), *_series(ds, "ReferencedInstanceSequence"))


def _slices(
    ds: Dataset, result: CaseResult, images: Sequence[HeatImage], sources: Sources
) -> tuple[tuple[str, str], ...]:
    """Slices of one series in order of position, the one behind each suspected side's hottest place among them, both breasts."""
    need((ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.BitsAllocated) == ("RGB", 3, 8), "slices", "not RGB")
    need(len(ds.PixelData) == ds.NumberOfFrames * ds.Rows * ds.Columns * 3, "slices", "size")
    need(list(ds.ImageType) == ["DERIVED", "SECONDARY"] and ds.ConversionType == "WSD", "slices", "kind")
    need(_of_both(ds.AnatomicRegionSequence[0]) and not ds.Laterality, "side", "slices")
    frames = [(str(r.ReferencedSOPInstanceUID), _frame_of(r)) for r in ds.SourceImageSequence]
    labels = list(ds.get("FrameLabelVector") or ["slice 1"])  # of a single frame there is none
    need(len(frames) == len(set(frames)) == ds.NumberOfFrames == len(labels), "slices", "frames")
    need(all(u in sources for u, _ in frames), "references", "a source outside the case")
    projections = [i for i in images if i.modality == "MR" and i.depths is not None]
    known = {at for i in projections if i.depths is not None for at in i.depths.slices}
    need(set(frames) <= known, "references", "a slice that was not read")
    for side in {i.side for i in projections if i.side.value in suspected(result)}:
        hottest = max((i for i in projections if i.side is side), key=lambda i: float(i.heat.max()))
        need(
            hottest.peak is None or (hottest.sources[0], hottest.frame_number) in frames,
            "region",
            "not the hottest slice",
        )
    numbers = [int(str(label).split()[1]) for label in labels]
    need(numbers == sorted(set(numbers)), "slices", "order")
    places = [position(sources[u], f) for u, f in frames]
    steps = [np.subtract(b, a) for a, b in pairwise(places)]
    need(all(float(np.dot(steps[0], step)) > 0 for step in steps), "geometry", "not in order of position")
    burned = any(sources[u].get("BurnedInAnnotation") == "YES" for u, _ in frames)
    need((ds.BurnedInAnnotation == "YES") == burned, "slices", "BurnedInAnnotation")
    pairs = tuple((str(r.ReferencedSOPInstanceUID), str(r.ReferencedSOPClassUID)) for r in ds.SourceImageSequence)
    return (*pairs, *_series(ds, "ReferencedInstanceSequence"))


# --- frames on source frames --------------------------------------------------------------------------------------


def _placed(ds: Dataset, sources: Sources) -> list[tuple[str, int]]:
    """(instance, frame) below every frame: known, listed, and where the source has a place, at the very same one."""
    listed = dict(_series(ds, "ReferencedInstanceSequence"))
    need(bool(listed) and set(listed) <= set(sources), "references", "a source outside the case")
    need(len(ds.PerFrameFunctionalGroupsSequence) == ds.NumberOfFrames, "geometry", "number of frames")
    found = []
    for item in ds.PerFrameFunctionalGroupsSequence:
        reference = item.DerivationImageSequence[0].SourceImageSequence[0]
        uid, frame = str(reference.ReferencedSOPInstanceUID), _frame_of(reference)
        need(listed.get(uid) == reference.ReferencedSOPClassUID, "references", "a frame of another image")
        source = sources[uid]
        need(1 <= frame <= int(source.get("NumberOfFrames") or 1), "references", "frame")
        need((ds.Rows, ds.Columns) == (source.Rows, source.Columns), "geometry", "size")
        if "PlanePositionSequence" in item:
            place = item.PlanePositionSequence[0].ImagePositionPatient
            need(_near(place, position(source, frame)), "geometry", "not its source's place")
        found.append((uid, frame))
    reference_frames = {str(sources[u].get("FrameOfReferenceUID") or "") for u in listed}
    need(str(ds.get("FrameOfReferenceUID") or "") in {"", *reference_frames}, "geometry", "frame of reference")
    return found


def position(source: Dataset, frame: int) -> list[float]:
    """Image Position (Patient) of a frame of a classic or enhanced image."""
    if "PerFrameFunctionalGroupsSequence" in source:
        item = source.PerFrameFunctionalGroupsSequence[frame - 1]
        return [float(v) for v in item.PlanePositionSequence[0].ImagePositionPatient]
    return [float(v) for v in source.ImagePositionPatient]


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(abs(float(a) - float(b)) < 1e-3 for a, b in zip(one, other, strict=True))


def _voxel(image: HeatImage, frames: Sequence[tuple[str, int]]) -> tuple[int, int, int] | None:
    """(frame, row, col) of a projection's hottest place in an object over `frames`."""
    at = (image.sources[0], image.frame_number)
    if image.peak is None or at not in frames:
        return None
    return frames.index(at), round(image.peak[0]), round(image.peak[1])


def _map(ds: Dataset, images: Sequence[HeatImage], sources: Sources) -> tuple[tuple[str, str], ...]:
    """Numbers in 0..1 on ascending source frames, hot where the projections are hottest, of a known quantity."""
    shape = (int(ds.NumberOfFrames), int(ds.Rows), int(ds.Columns))
    need(ds.BitsAllocated == 32 and len(ds.FloatPixelData) == 4 * int(np.prod(shape)), "map", "size")
    need("PixelData" not in ds and "DoubleFloatPixelData" not in ds, "map", "pixels of another kind")
    values = np.frombuffer(ds.FloatPixelData, "<f4").reshape(shape)
    need(bool(np.isfinite(values).all()) and values.min() >= 0 and values.max() <= 1, "probability", "map's range")
    frames = _placed(ds, sources)
    need(bool(ds.get("FrameOfReferenceUID")), "geometry", "frame of reference")
    shared = ds.SharedFunctionalGroupsSequence[0]
    direction = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    normal = np.cross(direction[:3], direction[3:])
    along = [
        float(normal @ np.array(f.PlanePositionSequence[0].ImagePositionPatient, float))
        for f in ds.PerFrameFunctionalGroupsSequence
    ]
    need(len(set(frames)) == len(frames) and bool((np.diff(along) > 0).all()), "geometry", "not ascending")
    mapping = shared.RealWorldValueMappingSequence[0]
    meant = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue
    units = mapping.MeasurementUnitsCodeSequence[0].CodeValue
    need((meant, units) == ("130402", "1") and mapping.RealWorldValueSlope == 1, "map", "quantity")
    projections = [i for i in images if i.modality == "MR"]
    sides = {i.side.value for i in projections}
    need(shared.FrameAnatomySequence[0].FrameLaterality == ("B" if len(sides) > 1 else min(sides)), "side", "map")
    for image in projections:
        at = _voxel(image, frames)
        need(at is None or values[at] >= 0.5 * float(image.heat.max()), "region", "map is cold where its image is hot")
    need(values.max() <= max(float(i.heat.max()) for i in projections) + 1e-6, "region", "map hotter than its images")
    return _series(ds, "ReferencedInstanceSequence")


# --- segmentation -------------------------------------------------------------------------------------------------


def _segmentation(
    ds: Dataset, result: CaseResult, images: Sequence[HeatImage], sources: Sources
) -> tuple[tuple[str, str], ...]:
    """Segments 1..n of suspected sides, each with pixels, where the result has the side's regions."""
    shape = (int(ds.NumberOfFrames), int(ds.Rows), int(ds.Columns))
    count = int(np.prod(shape))
    need(ds.SegmentationType == "BINARY" and ds.BitsAllocated == 1, "segmentation", "not binary")
    need(len(ds.PixelData) == (count + 15) // 16 * 2, "segmentation", "size")
    masks = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), count=count, bitorder="little").reshape(shape) > 0
    frames = _placed(ds, sources)
    numbers = [int(s.SegmentNumber) for s in ds.SegmentSequence]
    of = [int(f.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for f in ds.PerFrameFunctionalGroupsSequence]
    need(numbers == list(range(1, len(numbers) + 1)) and set(of) == set(numbers), "segmentation", "segment numbers")
    for segment in ds.SegmentSequence:
        side = _modifier(segment.AnatomicRegionSequence[0])
        need(side in suspected(result), "side", "a region on a side that has none")
        need(f"activation {side}" in segment.SegmentLabel and f" {side} " in segment.TrackingID, "side", "label")
        kind, category = segment.SegmentedPropertyTypeCodeSequence[0], segment.SegmentedPropertyCategoryCodeSequence[0]
        need((kind.CodeValue, category.CodeValue) == ("130402", "309825002"), "segmentation", "property")
        need(segment.SegmentAlgorithmType == "AUTOMATIC", "segmentation", "algorithm type")
        need(result.model.name in str(segment.SegmentAlgorithmName), "origin", "algorithm")
        own = [n for n, number in enumerate(of) if number == segment.SegmentNumber]
        need(all(_stated(sources[frames[n][0]]) in ("", side) for n in own), "side", "an image of the other side")
        need(all(bool(masks[n].any()) for n in own), "region", "an empty frame")
        _where(masks, own, frames, [i for i in images if i.side.value == side])
    return _series(ds, "ReferencedInstanceSequence")


def _where(
    masks: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    own: Sequence[int],
    frames: Sequence[tuple[str, int]],
    images: Sequence[HeatImage],
) -> None:
    """A planar region fills its polygon's box; one in a volume holds the hottest place of the side's hottest image."""
    if images and images[0].modality != "MR":
        need(len(own) == 1, "region", "frames")
        here = [i.region for i in images if (i.sources[0], i.frame_number) == frames[own[0]]]
        regions = [r for r in here if r is not None]
        need(len(regions) == 1, "region", "no such region in the result")
        rows, cols = np.nonzero(masks[own[0]])
        box = np.array([[rows.min(), cols.min()], [rows.max(), cols.max()]], float)
        edge = np.array([regions[0].min(axis=0), regions[0].max(axis=0)])
        need(bool((np.abs(box - edge) <= 2).all()), "region", "not the result's")
        return
    hottest = max(images, key=lambda i: float(i.heat.max()))
    at = _voxel(hottest, [frames[n] for n in own])
    need(at is not None and bool(masks[own[at[0]]][at[1], at[2]]), "region", "not where the images are hottest")


# --- outline, key object --------------------------------------------------------------------------------------------


def _outline(ds: Dataset, result: CaseResult, sources: Sources) -> tuple[tuple[str, str], ...]:
    """The result's own region and number on the image that they belong to, shown as its source is."""
    (series,) = ds.ReferencedSeriesSequence
    (shown,) = series.ReferencedImageSequence
    uid, frame = str(shown.ReferencedSOPInstanceUID), _frame_of(shown)
    need(uid in sources, "references", "a source outside the case")
    source = sources[uid]
    need(series.SeriesInstanceUID == source.SeriesInstanceUID, "references", "hierarchy")
    (note,) = ds.GraphicAnnotationSequence
    for item in (note, ds.DisplayedAreaSelectionSequence[0]):
        need([_pair(r) for r in item.ReferencedImageSequence] == [_pair(shown)], "references", "another image")
    area = ds.DisplayedAreaSelectionSequence[0]
    corners = (list(area.DisplayedAreaTopLeftHandCorner), list(area.DisplayedAreaBottomRightHandCorner))
    need(corners == ([1, 1], [source.Columns, source.Rows]), "region", "not all of the image is shown")
    (graphic,), (text,) = note.GraphicObjectSequence, note.TextObjectSequence
    points = np.array(graphic.GraphicData, float).reshape(-1, 2)
    need(len(points) == graphic.NumberOfGraphicPoints and bool((points[0] == points[-1]).all()), "region", "not closed")
    inside = points.min() >= 0 and points[:, 0].max() <= source.Columns and points[:, 1].max() <= source.Rows
    need(bool(inside), "region", "outside its image")
    side = _labelled(graphic.TrackingID)
    need(bool(check_sr.outlined_by(graphic.GraphicData, (uid, frame, side), result)), "region", "not the result's")
    need(side in suspected(result) and _stated(source) in ("", side), "side", "outline")
    need(f"side {side} " in text.UnformattedTextValue, "side", "label")
    need(f" {side} " in f" {ds.ContentDescription} ", "side", "description")
    need((ds.get("Laterality") or "") in ("", side), "side", "series")
    answer = next(s for s in result.sides if s.side.value == side)
    number = min(max(100 * float(answer.probability or 0), 0.1), 99.9)  # no model knows 0 or 100 %
    need(f" {number:.1f} %" in text.UnformattedTextValue, "probability", "not the result's")
    return (_pair(shown),)


def _labelled(words: str) -> str:
    """The side that a label names, as a word of its own."""
    found = {"R", "L"} & set(words.split())
    need(len(found) == 1, "side", "label")
    return found.pop()


def _key_object(
    ds: Dataset, result: CaseResult, images: Sequence[HeatImage], sources: Sources
) -> tuple[tuple[str, str], ...]:
    """Images of suspected sides of this study, all of them in the evidence, under the right title."""
    need(ds.ConceptNameCodeSequence[0].CodeValue == "113000", "key object", "title")
    evidence = {
        _pair(r): str(study.StudyInstanceUID)
        for study in ds.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for r in series.ReferencedSOPSequence
    }
    need(set(evidence.values()) == {str(ds.StudyInstanceUID)}, "study", "evidence of another study")
    named = [i for i in ds.ContentSequence if i.ValueType == "IMAGE"]
    need(all("ConceptNameCodeSequence" not in i for i in named), "key object", "a named image")
    suspect = {(i.sources[0], i.frame_number) for i in images if i.side.value in suspected(result)}
    for item in named:
        reference = item.ReferencedSOPSequence[0]
        need(_pair(reference) in evidence, "references", "an object that is not in the evidence")
        uid = str(reference.ReferencedSOPInstanceUID)
        need(
            uid not in sources or (uid, _frame_of(reference)) in suspect,
            "side",
            "an image of a side that has no finding",
        )
    need({u for u, _ in suspect} & {p[0] for p in evidence} != set(), "key object", "no image")
    observers = [i for i in ds.ContentSequence if i.ValueType == "UIDREF"]
    need(bool(observers) and result.model.device_uid == observers[0].UID, "origin", "device observer")
    need(any(i.ValueType == "TEXT" and "diagnosis" in i.TextValue for i in ds.ContentSequence), "key object", "warning")
    return tuple(evidence)
