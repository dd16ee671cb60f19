"""What all writers share: moving a case, a job or a delivery with its audit row. Rules in casework.case, no others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, Update, and_, bindparam, exists, insert, select, update

from casework.case import (
    ANALYSE,
    CASE_MOVES,
    DELIVERY_MOVES,
    JOB_MOVES,
    STOPPING,
    TELL,
    TOLD,
    CaseState,
    DeliveryState,
    JobState,
)
from casework.errors import Defect, Refused
from casework.ledger.columns import clean
from casework.ledger.database import Database, Tx
from casework.ledger.schema import (
    case_input,
    case_revision,
    case_root,
    delivery,
    doubt,
    exclusion,
    finding,
    instance,
    job,
)
from casework.ledger.types import CaseRow, FindingLike
from casework.reasons import reason as known_reason

_DETAIL_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Noted:
    """A finding of the ledger's own."""

    code: str
    subject: str
    detail: str


class Store:
    """The state that every part of the facade needs."""

    _database: Database
    _window_days: int
    _max_attempts: int


def words(detail: str) -> str:
    """Bound and clean free words before they are stored."""
    return clean(detail)[:_DETAIL_CHARACTERS]


def _legal(kind: str, moves: Mapping[Any, frozenset[Any]], from_: Any, to: Any) -> None:
    if to not in moves[from_]:
        raise Defect("ILLEGAL_MOVE", f"{kind} {from_} -> {to}")


def _conditional(tx: Tx, table: Table, key: Any, from_: str, values: Mapping[str, Any]) -> bool:
    """Update one row if it still is in `from_`; False when somebody was faster."""
    changes = {"changed_at": tx.now, **values}
    to = {"its_id": key, "its_state": from_, **{f"to_{name}": value for name, value in changes.items()}}
    return tx.connection.execute(_update_of(table, tuple(changes)), to).rowcount == 1


@cache
def _update_of(table: Table, columns: tuple[str, ...]) -> Update:
    """Built once for each set of columns: building cost a job's end more than the database did."""
    where = (table.c.id == bindparam("its_id")) & (table.c.state == bindparam("its_state"))
    return update(table).where(where).values({n: bindparam(f"to_{n}", type_=table.c[n].type) for n in columns})


def move_case(
    tx: Tx, case_id: str, from_: CaseState, to: CaseState, *, code: str, actor: str, detail: str = "", **values: Any
) -> bool:
    """Move a case; extra `values` are columns that change with it. False: it is not in `from_` (any more)."""
    _legal("case", CASE_MOVES, from_, to)
    if code:
        known_reason(code)
    changes = {"state": to, "reason": code, "detail": words(detail), **values}
    if from_ is CaseState.RECEIVING:  # `waiting_since` stays: what was waited out once is not waited for again
        changes |= {"waiting_for": "", "waiting_until": None}
    if not _conditional(tx, case_revision, case_id, from_, changes):
        return False
    audited = {"from": from_, "to": to, "code": code, "detail": words(detail)}
    tx.audit("case.moved", actor, case_id, **audited)
    if from_ in TOLD:  # what was to be told is over
        cancel_jobs(tx, case_id, actor, TELL)
    return True


def cancel_jobs(tx: Tx, case_id: str, actor: str, *kinds: str) -> None:
    """Cancel a case's jobs of these kinds that wait."""
    waiting = (job.c.case_id == case_id) & job.c.state.in_([JobState.READY, JobState.RETRY_WAIT])
    for row in tx.connection.execute(select(job).where(waiting, job.c.kind.in_(kinds))).all():
        move_job(tx, row, JobState.CANCELLED, actor=actor)


def move_job(
    tx: Tx, row: Row[Any], to: JobState, *, actor: str, code: str = "", next_at: datetime | None = None, **values: Any
) -> None:
    """Move a job that this transaction has read."""
    from_ = JobState(row.state)
    _legal("job", JOB_MOVES, from_, to)
    if to is not JobState.LEASED:
        values = {"lease_until": None, "owner": "", **values}
    changes = {"state": to, "code": code, "next_at": next_at, **values}
    if not _conditional(tx, job, row.id, from_, changes):
        raise Defect("ILLEGAL_MOVE", f"job {from_} -> {to} lost a race under the writer's lock")
    due = next_at.isoformat() if next_at else ""
    audited = {"from": from_, "to": to, "code": code, "due": due, "attempt": values.get("attempt", row.attempt)}
    audited |= {} if row.kind == ANALYSE else {"kind": row.kind}
    tx.audit("job.moved", actor, row.case_id, f"job:{row.id}", **audited)


