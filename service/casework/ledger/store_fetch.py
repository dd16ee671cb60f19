"""Fetching from a PACS: which cases to ask for, what the PACS named, and whose turn it is. Claim, lease and fence as jobs have.

A PACS gives one study at a time and so many an hour, counted here, so that restarts and several processes don't add up.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, and_, func, insert, or_, select, update

from casework.anatomy import elsewhere
from casework.case import CANDIDATE_MOVES, ORDER_MOVES, CandidateState, CaseState, OrderState
from casework.errors import Defect, Refused
from casework.ledger import store_base as base
from casework.ledger.columns import clean
from casework.ledger.database import Tx
from casework.ledger.schema import (
    case_revision,
    case_root,
    fetch_candidate,
    fetch_order,
    instance,
    study,
)
from casework.ledger.store_retention import gone
from casework.ledger.types_fetch import ClaimedCandidate, ClaimedOrder, HereStudy, Listed, images_in
from casework.reasons import reason as known_reason

_C, _O, _F = CaseState, OrderState, CandidateState
ACTOR = "fetch"
_HOUR = timedelta(hours=1)
_OPEN = (_C.RECEIVING, _C.STABLE, _C.QUEUED)


class FetchStore(base.Store):
    """The fetcher's part of the facade."""

    def plan_fetches(self, destination: str, again_s: float, now: datetime) -> int:
        """Make an order for every receiving case with a Patient ID, and make old answers due again; return how many."""
        with self._database.read() as connection:
            if not connection.execute(_unasked(destination, again_s, now).limit(1)).first():
                return 0
        with self._database.write(now) as tx:
            rows = tx.connection.execute(_unasked(destination, again_s, now)).all()
            for row in rows:
                if row.order_id is None:
                    _new_order(tx, row.root_id, destination, "", ACTOR)
                else:
                    again = tx.connection.execute(select(fetch_order).where(fetch_order.c.id == row.order_id)).one()
                    _move_order(tx, again, _O.DUE, code="FETCH_DUE", attempt=0)
        return len(rows)

    def order_fetch(self, term: str, destinations: Sequence[str], actor: str, now: datetime) -> tuple[int, ...]:
        """A person asks: for the other studies of a case (its id, or an identifier of one that is here), or for a study.

        Candidates that were rejected for this person's case stay so, unless the study itself is named: then it is
        fetched whatever its date or description says.

        Raises:
            Refused: FETCH_NOT_CONFIGURED.
        """
        if not destinations:
            raise Refused("FETCH_NOT_CONFIGURED")
        with self._database.write(now) as tx:
            root_id = _root_of(tx, term)
            made = []
            for destination in destinations:
                same = and_(fetch_order.c.destination == destination, fetch_order.c.term == clean(term))
                old = tx.connection.execute(select(fetch_order).where(same)).first()
                if old is None:
                    made.append(_new_order(tx, root_id, destination, clean(term), actor))
                    continue
                made.append(old.id)
                values = {"root_id": root_id} if old.root_id is None else {}
                if old.state in (_O.LISTED, _O.FAILED):
                    _move_order(tx, old, _O.DUE, code="FETCH_DUE", actor=actor, attempt=0, **values)
            return tuple(made)

    def claim_order(self, destination: str, owner: str, lease_s: float, now: datetime) -> ClaimedOrder | None:
        """Take the next question for a PACS, a person's first; None: nothing to ask."""
        stale = and_(fetch_order.c.state == _O.ASKING, _over(fetch_order.c.lease_until, now))
        due = and_(fetch_order.c.state == _O.DUE, _reached(fetch_order.c.next_at, now))
        mine = fetch_order.c.destination == destination
        with self._database.read() as connection:
            if connection.execute(select(fetch_order.c.id).where(mine, or_(stale, due)).limit(1)).first() is None:
                return None
        with self._database.write(now) as tx:
            for row in tx.connection.execute(select(fetch_order).where(mine, stale)).all():
                _move_order(tx, row, _O.DUE, code="LEASE_EXPIRED")
            query = select(fetch_order).where(mine, due).order_by(fetch_order.c.actor == ACTOR, fetch_order.c.id)
            found = tx.connection.execute(query.limit(1)).first()
            if found is None:
                return None
            fence, attempt, lease = found.fence + 1, found.attempt + 1, now + timedelta(seconds=lease_s)
            taken = {"fence": fence, "attempt": attempt, "owner": base.words(owner), "lease_until": lease}
            _move_order(tx, found, _O.ASKING, **taken)
            return _claimed_order(tx, found, fence, attempt)

    def list_candidates(self, order_id: int, fence: int, listed: Sequence[Listed], now: datetime) -> bool:
        """Store what the PACS named and what was decided; False: the order is somebody else's now."""
        with self._database.write(now) as tx:
            row = _held_order(tx, order_id, fence)
            if row is None:
                return False
            for item in listed:
                _put_candidate(tx, row, item)
            code = "" if listed else "FETCH_NOT_FOUND"
            _move_order(tx, row, _O.LISTED, code=code, asked_at=now)
            return True

    def fail_order(self, order_id: int, fence: int, code: str, retry_at: datetime | None, now: datetime) -> bool:
        """The PACS could not be asked: again at `retry_at`, or given up with a remark on the case."""
        with self._database.write(now) as tx:
            row = _held_order(tx, order_id, fence)
            if row is None:
                return False
            if retry_at is not None:
                _move_order(tx, row, _O.DUE, code=code, next_at=retry_at)
            else:
                _move_order(tx, row, _O.FAILED, code=code, asked_at=now)
                _remark(tx, row.root_id, "", f"{row.destination} {code}")
            return True

    def claim_candidate(
        self, destination: str, owner: str, lease_s: float, studies_per_hour: int, now: datetime, *, quiet: bool
    ) -> ClaimedCandidate | None:
        """Take the next study to fetch, a person's first; None: nothing, or not now (rate, quiet hours, one at a time)."""
        mine = fetch_candidate.c.destination == destination
        stale = and_(fetch_candidate.c.state == _F.FETCHING, _over(fetch_candidate.c.lease_until, now))
        due = and_(fetch_candidate.c.state == _F.CHOSEN, _reached(fetch_candidate.c.next_at, now))
        with self._database.read() as connection:
            waiting = select(fetch_candidate.c.id).where(mine, or_(stale, due)).limit(1)
            if connection.execute(waiting).first() is None:
                return None
        with self._database.write(now) as tx:
            for row in tx.connection.execute(select(fetch_candidate).where(mine, stale)).all():
                _move_candidate(tx, row, _F.CHOSEN, code="LEASE_EXPIRED")
            if _busy(tx, destination, studies_per_hour):
                return None
            query = (
                select(fetch_candidate, fetch_order.c.root_id.label("root_id"), fetch_order.c.actor.label("actor"))
                .join_from(fetch_candidate, fetch_order, fetch_candidate.c.order_id == fetch_order.c.id)
                .where(mine, due, *([fetch_order.c.actor != ACTOR] if quiet else []))
                .order_by(fetch_order.c.actor == ACTOR, fetch_candidate.c.role.desc(), fetch_candidate.c.id)
            )
            for row in tx.connection.execute(query).all():
                if (code := _needless(tx, row)) == "":
                    return _take(tx, row, owner, lease_s)
                _move_candidate(tx, row, _F.REJECTED, code=code)
            return None

    def heartbeat_candidate(self, candidate_id: int, fence: int, lease_s: float, now: datetime) -> bool:
        """Prolong a fetch's lease; False: it is somebody else's now."""
        held = _mine(fetch_candidate, candidate_id, fence, _F.FETCHING)
        values = {"lease_until": now + timedelta(seconds=lease_s)}
        with self._database.write(now) as tx:
            return tx.connection.execute(update(fetch_candidate).where(held).values(values)).rowcount == 1

    def end_candidate(  # noqa: PLR0917 - the contract's signature
        self,
        candidate_id: int,
        fence: int,
        code: str,
        counts: Mapping[str, int],
        retry_at: datetime | None,
        now: datetime,
        detail: str = "",
    ) -> bool:
        """Note how a fetch ended: well (code ""), to be tried again at `retry_at`, or given up. False: fenced off."""
        with self._database.write(now) as tx:
            held = _mine(fetch_candidate, candidate_id, fence, _F.FETCHING)
            row = tx.connection.execute(select(fetch_candidate).where(held)).one_or_none()
            if row is None:
                return False
            values: dict[str, Any] = {"counts": dict(counts), "detail": base.words(detail)}
            if not code:
                code = "PRIOR_CONTEXT" if row.role == "prior" else "FETCHED"
                _move_candidate(tx, row, _F.FETCHED, code=code, **values)
            elif retry_at is not None:
                _move_candidate(tx, row, _F.CHOSEN, code=code, next_at=retry_at, **values)
            else:
                _move_candidate(tx, row, _F.FAILED, code=code, **values)
                root_id = select(fetch_order.c.root_id).where(fetch_order.c.id == row.order_id)
                owner = tx.connection.execute(root_id).scalar_one()
                _remark(tx, owner, row.study_uid, f"{row.destination} {code}")
            return True

    def exclude_candidate(self, candidate_id: int, actor: str, now: datetime) -> None:
        """A person doesn't want a study that waits to be fetched.

        Raises:
            Refused: NOT_FOUND, STATE_FORBIDS.
        """
        with self._database.write(now) as tx:
            query = select(fetch_candidate).where(fetch_candidate.c.id == candidate_id)
            row = tx.connection.execute(query).one_or_none()
            if row is None:
                raise Refused("NOT_FOUND")
            if row.state != _F.CHOSEN:
                raise Refused("STATE_FORBIDS")
            _move_candidate(tx, row, _F.REJECTED, code="CANCELLED", actor=actor)


