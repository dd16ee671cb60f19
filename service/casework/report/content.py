"""What a structured report says: TID 1500 Imaging Measurement Report, built by highdicom's templates. Does no I/O.

Every side of the case has an answer in it. A side with a probability is an examination group (TID 1501) whose number
is inferred from coordinates, since viewers drop a report with a group that has none; a side that was not analysed is
said in words and coded under the qualitative evaluations, never as absent. Images with an outlined area have a
region group (TID 1410) that leads to their heat-map.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

import numpy as np
from highdicom import sr
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from casework.report import capture, codes, header, heat, texts, uid
from casework.report.charset import Charset
from casework.report.codes import concept
from casework.report.describe import limit_lines, method_lines, percent, side_lines
from casework.report.header import Context, Instance
from casework.result import CaseResult, HeatImage, Outcome, Side, SideResult

Item = TypeVar("Item", bound=sr.ContentItem)
Group = sr.MeasurementsAndQualitativeEvaluations | sr.PlanarROIMeasurementsAndQualitativeEvaluations
_VIEW_CODES = {"R-10242": "CC", "R-10226": "MLO", "R-10224": "ML", "R-10228": "LM"}  # retired SRT values


def tree(ctx: Context, made: Sequence[Instance]) -> Dataset:
    """The root of the content tree with all its children, in the template's order. made: our own images of this study."""
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer(ctx)),
        procedure_reported=concept(codes.PROCEDURES[main_modality(ctx)]),
        imaging_measurements=_groups(ctx),
        title=concept(codes.REPORT_TITLE),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            concept(codes.LANGUAGES[ctx.language])
        ),
    )
    root = report[0]
    children = root.ContentSequence
    children.insert(len(children) - 1, container(codes.IMAGE_LIBRARY, _library(ctx, made)))
    children.append(container(codes.QUALITATIVE_EVALUATIONS, _evaluations(ctx)))
    separate(root)
    return root


def separate(item: Dataset) -> None:
    """Every container's children stand for themselves: viewers drop the names of values in continuous ones."""
    item.ContinuityOfContent = "SEPARATE"
    for child in item.ContentSequence:
        if child.ValueType == "CONTAINER":
            separate(child)


def _once(ctx: Context, key: tuple[object, ...], make: Callable[[], Item]) -> Item:
    """One item without text for all reports of the case."""
    return ctx.shared.once(key, lambda: [make()], Charset())[0]


def container(name: Code, children: Iterable[sr.ContentItem]) -> sr.ContainerContentItem:
    """A heading with its content."""
    item = sr.ContainerContentItem(concept(name), relationship_type=Relation.CONTAINS)
    item.ContentSequence = sr.ContentSequence(list(children))
    return item


def used(images: Iterable[HeatImage]) -> list[str]:
    """The sources of images, each once, in order."""
    return list(dict.fromkeys(u for i in images for u in i.sources))


def main_modality(ctx: Context) -> str:
    """The modality that most of this study's images have: one procedure is reported per study (TID 1500 row 4)."""
    own = [i.modality for _, i in ctx.images]
    return max(dict.fromkeys(own), key=own.count)


def observer(ctx: Context) -> sr.ObserverContext:
    """The device that observed (TID 1002, 1004)."""
    settings, model = ctx.settings, ctx.result.model
    return sr.ObserverContext(
        observer_type=concept(codes.DEVICE),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=model.device_uid,
            name=ctx.say(f"casework {model.name}"),
            manufacturer_name=header.own(ctx, settings.manufacturer, "casework"),
            model_name=ctx.say(model.name),
            serial_number=ctx.say(settings.serial_number),
        ),
    )


# --- image library --------------------------------------------------------------------------------------------


