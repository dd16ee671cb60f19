"""Jobs: claim, lease, fence, and how they end. `attempt` rises at the claim, before anything runs, so crashes count.

Whoever ends a job shows the fence that the claim gave him; one that was overtaken gets False and changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    and_,
    bindparam,
    exists,
    insert,
    or_,
    select,
    true,
    update,
)

from casework.case import (
    ANALYSE,
    PROBE_ISSUER,
    REJECTION,
    STAT_PRIORITY,
    TELL,
    TOLD,
    WITHDRAW,
    Artefact,
    CaseState,
    DeliveryState,
    JobState,
)
from casework.ledger import store_base as base
from casework.ledger.columns import Instant
from casework.ledger.database import Tx
from casework.ledger.schema import artefact, case_input, case_revision, case_root, delivery, exclusion, job
from casework.ledger.store_cases import has_results, plan_telling
from casework.ledger.store_delivery import (
    OF_CASE,
    cancel_unsent,
    current,
    finish_case,
    move_to_pending,
    new_delivery,
    stands,
    supersede,
    supersede_unsent,
)
from casework.ledger.types import EVERYTHING, ClaimedJob, FindingLike, Swept, Withheld

_C, _D, _J = CaseState, DeliveryState, JobState
_ACTOR = "analyse"
_UNSAID = {TELL: "NOT_TOLD", WITHDRAW: "NOT_WITHDRAWN"}  # what a case says when no try of such a job survived
# Nothing is ever put off for longer. What is due later was written before the clock went back, and is due now.
_LONGEST_LEASE, _LONGEST_WAIT = timedelta(hours=1), timedelta(days=1)


class JobStore(base.Store):
    """The workers' part of the facade."""

    def claim_job(
        self,
        kind: str,
        owner: str,
        lease_s: float,
        now: datetime,
        job_id: int | None = None,
        *,
        routine_first: bool = False,
    ) -> ClaimedJob | None:
        """Take the most urgent, oldest READY job, or just `job_id`; for an analysis its case goes QUEUED -> RUNNING.

        None: nothing to do, or that job is not to be had (any more). routine_first: so that STAT starves nobody.
        """
        best = _best(kind, named=job_id is not None, routine_first=routine_first)
        wanted = {"job_id": job_id}

        def candidate(connection: Connection) -> int | None:
            found: int | None = connection.execute(best.locked, wanted).scalar()
            if found is None:
                stale = {**_bounds(now), **wanted}
                return 0 if connection.execute(best.expired, stale).first() is not None else None
            return found

        with self._database.write_if(now, candidate) as asked:
            if asked is None:
                return None
            tx, found = asked
            if not found:
                expire_jobs(tx)
            row = tx.connection.execute(_best(kind, named=True).first, {"job_id": found}).first() if found else None
            if row is None:  # somebody was faster: the next one
                row = tx.connection.execute(best.first, wanted).first()
            if row is None:
                return None
            fence, attempt = row.fence + 1, row.attempt + 1
            lease = now + timedelta(seconds=lease_s)
            taken = {"fence": fence, "attempt": attempt, "owner": base.words(owner), "lease_until": lease}
            base.move_job(tx, row, _J.LEASED, actor=_ACTOR, **taken)
            if row.kind == ANALYSE:
                base.move_case(tx, row.case_id, _C.QUEUED, _C.RUNNING, code="RUNNING", actor=_ACTOR)
            return ClaimedJob(row.id, row.case_id, fence, attempt, row.max_attempts, row.priority, kind)

    def heartbeat(self, job_id: int, fence: int, lease_s: float, now: datetime) -> bool:
        """Prolong a lease; False: the job is somebody else's now."""
        mine = and_(job.c.id == job_id, job.c.fence == fence, job.c.state == _J.LEASED)
        values = {"lease_until": now + timedelta(seconds=lease_s)}
        with self._database.write(now) as tx:
            return tx.connection.execute(update(job).where(mine).values(values)).rowcount == 1

    def finish_job(  # noqa: PLR0917 - the contract's signature
        self,
        job_id: int,
        fence: int,
        result_json: str,
        artefacts: Sequence[Artefact],
        findings: Sequence[FindingLike],
        destinations: Sequence[str],
        now: datetime,
        *,
        withheld: Withheld = EVERYTHING,
    ) -> bool:
        """Store the results; the case goes on to DELIVERING, or to DELIVERED when nothing has to be sent.

        `withheld`: by destination, kinds of artefacts that it does not get. An artefact whose SOP Instance UID the case holds already is not replaced: the bytes of the first render win.
        """
        with self._database.write(now) as tx:
            row = held_job(tx, job_id, fence)
            if row is None:
                return False
            case_id = row.case_id
            base.move_job(tx, row, _J.SUCCEEDED, actor=_ACTOR)
            base.add_findings(tx, case_id, findings, _ACTOR)
            base.move_case(tx, case_id, _C.RUNNING, _C.RENDERED, code="", actor=_ACTOR, result_json=result_json)
            keep_artefacts(tx, case_id, artefacts)
            family = base.family(tx.connection, case_id)
            if _outdated(tx, case_id, family):  # kept for the record, never sent
                base.move_case(tx, case_id, _C.RENDERED, _C.SUPERSEDED, code="SUPERSEDED", actor=_ACTOR)
                return True
            supersede_unsent(tx, case_id, family, _ACTOR)
            plan_deliveries(tx, case_id, destinations, row.priority, _ACTOR, withheld)
            finish_case(tx, case_id, _ACTOR, family)
            return True

    def reject_job(  # noqa: PLR0917 - the contract's signature
        self,
        job_id: int,
        fence: int,
        code: str,
        findings: Sequence[FindingLike],
        now: datetime,
        detail: str = "",
        *,
        result_json: str = "",
        artefacts: Sequence[Artefact] = (),
        destinations: Sequence[str] = (),
        withheld: Withheld = EVERYTHING,
        attention: bool = False,
    ) -> bool:
        """The input can't be analysed: the case is REJECTED with the code, or NEEDS_ATTENTION and the job DEAD.

        artefacts: what says so in the studies; they are sent like results, in these states.
        """
        job_state, case_state = (_J.DEAD, _C.NEEDS_ATTENTION) if attention else (_J.SUCCEEDED, _C.REJECTED)
        said = {"result_json": result_json} if result_json else {}
        with self._database.write(now) as tx:
            row = held_job(tx, job_id, fence)
            if row is None:
                return False
            base.move_job(tx, row, job_state, actor=_ACTOR, code=code)
            base.add_findings(tx, row.case_id, findings, _ACTOR)
            base.move_case(tx, row.case_id, _C.RUNNING, case_state, code=code, actor=_ACTOR, detail=detail, **said)
            family = base.family(tx.connection, row.case_id)
            if artefacts and not _outdated(tx, row.case_id, family):
                supersede_unsent(tx, row.case_id, family, _ACTOR)
            _tell(tx, row, artefacts, destinations, withheld)
            supersede(tx, row.case_id)
            return True

    def finish_telling(
        self,
        job_id: int,
        fence: int,
        artefacts: Sequence[Artefact],
        destinations: Sequence[str],
        now: datetime,
        *,
        withheld: Withheld = EVERYTHING,
    ) -> bool:
        """Store and send what says in the studies that nothing was analysed; the case stays as it is.

        An older revision's results stay on their way, or held: a doubt may be dismissed, and a result is more than this word.
        Nothing is sent when the case has moved on meanwhile. False: fenced off.
        """
        with self._database.write(now) as tx:
            row = held_job(tx, job_id, fence)
            if row is None:
                return False
            base.move_job(tx, row, _J.SUCCEEDED, actor=_ACTOR)
            case = base.get_case(tx.connection, row.case_id)
            moved_on = case.state not in TOLD or case.reason == "DISMISSED" or case.retraction
            if not moved_on and not has_results(tx.connection, case.id):
                _tell(tx, row, artefacts, destinations, withheld)
            return True

    def fail_job(  # noqa: PLR0917 - the contract's signature
        self, job_id: int, fence: int, code: str, retry_at: datetime | None, now: datetime, detail: str = ""
    ) -> bool:
        """A try failed: RETRY_WAIT until `retry_at`, or DEAD without one or when the tries are spent."""
        with self._database.write(now) as tx:
            row = held_job(tx, job_id, fence)
            if row is None:
                return False
            if retry_at is not None and row.attempt < row.max_attempts:
                base.move_job(tx, row, _J.RETRY_WAIT, actor=_ACTOR, code=code, next_at=retry_at)
                why = f"{code} {detail}".strip()
                if row.kind == ANALYSE:
                    base.move_case(tx, row.case_id, _C.RUNNING, _C.QUEUED, code="RETRY_LATER", actor=_ACTOR, detail=why)
            else:
                final = code if retry_at is None else "ATTEMPTS_EXHAUSTED"
                why = detail if retry_at is None else f"{code} {detail}".strip()
                _bury(tx, row, code, case_code=final, detail=why, actor=_ACTOR)
            return True

    def expire_leases(self, now: datetime) -> Swept:
        """Take back what died: jobs go to READY or, when the tries are spent, DEAD; sendings are repeated."""
        with self._database.write_if(now, lambda connection: _any(connection, now, _SOME_LOST)) as asked:
            if asked is None:
                return Swept()
            tx, _ = asked
            ready, dead = expire_jobs(tx)
            rows = tx.connection.execute(select(delivery).where(_LOST).order_by(delivery.c.id), _bounds(now)).all()
            for row in rows:
                base.move_delivery(tx, row, _D.UNKNOWN, actor="sweep", code="LEASE_EXPIRED")
                move_to_pending(tx, row.id, "sweep")
            return Swept(ready, dead, len(rows))

    def promote_due(self, now: datetime) -> Swept:
        """Make READY or PENDING what has waited for its time."""
        with self._database.write_if(now, lambda connection: _any(connection, now, _SOME_DUE)) as asked:
            if asked is None:
                return Swept()
            tx, _ = asked
            jobs = tx.connection.execute(select(job).where(_DUE_JOB).order_by(job.c.id), _bounds(now)).all()
            for row in jobs:
                base.move_job(tx, row, _J.READY, actor="sweep", code=row.code)
            due = tx.connection.execute(_DUE_KEYS, _bounds(now)).scalars().all()
            for key in due:
                move_to_pending(tx, key, "sweep")
            return Swept(len(jobs), 0, len(due))