# --- moves -----------------------------------------------------------------------------------------------------


def _move_order(tx: Tx, row: Row[Any], to: OrderState, *, code: str = "", actor: str = ACTOR, **values: Any) -> None:
    if to not in ORDER_MOVES[OrderState(row.state)]:
        raise Defect("ILLEGAL_MOVE", f"order {row.state} -> {to}")
    base_values = {"owner": "", "lease_until": None, "next_at": None, "code": code, "changed_at": tx.now, "state": to}
    tx.connection.execute(update(fetch_order).where(fetch_order.c.id == row.id).values({**base_values, **values}))
    if code:
        known_reason(code)
    audited = {"from": row.state, "to": to, "code": code, "destination": row.destination}
    tx.audit("fetch.order", actor, _newest(tx, row.root_id), f"order:{row.id}", **audited)


def _move_candidate(tx: Tx, row: Row[Any], to: CandidateState, *, code: str, actor: str = ACTOR, **values: Any) -> None:
    if to not in CANDIDATE_MOVES[CandidateState(row.state)]:
        raise Defect("ILLEGAL_MOVE", f"candidate {row.state} -> {to}")
    known_reason(code)
    base_values = {"owner": "", "lease_until": None, "next_at": None, "code": code, "changed_at": tx.now, "state": to}
    changed = update(fetch_candidate).where(fetch_candidate.c.id == row.id)
    tx.connection.execute(changed.values({**base_values, **values}))
    root_id = tx.connection.execute(select(fetch_order.c.root_id).where(fetch_order.c.id == row.order_id)).scalar_one()
    audited: dict[str, Any] = {"from": row.state, "to": to, "code": code, "destination": row.destination}
    told: dict[str, Any] = {key: values[key] for key in ("counts", "detail") if key in values}
    audited |= {"study": row.study_uid, "role": row.role, **told}
    tx.audit("fetch.candidate", actor, _newest(tx, root_id), f"candidate:{row.id}", **audited)


