"""Studies that are fetched from a PACS: ask for them, and see which were chosen or rejected and why."""

from datetime import datetime
from typing import Annotated

from fastapi import FastAPI, Path
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

from casework.case import CandidateState, OrderState
from casework.entrypoints.api import views
from casework.entrypoints.api.auth import Role
from casework.entrypoints.api.door import Door, add, language
from casework.entrypoints.api.problems import Language
from casework.entrypoints.api.routes_cases import CaseId, actor
from casework.entrypoints.api.schemas import Reason, Term
from casework.ledger import CandidateRow, OrderRow

CandidateId = Annotated[int, Path(ge=1, le=2**53)]


class FetchRequest(BaseModel):
    """Whose other studies, or which study, to fetch: a case id, an accession number or a Study Instance UID."""

    model_config = ConfigDict(extra="forbid")

    term: Term


class Candidate(BaseModel):
    """One study that a PACS named."""

    id: int
    study_instance_uid: str
    accession_number: str
    study_date: str
    modalities: dict[str, int]
    role: str
    state: CandidateState
    reason: Reason
    detail: str
    attempt: int
    counts: dict[str, int]
    next_at: datetime | None
    started_at: datetime | None
    changed_at: datetime


class FetchOrder(BaseModel):
    """One question to one PACS and its candidates."""

    id: int
    destination: str
    actor: str
    state: OrderState
    reason: Reason | None
    attempt: int
    next_at: datetime | None
    asked_at: datetime | None
    changed_at: datetime
    candidates: list[Candidate]


class FetchList(BaseModel):
    """Orders, newest first."""

    items: list[FetchOrder]


class FetchRoutes:
    """Handlers over the ledger's orders."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def create_fetch(self, request: Request, wish: FetchRequest) -> FetchList:
        """Ask every PACS that is fetched from."""
        places = [place.name for place in self._door.settings.destination if place.retrieve]
        self._door.ledger.order_fetch(wish.term, places, actor(request), self._door.now())
        return fetch_list(self._door.ledger.read.fetches_of_term(wish.term), language(request))

    def list_fetches(self, request: Request, case_id: CaseId) -> FetchList:
        """What was asked for a case."""
        return fetch_list(self._door.ledger.read.fetches(case_id), language(request))

    def exclude_candidate(self, request: Request, candidate_id: CandidateId) -> None:
        """Don't fetch a study that waits to be fetched."""
        self._door.ledger.exclude_candidate(candidate_id, actor(request), self._door.now())


def fetch_list(orders: list[OrderRow], words: Language) -> FetchList:
    """Rows as the contract shows them."""
    return FetchList(items=[_order(row, words) for row in orders])


def _order(row: OrderRow, words: Language) -> FetchOrder:
    return FetchOrder(
        id=row.id,
        destination=row.destination,
        actor=row.actor,
        state=row.state,
        reason=views.maybe_reason(row.code, words),
        attempt=row.attempt,
        next_at=row.next_at,
        asked_at=row.asked_at,
        changed_at=row.changed_at,
        candidates=[_candidate(found, words) for found in row.candidates],
    )


def _candidate(row: CandidateRow, words: Language) -> Candidate:
    return Candidate(
        id=row.id,
        study_instance_uid=row.study_uid,
        accession_number=row.accession_number,
        study_date=row.study_date,
        modalities=dict(row.modalities),
        role=row.role,
        state=row.state,
        reason=views.reason(row.code, words),
        detail=row.detail,
        attempt=row.attempt,
        counts=dict(row.counts),
        next_at=row.next_at,
        started_at=row.started_at,
        changed_at=row.changed_at,
    )


def add_routes(app: FastAPI, door: Door) -> None:
    """Add the routes of this module."""
    routes = FetchRoutes(door)
    add(
        app, "POST", "/v1/fetches", routes.create_fetch, role=Role.OPERATOR, tag="fetches", status=202,
        failures=(400, 409, 413, 503),
    )  # fmt: skip
    add(
        app, "GET", "/v1/cases/{case_id}/fetches", routes.list_fetches, role=Role.VIEWER, tag="fetches",
        failures=(400, 404, 503),
    )  # fmt: skip
    add(
        app, "POST", "/v1/fetches/candidates/{candidate_id}/exclude", routes.exclude_candidate, role=Role.OPERATOR,
        tag="fetches", status=204, response_model=None, failures=(400, 404, 409, 503),
    )  # fmt: skip
