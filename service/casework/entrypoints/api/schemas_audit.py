"""The audit's bodies, as openapi/openapi.yaml has them. Does no I/O."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from casework.ledger import Event


class AuditRow(BaseModel):
    """One thing that changed."""

    sequence: int
    at: datetime
    actor: str
    event: str
    case_id: str
    subject: str
    detail: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> "AuditRow":
        """The row of an event."""
        return cls(
            sequence=event.seq,
            at=event.at,
            actor=event.actor,
            event=event.event,
            case_id=event.case_id,
            subject=event.subject,
            detail=dict(event.detail),
        )


class AuditPage(BaseModel):
    """A page of the audit, oldest first."""

    items: list[AuditRow]
    next_after: int | None


class AuditHead(BaseModel):
    """The newest row: whoever keeps it elsewhere can prove later that nothing before it was changed."""

    sequence: int
    hash: str
    at: datetime


class AuditCheck(BaseModel):
    """Whether the chain holds, and where it first does not."""

    ok: bool
    rows: int
    head: str
    first_bad: int | None
    problem: str
