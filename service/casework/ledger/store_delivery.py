"""Deliveries: each stored object on its way to each destination, claimed per destination so that none waits for another."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, Row, and_, bindparam, exists, func, or_, select, update

from casework.case import (
    CASE_MOVES,
    DELIVERY_MOVES,
    NOT_PERFORMED,
    REJECTION,
    STAT_PRIORITY,
    Artefact,
    CaseState,
    DeliveryState,
)
from casework.ledger import store_base as base
from casework.ledger.database import Tx
from casework.ledger.schema import artefact, case_revision, delivery, withdrawal
from casework.ledger.store_cases import explain
from casework.ledger.types import ClaimedDelivery

_C, _D = CaseState, DeliveryState
STORED = (_D.STORED, _D.STORED_WITH_WARNING)
# One dead delivery doesn't hold up the others; what says that nothing was analysed goes out from REJECTED and CLOSED.
SENDABLE = (_C.DELIVERING, _C.NEEDS_ATTENTION, _C.REJECTED, _C.CLOSED)
_ACTOR = "deliver"
_PAGE = 32
_ANY = 1 << 30  # above every priority
OF_CASE = select(delivery).where(delivery.c.case_id == bindparam("case_id")).order_by(delivery.c.id)


class DeliveryStore(base.Store):
    """The senders' part of the facade."""

    def claim_delivery(
        self, destination: str, owner: str, lease_s: float, now: datetime, *, routine_first: bool = False
    ) -> ClaimedDelivery | None:
        """Take the most urgent, oldest PENDING object for one destination; None: nothing to send.

        routine_first: so that STAT starves nobody.
        """

        def choose(connection: Connection) -> Any:
            return (routine_first and _next_pending(connection, destination, below=STAT_PRIORITY)) or _next_pending(
                connection, destination
            )

        with self._database.write_if(now, choose) as asked:
            if asked is None:
                return None
            tx, _ = asked
            row = choose(tx.connection)
            if row is None:
                return None
            fence, attempt = row.fence + 1, row.attempt + 1
            lease = now + timedelta(seconds=lease_s)
            taken = {"fence": fence, "attempt": attempt, "owner": base.words(owner), "lease_until": lease}
            base.move_delivery(tx, row, _D.SENDING, actor=_ACTOR, **taken)
            stored = tx.connection.execute(select(artefact).where(artefact.c.id == row.artefact_id)).one()
            what = artefact_of(stored)
            return ClaimedDelivery(
                row.id, row.case_id, row.destination, what, fence, attempt, row.first_at, row.priority
            )

    def heartbeat_delivery(self, delivery_id: int, fence: int, lease_s: float, now: datetime) -> bool:
        """Prolong a sender's lease; False: the delivery is somebody else's now."""
        values = {"lease_until": now + timedelta(seconds=lease_s)}
        with self._database.write(now) as tx:
            return tx.connection.execute(update(delivery).where(_mine(delivery_id, fence)).values(values)).rowcount == 1

    def finish_delivery(  # noqa: PLR0917 - the contract's signature
        self,
        delivery_id: int,
        fence: int,
        state: DeliveryState,
        status: str,
        code: str,
        next_at: datetime | None,
        now: datetime,
        proof: str = "",
    ) -> bool:
        """Note how a sending ended; the last one of a case makes it DELIVERED, a dead one NEEDS_ATTENTION.

        `next_at`: when RETRY_WAIT or UNKNOWN becomes PENDING again (None: at the next sweep). False: fenced off.
        `proof`: "commitment" or "query" when a stored object has yet to be proved; "" when the answer is enough.

        Raises:
            Defect: ILLEGAL_MOVE, a sending can't end in `state`.
        """
        with self._database.write(now) as tx:
            row = tx.connection.execute(select(delivery).where(_mine(delivery_id, fence))).one_or_none()
            if row is None:
                return False
            values: dict[str, Any] = {"next_at": next_at} if state in (_D.RETRY_WAIT, _D.UNKNOWN) else {}
            if state in STORED:
                values = {"proof": proof, "stored_at": now, "transaction_uid": ""}
            base.move_delivery(tx, row, state, actor=_ACTOR, code=code, status=status, **values)
            finish_case(tx, row.case_id, _ACTOR)
            return True


