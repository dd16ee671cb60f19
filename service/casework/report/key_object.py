"""Key Object Selection: the images of one study that the result rests on (PS3.3 A.35.4, TID 2010). Does no I/O."""

from collections.abc import Sequence

from highdicom import sr
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom.dataset import Dataset

from casework.report import capture, codes, content, header, uid
from casework.report.codes import concept
from casework.report.header import Context
from casework.result import HeatImage

KIND = "key-object"
_WORDS = "AI: images of sides that are suspicious or undetermined, with their heat-maps. Not for diagnosis."


def chosen(ctx: Context) -> list[tuple[int, HeatImage]]:
    """(number of its capture, image) of the images with noteworthy evidence on a side that is not negative."""
    sides = capture.outlined_sides(ctx.result)
    numbered = [(n, image) for n, (_, image) in enumerate(ctx.images, 1)]
    return [(n, image) for n, image in numbered if image.side in sides and image.peak is not None]


def build(ctx: Context, number: int, images: Sequence[tuple[int, HeatImage]]) -> Dataset:
    """The selection over the sources and captures of `images`."""
    sop_class, series = uid.EXTRA[KIND]
    ds = header.start(ctx, ctx.common, sop_class, uid.instance_uid(ctx.key, ctx.study, KIND, number))
    header.series(
        ctx,
        ds,
        modality="KO",
        uid=uid.series_uid(ctx.key, ctx.study, KIND),
        number=series,
        description=f"AI {ctx.result.model.name} key images",
        kind=codes.OF_INTEREST,
    )
    ds.InstanceNumber = number
    ds.ReferencedPerformedProcedureStepSequence = []
    captures = uid.series_uid(ctx.key, ctx.study, "capture")
    shown = [header.Instance(ctx.study, captures, uid.SC_CLASS, _capture(ctx, n), 1) for n, _ in images]
    frames = {(i.sources[0], i.frame_number): None for _, i in images}
    named = [(ctx.instances[name], frame) for name, frame in frames] + [(i, 1) for i in shown]
    ds.CurrentRequestedProcedureEvidenceSequence = header.hierarchy(
        ctx, list(dict.fromkeys((i.study, i.series, i.sop_class, i.uid) for i, _ in named))
    )
    items: list[sr.ContentItem] = [*content.observer(ctx)]
    items.append(sr.TextContentItem(concept(codes.KEY_OBJECT_DESCRIPTION), ctx.say(_WORDS), Relation.CONTAINS))
    items += [_image(instance, frame) for instance, frame in named]
    _root(ds, items)
    return ds


def _capture(ctx: Context, number: int) -> str:
    return uid.instance_uid(ctx.key, ctx.study, "capture", number)


def _image(instance: header.Instance, frame: int) -> sr.ImageContentItem:
    frames = [frame] if instance.frames > 1 else None
    item = sr.ImageContentItem(
        concept(codes.SOURCE), instance.sop_class, instance.uid, frames, relationship_type=Relation.CONTAINS
    )
    del item.ConceptNameCodeSequence  # TID 2010 row 8 forbids one
    return item


def _root(ds: Dataset, items: Sequence[sr.ContentItem]) -> None:
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [concept(codes.OF_INTEREST)]
    ds.ContentTemplateSequence = [template := Dataset()]
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    ds.ContentSequence = list(items)
