"""From a result to every object that leaves: SR and captures per study, previews, JSON. Does no I/O."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from pydicom.dataset import Dataset

from casework import config
from casework.errors import Defect
from casework.report import capture, content, document, extras, header, sr, uid
from casework.report.charset import Charset, choose
from casework.report.encode import Shared, to_file
from casework.report.header import PROGRAM_VERSION, Context, instances
from casework.result import CaseResult, HeatImage


@dataclass(frozen=True, slots=True)
class Rendered:
    """One object, as casework.case.Artefact describes it, with its bytes. Previews and underlays carry their capture's UIDs."""

    kind: str  # one of config.OBJECTS, "preview", "underlay" or "result-json"
    media_type: str
    study_instance_uid: str  # "" for the result of the case as a whole
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    label: str
    data: bytes


def render(
    result: CaseResult,
    sources: Mapping[str, Dataset],
    settings: config.Report,
    now: datetime,
    wanted: frozenset[str] = frozenset(),
) -> list[Rendered]:
    """Everything that the result says, as bytes: per study one SR and one series of captures; previews; JSON.

    `sources`: every source of the result's images by SOP Instance UID, without pixels. `now` (aware) becomes the
    content time of all of it. `wanted`: kinds of config.OBJECTS to be made beside SRs and captures, where the result
    gives them. UIDs depend only on the result, the settings, the program and what is wanted.

    Raises:
        Defect: RESULT_SELF_CHECK when a source is missing, or the result does not fit its sources.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="render") as beside:
        images = beside.submit(render_images, result, sources, settings, now, wanted)
        reports = render_reports(result, sources, settings, now, wanted)
        return [*reports, *images.result()]


def render_reports(
    result: CaseResult,
    sources: Mapping[str, Dataset],
    settings: config.Report,
    now: datetime,
    wanted: frozenset[str] = frozenset(),
) -> list[Rendered]:
    """The SRs, one a study: the part of `render` that needs no pixels (see `without_pixels`).

    Built first, then encoded, what they share only once.

    Raises:
        Defect: as `render`.
    """
    shared = Shared()
    with _refusing():
        contexts = _contexts(result, sources, settings, now, shared, wanted)
        kinds = [kind for kind in sr.KINDS if kind == "sr" or kind in wanted]
        built = [(kind, ctx, sr.build(ctx, kind)) for kind in kinds for ctx in contexts]
        shared.freeze()
        return [_object(ctx, kind, "SR", ds) for kind, ctx, ds in built]


def render_images(
    result: CaseResult,
    sources: Mapping[str, Dataset],
    settings: config.Report,
    now: datetime,
    wanted: frozenset[str] = frozenset(),
) -> list[Rendered]:
    """All of `render` but the SRs: captures, their previews and underlays, what else is wanted, the JSON.

    Raises:
        Defect: as `render`.
    """
    with _refusing():
        contexts = [_for_captures(ctx) for ctx in _contexts(result, sources, settings, now, Shared(), wanted)]
        work = [(ctx, number, image) for ctx in contexts for number, (_, image) in enumerate(ctx.images, 1)]
        with ThreadPoolExecutor(2, thread_name_prefix="capture") as threads:
            drawn = list(threads.map(lambda w: _capture(*w), work))
            more = list(threads.map(lambda w: _extra(*w), [(ctx, e) for ctx in contexts for e in extras.plan(ctx)]))
        numbers = {index: number for ctx in contexts for number, (index, _) in enumerate(ctx.images, 1)}
        key = uid.run_key(result, settings, PROGRAM_VERSION, wanted)
        whole = document.to_json(result, key, numbers, now)
    return [
        *(one for kind in zip(*drawn, strict=True) for one in kind),
        *more,
        Rendered("result-json", "application/json", "", "", "", "", "result", whole),
    ]


def without_pixels(result: CaseResult) -> CaseResult:
    """The result as `render_reports` and the check of reports need it: of pictures the shape, of heat-maps the largest value."""
    planes = {at: np.empty(picture.shape, "V0") for at, picture in result.planes.items()}
    return replace(result, images=tuple(_without_pixels(i) for i in result.images), planes=planes)


def _without_pixels(image: HeatImage) -> HeatImage:
    depths = image.depths and replace(image.depths, depth=np.zeros((0, 0), np.int16))
    heat = image.heat.max(keepdims=True) if image.heat.size else image.heat
    return replace(image, picture=np.empty(image.picture.shape, "V0"), heat=heat, depths=depths)


@contextmanager
def _refusing() -> Iterator[None]:
    """A value that can't be written is a result that failed its check."""
    try:
        yield
    except ValueError as error:
        raise Defect("RESULT_SELF_CHECK", str(error)) from error