def landed(row: Any) -> bool:
    """Whether nothing more is to come of a delivery: it is proved, or stored where the answer is proof enough."""
    return row.state in (_D.COMMITTED, _D.CANCELLED) or (row.state in STORED and not row.proof)


def given_up(row: Any) -> bool:
    """Whether only a person can bring a delivery on."""
    return row.state == _D.DEAD or (row.state == _D.COMMIT_FAILED and row.next_at is None)


def finish_case(tx: Tx, case_id: str, actor: str, family: Sequence[Row[Any]] = ()) -> None:
    """Bring a case's state in line with its deliveries. family: what this transaction has read of it, if the case's row is as it was."""
    family = family or base.family(tx.connection, case_id)
    case = next(row for row in family if row.id == case_id)
    if case.retraction:
        finish_retraction(tx, case_id, actor)
        return
    rows = tx.connection.execute(OF_CASE, {"case_id": case_id}).all()
    open_ = [row for row in rows if not landed(row)]
    dead = next((row for row in rows if given_up(row)), None)
    state, moved = CaseState(case.state), False
    if state is _C.SUPERSEDED:  # it was on the wire when a newer one was made, and did not arrive
        cancel_unsent(tx, case_id, actor)
    if state is _C.CLOSED:  # so it is with what was on the wire when a person closed the case
        said = () if case.reason == "DISMISSED" else NOT_PERFORMED
        cancel_unsent(tx, case_id, actor, code="CANCELLED", but=said)
    if state is _C.RENDERED and open_:
        base.move_case(tx, case_id, state, _C.DELIVERING, code="DELIVERING", actor=actor)
        state, moved = _C.DELIVERING, True
    # DELIVERED: a note that withdraws an older revision's results in a study was refused.
    if state in (_C.DELIVERING, _C.REJECTED, _C.DELIVERED) and dead is not None:
        where = f"{dead.destination} {dead.status}".strip()
        base.move_case(tx, case_id, state, _C.NEEDS_ATTENTION, code=dead.code, actor=actor, detail=where)
    elif state in (_C.RENDERED, _C.DELIVERING) and not open_:
        code = "DELIVERED" if rows else "NO_DESTINATION"
        base.move_case(tx, case_id, state, _C.DELIVERED, code=code, actor=actor)
    elif state is _C.DELIVERING:
        late = next((row for row in open_ if row.state in (_D.RETRY_WAIT, _D.UNKNOWN, _D.COMMIT_FAILED)), None)
        detail = f"{late.destination} {late.code}".strip() if late else ""
        code = "RETRY_LATER" if late else "DELIVERING"
        if all(row.state in STORED for row in open_):
            code = "PROOF_PENDING"
        if not moved or (code, detail) != ("DELIVERING", ""):  # else the move has just said it
            explain(tx, case_id, state, code=code, detail=detail, actor=actor)
    if len(family) > 1:
        supersede(tx, case_id)


def finish_retraction(tx: Tx, case_id: str, actor: str) -> None:
    """Of a retracted case only the rejection notes go on their way; one that can't arrive needs a person."""
    query = select(delivery, artefact.c.kind).join_from(delivery, artefact, delivery.c.artefact_id == artefact.c.id)
    rows = tx.connection.execute(query.where(delivery.c.case_id == case_id).order_by(delivery.c.id)).all()
    for row in rows:
        if row.kind == REJECTION or landed(row) or row.state == _D.SENDING:
            continue
        if row.state in STORED:  # nobody waits for the proof any more
            tx.connection.execute(update(delivery).where(delivery.c.id == row.id).values(proof="", next_at=None))
        else:
            base.move_delivery(tx, row, _D.CANCELLED, actor=actor, code=row.code, status=row.status)
    dead = next((row for row in rows if row.kind == REJECTION and given_up(row)), None)
    if dead is not None and base.get_case(tx.connection, case_id).state is _C.RETRACTED:
        where = f"{dead.destination} {dead.status}".strip()
        base.move_case(tx, case_id, _C.RETRACTED, _C.NEEDS_ATTENTION, code=dead.code, actor=actor, detail=where)


