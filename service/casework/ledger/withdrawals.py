"""Which results are withdrawn: what each destination has of them, and results in studies that left their case.

A study whose images were all taken out, or moved to another patient, gets nothing from the revisions that follow. What older
ones had said in it would stand there as the newest word, so it is withdrawn in the same transaction, and a job makes the notes.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, insert, select

from casework.case import CASE_MOVES, NOT_PERFORMED, REJECTION, WITHDRAW, Artefact, CaseState
from casework.ledger import store_base as base
from casework.ledger.database import Tx
from casework.ledger.schema import artefact, delivery, exclusion, instance, withdrawal
from casework.ledger.store_cases import new_job
from casework.ledger.store_delivery import artefact_of, finish_retraction, stands
from casework.ledger.store_retention import gone

# What says no more than that images are poor or not wanted; every other reason means: wrong patient, study or side.
_HARMLESS = frozenset({"EXCLUDED_POOR_QUALITY", "EXCLUDED_OTHER"})


def reached(connection: Connection, which: ColumnElement[bool]) -> Mapping[str, tuple[Artefact, ...]]:
    """By destination: every one of these artefacts of which a sending has begun at least once. Notes are none."""
    query = (
        select(delivery.c.destination, artefact)
        .join_from(delivery, artefact, delivery.c.artefact_id == artefact.c.id)
        .where(which, artefact.c.kind != REJECTION, ~gone(artefact.c.sha256))  # a note is made from the bytes
        .where(delivery.c.fence > 0)  # it rises with every claim, and never falls
        .order_by(delivery.c.destination, delivery.c.id)
    )
    found: dict[str, tuple[Artefact, ...]] = {}
    for row in connection.execute(query):
        found[row.destination] = (*found.get(row.destination, ()), artefact_of(row))
    return found


def withdraw(tx: Tx, codes: Mapping[int, str], job_id: int | None = None) -> None:
    """Write down that these artefacts are withdrawn, each with its code."""
    rows = [{"artefact_id": key, "code": code, "job_id": job_id, "at": tx.now} for key, code in codes.items()]
    if rows:
        tx.connection.execute(insert(withdrawal), rows)


def of_cases(tx: Tx, case_ids: Collection[str], kinds: Collection[str] = ()) -> list[Any]:
    """Rows of these cases' artefacts that stand, without notes; of these `kinds` only, where any are named."""
    which = artefact.c.case_id.in_(case_ids) & (artefact.c.kind != REJECTION) & stands()
    which = which & artefact.c.kind.in_(kinds) if kinds else which
    return list(tx.connection.execute(select(artefact).where(which).order_by(artefact.c.id)))


def withdraw_emptied(tx: Tx, case_id: str, still: Collection[str], max_attempts: int, actor: str) -> None:
    """Withdraw older revisions' results in studies that have no image in the case any more; all but those in `still`.

    An older revision of which nothing is left that way is retracted.
    """
    family = base.family(tx.connection, case_id)
    number = next(row.revision for row in family if row.id == case_id)
    older = [row.id for row in family if row.revision < number]
    left = [
        row
        for row in (of_cases(tx, older) if older else ())
        if row.kind not in NOT_PERFORMED and row.study_uid and row.study_uid not in still
    ]
    if not left:
        return
    because = _reasons(tx, family[0].root_id, {row.study_uid for row in left})
    there = make_notes(tx, case_id, {row.id: because[row.study_uid] for row in left}, max_attempts, actor)
    base.add_findings(tx, case_id, [base.Noted("STUDY_WITHDRAWN", s, because[s]) for s in sorted(there)], actor)
    for one in sorted({row.case_id for row in left}):
        _retract_emptied(tx, one, next(because[row.study_uid] for row in left if row.case_id == one), actor)


def make_notes(tx: Tx, case_id: str, codes: Mapping[int, str], max_attempts: int, actor: str) -> set[str]:
    """Withdraw artefacts; where any may have arrived, a worker makes the notes, which belong to this case: those studies."""
    there = reached(tx.connection, artefact.c.id.in_(codes))
    priority = base.get_case(tx.connection, case_id).priority
    job_id = new_job(tx, case_id, priority, max_attempts, actor, WITHDRAW) if there else None
    withdraw(tx, codes, job_id)
    where = sorted(there)
    tx.audit("results.withdrawn", actor, case_id, code=_worst(codes.values()), count=len(codes), destinations=where)
    return {one.study_instance_uid for objects in there.values() for one in objects}


def _reasons(tx: Tx, root_id: str, studies: Collection[str]) -> dict[str, str]:
    """Why each study left the case, as a code of case.RETRACTIONS."""
    query = select(instance.c.study_uid, exclusion.c.code).where(exclusion.c.instance_id == instance.c.id)
    query = query.where(exclusion.c.root_id == root_id, exclusion.c.lifted_at.is_(None))
    codes: dict[str, set[str]] = {study: set() for study in studies}
    for row in tx.connection.execute(query.where(instance.c.study_uid.in_(studies)).distinct()):
        codes[row.study_uid].add(row.code)
    return {s: "RETRACTED_QUALITY" if found <= _HARMLESS else "RETRACTED_SAFETY" for s, found in codes.items()}


def _worst(codes: Iterable[str]) -> str:
    return max(codes, key=lambda code: code == "RETRACTED_SAFETY")


def _retract_emptied(tx: Tx, case_id: str, code: str, actor: str) -> None:
    """Of a revision whose results were sent and are all withdrawn, say so."""
    stand = [row for row in of_cases(tx, [case_id]) if row.kind not in NOT_PERFORMED and row.study_uid]
    case = base.get_case(tx.connection, case_id)
    sent = reached(tx.connection, artefact.c.case_id == case_id)
    if not stand and sent and not case.retraction and CaseState.RETRACTED in CASE_MOVES[case.state]:
        values = {"code": code, "actor": actor, "detail": "STUDY_WITHDRAWN", "retraction": code}
        base.move_case(tx, case_id, case.state, CaseState.RETRACTED, **values)
        finish_retraction(tx, case_id, actor)
