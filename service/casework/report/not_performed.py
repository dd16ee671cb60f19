"""The "AI not performed" document: what a study gets when it was not analysed, so that silence is never read as negative.

A Basic Text SR of TID 2000, not TID 1500: it has nothing to measure, and viewers leave an Imaging Measurement Report
without regions blank, while they show every other report as the text that it is. Its conclusion is coded (111225, DCM,
"Not Attempted"), CID 6042; the reasons are codes of the service's own scheme, with words beside them. It names only objects
of its own study: a case may be stopped because its studies are of different people.
Does no I/O.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from highdicom import sr
from highdicom.sr import RelationshipTypeValues as Relation
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from casework import config
from casework.case import derive_uid
from casework.errors import Defect
from casework.report import codes, content, document, header, not_performed_page, texts, uid
from casework.report import sr as report
from casework.report.charset import choose
from casework.report.codes import concept
from casework.report.describe import stopped_sections
from casework.report.encode import Shared, to_file
from casework.report.header import PROGRAM_VERSION, Context, Instance
from casework.report.rendering import Rendered
from casework.result import CaseResult, Finding

KIND = "not-performed"
_SHOWN = 20  # images that are named as the cause


@dataclass(frozen=True, slots=True)
class Silent:
    """One study that is told about: a header that names it, without pixels, and all instances that came of it."""

    study: str
    modality: str
    reference: Dataset
    instances: tuple[Instance, ...]


def render_not_performed(
    result: CaseResult, studies: Sequence[Silent], settings: config.Report, now: datetime, *, pages: bool = False
) -> list[Rendered]:
    """One document for each study, and with `pages` the same as a picture.

    result: `stopped` says why; of its findings those about a study's images, or about none, are said; its images are not
    looked at.

    Raises:
        Defect: RESULT_SELF_CHECK when a study's text can't be written.
    """
    try:
        return [made for one in studies for made in _render(result, one, settings, now, pages=pages)]
    except ValueError as error:
        raise Defect("RESULT_SELF_CHECK", str(error)) from error


def _render(
    result: CaseResult, silent: Silent, settings: config.Report, now: datetime, *, pages: bool
) -> list[Rendered]:
    own = replace(result, findings=_of_study(result.findings, silent), images=())
    ctx = _context(own, silent, settings, now)
    found = [_document(ctx, silent)]
    if pages:
        causes = [i.uid for i in _causes(own, silent)]
        found.append(not_performed_page.render(ctx, causes or [i.uid for i in silent.instances[:_SHOWN]]))
    return found


def _document(ctx: Context, silent: Silent) -> Rendered:
    own, why = ctx.result, ctx.result.stopped
    name = uid.instance_uid(ctx.key, ctx.study, KIND, 1)
    older = tuple(p for p in own.predecessors if p[3] != name)  # the same verdict again is the same document
    ctx = replace(ctx, result=replace(own, predecessors=older))
    ds = header.silent_object(ctx, KIND, uid.TEXT_CLASS, modality="SR", number=uid.NOT_PERFORMED_SERIES_NUMBER)
    report.document(ctx, ds, codes.PROCEDURES[silent.modality])
    ds.CodingSchemeIdentificationSequence = [_scheme()]
    ds.CurrentRequestedProcedureEvidenceSequence = header.hierarchy(
        ctx, [(silent.study, i.series, i.sop_class, i.uid) for i in silent.instances]
    )
    ds.update(_tree(ctx, silent))
    return Rendered(
        KIND,
        "application/dicom",
        ctx.study,
        str(ds.SeriesInstanceUID),
        uid.TEXT_CLASS,
        str(ds.SOPInstanceUID),
        f"AI not performed: {why[0]}",
        to_file(ds, ctx.charset, f"CASEWORK_{PROGRAM_VERSION}"),
    )


def _of_study(findings: Sequence[Finding], silent: Silent) -> tuple[Finding, ...]:
    """What is said of this study or of none. Another one's identifiers may be another person's."""
    own = {silent.study, *(i.uid for i in silent.instances), *(i.series for i in silent.instances)}
    return tuple(f for f in findings if len(f.subject) <= 16 or f.subject in own)


def _causes(result: CaseResult, silent: Silent) -> list[Instance]:
    """The study's images that a finding names, but for so many that nobody reads them."""
    about = {f.subject for f in result.findings}
    return [i for i in silent.instances if i.uid in about][:_SHOWN]


