"""The papers say what is true: each test they name is there, no requirement is missing, no dependency without a reason."""

import ast
import re
import tomllib
from pathlib import Path

from tests.security import requirements, threats

ROOT = Path(__file__).resolve().parents[2]


def exists(name: str) -> bool:
    """Whether a test file, or a function in it, is there."""
    file, _, function = name.partition("::")
    path = ROOT / "tests" / file
    if not path.is_file():
        return False
    found = {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}
    return function in found if function else any(each.startswith("test_") for each in found)


def test_every_requirement_has_its_tests_or_says_why_not() -> None:
    """All points of all issues are in the table once; each has tests that exist, or names what is open."""
    numbers = [row[0] for row in requirements.ROWS]
    assert numbers == [f"{issue}.{n}" for issue, count in requirements.POINTS.items() for n in range(1, count + 1)]
    for number, _, tests, missing in requirements.ROWS:
        assert tests or missing, number
        for name in tests:
            assert name.startswith("run: ") or exists(name), f"{number}: {name}"


def test_every_threat_has_its_tests() -> None:
    """Each threat names a countermeasure and tests that exist; each kind of STRIDE was thought of."""
    assert {kind for _, kind, *_ in threats.ROWS} == {
        threats.S,
        threats.TA,
        threats.R,
        threats.IN,
        threats.D,
        threats.E,
    }
    for where, _, threat, against, tests in threats.ROWS:
        assert against, threat
        assert tests, threat
        for name in tests:
            assert exists(name), f"{where}: {name}"


def test_every_dependency_is_locked_and_has_a_reason() -> None:
    """Each direct dependency is in the lock with hashes and in ADR 19 with its reason; the ADR names no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "gpu" for line in lines]
    direct = {re.split(r"[\[<>=~]", line)[0] for line in (*project["dependencies"], *extras)}
    locked = (ROOT / "requirements.lock").read_text("utf-8") + (ROOT / "requirements-service.lock").read_text("utf-8")
    for name in direct:
        assert re.search(rf"^{re.escape(name)}(\[.*\])?==\S+.*\\\n +--hash=sha256:", locked, re.MULTILINE), name
    reasons = set(
        re.findall(r"^\| ([a-z0-9-]+) \|", (ROOT / "docs/adr/0019-dependencies.md").read_text("utf-8"), re.MULTILINE)
    )
    assert reasons - {"package", "---"} == direct
