"""TLS for DICOM (PS3.15 B.12): who is let in over it, what is refused before a DICOM byte, and new certificates without a restart."""

import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from casework.config import Peer as PeerRow
from casework.config import load
from casework.config_security import Tls
from casework.dicom.answers import StoreItem
from casework.entrypoints import probe
from casework.entrypoints.listener import Listener
from casework.errors import Defect, Unavailable
from casework.tls import ServerTls
from tests.api.samples import mammogram
from tests.certificates import Authority, Pair
from tests.protocol.conftest import make_settings, migrated
from tests.protocol.peer import EXPLICIT, MR, Peer, encoded, request
from tests.protocol.test_guard import echo_seconds

Start = Callable[..., Listener]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Pair:
    return authority.issue("localhost", file="server")


@pytest.fixture
def start_tls(tmp_path: Path, ours: Pair) -> Iterator[Start]:
    """Start a listener with both ports; options of [tls], or of [dicom] by the name `dicom`."""
    with ExitStack() as stack:

        def make(dicom: dict[str, object] | None = None, **tls: object) -> Listener:
            options: dict[str, object] = {"certificate_file": ours.certificate, "key_file": ours.key} | tls
            settings = make_settings(tmp_path / "root", **(dicom or {}))
            settings = replace(settings, tls=Tls(dicom=True, dicom_port=0, **options))  # type: ignore[arg-type]
            listener = Listener(migrated(settings))
            listener.start()
            stack.callback(listener.stop, 1.0)
            return listener

        yield make


