"""What people decide about a case's images: take out, put back, accept or dismiss a correction. Nothing is overwritten.

Every change opens a new revision (or the one that is still receiving) of each case that it touches. The images that were
analysed before stay with the revisions that used them; results of such a revision that were not sent yet never will be.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import exists, insert, select, update

from casework.case import CASE_MOVES, NOT_PERFORMED, STOPPING, Arrival, CaseState, Header, Verdict
from casework.errors import Refused
from casework.ledger import store_base as base
from casework.ledger.assembly import Assembler
from casework.ledger.database import Tx
from casework.ledger.schema import case_input, case_revision, doubt, exclusion, instance
from casework.ledger.store_cases import before_work
from casework.ledger.store_delivery import cancel_unsent, finish_case
from casework.ledger.store_intake import Item, insert_instances
from casework.ledger.types import CaseRow
from casework.ledger.withdrawals import make_notes, of_cases, withdraw_emptied

EXCLUSIONS = ("EXCLUDED_WRONG_PATIENT", "EXCLUDED_WRONG_SIDE", "EXCLUDED_POOR_QUALITY", "EXCLUDED_OTHER")
_C = CaseState
_UNSENT = (_C.RENDERED, _C.DELIVERING, _C.NEEDS_ATTENTION, _C.REJECTED)
_GOING_ON = (_C.QUEUED, _C.RUNNING, _C.RENDERED, _C.DELIVERING, _C.DELIVERED)


class ChangeStore(base.Store):
    """The part of the facade that changes what a case consists of."""

    def exclude(  # noqa: PLR0917 - who, what, why
        self, case_id: str, uid: str, code: str, actor: str, now: datetime, detail: str = ""
    ) -> str:
        """Take an instance, a series or a study out of a case; return the id of the revision that goes on without it.

        uid: a SOP, Series or Study Instance UID. code: one of EXCLUSIONS.

        Raises:
            Refused: NOT_FOUND, the case has no such image (any more); REQUEST_INVALID, another code.
        """
        if code not in EXCLUSIONS:
            raise Refused("REQUEST_INVALID", "reason")
        with self._database.write(now) as tx:
            case = base.get_case(tx.connection, case_id)
            rows = tx.connection.execute(select(instance).where(base.active(case.root_id), _named(uid))).all()
            if not rows:
                raise Refused("NOT_FOUND", "no image of this case")
            _take_out(tx, [(row, None) for row in rows], code, actor, detail)
            return _go_on(tx, self._window_days, self._max_attempts, {case.root_id}, actor)[case.root_id]

    def restore(self, case_id: str, uid: str, actor: str, now: datetime) -> str:
        """Put back what was taken out of a case; return the id of the revision that goes on with it.

        What was replaced stays replaced: there is never more than one image under one SOP Instance UID.

        Raises:
            Refused: NOT_FOUND; STATE_FORBIDS, another image stands in its place.
        """
        with self._database.write(now) as tx:
            case = base.get_case(tx.connection, case_id)
            out = select(instance.c.id, instance.c.sop_uid, instance.c.sha256).join_from(
                exclusion, instance, exclusion.c.instance_id == instance.c.id
            )
            own = (exclusion.c.root_id == case.root_id) & exclusion.c.lifted_at.is_(None)
            own = own & exclusion.c.replaced_by.is_(None)
            found = tx.connection.execute(out.where(own, _named(uid)).order_by(instance.c.id)).all()
            rows = {row.sop_uid: row for row in found}.values()  # of several under one UID the last one that came
            if not rows:
                raise Refused("NOT_FOUND", "nothing was taken out")
            if _taken(tx, [row.sop_uid for row in rows]):
                raise Refused("STATE_FORBIDS", "another image stands in its place")
            where = exclusion.c.instance_id.in_([row.id for row in rows])
            tx.connection.execute(update(exclusion).where(where).values(lifted_at=now))
            tx.audit("instances.restored", actor, case_id, sha256=[row.sha256 for row in rows], count=len(rows))
            return _go_on(tx, self._window_days, self._max_attempts, {case.root_id}, actor)[case.root_id]

    def decide(  # noqa: PLR0917 - who, what, why
        self,
        case_id: str,
        decision: str,
        actor: str,
        now: datetime,
        subject: str = "",
        detail: str = "",
        seen: Collection[int] | None = None,
    ) -> str:
        """Settle the open doubts of a case, or those about one UID; return the id of its newest revision.

        "accepted": the newest bytes that were kept aside take the first ones' place, in the case that their own Patient ID
        names. "dismissed": the first ones stand. A study that names two patients can't be accepted: take out what is wrong.
        seen: the doubts (`id`) that were looked at; with another one there nothing is decided.

        Raises:
            Refused: NOT_FOUND, nothing is open; REQUEST_INVALID, another decision; STATE_FORBIDS.
        """
        if decision not in ("accepted", "dismissed"):
            raise Refused("REQUEST_INVALID", "decision")
        with self._database.write(now) as tx:
            case = base.get_case(tx.connection, case_id)
            where = (doubt.c.root_id == case.root_id) & (doubt.c.decision == "")
            where = where & (doubt.c.subject == subject) if subject else where
            rows = tx.connection.execute(select(doubt).where(where).order_by(doubt.c.at, doubt.c.id)).all()
            if not rows:
                raise Refused("NOT_FOUND", "nothing to decide")
            if decision == "accepted" and any(not row.sha256 for row in rows):
                raise Refused("STATE_FORBIDS", "two patients are not made one; take out what is wrong, or dismiss")
            if seen is not None and not {row.id for row in rows} <= set(seen):
                raise Refused("STATE_FORBIDS", "another doubt came meanwhile; look again")
            newest = {row.subject: row.id for row in rows}  # of several corrections of one image the last one
            for row in rows:
                made = decision if newest[row.subject] == row.id else "dismissed"
                values = {"decision": made, "decided_by": base.words(actor), "decided_at": now}
                tx.connection.execute(update(doubt).where(doubt.c.id == row.id).values(values))
            codes, why = sorted({row.code for row in rows}), base.words(detail)
            tx.audit(
                "case.decided", actor, case_id, decision=decision, subjects=sorted(newest), codes=codes, detail=why
            )
            resume(tx, case.root_id, actor)
            if decision == "dismissed":
                stopped = any(row.code in STOPPING for row in rows)
                return _dismissed(tx, self._window_days, self._max_attempts, case, actor, stopped=stopped)
            last = [row for row in rows if newest[row.subject] == row.id]
            roots = _replace(tx, self._window_days, case, last, actor)
            return _go_on(tx, self._window_days, self._max_attempts, roots, actor)[case.root_id]

    def corrections(self, limit: int = 100) -> list[tuple[str, str, list[int]]]:
        """(case id, SOP Instance UID, doubts) of undecided corrections that change neither patient nor side, oldest first.

        None of an image that came with another side or patient as well.
        """
        open_ = select(doubt.c.root_id, doubt.c.subject, doubt.c.id).where(doubt.c.decision == "")
        graver = select(doubt.c.subject).where(doubt.c.decision == "", doubt.c.code != "UID_CONFLICT")
        open_ = open_.where(doubt.c.code == "UID_CONFLICT", doubt.c.subject.not_in(graver))
        newest = select(case_revision.c.root_id, case_revision.c.id).order_by(case_revision.c.revision)
        with self._database.read() as connection:
            found: dict[tuple[str, str], list[int]] = {}
            for row in connection.execute(open_.order_by(doubt.c.id).limit(limit)):
                found.setdefault((row.root_id, row.subject), []).append(row.id)
            roots = {root_id for root_id, _ in found}
            ids = {r.root_id: r.id for r in connection.execute(newest.where(case_revision.c.root_id.in_(roots)))}
        return [(ids[root_id], subject, doubts) for (root_id, subject), doubts in found.items()]


def withdraw_unsent(tx: Tx, root_id: str, instance_ids: Sequence[int], actor: str) -> None:
    """Older results that used images which were taken out since are not sent any more."""
    used = select(case_input.c.case_id).where(case_input.c.instance_id.in_(instance_ids))
    query = select(case_revision.c.id, case_revision.c.state, case_revision.c.result_json)
    own = (case_revision.c.root_id == root_id) & case_revision.c.state.in_(_UNSENT) & case_revision.c.id.in_(used)
    for row in tx.connection.execute(query.where(own)).all():
        if row.result_json:
            base.move_case(tx, row.id, CaseState(row.state), _C.SUPERSEDED, code="SUPERSEDED", actor=actor)
            cancel_unsent(tx, row.id, actor)


def resume(tx: Tx, root_id: str, actor: str) -> None:
    """Say of results that were held that they are on their way again, once nothing is undecided."""
    if tx.connection.execute(select(doubt.c.id).where(base.undecided(root_id)).limit(1)).first() is None:
        held = select(case_revision.c.id).where(case_revision.c.root_id == root_id, case_revision.c.reason == "HELD")
        for case_id in tx.connection.execute(held).scalars().all():
            if base.move_case(tx, case_id, _C.NEEDS_ATTENTION, _C.DELIVERING, code="DELIVERING", actor=actor):
                finish_case(tx, case_id, actor)


def _named(uid: str) -> Any:
    return (instance.c.sop_uid == uid) | (instance.c.series_uid == uid) | (instance.c.study_uid == uid)


def _taken(tx: Tx, sop_uids: Sequence[str]) -> bool:
    """Whether some case has an image under one of these UIDs."""
    out = exists().where(exclusion.c.instance_id == instance.c.id, exclusion.c.lifted_at.is_(None))
    query = select(instance.c.id).where(instance.c.sop_uid.in_(sop_uids), ~out).limit(1)
    return tx.connection.execute(query).first() is not None


def _take_out(tx: Tx, rows: Sequence[tuple[Any, int | None]], code: str, actor: str, detail: str) -> None:
    """Exclude instances, each with the id of what stands in its place. One that was put back once has its row already."""
    for row, replaced_by in rows:
        values = {"code": code, "detail": base.words(detail), "actor": base.words(actor), "at": tx.now}
        values |= {"root_id": row.root_id, "replaced_by": replaced_by, "lifted_at": None}
        again = update(exclusion).where(exclusion.c.instance_id == row.id).values(values)
        if tx.connection.execute(again).rowcount == 0:
            tx.connection.execute(insert(exclusion), {"instance_id": row.id, **values})
    for root_id in sorted({row.root_id for row, _ in rows}):
        own = [row for row, _ in rows if row.root_id == root_id]
        case_id = Assembler(tx, 0).newest(root_id)
        sums = [row.sha256 for row in own]
        tx.audit(
            "instances.excluded", actor, case_id, code=code, detail=base.words(detail), sha256=sums, count=len(sums)
        )
        withdraw_unsent(tx, root_id, [row.id for row in own], actor)


def _go_on(tx: Tx, window_days: int, max_attempts: int, roots: set[str], actor: str) -> dict[str, str]:
    """Open or re-open a revision of each root, say on it what was taken out, and withdraw what no study stands behind any more."""
    cases = Assembler(tx, window_days).reopen(roots)
    for root_id, case_id in cases.items():
        query = select(exclusion.c.code, instance.c.study_uid).where(exclusion.c.instance_id == instance.c.id)
        own = query.where(exclusion.c.root_id == root_id, exclusion.c.lifted_at.is_(None))
        counts = Counter((row.code, row.study_uid) for row in tx.connection.execute(own))
        base.add_findings(
            tx, case_id, [base.Noted(code, uid, str(n)) for (code, uid), n in sorted(counts.items())], "people"
        )
        still = set(
            tx.connection.execute(select(instance.c.study_uid).where(base.active(root_id)).distinct()).scalars()
        )
        withdraw_emptied(tx, case_id, still, max_attempts, actor)
    return cases


def _replace(tx: Tx, window_days: int, case: CaseRow, doubts: Sequence[Any], actor: str) -> set[str]:
    """Put what was kept aside in the place of what it corrects; each goes to its own patient: the roots that change."""
    items = [_item(row) for row in doubts]
    assembler = Assembler(tx, window_days)
    assembler.place([(item.header, item.arrival.received_at) for item in items if item.header])
    uids = [row.subject for row in doubts]
    out = exists().where(exclusion.c.instance_id == instance.c.id, exclusion.c.lifted_at.is_(None))
    old = tx.connection.execute(select(instance).where(instance.c.sop_uid.in_(uids), ~out)).all()
    insert_instances(tx, [item for item in items if not _back_again(tx, item)], assembler)
    made = {item.header.sop_instance_uid: item for item in items if item.header}
    for moved, code in ((False, "INPUT_REPLACED"), (True, "EXCLUDED_WRONG_PATIENT")):
        pairs = [
            (row, made[row.sop_uid].instance_id) for row in old if (made[row.sop_uid].root_id != row.root_id) is moved
        ]
        if pairs:
            _take_out(tx, pairs, code, actor, "")
    return {case.root_id, *(item.root_id for item in items if item.root_id)}


def _back_again(tx: Tx, item: Item) -> bool:
    """Whether these bytes were replaced once: then their own row stands again, in the case where it was."""
    uid = item.header.sop_instance_uid if item.header else ""
    same = (instance.c.sop_uid == uid) & (instance.c.sha256 == item.arrival.sha256)
    row = tx.connection.execute(select(instance.c.id, instance.c.root_id).where(same)).one_or_none()
    if row is None:
        return False
    item.instance_id, item.root_id = row.id, row.root_id
    tx.connection.execute(update(exclusion).where(exclusion.c.instance_id == row.id).values(lifted_at=tx.now))
    return True


def _item(row: Any) -> Item:
    """What was kept aside, as if it arrived now."""
    header = Header(**row.header)
    arrival = Arrival(Verdict.ACCEPTED, "", header, row.sha256, row.size, "", row.peer, "", row.at)
    return Item(arrival, header, Verdict.ACCEPTED, "")


def _dismissed(tx: Tx, window_days: int, max_attempts: int, case: CaseRow, actor: str, *, stopped: bool) -> str:
    """The first images stand: the revision that only waited for the decision goes, or goes on when it has more to say."""
    assembler = Assembler(tx, window_days)
    newest = base.get_case(tx.connection, assembler.newest(case.root_id))
    held = tx.connection.execute(select(doubt.c.id).where(base.undecided(case.root_id)).limit(1)).first()
    if not stopped or held is not None:
        return newest.id
    if newest.predecessor is not None and _C.CLOSED in CASE_MOVES[newest.state]:
        older = base.get_case(tx.connection, newest.predecessor)
        used = select(case_input.c.instance_id).where(case_input.c.case_id == older.id)
        now = select(instance.c.id).where(base.active(case.root_id))
        same = set(tx.connection.execute(used).scalars()) == set(tx.connection.execute(now).scalars())
        if same and older.state in _GOING_ON:
            base.move_case(tx, newest.id, newest.state, _C.CLOSED, code="DISMISSED", actor=actor)
            before_work(tx, newest.id, newest.state, _C.CLOSED, actor)
            cancel_unsent(tx, newest.id, actor, code="DISMISSED")
            # It said that nothing was analysed; the older result stands, so that is withdrawn where it went.
            said = {row.id: "RETRACTED_QUALITY" for row in of_cases(tx, [newest.id], NOT_PERFORMED)}
            if said:
                make_notes(tx, newest.id, said, max_attempts, actor)
            return newest.id
    return assembler.reopen({case.root_id})[case.root_id]
