"""STOW-RS: a multipart body, part by part, through the same intake as C-STORE (PS3.18 10.5).

The body is parsed and written in a worker thread as it comes; while the next part arrives, the ones before it are made
durable by a few threads, so that the ledger can commit them together. The answer waits for all of them.
"""

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from casework.case import Verdict
from casework.dicom import stow
from casework.dicom.status import status_of
from casework.entrypoints.api import schemas
from casework.entrypoints.api.door import Door, add, principal
from casework.entrypoints.api.problems import code_of
from casework.entrypoints.keyfile import Role
from casework.errors import CaseworkError, Refused, Unavailable
from casework.flows.intake import Answer, Context, Intake, Reception
from casework.reasons import Family, reason

PIECE_BYTES = 1 << 20  # written at once
IN_FLIGHT = 16  # parts of one request that wait for the disk
StudyUid = Annotated[str, Path(pattern=schemas.UID, max_length=64)]


class DicomJson(JSONResponse):
    """A data set as DICOM JSON (PS3.18 annex F)."""

    media_type = "application/dicom+json"


class Upload:
    """One request's parts on their way in. Used by one thread at a time; owns no I/O of its own."""

    def __init__(self, intake: Intake, context: Context, boundary: bytes, pool: ThreadPoolExecutor) -> None:
        self._intake = intake
        self._context = context
        self._parser = stow.Parser(boundary)
        self._pool = pool
        self._current: Reception | None = None
        self._waiting: deque[Future[Answer]] = deque()
        self.answers: list[Answer] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            Refused: the body is not what it says; parts that were complete before stay.
        """
        for event in self._parser.feed(data):
            match event:
                case stow.PartBegin():
                    self._begin(event)
                case stow.PartData():
                    if self._current is not None:
                        self._current.write(event.data)
                case stow.PartEnd():
                    self._end()

    def finish(self) -> None:
        """The body ended.

        Raises:
            Refused: TRUNCATED.
        """
        self._parser.finish()

    def settle(self) -> None:
        """Forget the part that is not complete and wait for the others."""
        if self._current is not None:
            self._current.abandon()
            self._current = None
        self._collect(0)

    def _begin(self, part: stow.PartBegin) -> None:
        if part.media_type == stow.MEDIA_TYPE:
            self._current = self._intake.start_part10(self._context)
        else:
            refused = Refused("MEDIA_TYPE_NOT_ACCEPTED", "part")
            self._waiting.append(self._pool.submit(self._intake.refuse, refused, self._context))

    def _end(self) -> None:
        if self._current is None:
            return
        self._waiting.append(self._pool.submit(self._current.finish))
        self._current = None
        self._collect(IN_FLIGHT)

    def _collect(self, leave: int) -> None:
        while len(self._waiting) > leave:
            self.answers.append(self._waiting.popleft().result())


class StowRoutes:
    """Handlers that end in `flows.intake`."""

    def __init__(self, door: Door) -> None:
        self._intake = door.intake
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="stow")

    async def store_instances(self, request: Request) -> DicomJson:
        """Store instances of any study."""
        return await self._store(request, "")

    async def store_study_instances(self, request: Request, study_instance_uid: StudyUid) -> DicomJson:
        """Store instances of one study."""
        return await self._store(request, study_instance_uid)

    async def _store(self, request: Request, study_uid: str) -> DicomJson:
        boundary = stow.boundary_of(request.headers.get("content-type", ""))
        await run_in_threadpool(self._admit)
        owner, address = principal(request).name, request.client.host if request.client else ""
        open_ = self._intake.open_association
        association_id = await run_in_threadpool(open_, owner, "STOW-RS", address)
        context = Context("stow", f"api:{owner}", association_id, study_instance_uid=study_uid)
        upload = Upload(self._intake, context, boundary, self._pool)
        end, code = "aborted", "INTERNAL"
        try:
            problem = await _receive(request, upload)
            end, code = ("refused", problem.code) if problem else ("released", "")
        except ClientDisconnect:
            problem, code = Refused("TRUNCATED", "the caller went away"), "TRUNCATED"
        except HTTPException as error:
            code = code_of(error.status_code)
            raise
        finally:
            await run_in_threadpool(upload.settle)
            counts = dict(Counter(str(answer.verdict) for answer in upload.answers))
            await run_in_threadpool(self._intake.close_association, association_id, end, code, counts)
        return _respond(upload.answers, problem)

    def _admit(self) -> None:
        """Raise what keeps a new request out."""
        code = self._intake.admit()
        if code == "LEDGER_UNAVAILABLE" and self._intake.probe():
            code = self._intake.admit()
        if code:
            raise Unavailable(code)


async def _receive(request: Request, upload: Upload) -> CaseworkError | None:
    """Push the whole body into the upload; return what is wrong with it, None when nothing is."""
    pieces = bytearray()
    try:
        async for chunk in request.stream():
            pieces += chunk
            if len(pieces) >= PIECE_BYTES:
                await run_in_threadpool(upload.feed, bytes(pieces))
                pieces.clear()
        await run_in_threadpool(upload.feed, bytes(pieces))
        upload.finish()
    except Refused as refused:
        return refused
    return None


def _respond(answers: list[Answer], problem: CaseworkError | None) -> DicomJson:
    """PS3.18's answer; a problem where nothing was stored and the caller can help it, or should come again.

    Raises:
        CaseworkError: the body could not be read at all, or everything failed for want of a resource.
    """
    if problem is not None and not answers:
        raise problem
    lost = [answer for answer in answers if answer.verdict is Verdict.REFUSED]
    if answers and len(lost) == len(answers) and all(_unavailable(answer) for answer in lost):
        raise Unavailable(lost[0].code)
    results = [_stored(answer) for answer in answers]
    if problem is not None:
        results.append(stow.Stored("", "", status_of(Verdict.REFUSED, problem.code)))
    status, module = stow.respond(results)
    return DicomJson(module, status)


def _unavailable(answer: Answer) -> bool:
    return reason(answer.code).family is Family.UNAVAILABLE


def _stored(answer: Answer) -> stow.Stored:
    header = answer.header
    status = status_of(answer.verdict, answer.code)
    return stow.Stored(header.sop_class_uid if header else "", header.sop_instance_uid if header else "", status)


def add_routes(app: FastAPI, door: Door) -> None:
    """Add the routes of this module."""
    routes = StowRoutes(door)
    module = {DicomJson.media_type: {"schema": {"$ref": "#/components/schemas/StoreResponse"}}}
    body = {"required": True, "content": {"multipart/related": {"schema": {"type": "string", "format": "binary"}}}}
    handlers: tuple[tuple[str, Callable[..., Any]], ...] = (
        ("/dicom-web/studies", routes.store_instances),
        ("/dicom-web/studies/{study_instance_uid}", routes.store_study_instances),
    )
    for path, handler in handlers:
        add(
            app, "POST", path, handler, role=Role.OPERATOR, tag="intake",
            failures=(400, 408, 413, 415, 503, 507),
            responses={code: {"description": "Stored, in part, or not.", "content": module} for code in (200, 202, 409)},
            openapi_extra={"requestBody": body},
            response_class=DicomJson, response_model=None,
        )  # fmt: skip