def _contexts(  # noqa: PLR0917 - what `render` was given
    result: CaseResult,
    sources: Mapping[str, Dataset],
    settings: config.Report,
    now: datetime,
    shared: Shared,
    wanted: frozenset[str],
) -> list[Context]:
    """What the objects of each study share, in the order of the result's images."""
    missing = [u for i in result.images for u in i.sources if u not in sources]
    if missing:
        raise Defect("RESULT_SELF_CHECK", f"source: {len(missing)} images of the result are not at hand")
    blank = Context(
        result,
        settings,
        uid.run_key(result, settings, PROGRAM_VERSION, wanted),
        sources,
        instances(result, sources),
        "",
        Dataset(),
        (),
        Charset(),
        "en",
        now,
        Dataset(),
        Dataset(),
        shared,
        {},
        wanted,
    )
    return [_context(blank, s) for s in _studies(result)]


def _studies(result: CaseResult) -> list[str]:
    return list(dict.fromkeys(i.study_instance_uid for i in result.images))


def _context(blank: Context, study: str) -> Context:
    """What one study's objects share: their reference, character set and the language that it can say."""
    images = tuple((n, i) for n, i in enumerate(blank.result.images) if i.study_instance_uid == study)
    reference = blank.sources[images[0][1].sources[0]]
    settings = blank.settings
    language = settings.language if settings.language in ("en", "zh") else "en"
    ctx = replace(blank, study=study, reference=reference, images=images)
    said = content.words(ctx, language)
    charset = choose(reference, [*said, settings.manufacturer, settings.institution])
    if not all(charset.fits(w) for w in said):
        language = "en"
    ctx = replace(ctx, charset=charset, language=language)
    return replace(ctx, common=header.common(ctx))


def _for_captures(ctx: Context) -> Context:
    """The context with what only captures need."""
    ctx = replace(ctx, lists=capture.made_from(ctx))
    return replace(ctx, captures=capture.common(ctx))


def _capture(ctx: Context, number: int, image: HeatImage) -> tuple[Rendered, Rendered, Rendered]:
    """One capture, its preview, and what the preview shows without heat."""
    picture = capture.draw(ctx.result, image, ctx.sources[image.sources[0]], header.issued(ctx))
    series = uid.series_uid(ctx.key, ctx.study, "capture")
    instance = uid.instance_uid(ctx.key, ctx.study, "capture", number)
    where = (ctx.study, series, uid.SC_CLASS, instance, f"{image.modality} {capture.label(image)}")
    return (
        Rendered("capture", "application/dicom", *where, capture.to_dicom(ctx, number, image, picture)),
        Rendered("preview", "image/png", *where, capture.png(picture)),
        Rendered("underlay", "image/png", *where, capture.underlay(image)),
    )


def _extra(ctx: Context, extra: extras.Extra) -> Rendered:
    return _object(ctx, extra.kind, extra.label, extra.build(ctx, extra.number))


def _object(ctx: Context, kind: str, label: str, ds: Dataset) -> Rendered:
    """One object, encoded."""
    return Rendered(
        kind,
        "application/dicom",
        ctx.study,
        str(ds.SeriesInstanceUID),
        str(ds.SOPClassUID),
        str(ds.SOPInstanceUID),
        label,
        to_file(ds, ctx.charset, f"CASEWORK_{PROGRAM_VERSION}"),
    )
