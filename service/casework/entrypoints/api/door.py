"""What every route works with, and the one way to add a route: with a role, or it can't be added. Does no I/O."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request

from casework.config import Settings
from casework.entrypoints.api import problems
from casework.entrypoints.api.auth import Keyring, Principal
from casework.entrypoints.api.gate import PUBLIC
from casework.entrypoints.api.problems import Language
from casework.entrypoints.keyfile import Role
from casework.flows.intake import Intake
from casework.ledger import Ledger
from casework.spool import Spool

_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
NEEDS_KEY = (401, 403, 429)


@dataclass(frozen=True, slots=True)
class Door:
    """The API's neighbours. `now` gives aware UTC times."""

    settings: Settings
    ledger: Ledger
    spool: Spool
    intake: Intake
    keys: Keyring
    now: Callable[[], datetime]


def add(
    app: FastAPI,
    method: str,
    path: str,
    endpoint: Callable[..., Any],
    *,
    role: Role | None,
    tag: str,
    status: int = 200,
    failures: tuple[int, ...] = (),
    responses: Mapping[int, Mapping[str, Any]] | None = None,
    **more: Any,
) -> None:
    """Add one documented route. `role` None opens it to everybody."""
    extra: dict[str, Any] = {"x-role": role.value if role else PUBLIC}
    extra["security"] = [{"apiKey": []}, {"accessToken": []}] if role else []
    described: dict[int | str, dict[str, Any]] = {
        code: {"description": f"See the contract ({code}).", "content": _PROBLEM}
        for code in (*failures, *(NEEDS_KEY if role else ()))
    }
    described.update({code: dict(value) for code, value in (responses or {}).items()})
    extra.update(more.pop("openapi_extra", {}))
    app.add_api_route(
        path,
        endpoint,
        methods=[method],
        status_code=status,
        operation_id=endpoint.__name__,
        tags=[tag],
        responses=described,
        openapi_extra=extra,
        **more,
    )


def language(request: Request) -> Language:
    """The caller's language, as the gate read it."""
    chosen: Language = request.state.language
    return chosen


def principal(request: Request) -> Principal:
    """The owner of the request's key; only on routes that need one."""
    owner: Principal = request.state.principal
    return owner


def problem(request: Request, code: str, **more: Any) -> Any:
    """A failure as a response."""
    return problems.of_request(request, code, **more)
