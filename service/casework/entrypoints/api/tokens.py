"""Access tokens of one OAuth 2 issuer (RFC 9068 JWT): verified here with the issuer's public keys. Asks the issuer for its keys, no more.

The issuer, its key set's address, the audience and the algorithms come from the settings, never from a token. Keys are
fetched in a thread of their own, so that a slow or silent issuer holds up no request; what was fetched last counts until
`keys_stale_s`. Nothing of a token is logged or kept but its subject, as the name of who asks.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import jwt

from casework.config_security import Oidc
from casework.entrypoints.keyfile import Role
from casework.observe import log
from casework.tls import believing

MAX_TOKEN = 8 << 10
MAX_KEYS_BYTES = 256 << 10
AGAIN_S = 10.0  # the least time between two questions to the issuer
_SUBJECT = re.compile(r"[A-Za-z0-9._@:|-]{1,48}")
_KINDS = {"R": "RSA", "P": "RSA", "E": "EC"}
_ORDER = (Role.ADMIN, Role.OPERATOR, Role.VIEWER, Role.AUDITOR)
_Keys = Mapping[str, tuple[str, Any]]  # key id -> (kty, public key)


class Tokens:
    """The verifier. `keys` and `clock` (monotonic seconds) are given; `identify` never waits for the network."""

    def __init__(self, oidc: Oidc, clock: Callable[[], float] = time.monotonic) -> None:
        self._oidc, self._clock = oidc, clock
        self._scopes = {pair.rpartition("=")[0]: Role(pair.rpartition("=")[2]) for pair in oidc.scopes}
        self._keys: _Keys = {}
        self._fetched_at = float("-inf")
        self._wanted, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="jwks", daemon=True)

    def start(self) -> "Tokens":
        """Fetch the keys now, and from time to time."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop."""
        self._stopping.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(self._oidc.timeout_s + 1)

    def identify(self, token: str) -> tuple[str, Role] | None:
        """Name and role of a token that holds, or None; why it does not is for nobody to know."""
        try:
            claims = self._claims(token)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            log.info("api.token_refused", error_type=type(error).__name__)
            return None
        granted = claims.get(self._oidc.claim, "")
        words = granted.split() if isinstance(granted, str) else [str(one) for one in granted]
        roles = {self._scopes[word] for word in words if word in self._scopes}
        role = next((one for one in _ORDER if one in roles), None)
        return None if role is None else (_name(str(claims["sub"])), role)

    def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_TOKEN:
            raise ValueError("token too long")
        header = jwt.get_unverified_header(token)
        algorithm = str(header["alg"])
        if algorithm not in self._oidc.algorithms or "crit" in header:
            raise ValueError("algorithm or extension not allowed")
        if str(header.get("typ", "at+jwt")).lower().removeprefix("application/") not in ("at+jwt", "jwt"):
            raise ValueError("not an access token")
        kind, key = self._key(str(header.get("kid", "")))
        if kind != _KINDS[algorithm[0]]:
            raise ValueError("a key of another kind")
        required = ["iss", "aud", "exp", "sub"]
        checked: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._oidc.audience,
            issuer=self._oidc.issuer,
            leeway=self._oidc.leeway_s,
            options={"require": required, "strict_aud": False},
        )
        return checked

    def _key(self, kid: str) -> tuple[str, Any]:
        """The issuer's key of this id; an unknown id is a wish to ask again, and no path or address."""
        if self._clock() - self._fetched_at > self._oidc.keys_stale_s:
            self._wanted.set()
            raise ValueError("the issuer's keys are not known")
        found = self._keys.get(kid)
        if found is None:
            self._wanted.set()
            raise ValueError("no such key")
        return found

    def _keep_up(self) -> None:
        while not self._stopping.is_set():
            try:
                self._keys, self._fetched_at = read_key_set(fetch_keys(self._oidc)), self._clock()
                log.info("api.issuer_keys", count=len(self._keys))
            except Exception as error:  # noqa: BLE001 - the loop's outer guard: whatever an issuer answers, it is asked again
                log.error("api.issuer_keys_not_read", code="ISSUER_KEYS", error_type=type(error).__name__)
            self._stopping.wait(AGAIN_S)
            self._wanted.wait(max(0.0, self._oidc.keys_refresh_s - AGAIN_S))
            self._wanted.clear()


def open_tokens(oidc: Oidc) -> Tokens | None:
    """The verifier of the configured issuer, None without one."""
    return Tokens(oidc).start() if oidc.issuer else None


def fetch_keys(oidc: Oidc) -> bytes:
    """The issuer's key set (RFC 7517) from its one address or file; no redirect is followed.

    Raises:
        httpx.HTTPError, OSError, Defect: it can't be had.
    """
    if oidc.jwks_file:
        return Path(oidc.jwks_file).read_bytes()[:MAX_KEYS_BYTES]
    verify = believing(oidc.ca_file) if oidc.jwks_url.startswith("https://") else False
    client = httpx.Client(verify=verify, follow_redirects=False, trust_env=False, timeout=oidc.timeout_s)
    with client, client.stream("GET", oidc.jwks_url) as answer:
        if answer.status_code != httpx.codes.OK:
            raise ValueError("status")
        body = bytearray()
        deadline = time.monotonic() + oidc.timeout_s
        for piece in answer.iter_bytes():
            body += piece
            if len(body) > MAX_KEYS_BYTES or time.monotonic() > deadline:
                raise ValueError("beyond its bounds")
    return bytes(body)


def read_key_set(document: bytes) -> _Keys:
    """Public RSA (2048 bits or more) and EC keys for signatures, by key id; everything else in the set is passed over.

    Raises:
        ValueError, KeyError, TypeError: it is no key set.
    """
    found: dict[str, tuple[str, Any]] = {}
    for entry in json.loads(document)["keys"]:
        if entry.get("use", "sig") != "sig" or entry.get("kty") not in ("RSA", "EC") or "d" in entry:
            continue
        reader = jwt.algorithms.RSAAlgorithm if entry["kty"] == "RSA" else jwt.algorithms.ECAlgorithm
        try:
            key = reader.from_jwk(entry)
        except (jwt.PyJWTError, ValueError):
            continue
        if getattr(key, "key_size", 0) >= (2048 if entry["kty"] == "RSA" else 256):
            found[str(entry.get("kid", ""))] = (entry["kty"], key)
    return found


def _name(subject: str) -> str:
    """A subject as a name for audit and logs: as it is when it is plain, else its digest."""
    plain = _SUBJECT.fullmatch(subject)
    return "oidc:" + (subject if plain else hashlib.sha256(subject.encode()).hexdigest()[:32])