def _newest(tx: Tx, root_id: str | None) -> str:
    """The case that an audit row belongs to, "" without one."""
    query = select(case_revision.c.id).where(case_revision.c.root_id == root_id)
    found = tx.connection.execute(query.order_by(case_revision.c.revision.desc()).limit(1)).scalar()
    return str(found or "")


def _remark(tx: Tx, root_id: str | None, subject: str, detail: str) -> None:
    """Say on a case that has not run yet what it will be without."""
    query = select(case_revision.c.id).where(case_revision.c.root_id == root_id, case_revision.c.state.in_(_OPEN))
    for case_id in tx.connection.execute(query).scalars().all():
        base.add_findings(tx, case_id, [_Remark("FETCH_FAILED", subject, detail)], ACTOR)


class _Remark:
    """A finding."""

    def __init__(self, code: str, subject: str, detail: str) -> None:
        self.code, self.subject, self.detail = code, subject, detail


# --- orders ----------------------------------------------------------------------------------------------------


def _unasked(destination: str, again_s: float, now: datetime) -> Any:
    """Receiving cases with a patient that this PACS was not asked for, or long ago: root_id, order_id or None."""
    own = and_(
        fetch_order.c.root_id == case_revision.c.root_id,
        fetch_order.c.destination == destination,
        fetch_order.c.actor == ACTOR,
    )
    old = and_(
        fetch_order.c.state.in_([_O.LISTED, _O.FAILED]),
        or_(fetch_order.c.asked_at <= now - timedelta(seconds=again_s), fetch_order.c.asked_at > now + _HOUR),
    )
    return (
        select(case_revision.c.root_id, fetch_order.c.id.label("order_id"))
        .join_from(case_revision, case_root, case_revision.c.root_id == case_root.c.id)
        .outerjoin(fetch_order, own)
        .where(case_revision.c.state == _C.RECEIVING, case_root.c.patient_id != "")
        .where(or_(fetch_order.c.id.is_(None), old))
        .order_by(case_revision.c.no)
    )


