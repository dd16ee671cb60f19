"""Cases: lists, one case, its timeline and results, and what an operator may do with it."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import FastAPI, Path, Query
from starlette.requests import Request

from casework.case import CaseState
from casework.entrypoints.api import schemas, views
from casework.entrypoints.api.door import Door, add, language, principal
from casework.entrypoints.keyfile import Role

CaseId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Cursor = Annotated[str | None, Query(pattern=r"^[0-9]{1,15}$")]
Limit = Annotated[int, Query(ge=1, le=200)]
Search = Annotated[str | None, Query(min_length=1, max_length=64)]


class CaseRoutes:
    """Handlers over `ledger.read` and the ledger's people methods."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._ledger = door.ledger

    def list_cases(
        self,
        request: Request,
        state: CaseState | None = None,
        q: Search = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> schemas.CasePage:
        """Cases, newest first."""
        page = self._ledger.read.list_cases(state=state, q=q or "", limit=limit, cursor=cursor or "")
        items = [views.case_item(item, language(request)) for item in page.items]
        return schemas.CasePage(items=items, next_cursor=page.next_cursor or None)

    def get_case(self, request: Request, case_id: CaseId) -> schemas.Case:
        """One case in full."""
        return views.case(self._ledger.read.case_view(case_id), language(request))

    def list_events(self, request: Request, case_id: CaseId) -> schemas.EventList:
        """The timeline, oldest first."""
        self._ledger.read.case(case_id)
        rows = self._ledger.read.timeline(case_id)
        return schemas.EventList(items=[views.event(row, language(request)) for row in rows])

    def list_results(self, request: Request, case_id: CaseId) -> schemas.ResultList:
        """Artefacts and deliveries."""
        view = self._ledger.read.case_view(case_id)
        return schemas.ResultList(
            artefacts=[views.artefact(row, view.case.retraction) for row in view.artefacts],
            deliveries=[views.delivery(row, language(request)) for row in view.deliveries],
        )

    def retry_case(self, request: Request, case_id: CaseId) -> schemas.Case:
        """Run a case again."""
        return self._act(self._ledger.retry_case, request, case_id)

    def cancel_case(self, request: Request, case_id: CaseId) -> schemas.Case:
        """Stop a case that has not run."""
        return self._act(self._ledger.cancel_case, request, case_id)

    def resend_case(self, request: Request, case_id: CaseId) -> schemas.Case:
        """Send the stored results again."""
        settings = self._door.settings
        wanted = [place.name for place in settings.destination if place.send]
        again = partial(self._ledger.resend_case, destinations=wanted, withheld=settings.withheld)
        return self._act(again, request, case_id)

    def decide_case(self, request: Request, case_id: CaseId, wish: schemas.DecisionRequest) -> schemas.Case:
        """Settle doubts about a case's images; answers with the revision that goes on."""
        who, now = actor(request), self._door.now()
        newest = self._ledger.decide(case_id, wish.decision, who, now, wish.subject or "", wish.detail, wish.seen)
        return self.get_case(request, newest)

    def exclude_from_case(self, request: Request, case_id: CaseId, wish: schemas.ExclusionRequest) -> schemas.Case:
        """Take images out of a case, or put them back; answers with the revision that goes on."""
        who, now = actor(request), self._door.now()
        if wish.restore:
            newest = self._ledger.restore(case_id, wish.uid, who, now)
        else:
            newest = self._ledger.exclude(case_id, wish.uid, wish.reason, who, now, wish.detail)
        return self.get_case(request, newest)

    def retract_case(self, request: Request, case_id: CaseId, order: schemas.RetractionOrder) -> schemas.Case:
        """Withdraw the results."""
        from casework.flows.retract import Retractor  # with the report's libraries: loaded when it is needed

        door = self._door
        retractor = Retractor(door.ledger, door.spool, door.settings)
        retractor.retract(case_id, order.reason, actor(request), door.now(), order.note)
        return self.get_case(request, case_id)

    def _act(self, act: Callable[[str, str, datetime], object], request: Request, case_id: str) -> schemas.Case:
        act(case_id, actor(request), self._door.now())
        return self.get_case(request, case_id)


def actor(request: Request) -> str:
    """How the audit names the owner of the key."""
    return f"api:{principal(request).name}"


def add_routes(app: FastAPI, door: Door) -> None:
    """Add the routes of this module."""
    routes = CaseRoutes(door)
    add(app, "GET", "/v1/cases", routes.list_cases, role=Role.VIEWER, tag="cases", failures=(400, 503))
    for path, handler in (
        ("/v1/cases/{case_id}", routes.get_case),
        ("/v1/cases/{case_id}/events", routes.list_events),
        ("/v1/cases/{case_id}/results", routes.list_results),
    ):
        add(app, "GET", path, handler, role=Role.VIEWER, tag="cases", failures=(400, 404, 503))
    for path, change in (("decisions", routes.decide_case), ("exclusions", routes.exclude_from_case)):
        where, failures = "/v1/cases/{case_id}/" + path, (400, 404, 409, 413, 503)
        add(app, "POST", where, change, role=Role.OPERATOR, tag="cases", status=202, failures=failures)
    decisions: tuple[Callable[..., schemas.Case], ...] = (
        routes.retry_case,
        routes.cancel_case,
        routes.resend_case,
        routes.retract_case,
    )
    for decide in decisions:
        path = "/v1/cases/{case_id}/" + decide.__name__.removesuffix("_case")
        gone = () if decide == routes.cancel_case else (410,)  # needs results that retention may have taken
        add(
            app, "POST", path, decide, role=Role.OPERATOR, tag="cases", status=202, failures=(400, 404, 409, *gone, 503)
        )
