"""What came in, what went out, and why something did not run."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import FastAPI, Query
from starlette.requests import Request

from casework.case import Verdict
from casework.entrypoints.api import schemas, views
from casework.entrypoints.api.door import Door, add, language
from casework.entrypoints.api.routes_cases import Limit
from casework.entrypoints.keyfile import Role

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Row numbers; for associations, whose ids have no order, microseconds since the epoch. The limit is the year 9999.
Before = Annotated[int | None, Query(ge=1, le=253_402_300_799_999_999)]
Term = Annotated[str, Query(min_length=1, max_length=64)]


class IntakeRoutes:
    """Handlers over `ledger.read`."""

    def __init__(self, door: Door) -> None:
        self._read = door.ledger.read

    def list_receipts(
        self, request: Request, verdict: Verdict | None = None, cursor: Before = None, limit: Limit = 50
    ) -> schemas.ReceiptPage:
        """What came in, newest first."""
        rows = self._read.receipts(limit=limit, before=cursor, verdict=verdict)
        items = [views.receipt(row, language(request)) for row in rows]
        return schemas.ReceiptPage(items=items, next_cursor=items[-1].id if len(items) == limit else None)

    def list_associations(self, request: Request, cursor: Before = None, limit: Limit = 50) -> schemas.AssociationPage:
        """The association log, newest first."""
        before = _EPOCH + timedelta(microseconds=cursor) if cursor else None
        rows = self._read.associations(limit=limit, before=before)
        last = (rows[-1].opened_at - _EPOCH) // timedelta(microseconds=1) if len(rows) == limit else None
        return schemas.AssociationPage(
            items=[views.association(row, language(request)) for row in rows], next_cursor=last
        )

    def list_deliveries(self, request: Request, cursor: Before = None, limit: Limit = 50) -> schemas.DeliveryPage:
        """What went out, newest first."""
        rows = self._read.deliveries(limit=limit, before=cursor)
        items = [views.delivery(row, language(request)) for row in rows]
        return schemas.DeliveryPage(items=items, next_cursor=items[-1].id if len(items) == limit else None)


def add_routes(app: FastAPI, door: Door) -> None:
    """Add the routes of this module."""
    routes = IntakeRoutes(door)
    listing = (400, 503)
    add(app, "GET", "/v1/receipts", routes.list_receipts, role=Role.VIEWER, tag="intake", failures=listing)
    add(app, "GET", "/v1/associations", routes.list_associations, role=Role.ADMIN, tag="intake", failures=listing)
    add(app, "GET", "/v1/deliveries", routes.list_deliveries, role=Role.VIEWER, tag="results", failures=listing)
