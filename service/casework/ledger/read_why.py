"""The answer to "why": from one identifier to what happened, where it stands, and the reason a person should read."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from statistics import median, quantiles
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select

from casework.case import ANALYSE, NOT_PERFORMED, CandidateState, CaseState, JobState, OrderState, Verdict
from casework.ledger import audit
from casework.ledger import read_timeline as timeline
from casework.ledger import store_base as base
from casework.ledger.read_fetch import orders_of
from casework.ledger.rows import association_row, deliveries_of, findings_of, jobs_of, receipt_row
from casework.ledger.schema import (
    artefact,
    association,
    case_input,
    case_revision,
    case_root,
    instance,
    job,
    receipt,
    study,
)
from casework.ledger.store_cases import studies_of
from casework.ledger.store_process import ProcessRow, processes
from casework.ledger.types import AssociationRow, CaseRow, ReceiptRow
from casework.ledger.types_fetch import OrderRow
from casework.ledger.types_why import Queue, Stage, Why, WhyCase
from casework.reasons import REASONS, Family

_CASES, _RECEIPTS, _ASSOCIATIONS, _TIMELINES = 20, 200, 50, 5
_EVENTS = 2000
_LATELY = timedelta(days=1)
_TAKEN = (Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.KEPT_ASIDE)
_S = Stage

# Without a stored reason, the state itself says what is going on.
_BY_STATE = {
    CaseState.RECEIVING: "QUIET_TIME",
    CaseState.STABLE: "QUEUED",
    CaseState.QUEUED: "QUEUED",
    CaseState.RUNNING: "RUNNING",
    CaseState.RENDERED: "DELIVERING",
    CaseState.DELIVERING: "DELIVERING",
    CaseState.DELIVERED: "DELIVERED",
    CaseState.REJECTED: "NO_USABLE_IMAGE",
    CaseState.NEEDS_ATTENTION: "INTERNAL",
    CaseState.SUPERSEDED: "SUPERSEDED",
    CaseState.CLOSED: "CANCELLED",
    CaseState.RETRACTED: "RETRACTED_QUALITY",
}
_REPORTED = (CaseState.RENDERED, CaseState.DELIVERING, CaseState.DELIVERED)
_ABOUT_IMAGES = {"accession": "accession", "study": "study_uid", "instance": "sop_uid"}  # kinds of questions: column
# Which door has to be there for a case to leave a state, and what its absence is called.
_DOOR_OF_STATE: Mapping[CaseState, str] = {
    CaseState.RECEIVING: "keeper",
    CaseState.STABLE: "keeper",
    CaseState.QUEUED: "infer_worker",
    CaseState.RUNNING: "infer_worker",
    CaseState.RENDERED: "deliver_worker",
    CaseState.DELIVERING: "deliver_worker",
}
_DOWN = {
    "listener": "LISTENER_DOWN",
    "keeper": "KEEPER_DOWN",
    "infer_worker": "WORKER_DOWN",
    "deliver_worker": "SENDER_DOWN",
    "fetch_worker": "FETCHER_DOWN",
}


def answer(connection: Connection, query: str, now: datetime | None = None) -> Why:
    """Search the identifier as case id, accession number, study UID, SOP Instance UID and Patient ID: all that it may be.

    A case is found too by what an image of it stated when it came: one study may have come with two accession numbers, or
    with and without a Patient ID. `matched_by` is the first kind that is found.
    """
    query = query.strip()
    searches = (
        ("accession", _in_study(study.c.accession == query), receipt.c.accession == query),
        ("study", _in_study(study.c.study_uid == query), receipt.c.study_uid == query),
        ("instance", _in_instance(query), receipt.c.sop_uid == query),
        ("patient", case_root.c.patient_id == query, receipt.c.patient_id == query),
    )
    alive = processes(connection) if now else []
    own = base.case_columns().where(case_revision.c.id == query)
    named = [base.case_row(row) for row in connection.execute(own)] if query else []
    if named:
        receipts, counts = _receipts(connection, receipt.c.root_id == named[0].root_id)
        return _Asker(connection, query, "case", alive, now).why(named, receipts, counts)
    kinds, hits = list[str](), list[tuple[Any, Any]]()
    for kind, about_case, about_receipt in searches if query else ():
        came = or_(about_case, case_revision.c.root_id.in_(select(receipt.c.root_id).where(about_receipt)))
        if _any(connection, base.case_columns().where(came)) or _any(
            connection, select(receipt.c.id).where(about_receipt)
        ):
            kinds.append(kind)
            hits.append((came, about_receipt))
    if kinds:
        found = base.case_columns().where(or_(*(came for came, _ in hits)))
        found = found.order_by(case_revision.c.no.desc()).limit(_CASES)
        cases = [base.case_row(row) for row in connection.execute(found)]
        receipts, counts = _receipts(connection, or_(*(about for _, about in hits)))
        return _Asker(connection, query, kinds[0], alive, now).why(cases, receipts, counts)
    orders = orders_of(connection, [], query) if query else []
    if orders:
        return _of_orders(query, orders, alive, now)
    return _nothing(connection, query, alive, now)


def _any(connection: Connection, query: Any) -> bool:
    return connection.execute(query.limit(1)).first() is not None


def _nothing(connection: Connection, query: str, alive: Sequence[ProcessRow], now: datetime | None) -> Why:
    """No trace: the listener may be gone, or the sender may be among those who were turned away."""
    turned_away: tuple[AssociationRow, ...] = ()
    code = blocked_by("listener", alive, now)
    if now is not None:
        lately = association.c.opened_at.between(now - _LATELY, now), association.c.closed_at.is_not(None)
        rows = connection.execute(
            select(association).where(*lately).order_by(association.c.opened_at.desc()).limit(1000)
        )
        turned_away = tuple(row for row in map(association_row, rows) if _brought_nothing(row))[:_ASSOCIATIONS]
        telling = (
            row.code for row in turned_away if row.code in REASONS and REASONS[row.code].family is not Family.NOTE
        )
        code = code or next(telling, "")
    seen = timeline.moments((), (), turned_away, ())
    told = code or "NEVER_ARRIVED"
    return Why(query, "", (), (), {}, (), told, timeline=seen, processes=tuple(alive), turned_away=turned_away)


def _brought_nothing(row: AssociationRow) -> bool:
    """Whether an association may have been somebody's try to send: an echo is none."""
    took = sum(row.counts.get(name, 0) for name in ("stored", "echo", *_TAKEN))
    return not took or row.code != "" or row.end == "rejected"


