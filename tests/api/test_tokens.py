"""Access tokens: those of the issuer hold, and nothing that was made to look like one does."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from casework.config import Settings
from casework.config_security import Oidc
from casework.entrypoints.api.tokens import Tokens, read_key_set
from tests.api.conftest import Api, serving

ISSUER, AUDIENCE = "https://login.hospital.test", "casework"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC_PEM = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def key_set() -> dict[str, Any]:
    """What the issuer publishes."""
    found = [
        json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY.public_key())) | {"kid": "r1", "use": "sig"},
        json.loads(jwt.algorithms.ECAlgorithm.to_jwk(EC_KEY.public_key())) | {"kid": "e1", "use": "sig"},
        {"kty": "oct", "kid": "o1", "k": base64.urlsafe_b64encode(b"x" * 32).decode()},
        json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OTHER.public_key())) | {"kid": "enc", "use": "enc"},
    ]
    return {"keys": found}


class Issuer:
    """Publishes its keys; counts who asks, and can be silent or wrong."""

    def __init__(self) -> None:
        self.asked, self.silent, self.body = 0, threading.Event(), json.dumps(key_set()).encode()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                if issuer.silent.is_set():
                    time.sleep(3)
                self.send_response(200)
                self.send_header("Content-Length", str(len(issuer.body)))
                self.end_headers()
                self.wfile.write(issuer.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    running = Issuer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Api]:
    def change(settings: Settings) -> Settings:
        return replace(settings, oidc=Oidc(issuer=ISSUER, audience=AUDIENCE, jwks_url=issuer.url))

    with serving(tmp_path_factory.mktemp("tokens"), change) as running:
        deadline = time.monotonic() + 10
        while ask(running, token()) == 401:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield running
        running.door.keys.close()


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    known = {"iss": ISSUER, "aud": AUDIENCE, "sub": "dr.lee", "exp": now + 300, "iat": now, "scope": "casework.viewer"}
    return {name: value for name, value in (known | changes).items() if value is not None}


def token(key: Any = RSA_KEY, algorithm: str = "RS256", kid: str = "r1", headers: Any = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": kid, **(headers or {})})


def forged(header: dict[str, Any], secret: bytes | None) -> str:
    """A token by hand: no signature, or an HMAC with any secret, which the library would refuse to make."""
    parts = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in (header, claims())]
    signed = b".".join(parts)
    signature = hmac.new(secret, signed, hashlib.sha256).digest() if secret is not None else b""
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def ask(api: Api, bearer: str, path: str = "/v1/session") -> int:
    with api.client("", Authorization=f"Bearer {bearer}") as client:
        return client.get(path).status_code


GOOD: list[Callable[[], str]] = [
    token,
    lambda: token(EC_KEY, "ES256", "e1"),
    lambda: token(algorithm="RS384"),
    lambda: token(aud=["other", AUDIENCE]),
    lambda: token(headers={"typ": "at+jwt"}),
    lambda: token(scope=["casework.viewer"]),
    lambda: token(exp=int(time.time()) - 10),  # within the leeway of two clocks
]

BAD: dict[str, Callable[[], str]] = {
    "no signature": lambda: forged({"alg": "none", "kid": "r1"}, None),
    "none in other letters": lambda: forged({"alg": "nOnE", "kid": "r1"}, None),
    "HMAC with the public key": lambda: forged({"alg": "HS256", "kid": "r1"}, PUBLIC_PEM),
    "HMAC with a key of the set": lambda: forged({"alg": "HS256", "kid": "o1"}, b"x" * 32),
    "RSA by name, EC by key": lambda: token(EC_KEY, "ES256", "r1"),
    "an algorithm that was not allowed": lambda: token(algorithm="PS256"),
    "another key": lambda: token(OTHER),
    "a key for encryption": lambda: token(OTHER, kid="enc"),
    "an unknown key": lambda: token(kid="r2"),
    "no key named": lambda: token(kid=""),
    "a path for a key": lambda: token(kid="../../../../etc/passwd"),
    "SQL for a key": lambda: token(kid="' UNION SELECT 'x"),
    "its own key": lambda: token(
        OTHER, headers={"jwk": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OTHER.public_key()))}
    ),
    "its own address": lambda: token(OTHER, headers={"jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/"}),
    "an extension that must be understood": lambda: token(headers={"crit": ["b64"], "b64": False}),
    "an ID token of another kind": lambda: token(headers={"typ": "logout+jwt"}),
    "ended": lambda: token(exp=int(time.time()) - 120),
    "without an end": lambda: token(exp=None),
    "not yet": lambda: token(nbf=int(time.time()) + 300),
    "for somebody else": lambda: token(aud="other"),
    "for nobody": lambda: token(aud=None),
    "another issuer": lambda: token(iss=ISSUER + "/"),
    "no issuer": lambda: token(iss=None),
    "no subject": lambda: token(sub=None),
    "no scope": lambda: token(scope=None),
    "a scope of others": lambda: token(scope="openid casework.viewerx Casework.Viewer"),
    "cut short": lambda: token()[:-10],
    "two parts": lambda: token().rpartition(".")[0],
    "not base64": lambda: "a.b.c",
    "very long": lambda: token(padding="x" * 9000),
}


@pytest.mark.parametrize("make", GOOD)
def test_tokens_that_hold(make: Callable[[], str], api: Api) -> None:
    """RSA and EC tokens of the issuer, for us, in time, are somebody."""
    assert ask(api, make()) == 200


@pytest.mark.parametrize("name", BAD)
def test_hostile_tokens(name: str, api: Api) -> None:
    """Nothing but a token of the issuer's own keys, algorithms, audience and time identifies anybody."""
    assert ask(api, BAD[name]()) == 401