def expire_jobs(tx: Tx) -> tuple[int, int]:
    """Take back jobs whose lease has ended; return how many went READY and DEAD."""
    ready = dead = 0
    for row in tx.connection.execute(select(job).where(_EXPIRED).order_by(job.c.id), _bounds(tx.now)).all():
        if row.attempt < row.max_attempts:
            ready += 1
            base.move_job(tx, row, _J.READY, actor="sweep", code="LEASE_EXPIRED")
            if row.kind == ANALYSE:
                base.move_case(tx, row.case_id, _C.RUNNING, _C.QUEUED, code="LEASE_EXPIRED", actor="sweep")
        else:
            dead += 1
            _bury(tx, row, "LEASE_EXPIRED", case_code="ATTEMPTS_EXHAUSTED", detail="LEASE_EXPIRED", actor="sweep")
    return ready, dead


def plan_deliveries(  # noqa: PLR0917 - the writes' common arguments, and what this one needs
    tx: Tx, case_id: str, destinations: Sequence[str], priority: int, actor: str, withheld: Withheld = EVERYTHING
) -> None:
    """One delivery for each DICOM artefact and destination that takes its kind; one that failed or was cancelled starts again.

    An earlier try's word that nothing was analysed is not sent any more, and nothing at all of a probe.
    """
    of = {"case_id": case_id}
    have = {(row.artefact_id, row.destination): row for row in tx.connection.execute(OF_CASE, of)}
    if have:
        cancel_unsent(tx, case_id, actor, made=~current(case_id))
        have = {(row.artefact_id, row.destination): row for row in tx.connection.execute(OF_CASE, of)}
    made = tx.connection.execute(_TO_SEND, of).all()
    rows = []
    for destination in dict.fromkeys(destinations):
        for key in (row.id for row in made if row.kind not in withheld.get(destination, ())):
            old = have.get((key, destination))
            if old is None:
                rows.append(new_delivery(tx, case_id, key, destination, priority))
            elif old.state in (_D.DEAD, _D.CANCELLED):
                move_to_pending(tx, old.id, actor, afresh=True)
    if rows:
        tx.connection.execute(insert(delivery), rows)
        tx.audit("delivery.planned", actor, case_id, destinations=sorted(set(destinations)), count=len(rows))