def supersede(tx: Tx, case_id: str) -> None:
    """Once a revision is DELIVERED, every older one whose state allows it is SUPERSEDED."""
    # What was withdrawn stays so: it is not replaced by anything.
    rows = [row for row in base.family(tx.connection, case_id) if not row.retraction]
    newest = max((row.revision for row in rows if row.state == _C.DELIVERED), default=0)
    for row in rows:
        state = CaseState(row.state)
        if row.revision < newest and _C.SUPERSEDED in CASE_MOVES[state]:
            base.move_case(tx, row.id, state, _C.SUPERSEDED, code="SUPERSEDED", actor=_ACTOR)


def supersede_unsent(tx: Tx, case_id: str, family: Sequence[Row[Any]], actor: str) -> None:
    """A revision has results: what is left of older ones is not sent any more, so that none arrives after it."""
    own = next(row for row in family if row.id == case_id)
    for row in family:
        # What was withdrawn stays so, and its notes go on.
        if row.revision < own.revision and row.state in SENDABLE and not row.retraction:
            base.move_case(tx, row.id, CaseState(row.state), _C.SUPERSEDED, code="SUPERSEDED", actor=actor)
            cancel_unsent(tx, row.id, actor)


def cancel_unsent(
    tx: Tx, case_id: str, actor: str, *, code: str = "SUPERSEDED", but: Collection[str] = (), made: Any = None
) -> None:
    """Nothing of this revision begins to be sent any more, `but` these kinds and notes; what is on the wire arrives.

    A rejection note is about what is there already: it goes on whatever becomes of the revision that it belongs to.

    made: a condition on the artefacts that this is about.
    """
    states = [state for state, targets in DELIVERY_MOVES.items() if _D.CANCELLED in targets]
    waiting = (
        select(delivery)
        .join_from(delivery, artefact, delivery.c.artefact_id == artefact.c.id)
        .where(delivery.c.case_id == case_id, delivery.c.state.in_(states), artefact.c.kind.not_in({REJECTION, *but}))
        .order_by(delivery.c.id)
    )
    for row in tx.connection.execute(waiting if made is None else waiting.where(made)).all():
        base.move_delivery(tx, row, _D.CANCELLED, actor=actor, code=code, status=row.status)


def current(case_id: Any) -> ColumnElement[bool]:
    """Condition on `artefact`: it is what the case says now. A later try's verdict takes the place of earlier ones'."""
    other = artefact.alias("other")
    newest = select(func.max(other.c.created_at)).where(other.c.case_id == case_id, other.c.kind != REJECTION)
    return or_(artefact.c.kind.not_in(NOT_PERFORMED), artefact.c.created_at == newest.scalar_subquery())


def stands() -> ColumnElement[bool]:
    """Condition on `artefact`: nobody has withdrawn it."""
    return ~exists().where(withdrawal.c.artefact_id == artefact.c.id)


def move_to_pending(tx: Tx, delivery_id: int, actor: str, *, afresh: bool = False) -> None:
    """Make a delivery PENDING; `afresh` starts its tries and its horizon again (a person asked)."""
    row = tx.connection.execute(select(delivery).where(delivery.c.id == delivery_id)).one()
    values: dict[str, Any] = {"attempt": 0, "first_at": tx.now, "resends": 0} if afresh else {}
    if row.state == _D.COMMIT_FAILED:  # a new sending with a horizon of its own
        values.update(attempt=0, first_at=tx.now)
    base.move_delivery(tx, row, _D.PENDING, actor=actor, code=row.code, status=row.status, **values)


