"""Webhooks over real sockets from the real ledger: what is sent, to whom, how often, and what never is."""

import base64
import ipaddress
import json
import re
import secrets
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest

from casework import courier
from casework.case import CaseState, NoticeState
from casework.config import Settings, Webhook, load
from casework.entrypoints import deliver_worker
from casework.entrypoints.doctor import _webhooks
from casework.errors import Defect
from casework.flows.webhooks import Notifier
from tests.api.test_contract import load as contract
from tests.deliver.objects import CHINESE, dataset
from tests.deliver.rig import Rig
from tests.simulators import receiver
from tests.simulators.receiver import Receiver

MakeRig = Callable[..., Rig]
LOOPBACK = ("127.0.0.0/8", "::1/128")
N = NoticeState


def new_key(path: Path) -> Path:
    """A key file as the documentation makes it."""
    path.write_text("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    path.chmod(0o600)
    return path


@pytest.fixture
def there() -> Iterator[Receiver]:
    """A receiver."""
    with receiver.running() as one:
        yield one


@pytest.fixture
def hook(there: Receiver, tmp_path: Path) -> Webhook:
    """A webhook to it."""
    key = new_key(tmp_path / "key")
    return Webhook("ris", f"http://127.0.0.1:{there.port}/hook", str(key), networks=LOOPBACK, timeout_s=2.0)


def begin(rig: Rig, hook: Webhook, **options: Any) -> Notifier:
    """A notifier that has seen everything until now."""
    notifier = Notifier(rig.ledger, hook, rig.settings, draw=lambda: 0.0, **options)
    notifier.step()
    return notifier


def drain(notifier: Notifier, within_s: float = 10.0) -> None:
    """Send what is due."""
    deadline = time.monotonic() + within_s
    while notifier.step() == 0.0:
        assert time.monotonic() < deadline


def verify_of_the_documentation() -> dict[str, Any]:
    """The example of docs/webhooks.md, run as it is printed."""
    text = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(code, "docs/webhooks.md", "exec"), namespace)  # noqa: S102 - our own documentation
    return namespace


def test_every_move_is_told_signed_and_without_a_patient(make_rig: MakeRig, hook: Webhook, there: Receiver) -> None:
    """A case from its first image to delivery: one event a move, valid by schema and signature, nothing of the patient."""
    rig = make_rig()
    notifier = begin(rig, hook)
    case_id = rig.rendered([dataset("SR"), dataset()], [])
    drain(notifier)
    bodies = [json.loads(body) for _, body in there.got]
    moves = [e.detail["to"] for e in rig.ledger.read.timeline(case_id) if e.event == "case.moved"]
    assert [b["case"]["state"] for b in bodies] == moves == ["stable", "queued", "running", "rendered", "delivered"]
    assert [b["sequence"] for b in bodies] == sorted({b["sequence"] for b in bodies})
    schema = {"$ref": "#/components/schemas/CaseEvent", "components": contract()["components"]}
    for body in bodies:
        jsonschema.validate(body, schema)
    (results,) = [b for b in bodies if b["type"] == "case.results"]
    assert [r["kind"] for r in results["results"]] == ["sr", "capture"]
    row = rig.ledger.read.case(case_id)
    artefacts = [a.artefact for a in rig.ledger.read.case_view(case_id).artefacts]
    said = b"".join(body for _, body in there.got) + str([h for h, _ in there.got]).encode()
    for secret in (row.patient_id, CHINESE, *(a.study_instance_uid for a in artefacts), rig.settings.root.name + "/"):
        assert secret.encode() not in said
    verify = verify_of_the_documentation()["verify"]
    key = Path(hook.key_file).read_text()
    assert all(verify(key, headers, body) for headers, body in there.got)


