"""Which further objects a study's result has, beside its report and captures, when a destination asks for them. Does no I/O.

`plan` needs no pixels, so that the report can name all of them while they are still being made.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from pydicom.dataset import Dataset

from casework.report import capture, cine, key_object, parametric_map, presentation, segmentation, slices, space, uid
from casework.report.header import Context, Instance

IMAGES = (cine.KIND, parametric_map.KIND, segmentation.KIND, segmentation.PLANAR, slices.KIND)


@dataclass(frozen=True, slots=True)
class Extra:
    """One object to be made. number: its Instance Number in its series."""

    kind: str
    number: int
    label: str
    build: Callable[[Context, int], Dataset]


def plan(ctx: Context) -> list[Extra]:
    """The objects of the kinds in `ctx.wanted` that this study's result gives."""
    found: dict[str, int] = {}
    planned = []
    for kind, label, build in _possible(ctx):
        if kind in ctx.wanted:
            found[kind] = found.get(kind, 0) + 1
            planned.append(Extra(kind, found[kind], label, build))
    return planned


def instances(ctx: Context) -> list[tuple[str, Instance]]:
    """(kind, reference) of all that is planned."""
    return [
        (
            e.kind,
            Instance(
                ctx.study,
                uid.series_uid(ctx.key, ctx.study, e.kind),
                uid.EXTRA[e.kind][0],
                uid.instance_uid(ctx.key, ctx.study, e.kind, e.number),
                1,
            ),
        )
        for e in plan(ctx)
    ]


def _possible(ctx: Context) -> Iterator[tuple[str, str, Callable[[Context, int], Dataset]]]:
    for frames in cine.groups(ctx):
        yield cine.KIND, f"{frames[0].side.value} US cine", partial(cine.build, images=frames)
    projections = [i for _, i in ctx.images if i.modality == "MR"]
    volume = space.volume(ctx.sources, projections)
    if volume is not None:
        yield parametric_map.KIND, "MR", partial(parametric_map.build, images=projections, found=volume)
        if segmentation.sides_on_slices(ctx.result, projections):
            yield segmentation.KIND, "MR", partial(segmentation.on_slices, images=projections, found=volume)
        if any((p.uid, p.frame) in ctx.result.planes for p in volume.planes):
            yield slices.KIND, "MR slices", partial(slices.build, images=projections, found=volume)
    for _, image in ctx.images:
        label = capture.label(image)
        if image.modality != "MR" and segmentation.possible(ctx, image):
            yield segmentation.PLANAR, label, partial(segmentation.on_image, image=image)
        if presentation.possible(ctx, image):
            yield presentation.KIND, label, partial(presentation.build, image=image)
    chosen = key_object.chosen(ctx)
    if chosen:
        yield key_object.KIND, "key images", partial(key_object.build, images=chosen)