def _of_orders(query: str, orders: Sequence[OrderRow], alive: Sequence[ProcessRow], now: datetime | None) -> Why:
    """Nothing arrived, but a PACS was asked for it, or named it beside another study."""
    code = fetch_code(query, orders)
    blocked = blocked_by("fetch_worker", alive, now) if code in _UNDER_WAY else ""
    return Why(
        query=query,
        matched_by="fetch",
        cases=(),
        receipts=(),
        receipt_counts={},
        associations=(),
        next_code=blocked or code,
        stage=_S.FETCH,
        timeline=timeline.moments((), (), (), orders),
        orders=tuple(orders),
        processes=tuple(alive),
    )


_UNDER_WAY = ("FETCH_DUE", "FETCHING", "FETCH_CHOSEN")


def fetch_code(query: str, orders: Sequence[OrderRow]) -> str:
    """What became of the study that is asked for; its own candidate says more than the order."""
    own = [row for order in orders for row in order.candidates if query in (row.study_uid, row.accession_number)]
    best = next((row for row in own if row.state is not CandidateState.REJECTED), own[0] if own else None)
    if best is not None:
        return best.code
    order = orders[0]
    if order.state in (OrderState.DUE, OrderState.ASKING):
        return "FETCHING" if order.state is OrderState.ASKING else order.code or "FETCH_DUE"
    return order.code or "FETCH_NOT_FOUND"


