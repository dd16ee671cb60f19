"""The DICOMweb client: STOW-RS of stored files, QIDO-RS counts. Owns its HTTP connections; never touches the ledger.

Files are streamed from disk as they are, one part each. Redirects are not followed, because the bearer token would travel
with them. Every call ends within its deadline, and an answer body is read up to a bound.
"""

import contextlib
import email.utils
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from casework.config import Destination
from casework.dicom.answers import Answer, StoreItem, StoreResult, ended, of_dimse, of_http
from casework.errors import Unavailable
from casework.tls import client_context, is_tls

CHUNK = 1 << 17
MAX_ANSWER_BYTES = 16 << 20
SLOWEST_BYTES_PER_S = 128 << 10
CONNECT_S = 10.0
PAGE = 500
_BEFORE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)


class WebSession:
    """HTTP connections to one DICOMweb root."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._root = destination.url.rstrip("/")
        token = Path(destination.token_file).read_text("utf-8").strip() if destination.token_file else ""
        self._socket: socket.socket | None = None
        limit = httpx.Timeout(destination.timeout_s, connect=min(CONNECT_S, destination.timeout_s))
        self._client = httpx.Client(
            timeout=limit,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            follow_redirects=False,
            verify=client_context(destination) if self._root.startswith("https://") else False,
            trust_env=False,  # a proxy of the environment would see the patient's data
        )

    def __enter__(self) -> "WebSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def send(self, item: StoreItem) -> StoreResult:
        """Send one object in one request, so that its answer is its own."""
        return self.send_many([item])[0]

    def send_many(self, items: Sequence[StoreItem]) -> list[StoreResult]:
        """STOW-RS (PS3.18 10.5) of several objects in one request; one result for each, in order."""
        uids = [item.sop_instance_uid for item in items]
        boundary = uuid.uuid4().hex
        try:
            size = sum(item.path.stat().st_size for item in items)
            deadline = time.monotonic() + self._destination.timeout_s + size / SLOWEST_BYTES_PER_S
            request = self._client.build_request(
                "POST",
                f"{self._root}/studies",
                content=_multipart(items, boundary, deadline),
                headers={
                    "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                    "Content-Length": str(_length(items, boundary, size)),
                    "Accept": "application/dicom+json",
                },
            )
            status, headers, body = self._exchange(request, deadline)
        except _BEFORE as error:
            return [ended(uid, "tls" if is_tls(error) else "unreachable") for uid in uids]
        except httpx.HTTPError:
            return [ended(uid, "broken") for uid in uids]
        except OSError:
            return [ended(uid, "unreadable") for uid in uids]
        return classify(uids, status, retry_after_s(headers.get("Retry-After", "")), body)

    def probe(self) -> bool:
        """Whether a server answers there at all; asks for no data."""
        deadline = time.monotonic() + self._destination.timeout_s
        try:
            status, _, _ = self._exchange(self._client.build_request("OPTIONS", f"{self._root}/studies"), deadline)
        except httpx.HTTPError:
            return False
        return status < httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.NOT_IMPLEMENTED

    def get_json(self, path: str, options: Mapping[str, str | Sequence[str]]) -> list[dict[str, Any]]:
        """QIDO-RS: every match, page by page.

        Raises:
            Unavailable: PEER_UNREACHABLE, PEER_TLS, PEER_REJECTED or PEER_BUSY; an incomplete answer is never returned as complete.
        """
        found: list[dict[str, Any]] = []
        deadline = time.monotonic() + self._destination.timeout_s
        while True:
            page = self._get_page(path, {**options, "limit": str(PAGE), "offset": str(len(found))}, deadline)
            fresh = page[:PAGE]
            # A server without paging answers everything at once, and would answer the same again.
            if found and fresh == found[: len(fresh)]:
                return found
            found += page
            if len(page) != PAGE:
                return found

    @contextlib.contextmanager
    def stream(self, path: str, accept: str) -> Iterator[httpx.Response]:
        """A GET whose body the caller reads; its head comes within the timeout, each piece of the body too.

        Raises:
            Unavailable: PEER_UNREACHABLE, PEER_TLS or PEER_BUSY, also for what goes wrong while the body is read.
        """
        request = self._client.build_request(
            "GET", f"{self._root}/{path}", headers={"Accept": accept, "Accept-Encoding": "identity"}
        )
        request.extensions["trace"] = self._remember
        timer = threading.Timer(self._destination.timeout_s + 1.0, self._cut)
        timer.daemon = True
        timer.start()
        try:
            response = self._client.send(request, stream=True)
            timer.cancel()
            try:
                yield response
            finally:
                response.close()
        except _BEFORE as error:
            raise Unavailable("PEER_TLS" if is_tls(error) else "PEER_UNREACHABLE", self._destination.name) from error
        except httpx.HTTPError as error:
            raise Unavailable("PEER_BUSY", f"WADO {type(error).__name__}") from error
        finally:
            timer.cancel()

    def _get_page(self, path: str, options: Mapping[str, str | Sequence[str]], deadline: float) -> list[dict[str, Any]]:
        request = self._client.build_request(
            "GET", f"{self._root}/{path}", params=dict(options), headers={"Accept": "application/dicom+json"}
        )
        try:
            status, _, body = self._exchange(request, deadline)
            if status == httpx.codes.NO_CONTENT:
                return []
            if status != httpx.codes.OK:
                raise Unavailable("PEER_BUSY" if status >= 500 else "PEER_REJECTED", f"QIDO HTTP {status}")
            page = json.loads(body or b"[]")
        except _BEFORE as error:
            raise Unavailable("PEER_TLS" if is_tls(error) else "PEER_UNREACHABLE", self._destination.name) from error
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable("PEER_BUSY", f"QIDO {type(error).__name__}") from error
        if not isinstance(page, list) or not all(isinstance(match, dict) for match in page):
            raise Unavailable("PEER_BUSY", "QIDO answer is not a list")
        return page

    def _exchange(self, request: httpx.Request, deadline: float) -> tuple[int, httpx.Headers, bytes]:
        """Send and read the answer, bounded in time and size.

        The library's timeouts bound single reads, so a server that sends its headers byte by byte is cut off here.
        """
        request.extensions["trace"] = self._remember
        timer = threading.Timer(max(deadline - time.monotonic(), 0.0) + 1.0, self._cut)
        timer.daemon = True
        timer.start()
        try:
            return self._read(self._client.send(request, stream=True), deadline)
        finally:
            timer.cancel()

    def _remember(self, event: str, info: Mapping[str, Any]) -> None:
        """Note the connection that the library uses, to be able to cut it."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")

    def _cut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # below TLS, which belongs to the other thread

    @staticmethod
    def _read(response: httpx.Response, deadline: float) -> tuple[int, httpx.Headers, bytes]:
        try:
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                    raise httpx.ReadTimeout("answer beyond its bounds")
            return response.status_code, response.headers, bytes(body)
        finally:
            response.close()


