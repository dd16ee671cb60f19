"""The webhook client: signs an event and posts it to the one host that the configuration names. Owns its HTTP connections.

Signatures follow Standard Webhooks (standardwebhooks.com): HMAC-SHA256 over id, timestamp and body, with every key that is
configured. The host is resolved here, each address is judged, and the connection goes to the address that was judged, so
that a name can't lead elsewhere between the two (DNS rebinding). Redirects are not followed, no proxy of the environment is
used, and no byte of an answer's body is read.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import ipaddress
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from casework.config import Webhook
from casework.errors import Defect, Unavailable
from casework.tls import believing, is_tls

MAX_BODY_BYTES = 64 << 10
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one try ended. status: the HTTP status, 0 without one; code: a row of casework.reasons, "" when it was taken."""

    status: int
    code: str
    again: bool = True


def read_keys(hook: Webhook) -> list[bytes]:
    """The keys that sign, the newest first; read at every use, so that a new key needs no restart.

    Raises:
        Defect: WEBHOOK_KEY.
    """
    keys = []
    for path in filter(None, (hook.key_file, hook.previous_key_file)):
        try:
            text = Path(path).read_text("ascii").strip()
            key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except (OSError, ValueError, binascii.Error) as error:
            raise Defect("WEBHOOK_KEY", f"{hook.name}: {type(error).__name__}") from error
        if not text.startswith("whsec_") or not 24 <= len(key) <= 64:
            raise Defect("WEBHOOK_KEY", f"{hook.name}: not whsec_ and the base64 of 24 to 64 bytes")
        keys.append(key)
    return keys


def sign(keys: Sequence[bytes], event_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature for each key, separated by spaces."""
    said = f"{event_id}.{timestamp}.".encode() + body
    made = (base64.b64encode(hmac.new(key, said, hashlib.sha256).digest()).decode() for key in keys)
    return " ".join(f"v1,{one}" for one in made)


def post(hook: Webhook, event_id: str, body: bytes, now: datetime) -> Outcome:
    """Send one event. Never raises for what the receiver or the network does."""
    try:
        status = _request(hook, event_id, body, now)
    except Defect as error:
        return Outcome(0, error.code)
    except Unavailable as error:
        return Outcome(0, error.code)
    except httpx.ConnectError as error:
        return Outcome(0, "WEBHOOK_TLS" if is_tls(error) else "WEBHOOK_UNREACHABLE")
    except (httpx.HTTPError, OSError, ValueError):
        return Outcome(0, "WEBHOOK_UNREACHABLE")
    if 200 <= status < 300:
        return Outcome(status, "")
    if 300 <= status < 400:
        return Outcome(status, "WEBHOOK_REDIRECTED", again=False)
    return Outcome(status, "WEBHOOK_GONE", again=False) if status == 410 else Outcome(status, "WEBHOOK_FAILED")


def addresses(hook: Webhook) -> list[Address]:
    """The addresses of the host, all of which are allowed.

    Raises:
        Unavailable: WEBHOOK_UNREACHABLE, the name does not resolve.
        Defect: WEBHOOK_ADDRESS, one of them is neither public nor in `networks`.
    """
    url = urllib.parse.urlsplit(hook.url)
    try:
        found = socket.getaddrinfo(url.hostname, _port(url), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable("WEBHOOK_UNREACHABLE", hook.name) from error
    resolved = list(dict.fromkeys(ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in found))
    if not resolved or not all(allowed(address, hook.networks) for address in resolved):
        raise Defect("WEBHOOK_ADDRESS", hook.name)
    return resolved


# Protocol assignments and the 6to4 relays' anycast (RFC 6890, RFC 7526): public by Python 3.11's tables, nobody's host.
_NOBODYS = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("192.88.99.0/24"))


def allowed(address: Address, networks: Sequence[str]) -> bool:
    """Whether a connection may go there: listed, or public in itself and in every address that it carries inside."""
    listed = [ipaddress.ip_network(n, strict=False) for n in networks]
    if any(address in network for network in listed):
        return True
    inner = _inside(address) if isinstance(address, ipaddress.IPv6Address) else []
    special = any(address in network for network in _NOBODYS) or getattr(address, "is_site_local", False)  # RFC 3879
    if special or not address.is_global or address.is_multicast or address.is_reserved:
        # ::ffff:a.b.c.d is the IPv4 address in another spelling.
        mapped = getattr(address, "ipv4_mapped", None)
        return mapped is not None and allowed(mapped, networks)
    return all(allowed(one, networks) for one in inner)


def _inside(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """IPv4 addresses that a gateway would make of it: mapped, 6to4, Teredo, NAT64."""
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]


def handshake(hook: Webhook) -> None:
    """Connect and finish TLS as `post` does, without a request; for `casework doctor`.

    Raises:
        Defect: WEBHOOK_KEY, WEBHOOK_ADDRESS.
        Unavailable: WEBHOOK_UNREACHABLE, WEBHOOK_TLS.
    """
    read_keys(hook)
    url = urllib.parse.urlsplit(hook.url)
    target = str(addresses(hook)[0])
    try:
        with socket.create_connection((target, _port(url)), hook.timeout_s) as plain:
            if url.scheme == "https":
                _trust(hook).wrap_socket(plain, server_hostname=url.hostname).close()
    except ssl.SSLError as error:
        raise Unavailable("WEBHOOK_TLS", hook.name) from error
    except OSError as error:
        raise Unavailable("WEBHOOK_UNREACHABLE", hook.name) from error


def _request(hook: Webhook, event_id: str, body: bytes, now: datetime) -> int:
    """One POST to a judged address; returns the status."""
    if len(body) > MAX_BODY_BYTES:
        raise Defect("WEBHOOK_FAILED", "an event beyond its bounds")
    timestamp = int(now.timestamp())
    headers = {
        "content-type": "application/json",
        "user-agent": "casework-webhook/1",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(read_keys(hook), event_id, timestamp, body),
    }
    url = urllib.parse.urlsplit(hook.url)
    target = addresses(hook)[0]
    host = f"[{target}]" if target.version == 6 else str(target)
    place = urllib.parse.urlunsplit((url.scheme, f"{host}:{_port(url)}", url.path or "/", url.query, ""))
    verify = _trust(hook) if url.scheme == "https" else False
    with httpx.Client(verify=verify, follow_redirects=False, trust_env=False, timeout=hook.timeout_s) as client:
        request = client.build_request("POST", place, content=body, headers={**headers, "host": url.netloc})
        request.extensions["sni_hostname"] = url.hostname  # what TLS verifies
        with _deadline(request, hook.timeout_s):
            response = client.send(request, stream=True)
            response.close()  # the body is nobody's business
    return response.status_code


@contextlib.contextmanager
def _deadline(request: httpx.Request, seconds: float) -> Iterator[None]:
    """Cut the connection after that long: the library's timeouts bound single reads, and headers may come byte by byte."""
    raw: list[socket.socket] = []

    def remember(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            raw.append(info["return_value"].get_extra_info("socket"))

    def cut() -> None:
        for one in raw:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)  # below TLS, which belongs to the other thread

    request.extensions["trace"] = remember
    timer = threading.Timer(seconds + 1.0, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _trust(hook: Webhook) -> ssl.SSLContext:
    try:
        return believing(hook.ca_file)
    except Defect as error:
        raise Unavailable("WEBHOOK_TLS", f"{hook.name}: ca_file") from error


def _port(url: urllib.parse.SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
