"""The FastAPI application: routes, failures as problems, and the schema that a test compares with the contract."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from casework.entrypoints.api import (
    page,
    problems,
    routes_analyses,
    routes_audit,
    routes_cases,
    routes_fetches,
    routes_intake,
    routes_notices,
    routes_results,
    routes_service,
    routes_stow,
    routes_summary,
    routes_why,
    schemas,
    schemas_events,
)
from casework.entrypoints.api.door import Door
from casework.entrypoints.api.gate import Gate, hosts_of
from casework.errors import CaseworkError, Defect
from casework.observe import log


def create_app(door: Door) -> FastAPI:
    """Build the application without its gate. No documentation pages: they would load code from elsewhere."""
    app = FastAPI(
        title="casework",
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    for module in (
        routes_analyses,
        routes_cases,
        routes_results,
        routes_intake,
        routes_stow,
        routes_fetches,
        routes_notices,
        routes_service,
        routes_summary,
        routes_why,
        routes_audit,
    ):
        module.add_routes(app, door)
    page.add_routes(app)
    app.add_exception_handler(CaseworkError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_unexpected)
    return app


def guarded(door: Door) -> Gate:
    """What is served: the application behind its gate."""
    http = door.settings.http
    return Gate(create_app(door), door.keys, http.max_body_bytes, hosts_of(http))


def described(app: FastAPI) -> dict[str, Any]:
    """The application's own OpenAPI document, with the schemas that only failures and raw responses use."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes, separate_input_output_schemas=False)
    document.setdefault("components", {}).setdefault("schemas", {})
    answers = (schemas.Problem, schemas.Ready, schemas.StoreResponse, schemas.Summary)
    extra: tuple[type[BaseModel], ...] = (*answers, schemas_events.CaseEvent)
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in extra]
    _, found = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
    document["components"]["schemas"].update(found["$defs"])
    # The framework's own answer to an invalid request never leaves: `_on_invalid` gives a problem with 400.
    for item in document["paths"].values():
        for operation in item.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document


def _on_error(request: Request, error: Exception) -> JSONResponse:
    """A failure on purpose: its code, and its detail unless it is a defect of ours, which is for the log."""
    if not isinstance(error, CaseworkError):
        raise error
    if isinstance(error, Defect):
        log.error("http.defect", code=error.code, error_type=type(error).__name__)
    return problems.of_request(request, error.code, detail="" if isinstance(error, Defect) else error.detail)


def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    """A request that does not follow the contract: where and what, never the value that was sent."""
    if not isinstance(error, RequestValidationError):
        raise error
    found = [_field_error(item) for item in error.errors()[:20]]
    return problems.of_request(request, "REQUEST_INVALID", errors=found)


def _field_error(item: Mapping[str, Any]) -> dict[str, str]:
    where, message = ".".join(str(part) for part in item["loc"]), str(item["msg"])
    # Parser errors quote the body and unknown fields are named by it: say what kind of error it is, and no more.
    if item["type"] in ("json_invalid", "extra_forbidden"):
        where, message = (
            where.split(".", 1)[0],
            "JSON can't be read" if item["type"] == "json_invalid" else "unknown field",
        )
    return {"where": where, "problem": message}


def _on_unexpected(request: Request, _: Exception) -> JSONResponse:
    """Anything else: the framework raises it again after this answer, so that the gate logs its type."""
    return problems.of_request(request, "INTERNAL")


def _on_http(request: Request, error: Exception) -> JSONResponse:
    """A bare status from the framework."""
    if not isinstance(error, HTTPException):
        raise error
    code = problems.code_of(error.status_code)
    return problems.of_request(request, code, status=error.status_code, headers=dict(error.headers or {}))
