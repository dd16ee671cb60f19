"""Download what was made: the stored bytes, exactly as destinations get them."""

import pathlib
from collections.abc import Iterator
from typing import Annotated

from fastapi import FastAPI, Path
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from casework.case import REJECTION
from casework.entrypoints.api.door import Door, add
from casework.entrypoints.keyfile import Role
from casework.errors import Defect, Refused

CHUNK_BYTES = 256 << 10
EXTENSIONS = {"application/dicom": "dcm", "application/json": "json", "image/png": "png"}
ArtefactId = Annotated[int, Path(ge=1, le=2**63 - 1)]


class ResultRoutes:
    """Handlers over the spool."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def download_result(self, request: Request, artefact_id: ArtefactId) -> Response:
        """One artefact's bytes."""
        row = self._door.ledger.read.artefact_by_id(artefact_id)
        made, retraction = row.artefact, row.withdrawn or self._door.ledger.read.case(row.case_id).retraction
        retraction = "" if made.kind == REJECTION else retraction
        if made.media_type not in EXTENSIONS:
            raise Defect("INTERNAL", "an artefact of an unknown media type")
        if not accepts(request.headers.get("accept", ""), made.media_type):
            raise Refused("NOT_ACCEPTABLE", made.media_type)
        tag = f'"{made.sha256}"'
        headers = {
            "ETag": tag,
            "Cache-Control": "private, no-cache",
            "Content-Disposition": f'attachment; filename="{_name(artefact_id, retraction)}.{EXTENSIONS[made.media_type]}"',
            # Should a browser ever show it as a page, it is one without scripts and without an origin.
            "Content-Security-Policy": "default-src 'none'; sandbox",
        }
        if retraction:
            headers["Casework-Retracted"] = retraction
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        path = self._door.spool.path(made.sha256)
        if not path.is_file():
            if self._door.ledger.removed_bytes(made.sha256):
                raise Refused("RESULTS_REMOVED")
            raise Defect("SPOOL_CORRUPT", "an artefact's bytes are missing")
        headers["Content-Length"] = str(made.size)
        return StreamingResponse(_chunks(path), headers=headers, media_type=made.media_type)


def accepts(accept: str, media_type: str) -> bool:
    """Whether an Accept header takes this media type (RFC 9110 12.5.1; a quality of 0 refuses)."""
    if not accept.strip():
        return True
    best: tuple[int, bool] = (0, False)
    main = media_type.split("/", 1)[0]
    for item in accept[:1000].split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        weight = {media_type: 3, f"{main}/*": 2, "*/*": 1}.get(name, 0)
        if weight > best[0]:
            refused = any(p.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for p in parameters)
            best = (weight, not refused)
    return best[1]


def _name(artefact_id: int, retraction: str) -> str:
    """A file name that says so when the result was withdrawn."""
    return f"casework-{artefact_id}{'-RETRACTED' if retraction else ''}"


def _chunks(path: pathlib.Path) -> Iterator[bytes]:
    """Opened with the first chunk: a client that has gone by then leaves no file open."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def add_routes(app: FastAPI, door: Door) -> None:
    """Add the routes of this module."""
    raw = {"schema": {"type": "string", "format": "binary"}}
    add(
        app, "GET", "/v1/results/{artefact_id}", ResultRoutes(door).download_result,
        role=Role.VIEWER, tag="results", failures=(400, 404, 406, 410, 503), response_class=Response, response_model=None,
        responses={200: {"content": dict.fromkeys(EXTENSIONS, raw)}, 304: {"description": "Not modified."}},
    )  # fmt: skip
