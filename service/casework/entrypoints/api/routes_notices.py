"""Events on their way to webhooks: what waits, what was given up, and send that again."""

from typing import Literal

from fastapi import FastAPI
from starlette.requests import Request

from casework.case import NoticeState
from casework.entrypoints.api import views
from casework.entrypoints.api.door import Door, add, language
from casework.entrypoints.api.routes_cases import Limit, actor
from casework.entrypoints.api.routes_intake import Before
from casework.entrypoints.api.schemas_events import Notice, NoticePage, NoticeRepeat, NoticesRepeated
from casework.entrypoints.keyfile import Role
from casework.errors import Refused

_OPEN = (NoticeState.PENDING, NoticeState.DEAD)


class NoticeRoutes:
    """Handlers over the ledger's notices."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def list_notices(
        self,
        request: Request,
        state: Literal["pending", "dead"] | None = None,
        cursor: Before = None,
        limit: Limit = 50,
    ) -> NoticePage:
        """What waits and what was given up."""
        states = (NoticeState(state),) if state else _OPEN
        rows = self._door.ledger.notices(states, limit + 1, cursor)
        items = [
            Notice(
                id=row.id,
                webhook=row.webhook,
                case_id=row.case_id,
                event_id=row.event_id,
                state=row.state,
                attempt=row.attempt,
                status=row.status,
                reason=views.maybe_reason(row.code, language(request)),
                created_at=row.created_at,
            )
            for row in rows[:limit]
        ]
        return NoticePage(items=items, next_cursor=items[-1].id if len(rows) > limit else None)

    def repeat_notices(self, request: Request, wish: NoticeRepeat) -> NoticesRepeated:
        """Send a webhook's dead events again.

        Raises:
            Refused: NOT_FOUND, no such webhook is configured, so that nobody would send them.
        """
        if wish.webhook not in {hook.name for hook in self._door.settings.webhook}:
            raise Refused("NOT_FOUND", "no such webhook is configured")
        return NoticesRepeated(
            repeated=self._door.ledger.repeat_notices(wish.webhook, actor(request), self._door.now())
        )


def add_routes(app: FastAPI, door: Door) -> None:
    """Add the routes of this module."""
    routes = NoticeRoutes(door)
    add(app, "GET", "/v1/notices", routes.list_notices, role=Role.VIEWER, tag="webhooks", failures=(400, 503))
    add(
        app, "POST", "/v1/notices/repeat", routes.repeat_notices, role=Role.OPERATOR, tag="webhooks",
        failures=(400, 404, 413, 503),
    )  # fmt: skip
