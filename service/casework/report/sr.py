"""The structured report of one study: Comprehensive 3D SR, TID 1500 Imaging Measurement Report. Does no I/O.

Every side of the case has an answer in it. A side with a probability is an examination group (TID 1501) whose number
is inferred from coordinates, since viewers drop a report with a group that has none; a side that was not analysed is
said in words and coded under the qualitative evaluations, never as absent. Images with an outlined area have a
region group (TID 1410) that leads to their heat-map.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from pydicom.dataset import Dataset

from casework.report import capture, codes, header, texts, tree, uid, wire
from casework.report.charset import Charset
from casework.report.describe import limit_lines, method_lines, percent, side_lines
from casework.report.header import PROGRAM_VERSION, Context
from casework.result import CaseResult, HeatImage, Outcome, Side, SideResult

_VIEW_CODES = {"R-10242": "CC", "R-10226": "MLO", "R-10224": "ML", "R-10228": "LM"}  # retired SRT values


def to_dicom(ctx: Context) -> bytes:
    """The report as a Part 10 file."""
    instance_uid = uid.instance_uid(ctx.result, ctx.study, "sr", 1)
    block = header.identity(ctx, uid.SR_CLASS, instance_uid)
    description = f"AI {ctx.result.model.name} axillary node report"
    series_uid = uid.series_uid(ctx.result, ctx.study, "sr")
    header.series(
        ctx,
        block,
        modality="SR",
        uid=series_uid,
        number=uid.SR_SERIES_NUMBER,
        description=description,
        kind=codes.REPORT_TITLE,
    )
    header.origin(ctx, block)
    _document(ctx, block)
    _evidence(ctx, block)
    block.put("ValueType", "CONTAINER")
    block.put("ConceptNameCodeSequence", codes.code_item(codes.REPORT_TITLE))
    block.put("ContinuityOfContent", "SEPARATE")
    block.put("ContentTemplateSequence", tree.template_item("1500"))
    block.put("ContentSequence", _content(ctx))
    return wire.file_bytes(block, uid.SR_CLASS, instance_uid, f"CASEWORK_{PROGRAM_VERSION}")


# --- the document's frame -------------------------------------------------------------------------------------


def _document(ctx: Context, block: wire.Block) -> None:
    """SR Document General and Series (PS3.3 C.17.1, C.17.2): complete, preliminary, verified by nobody."""
    block.put("InstanceNumber", 1)
    block.put("CompletionFlag", "COMPLETE")
    block.put("PreliminaryFlag", "PRELIMINARY")
    block.put("VerificationFlag", "UNVERIFIED")
    block.put("ReferencedPerformedProcedureStepSequence", None)
    block.put("PerformedProcedureCodeSequence", codes.code_item(codes.PROCEDURES[_modality(ctx)]))
    if ctx.reference.get("AccessionNumber"):
        block.put("ReferencedRequestSequence", _request(ctx))
    older = [p for p in ctx.result.predecessors if p[0] == ctx.study]
    if older:
        block.put("PredecessorDocumentsSequence", _hierarchy(older))


def _request(ctx: Context) -> bytes:
    """The order that the study answers, as far as the images tell."""
    item = ctx.block(StudyInstanceUID=ctx.study)
    for keyword in (
        "ReferencedStudySequence",
        "PlacerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequest",
        "RequestedProcedureID",
        "RequestedProcedureDescription",
        "RequestedProcedureCodeSequence",
    ):
        item.put(keyword, None)
    header.carry(item, ctx.reference, "AccessionNumber")
    header.carry(item, ctx.reference, "IssuerOfAccessionNumberSequence")
    requests = ctx.reference.get("RequestAttributesSequence")
    for keyword in ("RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedureCodeSequence"):
        if requests:
            header.carry(item, requests[0], keyword)
    return item.item()


def _evidence(ctx: Context, block: wire.Block) -> None:
    """Every object that the tree names: this study's as current, the case's other studies' as pertinent evidence."""
    current = [_quadruple(ctx, u) for u in _used(i for _, i in ctx.images)]
    captures = uid.series_uid(ctx.result, ctx.study, "capture")
    for number in range(1, len(ctx.images) + 1):
        current.append((ctx.study, captures, uid.SC_CLASS, uid.instance_uid(ctx.result, ctx.study, "capture", number)))
    block.put("CurrentRequestedProcedureEvidenceSequence", _hierarchy(current))
    elsewhere = [i for i in ctx.result.images if i.study_instance_uid != ctx.study]
    other = [_quadruple(ctx, u) for u in _used(elsewhere)]
    for study in dict.fromkeys(i.study_instance_uid for i in elsewhere):
        series_uid = uid.series_uid(ctx.result, study, "sr")
        other.append((study, series_uid, uid.SR_CLASS, uid.instance_uid(ctx.result, study, "sr", 1)))
    if other:
        block.put("PertinentOtherEvidenceSequence", _hierarchy(other))