def _to_send() -> Any:
    """What a case would send now."""
    case_id: Any = bindparam("case_id")
    own = case_revision.c.root_id == case_root.c.id
    probe = exists().where(own, case_revision.c.id == case_id, case_root.c.issuer == PROBE_ISSUER)
    wanted = (
        (artefact.c.case_id == case_id) & (artefact.c.media_type == "application/dicom") & current(case_id) & ~probe
    )
    wanted = wanted & (artefact.c.kind != REJECTION) & stands()  # notes have places of their own
    return select(artefact.c.id, artefact.c.kind).where(wanted).order_by(artefact.c.id)


_TO_SEND = _to_send()


_KEPT = select(artefact.c.kind, artefact.c.sop_uid, artefact.c.label).where(artefact.c.case_id == bindparam("case_id"))


def keep_artefacts(tx: Tx, case_id: str, artefacts: Sequence[Artefact]) -> None:
    """Store artefacts that the case does not have yet."""
    have = {tuple(row) for row in tx.connection.execute(_KEPT, {"case_id": case_id})}
    rows = [
        {
            "case_id": case_id,
            "kind": made.kind,
            "media_type": made.media_type,
            "study_uid": made.study_instance_uid,
            "series_uid": made.series_instance_uid,
            "sop_class": made.sop_class_uid,
            "sop_uid": made.sop_instance_uid,
            "sha256": made.sha256,
            "size": made.size,
            "label": made.label,
            "created_at": tx.now,
        }
        for made in artefacts
        if (made.kind, made.sop_instance_uid, made.label) not in have
    ]
    if rows:
        tx.connection.execute(insert(artefact), rows)
        sums = [[row["kind"], row["sop_uid"], row["sha256"]] for row in rows]
        tx.audit("artefacts.kept", _ACTOR, case_id, count=len(rows), artefacts=sums)


