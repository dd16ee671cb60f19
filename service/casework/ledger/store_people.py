"""What a person or a program asks for: run it now, retry, cancel, send again. Every refusal says why by its code."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, insert, or_, select, update

from casework.case import (
    ANALYSE,
    CASE_MOVES,
    NOT_PERFORMED,
    PROBE_ISSUER,
    REJECTION,
    CaseState,
    DeliveryState,
    JobState,
)
from casework.errors import Refused
from casework.ledger import store_base as base
from casework.ledger.database import Tx
from casework.ledger.schema import artefact, case_revision, case_root, delivery, doubt, job, request, study
from casework.ledger.store_cases import before_work, explain, has_results, new_job, plan_telling
from casework.ledger.store_delivery import STORED, cancel_unsent, current, finish_case, move_to_pending, stands
from casework.ledger.store_jobs import plan_deliveries
from casework.ledger.store_retention import refuse_if_gone
from casework.ledger.types import EVERYTHING, CaseRow, Requested, Selector, Withheld

_C, _D, _J = CaseState, DeliveryState, JobState


class PeopleStore(base.Store):
    """The operators' and callers' part of the facade."""

    def retry_case(self, case_id: str, actor: str, now: datetime) -> None:
        """Try again what failed: dead sendings if there are any, else the analysis; or cut a waiting time short.

        Raises:
            Refused: NOT_FOUND, STATE_FORBIDS.
        """
        with self._database.write(now) as tx:
            case = base.get_case(tx.connection, case_id)
            tx.audit("case.retry_asked", actor, case_id)
            if tx.connection.execute(select(doubt.c.id).where(base.undecided(case.root_id)).limit(1)).first():
                raise Refused("DECISION_NEEDED")
            match case.state:
                case _ if case.retraction:
                    _retry_notes(tx, case, actor)
                case _C.NEEDS_ATTENTION if has_results(tx.connection, case_id) and _sent(
                    tx, case_id, _D.DEAD, _D.COMMIT_FAILED
                ):
                    _send_again(tx, case, _sent(tx, case_id, _D.DEAD, _D.COMMIT_FAILED), actor)
                case _C.CLOSED if has_results(tx.connection, case_id):
                    _newest(tx, case)
                    _send_again(tx, case, _sent(tx, case_id, _D.CANCELLED, _D.DEAD, _D.COMMIT_FAILED), actor)
                case _C.NEEDS_ATTENTION | _C.REJECTED | _C.CLOSED:
                    _queue_again(tx, case, self._max_attempts, actor)
                case _C.QUEUED:
                    _cut_wait(tx, case, actor)
                case _C.DELIVERING:
                    for key in _sent(tx, case_id, _D.RETRY_WAIT, _D.UNKNOWN):
                        move_to_pending(tx, key, actor)
                    explain(tx, case_id, case.state, code="DELIVERING", detail="", actor=actor)
                case _:
                    raise Refused("STATE_FORBIDS", case.state)

    def cancel_case(self, case_id: str, actor: str, now: datetime, detail: str = "") -> None:
        """Close a case that is not running. Its unsent results are not sent; without results, its studies are told so.

        Raises:
            Refused: NOT_FOUND, STATE_FORBIDS.
        """
        with self._database.write(now) as tx:
            case = base.get_case(tx.connection, case_id)
            if _C.CLOSED not in CASE_MOVES[case.state] or case.retraction:
                raise Refused("STATE_FORBIDS", case.state)
            base.move_case(tx, case_id, case.state, _C.CLOSED, code="CANCELLED", actor=actor, detail=detail)
            before_work(tx, case_id, case.state, _C.CLOSED, actor)
            cancel_unsent(tx, case_id, actor, code="CANCELLED", but=NOT_PERFORMED)
            if not _told(tx, case_id):
                plan_telling(tx, case_id, self._max_attempts, actor)

    def resend_case(
        self,
        case_id: str,
        actor: str,
        now: datetime,
        destinations: Sequence[str] = (),
        *,
        withheld: Withheld = EVERYTHING,
    ) -> None:
        """Send the stored results once more, the same bytes; also to `destinations` that were not planned before.

        `withheld`: as for finish_job.

        Raises:
            Refused: NOT_FOUND, STATE_FORBIDS (nothing rendered).
        """
        with self._database.write(now) as tx:
            case = base.get_case(tx.connection, case_id)
            if case.state not in (_C.DELIVERED, _C.NEEDS_ATTENTION, _C.REJECTED) or case.retraction:
                raise Refused("STATE_FORBIDS", case.state)
            if case.issuer_of_patient_id == PROBE_ISSUER:
                raise Refused("STATE_FORBIDS", "a probe's results go to no PACS")
            tx.audit("case.resend_asked", actor, case_id)
            if tx.connection.execute(select(doubt.c.id).where(base.undecided(case.root_id)).limit(1)).first():
                raise Refused("DECISION_NEEDED")
            again = _sent(tx, case_id, *STORED, _D.COMMITTED, _D.DEAD, _D.COMMIT_FAILED)
            plan_deliveries(tx, case_id, destinations, case.priority, actor, withheld)
            if not again and not _sent(tx, case_id, _D.PENDING):
                raise Refused("STATE_FORBIDS", "nothing to send")
            _send_again(tx, case, again, actor)

    def request_analysis(  # noqa: PLR0917 - the contract's signature
        self,
        idempotency_key: str,
        request_hash: str,
        selector: Selector,
        actor: str,
        now: datetime,
        priority: int = 0,
    ) -> Requested:
        """Ask that the newest revision of each selected case runs now; the same key and hash get the same answer.

        Raises:
            Refused: NOT_FOUND (a named study or nothing at all is here), IDEMPOTENCY_CONFLICT.
        """
        with self._database.write(now) as tx:
            same = (request.c.key == idempotency_key) & (request.c.actor == actor)
            old = tx.connection.execute(select(request).where(same)).one_or_none()
            if old is not None:
                if old.hash != request_hash:
                    raise Refused("IDEMPOTENCY_CONFLICT")
                return Requested(tuple(old.case_ids["ids"]), replayed=True)
            cases = _select(tx, selector)
            for case in cases:
                _hurry(tx, case, priority, actor)
            ids = [case.id for case in cases]
            if idempotency_key:
                row = {"key": idempotency_key, "actor": actor, "hash": request_hash, "case_ids": {"ids": ids}}
                tx.connection.execute(insert(request), {**row, "at": now})
            return Requested(tuple(ids), replayed=False)


def _sent(tx: Tx, case_id: str, *states: DeliveryState, only: str = "") -> list[int]:
    """Ids of the case's deliveries in these states, oldest first; of objects of one kind only, where it is named."""
    query = select(delivery.c.id).join_from(delivery, artefact, delivery.c.artefact_id == artefact.c.id)
    query = query.where(delivery.c.case_id == case_id, delivery.c.state.in_(states), current(case_id), stands())
    query = query.where(artefact.c.kind == only) if only else query
    return list(tx.connection.execute(query.order_by(delivery.c.id)).scalars())