def _library(ctx: Context, made: Sequence[Instance]) -> list[sr.ContentItem]:
    """One group per series (TID 1600): this study's whole, of the other studies the reference images; last our own images.

    What a series shares is said once, at its group.
    """
    elsewhere = [i for i in ctx.result.images if i.study_instance_uid != ctx.study]
    modality = {u: i.modality for i in ctx.result.images for u in i.sources}
    series: dict[str, list[str]] = {}
    for name in dict.fromkeys([*used(i for _, i in ctx.images), *(i.sources[0] for i in elsewhere)]):
        series.setdefault(ctx.instances[name].series, []).append(name)
    groups = [_library_group(ctx, names, modality[names[0]]) for names in series.values()]
    groups.append([_once(ctx, ("made", i.uid), partial(_image, codes.CLASS_ACTIVATION, i)) for i in made])
    return [container(codes.IMAGE_LIBRARY_GROUP, items) for items in groups]


def _library_group(ctx: Context, names: Sequence[str], modality: str) -> list[sr.ContentItem]:
    items: list[sr.ContentItem] = [_acquired(codes.MODALITY, codes.MODALITIES[modality])]
    day = _date(str(ctx.sources[names[0]].get("StudyDate") or ""))
    if day is not None:
        items.append(sr.DateContentItem(concept(codes.STUDY_DATE), day.date(), Relation.HAS_ACQ_CONTEXT))
    if modality == "MR":  # slices are named only: what is true of one is true of all
        return [*items, *(_once(ctx, ("slice", n), partial(_image, codes.SOURCE, ctx.instances[n])) for n in names)]
    return [*items, *(_once(ctx, ("entry", n), partial(_entry, ctx, n, modality)) for n in names)]


def _acquired(name: Code, value: Code) -> sr.CodeContentItem:
    return sr.CodeContentItem(concept(name), concept(value), Relation.HAS_ACQ_CONTEXT)


def _image(name: Code, instance: Instance) -> sr.ImageContentItem:
    return sr.ImageContentItem(concept(name), instance.sop_class, instance.uid, relationship_type=Relation.CONTAINS)


def _entry(ctx: Context, name: str, modality: str) -> sr.ImageContentItem:
    """One image with its size, laterality and view (TID 1601, 1602)."""
    source = ctx.sources[name]
    items: list[sr.ContentItem] = [
        sr.NumContentItem(concept(code), value, concept(codes.PIXELS), relationship_type=Relation.HAS_ACQ_CONTEXT)
        for code, value in ((codes.ROWS, int(source.Rows)), (codes.COLUMNS, int(source.Columns)))
    ]
    side = capture.laterality_of(source)
    if side:
        items.append(_acquired(codes.IMAGE_LATERALITY, codes.SIDES[Side(side)]))
    view = _view(source) if modality == "MG" else None
    if view is not None:
        items.append(_acquired(codes.IMAGE_VIEW, view))
    image = _image(codes.SOURCE, ctx.instances[name])
    image.ContentSequence = sr.ContentSequence(items)
    return image


def _view(source: Dataset) -> Code | None:
    """A mammogram's view as a current code, from its view code or View Position."""
    view = str(source.get("ViewPosition") or "")
    stated = source.get("ViewCodeSequence")
    if stated:
        value = str(stated[0].get("CodeValue") or "")
        known = {c.value: c for c in codes.VIEWS.values()}
        if value in known:
            return known[value]
        view = _VIEW_CODES.get(value, view)
    return codes.VIEWS.get(view)


