"""Self-check of "AI not performed" documents: read back, and compared with the studies and reasons they came from.

Written apart from what builds them: codes and expectations are this check's own. Does no I/O.
"""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from casework.errors import Defect
from casework.report import check_codes, check_header, check_sr
from casework.report.check_header import need
from casework.report.not_performed import Silent
from casework.report.rendering import Rendered
from casework.result import CaseResult

_SR = ("1.2.840.10008.5.1.4.1.1.88.11", "SR", 9009)
_OWN = "99CASEWORK"
_PAGE = ("1.2.840.10008.5.1.4.1.1.7", "OT", 9011)
_ALLOWED = frozenset({"CONTAINER", "CODE", "TEXT", "UIDREF", "IMAGE", "PNAME"})
_NEVER = frozenset(
    {"111301", "111047", "122157", "68171009", "52101004", "272519000"}
)  # presence, probability, node, present, absent


def check_not_performed(
    rendered: Sequence[Rendered], result: CaseResult, studies: Sequence[Silent], *, pages: bool = False
) -> None:
    """Compare every document, and with `pages` every page, with its study.

    Raises:
        Defect: RESULT_SELF_CHECK, its detail naming the rule.
    """
    by_study = {s.study: s for s in studies}
    kinds = ("not-performed", "not-performed-page") if pages else ("not-performed",)
    made = [(r.study_instance_uid, r.kind) for r in rendered]
    need(sorted(made) == sorted((s, k) for s in by_study for k in kinds), "count", "documents")
    uids = [r.sop_instance_uid for r in rendered]
    need(len(uids) == len(set(uids)), "uid", "SOP Instance UID used twice")
    for item in rendered:
        try:
            ds, silent = dcmread(BytesIO(item.data)), by_study[item.study_instance_uid]
            (_document if item.kind == "not-performed" else _page)(ds, item, silent, result)
            check_codes.check(item.data, silent.reference, {_OWN: _meanings(result.stopped)})
        except (InvalidDicomError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise Defect("RESULT_SELF_CHECK", f"file: {type(error).__name__} [{item.kind}]") from error


def _meanings(why: tuple[str, ...]) -> dict[str, str]:
    """The meaning of each reason's code: its own letters as words."""
    return {code: code[0] + code[1:].lower().replace("_", " ") for code in why}


def _frame(ds: Dataset, item: Rendered, silent: Silent, why: tuple[str, ...], kind: tuple[str, str, int]) -> None:
    """What both kinds have in common: identity, series, header. kind: SOP class, Modality, Series Number."""
    meta = ds.file_meta
    need(bool(why), "answer", "no reason")
    need(str(ds.SOPClassUID) == kind[0] == item.sop_class_uid == meta.MediaStorageSOPClassUID, "uid", "SOP class")
    need(str(ds.SOPInstanceUID) == item.sop_instance_uid == meta.MediaStorageSOPInstanceUID, "uid", "SOP instance")
    need(str(ds.StudyInstanceUID) == item.study_instance_uid == silent.study, "study", "Study Instance UID")
    need(str(ds.SeriesInstanceUID) == item.series_instance_uid, "series", "Series Instance UID")
    need((ds.Modality, ds.SeriesNumber, ds.InstanceNumber) == (*kind[1:], 1), "series", "number")
    need(ds.SeriesInstanceUID not in {i.series for i in silent.instances}, "series", "a source's Series Instance UID")
    need(str(ds.SeriesDescription).startswith(f"AI NOT PERFORMED: {why[0]}"[:64]), "series", "description")
    check_header.check(ds, silent.reference)


def _page(ds: Dataset, item: Rendered, silent: Silent, result: CaseResult) -> None:
    """The words that are drawn stand in Image Comments too; the picture is whole and has something on it."""
    _frame(ds, item, silent, result.stopped, _PAGE)
    _words([str(ds.ImageComments)], result.stopped)
    made_from = {"SourceImageSequence", "AnatomicRegionSequence", "ViewCodeSequence"}
    need(not any(keyword in ds for keyword in made_from), "references", "made from no image")
    own = {(i.series, i.sop_class, i.uid) for i in silent.instances}
    about = {(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in ds.ReferencedImageSequence}
    listed = {
        (s.SeriesInstanceUID, i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID)
        for s in ds.ReferencedSeriesSequence
        for i in s.ReferencedInstanceSequence
    }
    need(bool(about) and listed <= own and about == {i[1:] for i in listed}, "references", "not the study's images")
    need("StudiesContainingOtherReferencedInstancesSequence" not in ds, "references", "another study")
    need((ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.BitsAllocated) == ("RGB", 3, 8), "page", "not RGB")
    need(len(ds.PixelData) == ds.Rows * ds.Columns * 3 and any(ds.PixelData), "page", "pixels")
    need(ds.BurnedInAnnotation == "NO", "page", "annotation")


def _document(ds: Dataset, item: Rendered, silent: Silent, result: CaseResult) -> None:
    why = result.stopped
    _frame(ds, item, silent, why, _SR)
    check_sr.flags(ds)
    older = tuple(p for p in result.predecessors if p[3] != item.sop_instance_uid)
    check_sr.predecessors(ds, replace(result, predecessors=older))
    items = list(check_sr.walk(ds))
    need(all(i.ValueType in _ALLOWED and "ConceptNameCodeSequence" in i for i in items), "sr tree", "value type")
    _references(ds, items, silent)
    _answer(ds, items, why)
    need(any(check_sr.name(i) == "121012" and result.model.device_uid == i.UID for i in items), "origin", "device")


def _references(ds: Dataset, items: Sequence[Dataset], silent: Silent) -> None:
    """Nothing of another study is named: it may be of another person."""
    own = {(silent.study, i.series, i.sop_class, i.uid) for i in silent.instances}
    listed = set(check_sr.listed(ds, "CurrentRequestedProcedureEvidenceSequence"))
    need(bool(listed) and listed <= own, "references", "an object of another study")
    need("PertinentOtherEvidenceSequence" not in ds, "references", "another study")
    named = {e[3] for e in listed}
    used = [str(r.ReferencedSOPInstanceUID) for i in items for r in i.get("ReferencedSOPSequence", [])]
    need(set(used) <= named, "references", "an object that is not in the evidence")


def _answer(ds: Dataset, items: Sequence[Dataset], why: tuple[str, ...]) -> None:
    """The status is "not attempted", with every reason as a code and in words, and nothing reads as a result."""
    coded = [(check_sr.name(i), _value(i.ConceptCodeSequence[0])) for i in items if i.ValueType == "CODE"]
    need(check_sr.name(ds) == "18748-4" and coded.count(("121077", "111225")) == 1, "answer", "status")
    need(not any(part in _NEVER for pair in coded for part in pair), "answer", "reads as a result")
    own = [i.ConceptCodeSequence[0] for i in items if i.ValueType == "CODE" and check_sr.name(i) == "121071"]
    need(tuple(map(_value, own)) == why, "answer", "reasons")
    meant = {_value(c): (c.CodingSchemeDesignator, c.CodeMeaning) for c in own}  # long ones are no Code Value
    need(meant == {code: (_OWN, words) for code, words in _meanings(why).items()}, "code", "not its meaning")
    _words([str(i.TextValue) for i in items if i.ValueType == "TEXT"], why)


def _words(said: Sequence[str], why: tuple[str, ...]) -> None:
    """Every reason in words, nothing damaged, and that it is no negative."""
    need(all(t.strip() and "\ufffd" not in t and "\x1b" not in t for t in said), "charset", "content tree")
    need(all(any(f"[{code}]" in t for t in said) for code in why), "answer", "a reason without words")
    negated = ("not a negative result", "不是阴性结果")
    need(any(words in t for t in said for words in negated), "answer", "may be read as negative")


def _value(code: Dataset) -> str:
    """A code's value; more than 16 characters are a long one (PS3.3 8.1)."""
    return str(code.get("CodeValue") or code.get("LongCodeValue") or "")
