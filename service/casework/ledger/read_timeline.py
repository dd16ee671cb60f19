"""What happened, from the doors to the proof of delivery, as moments in order. Reads, never writes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, select

from casework.case import CaseState, DeliveryState, JobState, NoticeState, Verdict
from casework.ledger.schema import audit
from casework.ledger.types import AssociationRow, Event, ReceiptRow
from casework.ledger.types_fetch import OrderRow
from casework.ledger.types_why import Moment, Stage
from casework.reasons import REASONS, Family

MOMENTS = 500
_C, _D, _J, _S = CaseState, DeliveryState, JobState, Stage

STAGE_OF_STATE: Mapping[str, Stage] = {
    _C.RECEIVING: _S.CASE,
    _C.STABLE: _S.CASE,
    _C.QUEUED: _S.QUEUE,
    _C.RUNNING: _S.ENGINE,
    _C.RENDERED: _S.SEND,
    _C.DELIVERING: _S.SEND,
    _C.DELIVERED: _S.DONE,
    _C.REJECTED: _S.GATE,
    _C.NEEDS_ATTENTION: _S.CASE,
    _C.SUPERSEDED: _S.CASE,
    _C.CLOSED: _S.CASE,
    _C.RETRACTED: _S.CASE,
}
_QUIET = frozenset(
    {"case.inputs_frozen", "case.expected", "artefacts.kept", "job.made", "delivery.planned", "case.reason"}
) | {f"instances.{verdict}" for verdict in Verdict}
_DETAILS = ("destination", "status", "attempt", "study", "modality", "role", "until", "from", "to", "proof", "detail")


def moments(
    events: Sequence[Event],
    receipts: Sequence[ReceiptRow],
    associations: Sequence[AssociationRow],
    orders: Sequence[OrderRow],
) -> tuple[Moment, ...]:
    """Everything in order of time; what repeats is counted. The newest MOMENTS of them."""
    told = [*_arrivals(receipts), *_connections(associations), *_orders(orders)]
    for event in events:
        told += _of_event(event)
    told.sort(key=lambda moment: moment.at)
    return tuple(_joined(told))[-MOMENTS:]


def _joined(told: Sequence[Moment]) -> Iterator[Moment]:
    """Repetitions that follow each other as one."""
    last: Moment | None = None
    for moment in told:
        if last is not None and _same(last, moment):
            last = replace(last, until=max(last.until, moment.until), count=last.count + moment.count)
            continue
        if last is not None:
            yield last
        last = moment
    if last is not None:
        yield last


def _same(one: Moment, other: Moment) -> bool:
    names = ("stage", "event", "code", "actor", "case_id", "subject")
    return all(getattr(one, name) == getattr(other, name) for name in names) and one.detail.get(
        "attempt"
    ) == other.detail.get("attempt")


def _connections(associations: Sequence[AssociationRow]) -> Iterator[Moment]:
    for row in associations:
        counts = {name: str(count) for name, count in row.counts.items() if count}
        end = row.closed_at or row.opened_at
        nothing = row.end == "released" and not counts and not row.code
        event = "association.empty" if nothing else f"association.{row.end or 'open'}"
        detail = {"called": row.called, "address": row.address, **counts}
        yield Moment(row.opened_at, end, _S.ASSOCIATION, event, row.code, row.calling, "", "", detail)


def _arrivals(receipts: Sequence[ReceiptRow]) -> Iterator[Moment]:
    """Images by study, association and verdict."""
    groups: dict[tuple[str, ...], list[ReceiptRow]] = {}
    for row in receipts:
        key = (row.association_id, row.study_instance_uid, row.modality, row.verdict, row.code)
        groups.setdefault(key, []).append(row)
    for (_, study, modality, verdict, code), rows in groups.items():
        times = [row.received_at for row in rows]
        detail = {"modality": modality, "door": rows[0].door}
        event = f"images.{verdict}"
        yield Moment(min(times), max(times), _S.ADMISSION, event, code, rows[0].peer, "", study, detail, len(rows))


def _orders(orders: Sequence[OrderRow]) -> Iterator[Moment]:
    """What was asked of PACS: the state of each question and of each study that was named."""
    for order in orders:
        event = f"fetch.order.{order.state}"
        detail = {"destination": order.destination, "attempt": str(order.attempt)}
        at = order.asked_at or order.changed_at
        yield Moment(at, at, _S.FETCH, event, order.code, order.actor, "", order.term, detail)
        for row in order.candidates:
            about = {"destination": row.destination, "role": row.role, "date": row.study_date, "detail": row.detail}
            about |= {name: str(count) for name, count in row.counts.items()}
            about = {key: value for key, value in about.items() if value}
            event = f"fetch.study.{row.state}"
            yield Moment(
                row.changed_at, row.changed_at, _S.FETCH, event, row.code, order.actor, "", row.study_uid, about
            )


def _of_event(event: Event) -> Iterator[Moment]:
    """An audit row as moments; what other rows say better is left out."""
    kind = event.event
    if kind in _QUIET or kind.startswith("fetch."):
        return
    detail = {key: _text(event.detail[key]) for key in _DETAILS if event.detail.get(key) not in (None, "")}
    code = str(event.detail.get("code", ""))
    if kind == "case.findings":
        for found in _list(event.detail.get("codes")):
            yield _moment(event, _S.GATE, kind, found, {})
    elif kind == "case.waiting":
        if wanted := _list(event.detail.get("for")):
            waited = {"modality": ", ".join(wanted), "until": detail.get("until", "")[:16]}
            yield _moment(event, _S.CASE, kind, "WAITING_FOR_MODALITY", waited)
    elif kind == "case.moved":
        yield _moment(event, stage_of_move(event.detail), f"case.{event.detail.get('to', 'moved')}", code, detail)
    elif kind == "job.moved":
        if event.detail.get("to") in (_J.RETRY_WAIT, _J.DEAD, _J.READY, _J.CANCELLED):
            yield _moment(event, _S.ENGINE, f"job.{event.detail['to']}", code, detail)
    elif kind in ("delivery.moved", "notice.moved"):
        yield from _sending(event, code, detail)
    elif kind.startswith(("delivery.", "commitment.")):
        yield _moment(event, _S.COMMIT, kind, code, detail)
    else:
        yield _moment(event, _S.CASE, kind, code, detail)


def _sending(event: Event, code: str, detail: dict[str, str]) -> Iterator[Moment]:
    """What became of an object on its way to a destination, or of an event that a webhook never took."""
    to = str(event.detail.get("to", ""))
    if event.event == "notice.moved":
        if to == NoticeState.DEAD:
            hook = {"webhook": str(event.detail.get("webhook", "")), "status": detail.get("status", "")}
            yield _moment(replace(event, subject=""), _S.SEND, "notice.dead", code, hook)
    elif to not in (_D.SENDING, _D.PENDING):
        stage = _S.COMMIT if to in (_D.COMMITTED, _D.COMMIT_FAILED) else _S.SEND
        place = detail.pop("destination", event.subject)  # objects of one destination are counted, not listed
        yield _moment(replace(event, subject=place), stage, f"delivery.{to}", code, detail)


def _moment(event: Event, stage: Stage, name: str, code: str, detail: Mapping[str, str]) -> Moment:
    return Moment(event.at, event.at, stage, name, code, event.actor, event.case_id, event.subject, detail)


def stage_of_move(detail: Mapping[str, object]) -> Stage:
    """At which stage a case's move happened; an end belongs to where the case was before."""
    before, to = str(detail.get("from", "")), str(detail.get("to", ""))
    if to == _C.REJECTED:
        return _S.GATE if before == _C.RUNNING else _S.CASE
    about_images = (
        REASONS[code].family in (Family.REFUSED, Family.NOTE) if (code := str(detail.get("code"))) in REASONS else False
    )
    if to == _C.NEEDS_ATTENTION and before == _C.RUNNING and about_images:
        return _S.GATE
    if to == _C.NEEDS_ATTENTION:
        return _S.COMMIT if before == _C.DELIVERED else STAGE_OF_STATE.get(before, _S.CASE)
    return STAGE_OF_STATE.get(to, _S.CASE)


def last_move(connection: Connection, case_id: str) -> Mapping[str, object]:
    """What the newest move of a case says."""
    query = select(audit.c.detail).where(audit.c.case_id == case_id, audit.c.event == "case.moved")
    found = connection.execute(query.order_by(audit.c.seq.desc()).limit(1)).scalar()
    return dict(json.loads(found)) if found else {}


def run_seconds(connection: Connection, limit: int = 40) -> list[float]:
    """How long the newest analyses took, from claim to results, as the audit has it."""
    query = (
        select(audit.c.at, audit.c.subject, audit.c.detail)
        .where(audit.c.event == "job.moved")
        .order_by(audit.c.seq.desc())
        .limit(limit * 4)
    )
    ended: dict[str, Any] = {}
    seconds = []
    for row in connection.execute(query):
        if '"kind":"' in row.detail:  # not an analysis
            continue
        if f'"to":"{_J.SUCCEEDED}"' in row.detail:
            ended.setdefault(row.subject, row.at)
        elif f'"to":"{_J.LEASED}"' in row.detail and row.subject in ended:
            seconds.append((ended.pop(row.subject) - row.at).total_seconds())
    return seconds[:limit]


def _list(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
