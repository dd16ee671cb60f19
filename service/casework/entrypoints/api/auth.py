"""API keys and roles: who a request comes from and what it may do. Owns the keys file.

Only SHA-256 digests are kept. Keys are 256 random bits, so a plain digest can't be searched, and comparing digests in
constant time over every row tells a caller nothing. A changed file is read again without a restart (rotation, S21).
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from casework.config import Settings
from casework.errors import Defect
from casework.observe import log

RELOAD_S = 1.0
_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Role(StrEnum):
    """What a key may do; each role may do all that the one before may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, needed: "Role") -> bool:
        """Whether this role may do what `needed` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner of a key. `name` is ours (from the keys file), so it may stand in the audit and in logs."""

    name: str
    role: Role


def new_key() -> tuple[str, str]:
    """Return a fresh key and its digest."""
    key = "cw_" + secrets.token_urlsafe(32)
    return key, digest(key)


def digest(key: str) -> str:
    """The form in which a key is kept."""
    return hashlib.sha256(key.encode()).hexdigest()


class Keyring:
    """The keys file in memory. `clock` is monotonic seconds.

    Raises:
        Defect: CONFIG_INVALID when the file is missing, open to others or not what it should be.
    """

    def __init__(self, path: Path, clock: Any = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp = _stamp(path)
        self._keys = read_keys(path)
        self._looked_at = clock()

    def identify(self, authorization: str) -> Principal | None:
        """Return the owner of the key in an Authorization header, or None."""
        scheme, _, key = authorization.partition(" ")
        self._refresh()
        seen = digest(key.strip())
        found: Principal | None = None
        for kept, principal in self._keys:
            if hmac.compare_digest(kept, seen):
                found = principal
        return found if scheme.lower() == "bearer" else None

    def _refresh(self) -> None:
        """Read the file again when it changed; a file that can't be used changes nothing but the log."""
        with self._lock:
            if self._clock() - self._looked_at < RELOAD_S:
                return
            self._looked_at = self._clock()
            try:
                stamp = _stamp(self._path)
                if stamp != self._stamp:
                    self._keys, self._stamp = read_keys(self._path), stamp
                    log.info("api.keys_reloaded", count=len(self._keys))
            except Defect as defect:
                log.error("api.keys_not_reloaded", code=defect.code)


def read_keys(path: Path) -> tuple[tuple[str, Principal], ...]:
    """Read (digest, owner) rows.

    Raises:
        Defect: CONFIG_INVALID, never quoting the file's content.
    """
    try:
        if path.stat().st_mode & 0o037:
            raise Defect(
                "CONFIG_INVALID", f"{path}: must not be writable by its group or readable by others (chmod 600)"
            )
        rows = json.loads(path.read_text("utf-8"))["keys"]
        keys = tuple((str(row["sha256"]), Principal(str(row["name"]), Role(row["role"]))) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Defect("CONFIG_INVALID", f"{path}: {type(error).__name__}") from error
    names = [principal.name for _, principal in keys]
    if not all(_DIGEST.fullmatch(kept) and _NAME.fullmatch(who.name) for kept, who in keys) or len(set(names)) < len(
        names
    ):
        raise Defect("CONFIG_INVALID", f"{path}: each key needs its own name ([A-Za-z0-9._-]) and a sha256")
    if not keys:
        raise Defect("CONFIG_INVALID", f"{path}: no keys")
    return keys


def open_keyring(settings: Settings) -> Keyring:
    """Open the keys file; the one in `<root>/secrets` is made at first start, with one admin key in `admin.key` beside it.

    `config` refuses an address beyond loopback unless a keys file is named, so nobody opens the port without a thought
    of its keys; naming the one in `<root>/secrets` is such a thought (a container's first start).
    """
    folder = settings.root / "secrets"
    path = folder / "api-keys.json"
    if settings.http.keys_file and Path(settings.http.keys_file).absolute() != path:
        return Keyring(Path(settings.http.keys_file))
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key, kept = new_key()
        _write_private(folder / "admin.key", key + "\n")
        _write_private(
            path, json.dumps({"keys": [{"name": "admin", "sha256": kept, "role": "admin"}]}, indent=1) + "\n"
        )
        log.info("api.admin_key_made", path_kind="secrets/admin.key")
    return Keyring(path)


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when the file does."""
    try:
        status = path.stat()
    except OSError as error:
        raise Defect("CONFIG_INVALID", f"{path}: {type(error).__name__}") from error
    return status.st_ino, status.st_mtime_ns, status.st_size
