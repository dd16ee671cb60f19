"""The status page: a few static files of ours, read once. They know nothing; everything they show needs a key."""

import hashlib
from collections.abc import Callable
from importlib.resources import files

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from casework.entrypoints.api.gate import PUBLIC

MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def add_routes(app: FastAPI) -> None:
    """Add `/` and one route for each file of the folder; no path of a request ever names a file."""
    for file in sorted(files(__package__).joinpath("static").iterdir(), key=lambda entry: entry.name):
        extension = file.name.rpartition(".")[2]
        if extension in MEDIA_TYPES:
            path = "/" if file.name == "index.html" else f"/static/{file.name}"
            app.add_api_route(
                path,
                _serve(file.read_bytes(), MEDIA_TYPES[extension]),
                methods=["GET"],
                include_in_schema=False,
                response_model=None,
                openapi_extra={"x-role": PUBLIC},
            )


def _serve(content: bytes, media_type: str) -> Callable[[Request], Response]:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    def page_file(request: Request) -> Response:
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return page_file