def _context(result: CaseResult, silent: Silent, settings: config.Report, now: datetime) -> Context:
    """What the header's functions need, in a language that the study's character set can say."""
    said = "|".join([*result.stopped, *(f"{f.code} {f.subject}" for f in result.findings)])
    key = f"{uid.run_key(result, settings, PROGRAM_VERSION)}|{hashlib.sha256(said.encode()).hexdigest()}"
    language = settings.language if settings.language in texts.LANGUAGES else "en"
    all_words = [w for lines in stopped_sections(result, language).values() for w in lines]
    charset = choose(silent.reference, [*all_words, settings.manufacturer, settings.institution])
    if not all(charset.fits(w) for w in all_words):
        language = "en"
    ctx = Context(
        result=result,
        settings=settings,
        key=key,
        sources={},
        instances={i.uid: i for i in silent.instances},
        study=silent.study,
        reference=silent.reference,
        images=(),
        charset=charset,
        language=language,
        now=now,
        common=Dataset(),
        captures=Dataset(),
        shared=Shared(),
        lists={},
    )
    return replace(ctx, common=header.common(ctx))


def _tree(ctx: Context, silent: Silent) -> Dataset:
    """The root of the content tree with all its children."""
    words = stopped_sections(ctx.result, ctx.language)
    status = sr.CodeContentItem(concept(codes.CONCLUSION), concept(codes.NOT_ATTEMPTED), Relation.CONTAINS)
    coded = [
        sr.CodeContentItem(concept(codes.FINDING), concept(_coded(code)), Relation.CONTAINS)
        for code in ctx.result.stopped
    ]
    sections = (
        (codes.IMPRESSIONS, [status, *_said(ctx, codes.IMPRESSION, words["impression"])]),
        (
            codes.FINDINGS,
            [*coded, *_said(ctx, codes.FINDING, words["finding"]), *map(_pictured, _causes(ctx.result, silent))],
        ),
        (codes.RECOMMENDATIONS, _said(ctx, codes.RECOMMENDATION, words["recommendation"])),
        (codes.PROCEDURES_DONE, _said(ctx, codes.DESCRIPTION, words["comment"])),
    )
    procedure = sr.CodeContentItem(
        concept(codes.REPORTED), concept(codes.PROCEDURES[silent.modality]), Relation.HAS_CONCEPT_MOD
    )
    language = sr.LanguageOfContentItemAndDescendants(concept(codes.LANGUAGES[ctx.language]))
    observer = sr.ObservationContext(observer_device_context=content.observer(ctx))
    root = sr.ContainerContentItem(concept(codes.REPORT), template_id="2000")
    root.ContentSequence = sr.ContentSequence(
        [procedure, *language, *observer, *(content.container(name, items) for name, items in sections)]
    )
    content.separate(root)
    return root


def _said(ctx: Context, name: Code, lines: Sequence[str]) -> list[sr.ContentItem]:
    return [sr.TextContentItem(concept(name), ctx.say(line), Relation.CONTAINS) for line in lines]


def _pictured(image: Instance) -> sr.ImageContentItem:
    """An image that is a cause."""
    return sr.ImageContentItem(
        concept(codes.FINDING_SHOWN), image.sop_class, image.uid, relationship_type=Relation.CONTAINS
    )


def _coded(code: str) -> Code:
    """A reason as a code of the service's own scheme; its words stand beside it, in the report's language."""
    return Code(code, codes.OWN_SCHEME, code.replace("_", " ").capitalize())


def _scheme() -> Dataset:
    """Who is responsible for the codes (PS3.3 C.12.1)."""
    item = Dataset()
    item.CodingSchemeDesignator = codes.OWN_SCHEME
    item.CodingSchemeUID = derive_uid("coding scheme", codes.OWN_SCHEME)
    item.CodingSchemeName = "casework reason codes"
    item.CodingSchemeResponsibleOrganization = "casework"
    return item


def verdict_json(result: CaseResult, rendered: Sequence[Rendered], now: datetime) -> dict[str, object]:
    """The verdict as a document of the result's schema, with the documents that say so."""
    whole: dict[str, object] = json.loads(document.to_json(result, "", {}, now))
    return whole | {"not_performed": listed(rendered)}


def listed(rendered: Sequence[Rendered]) -> list[dict[str, str]]:
    """The documents for programs."""
    keys = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
    return [{key: str(getattr(one, key)) for key in keys} for one in rendered if one.kind == KIND]
