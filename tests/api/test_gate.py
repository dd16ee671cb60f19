"""In front of the routes: deadlines, caps, rates, headers, request ids and the log line."""

import json
import socket
import time
from typing import Any

import pytest
import structlog

from casework.entrypoints.api import gate, server
from casework.entrypoints.api.limits import Buckets, Rate
from casework.observe import ALLOWED_FIELDS
from tests.api.conftest import Api, raw, run_server
from tests.api.test_problems import check_problem

HEADERS = {
    "content-security-policy": "default-src 'self'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.mark.parametrize(
    "path", ["/", "/v1/health/live", "/v1/cases", "/v1/nothing", "/v1/results/1", "/static/app.js"]
)
@pytest.mark.parametrize("role", ["", "viewer"])
def test_security_headers_on_every_response(path: str, role: str, api: Api) -> None:
    """Pages, answers and failures all carry the security headers, and none names the server."""
    with api.client(role) as client:
        response = client.get(path)
    for name, value in HEADERS.items():
        assert response.headers[name].startswith(value)
    assert "unsafe" not in response.headers["content-security-policy"]
    assert "http" not in response.headers["content-security-policy"]
    assert "cache-control" in response.headers
    assert "server" not in response.headers
    assert "access-control-allow-origin" not in response.headers


def test_request_ids(api: Api) -> None:
    """A caller's id comes back; one with other characters is replaced by ours."""
    with api.client("viewer") as client:
        assert client.get("/v1/session", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
        for bad in ("a b", "x" * 65, "é", "<b>"):
            got = client.get("/v1/session", headers=[(b"X-Request-Id", bad.encode("latin-1"))]).headers["x-request-id"]
            assert got != bad
            assert len(got) == 32


def test_log_lines_hold_no_values(api: Api) -> None:
    """A request's log line has the route's template and allowed fields, never the path, the query or a key."""
    canary = "CANARYACCESSION"
    with structlog.testing.capture_logs() as lines, api.client("viewer") as client:
        client.get("/v1/why", params={"q": canary})
        client.get(f"/v1/cases/{canary}")
        client.get(f"/{canary}")
        client.request(canary, "/v1/cases")
    assert len(lines) == 4
    text = json.dumps(lines)
    assert canary not in text
    assert api.keys["viewer"] not in text
    assert [line["where"] for line in lines] == ["/v1/why", "/v1/cases/{case_id}", "none", "none"]
    for line in lines:
        assert set(line) - {"log_level"} <= ALLOWED_FIELDS


def test_rate_limit(own_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that asks too often is told when to come again; another key is not affected."""
    monkeypatch.setattr(gate, "KEY_RATE", Rate(3, 0.001))
    with run_server(own_api.door) as port:
        limited = Api(own_api.door, f"http://127.0.0.1:{port}", own_api.keys)
        with limited.client("viewer") as client:
            assert [client.get("/v1/session").status_code for _ in range(3)] == [200] * 3
            check_problem(client.get("/v1/session"), 429, "RATE_LIMITED")
        with limited.client("admin") as client:
            assert client.get("/v1/session").status_code == 200


def test_guessing_keys_is_slowed_and_holders_are_not(own_api: Api) -> None:
    """Many requests without a valid key end in 429; a valid key from the same address still works."""
    with own_api.client("") as client:
        statuses = [client.get("/v1/session", headers={"Authorization": "Bearer guess"}).status_code for _ in range(80)]
    assert statuses[0] == 401
    assert 429 in statuses
    with own_api.client("viewer") as client:
        assert client.get("/v1/session").status_code == 200


def test_buckets() -> None:
    """A bucket holds its burst, refills at its rate, and forgets names beyond its capacity."""
    buckets = Buckets(Rate(2, 1.0), capacity=2)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert buckets.take("a", 0.5) is False
    assert buckets.take("a", 1.5) is True
    assert buckets.take("b", 1.5)
    assert buckets.take("c", 1.5)
    assert buckets.take("a", 1.5) is True, "forgotten, so full again"


def test_silent_and_slow_heads_are_dropped(own_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that sends no complete request head in time is closed, and honest callers notice nothing."""
    monkeypatch.setattr(server, "HEADER_DEADLINE_S", 0.5)
    silent = [socket.create_connection(("127.0.0.1", own_api.port), 5) for _ in range(30)]
    for connection in silent[:15]:
        connection.sendall(b"GET /v1/health/live HTTP/1.1\r\nHost: localhost\r\nX: ")
    started = time.monotonic()
    with own_api.client("") as client:
        assert client.get("/v1/health/live").status_code == 200
    assert time.monotonic() - started < 1
    for connection in silent:
        connection.settimeout(5)
        assert connection.recv(100) == b""
        connection.close()
    assert time.monotonic() - started < 4


def test_a_second_request_may_come_late_but_not_half(own_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kept connection, the next head has the deadline too."""
    monkeypatch.setattr(server, "HEADER_DEADLINE_S", 0.5)
    with socket.create_connection(("127.0.0.1", own_api.port), 5) as connection:
        connection.sendall(b"GET /v1/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /v1/hea")
        connection.settimeout(5)
        rest = b"x"
        while rest:
            rest = connection.recv(4096)


def test_a_body_that_stalls_ends_in_408(own_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that stops coming is answered with 408 and the connection is closed."""
    monkeypatch.setattr(gate, "CHUNK_DEADLINE_S", 0.4)
    monkeypatch.setattr(gate, "DRAIN_S", 0.2)
    head = f"POST /v1/why HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {own_api.keys['viewer']}\r\nContent-Type: application/json\r\n"
    answer = raw(own_api.port, head.encode() + b'Content-Length: 20\r\n\r\n{"q"')
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert b"REQUEST_TOO_SLOW" in answer


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200_000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX y: 1\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["long", "endless", "negative", "two lengths", "coding", "name", "binary", "host"],
)
def test_malformed_heads_end_the_connection(request_head: bytes, api: Api) -> None:
    """Heads that are too long, ambiguous or not HTTP end in a 4xx, a 5xx or a reset; the service goes on."""
    answer = raw(api.port, request_head)
    first = answer.split(b"\r\n")[0]
    assert not first or first.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    with api.client("") as client:
        assert client.get("/v1/health/live").status_code == 200


def test_a_refused_upload_reads_its_answer(api: Api) -> None:
    """A caller without a key that sends a large body still gets the answer instead of a broken pipe."""

    def body() -> Any:
        for _ in range(40):
            yield b"x" * 65536

    with api.client("") as client:
        check_problem(client.post("/dicom-web/studies", content=body()), 401, "NOT_AUTHENTICATED")


def test_websockets_and_other_methods_are_not_spoken(api: Api) -> None:
    """An upgrade request is answered like any other request; TRACE and OPTIONS give nothing away."""
    with api.client("viewer") as client:
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "eA==",
        }
        assert client.get("/v1/session", headers=upgrade).status_code == 200
        assert client.request("TRACE", "/v1/session").status_code == 405
        assert client.options("/v1/session").status_code == 405