def _told(tx: Tx, case_id: str) -> bool:
    """Whether the studies of a case have been told already, or are being told."""
    made = select(artefact.c.id).where(artefact.c.case_id == case_id, artefact.c.kind.in_(NOT_PERFORMED)).limit(1)
    return tx.connection.execute(made).first() is not None


def _send_again(tx: Tx, case: CaseRow, keys: Sequence[int], actor: str) -> None:
    """Make deliveries PENDING by legal moves: one that is asked for again counts as not held."""
    refuse_if_gone(tx.connection, case.id)
    for key in keys:
        row = tx.connection.execute(select(delivery).where(delivery.c.id == key)).one()
        if row.state in (*STORED, _D.COMMITTED):
            base.move_delivery(tx, row, _D.COMMIT_FAILED, actor=actor, code=row.code, status=row.status)
        move_to_pending(tx, key, actor, afresh=True)
    if not has_results(tx.connection, case.id):
        return  # "AI not performed" goes out again; the case has no result to deliver
    state = case.state
    if state is _C.DELIVERED:
        base.move_case(tx, case.id, state, _C.NEEDS_ATTENTION, code="DELIVERING", actor=actor)
        state = _C.NEEDS_ATTENTION
    base.move_case(tx, case.id, state, _C.DELIVERING, code="DELIVERING", actor=actor)
    finish_case(tx, case.id, actor)


