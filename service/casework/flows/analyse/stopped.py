"""What is said of studies that were not analysed: which ones are told, by which header, and the stored verdict. No I/O.

A study is told when it is a breast study or does not say what it shows: whoever routed it here expects an answer, and no
answer reads as a negative one. A study that names another part of the body (the same patient's thyroid, within the
case's window of days), or that has none of the kinds of image that are analysed, is left alone.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from pydicom.dataset import Dataset

from casework.anatomy import names_breast
from casework.engine import readout
from casework.errors import Refused
from casework.ledger import CaseRow, InstanceRow
from casework.modelspec import SLOTS
from casework.preprocess.facts import InstanceFacts
from casework.report import Instance, Silent
from casework.result import CaseResult, Finding, ModelIdentity, Outcome, SideResult


def stopped_result(
    case: CaseRow,
    why: Sequence[str],
    findings: Sequence[Finding],
    *,
    model: ModelIdentity,
    digest: str,
    predecessors: tuple[tuple[str, str, str, str], ...],
) -> CaseResult:
    """A result that says of both sides that they were not analysed."""
    return CaseResult(
        case_id=case.root_id,
        revision=case.revision,
        model=model,
        sides=tuple(SideResult(s, Outcome.INSUFFICIENT, None, {}, ()) for s in readout.SIDES),
        images=(),
        findings=tuple(findings),
        input_digest=digest,
        thresholds={},
        stopped=tuple(why),
        predecessors=predecessors,
    )


def silent_studies(
    rows: Sequence[InstanceRow],
    facts: Mapping[str, InstanceFacts],
    header: Callable[[InstanceRow], Dataset],
    told: Collection[str] = (),
) -> tuple[Silent, ...]:
    """The studies of these instances that have to be told, but for those in `told`, which have a report."""
    studies: dict[str, list[InstanceRow]] = {}
    for row in rows:
        if row.header.modality in SLOTS:
            studies.setdefault(row.header.study_instance_uid, []).append(row)
    found = []
    for study, members in sorted(studies.items()):
        if study in told or not _expects_an_answer(members, facts):
            continue
        reference = _first_header(members, header)
        if reference is not None:
            modality = Counter(r.header.modality for r in members).most_common(1)[0][0]
            found.append(Silent(study, modality, reference, tuple(_instance(r) for r in members)))
    return tuple(found)


def _expects_an_answer(rows: Sequence[InstanceRow], facts: Mapping[str, InstanceFacts]) -> bool:
    shown = [facts[uid].breast if (uid := r.header.sop_instance_uid) in facts else None for r in rows]
    said = (r.header.attributes.get(k, "") for r in rows for k in ("StudyDescription", "SeriesDescription"))
    if any(map(names_breast, said)):  # the part of the body may be a preset that nobody changed
        return True
    return True in shown or any(r.header.modality == "MG" for r in rows) or False not in shown


def _first_header(rows: Sequence[InstanceRow], header: Callable[[InstanceRow], Dataset]) -> Dataset | None:
    for row in rows:
        try:
            return header(row)
        except Refused:
            continue
    return None


def _instance(row: InstanceRow) -> Instance:
    of = row.header
    return Instance(of.study_instance_uid, of.series_instance_uid, of.sop_class_uid, of.sop_instance_uid, 1)