def _outdated(tx: Tx, case_id: str, family: Sequence[Row[Any]]) -> bool:
    """Whether a newer revision has results already, or an image of this one was taken out while it ran."""
    own = next(row for row in family if row.id == case_id)
    if any(row.revision > own.revision and row.has_result for row in family):
        return True
    return tx.connection.execute(_GONE, {"case_id": case_id, "root_id": own.root_id}).first() is not None


def _gone() -> Any:
    """An image of the case that was taken out."""
    its = (case_input.c.instance_id == exclusion.c.instance_id, case_input.c.case_id == bindparam("case_id"))
    out = (exclusion.c.root_id == bindparam("root_id"), exclusion.c.lifted_at.is_(None))
    return select(exclusion.c.instance_id).where(*out, exists().where(*its)).limit(1)


_GONE = _gone()


def _bury(tx: Tx, row: Any, job_code: str, *, case_code: str, detail: str, actor: str) -> None:
    base.move_job(tx, row, _J.DEAD, actor=actor, code=job_code)
    if row.kind in _UNSAID:
        base.add_findings(tx, row.case_id, [base.Noted(_UNSAID[row.kind], "", f"{job_code} {detail}".strip())], actor)
        return
    base.move_case(tx, row.case_id, _C.RUNNING, _C.NEEDS_ATTENTION, code=case_code, actor=actor, detail=detail)
    plan_telling(tx, row.case_id, row.max_attempts, actor)
    supersede(tx, row.case_id)


def _tell(tx: Tx, row: Any, artefacts: Sequence[Artefact], destinations: Sequence[str], withheld: Withheld) -> None:
    """Store and send what says that nothing was analysed, but for what a newer revision has overtaken."""
    keep_artefacts(tx, row.case_id, artefacts)
    if artefacts and not _outdated(tx, row.case_id, base.family(tx.connection, row.case_id)):
        plan_deliveries(tx, row.case_id, destinations, row.priority, _ACTOR, withheld)


def held_job(tx: Tx, job_id: int, fence: int) -> Any:
    """The job, if it is still his who shows this fence."""
    return tx.connection.execute(_HELD, {"job_id": job_id, "fence": fence}).one_or_none()


_MINE = and_(job.c.id == bindparam("job_id"), job.c.fence == bindparam("fence"), job.c.state == _J.LEASED.value)
_HELD = select(job).where(_MINE)


def _outside(column: ColumnElement[datetime], longest: str) -> ColumnElement[bool]:
    """Whether a time has come, or lies further ahead than any that is ever set."""
    return or_(column <= bindparam("now", type_=Instant()), column > bindparam(longest, type_=Instant()))


def _bounds(now: datetime) -> dict[str, datetime]:
    """What the conditions below are asked with."""
    return {"now": now, "longest_lease": now + _LONGEST_LEASE, "longest_wait": now + _LONGEST_WAIT}