def blocked_by(door: str, alive: Sequence[ProcessRow], now: datetime | None) -> str:
    """The code why a door does nothing, "" when it is there, or when nothing is known of any door."""
    if now is None or not alive:
        return ""
    mine = [row for row in alive if row.door == door]
    if any(row.alive(now) for row in mine):
        return ""
    failed = next((row.code for row in mine if row.state == "failed" and row.code in REASONS), "")
    return failed or _DOWN[door]


def _in_study(condition: Any) -> Any:
    return case_revision.c.root_id.in_(select(study.c.root_id).where(condition))


def _in_instance(sop_uid: str) -> Any:
    return case_revision.c.root_id.in_(select(instance.c.root_id).where(instance.c.sop_uid == sop_uid))


def _receipts(connection: Connection, condition: Any) -> tuple[list[ReceiptRow], dict[str, int]]:
    """Newest receipts, those that did not end well first, and how many there are by verdict."""
    counted = select(receipt.c.verdict, func.count().label("n")).where(condition).group_by(receipt.c.verdict)
    counts = {row.verdict: row.n for row in connection.execute(counted)}
    smooth = receipt.c.verdict.in_([Verdict.ACCEPTED, Verdict.DUPLICATE])
    query = select(receipt).where(condition).order_by(smooth, receipt.c.id.desc()).limit(_RECEIPTS)
    return [receipt_row(row) for row in connection.execute(query)], counts