def echoscu(port: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Dcmtk's C-ECHO."""
    command = ["echoscu", "-v", *options, "-aet", "TEST", "-aec", "CMAN", "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def s_client(port: int, *options: str) -> subprocess.CompletedProcess[bytes]:
    """OpenSSL's client; it sends an association request when a handshake succeeded."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-quiet", "-no_ign_eof", *options]
    sent = request({1: (MR, [EXPLICIT])})
    return subprocess.run(command, input=sent, capture_output=True, timeout=30, check=False)


def turned_away(listener: Listener) -> list[str]:
    listener.intake.close()  # what was noted is in the ledger now
    return [row.code for row in listener.ledger.read.associations(limit=10)]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_dicom_over_both_versions(start_tls: Start, authority: Authority, version: ssl.TLSVersion) -> None:
    """An image comes over TLS 1.2 and over 1.3 as over the plain port, in pieces as large as they come."""
    listener = start_tls()
    context = ssl.create_default_context(cafile=authority.file)
    context.minimum_version = context.maximum_version = version
    ds = dcmread(BytesIO(mammogram()))
    with Peer(listener.tls_port) as peer:
        peer.sock = context.wrap_socket(peer.sock, server_hostname="localhost")
        assert peer.sock.version() == {771: "TLSv1.2", 772: "TLSv1.3"}[version]
        assert (
            peer.associate({1: (str(ds.SOPClassUID), [EXPLICIT]), 3: ("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])})[0]
            == 2
        )
        assert peer.store(encoded(ds), str(ds.SOPClassUID), str(ds.SOPInstanceUID)) == 0
        assert peer.echo() == 0
        assert peer.release() == 6


def test_dcmtk_over_tls(start_tls: Start, authority: Authority, tmp_path: Path) -> None:
    """Dcmtk's echoscu and storescu, with the profile that it calls non-downgrading BCP 195, are served."""
    listener = start_tls()
    pair = authority.issue("modality")
    options = ("+tls", pair.key, pair.certificate, "+cf", authority.file)
    answer = echoscu(listener.tls_port, *options)
    assert answer.returncode == 0, answer.stderr
    file = tmp_path / "a.dcm"
    file.write_bytes(mammogram())
    command = ["storescu", *options, "-aet", "TEST", "-aec", "CMAN", "127.0.0.1", str(listener.tls_port), str(file)]
    assert subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    assert echoscu(listener.port).returncode == 0, "the plain port stays beside it"


WEAK = [
    ("-tls1", "-cipher", "DEFAULT@SECLEVEL=0"),
    ("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"),
    ("-tls1_2", "-cipher", "AES128-GCM-SHA256"),  # no forward secrecy
    ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"),  # CBC
    ("-tls1_2", "-cipher", "aNULL@SECLEVEL=0"),
    ("-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"),
]


@pytest.mark.parametrize("options", WEAK, ids=" ".join)
def test_old_versions_and_weak_suites_are_refused(start_tls: Start, options: tuple[str, ...]) -> None:
    """TLS 1.0, 1.1 and suites outside BCP 195 end in the handshake: no DICOM byte is read or answered."""
    listener = start_tls()
    answer = s_client(listener.tls_port, *options)
    assert answer.returncode != 0
    assert answer.stdout == b""
    assert set(turned_away(listener)) <= {"TLS_FAILED"}  # none where openssl itself gave up before it called


def test_plain_dicom_on_the_tls_port_and_tls_on_the_plain_port(start_tls: Start) -> None:
    """Neither is upgraded or guessed: both end, and the association log says why."""
    listener = start_tls()
    with Peer(listener.tls_port) as peer:
        assert peer.associate()[0] in (0, 0x15)  # closed, or a TLS alert; never an A-ASSOCIATE-AC
    assert s_client(listener.port).returncode != 0
    assert turned_away(listener) == ["TLS_FAILED", "TLS_FAILED"]


def test_mutual_tls(start_tls: Start, authority: Authority, tmp_path: Path) -> None:
    """With client_ca_file a peer without a certificate, with one of another authority or one that has ended is refused."""
    listener = start_tls(client_ca_file=authority.file)
    stranger = Authority(tmp_path / "other")

    def tries(pair: Pair) -> bool:
        return echoscu(listener.tls_port, "+tls", pair.key, pair.certificate, "+cf", authority.file).returncode == 0

    assert tries(authority.issue("modality"))
    assert not tries(stranger.issue("modality"))
    assert not tries(authority.issue("old", days=-1))
    assert echoscu(listener.tls_port, "+tla", "+cf", authority.file).returncode != 0
    codes = turned_away(listener)
    assert codes.count("TLS_FAILED") == 3, codes


@pytest.mark.parametrize("mutual", [False, True])
def test_the_probe_speaks_tls_where_the_plain_port_is_closed(
    start_tls: Start, authority: Authority, tmp_path: Path, mutual: bool
) -> None:
    """It believes our own certificate and no other, and shows it where the port asks who calls."""
    listener = start_tls(plain_dicom=False, client_ca_file=authority.file if mutual else "")
    settings = replace(listener.settings, tls=replace(listener.settings.tls, dicom_port=listener.tls_port))
    ds = dcmread(BytesIO(mammogram()))
    path = tmp_path / "image.dcm"
    ds.save_as(path)
    item = StoreItem(path, str(ds.SOPClassUID), str(ds.SOPInstanceUID))
    probe._send(settings, [item], "TEST")
    [row] = listener.ledger.read.receipts(10)
    assert row.code == ""
    other = Authority(tmp_path / "other").issue("localhost")
    tls = replace(settings.tls, certificate_file=other.certificate, key_file=other.key)
    with pytest.raises(Unavailable, match="PEER_TLS"):
        probe._send(replace(settings, tls=tls), [item], "TEST")


def test_a_revoked_certificate_is_refused_from_the_next_connection_on(
    start_tls: Start, authority: Authority, ours: Pair
) -> None:
    """The list is read again when it changes; what can't be read changes nothing; an overdue list lets nobody in."""
    stolen, good = authority.issue("stolen"), authority.issue("good")
    revoked = authority.revoke()
    listener = start_tls(client_ca_file=authority.file, client_crl_file=revoked)

    def tries(pair: Pair) -> bool:
        return echoscu(listener.tls_port, "+tls", pair.key, pair.certificate, "+cf", authority.file).returncode == 0

    assert (tries(stolen), tries(good)) == (True, True)
    authority.revoke(stolen)
    time.sleep(1.1)  # RELOAD_S
    assert (tries(stolen), tries(good)) == (False, True)
    Path(revoked).write_text("no list")
    time.sleep(1.1)
    assert (tries(stolen), tries(good)) == (False, True)
    authority.revoke(days=-1)
    time.sleep(1.1)
    assert (tries(stolen), tries(good)) == (False, False)
    assert turned_away(listener).count("TLS_FAILED") == 4
    for bad in ("no list", Path(ours.certificate).read_text()):
        Path(revoked).write_text(bad)
        with pytest.raises(Defect, match="CONFIG_INVALID"):
            ServerTls(ours.certificate, ours.key, authority.file, revoked)


def test_title_address_and_certificate_belong_together(start_tls: Start, authority: Authority) -> None:
    """A row that names a certificate lets in only who shows it: not another peer of the same authority, nor the plain port."""
    row = PeerRow("TEST", "127.0.0.1", certificate_name="mammo-1.hospital.test")
    listener = start_tls(dicom={"peer": (row,)}, client_ca_file=authority.file)

    def tries(name: str) -> int:
        pair = authority.issue(name)
        return echoscu(listener.tls_port, "+tls", pair.key, pair.certificate, "+cf", authority.file).returncode

    assert tries("mammo-1.hospital.test") == 0
    assert tries("mammo-2.hospital.test") != 0
    assert echoscu(listener.port).returncode != 0


def test_200_half_open_handshakes(start_tls: Start, authority: Authority) -> None:
    """While 200 peers hang in their TLS handshake, half of them in its middle, an honest C-ECHO takes less than a second."""
    listener = start_tls()
    hello = _hello()
    hanging = []
    for number in range(200):
        sock = socket.create_connection(("127.0.0.1", listener.tls_port), 5)
        sock.sendall(hello if number % 2 else hello[: len(hello) // 2])
        hanging.append(sock)
    try:
        assert echo_seconds(listener.port) < 1.0
        began = time.monotonic()
        context = ssl.create_default_context(cafile=authority.file)
        with Peer(listener.tls_port) as peer:
            peer.sock = context.wrap_socket(peer.sock, server_hostname="localhost")
            assert peer.associate()[0] == 2
            assert peer.echo() == 0
        assert time.monotonic() - began < 1.0
    finally:
        for sock in hanging:
            sock.close()


def test_half_open_handshakes_end(start_tls: Start) -> None:
    """A peer that stops in its handshake is dropped at the association deadline."""
    listener = start_tls(dicom={"association_deadline_s": 0.5})
    with socket.create_connection(("127.0.0.1", listener.tls_port), 5) as sock:
        sock.settimeout(5)
        sock.sendall(_hello()[:50])
        assert sock.recv(1) == b""


def test_a_peer_that_leaves_at_once_closes_no_door(start_tls: Start) -> None:
    """Connections that are reset before their handshake begins cost nobody else anything."""
    listener = start_tls()
    for _ in range(50):
        sock = socket.create_connection(("127.0.0.1", listener.tls_port), 5)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        sock.send(b"\x16\x03")
        sock.close()
    assert echo_seconds(listener.port) < 1.0


def _hello() -> bytes:
    """A ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_a_new_certificate_needs_no_restart(authority: Authority, tmp_path: Path, start_tls: Start) -> None:
    """The next connection after a change sees the new certificate; an association that is open goes on."""
    pair = authority.issue("localhost", file="rolling")
    listener = start_tls(certificate_file=pair.certificate, key_file=pair.key)
    context = ssl.create_default_context(cafile=authority.file)

    def serial() -> object:
        with (
            socket.create_connection(("127.0.0.1", listener.tls_port), 5) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as secure,
        ):
            return (secure.getpeercert() or {})["serialNumber"]

    with Peer(listener.tls_port) as peer:
        peer.sock = context.wrap_socket(peer.sock, server_hostname="localhost")
        assert peer.associate()[0] == 2
        first = serial()
        authority.issue("localhost", file="rolling")
        time.sleep(1.1)
        assert serial() != first
        assert peer.echo() == 0


def test_a_certificate_that_can_not_be_used_changes_nothing(authority: Authority) -> None:
    """Half a renewal (a certificate without its key) or a lost file leaves the certificate that was there."""
    now = [0.0]
    pair = authority.issue("localhost", file="renewed")
    server = ServerTls(pair.certificate, pair.key, clock=lambda: now[0])
    context = server.context()
    other = authority.issue("localhost", file="unrelated")
    Path(pair.certificate).write_bytes(Path(other.certificate).read_bytes())
    now[0] = 2.0
    assert server.context() is context
    Path(pair.key).unlink()
    now[0] = 4.0
    assert server.context() is context
    authority.issue("localhost", file="renewed")
    now[0] = 6.0
    assert server.context() is not context


def test_a_key_that_others_can_read_is_refused(authority: Authority) -> None:
    """A private key has to be private."""
    pair = authority.issue("localhost", file="open")
    Path(pair.key).chmod(0o644)
    with pytest.raises(Defect) as caught:
        ServerTls(pair.certificate, pair.key)
    assert caught.value.code == "CONFIG_INVALID"


FILES = "certificate_file = 'c'\nkey_file = 'k'\n"
REFUSED = [
    ("[tls]\ndicom = true", "certificate_file and key_file"),
    ("[tls]\nhttps = true\ncertificate_file = 'c'", "certificate_file and key_file"),
    ("[tls]\nplain_dicom = false", "no door for images"),
    (f"[tls]\ndicom = true\n{FILES}[[dicom.peer]]\nae_title = 'A'\ncertificate_name = 'a'", "client_ca_file"),
    ("[[destination]]\nname = 'a'\nae_title = 'A'\nca_file = 'x'", "need TLS"),
    ("[[destination]]\nname = 'a'\nae_title = 'A'\ntls = true\ncertificate_file = 'x'", "belong together"),
    ("[[destination]]\nname = 'a'\nkind = 'stow'\nurl = 'https://a/b'\ntls = true", "write https://"),
    ("[[destination]]\nname = 'a'\nkind = 'stow'\nurl = 'http://a/b'\nca_file = 'x'", "need TLS"),
]


@pytest.mark.parametrize(("text", "named"), REFUSED)
def test_tls_by_halves_is_refused(tmp_path: Path, text: str, named: str) -> None:
    """Settings that promise TLS and could not keep it stop the start."""
    path = tmp_path / "casework.toml"
    path.write_text(text)
    with pytest.raises(Defect) as caught:
        load(path, {})
    assert named in caught.value.detail
