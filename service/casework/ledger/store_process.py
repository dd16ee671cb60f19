"""The service's own processes: a beat of each, so that "nothing happens" can be told from "nobody is there". No audit."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from casework.ledger.columns import clean
from casework.ledger.schema import process
from casework.ledger.store_base import Store

STALE_S = 60.0
_FORGET = timedelta(days=7)
_FRESH = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process of the service as it last showed itself. error_code: the newest error of its log."""

    door: str
    host: str
    pid: int
    state: str  # running | stopped | failed
    code: str
    started_at: datetime
    beat_at: datetime
    error_code: str
    error_at: datetime | None
    engine: Mapping[str, str] = field(default_factory=dict)  # its passport: engine, passport, sha256, passed_over

    def alive(self, now: datetime) -> bool:
        """Whether it says that it runs, and said so lately."""
        return self.state == "running" and abs((now - self.beat_at).total_seconds()) <= STALE_S


class ProcessStore(Store):
    """The doors' part of the facade."""

    def beat(self, row: ProcessRow, *, starts: bool = False) -> None:
        """Write how a process is; one row for each door and host.

        One that only `starts` doesn't hide why it failed just before: perhaps it is about to fail again.
        """
        values = {name: getattr(row, name) for name in ProcessRow.__slots__ if name != "engine"}
        values["host"] = clean(row.host)[:255]
        same = (process.c.door == row.door) & (process.c.host == values["host"])
        failed = select(process.c.pid).where(
            same, process.c.state == "failed", process.c.beat_at > row.beat_at - _FRESH
        )
        with self._database.write(row.beat_at) as tx:
            if starts and tx.connection.execute(failed).first() is not None:
                return
            if tx.connection.execute(update(process).where(same).values(values)).rowcount == 0:
                tx.connection.execute(insert(process), {**values, "engine": ""})
                tx.connection.execute(delete(process).where(process.c.beat_at < row.beat_at - _FORGET))

    def note_engine(self, door: str, host: str, passport: Mapping[str, str], now: datetime) -> None:
        """Write with which engine a worker serves from now on, and audit it."""
        host = clean(host)[:255]
        same = (process.c.door == door) & (process.c.host == host)
        text = json.dumps(dict(passport), ensure_ascii=True)
        with self._database.write(now) as tx:
            if tx.connection.execute(update(process).where(same).values(engine=text)).rowcount == 0:
                row = {"pid": 0, "state": "running", "code": "", "started_at": now, "beat_at": now, "error_code": ""}
                tx.connection.execute(insert(process), {"door": door, "host": host, **row, "engine": text})
            tx.audit("engine.examined", f"{door}:{host}", **passport)


def processes(connection: Connection) -> list[ProcessRow]:
    """Every process that showed itself within a week."""
    query = select(process).order_by(process.c.door, process.c.host)
    return [_row(found) for found in connection.execute(query)]


def _row(found: Any) -> ProcessRow:
    values = {name: getattr(found, name) for name in ProcessRow.__slots__}
    return ProcessRow(**{**values, "engine": json.loads(found.engine) if found.engine else {}})