# Built once: the keeper asks twice a second, a worker at each claim that finds nothing.
_KINDS = job.c.kind.in_(
    [ANALYSE, TELL, WITHDRAW]
)  # all there are: with them the index is used, and not every old job looked at
_READY = select(job.c.id).where(job.c.kind == bindparam("kind"), job.c.state == _J.READY.value).limit(1)
_EXPIRED = and_(_KINDS, job.c.state == _J.LEASED.value, _outside(job.c.lease_until, "longest_lease"))
_LOST = and_(delivery.c.state == _D.SENDING.value, _outside(delivery.c.lease_until, "longest_lease"))
_DUE_JOB = and_(_KINDS, job.c.state == _J.RETRY_WAIT.value, _outside(job.c.next_at, "longest_wait"))
_COMES = _outside(delivery.c.next_at, "longest_wait")
_DUE_DELIVERY = or_(
    and_(delivery.c.state.in_([_D.RETRY_WAIT.value, _D.UNKNOWN.value]), or_(delivery.c.next_at.is_(None), _COMES)),
    # A failed proof without a time waits for a person.
    and_(delivery.c.state == _D.COMMIT_FAILED.value, delivery.c.next_at.is_not(None), _COMES),
)
_DUE_KEYS = select(delivery.c.id).where(_DUE_DELIVERY).order_by(delivery.c.id)
_SOME_LOST = (select(job.c.id).where(_EXPIRED).limit(1), select(delivery.c.id).where(_LOST).limit(1))
_SOME_DUE = (select(job.c.id).where(_DUE_JOB).limit(1), _DUE_KEYS.limit(1))


def _any(connection: Connection, now: datetime, questions: Sequence[Any]) -> Any:
    """The first answer that there is."""
    found = (connection.execute(question, _bounds(now)).first() for question in questions)
    return next((row for row in found if row is not None), None)


def some_ready(connection: Connection, kind: str) -> bool:
    """Whether any job of this kind is READY, whatever its case says."""
    return connection.execute(_READY, {"kind": kind}).first() is not None


def ready_jobs(connection: Connection, kind: str, limit: int) -> list[tuple[int, int]]:
    """Number and priority of the jobs that may be claimed, in the order in which they should be: STAT and others each."""
    lanes = [connection.execute(query, {"most": limit}).all() for query in _waiting(kind)]
    return [(row.id, row.priority) for lane in lanes for row in lane]


@cache
def _waiting(kind: str) -> tuple[Any, Any]:
    """STAT and the others; built once, since the relay asks ten times a second."""
    query = _ready(kind).with_only_columns(job.c.id, job.c.priority).limit(bindparam("most", type_=Integer))
    return query.where(job.c.priority >= STAT_PRIORITY), query.where(job.c.priority < STAT_PRIORITY)


@dataclass(frozen=True, slots=True)
class _Best:
    """The question for the job to claim, the one that also locks, and whether such a job's lease has ended."""

    first: Any
    locked: Any
    expired: Any


@cache
def _best(kind: str, *, named: bool = False, routine_first: bool = False) -> _Best:
    """Built once each. named: the job with the number `job_id`."""
    query = _ready(kind).where(job.c.id == bindparam("job_id")) if named else _ready(kind, routine_first=routine_first)
    # On PostgreSQL workers that ask at the same time choose different cases: the patient's row is locked, which
    # nobody else ever locks, so whoever holds the audit's head waits for none of them.
    one = query.limit(1)
    locked = one.with_only_columns(job.c.id).with_for_update(of=case_root, key_share=True, skip_locked=True)
    such = job.c.id == bindparam("job_id") if named else job.c.kind == kind
    return _Best(one, locked, select(job.c.id).where(such, _EXPIRED).limit(1))


def _ready(kind: str, *, routine_first: bool = False) -> Any:
    # Revisions of a case run in their order, so that each one can name its predecessor.
    older = case_revision.alias("older")
    begun = exists().where(
        older.c.root_id == case_revision.c.root_id,
        older.c.revision < case_revision.c.revision,
        older.c.state.in_([_C.QUEUED, _C.RUNNING]),
    )
    # What takes back what was said goes whatever becomes of the case.
    said = {TELL: case_revision.c.state.in_(TOLD), WITHDRAW: true()}
    may = said.get(kind, and_(case_revision.c.state == _C.QUEUED, ~begun))
    return (
        select(job)
        .join_from(job, case_revision, job.c.case_id == case_revision.c.id)
        .join(case_root, case_revision.c.root_id == case_root.c.id)
        .where(job.c.kind == kind, job.c.state == _J.READY, may)
        .order_by(*([job.c.priority >= STAT_PRIORITY] if routine_first else []), job.c.priority.desc(), job.c.id)
    )
