"""Studies that are fetched from a PACS: ask for them, and see which were chosen or rejected and why."""

from typing import Annotated

from fastapi import FastAPI, Path
from starlette.requests import Request

from casework.entrypoints.api.door import Door, add, language
from casework.entrypoints.api.routes_cases import CaseId, actor
from casework.entrypoints.api.schemas_why import FetchList, FetchRequest
from casework.entrypoints.api.views_why import fetch_list
from casework.entrypoints.keyfile import Role

CandidateId = Annotated[int, Path(ge=1, le=2**53)]


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
