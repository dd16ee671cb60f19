"""openapi/openapi.yaml is valid, and the application is what it says: routes, roles, parameters, statuses, schemas."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_spec_validator import validate

from casework.case import CaseState, DeliveryState, JobState, Verdict
from casework.entrypoints.api.app import create_app, described
from casework.entrypoints.api.gate import role_of
from casework.entrypoints.keyfile import Role
from casework.reasons import Family
from tests.api.conftest import make_door, make_settings

CONTRACT = Path(__file__).parents[2] / "openapi" / "openapi.yaml"
METHODS = ("get", "post", "put", "patch", "delete")
WORDS = ("title", "description", "summary", "example", "examples")


@cache
def load() -> dict[str, Any]:
    """The contract."""
    document: dict[str, Any] = yaml.safe_load(CONTRACT.read_text("utf-8"))
    return document


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    return load()


@pytest.fixture(scope="module")
def app_and_document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, Any]]]:
    settings, _ = make_settings(tmp_path_factory.mktemp("contract"))
    door = make_door(settings)
    app = create_app(door)
    yield app, described(app)
    door.intake.close()
    door.ledger.close()


def resolve(document: dict[str, Any], node: Any) -> Any:
    """Follow a reference to a parameter or response (schemas stay references: they are compared by name)."""
    while isinstance(node, dict) and "$ref" in node and not node["$ref"].startswith("#/components/schemas/"):
        target: Any = document
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        node = target
    return node


def plain(schema: Any) -> Any:
    """A schema without words, with `[x, "null"]` and `anyOf: [x, null]` spelt the same way, lists in one order."""
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: plain(value) for key, value in schema.items() if key not in WORDS or key == "properties"}
    if "properties" in schema:
        result["properties"] = {name: plain(value) for name, value in schema["properties"].items()}
    if not result.get("properties", True):
        del result["properties"]
    options = result.pop("anyOf", None)
    if isinstance(options, list):
        others = [option for option in options if option != {"type": "null"}]
        if len(others) == 1 and len(options) == 2:
            nullable = others[0] if "$ref" not in others[0] else {"$nullable": others[0]["$ref"]}
            result |= {**nullable, **({"type": sorted([nullable["type"], "null"])} if "type" in nullable else {})}
        else:
            result["anyOf"] = sorted(options, key=str)
    if isinstance(result.get("type"), list):
        result["type"] = sorted(result["type"])
    for unordered in ("required", "enum"):
        if unordered in result and isinstance(result[unordered], list):
            result[unordered] = sorted(result[unordered])
    return result


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """(method, path) -> operation."""
    return {
        (method, path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def content(document: dict[str, Any], node: Any) -> dict[str, Any]:
    """Media type -> schema of a request body or response."""
    node = resolve(document, node)
    return {media: plain(entry.get("schema", {})) for media, entry in node.get("content", {}).items()}


def shape(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    """Everything about an operation that a program could notice."""
    parameters = {}
    for entry in operation.get("parameters", []):
        parameter = resolve(document, entry)
        where = (parameter["in"], parameter["name"].lower())
        parameters[where] = (parameter.get("required", False), plain(parameter["schema"]))
    body = operation.get("requestBody")
    return {
        "operationId": operation["operationId"],
        "x-role": operation["x-role"],
        "security": operation.get("security", document.get("security")),
        "tags": operation["tags"],
        "parameters": parameters,
        "body": (body.get("required", False), content(document, body)) if body else None,
        "responses": {status: content(document, node) for status, node in operation["responses"].items()},
    }


def test_the_contract_is_valid_openapi(contract: dict[str, Any]) -> None:
    """The file is a valid OpenAPI 3.1 document."""
    validate(contract)
    assert contract["openapi"].startswith("3.1")


def test_same_operations(contract: dict[str, Any], app_and_document: tuple[Any, dict[str, Any]]) -> None:
    """The application has every operation of the contract and no other."""
    assert sorted(operations(contract)) == sorted(operations(app_and_document[1]))


@pytest.mark.parametrize("key", sorted(operations(load())), ids=lambda key: f"{key[0]} {key[1]}")
def test_same_operation(
    key: tuple[str, str], contract: dict[str, Any], app_and_document: tuple[Any, dict[str, Any]]
) -> None:
    """Each operation has the contract's id, role, parameters, body, statuses, media types and schemas."""
    document = app_and_document[1]
    assert shape(document, operations(document)[key]) == shape(contract, operations(contract)[key])


@pytest.mark.parametrize("name", sorted(load()["components"]["schemas"]))
def test_same_schema(name: str, contract: dict[str, Any], app_and_document: tuple[Any, dict[str, Any]]) -> None:
    """Each schema of the contract has the same fields, types, limits and required names in the application."""
    ours = app_and_document[1]["components"]["schemas"]
    assert plain(ours[name]) == plain(contract["components"]["schemas"][name])


def test_no_schema_beyond_the_contract(contract: dict[str, Any], app_and_document: tuple[Any, dict[str, Any]]) -> None:
    """The application uses no schema that the contract does not describe."""
    assert set(app_and_document[1]["components"]["schemas"]) == set(contract["components"]["schemas"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CaseState", CaseState),
        ("Verdict", Verdict),
        ("DeliveryState", DeliveryState),
        ("JobState", JobState),
        ("Family", Family),
    ],
)
def test_states_are_the_tables(name: str, words: Any, contract: dict[str, Any]) -> None:
    """The contract's states are exactly those of casework.case and casework.reasons."""
    assert sorted(contract["components"]["schemas"][name]["enum"]) == sorted(word.value for word in words)


def test_every_route_names_a_role(app_and_document: tuple[Any, dict[str, Any]]) -> None:
    """No route of the application, not even one outside the contract, is without a role."""
    routes = app_and_document[0].router.routes
    assert len(routes) > 20
    for route in routes:
        assert role_of(route) in ("public", *Role), route.path


def test_drift_is_found(contract: dict[str, Any], app_and_document: tuple[Any, dict[str, Any]]) -> None:
    """The comparison itself sees a changed status, limit, role and field."""
    document = app_and_document[1]
    key = ("get", "/v1/cases")
    ours = shape(document, operations(document)[key])
    for change in (
        lambda s: s["responses"].pop("429"),
        lambda s: s["parameters"].pop(("query", "limit")),
        lambda s: s.update({"x-role": "admin"}),
    ):
        theirs = shape(contract, operations(contract)[key])
        change(theirs)
        assert ours != theirs
    schema = plain(contract["components"]["schemas"]["Problem"])
    schema["required"].remove("code")
    assert schema != plain(document["components"]["schemas"]["Problem"])