def test_the_documented_check_refuses_what_it_should(make_rig: MakeRig, hook: Webhook, there: Receiver) -> None:
    """Another body, another key, an old time, another id, the same request twice: the example refuses each."""
    rig = make_rig()
    notifier = begin(rig, hook)
    rig.rendered([dataset("SR")], [])
    drain(notifier)
    headers, body = there.got[0]
    key, example = Path(hook.key_file).read_text(), verify_of_the_documentation()
    verify = example["verify"]
    assert not verify(key, headers, body + b" ")
    assert not verify("whsec_" + base64.b64encode(bytes(32)).decode(), headers, body)
    assert not verify(key, headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)}, body)
    assert not verify(key, headers | {"webhook-id": "0" * 32}, body)
    example["time"] = type("Later", (), {"time": staticmethod(lambda: time.time() + 301)})
    assert not verify(key, headers, body)
    example["time"] = time
    assert verify(key, headers, body)
    assert not verify(key, headers, body)


def test_while_keys_change_both_sign(make_rig: MakeRig, hook: Webhook, there: Receiver, tmp_path: Path) -> None:
    """With two keys a receiver that knows either one believes; the key is read at every event, without a restart."""
    rig = make_rig()
    both = replace(hook, previous_key_file=str(tmp_path / "old"))
    old = Path(hook.key_file).read_text()
    (tmp_path / "old").write_text(old)
    notifier = begin(rig, both)
    new_key(Path(hook.key_file))
    rig.rendered([dataset("SR")], [])
    drain(notifier)
    headers, body = there.got[0]
    assert len(headers["webhook-signature"].split()) == 2
    for key in (old, Path(hook.key_file).read_text()):
        assert verify_of_the_documentation()["verify"](key, headers, body)


def test_what_fails_is_repeated_as_the_same_bytes(make_rig: MakeRig, hook: Webhook, there: Receiver) -> None:
    """500, 429, 404 are tried again with the same id and bytes; later events go on meanwhile."""
    rig = make_rig()
    notifier = begin(rig, hook)
    there.answers += [500, 429, 404]
    rig.rendered([dataset("SR")], [])
    deadline = time.monotonic() + 15
    notifier.step()
    while rig.ledger.notices([N.PENDING]):
        assert time.monotonic() < deadline
        notifier.step()
    by_id: dict[str, set[bytes]] = {}
    for headers, body in there.got:
        by_id.setdefault(headers["webhook-id"], set()).add(body)
    assert len(there.got) == 5 + 3
    assert [len(bodies) for bodies in by_id.values()] == [1] * 5


@pytest.mark.parametrize(
    ("status", "code"), [(301, "WEBHOOK_REDIRECTED"), (307, "WEBHOOK_REDIRECTED"), (410, "WEBHOOK_GONE")]
)
def test_redirects_are_not_followed(make_rig: MakeRig, hook: Webhook, there: Receiver, status: int, code: str) -> None:
    """A redirect, also to the receiver itself, and 410 end the event with a code; an operator can have it sent again."""
    rig = make_rig()
    notifier = begin(rig, replace(hook, events=("case.results",)))
    there.answers, there.location = [status], f"http://127.0.0.1:{there.port}/elsewhere"
    rig.rendered([dataset("SR")], [])
    drain(notifier)
    (dead,) = rig.ledger.notices([N.DEAD])
    assert (dead.code, dead.status, len(there.got)) == (code, f"HTTP {status}", 1)
    assert rig.ledger.read.metrics().notices == {"ris": {"dead": 1}}
    assert rig.ledger.repeat_notices("ris", "someone", datetime.now(UTC)) == 1
    drain(notifier)
    assert rig.ledger.notices([N.DEAD]) == []
    assert there.got[0][1] == there.got[1][1]