def _retry_notes(tx: Tx, case: CaseRow, actor: str) -> None:
    """Send a retracted case's rejection notes again; nothing else of it is ever sent."""
    keys = _sent(tx, case.id, _D.DEAD, _D.COMMIT_FAILED)  # the results' own are cancelled
    if not keys:
        raise Refused("STATE_FORBIDS", "retracted")
    for key in keys:
        move_to_pending(tx, key, actor, afresh=True)
    if case.state is _C.NEEDS_ATTENTION:
        base.move_case(tx, case.id, case.state, _C.RETRACTED, code=case.retraction, actor=actor)


def _queue_again(tx: Tx, case: CaseRow, max_attempts: int, actor: str) -> None:
    """Run the analysis again on the same inputs. Only the newest revision: an older one would overtake its successor."""
    _newest(tx, case)
    for key in _sent(tx, case.id, _D.DEAD, _D.COMMIT_FAILED, only=REJECTION):
        move_to_pending(tx, key, actor, afresh=True)
    base.move_case(tx, case.id, case.state, _C.QUEUED, code="QUEUED", actor=actor)
    base.freeze_inputs(tx, case.id, case.root_id)
    dead = select(job).where(job.c.case_id == case.id, job.c.state == _J.DEAD, job.c.kind == ANALYSE)
    row = tx.connection.execute(dead.order_by(job.c.id.desc())).first()
    if row is None:
        new_job(tx, case.id, case.priority, max_attempts, actor)
    else:
        base.move_job(tx, row, _J.READY, actor=actor, attempt=0)


def _newest(tx: Tx, case: CaseRow) -> None:
    newest = select(func.max(case_revision.c.revision)).where(case_revision.c.root_id == case.root_id)
    if tx.connection.execute(newest).scalar_one() != case.revision:
        raise Refused("STATE_FORBIDS", "not the newest revision")


def _cut_wait(tx: Tx, case: CaseRow, actor: str) -> None:
    waiting = select(job).where(job.c.case_id == case.id, job.c.state == _J.RETRY_WAIT)
    for row in tx.connection.execute(waiting).all():
        base.move_job(tx, row, _J.READY, actor=actor, code=row.code)
    explain(tx, case.id, case.state, code="QUEUED", detail="", actor=actor)


def _select(tx: Tx, selector: Selector) -> list[CaseRow]:
    """Newest revisions of the roots that match everything that the selector names."""
    conditions: list[Any] = []
    if selector.study_uids:
        known = select(func.count(study.c.study_uid.distinct())).where(study.c.study_uid.in_(selector.study_uids))
        if tx.connection.execute(known).scalar_one() < len(set(selector.study_uids)):
            raise Refused("NOT_FOUND", "a study is not here")
        conditions.append(case_root.c.id.in_(select(study.c.root_id).where(study.c.study_uid.in_(selector.study_uids))))
    if selector.accession_number:
        with_accession = select(study.c.root_id).where(study.c.accession == selector.accession_number)
        conditions.append(case_root.c.id.in_(with_accession))
    if selector.patient_id:
        conditions.append(case_root.c.patient_id == selector.patient_id)
    if selector.issuer_of_patient_id:
        conditions.append(case_root.c.issuer == selector.issuer_of_patient_id)
    if not conditions:
        raise Refused("NOT_FOUND", "nothing selected")
    query = base.case_columns().where(and_(*conditions)).order_by(case_revision.c.revision)
    newest = {row.root_id: base.case_row(row) for row in tx.connection.execute(query)}
    if not newest:
        raise Refused("NOT_FOUND")
    return [newest[root_id] for root_id in sorted(newest, key=lambda root_id: newest[root_id].opened_at)]


def _hurry(tx: Tx, case: CaseRow, priority: int, actor: str) -> None:
    values: dict[str, Any] = {"priority": max(priority, case.priority)}
    if case.state in (_C.RECEIVING, _C.STABLE):
        values["requested_at"] = tx.now
    tx.connection.execute(update(case_revision).where(case_revision.c.id == case.id).values(values))
    waiting = or_(job.c.state == _J.READY, job.c.state == _J.RETRY_WAIT)
    more = update(job).where(job.c.case_id == case.id, waiting, job.c.priority < priority).values(priority=priority)
    tx.connection.execute(more)
    tx.audit("analysis.requested", actor, case.id, state=case.state, priority=values["priority"])