def _quadruple(ctx: Context, name: str) -> tuple[str, str, str, str]:
    source = ctx.instances[name]
    return (source.study, source.series, source.sop_class, source.uid)


def _hierarchy(instances: Sequence[tuple[str, str, str, str]]) -> list[bytes]:
    """References by study and series (PS3.3 10.3 Hierarchical SOP Instance Reference)."""
    studies: dict[str, dict[str, list[bytes]]] = {}
    for study, series_uid, sop_class, instance in instances:
        pairs = (("ReferencedSOPClassUID", sop_class), ("ReferencedSOPInstanceUID", instance))
        studies.setdefault(study, {}).setdefault(series_uid, []).append(wire.flat_item(pairs))
    plain = Charset()
    return [
        wire.Block(
            plain,
            StudyInstanceUID=study,
            ReferencedSeriesSequence=[
                wire.Block(plain, SeriesInstanceUID=s, ReferencedSOPSequence=refs).item() for s, refs in series.items()
            ],
        ).item()
        for study, series in studies.items()
    ]


def _used(images: Iterable[HeatImage]) -> list[str]:
    """The sources of images, each once, in order."""
    return list(dict.fromkeys(u for i in images for u in i.sources))


def _modality(ctx: Context) -> str:
    """The modality that most of this study's images have: one procedure is reported per study."""
    own = [i.modality for _, i in ctx.images]
    return max(dict.fromkeys(own), key=own.count)


# --- the tree -------------------------------------------------------------------------------------------------


def _content(ctx: Context) -> list[bytes]:
    """The children of the root, in the template's order."""
    return [
        tree.coded(tree.MODIFIED, codes.LANGUAGE, codes.LANGUAGES[ctx.language]),
        *_observer(ctx),
        tree.coded(tree.MODIFIED, codes.PROCEDURE_REPORTED, codes.PROCEDURES[_modality(ctx)]),
        tree.container(tree.CONTAINS, codes.IMAGE_LIBRARY, _library(ctx)),
        tree.container(tree.CONTAINS, codes.IMAGING_MEASUREMENTS, _groups(ctx)),
        tree.container(tree.CONTAINS, codes.QUALITATIVE_EVALUATIONS, _evaluations(ctx)),
    ]


def _observer(ctx: Context) -> list[bytes]:
    """The device that observed (TID 1002, 1004)."""
    settings, model = ctx.settings, ctx.result.model
    words = (
        (codes.DEVICE_NAME, f"casework {model.name}"),
        (codes.DEVICE_MANUFACTURER, header.own(ctx, settings.manufacturer, "casework")),
        (codes.DEVICE_MODEL, model.name),
        (codes.DEVICE_SERIAL, settings.serial_number),
    )
    return [
        tree.coded(tree.OBSERVED, codes.OBSERVER_TYPE, codes.DEVICE),
        tree.uid_reference(tree.OBSERVED, codes.DEVICE_UID, model.device_uid),
        *(tree.text(tree.OBSERVED, name, value, ctx.charset) for name, value in words),
    ]


