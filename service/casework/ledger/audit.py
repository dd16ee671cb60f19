"""The append-only, hash-chained audit: one row per thing that changed, in the transaction that changed it.

hash(n) = SHA-256(hash(n-1) || canonical row n), from 64 zeros. `audit_head` holds the last number and hash, so rows cut
off at the end are missed too. Locking the head row is also what makes PostgreSQL writers take turns.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, type_coerce, update
from sqlalchemy.types import BigInteger

from casework.ledger.columns import Instant, canonical, clean
from casework.ledger.schema import audit, audit_head
from casework.ledger.types import AuditCheck, AuditHead, Event

GENESIS = "0" * 64
_CHUNK = 2000


@dataclass(frozen=True, slots=True)
class Entry:
    """One row to be."""

    at: datetime
    actor: str
    event: str
    case_id: str
    subject: str
    detail: dict[str, Any]


def lock_head(connection: Connection) -> AuditHead:
    """Read the head; on PostgreSQL hold it until the transaction ends, so writers take turns."""
    row = connection.execute(_LOCK).one()
    return AuditHead(row.seq, row.hash)


_LOCK = select(audit_head.c.seq, audit_head.c.hash).where(audit_head.c.id == 1).with_for_update()


def append(connection: Connection, head: AuditHead, entries: list[Entry]) -> AuditHead:
    """Chain and write the rows of one transaction; return the new head."""
    if not entries:
        return head
    seq, last = head.seq, head.hash
    rows = []
    for entry in entries:
        seq += 1
        row: dict[str, Any] = {
            "seq": seq,
            "at": entry.at,
            "actor": clean(entry.actor),
            "event": entry.event,
            "case_id": entry.case_id,
            "subject": clean(entry.subject),
            "detail": canonical(entry.detail),
        }
        last = _hash(last, Instant().process_bind_param(entry.at, connection.dialect), row)
        rows.append({**row, "hash": last})
    connection.execute(insert(audit), rows)
    connection.execute(update(audit_head).where(audit_head.c.id == 1).values(seq=seq, hash=last))
    return AuditHead(seq, last)


def _hash(previous: str, at_us: int | None, row: Any) -> str:
    fields = [row["seq"], at_us, row["actor"], row["event"], row["case_id"], row["subject"], row["detail"]]
    return hashlib.sha256(
        (previous + json.dumps(fields, ensure_ascii=True, separators=(",", ":"))).encode()
    ).hexdigest()


def head(connection: Connection) -> AuditHead:
    """The newest row's number and hash."""
    row = connection.execute(select(audit_head.c.seq, audit_head.c.hash)).one()
    return AuditHead(row.seq, row.hash)


def verify(connection: Connection, kept: AuditHead | None = None) -> AuditCheck:
    """Walk the whole chain and name the first row that is missing, moved or changed.

    `kept`: a head that was exported. Whoever could write here could have chained everything anew; that one he could not.
    """
    head = connection.execute(select(audit_head.c.seq, audit_head.c.hash)).one_or_none()
    last, expected = GENESIS, 1
    for row in _raw_rows(connection):
        fields = row._mapping
        if row.seq != expected:
            bad, problem = (expected, "missing") if row.seq > expected else (row.seq, "not in sequence")
            return AuditCheck(ok=False, rows=expected - 1, head=last, first_bad=bad, problem=problem)
        if _hash(last, row.at_us, fields) != row.hash:
            return AuditCheck(ok=False, rows=expected - 1, head=last, first_bad=row.seq, problem="changed")
        if kept is not None and row.seq == kept.seq and row.hash != kept.hash:
            return AuditCheck(ok=False, rows=expected - 1, head=last, first_bad=row.seq, problem="not the kept head")
        last, expected = row.hash, expected + 1
    count = expected - 1
    if head is None or max(head.seq, kept.seq if kept else 0) > count:
        return AuditCheck(ok=False, rows=count, head=last, first_bad=expected, problem="missing")
    if head.seq != count or head.hash != last:
        return AuditCheck(ok=False, rows=count, head=last, first_bad=count, problem="head differs")
    return AuditCheck(ok=True, rows=count, head=last)


def _raw_rows(connection: Connection) -> Iterator[Row[Any]]:
    """All rows in order, in chunks, with the time as it is stored."""
    columns = (audit.c.seq, type_coerce(audit.c.at, BigInteger).label("at_us"), audit.c.actor, audit.c.event)
    query = select(*columns, audit.c.case_id, audit.c.subject, audit.c.detail, audit.c.hash).order_by(audit.c.seq)
    after: int | None = None
    while True:
        page = query if after is None else query.where(audit.c.seq > after)
        rows = connection.execute(page.limit(_CHUNK)).all()
        yield from rows
        if len(rows) < _CHUNK:
            return
        after = rows[-1].seq


def events(connection: Connection, *, case_id: str | None = None, after_seq: int = 0, limit: int = 1000) -> list[Event]:
    """Rows as events, oldest first."""
    query = select(audit).where(audit.c.seq > after_seq).order_by(audit.c.seq).limit(limit)
    if case_id is not None:
        query = query.where(audit.c.case_id == case_id)
    return [
        Event(r.seq, r.at, r.actor, r.event, r.case_id, r.subject, json.loads(r.detail))
        for r in connection.execute(query)
    ]