def _date(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y%m%d")  # noqa: DTZ007 - DICOM DA has no zone
    except ValueError:
        return None


# --- what was found -------------------------------------------------------------------------------------------


def _answered(side: SideResult) -> bool:
    return side.outcome is not Outcome.INSUFFICIENT and side.probability is not None


def _groups(ctx: Context) -> list[Group]:
    """The examination groups of the sides that were analysed, then the regions of this study's images."""
    sides = [s for s in ctx.result.sides if _answered(s)]
    algorithm = ctx.shared.once("algorithm", lambda: _algorithm(ctx), ctx.charset)
    groups: list[Group] = [_examination(ctx, s, algorithm) for s in sides or ctx.result.sides]
    for number, (_, image) in enumerate(ctx.images, 1):
        if capture.outlined(ctx.result, image) and image.region is not None:
            groups.append(_region(ctx, number, image, algorithm))
    return groups


def _algorithm(ctx: Context) -> sr.AlgorithmIdentification:
    """Who says it (TID 4019): one for all groups."""
    model = ctx.result.model
    parameters = [f"{name}: {value:g}" for name, value in ctx.result.thresholds.items()] + [f"engine: {model.engine}"]
    parameters += [f"passport: {model.passport}"] if model.passport else []
    return sr.AlgorithmIdentification(
        name=ctx.say(model.name),
        version=ctx.say(model.version),
        parameters=[ctx.say(p) for p in parameters],
        family=concept(codes.ARTIFICIAL_INTELLIGENCE),
        manufacturer=header.own(ctx, ctx.settings.manufacturer, "casework"),
    )


def _site(side: Side, where: Code) -> sr.FindingSite:
    return sr.FindingSite(concept(where), laterality=concept(codes.SIDES[side]))


def _frames(instance: Instance, frame_number: int) -> list[int] | None:
    return [frame_number] if instance.frames > 1 else None


def _examination(
    ctx: Context, side: SideResult, algorithm: sr.AlgorithmIdentification
) -> sr.MeasurementsAndQualitativeEvaluations:
    """One side of the case (TID 1501): probability, presence, source images."""
    measurements = None
    if _answered(side) and side.probability is not None:
        probability = float(percent(side.probability))
        where = _whole(ctx, side)
        measurements = [
            sr.Measurement(
                concept(codes.PROBABILITY), probability, concept(codes.PERCENT), referenced_coordinates=where
            )
        ]
    images = []
    for image in _images_of(ctx, side):
        source = ctx.instances[image.sources[0]]
        frames = _frames(source, image.frame_number)
        make = partial(sr.SourceImageForMeasurementGroup, source.sop_class, source.uid, frames)
        images.append(_once(ctx, ("source", source.uid, image.frame_number), make))
    name = ctx.say(f"{ctx.result.model.name} {side.side.value} axilla")
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid.tracking_uid(ctx.result, side.side), name),
        finding_type=concept(codes.AXILLARY_NODE),
        finding_sites=[_once(ctx, ("site", side.side), partial(_site, side.side, codes.AXILLA))],
        algorithm_id=algorithm,
        measurements=measurements,
        qualitative_evaluations=[_presence(side)],
        source_images=images,
    )


def _presence(side: SideResult) -> sr.QualitativeEvaluation:
    return sr.QualitativeEvaluation(concept(codes.NODAL_METASTASES), concept(codes.PRESENCE[side.outcome]))


def _images_of(ctx: Context, side: SideResult) -> list[HeatImage]:
    """The images of a side, this study's first, each source frame once."""
    ordered = [*(i for _, i in ctx.images), *(i for i in ctx.result.images if i.study_instance_uid != ctx.study)]
    unique = {(i.sources[0], i.frame_number): i for i in reversed(ordered) if i.side is side.side}
    return list(reversed(unique.values()))


def _whole(ctx: Context, side: SideResult) -> list[sr.CoordinatesForMeasurement]:
    """The border of the side's main image of this study (else of the case): what the probability is inferred from.

    Of MR it is the border of the projection on its capture, else of the source.
    """
    images = _images_of(ctx, side)
    if not images:
        return []
    own = [i for i in images if i.study_instance_uid == ctx.study] or images
    main = max(own, key=lambda i: (i.view == "MLO", float(i.heat.max()) if i.heat.size else 0.0))
    if main.modality == "MR" and main.study_instance_uid == ctx.study:
        at = heat.Layout.of(main.picture.shape, main.modality)
        (left, top), (width, height), where = at.corner, at.size, _on_capture(ctx, main)
    else:
        source = ctx.sources[main.sources[0]]
        (left, top), (width, height), where = (0, 0), (int(source.Columns), int(source.Rows)), _on(ctx, main)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)], float) * (width, height) + (left, top)
    return [sr.CoordinatesForMeasurement("POLYLINE", corners, where, concept(codes.SOURCE))]


