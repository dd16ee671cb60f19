"""Withdrawing results: what every destination has of a case, and the one transaction that retracts it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import exists, insert, select

from casework.case import CASE_MOVES, REJECTION, Artefact, CaseState, JobState
from casework.errors import Refused
from casework.ledger import store_base as base
from casework.ledger import withdrawals
from casework.ledger.assembly import leave_queue
from casework.ledger.database import Tx
from casework.ledger.schema import artefact, case_revision, delivery, withdrawal
from casework.ledger.store_base import move_job
from casework.ledger.store_cases import has_results
from casework.ledger.store_delivery import finish_retraction, new_delivery, stands
from casework.ledger.store_jobs import held_job, keep_artefacts
from casework.ledger.store_retention import is_gone, refuse_if_gone
from casework.ledger.types import CaseRow, Retraction


class RetractStore(base.Store):
    """The part of the facade for withdrawing results."""

    def retraction(self, case_id: str) -> Retraction:
        """What a retraction of this case has to name, and where; of the older revisions too, whose word would be valid again.

        Raises:
            Refused: NOT_FOUND; RESULTS_REMOVED, by the retention policy.
        """
        with self._database.read() as connection:
            refuse_if_gone(connection, case_id)
            return _retraction(connection, case_id)

    def retract_case(  # noqa: PLR0917 - the contract's signature
        self,
        seen: Retraction,
        code: str,
        notes: Sequence[tuple[Artefact, Sequence[str]]],
        actor: str,
        now: datetime,
        detail: str = "",
    ) -> bool:
        """Retract a case and its older revisions: cancel what is not sent, and put the notes on their way.

        `seen`: what the notes were made from; False when a destination has got something since. Safe to repeat with
        the same code.

        Raises:
            Refused: NOT_FOUND; STATE_FORBIDS, there are no results, or they were retracted for another reason.
        """
        with self._database.write(now) as tx:
            case = base.get_case(tx.connection, seen.case.id)
            if case.retraction == code:
                return True
            if case.retraction or CaseState.RETRACTED not in CASE_MOVES[case.state] or not _made(tx, case.id):
                raise Refused("STATE_FORBIDS", case.retraction or case.state)
            found = _retraction(tx.connection, case.id)
            if (found.reached, found.older) != (seen.reached, seen.older):
                return False
            every = [case.id, *found.older]
            withdrawals.withdraw(tx, {row.id: code for row in withdrawals.of_cases(tx, every)})
            keep_artefacts(tx, case.id, [note for note, _ in notes])
            _plan(tx, case.id, notes, case.priority)
            for one in every:
                state = base.get_case(tx.connection, one).state
                base.move_case(
                    tx, one, state, CaseState.RETRACTED, code=code, actor=actor, detail=detail, retraction=code
                )
                finish_retraction(tx, one, actor)
            _look_again(tx, case, actor)
            return True

    def withdrawn(self, job_id: int) -> list[tuple[str, Mapping[str, tuple[Artefact, ...]]]]:
        """What the notes of a job of kind WITHDRAW have to name: by code and destination."""
        its = (withdrawal.c.artefact_id == artefact.c.id) & (withdrawal.c.job_id == job_id)
        codes = select(withdrawal.c.code).where(withdrawal.c.job_id == job_id).distinct().order_by(withdrawal.c.code)
        with self._database.read() as connection:
            return [
                (code, withdrawals.reached(connection, exists().where(its, withdrawal.c.code == code)))
                for code in connection.execute(codes).scalars().all()
            ]

    def finish_withdrawal(
        self, job_id: int, fence: int, notes: Sequence[tuple[Artefact, Sequence[str]]], now: datetime
    ) -> bool:
        """Put on their way the notes of a job of kind WITHDRAW. False: fenced off."""
        with self._database.write(now) as tx:
            row = held_job(tx, job_id, fence)
            if row is None:
                return False
            move_job(tx, row, JobState.SUCCEEDED, actor="analyse")
            keep_artefacts(tx, row.case_id, [note for note, _ in notes])
            _plan(tx, row.case_id, notes, row.priority)
            return True


def _retraction(connection: Any, case_id: str) -> Retraction:
    """The case, the older revisions that go with it, and what of all of them stands at each destination."""
    case = base.get_case(connection, case_id)
    older = tuple(
        row.id
        for row in base.family(connection, case_id)
        if row.revision < case.revision
        and not row.retraction
        and CaseState.RETRACTED in CASE_MOVES[CaseState(row.state)]
        and has_results(connection, row.id)
        and not is_gone(connection, row.id)
    )
    which = artefact.c.case_id.in_([case_id, *older]) & stands()
    return Retraction(case, withdrawals.reached(connection, which), older)


def _look_again(tx: Tx, case: CaseRow, actor: str) -> None:
    """A newer revision that has not begun to run may have the very images that were wrong: assembly decides anew."""
    for row in base.family(tx.connection, case.id):
        if row.revision > case.revision and row.state in (CaseState.STABLE, CaseState.QUEUED):
            leave_queue(tx, row.id, actor)
            base.move_case(tx, row.id, CaseState(row.state), CaseState.RECEIVING, code="", actor=actor)


def _made(tx: Tx, case_id: str) -> bool:
    """Whether there is a result, more than the word that nothing was analysed."""
    said = select(case_revision.c.result_json).where(case_revision.c.id == case_id)
    return bool(tx.connection.execute(said).scalar_one()) and has_results(tx.connection, case_id)


def _plan(tx: Tx, case_id: str, notes: Sequence[tuple[Artefact, Sequence[str]]], priority: int) -> None:
    query = select(artefact.c.sop_uid, artefact.c.id).where(artefact.c.case_id == case_id, artefact.c.kind == REJECTION)
    keys = {row.sop_uid: row.id for row in tx.connection.execute(query)}
    rows = [
        new_delivery(tx, case_id, keys[note.sop_instance_uid], destination, priority)
        for note, destinations in notes
        for destination in destinations
    ]
    if rows:
        tx.connection.execute(insert(delivery), rows)
        where = sorted({row["destination"] for row in rows})
        tx.audit("delivery.planned", "retract", case_id, destinations=where, count=len(rows))
