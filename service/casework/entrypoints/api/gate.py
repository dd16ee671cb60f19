"""In front of every route: request id, key and role, limits, deadlines, security headers, one log line. The HTTP guard.

Deny by default: a path is open only when its route says so, and everything is decided before a byte of the body is
read. Nothing from the request but the route's template reaches a log line.
"""

import asyncio
import ipaddress
import re
import time
import uuid
from dataclasses import dataclass, field

from fastapi import FastAPI, HTTPException
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from casework.config import Http
from casework.entrypoints.api import problems
from casework.entrypoints.api.auth import Keyring, Principal
from casework.entrypoints.api.limits import FAILURE_RATE, KEY_RATE, Buckets
from casework.entrypoints.keyfile import Role
from casework.observe import log

JSON_BODY_BYTES = 64 << 10
HEADER_BYTES = 16 << 10
CHUNK_DEADLINE_S = 30.0  # between two pieces of a body
DRAIN_BYTES, DRAIN_S = 4 << 20, 2.0  # of a refused body, so that the caller can read the answer
STOW_PREFIX = "/dicom-web/"
PUBLIC = "public"
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    # blob: is needed for previews, which the page fetches with the key and never by address.
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
)
ONLY_HTTPS = (b"strict-transport-security", b"max-age=31536000")