def _library(ctx: Context) -> list[bytes]:
    """One group per series (TID 1600): this study's whole, of the other studies the reference images.

    What a series shares is said once, at its group.
    """
    elsewhere = [i for i in ctx.result.images if i.study_instance_uid != ctx.study]
    modality = {u: i.modality for i in ctx.result.images for u in i.sources}
    series: dict[str, list[str]] = {}
    for name in dict.fromkeys([*_used(i for _, i in ctx.images), *(i.sources[0] for i in elsewhere)]):
        series.setdefault(ctx.instances[name].series, []).append(name)
    return [
        tree.container(tree.CONTAINS, codes.IMAGE_LIBRARY_GROUP, _library_group(ctx, names, modality[names[0]]))
        for names in series.values()
    ]


def _library_group(ctx: Context, names: Sequence[str], modality: str) -> list[bytes]:
    items = [tree.coded(tree.ACQUIRED, codes.MODALITY, codes.MODALITIES[modality])]
    day = _date(str(ctx.sources[names[0]].get("StudyDate") or ""))
    if day is not None:
        items.append(tree.day(tree.ACQUIRED, codes.STUDY_DATE, day.date()))
    if modality == "MR":  # slices are named only: what is true of one is true of all
        return [*items, *(tree.image(tree.CONTAINS, header.reference(ctx.instances[n])) for n in names)]
    return [*items, *(_entry(ctx, n, modality) for n in names)]


def _entry(ctx: Context, name: str, modality: str) -> bytes:
    """One image with its size, laterality and view (TID 1601, 1602)."""
    source = ctx.sources[name]
    items = [
        tree.number(tree.ACQUIRED, codes.ROWS, str(int(source.Rows)), codes.PIXELS),
        tree.number(tree.ACQUIRED, codes.COLUMNS, str(int(source.Columns)), codes.PIXELS),
    ]
    side = capture.laterality_of(source)
    if side:
        items.append(tree.coded(tree.ACQUIRED, codes.IMAGE_LATERALITY, codes.SIDES[Side(side)]))
    view = _view(source) if modality == "MG" else None
    if view is not None:
        items.append(tree.coded(tree.ACQUIRED, codes.IMAGE_VIEW, view))
    return tree.image(tree.CONTAINS, header.reference(ctx.instances[name]), children=items)


def _view(source: Dataset) -> codes.Code | None:
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


def _groups(ctx: Context) -> list[bytes]:
    """The examination groups of the sides that were analysed, then the regions of this study's images."""
    sides = [s for s in ctx.result.sides if _answered(s)]
    groups = [_examination(ctx, s) for s in sides or ctx.result.sides]
    for number, (_, image) in enumerate(ctx.images, 1):
        if capture.outlined(ctx.result, image) and image.region is not None:
            groups.append(_region(ctx, number, image))
    return groups


def _tracking(ctx: Context, side: SideResult | HeatImage, identifier: str, unique: str) -> list[bytes]:
    """What every group begins with: tracking, finding, site and algorithm (TID 1501, 1410, 4019)."""
    model = ctx.result.model
    laterality = tree.coded(tree.MODIFIED, codes.LATERALITY, codes.SIDES[side.side])
    parameters = [f"{name}: {value:g}" for name, value in ctx.result.thresholds.items()] + [f"engine: {model.engine}"]
    maker = header.own(ctx, ctx.settings.manufacturer, "casework")
    return [
        tree.text(tree.OBSERVED, codes.TRACKING_IDENTIFIER, identifier, ctx.charset),
        tree.uid_reference(tree.OBSERVED, codes.TRACKING_UID, unique),
        tree.coded(tree.CONTAINS, codes.FINDING, codes.AXILLARY_NODE),
        tree.coded(tree.MODIFIED, codes.FINDING_SITE, codes.AXILLA, [laterality]),
        tree.text(tree.MODIFIED, codes.ALGORITHM_NAME, model.name, ctx.charset),
        tree.text(tree.MODIFIED, codes.ALGORITHM_VERSION, model.version, ctx.charset),
        tree.text(tree.MODIFIED, codes.ALGORITHM_MANUFACTURER, maker, ctx.charset),
        *(tree.text(tree.MODIFIED, codes.ALGORITHM_PARAMETERS, p, ctx.charset) for p in parameters),
        tree.coded(tree.MODIFIED, codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE),
    ]


