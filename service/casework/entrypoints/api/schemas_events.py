"""What webhooks are sent, in the contract's words (openapi.yaml, webhooks). Does no I/O."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel

from casework.case import CaseState


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