@dataclass
class _Exchange:
    """One request on its way through."""

    scope: Scope
    receive: Receive
    send: Send
    request_id: str
    language: problems.Language
    body_limit: int
    started: float = field(default_factory=time.monotonic)
    route: str = "none"
    status: int = 0
    taken: int = 0
    body_ended: bool = False

    async def receive_limited(self) -> Message:
        """Receive, with the caps on a body's size and on the time between two pieces."""
        try:
            message = await asyncio.wait_for(self.receive(), CHUNK_DEADLINE_S if not self.body_ended else None)
        except TimeoutError:
            raise HTTPException(408) from None
        if message["type"] == "http.request":
            self.taken += len(message.get("body", b""))
            self.body_ended = not message.get("more_body", False)
            if self.taken > self.body_limit:
                raise HTTPException(413)
        return message

    async def send_guarded(self, message: Message) -> None:
        """Send, with the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", self.request_id.encode()),
                *(header for header in SECURITY_HEADERS if header[0] not in own),
                *([ONLY_HTTPS] if self.scope.get("scheme") == "https" else []),
                # What is left of a body would be read as the next request.
                *([] if self.body_ended or not _announces_body(self.scope) else [(b"connection", b"close")]),
            ]
        await self.send(message)

    async def refuse(self, code: str, detail: str = "", status: int = 0) -> None:
        """Answer with a problem before the body was read."""
        response = problems.response(
            code, language=self.language, request_id=self.request_id, detail=detail, status=status
        )
        await response(self.scope, self.receive, self.send_guarded)
        await self.drain()

    async def drain(self) -> None:
        """Let the rest of a body come for a moment: closing with unread bytes would lose the answer on the way."""
        if not _announces_body(self.scope):
            return
        left, until = DRAIN_BYTES, time.monotonic() + DRAIN_S
        while left > 0 and not self.body_ended:
            try:
                message = await asyncio.wait_for(self.receive(), max(0.01, until - time.monotonic()))
            except TimeoutError:
                return
            left -= len(message.get("body", b""))
            self.body_ended = message["type"] != "http.request" or not message.get("more_body", False)


class Gate:
    """The ASGI application that is served: checks, then the FastAPI application."""

    def __init__(self, app: FastAPI, keys: Keyring, max_body_bytes: int, hosts: frozenset[str] = frozenset()) -> None:
        """`hosts`: the names that the Host header may bear; none = any."""
        self.app = app
        self._hosts = hosts
        self._keys = keys
        self._max_body_bytes = max_body_bytes
        self._by_key = Buckets(KEY_RATE)
        self._by_address = Buckets(FAILURE_RATE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        exchange = _Exchange(
            scope,
            receive,
            send,
            request_id=given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex,
            language=problems.language_of(headers.get(b"accept-language", "")),
            body_limit=self._max_body_bytes if scope["path"].startswith(STOW_PREFIX) else JSON_BODY_BYTES,
        )
        scope.setdefault("state", {}).update(request_id=exchange.request_id, language=exchange.language)
        try:
            await self._serve(exchange, headers)
        except Exception as error:  # noqa: BLE001 - the outer guard of HTTP: the caller gets a problem, the log a type
            log.error("http.failed", where=exchange.route, error_type=type(error).__name__, code="INTERNAL")
            if not exchange.status:
                await exchange.refuse("INTERNAL")
        finally:
            self._note(exchange)

    async def _serve(self, exchange: _Exchange, headers: dict[bytes, str]) -> None:
        if sum(len(name) + len(value) for name, value in exchange.scope["headers"]) > HEADER_BYTES:
            await exchange.refuse("REQUEST_TOO_LARGE", "headers", 431)
            return
        if self._hosts and _host(headers.get(b"host", "")) not in self._hosts:
            # A page elsewhere whose name leads here (DNS rebinding) must not speak with the voice of this one.
            await exchange.refuse("HOST_NOT_ALLOWED", status=421)
            return
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # Two lengths of one body: whatever stands in front may have believed the other one (RFC 9112 6.3).
            await exchange.refuse("REQUEST_INVALID", "two body lengths")
            return
        exchange.route, needed = _route_of(self.app, exchange.scope)
        if needed != PUBLIC:
            principal = self._keys.identify(headers.get(b"authorization", ""))
            code = self._check(principal, needed, exchange.scope)
            if code:
                await exchange.refuse(code)
                return
            exchange.scope["state"]["principal"] = principal
        length = headers.get(b"content-length", "")
        if length.isdecimal() and int(length) > exchange.body_limit:
            await exchange.refuse("REQUEST_TOO_LARGE", f"limit {exchange.body_limit} bytes")
            return
        if headers.get(b"content-encoding", "identity").lower() != "identity":
            await exchange.refuse("MEDIA_TYPE_NOT_ACCEPTED", "Content-Encoding")
            return
        await self.app(exchange.scope, exchange.receive_limited, exchange.send_guarded)
        await exchange.drain()

    def _check(self, principal: Principal | None, needed: str, scope: Scope) -> str:
        """Return the code that stops this request, "" when nothing does."""
        now = time.monotonic()
        if principal is None:
            address = (scope.get("client") or ("",))[0]
            return "NOT_AUTHENTICATED" if self._by_address.take(address, now) else "RATE_LIMITED"
        if not self._by_key.take(principal.name, now):
            return "RATE_LIMITED"
        return "" if not needed or principal.role.covers(Role(needed)) else "NOT_AUTHORISED"

    @staticmethod
    def _note(exchange: _Exchange) -> None:
        log.info(
            "http.request",
            kind=exchange.scope["method"] if exchange.scope["method"] in _METHODS else "other",
            where=exchange.route,
            status=exchange.status,
            seconds=round(time.monotonic() - exchange.started, 4),
            bytes=exchange.taken,
            association_id=exchange.request_id,
        )


def hosts_of(http: Http) -> frozenset[str]:
    """The names by which this API may be called: those of the settings, on loopback its own too."""
    own: set[str] = set()
    if ipaddress.ip_address(http.host).is_loopback:
        own = {"localhost", "127.0.0.1", "[::1]", f"[{http.host}]" if ":" in http.host else http.host}
    elif not http.allowed_hosts:
        return frozenset()
    return frozenset(own | {name.lower() for name in http.allowed_hosts})


def _host(value: str) -> str:
    """A Host header without its port."""
    return re.sub(r":\d*$", "", value.strip().lower())


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _announces_body(scope: Scope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return b"transfer-encoding" in names or any(n == b"content-length" and v != b"0" for n, v in scope["headers"])


def _route_of(app: FastAPI, scope: Scope) -> tuple[str, str]:
    """Return the template and the role of the route that will answer; ("none", "") when there is none."""
    for route in app.router.routes:
        match, _ = route.matches(scope)
        if match is Match.FULL and isinstance(route, APIRoute):
            return route.path, role_of(route)
    return "none", ""


def role_of(route: APIRoute) -> str:
    """The least role a route needs.

    Raises:
        KeyError: the route names none, which is a programming error that a test finds.
    """
    return str((route.openapi_extra or {})["x-role"])
