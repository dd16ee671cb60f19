"""Why did my study not run?"""

from typing import Annotated

from fastapi import FastAPI, Query
from starlette.requests import Request

from casework.entrypoints.api.door import Door, add, language, principal
from casework.entrypoints.api.schemas_why import Why, WhyRequest
from casework.entrypoints.api.views_why import why as view
from casework.entrypoints.ask import ask_pacs
from casework.entrypoints.keyfile import Role
from casework.errors import Refused

SearchTerm = Annotated[str, Query(min_length=1, max_length=64)]


class WhyRoutes:
    """Handlers over `ledger.read.why`."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def why(self, request: Request, q: SearchTerm) -> Why:
        """Everything known of a search term."""
        return self._why(request, q, ask=False)

    def why_private(self, request: Request, search: WhyRequest) -> Why:
        """The same, with the term in the body; an operator may have the PACS asked when no case is found."""
        if search.ask_pacs and not principal(request).role.covers(Role.OPERATOR):
            raise Refused("NOT_AUTHORISED")
        return self._why(request, search.q, ask=search.ask_pacs)

    def _why(self, request: Request, term: str, *, ask: bool) -> Why:
        now = self._door.now()
        answer = self._door.ledger.read.why(term, now)
        told = ask_pacs(self._door.settings, term) if ask and not answer.cases else ()
        admin = principal(request).role.covers(Role.ADMIN)
        return view(answer, language(request), self._door.settings, told, associations=admin, now=now)


def add_routes(app: FastAPI, door: Door) -> None:
    """Add the routes of this module."""
    routes = WhyRoutes(door)
    add(app, "GET", "/v1/why", routes.why, role=Role.VIEWER, tag="cases", failures=(400, 503))
    add(app, "POST", "/v1/why", routes.why_private, role=Role.VIEWER, tag="cases", failures=(400, 413, 503))
