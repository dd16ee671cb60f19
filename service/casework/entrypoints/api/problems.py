"""Failures as RFC 9457 problems: code, what happened and what to do, in the caller's language. Does no I/O."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse

from casework.reasons import Family, reason

Language = Literal["en", "zh"]
MEDIA_TYPE = "application/problem+json"

_BY_FAMILY = {Family.WAITING: 409, Family.NOTE: 409, Family.REFUSED: 400, Family.UNAVAILABLE: 503, Family.DEFECT: 500}
_BY_CODE = {
    "NOT_AUTHENTICATED": 401,
    "AE_NOT_ALLOWED": 403,
    "NOT_AUTHORISED": 403,
    "NOT_FOUND": 404,
    "NOT_ACCEPTABLE": 406,
    "PDF_NOT_CONFIGURED": 406,
    "REQUEST_TOO_SLOW": 408,
    "CANCELLED": 409,
    "FETCH_NOT_CONFIGURED": 409,
    "IDEMPOTENCY_CONFLICT": 409,
    "PATIENT_IDENTITY_CONFLICT": 409,
    "STATE_FORBIDS": 409,
    "RESULTS_REMOVED": 410,
    "UID_CONFLICT": 409,
    "SIDE_CHANGED": 409,
    "IDENTITY_CHANGED": 409,
    "DECISION_NEEDED": 409,
    "REQUEST_TOO_LARGE": 413,
    "TOO_LARGE": 413,
    "TOO_MANY_PARTS": 413,
    "MEDIA_TYPE_NOT_ACCEPTED": 415,
    "RATE_LIMITED": 429,
    "DISK_LOW": 507,
}
_BY_STATUS = {404: "NOT_FOUND", 408: "REQUEST_TOO_SLOW", 413: "REQUEST_TOO_LARGE", 415: "MEDIA_TYPE_NOT_ACCEPTED"}
RETRY_AFTER_S = {408: 1, 429: 1, 503: 5, 507: 60}


def status_of(code: str) -> int:
    """The HTTP status of a reason that ends a request."""
    return _BY_CODE.get(code) or _BY_FAMILY[reason(code).family]


def code_of(status: int) -> str:
    """The reason of a bare HTTP status from the framework."""
    return _BY_STATUS.get(status, "REQUEST_INVALID" if status < 500 else "INTERNAL")


def language_of(accept_language: str) -> Language:
    """The best of English and Chinese for an Accept-Language header (RFC 9110 12.5.4); English when undecided."""
    best: tuple[float, Language] = (0.0, "en")
    for item in accept_language[:200].split(","):
        match = re.fullmatch(
            r"\s*(en|zh|\*)(?:-[A-Za-z0-9-]+)?\s*(?:;\s*q=([01](?:\.\d{0,3})?))?\s*", item, re.IGNORECASE
        )
        if match:
            weight = float(match[2]) if match[2] is not None else 1.0
            if weight > best[0]:
                best = (weight, "zh" if match[1].lower() == "zh" else "en")
    return best[1]


def words(code: str, language: Language) -> tuple[str, str]:
    """What happened and what to do."""
    row = reason(code)
    return (row.zh, row.next_zh) if language == "zh" else (row.en, row.next_en)


def body(
    code: str,
    status: int,
    *,
    language: Language,
    request_id: str,
    detail: str = "",
    errors: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """The problem's members."""
    title, next_ = words(code, language)
    return {
        "type": f"urn:casework:reason:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "family": reason(code).family.value,
        "next": next_,
        "request_id": request_id,
        "errors": [dict(error) for error in errors],
    }


def response(
    code: str,
    *,
    language: Language,
    request_id: str,
    status: int = 0,
    detail: str = "",
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The problem as a response; `status` 0 means the code's own."""
    status = status or status_of(code)
    all_headers = {"Content-Language": language, **(headers or {})}
    if status in RETRY_AFTER_S:
        all_headers.setdefault("Retry-After", str(RETRY_AFTER_S[status]))
    if status == 401:
        all_headers["WWW-Authenticate"] = 'Bearer realm="casework"'
    content = body(code, status, language=language, request_id=request_id, detail=detail, errors=errors)
    return JSONResponse(content, status, all_headers, media_type=MEDIA_TYPE)


def of_request(request: Request, code: str, **more: Any) -> JSONResponse:
    """The problem in the language and with the id that the gate put on the request."""
    return response(code, language=request.state.language, request_id=request.state.request_id, **more)