def test_after_the_horizon_it_is_given_up(make_rig: MakeRig, hook: Webhook, there: Receiver) -> None:
    """A receiver that refuses for longer than the horizon leaves a dead letter with its last status."""
    rig = make_rig()
    at = [datetime.now(UTC)]
    notifier = begin(rig, replace(hook, events=("case.results",)), now=lambda: at[0])
    there.answers = [503] * 9
    rig.rendered([dataset("SR")], [])
    drain(notifier)
    at[0] += timedelta(hours=73)
    drain(notifier)
    (dead,) = rig.ledger.notices([N.DEAD])
    assert (dead.code, dead.status) == ("WEBHOOK_HORIZON", "HTTP 503")


def test_a_process_that_dies_loses_no_event(make_rig: MakeRig, hook: Webhook, there: Receiver) -> None:
    """An event that was claimed and never answered for is due again after its lease; two processes tell it once each."""
    rig = make_rig()
    at = [datetime.now(UTC)]
    one = begin(rig, replace(hook, events=("case.results",)), now=lambda: at[0])
    rig.rendered([dataset("SR")], [])
    at[0] = datetime.now(UTC)
    one._take()
    lost = rig.ledger.claim_notice("ris", 14, at[0])
    assert lost is not None
    drain(one)
    assert there.got == []
    at[0] += timedelta(seconds=15)
    drain(one)
    assert len(there.got) == 1
    assert not rig.ledger.finish_notice(lost, N.DEAD, "", "WEBHOOK_GONE", None, at[0])
    assert not rig.ledger.put_notices("ris", 0, 1, [], at[0])


ADDRESSES = [
    ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
    ("100.64.0.1", False), ("0.0.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False), ("8.8.8.8", True),
    ("::1", False), ("fe80::1", False), ("fc00::1", False), ("::", False), ("ff02::1", False),
    ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True), ("2002:7f00:1::", False), ("2002:a02:203::", False),
    ("fec0::1", False), ("192.0.0.8", False), ("192.88.99.1", False), ("::ffff:192.0.0.8", False),
    ("64:ff9b::7f00:1", False), ("64:ff9b::a9fe:a9fe", False), ("2606:4700:4700::1111", True),
]  # fmt: skip


@pytest.mark.parametrize(("address", "may"), ADDRESSES)
def test_addresses(address: str, *, may: bool) -> None:
    """Only public addresses may be connected to, in whichever spelling; a listed network opens itself and nothing else."""
    parsed = ipaddress.ip_address(address)
    assert courier.allowed(parsed, ()) is may
    assert courier.allowed(parsed, ("10.1.0.0/16",)) is (may or address == "10.1.2.3")


def resolver(*answers: str) -> Callable[..., list[Any]]:
    """A name server that gives each of these in turn, the last one for ever; an address is itself, as everywhere."""
    left = list(answers)

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        address = host if host[0].isdigit() else left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    return resolve


