"""API keys: made once, kept as digests, rotated without a restart, refused when the file is not what it should be."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from casework.config import Http, Settings, Storage
from casework.entrypoints.api.auth import Keyring, Principal, open_keyring
from casework.entrypoints.keyfile import Role, digest, new_key
from casework.errors import Defect


def write(path: Path, *rows: dict[str, str]) -> Path:
    """Write a keys file."""
    path.write_text(json.dumps({"keys": rows}))
    path.chmod(0o600)
    return path


def row(key: str, name: str = "a", role: str = "viewer") -> dict[str, str]:
    return {"name": name, "sha256": digest(key), "role": role}


def test_first_start_makes_one_admin_key(tmp_path: Path) -> None:
    """Without a keys file one admin key is made, readable by its owner only, and kept at the second start."""
    settings = Settings(http=Http(), storage=Storage(root=str(tmp_path / "var")))
    ring = open_keyring(settings)
    secrets = settings.root / "secrets"
    key = (secrets / "admin.key").read_text().strip()
    assert len(key) > 40
    assert ring.identify(f"Bearer {key}") == Principal("admin", Role.ADMIN)
    for name in ("admin.key", "api-keys.json"):
        assert stat.S_IMODE((secrets / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert key not in (secrets / "api-keys.json").read_text()
    assert open_keyring(settings).identify(f"Bearer {key}") is not None
    assert (secrets / "admin.key").read_text().strip() == key


def test_a_configured_file_is_never_made(tmp_path: Path) -> None:
    """A keys file that the settings name must be there: nobody gets a key by deleting it."""
    settings = Settings(http=Http(keys_file=str(tmp_path / "none.json")), storage=Storage(root=str(tmp_path)))
    with pytest.raises(Defect) as caught:
        open_keyring(settings)
    assert caught.value.code == "CONFIG_INVALID"


def test_the_file_in_the_storage_root_may_be_named(tmp_path: Path) -> None:
    """A container names the file in its storage root to open its port; at its first start one admin key is made there."""
    file = tmp_path / "var" / "secrets" / "api-keys.json"
    http = Http(host="0.0.0.0", keys_file=str(file))  # noqa: S104 - nothing is opened here
    settings = Settings(http=http, storage=Storage(root=str(tmp_path / "var")))
    ring = open_keyring(settings)
    key = (file.parent / "admin.key").read_text().strip()
    assert ring.identify(f"Bearer {key}") == Principal("admin", Role.ADMIN)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic {}", "{}", "Bearer x{}", "Bearer {}x", "Bearer \u00ff"]
)
def test_wrong_headers_are_nobody(header: str, tmp_path: Path) -> None:
    """Another scheme, no scheme, an empty or a changed key identifies nobody."""
    key, _ = new_key()
    ring = Keyring(write(tmp_path / "k", row(key)))
    assert ring.identify(header.format(key)) is None
    assert ring.identify(f"bearer {key}") == Principal("a", Role.VIEWER)


def test_rotation_without_restart(tmp_path: Path) -> None:
    """A changed file counts within a second: new keys work and removed ones do not; a broken edit changes nothing."""
    old, _ = new_key()
    new, _ = new_key()
    now = [0.0]
    path = write(tmp_path / "k", row(old))
    ring = Keyring(path, clock=lambda: now[0])
    write(path, row(new, role="admin"))
    assert ring.identify(f"Bearer {old}") is not None, "not read at every request"
    now[0] = 2.0
    assert ring.identify(f"Bearer {old}") is None
    assert ring.identify(f"Bearer {new}") == Principal("a", Role.ADMIN)
    path.write_text("{ half an edit")
    now[0] = 4.0
    assert ring.identify(f"Bearer {new}") is not None
    path.unlink()
    now[0] = 6.0
    assert ring.identify(f"Bearer {new}") is not None


GOOD = row("x")


@pytest.mark.parametrize(
    "break_it",
    [
        lambda p: p.write_text("not json"),
        lambda p: p.write_text("[]"),
        write,
        lambda p: write(p, GOOD | {"role": "root"}),
        lambda p: write(p, GOOD | {"sha256": "short"}),
        lambda p: write(p, GOOD | {"name": "a b\n"}),
        lambda p: write(p, GOOD, GOOD),
        lambda p: write(p, {"name": "a"}),
        lambda p: p.chmod(0o604),
        lambda p: p.chmod(0o620),
        lambda p: p.unlink(),
    ],
)
def test_a_file_that_can_not_be_trusted_is_refused(break_it: Callable[[Path], object], tmp_path: Path) -> None:
    """Unreadable, open to others, without keys, or with wrong rows: the service does not start, and quotes nothing."""
    path = write(tmp_path / "k", GOOD)
    break_it(path)
    with pytest.raises(Defect) as caught:
        Keyring(path)
    assert caught.value.code == "CONFIG_INVALID"
    assert GOOD["sha256"] not in str(caught.value)