def new_delivery(tx: Tx, case_id: str, artefact_id: int, destination: str, priority: int) -> dict[str, Any]:
    """The row of a new delivery."""
    return {
        "case_id": case_id,
        "artefact_id": artefact_id,
        "destination": destination,
        "state": _D.PENDING,
        "priority": priority,
        "attempt": 0,
        "fence": 0,
        "owner": "",
        "status": "",
        "code": "",
        "first_at": tx.now,
        "changed_at": tx.now,
        "proof": "",
        "resends": 0,
        "transaction_uid": "",
    }


def artefact_of(row: Any) -> Artefact:
    """Build the artefact that others see."""
    return Artefact(
        kind=row.kind,
        media_type=row.media_type,
        study_instance_uid=row.study_uid,
        series_instance_uid=row.series_uid,
        sop_class_uid=row.sop_class,
        sop_instance_uid=row.sop_uid,
        sha256=row.sha256,
        size=row.size,
        label=row.label,
    )


def _mine(delivery_id: int, fence: int) -> Any:
    return and_(delivery.c.id == delivery_id, delivery.c.fence == fence, delivery.c.state == _D.SENDING)


def _next_pending(connection: Connection, destination: str, below: int = _ANY) -> Any:
    """The next object of a lower priority than `below`, None without one. Looks at few: a long queue is not judged as a whole."""
    start, to = 0, {"destination": destination}
    while page := connection.execute(_PENDING, {**to, "start": start, "below": below}).scalars().all():
        row = connection.execute(_MAY_GO, {**to, "page": page}).first()
        if row is not None:
            return row
        start += _PAGE
    return None


def _pending() -> Any:
    """A page of what waits for one destination."""
    mine = [delivery.c.destination == bindparam("destination"), delivery.c.state == _D.PENDING]
    mine.append(delivery.c.priority < bindparam("below", type_=Integer))
    queue = select(delivery.c.id).where(*mine).order_by(delivery.c.priority.desc(), delivery.c.id)
    return queue.limit(_PAGE).offset(bindparam("start", type_=Integer))


def _may_go() -> Any:
    """The first of a page of pending objects that may be sent now, the most urgent and oldest first.

    An older revision's never follow a newer one's: they were cancelled when the newer one was made (supersede_unsent), and
    what of them is on its way arrives first. Of a retracted case only its
    rejection notes go, whatever came after, and only once nothing else of it is on its way.
    """
    other, its = delivery.alias("other"), case_revision.alias("its")
    of_root = (
        select(other.c.id)
        .join_from(other, its, other.c.case_id == its.c.id)
        .where(other.c.destination == delivery.c.destination, its.c.root_id == case_revision.c.root_id)
    )
    note = artefact.c.kind == REJECTION
    before = or_(its.c.revision < case_revision.c.revision, and_(note, its.c.revision == case_revision.c.revision))
    on_its_way = of_root.where(before, other.c.state == _D.SENDING)
    held = exists().where(base.undecided(case_revision.c.root_id))  # what is in doubt is not sent at all
    # ... but for the word that nothing was analysed: it goes out because of the doubt.
    ready = or_(~held, artefact.c.kind.in_(NOT_PERFORMED))
    ordinary = and_(case_revision.c.state.in_(SENDABLE), case_revision.c.retraction == "", ready)
    return (
        select(delivery)
        .join_from(delivery, case_revision, delivery.c.case_id == case_revision.c.id)
        .join(artefact, delivery.c.artefact_id == artefact.c.id)
        .where(delivery.c.destination == bindparam("destination"), delivery.c.state == _D.PENDING)
        .where(or_(note, ordinary), ~on_its_way.exists(), delivery.c.id.in_(bindparam("page", expanding=True)))
        .order_by(delivery.c.priority.desc(), delivery.c.id)
        .limit(1)
    )


_PENDING, _MAY_GO = _pending(), _may_go()  # built once: each idle sender asks four times a second
