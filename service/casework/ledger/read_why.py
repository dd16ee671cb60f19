"""The answer to "why": from one identifier to cases, receipts, associations and the reason a person should read."""

from typing import Any

from sqlalchemy import Connection, func, select

from casework.case import CaseState, JobState, Verdict
from casework.ledger import store_base as base
from casework.ledger.rows import association_row, deliveries_of, findings_of, jobs_of, receipt_row
from casework.ledger.schema import association, case_revision, case_root, instance, receipt, study
from casework.ledger.store_cases import studies_of
from casework.ledger.types import CaseRow, ReceiptRow, Why, WhyCase

_CASES, _RECEIPTS, _ASSOCIATIONS = 20, 200, 50

# Without a stored reason, the state itself says what is going on.
_BY_STATE = {
    CaseState.RECEIVING: "QUIET_TIME",
    CaseState.STABLE: "QUEUED",
    CaseState.QUEUED: "QUEUED",
    CaseState.RUNNING: "RUNNING",
    CaseState.RENDERED: "DELIVERING",
    CaseState.DELIVERING: "DELIVERING",
    CaseState.DELIVERED: "DELIVERED",
    CaseState.REJECTED: "NO_USABLE_IMAGE",
    CaseState.NEEDS_ATTENTION: "INTERNAL",
    CaseState.SUPERSEDED: "SUPERSEDED",
    CaseState.CLOSED: "CANCELLED",
}


def answer(connection: Connection, query: str) -> Why:
    """Search the identifier as case id, accession number, study UID, SOP Instance UID and Patient ID, in this order."""
    searches = (
        ("case", case_revision.c.id == query, None),
        ("accession", _in_study(study.c.accession == query), receipt.c.accession == query),
        ("study", _in_study(study.c.study_uid == query), receipt.c.study_uid == query),
        ("instance", _in_instance(query), receipt.c.sop_uid == query),
        ("patient", case_root.c.patient_id == query, receipt.c.patient_id == query),
    )
    for kind, about_case, about_receipt in searches if query else ():
        found = base.case_columns().where(about_case).order_by(case_revision.c.no.desc()).limit(_CASES)
        cases = [base.case_row(row) for row in connection.execute(found)]
        if about_receipt is None:
            about_receipt = receipt.c.root_id.in_([case.root_id for case in cases])  # noqa: PLW2901 - fills the gap above
        receipts, counts = _receipts(connection, about_receipt)
        if cases or receipts:
            return _why(connection, query, kind, cases, receipts, counts)
    return Why(query, "", (), (), {}, (), "NOT_FOUND")


def _in_study(condition: Any) -> Any:
    return case_revision.c.root_id.in_(select(study.c.root_id).where(condition))


def _in_instance(sop_uid: str) -> Any:
    return case_revision.c.root_id.in_(select(instance.c.root_id).where(instance.c.sop_uid == sop_uid))


def _receipts(connection: Connection, condition: Any) -> tuple[list[ReceiptRow], dict[str, int]]:
    """Newest receipts, those that did not end well first, and how many there are by verdict."""
    counted = select(receipt.c.verdict, func.count().label("n")).where(condition).group_by(receipt.c.verdict)
    counts = {row.verdict: row.n for row in connection.execute(counted)}
    smooth = receipt.c.verdict.in_([Verdict.ACCEPTED, Verdict.DUPLICATE])
    query = select(receipt).where(condition).order_by(smooth, receipt.c.id.desc()).limit(_RECEIPTS)
    return [receipt_row(row) for row in connection.execute(query)], counts


def _why(  # noqa: PLR0917 - one caller, above
    connection: Connection,
    query: str,
    kind: str,
    cases: list[CaseRow],
    receipts: list[ReceiptRow],
    counts: dict[str, int],
) -> Why:
    ids = sorted({row.association_id for row in receipts})
    log = select(association).where(association.c.id.in_(ids)).order_by(association.c.opened_at.desc())
    told = tuple(_why_case(connection, case) for case in cases)
    refused = next((row.code for row in receipts if row.verdict in (Verdict.REFUSED, Verdict.KEPT_ASIDE)), "")
    return Why(
        query=query,
        matched_by=kind,
        cases=told,
        receipts=tuple(receipts),
        receipt_counts=counts,
        associations=tuple(association_row(row) for row in connection.execute(log.limit(_ASSOCIATIONS))),
        next_code=told[0].code if told else refused or "NOT_FOUND",
    )


def _why_case(connection: Connection, case: CaseRow) -> WhyCase:
    jobs, deliveries = jobs_of(connection, case.id), deliveries_of(connection, case.id)
    due = [job.next_at for job in jobs if job.state is JobState.RETRY_WAIT and job.next_at]
    due += [row.next_at for row in deliveries if row.next_at]
    due += [case.waiting_until] if case.waiting_until else []
    return WhyCase(
        case=case,
        studies=tuple(studies_of(connection, case)),
        jobs=tuple(jobs),
        deliveries=tuple(deliveries),
        findings=tuple(findings_of(connection, case.id)),
        code=case.reason or _BY_STATE[case.state],
        waiting_until=min(due, default=None),
    )