class _Asker:
    """One question whose identifier was found."""

    def __init__(
        self, connection: Connection, query: str, kind: str, alive: Sequence[ProcessRow], now: datetime | None
    ) -> None:
        self._connection, self._query, self._kind = connection, query, kind
        self._alive, self._now = alive, now

    def why(self, cases: Sequence[CaseRow], receipts: Sequence[ReceiptRow], counts: Mapping[str, int]) -> Why:
        """Everything about it."""
        ids = sorted({row.association_id for row in receipts})
        log = select(association).where(association.c.id.in_(ids)).order_by(association.c.opened_at.desc())
        associations = [association_row(row) for row in self._connection.execute(log.limit(_ASSOCIATIONS))]
        told = tuple(self._case(case) for case in cases)
        orders = orders_of(self._connection, sorted({case.root_id for case in cases}), self._query)
        events = [
            event
            for case in cases[:_TIMELINES]
            for event in audit.events(self._connection, case_id=case.id, limit=_EVENTS)
        ]
        refused = next((row.code for row in receipts if row.verdict in (Verdict.REFUSED, Verdict.KEPT_ASIDE)), "")
        first = told[0] if told else None
        own, stage = self._own_answer(told)
        return Why(
            query=self._query,
            matched_by=self._kind,
            cases=told,
            receipts=tuple(receipts),
            receipt_counts=counts,
            associations=tuple(associations),
            next_code=own or ((first.blocked or first.code) if first else refused or "NOT_FOUND"),
            stage=stage if own else (first.stage if first else _S.ADMISSION),
            timeline=timeline.moments(events, receipts, associations, orders),
            orders=tuple(orders),
            processes=tuple(self._alive),
        )

    def _own_answer(self, told: Sequence[WhyCase]) -> tuple[str, Stage]:
        """What is to be said before the newest case's own reason, and its stage; "" when nothing is.

        That the identifier names several patients; or that the case has a result, and the study or image that was asked
        for is not in it: the images' reason where they share one.
        """
        patients = {(one.case.patient_id, one.case.issuer_of_patient_id) for one in told if one.case.patient_id}
        if len({who for who, _ in patients}) > 1:
            return "SEVERAL_PATIENTS", _S.CASE
        if not told or told[0].blocked or told[0].case.state not in _REPORTED or self._kind not in _ABOUT_IMAGES:
            return "", _S.CASE
        newest = told[0]
        of_query = or_(*(instance.c[name] == self._query for name in _ABOUT_IMAGES.values()))
        used = select(case_input.c.instance_id).where(case_input.c.case_id == newest.case.id)
        asked = select(instance.c.sop_uid, instance.c.study_uid).where(of_query, instance.c.id.in_(used))
        rows = self._connection.execute(asked).all()
        uids, studies = {row.sop_uid for row in rows}, {row.study_uid for row in rows}
        if not rows:
            return "", _S.CASE
        kinds = select(artefact.c.kind).where(artefact.c.case_id == newest.case.id, artefact.c.study_uid.in_(studies))
        made = set(self._connection.execute(kinds.distinct()).scalars())
        codes = {found.code for found in newest.findings if found.subject in uids}
        silent = bool(made & NOT_PERFORMED) and not made - NOT_PERFORMED
        if silent or self._kind == "instance":
            left_out = next(iter(codes)) if len(codes) == 1 else "STUDY_NOT_USED"
            return (left_out, _S.GATE) if silent or codes else ("", _S.CASE)
        return "", _S.CASE

    def _case(self, case: CaseRow) -> WhyCase:
        jobs, deliveries = jobs_of(self._connection, case.id), deliveries_of(self._connection, case.id)
        due = [job.next_at for job in jobs if job.state is JobState.RETRY_WAIT and job.next_at]
        due += [row.next_at for row in deliveries if row.next_at]
        due += [case.waiting_until] if case.waiting_until else []
        code = case.reason or _BY_STATE[case.state]
        stage = self._stage(case, code)
        door = "fetch_worker" if stage is _S.FETCH else _DOOR_OF_STATE.get(case.state, "")
        stored = select(case_revision.c.result_json).where(case_revision.c.id == case.id)
        return WhyCase(
            case=case,
            studies=tuple(studies_of(self._connection, case)),
            jobs=tuple(jobs),
            deliveries=tuple(deliveries),
            findings=tuple(findings_of(self._connection, case.id)),
            code=code,
            waiting_until=min(due, default=None),
            stage=stage,
            blocked=blocked_by(door, self._alive, self._now) if door else "",
            result_json=self._connection.execute(stored).scalar_one(),
            queue=self._queue(case) if case.state is CaseState.QUEUED else None,
        )

    def _stage(self, case: CaseRow, code: str) -> Stage:
        """Where the case stands, or where it was when it ended."""
        if code == "FETCHING":
            return _S.FETCH
        if code == "PROOF_PENDING":
            return _S.COMMIT
        if case.state is CaseState.QUEUED and code == "RETRY_LATER":
            return _S.ENGINE
        if case.state in (CaseState.REJECTED, CaseState.NEEDS_ATTENTION):
            return timeline.stage_of_move(timeline.last_move(self._connection, case.id))
        return timeline.STAGE_OF_STATE[case.state]

    def _queue(self, case: CaseRow) -> Queue:
        """Who is ahead, and what the newest runs took."""
        mine = select(job.c.id, job.c.priority).where(job.c.case_id == case.id, job.c.kind == ANALYSE)
        mine = mine.order_by(job.c.id.desc()).limit(1)
        own = self._connection.execute(mine).first()
        waiting = job.c.state.in_([JobState.READY, JobState.RETRY_WAIT])
        number, priority = (own.id, own.priority) if own else (0, 0)
        before = or_(job.c.priority > priority, and_(job.c.priority == priority, job.c.id < number))
        ahead = select(func.count()).select_from(job).where(waiting, before)
        running = select(func.count()).select_from(job).where(job.c.state == JobState.LEASED)
        took = timeline.run_seconds(self._connection)
        alive = [row for row in self._alive if self._now and row.door == "infer_worker" and row.alive(self._now)]
        return Queue(
            ahead=self._connection.execute(ahead).scalar_one(),
            running=self._connection.execute(running).scalar_one(),
            workers=len(alive),
            runs=len(took),
            usual_s=median(took) if took else None,
            slow_s=quantiles(took, n=10)[-1] if len(took) > 1 else (took[0] if took else None),
        )