def store(destination: Destination, objects: Sequence[StoreItem]) -> list[StoreResult]:
    """Send objects in one STOW-RS request; one result for each, in order."""
    with WebSession(destination) as session:
        return session.send_many(objects) if objects else []


def classify(uids: Sequence[str], status: int, retry_after: float, body: bytes) -> list[StoreResult]:
    """One result for each UID from the answer (PS3.18 10.5.3, I.2).

    An instance that the body names as failed has failed, whatever the status says. With 202 and 409 an instance that
    the body does not name as stored has not been stored.
    """
    document = _parse(body)
    failed = {_uid(item): _number(item, "00081197") for item in _items(document, "00081198")}
    stored = {_uid(item): _number(item, "00081196") for item in _items(document, "00081199")}
    others = [_number(item, "00081197") for item in _items(document, "0008119A")]
    results = []
    for uid in uids:
        if uid in failed:
            results.append(of_dimse(uid, failed[uid]))
        elif uid in stored and status < 300:
            results.append(of_dimse(uid, stored[uid]) if stored[uid] else of_http(uid, 200))
        elif status in (202, 409) and (failed or stored or others):
            results.append(
                of_dimse(uid, others[0]) if others else StoreResult(uid, status, "PEER_FAILED", Answer.FEW, http=True)
            )
        elif status == 202:
            results.append(
                StoreResult(uid, status, "PEER_FAILED", Answer.FEW, http=True)
            )  # accepted with failures, none named
        else:
            results.append(of_http(uid, status, retry_after))
    return results


def retry_after_s(value: str) -> float:
    """Seconds that Retry-After (RFC 9110 10.2.3) asks for; 0 when it is absent or nonsense."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        then = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return 0.0
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max((then - datetime.now(UTC)).total_seconds(), 0.0)


def _head(boundary: str) -> bytes:
    return f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()


def _length(items: Sequence[StoreItem], boundary: str, size: int) -> int:
    return size + len(items) * (len(_head(boundary)) + 2) + len(boundary) + 6


def _multipart(items: Sequence[StoreItem], boundary: str, deadline: float) -> Iterator[bytes]:
    """The body of a request, read from disk as it is sent."""
    for item in items:
        yield _head(boundary)
        with item.path.open("rb") as file:
            while chunk := file.read(CHUNK):
                if time.monotonic() > deadline:
                    raise httpx.WriteTimeout("the peer reads too slowly")
                yield chunk
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _parse(body: bytes) -> dict[str, Any]:
    """The Store Instances response as JSON; an answer in another form says nothing about instances."""
    try:
        document = json.loads(body or b"{}")
    except ValueError:
        return {}
    if isinstance(document, list):
        document = document[0] if document else {}
    return document if isinstance(document, dict) else {}


def _items(document: Mapping[str, Any], tag: str) -> list[dict[str, Any]]:
    values = _values(document, tag)
    return [item for item in values if isinstance(item, dict)]


def _values(item: Mapping[str, Any], tag: str) -> list[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _uid(item: Mapping[str, Any]) -> str:
    return str(next(iter(_values(item, "00081155")), ""))


def _number(item: Mapping[str, Any], tag: str) -> int:
    """A US value; a failure without a reason counts as a processing failure, a warning without one as none."""
    value = next(iter(_values(item, tag)), None)
    if isinstance(value, int):
        return value
    return 0x0110 if tag == "00081197" else 0
