"""Who a request comes from: API keys and, where an issuer is configured, access tokens. Owns the note of when keys were used.

A changed keys file is read again without a restart (S21). Comparing digests in constant time over every row tells a
caller nothing.
"""

import contextlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from casework.config import Settings
from casework.entrypoints.api.tokens import Tokens, open_tokens
from casework.entrypoints.keyfile import KeyRow, Role, digest, new_key, read_keys, write_keys, write_private
from casework.errors import Defect
from casework.observe import log

RELOAD_S = 1.0
USED_FILE = "keys-used.json"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `name` is the key's or `oidc:` and the token's subject, both of a safe form, so it may stand in audit and log."""

    name: str
    role: Role


class Keyring:
    """The keys file in memory. `clock` is monotonic seconds, `now` gives aware times.

    Raises:
        Defect: CONFIG_INVALID when the file is missing, open to others or not what it should be.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        used: Path | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        """`used`: the folder where the day is noted on which each key was last used."""
        self._path, self._clock, self._now, self._used, self._tokens = path, clock, now, used, tokens
        self._lock = threading.Lock()
        self._stamp = _stamp(path)
        self._keys: tuple[KeyRow, ...] = read_keys(path)
        self._looked_at = clock()
        self._noted: dict[str, str] = {}

    def identify(self, authorization: str) -> Principal | None:
        """Return who an Authorization header stands for, or None."""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        if self._tokens is not None and key.count(".") == 2:
            found = self._tokens.identify(key.strip())
            return None if found is None else Principal(*found)
        self._refresh()
        seen, now = digest(key.strip()), self._now()
        row: KeyRow | None = None
        for one in self._keys:
            for kept in one.digests(now):
                if hmac.compare_digest(kept, seen):
                    row = one
        if row is None:
            return None
        self._note(row.name, now)
        return Principal(row.name, row.role)

    def close(self) -> None:
        """Stop asking the issuer for its keys."""
        if self._tokens is not None:
            self._tokens.close()

    def _note(self, name: str, now: datetime) -> None:
        """Keep the day of use, which is all that finding unused keys needs: one small write a key and day."""
        day = f"{now:%Y-%m-%d}"
        if self._used is None or self._noted.get(name) == day:
            return
        self._noted[name] = day
        file = self._used / USED_FILE
        try:
            write_private(file, json.dumps(read_used(self._used) | {name: day}, indent=1) + "\n")
        except OSError as error:
            log.warning("api.key_use_not_noted", error_type=type(error).__name__)

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


def read_used(folder: Path) -> dict[str, str]:
    """The day of each key's last use, by name; empty when nothing was noted."""
    try:
        found = json.loads((folder / USED_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(day) for name, day in found.items()} if isinstance(found, dict) else {}


def keys_path(settings: Settings) -> Path:
    """Where the keys file is."""
    own = settings.root / "secrets" / "api-keys.json"
    return Path(settings.http.keys_file).absolute() if settings.http.keys_file else own


def open_keyring(settings: Settings) -> Keyring:
    """Open the keys file; the one in `<root>/secrets` is made at first start, with one admin key in `admin.key` beside it.

    `config` refuses an address beyond loopback unless a keys file is named, so nobody opens the port without a thought
    of its keys; naming the one in `<root>/secrets` is such a thought (a container's first start).
    """
    folder = settings.root / "secrets"
    with contextlib.suppress(OSError):  # a root that may only be read: days of use are not noted
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = keys_path(settings)
    if path == folder / "api-keys.json" and not path.exists():
        key, kept = new_key()
        write_private(folder / "admin.key", key + "\n")
        write_keys(path, [KeyRow("admin", Role.ADMIN, kept)])
        log.info("api.admin_key_made", path_kind="secrets/admin.key")
    return Keyring(path, used=folder, tokens=open_tokens(settings.oidc))


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when the file does."""
    try:
        status = path.stat()
    except OSError as error:
        raise Defect("CONFIG_INVALID", f"{path}: {type(error).__name__}") from error
    return status.st_ino, status.st_mtime_ns, status.st_size