def test_a_name_that_changes_leads_nowhere(hook: Webhook, there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the name is resolved once for a try, and the connection goes to the address that was judged."""
    named = replace(hook, url=f"http://ris.example.org:{there.port}/hook", networks=())
    now = datetime.now(UTC)
    monkeypatch.setattr(socket, "getaddrinfo", resolver("127.0.0.1"))
    assert courier.post(named, "e1", b"{}", now).code == "WEBHOOK_ADDRESS"
    # Public when it is judged, loopback ever after: a second look-up would reach the receiver.
    monkeypatch.setattr(socket, "getaddrinfo", resolver("203.0.113.9", "127.0.0.1"))
    monkeypatch.setattr(courier, "allowed", lambda address, _: str(address) == "203.0.113.9")
    outcome = courier.post(replace(named, timeout_s=0.3), "e1", b"{}", now)
    assert (outcome.code, there.got) == ("WEBHOOK_UNREACHABLE", [])


def test_one_bad_address_among_good_ones_is_enough(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a public and a private address is refused as a whole."""
    both = [(socket.AF_INET, 1, 6, "", (a, 443)) for a in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(Defect, match="WEBHOOK_ADDRESS"):
        courier.addresses(replace(hook, networks=()))


def test_a_receiver_that_drips_is_cut_off(hook: Webhook, there: Receiver) -> None:
    """A head that comes byte by byte ends with the deadline."""
    there.drip_s = 0.2
    started = time.monotonic()
    assert courier.post(replace(hook, timeout_s=0.5), "e1", b"{}", datetime.now(UTC)).code == "WEBHOOK_UNREACHABLE"
    assert time.monotonic() - started < 5


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for a name, and its key."""
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -addext subjectAltName=DNS:{name}"
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return key, cert


def test_tls_is_verified_for_the_name(hook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate has to be the name's, from a known authority, although the connection goes to an address."""
    key, cert = certificate(tmp_path, "ris.example.org")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    monkeypatch.setattr(socket, "getaddrinfo", resolver("127.0.0.1"))
    now = datetime.now(UTC)
    with receiver.running(context) as secure:
        good = replace(hook, url=f"https://ris.example.org:{secure.port}/hook", ca_file=str(cert))
        assert courier.post(good, "e1", b"{}", now) == courier.Outcome(204, "")
        (headers, _) = secure.got[0]
        assert headers["host"] == f"ris.example.org:{secure.port}"
        assert courier.post(replace(good, ca_file=""), "e1", b"{}", now).code == "WEBHOOK_TLS"
        other = replace(good, url=f"https://other.example.org:{secure.port}/hook")
        assert courier.post(other, "e1", b"{}", now).code == "WEBHOOK_TLS"
        settings = Settings(webhook=(good, replace(good, name="untrusted", ca_file="")))
        assert [(c.name, c.mark) for c in _webhooks(settings)] == [("webhook ris", "ok"), ("webhook untrusted", "fail")]
        assert len(secure.got) == 1


@pytest.mark.parametrize("content", ["", "whsec_", "whsec_c2hvcnQ=", "c" * 44, "whsec_!!!!"])
def test_a_bad_key_sends_nothing(hook: Webhook, there: Receiver, content: str) -> None:
    """An empty, short, unmarked or damaged key is a coded failure; nothing leaves unsigned."""
    Path(hook.key_file).write_text(content)
    assert courier.post(hook, "e1", b"{}", datetime.now(UTC)).code == "WEBHOOK_KEY"
    assert there.got == []


@pytest.mark.parametrize(
    "line",
    [
        'url = "http://ris.example.org/x"',
        'url = "http://10.1.1.1/x"\nnetworks = ["10.0.0.0/8"]',
        'url = "https://user:secret@ris.example.org/x"',
        'url = "ftp://ris.example.org/x"',
        'url = "https:///x"',
        'url = "https://h/x"\nnetworks = ["10.0.0.300"]',
        'url = "https://h/x"\nevents = ["all"]',
    ],
)
def test_unsafe_settings_are_refused(tmp_path: Path, line: str) -> None:
    """In the clear, with a user in the address, without a host, with unknown events: refused at load."""
    file = tmp_path / "casework.toml"
    file.write_text(f'[[webhook]]\nname = "w"\nkey_file = "k"\n{line}\n')
    with pytest.raises(Defect, match="CONFIG_INVALID"):
        load(file, {})


def test_the_door_tells_while_it_runs(make_rig: MakeRig, hook: Webhook, there: Receiver) -> None:
    """The delivery worker's own loop sends events, and ends when it is asked to."""
    rig = make_rig()
    begin(rig, hook)
    stop = threading.Event()
    settings = replace(rig.settings, webhook=(hook,))
    thread = threading.Thread(target=deliver_worker.run, args=(settings, stop, 5.0))
    thread.start()
    case_id = rig.rendered([dataset("SR")], [])
    deadline = time.monotonic() + 20
    while len(there.got) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    thread.join(20)
    assert {json.loads(body)["case"]["id"] for _, body in there.got} == {case_id}
    assert rig.state(case_id) is CaseState.DELIVERED