def _new_order(tx: Tx, root_id: str | None, destination: str, term: str, actor: str) -> int:
    row = {
        "root_id": root_id, "destination": destination, "term": term, "actor": actor, "state": _O.DUE,
        "code": "FETCH_DUE", "attempt": 0, "fence": 0, "owner": "", "created_at": tx.now, "changed_at": tx.now,
    }  # fmt: skip
    key = tx.connection.execute(insert(fetch_order).returning(fetch_order.c.id), row).scalar_one()
    tx.audit("fetch.ordered", actor, _newest(tx, root_id), f"order:{key}", destination=destination)
    return int(key)


def _root_of(tx: Tx, term: str) -> str | None:
    """The newest case that an identifier names: a case id, a study's accession number or UID."""
    named = select(study.c.root_id).where(or_(study.c.accession == term, study.c.study_uid == term))
    where = or_(case_revision.c.id == term, case_revision.c.root_id.in_(named))
    query = select(case_revision.c.root_id).where(where).order_by(case_revision.c.no.desc()).limit(1)
    found = tx.connection.execute(query).scalar()
    return str(found) if found else None


def _held_order(tx: Tx, order_id: int, fence: int) -> Row[Any] | None:
    held = _mine(fetch_order, order_id, fence, _O.ASKING)
    return tx.connection.execute(select(fetch_order).where(held)).one_or_none()


def _claimed_order(tx: Tx, row: Row[Any], fence: int, attempt: int) -> ClaimedOrder:
    root = None
    here: dict[str, HereStudy] = {}
    sample = ""
    if row.root_id is not None:
        root = tx.connection.execute(select(case_root).where(case_root.c.id == row.root_id)).one()
        counted = select(instance.c.study_uid, instance.c.study_date, instance.c.modality, func.count().label("n"))
        counted = counted.add_columns(
            func.max(instance.c.accession).label("accession"), func.min(instance.c.id).label("one")
        )
        # The patient's other cases count too: what is there need not be fetched again.
        same = select(case_root.c.id).where(case_root.c.patient_key == root.patient_key)
        counted = counted.where(instance.c.root_id.in_(same))
        groups = counted.group_by(instance.c.study_uid, instance.c.study_date, instance.c.modality)
        rows = tx.connection.execute(groups.order_by(instance.c.study_uid)).all()
        shown = select(instance.c.id, instance.c.attributes).where(instance.c.id.in_([found.one for found in rows]))
        other = {i for i, stated in tx.connection.execute(shown).all() if elsewhere(stated)}
        for found in rows:
            known = here.get(found.study_uid, HereStudy(found.study_uid, found.study_date, {}, found.accession))
            merged = {**known.modalities, found.modality: known.modalities.get(found.modality, 0) + found.n}
            date, accession = known.study_date or found.study_date, known.accession_number or found.accession
            apart = known.elsewhere | ({found.modality} if found.one in other else set())
            here[found.study_uid] = HereStudy(found.study_uid, date, merged, accession, apart)
        first = (
            select(instance.c.sha256)
            .where(instance.c.root_id == row.root_id, ~gone(instance.c.sha256))
            .order_by(instance.c.id)
            .limit(1)
        )
        sample = str(tx.connection.execute(first).scalar() or "")
    return ClaimedOrder(
        order_id=row.id,
        fence=fence,
        attempt=attempt,
        by_person=row.actor != ACTOR,
        term=row.term,
        root_id=row.root_id or "",
        patient_id=root.patient_id if root else "",
        issuer_of_patient_id=root.issuer if root else "",
        anchor=root.anchor if root else None,
        here=tuple(here.values()),
        sample_sha256=sample,
    )


# --- candidates ------------------------------------------------------------------------------------------------