def move_delivery(
    tx: Tx, row: Row[Any], to: DeliveryState, *, actor: str, code: str = "", status: str = "", **values: Any
) -> None:
    """Move a delivery that this transaction has read."""
    from_ = DeliveryState(row.state)
    _legal("delivery", DELIVERY_MOVES, from_, to)
    if to is not DeliveryState.SENDING:
        values = {"lease_until": None, "owner": "", "next_at": None, **values}
    if not _conditional(tx, delivery, row.id, from_, {"state": to, "code": code, "status": words(status), **values}):
        raise Defect("ILLEGAL_MOVE", f"delivery {from_} -> {to} lost a race under the writer's lock")
    audited = {"from": from_, "to": to, "code": code, "status": words(status), "destination": row.destination}
    audited["attempt"] = values.get("attempt", row.attempt)
    tx.audit("delivery.moved", actor, row.case_id, f"delivery:{row.id}", **audited)


def active(root_id: Any) -> ColumnElement[bool]:
    """Condition on `instance`: it belongs to the root and nobody took it out."""
    out = exists().where(exclusion.c.instance_id == instance.c.id, exclusion.c.lifted_at.is_(None))
    return and_(instance.c.root_id == root_id, ~out)


def undecided(root_id: Any) -> ColumnElement[bool]:
    """Condition on `doubt`: it stops the root's cases."""
    return and_(doubt.c.root_id == root_id, doubt.c.decision == "", doubt.c.code.in_(sorted(STOPPING)))


def case_columns() -> Any:
    """SELECT that gives `case_row` what it needs."""
    return select(
        case_revision, case_root.c.patient_id.label("patient_id"), case_root.c.issuer.label("issuer")
    ).join_from(case_revision, case_root, case_revision.c.root_id == case_root.c.id)


def case_row(row: Row[Any]) -> CaseRow:
    """Build the row that others see."""
    return CaseRow(
        id=row.id,
        root_id=row.root_id,
        revision=row.revision,
        predecessor=row.predecessor,
        state=CaseState(row.state),
        reason=row.reason,
        detail=row.detail,
        priority=row.priority,
        patient_id=row.patient_id,
        issuer_of_patient_id=row.issuer,
        opened_at=row.opened_at,
        last_at=row.last_at,
        changed_at=row.changed_at,
        requested_at=row.requested_at,
        waiting_for=tuple(row.waiting_for.split(",")) if row.waiting_for else (),
        waiting_since=row.waiting_since,
        waiting_until=row.waiting_until,
        retraction=row.retraction,
    )


def get_case(connection: Connection, case_id: str) -> CaseRow:
    """Read one case.

    Raises:
        Refused: NOT_FOUND.
    """
    row = connection.execute(_CASE, {"case_id": case_id}).one_or_none()
    if row is None:
        raise Refused("NOT_FOUND")
    return case_row(row)


_CASE = case_columns().where(case_revision.c.id == bindparam("case_id"))  # built once: nearly every write asks it


def family(connection: Connection, case_id: str) -> Sequence[Row[Any]]:
    """Every revision of the case's patient and window, itself among them: id, root_id, revision, state, reason, retraction, has_result."""
    return connection.execute(_FAMILY, {"case_id": case_id}).all()


def _family() -> Any:
    own = select(case_revision.c.root_id).where(case_revision.c.id == bindparam("case_id")).scalar_subquery()
    columns = (case_revision.c.id, case_revision.c.root_id, case_revision.c.revision, case_revision.c.state)
    has_result = (case_revision.c.result_json != "").label("has_result")
    said = (case_revision.c.reason, case_revision.c.retraction)
    return select(*columns, *said, has_result).where(case_revision.c.root_id == own).order_by(case_revision.c.revision)


_FAMILY = _family()


def freeze_inputs(tx: Tx, case_id: str, root_id: str) -> None:
    """Write down which instances the case consists of, if that was not done before."""
    frozen = tx.connection.execute(select(case_input.c.case_id).where(case_input.c.case_id == case_id).limit(1))
    if frozen.first() is not None:
        return
    source = select(instance.c.id).where(active(root_id))
    ids = tx.connection.execute(source).scalars().all()
    if ids:
        tx.connection.execute(insert(case_input), [{"case_id": case_id, "instance_id": i} for i in ids])
    tx.audit("case.inputs_frozen", "ledger", case_id, count=len(ids))


def add_findings(tx: Tx, case_id: str, findings: Iterable[FindingLike], source: str) -> None:
    """Store remarks that the case doesn't have yet."""
    findings = tuple(findings)
    if not findings:
        return
    query = select(finding.c.code, finding.c.subject, finding.c.detail).where(finding.c.case_id == case_id)
    known = {tuple(row) for row in tx.connection.execute(query)}
    rows = []
    for found in findings:
        known_reason(found.code)
        key = (found.code, clean(found.subject), words(found.detail))
        if key in known:
            continue
        known.add(key)
        rows.append(
            {"case_id": case_id, "code": key[0], "subject": key[1], "detail": key[2], "source": source, "at": tx.now}
        )
    if rows:
        tx.connection.execute(insert(finding), rows)
        tx.audit("case.findings", source, case_id, codes=sorted({row["code"] for row in rows}), count=len(rows))
