"""What was asked of a PACS and fetched from it. Reads, never writes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, func, or_, select

from casework.case import CandidateState, OrderState
from casework.ledger.columns import clean
from casework.ledger.schema import case_revision, fetch_candidate, fetch_order, receipt, study
from casework.ledger.types_fetch import CandidateRow, OrderRow

_ORDERS, _CANDIDATES = 20, 500
_UNDER_WAY = (CandidateState.CHOSEN, CandidateState.FETCHING)


def orders_of(connection: Connection, root_ids: Sequence[str], term: str = "") -> list[OrderRow]:
    """Orders of these cases, and those that a person made in these words; newest first."""
    named = select(fetch_candidate.c.order_id).where(
        or_(fetch_candidate.c.study_uid == clean(term), fetch_candidate.c.accession == clean(term))
    )
    which: list[Any] = [fetch_order.c.root_id.in_(list(root_ids))]
    if term:
        of_case = select(case_revision.c.root_id).where(case_revision.c.id == term)
        of_study = select(study.c.root_id).where(or_(study.c.accession == term, study.c.study_uid == term))
        roots = or_(fetch_order.c.root_id.in_(of_case), fetch_order.c.root_id.in_(of_study))
        which += [fetch_order.c.term == clean(term), fetch_order.c.id.in_(named), roots]
    query = select(fetch_order).where(or_(*which)).order_by(fetch_order.c.id.desc()).limit(_ORDERS)
    return [_order(connection, row) for row in connection.execute(query)]


def fetching_since(connection: Connection, case_id: str) -> datetime | None:
    """Since when other studies of a case are to be asked for or fetched, None when nothing is under way.

    A case that no PACS was asked for yet is about to be. A PACS that failed once holds nobody up, and neither do priors.
    """
    case = connection.execute(select(case_revision).where(case_revision.c.id == case_id)).one()
    orders = connection.execute(select(fetch_order).where(fetch_order.c.root_id == case.root_id)).all()
    if not orders:
        return cast("datetime", case.opened_at)
    first = ((OrderState.DUE, 0), (OrderState.ASKING, 1), (CandidateState.CHOSEN, 0), (CandidateState.FETCHING, 1))
    studies = select(fetch_candidate).where(fetch_candidate.c.order_id.in_([row.id for row in orders]))
    since = [row.created_at for row in orders if (row.state, row.attempt) in first and row.asked_at is None]
    since += [
        row.created_at
        for row in connection.execute(studies.where(fetch_candidate.c.state.in_(_UNDER_WAY)))
        if (row.state, row.attempt) in first and row.role != "prior"
    ]
    return min(since, default=None)


def arrived(connection: Connection, study_uid: str, patient_id: str, since: datetime) -> dict[str, int]:
    """Images of a study that came in since then, by verdict; "other_patient" where they name another one."""
    query = select(receipt.c.verdict, receipt.c.patient_id, func.count(receipt.c.sop_uid.distinct()).label("n"))
    query = query.where(receipt.c.study_uid == study_uid, receipt.c.received_at >= since)
    counts: dict[str, int] = {}
    for row in connection.execute(query.group_by(receipt.c.verdict, receipt.c.patient_id)):
        verdict = "other_patient" if patient_id and row.patient_id.strip() != patient_id.strip() else row.verdict
        counts[verdict] = counts.get(verdict, 0) + row.n
    return counts


def states(connection: Connection) -> dict[tuple[str, str], int]:
    """How many candidates there are by destination and state."""
    columns = (fetch_candidate.c.destination, fetch_candidate.c.state)
    query = select(*columns, func.count().label("n")).group_by(*columns)
    return {(row.destination, row.state): row.n for row in connection.execute(query)}


def _order(connection: Connection, row: Any) -> OrderRow:
    named = select(fetch_candidate).where(fetch_candidate.c.order_id == row.id).order_by(fetch_candidate.c.id)
    return OrderRow(
        id=row.id,
        destination=row.destination,
        term=row.term,
        actor=row.actor,
        state=OrderState(row.state),
        code=row.code,
        attempt=row.attempt,
        next_at=row.next_at,
        asked_at=row.asked_at,
        created_at=row.created_at,
        changed_at=row.changed_at,
        candidates=tuple(_candidate(found) for found in connection.execute(named.limit(_CANDIDATES))),
    )


def _candidate(row: Any) -> CandidateRow:
    return CandidateRow(
        id=row.id,
        destination=row.destination,
        study_uid=row.study_uid,
        accession_number=row.accession,
        study_date=row.study_date,
        modalities=row.modalities,
        role=row.role,
        state=CandidateState(row.state),
        code=row.code,
        detail=row.detail,
        attempt=row.attempt,
        counts=row.counts,
        next_at=row.next_at,
        started_at=row.started_at,
        created_at=row.created_at,
        changed_at=row.changed_at,
    )
