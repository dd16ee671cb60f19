"""The structured report of one study as an object: Comprehensive 3D SR around the tree of content.py. Does no I/O.

The same tree as Comprehensive SR is for a destination that refuses the newer class; everything in it is two-dimensional,
which both classes allow. Each of them refers to the other studies' reports of its own class.
"""

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from casework.report import codes, content, extras, header, uid
from casework.report.header import Context

KINDS = {"sr": (uid.SR_CLASS, uid.SR_SERIES_NUMBER), "sr-comprehensive": uid.EXTRA["sr-comprehensive"]}


def build(ctx: Context, kind: str = "sr") -> Dataset:
    """The report as a data set, its content tree made of highdicom's items. kind: one of KINDS."""
    sop_class, number = KINDS[kind]
    ds = header.start(ctx, ctx.common, sop_class, uid.instance_uid(ctx.key, ctx.study, kind, 1))
    header.series(
        ctx,
        ds,
        modality="SR",
        uid=uid.series_uid(ctx.key, ctx.study, kind),
        number=number,
        description=f"AI {ctx.result.model.name} axillary node report",
        kind=codes.REPORT_TITLE,
    )
    document(ctx, ds, codes.PROCEDURES[content.main_modality(ctx)])
    _evidence(ctx, ds, kind)
    ds.update(content.tree(ctx, _made(ctx)))
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
        ds.PredecessorDocumentsSequence = header.hierarchy(ctx, older)


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


def _evidence(ctx: Context, ds: Dataset, kind: str) -> None:
    """Every object that the tree names: this study's as current, the case's other studies' as pertinent evidence."""
    current = [_quadruple(ctx, u) for u in content.used(i for _, i in ctx.images)]
    captures = uid.series_uid(ctx.key, ctx.study, "capture")
    for number in range(1, len(ctx.images) + 1):
        current.append((ctx.study, captures, uid.SC_CLASS, uid.instance_uid(ctx.key, ctx.study, "capture", number)))
    current += [(i.study, i.series, i.sop_class, i.uid) for _, i in extras.instances(ctx)]
    ds.CurrentRequestedProcedureEvidenceSequence = header.hierarchy(ctx, current)
    elsewhere = [i for i in ctx.result.images if i.study_instance_uid != ctx.study]
    other = [_quadruple(ctx, u) for u in content.used(elsewhere)]
    for study in dict.fromkeys(i.study_instance_uid for i in elsewhere):
        series_uid = uid.series_uid(ctx.key, study, kind)
        other.append((study, series_uid, KINDS[kind][0], uid.instance_uid(ctx.key, study, kind, 1)))
    if other:
        ds.PertinentOtherEvidenceSequence = header.hierarchy(ctx, other)


def _made(ctx: Context) -> list[header.Instance]:
    """The images that were made for this study: the report is the root that leads to all of them (IHE AIR)."""
    captures = uid.series_uid(ctx.key, ctx.study, "capture")
    names = [uid.instance_uid(ctx.key, ctx.study, "capture", n) for n in range(1, len(ctx.images) + 1)]
    made = [header.Instance(ctx.study, captures, uid.SC_CLASS, name, 1) for name in names]
    return made + [i for kind, i in extras.instances(ctx) if kind in extras.IMAGES]


def _quadruple(ctx: Context, name: str) -> tuple[str, str, str, str]:
    source = ctx.instances[name]
    return (source.study, source.series, source.sop_class, source.uid)
