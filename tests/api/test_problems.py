"""Failures in words: every code has a status, every failure is a problem of the contract, nothing sent comes back."""

from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest

from casework.entrypoints.api.problems import MEDIA_TYPE, code_of, language_of, status_of
from casework.reasons import REASONS, Family
from tests.api.conftest import Api
from tests.api.test_contract import load

CANARY = "CANARY^SECRET"


def check_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """A response is the contract's problem with this status and code."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    body: dict[str, Any] = response.json()
    schemas = load()["components"]["schemas"]
    jsonschema.validate(body, schemas["Problem"] | {"components": {"schemas": schemas}})
    assert (body["status"], body["code"]) == (status, code)
    assert body["title"]
    assert body["next"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert CANARY not in response.text
    if status in (429, 503, 507):
        assert int(response.headers["retry-after"]) > 0
    return body


@pytest.mark.parametrize("code", sorted(REASONS))
def test_every_reason_has_a_status_of_its_kind(code: str) -> None:
    """What the caller did wrong is 4xx, what may work later is 503, 429 or 507, what is ours is 500."""
    status = status_of(code)
    match REASONS[code].family:
        case Family.REFUSED | Family.WAITING | Family.NOTE:
            assert 400 <= status < 500
        case Family.UNAVAILABLE:
            assert status in (429, 503, 507)
        case Family.DEFECT:
            assert status == 500


@pytest.mark.parametrize("status", range(400, 600))
def test_every_bare_status_has_a_reason(status: int) -> None:
    """Whatever status the framework ends with, there is a coded reason for it."""
    assert code_of(status) in REASONS


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"), ("zh", "zh"), ("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-GB,zh;q=0.5", "en"), ("de, fr;q=0.3", "en"),
        ("de,zh;q=0.1", "zh"), ("en;q=0.1,zh;q=0.2", "zh"), ("zh;q=0", "en"), ("*", "en"), ("zh;q=bad", "en"),
        ("zh" * 5000, "en"), ("\u00ff", "en"),
    ],
)  # fmt: skip
def test_language(header: str, language: str) -> None:
    """The better of English and Chinese, English when neither is asked for or the header makes no sense."""
    assert language_of(header) == language


def test_problems_speak_two_languages(api: Api) -> None:
    """The same failure is told in English and in Chinese."""
    with api.client("viewer") as client:
        english = check_problem(client.get("/v1/cases/none"), 404, "NOT_FOUND")
        chinese = check_problem(client.get("/v1/cases/none", headers={"Accept-Language": "zh-CN"}), 404, "NOT_FOUND")
    assert english["title"] == REASONS["NOT_FOUND"].en
    assert chinese["title"] == REASONS["NOT_FOUND"].zh
    assert chinese["next"] == REASONS["NOT_FOUND"].next_zh


@pytest.mark.parametrize(
    ("method", "path", "extra", "end"),
    [
        ("GET", "/v1/nothing", {}, (404, "NOT_FOUND")),
        ("DELETE", "/v1/cases", {}, (405, "REQUEST_INVALID")),
        ("GET", f"/v1/cases?state={CANARY}", {}, (400, "REQUEST_INVALID")),
        ("GET", f"/v1/cases?cursor={CANARY}", {}, (400, "REQUEST_INVALID")),
        ("GET", "/v1/cases?cursor=abc", {}, (400, "REQUEST_INVALID")),
        ("GET", "/v1/cases?limit=0", {}, (400, "REQUEST_INVALID")),
        ("GET", "/v1/cases?q=" + "x" * 65, {}, (400, "REQUEST_INVALID")),
        ("GET", f"/v1/cases/{CANARY}", {}, (400, "REQUEST_INVALID")),
        ("GET", "/v1/cases/..%2F..%2Fetc", {}, (404, "NOT_FOUND")),
        ("GET", "/v1/results/99999", {}, (404, "NOT_FOUND")),
        ("GET", "/v1/results/99999999999999999999", {}, (400, "REQUEST_INVALID")),
        ("GET", "/v1/analyses/" + "0" * 32, {}, (404, "NOT_FOUND")),
        ("GET", "/v1/receipts?cursor=-1", {}, (400, "REQUEST_INVALID")),
        ("POST", "/v1/why", {"content": b'{"q": "' + CANARY.encode()}, (400, "REQUEST_INVALID")),
        ("POST", "/v1/why", {"json": {"q": "a", CANARY: 1}}, (400, "REQUEST_INVALID")),
        ("POST", "/v1/why", {"json": [CANARY]}, (400, "REQUEST_INVALID")),
        ("POST", "/v1/why", {"content": b"[" * 60_000}, (400, "REQUEST_INVALID")),
        ("POST", "/v1/why", {"content": b"\xff\xfe"}, (400, "REQUEST_INVALID")),
        ("POST", "/v1/why", {"json": {"q": "x" * 70_000}}, (413, "REQUEST_TOO_LARGE")),
        ("POST", "/v1/why", {"content": iter([b"x" * 70_000])}, (413, "REQUEST_TOO_LARGE")),
        (
            "POST",
            "/v1/why",
            {"headers": {"Content-Encoding": "gzip"}, "content": b"x"},
            (415, "MEDIA_TYPE_NOT_ACCEPTED"),
        ),
        ("POST", "/v1/analyses", {"json": {"accession_number": "A"}}, (400, "REQUEST_INVALID")),
        ("POST", "/dicom-web/studies/1.2..3", {}, (400, "REQUEST_INVALID")),
    ],
)
def test_bad_requests_are_problems(
    method: str, path: str, extra: dict[str, Any], end: tuple[int, str], api: Api
) -> None:
    """Each kind of bad request ends in its problem, which repeats nothing that was sent."""
    with api.client("admin") as client:
        check_problem(client.request(method, path, **extra), *end)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"accession_number": "A", "patient_id": "P"},
        {"accession_number": ""},
        {"study_instance_uids": []},
        {"study_instance_uids": ["../../etc"]},
        {"study_instance_uids": ["1.2"] * 51},
        {"accession_number": "A", "issuer_of_patient_id": "I"},
        {"accession_number": "A", "priority": "now"},
        {"accession_number": "A", "extra": 1},
        {"patient_id": 7},
    ],
)
def test_bad_analysis_requests(body: dict[str, Any], api: Api) -> None:
    """A request that names no selector, two, or a malformed one is refused, naming where."""
    with api.client("operator") as client:
        response = client.post("/v1/analyses", json=body, headers={"Idempotency-Key": "k"})
    problem = check_problem(response, 400, "REQUEST_INVALID")
    assert problem["errors"]
    assert all(error["where"].startswith("body") for error in problem["errors"])


def test_unexpected_failures_are_problems_too(own_api: Api) -> None:
    """When something of ours breaks, the caller gets a coded 500 without a word about the inside."""
    own_api.ledger.close()
    own_api.ledger.read = None  # breaks every question, as a bug would
    with own_api.client("viewer") as client:
        problem = check_problem(client.get("/v1/cases"), 500, "INTERNAL")
    assert "NoneType" not in str(problem)