def _examination(ctx: Context, side: SideResult) -> bytes:
    """One side of the case (TID 1501): probability, presence, source images."""
    name = f"{ctx.result.model.name} {side.side.value} axilla"
    items = _tracking(ctx, side, name, uid.tracking_uid(ctx.result, side.side))
    if _answered(side) and side.probability is not None:
        where = _whole(ctx, side)
        items.append(tree.number(tree.CONTAINS, codes.PROBABILITY, percent(side.probability), codes.PERCENT, where))
    items.append(tree.coded(tree.CONTAINS, codes.NODAL_METASTASES, codes.PRESENCE[side.outcome]))
    for image in _images_of(ctx, side):
        pairs = header.reference(ctx.instances[image.sources[0]], image.frame_number)
        items.append(tree.image(tree.CONTAINS, pairs, codes.SOURCE_OF_MEASUREMENT))
    return tree.container(tree.CONTAINS, codes.MEASUREMENT_GROUP, items, "1501")


def _images_of(ctx: Context, side: SideResult) -> list[HeatImage]:
    """The images of a side, this study's first, each source frame once."""
    ordered = [*(i for _, i in ctx.images), *(i for i in ctx.result.images if i.study_instance_uid != ctx.study)]
    unique = {(i.sources[0], i.frame_number): i for i in reversed(ordered) if i.side is side.side}
    return list(reversed(unique.values()))


def _whole(ctx: Context, side: SideResult) -> list[bytes]:
    """The border of the side's main image of this study (else of the case): what the probability is inferred from."""
    images = _images_of(ctx, side)
    if not images:
        return []
    own = [i for i in images if i.study_instance_uid == ctx.study] or images
    main = max(own, key=lambda i: (i.view == "MLO", float(i.heat.max()) if i.heat.size else 0.0))
    source = ctx.sources[main.sources[0]]
    right, bottom = float(source.Columns), float(source.Rows)
    corners = [(0.0, 0.0), (right, 0.0), (right, bottom), (0.0, bottom), (0.0, 0.0)]
    return [tree.outline(tree.INFERRED, corners, header.reference(ctx.instances[main.sources[0]], main.frame_number))]


def _region(ctx: Context, number: int, image: HeatImage) -> bytes:
    """The hottest area of one image (TID 1410), with the heat-map that illustrates it."""
    source = ctx.sources[image.sources[0]]
    name = f"{ctx.result.model.name} {capture.label(image)} hottest area"
    items = _tracking(ctx, image, name, uid.region_tracking_uid(ctx.result, image))
    points = capture.in_source(image, source)
    items.append(
        tree.outline(
            tree.CONTAINS,
            points,
            header.reference(ctx.instances[image.sources[0]], image.frame_number),
            codes.IMAGE_REGION,
        )
    )
    heat_map = (
        ("ReferencedSOPClassUID", uid.SC_CLASS),
        ("ReferencedSOPInstanceUID", uid.instance_uid(ctx.result, ctx.study, "capture", number)),
    )
    items.append(tree.image(tree.CONTAINS, heat_map, codes.ILLUSTRATION))
    return tree.container(tree.CONTAINS, codes.MEASUREMENT_GROUP, items, "1410")


def _evaluations(ctx: Context) -> list[bytes]:
    """Sides that were not analysed as codes, then the whole report in words (TID 1500 rows 10 to 12)."""
    silent = [s for s in ctx.result.sides if not _answered(s)]
    items = [tree.coded(tree.CONTAINS, codes.NODAL_METASTASES, codes.PRESENCE[s.outcome]) for s in silent]
    return [*items, *(tree.text(tree.CONTAINS, codes.COMMENT, line, ctx.charset) for line in words(ctx, ctx.language))]


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
