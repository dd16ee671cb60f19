"""Proof of landing: a stored object counts as delivered only once its destination has shown that it holds it.

Who asks and how is the flows' business. Here: what is still to be proved, which commitment transactions are ours, and
what an answer does, whoever brings it, however often and however late.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select, update

from casework.case import CaseState, DeliveryState, Proof
from casework.ledger import store_base as base
from casework.ledger.database import Tx
from casework.ledger.schema import artefact, case_revision, commitment, delivery
from casework.ledger.store_cases import explain
from casework.ledger.store_delivery import STORED, artefact_of, finish_case
from casework.ledger.types import Resend, Unproved

_D = DeliveryState
_ACTOR = "prove"
_WAYS = ("commitment", "query")  # named, so that an index leads past all that needs no proof


class ProofStore(base.Store):
    """The part of the facade for those who ask destinations, and for those who bring their answers."""

    def unproved(self, destination: str, now: datetime, limit: int = 200) -> list[Unproved]:
        """What is to be asked about now, oldest first: of cases that have nothing more on its way to this destination."""
        other = delivery.alias("other")
        on_its_way = select(other.c.id).where(
            other.c.case_id == delivery.c.case_id,
            other.c.destination == destination,
            other.c.state.in_([_D.PENDING, _D.SENDING]),
        )
        query = (
            select(delivery.c.stored_at, delivery.c.transaction_uid, delivery.c.id.label("delivery_id"), artefact)
            .join_from(delivery, artefact, delivery.c.artefact_id == artefact.c.id)
            .where(delivery.c.destination == destination, _awaited())
            .where(or_(delivery.c.next_at.is_(None), delivery.c.next_at <= now), ~on_its_way.exists())
            .order_by(delivery.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [
                Unproved(row.delivery_id, row.case_id, artefact_of(row), row.stored_at, bool(row.transaction_uid))
                for row in connection.execute(query)
            ]

    def ask_commitment(
        self, uid: str, destination: str, delivery_ids: Sequence[int], until: datetime, now: datetime
    ) -> None:
        """Note a transaction before the destination hears of it, so that its answer is known however early it comes."""
        with self._database.write(now) as tx:
            row = {"uid": uid, "destination": destination, "deliveries": {"ids": list(delivery_ids)}, "asked_at": now}
            tx.connection.execute(insert(commitment), row)
            mine = and_(delivery.c.id.in_(delivery_ids), _awaited())
            tx.connection.execute(update(delivery).where(mine).values(transaction_uid=uid, next_at=until))
            tx.audit(
                "commitment.asked", _ACTOR, "", f"commitment:{uid}", destination=destination, count=len(delivery_ids)
            )

    def look_later(self, waits: Mapping[int, datetime], now: datetime) -> None:
        """Put off the next look at these deliveries."""
        with self._database.write(now) as tx:
            for delivery_id, next_at in waits.items():
                mine = and_(delivery.c.id == delivery_id, _awaited())
                tx.connection.execute(update(delivery).where(mine).values(next_at=next_at))

    def settle_proofs(self, destination: str, proofs: Sequence[Proof], resend: Resend, now: datetime) -> int:
        """Take what a destination showed; objects that are not awaiting proof are left alone. Returns how many moved."""
        by_uid = {proof.sop_instance_uid: proof for proof in proofs}
        with self._database.write(now) as tx:
            rows = [row for row in _awaiting(tx.connection, destination) if row.sop_uid in by_uid]
            return _settle(tx, [(row, by_uid[row.sop_uid]) for row in rows], resend)

    def commitment_report(
        self, uid: str, destinations: Sequence[str], proofs: Sequence[Proof], resend: Resend, now: datetime
    ) -> bool:
        """Take a commitment report of one of these destinations; False: it names no transaction of theirs.

        Safe to repeat. That an object is held counts however late it is said, if it was asked after the object was sent last:
        an older answer is about a copy that was lost since. That it is not held counts in the answer to the newest question only.
        """
        with self._database.write(now) as tx:
            known = tx.connection.execute(select(commitment).where(commitment.c.uid == uid)).one_or_none()
            if known is None or known.destination not in destinations:
                return False
            by_uid = {proof.sop_instance_uid: proof for proof in proofs}
            rows = [
                (row, by_uid[row.sop_uid])
                for row in _awaiting(tx.connection, known.destination)
                if row.id in known.deliveries["ids"] and row.sop_uid in by_uid
            ]
            told = [
                (row, proof)
                for row, proof in rows
                if row.transaction_uid == uid or (proof.held and row.stored_at <= known.asked_at)
            ]
            first = known.answered_at is None
            if first:
                tx.connection.execute(update(commitment).where(commitment.c.uid == uid).values(answered_at=now))
            if first or told:
                bad = sum(not proof.held for proof in proofs)
                about = {"destination": known.destination, "count": len(proofs), "failed": bad, "moved": len(told)}
                tx.audit("commitment.reported", _ACTOR, "", f"commitment:{uid}", **about)
            _settle(tx, told, resend)
            return True

    def waive_proofs(self, destination: str, now: datetime) -> int:
        """The configuration asks this destination for no proof any more: its answer to the store is enough."""
        with self._database.read() as connection:
            if not _awaiting(connection, destination):
                return 0
        with self._database.write(now) as tx:
            rows = _awaiting(tx.connection, destination)
            for row in rows:
                values = {"proof": "", "next_at": None}
                tx.connection.execute(update(delivery).where(delivery.c.id == row.id).values(values))
                tx.audit("delivery.proof_waived", _ACTOR, row.case_id, f"delivery:{row.id}", destination=destination)
            _finish(tx, rows)
            return len(rows)

    def note_late_proofs(self, before: datetime, now: datetime) -> int:
        """Say PROOF_LATE on cases of which a destination stored something before then and hasn't proved it."""
        query = (
            select(delivery.c.case_id, func.min(delivery.c.destination).label("destination"))
            .join_from(delivery, case_revision, delivery.c.case_id == case_revision.c.id)
            .where(_awaited(), delivery.c.stored_at < before)
            .where(case_revision.c.state == CaseState.DELIVERING, case_revision.c.reason == "PROOF_PENDING")
            .group_by(delivery.c.case_id)
        )
        with self._database.read() as connection:
            late = connection.execute(query).all()
        if not late:
            return 0
        with self._database.write(now) as tx:
            for row in late:
                where = row.destination
                explain(tx, row.case_id, CaseState.DELIVERING, code="PROOF_LATE", detail=where, actor=_ACTOR)
        return len(late)