def _put_candidate(tx: Tx, order: Row[Any], item: Listed) -> None:
    """Add a candidate, or bring the one that is known in line with the new answer."""
    same = (fetch_candidate.c.order_id == order.id) & (fetch_candidate.c.study_uid == clean(item.study_uid))
    old = tx.connection.execute(select(fetch_candidate).where(same)).one_or_none()
    told: dict[str, Any] = {
        "accession": clean(item.accession_number)[:64],
        "study_date": clean(item.study_date)[:16],
        "modalities": dict(item.modalities),
        "series": dict(item.series),
        "role": item.role,
        "detail": base.words(item.detail),
    }
    if old is None:
        row = {
            "order_id": order.id, "destination": order.destination, "study_uid": clean(item.study_uid), **told,
            "state": _F.SEEN, "code": "", "attempt": 0, "fence": 0, "owner": "", "counts": {},
            "created_at": tx.now, "changed_at": tx.now,
        }  # fmt: skip
        key = tx.connection.execute(insert(fetch_candidate).returning(fetch_candidate.c.id), row).scalar_one()
        old = tx.connection.execute(select(fetch_candidate).where(fetch_candidate.c.id == key)).one()
    elif old.state == _F.FETCHING:
        return
    grown = old.state == _F.FETCHED and images_in(item.series) > images_in(old.series)
    if item.code and old.state in (_F.SEEN, _F.CHOSEN):
        _move_candidate(tx, old, _F.REJECTED, code=item.code, **told)
    elif item.code and old.state == _F.REJECTED:
        values = {**told, "code": item.code, "changed_at": tx.now}
        tx.connection.execute(update(fetch_candidate).where(fetch_candidate.c.id == old.id).values(values))
    elif not item.code and (old.state in (_F.SEEN, _F.FAILED) or _wanted_after_all(old, order) or grown):
        _move_candidate(tx, old, _F.CHOSEN, code="FETCH_CHOSEN", attempt=0, **told)


def _wanted_after_all(old: Row[Any], order: Row[Any]) -> bool:
    """What a person excluded comes back only when a person asks."""
    return bool(old.state == _F.REJECTED and (old.code != "CANCELLED" or order.actor != ACTOR))


def _busy(tx: Tx, destination: str, studies_per_hour: int) -> bool:
    """Whether the PACS gives a study at this moment, or gave as many as it may within the last hour."""
    mine = fetch_candidate.c.destination == destination
    running = select(fetch_candidate.c.id).where(mine, fetch_candidate.c.state == _F.FETCHING).limit(1)
    if tx.connection.execute(running).first() is not None:
        return True
    recent = and_(fetch_candidate.c.started_at > tx.now - _HOUR, fetch_candidate.c.started_at <= tx.now)
    count = tx.connection.execute(select(func.count()).select_from(fetch_candidate).where(mine, recent)).scalar_one()
    return bool(count >= studies_per_hour)


def _needless(tx: Tx, row: Row[Any]) -> str:
    """Why a chosen study need not be fetched any more, "" when it still has to be."""
    if row.root_id is not None:
        state = select(case_revision.c.state).where(case_revision.c.root_id == row.root_id)
        newest = tx.connection.execute(state.order_by(case_revision.c.revision.desc()).limit(1)).scalar()
        if newest == _C.CLOSED and row.actor == ACTOR:
            return "CANCELLED"
    here = select(func.count()).select_from(instance).where(instance.c.study_uid == row.study_uid)
    enough = tx.connection.execute(here).scalar_one() >= images_in(row.series)
    return "FETCH_ALREADY_HERE" if enough and row.attempt == 0 else ""


def _take(tx: Tx, row: Row[Any], owner: str, lease_s: float) -> ClaimedCandidate:
    fence, attempt = row.fence + 1, row.attempt + 1
    lease = tx.now + timedelta(seconds=lease_s)
    taken = {"fence": fence, "attempt": attempt, "owner": base.words(owner), "lease_until": lease}
    _move_candidate(tx, row, _F.FETCHING, code="FETCHING", started_at=tx.now, **taken)
    root = None
    if row.root_id is not None:
        root = tx.connection.execute(select(case_root).where(case_root.c.id == row.root_id)).one()
    return ClaimedCandidate(
        candidate_id=row.id,
        fence=fence,
        attempt=attempt,
        study_uid=row.study_uid,
        series=dict(row.series),
        modalities=dict(row.modalities),
        role=row.role,
        patient_id=root.patient_id if root else "",
        issuer_of_patient_id=root.issuer if root else "",
    )


def priors_on_their_way(tx: Tx, study_uids: set[str]) -> set[str]:
    """Which of these studies are being fetched as priors: what comes of them is context, not a case."""
    if not study_uids:
        return set()
    query = select(fetch_candidate.c.study_uid).where(
        fetch_candidate.c.study_uid.in_(sorted(study_uids)),
        fetch_candidate.c.state.in_([_F.CHOSEN, _F.FETCHING]),
        fetch_candidate.c.role == "prior",
    )
    return set(tx.connection.execute(query).scalars())


def _mine(table: Any, key: int, fence: int, state: Any) -> Any:
    return and_(table.c.id == key, table.c.fence == fence, table.c.state == state)


def _over(lease_until: Any, now: datetime) -> Any:
    """Whether a lease has ended; one that ends much later was written before the clock went back."""
    return or_(lease_until < now, lease_until > now + _HOUR)


def _reached(next_at: Any, now: datetime) -> Any:
    return or_(next_at.is_(None), next_at <= now, next_at > now + timedelta(days=1))
