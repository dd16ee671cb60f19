"""Every route x every role: nobody gets further than the contract says."""

import re

import pytest

from casework.entrypoints.keyfile import Role
from tests.api.conftest import Api
from tests.api.test_contract import load, operations

CONTRACT = load()
MATRIX = [
    (method, path, operation["x-role"], role)
    for (method, path), operation in sorted(operations(CONTRACT).items())
    for role in ("", *Role)
]


@pytest.mark.parametrize(("method", "path", "needed", "role"), MATRIX)
def test_route_and_role(method: str, path: str, needed: str, role: str, api: Api) -> None:
    """Without a key 401, with too small a role 403, and with enough of one neither."""
    url = re.sub(r"\{[^}]*\}", "1", path)
    with api.client(role) as client:
        status = client.request(method, url).status_code
    if needed == "public":
        assert status in (200, 503)
    elif not role:
        assert status == 401
    elif not Role(role).covers(Role(needed)):
        assert status == 403
    else:
        assert status not in (401, 403, 405, 500)


def test_the_matrix_is_complete() -> None:
    """All operations of the contract times all roles and nobody: none was left out, and each role differs somewhere."""
    assert len(MATRIX) == len(operations(CONTRACT)) * (len(Role) + 1)
    assert {needed for _, _, needed, _ in MATRIX} == {"public", *Role}


@pytest.mark.parametrize(
    "path", ["/docs", "/openapi.json", "/redoc", "/v2/cases", "/v1", "/static/", "/static/../app.py"]
)
def test_what_is_not_a_route_needs_a_key_too(path: str, api: Api) -> None:
    """Without a key even the absence of a route is not told."""
    with api.client("") as client:
        assert client.get(path).status_code == 401
    with api.client("viewer") as client:
        assert client.get(path).status_code == 404


def test_what_each_role_covers() -> None:
    """Viewer, operator and admin each cover the ones before; an auditor sees the audit only, which an admin may too."""
    assert [[a.covers(b) for b in Role] for a in Role] == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, True],
        [False, False, False, True],
    ]


def test_an_auditor_changes_nothing() -> None:
    """Every route that an auditor may call only reads."""
    open_to_auditors = {method for method, _, needed, role in MATRIX if role == Role.AUDITOR and needed == Role.AUDITOR}
    assert open_to_auditors == {"get"}
