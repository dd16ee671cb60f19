"""What the site's policy removes. First the ledger says that something is gone, then its bytes go, then the ledger says that they went.

A crash between leaves only bytes that the ledger no longer promises, and the next turn takes them. Nothing is taken of a patient and window
(root) with a case that is not at its end, work or sendings that wait, a delivery that is not proved, an undecided doubt, or a hold.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, func, insert, or_, select, union_all, update

from casework.case import CaseState, DeliveryState, JobState, NoticeState
from casework.errors import Refused
from casework.ledger import store_base as base
from casework.ledger.database import Tx
from casework.ledger.schema import artefact, case_revision, delivery, doubt, instance, job, notice
from casework.ledger.schema_retention import hold, removal

IMAGES, RESULTS = "images", "results"
CODES = {IMAGES: "IMAGES_EXPIRED", RESULTS: "RESULTS_EXPIRED"}
ACTOR = "retention"
_CHUNK = 500
_C, _D, _J = CaseState, DeliveryState, JobState
_AT_REST = (_C.DELIVERED, _C.REJECTED, _C.SUPERSEDED, _C.CLOSED, _C.RETRACTED)
_WORK = (_J.READY, _J.LEASED, _J.RETRY_WAIT)
_LANDED = (_D.STORED, _D.STORED_WITH_WARNING)


@dataclass(frozen=True, slots=True)
class Rule:
    """What of one kind is removed: what belongs to roots that rest since before `before`. `days` is only said."""

    kind: str
    days: int
    before: datetime


@dataclass(frozen=True, slots=True)
class Due:
    """What a rule would remove now."""

    kind: str
    objects: int
    bytes: int
    cases: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """One object that the ledger says is gone, and since when; its bytes may still be there."""

    sha256: str
    kind: str
    since: datetime


def gone(sha256: Any) -> ColumnElement[bool]:
    """Condition: the bytes with this digest were removed and did not come back."""
    return exists().where(removal.c.sha256 == sha256, removal.c.returned_at.is_(None))


def returned(tx: Tx, digests: Iterable[str]) -> int:
    """Note that bytes which had been removed are here again; how many."""
    here = removal.c.sha256.in_(sorted(set(digests))) & removal.c.returned_at.is_(None)
    count = tx.connection.execute(update(removal).where(here).values(returned_at=tx.now)).rowcount
    if count:
        tx.audit("retention.returned", ACTOR, count=count)
    return count


def all_gone(connection: Connection, digests: Sequence[str]) -> set[str]:
    """Which of these the policy removed."""
    if connection.execute(select(removal.c.id).limit(1)).first() is None:
        return set()  # the usual site: one question to an empty table
    found: set[str] = set()
    for at in range(0, len(digests), _CHUNK):
        here = removal.c.sha256.in_(digests[at : at + _CHUNK]) & removal.c.returned_at.is_(None)
        found.update(connection.execute(select(removal.c.sha256).where(here)).scalars())
    return found


def refuse_if_gone(connection: Connection, case_id: str) -> None:
    """Before results are sent or withdrawn.

    Raises:
        Refused: RESULTS_REMOVED.
    """
    if is_gone(connection, case_id):
        raise Refused("RESULTS_REMOVED")


def is_gone(connection: Connection, case_id: str) -> bool:
    """Whether the policy has removed results of a case."""
    mine = select(artefact.c.id).where(artefact.c.case_id == case_id, gone(artefact.c.sha256)).limit(1)
    return connection.execute(mine).first() is not None


class RetentionStore(base.Store):
    """The keeper's and the operators' part of the facade."""

    def retention_due(self, rule: Rule) -> Due:
        """What a rule would remove, all of it; nothing is changed."""
        table, owner = _TABLES[rule.kind]
        query = select(func.count(), func.coalesce(func.sum(table.c.size), 0), func.count(owner.distinct()))
        with self._database.read() as connection:
            count, size, cases = connection.execute(query.where(_may_go(rule))).one()
        return Due(rule.kind, count, int(size), cases)

    def let_go(self, rule: Rule, limit: int, now: datetime) -> int:
        """Say of at most `limit` objects that they are gone, durably and in the audit of their cases, with counts only; how many."""
        table, owner = _TABLES[rule.kind]
        query = select(table.c.sha256, table.c.size, owner.label("owner")).where(_may_go(rule))
        with self._database.write(now) as tx:
            rows = tx.connection.execute(query.order_by(table.c.id).limit(limit)).all()
            if not rows:
                return 0
            sizes = {row.sha256: row.size for row in rows}
            made = {"kind": rule.kind, "at": now, "days": rule.days}
            tx.connection.execute(insert(removal), [{"sha256": sha, **made} for sha in sizes])
            for owner_id in dict.fromkeys(row.owner for row in rows):
                mine = [row.size for row in rows if row.owner == owner_id]
                case_id = _newest_of(tx.connection, owner_id) if rule.kind == IMAGES else owner_id
                said = {"code": CODES[rule.kind], "count": len(mine), "bytes": sum(mine), "days": rule.days}
                tx.audit(f"retention.{rule.kind}", ACTOR, case_id, **said)
        return len(sizes)

    def leaving(self, limit: int) -> list[Leaving]:
        """What is said to be gone and whose bytes were not seen to go."""
        query = select(removal).where(removal.c.erased_at.is_(None), removal.c.returned_at.is_(None))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(removal.c.id).limit(limit)).all()
        return [Leaving(row.sha256, row.kind, row.at) for row in rows]

    def note_erased(self, erased: Sequence[str], came_back: Sequence[str], now: datetime) -> None:
        """Note which bytes are off the disk, and which somebody has sent again meanwhile."""
        with self._database.write(now) as tx:
            open_rows = removal.c.sha256.in_(erased) & removal.c.erased_at.is_(None) & removal.c.returned_at.is_(None)
            count = tx.connection.execute(update(removal).where(open_rows).values(erased_at=now)).rowcount
            if count:
                tx.audit("retention.erased", ACTOR, count=count)
            if came_back:
                returned(tx, came_back)

    def forget_notices(self, before: datetime, limit: int, now: datetime) -> int:
        """Empty the bodies of webhooks' events that were taken before then; how many."""
        taken = (notice.c.state == NoticeState.SENT) & (notice.c.changed_at < before) & (notice.c.body != "")
        with self._database.write(now) as tx:
            keys = tx.connection.execute(select(notice.c.id).where(taken).limit(limit)).scalars().all()
            if keys:
                tx.connection.execute(update(notice).where(notice.c.id.in_(keys)).values(body=""))
                tx.audit("retention.webhooks", ACTOR, count=len(keys))
        return len(keys)

    def hold_case(self, case_id: str, actor: str, now: datetime, detail: str = "") -> bool:
        """Keep everything of the case's patient and window until `lift_hold`; False: that is so already.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.write(now) as tx:
            root_id = base.get_case(tx.connection, case_id).root_id
            if tx.connection.execute(select(hold.c.id).where(_held(root_id))).first() is not None:
                return False
            row = {"root_id": root_id, "actor": base.words(actor), "detail": base.words(detail), "at": now}
            tx.connection.execute(insert(hold), row)
            tx.audit("case.held", actor, case_id, code="ON_HOLD")
        return True

    def lift_hold(self, case_id: str, actor: str, now: datetime) -> bool:
        """Let the policy count again; False: there is no hold.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.write(now) as tx:
            root_id = base.get_case(tx.connection, case_id).root_id
            lifted = tx.connection.execute(update(hold).where(_held(root_id)).values(lifted_at=now)).rowcount > 0
            if lifted:
                tx.audit("case.hold_lifted", actor, case_id)
        return lifted

    def removed_bytes(self, sha256: str) -> bool:
        """Whether the policy removed these bytes."""
        with self._database.read() as connection:
            return bool(connection.execute(select(gone(sha256))).scalar_one())


