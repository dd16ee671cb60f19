"""The file of API keys: digests, roles, ends and rotations. Reads and writes it whole; a key itself is shown once and never kept.

    {"keys": [{"name": "ris", "role": "operator", "sha256": "...", "expires": "2027-01-01T00:00:00+00:00",
               "previous": {"sha256": "...", "until": "..."}}]}

Keys are 256 random bits, so a plain digest can't be searched.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from casework.errors import Defect, Refused

_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Role(StrEnum):
    """What somebody may do. An auditor reads the audit and nothing of patients; an admin may read the audit too."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    AUDITOR = "auditor"

    def covers(self, needed: "Role") -> bool:
        """Whether this role may do what `needed` may."""
        return needed in _MAY[self]


_MAY = {
    Role.VIEWER: {Role.VIEWER},
    Role.OPERATOR: {Role.VIEWER, Role.OPERATOR},
    Role.ADMIN: {Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.AUDITOR},
    Role.AUDITOR: {Role.AUDITOR},
}


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key: its digest, the one before it while they are changed, and when each ends (None: never)."""

    name: str
    role: Role
    sha256: str
    expires: datetime | None = None
    previous: str = ""
    previous_until: datetime | None = None

    def digests(self, now: datetime) -> tuple[str, ...]:
        """What counts as this key now."""
        if self.expires is not None and self.expires <= now:
            return ()
        old = self.previous and self.previous_until is not None and self.previous_until > now
        return (self.sha256, self.previous) if old else (self.sha256,)


def new_key() -> tuple[str, str]:
    """Return a fresh key and its digest."""
    key = "cw_" + secrets.token_urlsafe(32)
    return key, digest(key)


def digest(key: str) -> str:
    """The form in which a key is kept."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> tuple[KeyRow, ...]:
    """Read the file.

    Raises:
        Defect: CONFIG_INVALID when it is missing, open to others or not what it should be; never quotes its content.
    """
    try:
        if path.stat().st_mode & 0o037:
            raise Defect(
                "CONFIG_INVALID", f"{path}: must not be writable by its group or readable by others (chmod 600)"
            )
        keys = tuple(_row(row) for row in json.loads(path.read_text("utf-8"))["keys"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Defect("CONFIG_INVALID", f"{path}: {type(error).__name__}") from error
    sound = all(_NAME.fullmatch(row.name) and _DIGEST.fullmatch(row.sha256) for row in keys)
    if not sound or len({row.name for row in keys}) < len(keys):
        raise Defect("CONFIG_INVALID", f"{path}: each key needs its own name ([A-Za-z0-9._-]) and a sha256")
    if not keys:
        raise Defect("CONFIG_INVALID", f"{path}: no keys")
    return keys


def _row(row: Any) -> KeyRow:
    previous = row.get("previous") or {}
    return KeyRow(
        str(row["name"]),
        Role(row["role"]),
        str(row["sha256"]),
        _time(row.get("expires")),
        str(previous.get("sha256", "")),
        _time(previous.get("until")),
    )


def _time(text: Any) -> datetime | None:
    if text is None:
        return None
    at = datetime.fromisoformat(str(text))
    if at.tzinfo is None:
        raise ValueError("a time without its zone")
    return at


def add_key(path: Path, name: str, role: Role, expires: datetime | None) -> str:
    """Add a key and return it.

    Raises:
        Refused: STATE_FORBIDS, there is one of that name, or the name can't be one.
    """
    with _changing(path) as rows:
        if any(row.name == name for row in rows) or not _NAME.fullmatch(name):
            raise Refused("STATE_FORBIDS", "a key needs a name of its own: [A-Za-z0-9._-], 32 at most")
        key, kept = new_key()
        rows.append(KeyRow(name, role, kept, expires))
    return key


def rotate_key(path: Path, name: str, now: datetime, keep: timedelta, expires: datetime | None) -> str:
    """Give a key a new value and return it; the old one is good for `keep` more.

    Raises:
        Refused: NOT_FOUND.
    """
    with _changing(path) as rows:
        place = _place(rows, name)
        key, kept = new_key()
        old = rows[place]
        rows[place] = replace(
            old, sha256=kept, expires=expires or old.expires, previous=old.sha256, previous_until=now + keep
        )
    return key


def revoke_key(path: Path, name: str) -> None:
    """Take a key away, and its old value too.

    Raises:
        Refused: NOT_FOUND; STATE_FORBIDS for the last one.
    """
    with _changing(path) as rows:
        del rows[_place(rows, name)]
        if not rows:
            raise Refused("STATE_FORBIDS", "the last key stays: add another one first")


def _place(rows: list[KeyRow], name: str) -> int:
    for place, row in enumerate(rows):
        if row.name == name:
            return place
    raise Refused("NOT_FOUND", f"no key {name!r}")


@contextmanager
def _changing(path: Path) -> Iterator[list[KeyRow]]:
    """The rows to change; written when the block ends well. One change at a time on this machine."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Defect("CONFIG_INVALID", f"{path}: {type(error).__name__}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        rows = list(read_keys(path))
        yield rows
        write_keys(path, rows)
    finally:
        os.close(folder)


def write_keys(path: Path, rows: list[KeyRow]) -> None:
    """Write the file, readable by its owner only."""
    written: list[dict[str, Any]] = []
    for row in rows:
        entry: dict[str, Any] = {"name": row.name, "sha256": row.sha256, "role": row.role.value}
        if row.expires:
            entry["expires"] = row.expires.isoformat()
        if row.previous and row.previous_until:
            entry["previous"] = {"sha256": row.previous, "until": row.previous_until.isoformat()}
        written.append(entry)
    write_private(path, json.dumps({"keys": written}, indent=1) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all; whose file it was, it stays."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "w") as file:
        if path.exists():
            before = path.stat()
            os.fchmod(file.fileno(), before.st_mode & 0o740)
            if os.geteuid() == 0:  # an administrator changes what the service's user has to read
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
