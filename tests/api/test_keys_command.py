"""`casework keys`, hosts, and the audit's routes: what an administrator and an auditor do."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from casework.config import Http
from casework.entrypoints import cli, keyfile
from casework.entrypoints.api.auth import Keyring
from casework.entrypoints.api.gate import hosts_of
from casework.entrypoints.keyfile import KeyRow, Role, digest, new_key
from tests.api.conftest import Api, serving


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, list(arguments))
    return result.exit_code, result.output


@pytest.fixture
def config(tmp_path: Path) -> Path:
    keyfile.write_keys(tmp_path / "keys.json", [KeyRow("first", Role.ADMIN, digest("x"))])
    file = tmp_path / "casework.toml"
    file.write_text(f"[http]\nkeys_file = '{tmp_path / 'keys.json'}'\n[storage]\nroot = '{tmp_path / 'var'}'\n")
    return file


def test_a_key_is_added_rotated_and_revoked(config: Path, tmp_path: Path) -> None:
    """A key is printed once and kept as its digest; a rotated one is good beside its old value for a while; a revoked one is not."""
    status, out = run("keys", "add", "ris", "--role", "operator", "--config", str(config))
    key = out.strip()
    assert status == 0
    file = tmp_path / "keys.json"
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    now = [datetime.now(UTC)]
    ring = Keyring(file, now=lambda: now[0], clock=lambda: now[0].timestamp())  # noqa: PLW0108 - the time moves
    assert ring.identify(f"Bearer {key}") is not None
    status, out = run("keys", "rotate", "ris", "--keep-hours", "2", "--config", str(config))
    fresh = out.strip()
    now[0] += timedelta(minutes=1)
    assert {ring.identify(f"Bearer {one}") for one in (key, fresh)} == {ring.identify(f"Bearer {fresh}")}
    assert ring.identify(f"Bearer {fresh}") is not None
    now[0] += timedelta(hours=3)
    assert ring.identify(f"Bearer {key}") is None
    assert ring.identify(f"Bearer {fresh}") is not None
    now[0] += timedelta(days=366)
    assert ring.identify(f"Bearer {fresh}") is None, "it has an end"
    status, out = run("keys", "list", "--config", str(config))
    assert "ris" in out
    assert key not in out
    assert run("keys", "revoke", "ris", "--config", str(config))[0] == 0
    assert "ris" not in file.read_text()


def test_mistakes_with_keys_are_refused(config: Path) -> None:
    """A second key of a name, a key that isn't there, and taking the last one away change nothing."""
    before = (config.parent / "keys.json").read_bytes()
    assert run("keys", "add", "first", "--role", "viewer", "--config", str(config))[0] == 2
    assert run("keys", "add", "a b", "--role", "viewer", "--config", str(config))[0] == 2
    assert run("keys", "rotate", "none", "--config", str(config))[0] == 2
    assert run("keys", "revoke", "first", "--config", str(config))[0] == 2
    assert (config.parent / "keys.json").read_bytes() == before


def test_the_day_of_use_is_noted(tmp_path: Path) -> None:
    """A key that was used has its day; it is written once a day, and holds no key."""
    key, kept = new_key()
    keyfile.write_keys(tmp_path / "k", [KeyRow("ris", Role.VIEWER, kept)])
    ring = Keyring(tmp_path / "k", used=tmp_path)
    used = tmp_path / "keys-used.json"
    assert not used.exists()
    for _ in range(3):
        ring.identify(f"Bearer {key}")
    stamp = used.stat().st_mtime_ns
    ring.identify(f"Bearer {key}")
    assert used.stat().st_mtime_ns == stamp
    assert json.loads(used.read_text()) == {"ris": f"{datetime.now(UTC):%Y-%m-%d}"}
    assert used.stat().st_mode & 0o077 == 0


def test_a_foreign_host_is_refused(own_api: Api) -> None:
    """A name that leads here from elsewhere (DNS rebinding) gets 421, also where no key is needed."""
    for host, status in (
        ("127.0.0.1", 200),
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("evil.test", 421),
        ("", 421),
    ):
        with own_api.client("", Host=host) as client:
            answer = client.get("/v1/health/live")
            assert answer.status_code == status, host
            assert "evil" not in answer.text


def test_hosts_beyond_loopback() -> None:
    """On loopback its own names count and those of the settings; elsewhere those of the settings, or any without some."""
    assert hosts_of(Http()) == {"localhost", "127.0.0.1", "[::1]"}
    assert "ai.hospital.test" in hosts_of(Http(allowed_hosts=("AI.hospital.test",)))
    wide = Http(host="0.0.0.0", keys_file="k")  # noqa: S104 - nothing is opened here
    assert hosts_of(wide) == frozenset()
    assert hosts_of(replace(wide, allowed_hosts=("a",))) == {"a"}


def test_the_audit_for_auditors(tmp_path: Path) -> None:
    """Rows page by page, the head, and the proof; the head that was kept convicts a chain that was made anew."""
    with serving(tmp_path) as api:
        ledger = api.ledger
        for number in range(7):
            ledger.open_association(f"a{number}", "X", "CMAN", "127.0.0.1", datetime.now(UTC), "test")
            ledger.close_association(f"a{number}", "released", "", {"stored": 1}, datetime.now(UTC))
        with api.client("auditor") as client:
            check = client.get("/v1/audit/check").json()
            assert check["ok"]
            head = client.get("/v1/audit/head").json()
            assert (head["sequence"], head["hash"]) == (check["rows"], check["head"] if check["rows"] else "0" * 64)
            rows, after = [], 0
            while after is not None:
                page = client.get("/v1/audit", params={"after": after, "limit": 2}).json()
                rows += page["items"]
                after = page["next_after"]
            assert [row["sequence"] for row in rows] == list(range(1, check["rows"] + 1))