_TABLES: dict[str, tuple[Any, Any]] = {
    IMAGES: (instance, instance.c.root_id),
    RESULTS: (artefact, artefact.c.case_id),
}


def _held(root_id: Any) -> ColumnElement[bool]:
    return and_(hold.c.root_id == root_id, hold.c.lifted_at.is_(None))


def _busy(before: datetime) -> Any:
    """Roots of which nothing may go: something is under way or to be decided, is held, or has changed since `before`."""
    revision = case_revision.c
    unproved = and_(delivery.c.state.in_(_LANDED), delivery.c.proof != "")
    unsent = delivery.c.state.not_in([*_LANDED, _D.COMMITTED, _D.CANCELLED])
    changed = or_(revision.changed_at >= before, revision.last_at >= before)
    return union_all(
        select(revision.root_id).where(or_(revision.state.not_in(_AT_REST), changed)),
        select(revision.root_id).join(job, job.c.case_id == revision.id).where(job.c.state.in_(_WORK)),
        select(revision.root_id).join(delivery, delivery.c.case_id == revision.id).where(or_(unproved, unsent)),
        select(doubt.c.root_id).where(doubt.c.decision == ""),
        select(hold.c.root_id).where(hold.c.lifted_at.is_(None)),
    )


def _may_go(rule: Rule) -> ColumnElement[bool]:
    """Condition on the rule's table. Subqueries name no table of the query around them but this one, so that none is mistaken for it."""
    table, _ = _TABLES[rule.kind]
    resting = (
        select(case_revision.c.id, case_revision.c.root_id)
        .where(case_revision.c.root_id.not_in(_busy(rule.before)))
        .subquery()
    )
    if rule.kind == IMAGES:
        mine = instance.c.root_id.in_(select(resting.c.root_id))
        old = instance.c.received_at < rule.before
        shared: ColumnElement[bool] = exists().where(artefact.c.sha256 == table.c.sha256)
    else:
        mine, old = artefact.c.case_id.in_(select(resting.c.id)), artefact.c.created_at < rule.before
        other = artefact.alias("other")
        shared = exists().where(other.c.sha256 == artefact.c.sha256, other.c.id != artefact.c.id)
        held = delivery.c.state.in_([*_LANDED, _D.COMMITTED])
        sent = exists().where(delivery.c.artefact_id == artefact.c.id, held)
        beside = exists().where(delivery.c.case_id == artefact.c.case_id, held)  # of what is never sent itself
        old = and_(old, or_(sent, and_(artefact.c.media_type != "application/dicom", beside)))
    lately = exists().where(removal.c.sha256 == table.c.sha256, removal.c.returned_at >= rule.before)
    return and_(old, mine, ~shared, ~lately, ~gone(table.c.sha256))


def _newest_of(connection: Connection, root_id: str) -> str:
    query = (
        select(case_revision.c.id).where(case_revision.c.root_id == root_id).order_by(case_revision.c.revision.desc())
    )
    return str(connection.execute(query.limit(1)).scalar_one())


def rules(days: dict[str, int], now: datetime) -> list[Rule]:
    """Rules of kinds that are not kept for ever."""
    return [Rule(kind, count, now - timedelta(days=count)) for kind, count in days.items() if count]
