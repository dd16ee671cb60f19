"""What webhooks are sent, and what became of it, in the contract's words (openapi.yaml). Does no I/O."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from casework.case import CaseState, NoticeState
from casework.entrypoints.api.schemas import Reason


class CaseMove(BaseModel):
    """Which case moved, and how."""

    id: str
    revision: int
    predecessor: str | None
    previous_state: CaseState
    state: CaseState
    reason: str
    retraction: str


class EventLinks(BaseModel):
    """Where more is told, to those who have a key."""

    case: str
    results: str


class EventResult(BaseModel):
    """One result that can be downloaded."""

    kind: str
    media_type: str
    url: str


class EventKind(StrEnum):
    """What an event tells."""

    STATE = "case.state"
    RESULTS = "case.results"


class CaseEvent(BaseModel):
    """What a webhook is sent (docs/webhooks.md)."""

    id: str
    type: EventKind
    at: datetime
    sequence: int
    case: CaseMove
    links: EventLinks
    results: list[EventResult]


class Notice(BaseModel):
    """One event on its way to one webhook, and how its last try ended."""

    id: int
    webhook: str
    case_id: str
    event_id: str
    state: NoticeState
    attempt: int
    status: str
    reason: Reason | None
    created_at: datetime


class NoticePage(BaseModel):
    """A page of events."""

    items: list[Notice]
    next_cursor: int | None


class NoticeRepeat(BaseModel):
    """Whose dead events to send again."""

    model_config = ConfigDict(extra="forbid")

    webhook: str = Field(min_length=1, max_length=64)


class NoticesRepeated(BaseModel):
    """How many."""

    repeated: int