def unproved_by_destination(connection: Connection) -> dict[str, tuple[int, datetime]]:
    """How many objects each destination has yet to prove, and when the oldest was stored."""
    query = select(delivery.c.destination, func.count().label("n"), func.min(delivery.c.stored_at).label("oldest"))
    rows = connection.execute(query.where(_awaited()).group_by(delivery.c.destination))
    return {row.destination: (row.n, row.oldest) for row in rows}


def _awaited() -> Any:
    return and_(delivery.c.proof.in_(_WAYS), delivery.c.state.in_(STORED))


def _awaiting(connection: Connection, destination: str) -> Sequence[Any]:
    query = (
        select(delivery, artefact.c.sop_uid)
        .join_from(delivery, artefact, delivery.c.artefact_id == artefact.c.id)
        .where(delivery.c.destination == destination, _awaited())
        .order_by(delivery.c.id)
    )
    return connection.execute(query).all()


def _settle(tx: Tx, told: Sequence[tuple[Any, Proof]], resend: Resend) -> int:
    for row, proof in told:
        if proof.held:
            code = "PEER_WARNED" if row.state == _D.STORED_WITH_WARNING else "COMMITTED"
            base.move_delivery(tx, row, _D.COMMITTED, actor=_ACTOR, code=code, status=row.status, proof=proof.how)
            continue
        again = proof.again and row.resends < resend.most
        values: dict[str, Any] = {"next_at": resend.at, "resends": row.resends + 1} if again else {}
        status = proof.status or row.status
        base.move_delivery(tx, row, _D.COMMIT_FAILED, actor=_ACTOR, code=proof.code, status=status, **values)
    _finish(tx, [row for row, _ in told])
    return len(told)


def _finish(tx: Tx, rows: Sequence[Any]) -> None:
    for case_id in sorted({row.case_id for row in rows}):
        finish_case(tx, case_id, _ACTOR)