def test_scopes_are_roles(api: Api) -> None:
    """The highest role of the scopes counts; an auditor sees the audit and no case; keys go on beside tokens."""
    both = token(scope="casework.viewer casework.admin")
    with api.client("", Authorization=f"Bearer {both}") as client:
        answer = client.get("/v1/session").json()
        assert (answer["name"], answer["role"]) == ("oidc:dr.lee", "admin")
    auditor = token(scope="casework.auditor")
    assert (ask(api, auditor, "/v1/audit"), ask(api, auditor, "/v1/cases")) == (200, 403)
    assert (ask(api, token(), "/v1/audit"), ask(api, token(), "/v1/cases")) == (403, 200)
    assert ask(api, api.keys["viewer"]) == 200


def test_a_subject_is_a_safe_name(api: Api) -> None:
    """A subject with anything but plain characters enters audit and log as its digest."""
    odd = token(sub="x\r\nINFO forged <script>")
    with api.client("", Authorization=f"Bearer {odd}") as client:
        name = client.get("/v1/session").json()["name"]
    assert name.startswith("oidc:")
    assert name[5:].isalnum()


def test_a_silent_issuer_holds_nobody_up(issuer: Issuer) -> None:
    """While the issuer hangs, requests are answered at once: by the keys that are known, or with no."""
    issuer.silent.set()
    try:
        tokens = Tokens(Oidc(issuer=ISSUER, audience=AUDIENCE, jwks_url=issuer.url, timeout_s=0.5)).start()
        began = time.monotonic()
        assert tokens.identify(token()) is None
        assert time.monotonic() - began < 0.3
        tokens.close()
    finally:
        issuer.silent.clear()


def test_keys_that_grew_old_are_believed_no_more(issuer: Issuer) -> None:
    """Keys that could not be fetched anew for keys_stale_s are not believed; unknown key ids don't make us ask without end."""
    now = [0.0]
    tokens = Tokens(Oidc(issuer=ISSUER, audience=AUDIENCE, jwks_url=issuer.url), clock=lambda: now[0]).start()
    deadline = time.monotonic() + 5
    while tokens.identify(token()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    before = issuer.asked
    for _ in range(50):
        assert tokens.identify(token(kid="unknown")) is None
    time.sleep(0.3)
    assert issuer.asked == before
    now[0] = 86_401.0
    assert tokens.identify(token()) is None
    tokens.close()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"keys": 1}', b'{"keys": [1]}', b"\xff", b"{" * 5000])
def test_a_key_set_that_is_none(body: bytes) -> None:
    """What is no key set is an error that the fetching thread survives, never a crash of it or an empty set."""
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError, RecursionError)):
        read_key_set(body)


def test_private_and_small_keys_are_passed_over() -> None:
    """A set with private parts, symmetric or short keys gives none of them."""
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - it has to be refused
    entries = [
        json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY)) | {"kid": "a"},
        json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(small.public_key())) | {"kid": "b"},
        {"kty": "oct", "kid": "c", "k": "eHg"},
        {"kty": "RSA", "kid": "d", "n": "!", "e": "!"},
    ]
    assert read_key_set(json.dumps({"keys": entries}).encode()) == {}


def test_keys_from_a_file(tmp_path: Path) -> None:
    """Where the issuer can't be reached its keys come from a file."""
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(key_set()))
    tokens = Tokens(Oidc(issuer=ISSUER, audience=AUDIENCE, jwks_file=str(file))).start()
    deadline = time.monotonic() + 5
    while tokens.identify(token()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    tokens.close()
