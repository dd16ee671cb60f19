"""Webhook events: the outbox is the audit itself, whose row is written in the transaction that moved the case.

Each webhook has a place in the audit's sequence. Taking news and moving that place is one transaction, so that every move
is told once for each webhook, however often a process dies. A webhook that is new begins with what happens from now on.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from casework.case import NOTICE_MOVES, CaseState, NoticeState
from casework.errors import Defect
from casework.ledger import store_base as base
from casework.ledger.database import Tx
from casework.ledger.schema import audit, audit_head, notice, webhook
from casework.ledger.types import ClaimedNotice, News, NoticeRow

_N = NoticeState
_MOVED = "case.moved"


class NoticeStore(base.Store):
    """The webhooks' part of the facade."""

    def news(self, name: str, now: datetime, limit: int = 200) -> tuple[int, list[News]]:
        """How far this webhook has read, and what happened since: case moves, oldest first, not all when there are many."""
        with self._database.read() as connection:
            seen = connection.execute(select(webhook.c.seq).where(webhook.c.name == name)).scalar_one_or_none()
            if seen is not None:
                return seen, _news(connection, seen, limit)
        with self._database.write(now) as tx:
            head = tx.connection.execute(select(audit_head.c.seq)).scalar_one()
            tx.connection.execute(insert(webhook), {"name": name, "seq": head})
            return head, []

    def put_notices(self, name: str, seen: int, upto: int, notices: Sequence[tuple[News, str]], now: datetime) -> bool:
        """Put events with their bodies into the outbox and move the place; False when another process has done so."""
        with self._database.write(now) as tx:
            mine = (webhook.c.name == name) & (webhook.c.seq == seen)
            if tx.connection.execute(update(webhook).where(mine).values(seq=upto)).rowcount != 1:
                return False
            rows = [
                {
                    "webhook": name,
                    "seq": item.seq,
                    "case_id": item.case_id,
                    "event_id": item.event_id,
                    "body": body,
                    "state": _N.PENDING,
                    "attempt": 0,
                    "next_at": now,
                    "status": "",
                    "code": "",
                    "created_at": now,
                    "changed_at": now,
                }
                for item, body in notices
            ]
            if rows:
                tx.connection.execute(insert(notice), rows)
            return True

    def claim_notice(self, name: str, lease_s: float, now: datetime) -> ClaimedNotice | None:
        """Take the next event that is due; it is due again when the lease ends without an answer."""
        due = (notice.c.webhook == name) & (notice.c.state == _N.PENDING) & (notice.c.next_at <= now)
        query = select(notice).where(due).order_by(notice.c.next_at, notice.c.seq).limit(1)
        with self._database.read() as connection:
            if connection.execute(query).first() is None:
                return None
        with self._database.write(now) as tx:
            row = tx.connection.execute(query).first()
            if row is None:
                return None
            values = {"attempt": row.attempt + 1, "next_at": now + timedelta(seconds=lease_s), "changed_at": now}
            tx.connection.execute(update(notice).where(notice.c.id == row.id).values(values))
            return ClaimedNotice(row.id, row.case_id, row.event_id, row.body, row.attempt + 1, row.created_at)

    def finish_notice(  # noqa: PLR0917 - what a delivery's end has, too
        self, claim: ClaimedNotice, state: NoticeState, status: str, code: str, next_at: datetime | None, now: datetime
    ) -> bool:
        """Note how a sending ended; PENDING with `next_at`: it is tried again. False: another process has it now."""
        with self._database.write(now) as tx:
            mine = (notice.c.id == claim.notice_id) & (notice.c.attempt == claim.attempt)
            row = tx.connection.execute(select(notice).where(mine, notice.c.state == _N.PENDING)).one_or_none()
            if row is None:
                return False
            values = {"status": base.words(status), "code": code, "next_at": next_at, "changed_at": now}
            if state is _N.PENDING:
                tx.connection.execute(update(notice).where(notice.c.id == row.id).values(values))
            else:
                _move(tx, row, state, "webhook", **values)
            return True

    def repeat_notices(self, name: str, actor: str, now: datetime) -> int:
        """Send a webhook's dead events again; returns how many."""
        dead = select(notice).where(notice.c.webhook == name, notice.c.state == _N.DEAD).order_by(notice.c.seq)
        with self._database.write(now) as tx:
            rows = tx.connection.execute(dead).all()
            for row in rows:
                # A new horizon: it counts from when the event was put on its way.
                _move(tx, row, _N.PENDING, actor, attempt=0, next_at=now, created_at=now, changed_at=now)
            return len(rows)

    def notices(self, states: Sequence[NoticeState], limit: int = 200, before: int | None = None) -> list[NoticeRow]:
        """Events in these states, newest first, those before an id."""
        query = select(notice).where(notice.c.state.in_(states)).order_by(notice.c.id.desc()).limit(limit)
        query = query if before is None else query.where(notice.c.id < before)
        with self._database.read() as connection:
            return [
                NoticeRow(
                    r.id,
                    r.webhook,
                    r.case_id,
                    r.event_id,
                    NoticeState(r.state),
                    r.attempt,
                    r.status,
                    r.code,
                    r.created_at,
                )
                for r in connection.execute(query)
            ]


def counts(connection: Connection) -> Mapping[str, Mapping[str, int]]:
    """How many events each webhook has in each state."""
    query = select(notice.c.webhook, notice.c.state, func.count().label("n")).group_by(notice.c.webhook, notice.c.state)
    found: dict[str, dict[str, int]] = {}
    for row in connection.execute(query):
        found.setdefault(row.webhook, {})[row.state] = row.n
    return found


def _news(connection: Connection, seen: int, limit: int) -> list[News]:
    query = select(audit).where(audit.c.seq > seen, audit.c.event == _MOVED).order_by(audit.c.seq).limit(limit)
    made = []
    for row in connection.execute(query):
        detail: dict[str, Any] = json.loads(row.detail)
        was, is_ = CaseState(detail["from"]), CaseState(detail["to"])
        made.append(News(row.seq, row.at, row.case_id, was, is_, str(detail.get("code", "")), row.hash[:32]))
    return made


def _move(tx: Tx, row: Any, to: NoticeState, actor: str, **values: Any) -> None:
    from_ = NoticeState(row.state)
    if to not in NOTICE_MOVES[from_]:
        raise Defect("ILLEGAL_MOVE", f"notice {from_} -> {to}")
    tx.connection.execute(update(notice).where(notice.c.id == row.id).values(state=to, **values))
    about = {"from": from_, "to": to, "code": values.get("code", row.code), "status": values.get("status", row.status)}
    tx.audit("notice.moved", actor, row.case_id, f"notice:{row.id}", webhook=row.webhook, **about)