def _on_capture(ctx: Context, image: HeatImage) -> sr.SourceImageForRegion:
    """An image's heat-map: a projection's number comes from all slices, and no viewer could show it on all.

    A common viewer hangs on a place on a slice when all phases are one series.
    """
    number = next(n for n, (_, own) in enumerate(ctx.images, 1) if own is image)
    return sr.SourceImageForRegion(uid.SC_CLASS, uid.instance_uid(ctx.key, ctx.study, "capture", number), None)


def _on(ctx: Context, image: HeatImage) -> sr.SourceImageForRegion:
    source = ctx.instances[image.sources[0]]
    make = partial(sr.SourceImageForRegion, source.sop_class, source.uid, _frames(source, image.frame_number))
    return _once(ctx, ("region", source.uid, image.frame_number), make)


def _region(
    ctx: Context, number: int, image: HeatImage, algorithm: sr.AlgorithmIdentification
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """The hottest area of one image (TID 1410), with the heat-map that illustrates it (row 9).

    It is called what it is, an activation in the images of a breast: viewers write finding and site beside the
    outline, and "axillary node" or "axilla" beside a place in the breast would be wrong.
    """
    points = np.array(capture.in_source(image, ctx.sources[image.sources[0]]), np.float32)
    name = ctx.say(f"{ctx.result.model.name} {capture.label(image)} hottest area")
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid.region_tracking_uid(ctx.result, image), name),
        referenced_region=sr.ImageRegion("POLYLINE", points, _on(ctx, image)),
        finding_type=concept(codes.CLASS_ACTIVATION),
        finding_sites=[_once(ctx, ("region site", image.side), partial(_site, image.side, codes.BREAST))],
        algorithm_id=algorithm,
    )
    heat_map = uid.instance_uid(ctx.key, ctx.study, "capture", number)
    series_uid = uid.series_uid(ctx.key, ctx.study, "capture")
    illustration = _image(codes.ILLUSTRATION, Instance(ctx.study, series_uid, uid.SC_CLASS, heat_map, 1))
    group[0].ContentSequence.append(illustration)
    return group


def _evaluations(ctx: Context) -> list[sr.ContentItem]:
    """Sides that were not analysed as codes, then the whole report in words (TID 1500 rows 10 to 12)."""
    silent = [item for s in ctx.result.sides if not _answered(s) for item in _presence(s)]
    said = [ctx.shared.once(line, partial(_comment, ctx, line), ctx.charset)[0] for line in words(ctx, ctx.language)]
    return [*silent, *said]


def _comment(ctx: Context, line: str) -> list[sr.TextContentItem]:
    return [sr.TextContentItem(concept(codes.COMMENT), ctx.say(line), Relation.CONTAINS)]


def words(ctx: Context, language: str) -> list[str]:
    """Every sentence of this study's report."""
    result = ctx.result
    lines = [texts.say("research", language)]
    lines += [line for side in result.sides for line in side_lines(result, side, language)]
    lines += [*limit_lines(result, language), *method_lines(result, language)]
    others = _others(result, ctx, language)
    return [*lines, texts.say("siblings", language, studies="; ".join(others))] if others else lines


def _others(result: CaseResult, ctx: Context, language: str) -> list[str]:
    """The case's other studies in words."""
    found: dict[str, list[HeatImage]] = {}
    for image in result.images:
        if image.study_instance_uid != ctx.study:
            found.setdefault(image.study_instance_uid, []).append(image)
    said = []
    for images in found.values():
        source = ctx.sources[images[0].sources[0]]
        accession = str(source.get("AccessionNumber") or "")
        said.append(
            texts.say(
                "study",
                language,
                modalities="/".join(dict.fromkeys(texts.modality(i.modality, language) for i in images)),
                date=str(source.get("StudyDate") or "-"),
                accession=accession if accession.isascii() and accession else "-",
            )
        )
    return said
