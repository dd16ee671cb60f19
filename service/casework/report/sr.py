"""The structured report of one study as an object: Comprehensive 3D SR around the tree of content.py. Does no I/O."""

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from casework.report import codes, content, header, uid
from casework.report.charset import Charset
from casework.report.header import Context


def build(ctx: Context) -> Dataset:
    """The report as a data set, its content tree made of highdicom's items."""
    ds = header.start(ctx, ctx.common, uid.SR_CLASS, uid.instance_uid(ctx.key, ctx.study, "sr", 1))
    header.series(
        ctx,
        ds,
        modality="SR",
        uid=uid.series_uid(ctx.key, ctx.study, "sr"),
        number=uid.SR_SERIES_NUMBER,
        description=f"AI {ctx.result.model.name} axillary node report",
        kind=codes.REPORT_TITLE,
    )
    document(ctx, ds, codes.PROCEDURES[content.main_modality(ctx)])
    _evidence(ctx, ds)
    ds.update(content.tree(ctx))
    return ds


def document(ctx: Context, ds: Dataset, procedure: Code) -> None:
    """SR Document General and Series (PS3.3 C.17.1, C.17.2): complete, preliminary, verified by nobody."""
    ds.InstanceNumber = 1
    ds.CompletionFlag, ds.PreliminaryFlag, ds.VerificationFlag = "COMPLETE", "PRELIMINARY", "UNVERIFIED"
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.PerformedProcedureCodeSequence = [codes.concept(procedure)]
    if ctx.reference.get("AccessionNumber"):
        ds.ReferencedRequestSequence = [_request(ctx)]
    older = [p for p in ctx.result.predecessors if p[0] == ctx.study]
    if older:
        ds.PredecessorDocumentsSequence = hierarchy(ctx, older)


def _request(ctx: Context) -> Dataset:
    """The order that the study answers, as far as the images tell."""
    ds = Dataset()
    ds.StudyInstanceUID = ctx.study
    for keyword in (
        "ReferencedStudySequence",
        "PlacerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequest",
        "RequestedProcedureID",
        "RequestedProcedureDescription",
        "RequestedProcedureCodeSequence",
    ):
        setattr(ds, keyword, None)
    header.carry(ds, ctx.charset, ctx.reference, "AccessionNumber")
    header.carry(ds, ctx.charset, ctx.reference, "IssuerOfAccessionNumberSequence")
    requests = ctx.reference.get("RequestAttributesSequence")
    for keyword in ("RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedureCodeSequence"):
        if requests:
            header.carry(ds, ctx.charset, requests[0], keyword)
    return ds


def _evidence(ctx: Context, ds: Dataset) -> None:
    """Every object that the tree names: this study's as current, the case's other studies' as pertinent evidence."""
    current = [_quadruple(ctx, u) for u in content.used(i for _, i in ctx.images)]
    captures = uid.series_uid(ctx.key, ctx.study, "capture")
    for number in range(1, len(ctx.images) + 1):
        current.append((ctx.study, captures, uid.SC_CLASS, uid.instance_uid(ctx.key, ctx.study, "capture", number)))
    ds.CurrentRequestedProcedureEvidenceSequence = hierarchy(ctx, current)
    elsewhere = [i for i in ctx.result.images if i.study_instance_uid != ctx.study]
    other = [_quadruple(ctx, u) for u in content.used(elsewhere)]
    for study in dict.fromkeys(i.study_instance_uid for i in elsewhere):
        series_uid = uid.series_uid(ctx.key, study, "sr")
        other.append((study, series_uid, uid.SR_CLASS, uid.instance_uid(ctx.key, study, "sr", 1)))
    if other:
        ds.PertinentOtherEvidenceSequence = hierarchy(ctx, other)


def _quadruple(ctx: Context, name: str) -> tuple[str, str, str, str]:
    source = ctx.instances[name]
    return (source.study, source.series, source.sop_class, source.uid)


def hierarchy(ctx: Context, instances: Sequence[tuple[str, str, str, str]]) -> list[Dataset]:
    """References by study and series (PS3.3 10.3 Hierarchical SOP Instance Reference)."""
    studies: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for study, series_uid, sop_class, instance in instances:
        studies.setdefault(study, {}).setdefault(series_uid, []).append((sop_class, instance))
    items = []
    for study, series in studies.items():
        item = Dataset()
        item.StudyInstanceUID = study
        item.ReferencedSeriesSequence = [_series(ctx, name, tuple(found)) for name, found in series.items()]
        items.append(item)
    return items


def _series(ctx: Context, series_uid: str, instances: tuple[tuple[str, str], ...]) -> Dataset:
    """One series with its instances: the same item in all reports of the case."""

    def make() -> list[Dataset]:
        item = Dataset()
        item.SeriesInstanceUID = series_uid
        item.ReferencedSOPSequence = [
            header.reference(header.Instance("", series_uid, sop_class, name, 1)) for sop_class, name in instances
        ]
        return [item]

    return ctx.shared.once((series_uid, instances), make, Charset())[0]
