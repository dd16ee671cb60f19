"""The guard: silent, slow and lying peers cost nobody else anything; only listed peers come in."""

import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread

from casework.config import Dicom, Settings
from casework.config import Peer as PeerRow
from casework.config_security import check_doors
from casework.dicom import guard
from casework.dicom.guard import Caller, Lobby
from casework.entrypoints.listener import Listener
from casework.errors import Defect
from tests.api.samples import mammogram
from tests.bench.instances import MG_PRESENTATION
from tests.protocol.peer import ECHO, EXPLICIT, IMPLICIT, MR, Peer, command, encoded, fragment, pdu, request

Start = Callable[..., Listener]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 5)


def echo_seconds(port: int) -> float:
    """How long an honest C-ECHO takes, association and release included."""
    began = time.monotonic()
    with Peer(port) as peer:
        assert peer.associate()[0] == 2
        assert peer.echo() == 0
        assert peer.release() == 6
    return time.monotonic() - began


def test_honest_echo_among_500_silent_peers(start: Start) -> None:
    """With 500 silent connections an honest C-ECHO takes under a second and no thread is spent on the silent ones."""
    listener = start()
    threads = threading.active_count()
    silent = [connect(listener.port) for _ in range(500)]
    try:
        assert echo_seconds(listener.port) < 1.0
        assert threading.active_count() <= threads + 2
    finally:
        for sock in silent:
            sock.close()


def test_silent_peers_leave_handles_for_others(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lobby takes at most half of the process's handles: the stranger who came first makes room."""
    monkeypatch.setattr("casework.dicom.guard.resource.getrlimit", lambda _: (16, 16))
    listener = start()
    silent = [socket.create_connection(("127.0.0.1", listener.port), 5) for _ in range(12)]
    silent[0].settimeout(10)
    assert silent[0].recv(1) == b""
    with Peer(listener.port) as peer:
        assert peer.associate()[0] == 2
    for sock in silent:
        sock.close()


def test_silent_and_dripping_peers_are_dropped(start: Start) -> None:
    """A silent peer and one that drips its request byte by byte are both cut at the association deadline."""
    listener = start(association_deadline_s=0.6)
    with connect(listener.port) as silent, connect(listener.port) as dripping:
        began = time.monotonic()
        silent.settimeout(5)
        message = request({1: (MR, [EXPLICIT])})
        sent = 0
        while time.monotonic() - began < 3:
            try:
                dripping.send(message[sent : sent + 1])
            except OSError:
                break
            sent += 1
            time.sleep(0.05)
        assert silent.recv(1) == b""
        assert 0.5 < time.monotonic() - began < 2.5
        assert sent < len(message)


def test_drip_inside_an_association_is_cut(start: Start) -> None:
    """A PDU that takes longer than its absolute deadline ends the association, however steadily it drips."""
    listener = start(pdu_deadline_s=0.6)
    with Peer(listener.port) as peer:
        peer.associate()
        began = time.monotonic()
        whole = fragment(1, 3, command(1, MR, "1.2.3", data=True))
        for n in range(60):
            try:
                peer.send(whole[n : n + 1])
            except OSError:
                break
            time.sleep(0.05)
        assert peer.receive()[0] in (0, 7)
        assert time.monotonic() - began < 3.5


def test_idle_association_is_cut(start: Start) -> None:
    """An association without a PDU for the idle time is aborted and its row says PEER_TOO_SLOW."""
    listener = start(idle_s=0.3)
    with Peer(listener.port) as peer:
        peer.associate()
        assert peer.receive()[0] == 7
    wait_until(lambda: listener.server.open_associations == 0)
    (row,) = listener.ledger.read.associations()
    assert (row.end, row.code) == ("cut", "PEER_TOO_SLOW")


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


LIES = {
    "association of 4 GiB": struct.pack(">BBI", 1, 0, 0xFFFFFFFF),
    "association just above the cap": struct.pack(">BBI", 1, 0, (1 << 20) + 1),
    "not an association": struct.pack(">BBI", 4, 0, 100) + bytes(100),
    "unknown type": struct.pack(">BBI", 9, 0, 4) + bytes(4),
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "empty association": struct.pack(">BBI", 1, 0, 0),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_first_pdu_is_cut_at_once(listener: Listener, lie: str) -> None:
    """A first PDU with an impossible length or type is answered by an abort before its body is read."""
    rss = psutil.Process().memory_info().rss
    with connect(listener.port) as sock:
        sock.settimeout(5)
        sock.sendall(LIES[lie])
        assert sock.recv(100)[:1] in (b"\x07", b"")
    assert psutil.Process().memory_info().rss - rss < 20 << 20
    assert echo_seconds(listener.port) < 1.0


INSIDE = {
    "data PDU of 4 GiB": struct.pack(">BBI", 4, 0, 0xFFFFFFFF),
    "release PDU of 1 MiB": struct.pack(">BBI", 5, 0, 1 << 20),
    "fragment longer than its PDU": pdu(4, struct.pack(">IBB", 5000, 1, 3) + bytes(10)),
    "fragment of no length": pdu(4, struct.pack(">IBB", 0, 1, 3)),
    "fragment header cut": pdu(4, b"\0\0\0"),
    "fragment of an unknown context": fragment(99, 3, command(1, MR, "1.2", data=True)),
    "data without a command": fragment(1, 2, b"abc"),
    "a command within a data set": fragment(1, 3, command(1, MR, "1.2", data=True)) * 2,
    "an endless command": fragment(1, 1, bytes(15000)) * 2,
    "a command of other groups": fragment(1, 3, struct.pack("<HHI", 8, 16, 0)),
    "a C-FIND": fragment(1, 3, command(0x20, MR, data=True)),
    "a second association request": request({1: (MR, [EXPLICIT])}),
}


@pytest.mark.parametrize("lie", INSIDE)
def test_violations_inside_an_association_abort_it(listener: Listener, lie: str) -> None:
    """Each break of the protocol ends in an A-ABORT and a row with its code, never in a crash or a wait."""
    with Peer(listener.port) as peer:
        peer.associate()
        began = time.monotonic()
        peer.send(INSIDE[lie])
        assert peer.receive()[0] == 7
        assert time.monotonic() - began < 2.0
    wait_until(lambda: listener.server.open_associations == 0)
    (row,) = listener.ledger.read.associations()
    assert (row.end, row.code) in {("cut", "PROTOCOL_VIOLATION"), ("cut", "PDU_TOO_LONG")}
    assert not list((listener.settings.root / "incoming").iterdir())


def test_limits_reject_cleanly(start: Start) -> None:
    """One association above a limit gets a transient rejection (local limit exceeded) and a place frees as one ends."""
    listener = start(max_associations=3, max_associations_per_peer=2)
    first, second = Peer(listener.port), Peer(listener.port)
    assert (first.associate()[0], second.associate()[0]) == (2, 2)
    with Peer(listener.port) as third:
        assert third.associate() == (3, bytes([0, 2, 3, 2]))
    first.release()
    first.sock.close()
    wait_until(lambda: listener.server.open_associations == 1)
    assert echo_seconds(listener.port) < 1.0
    second.sock.close()


def test_peers_behind_one_address_keep_places_of_their_own(start: Start) -> None:
    """One listed peer that takes all its places leaves another at the same address its own, one of them even in a full house."""
    rows = tuple(PeerRow(title, "127.0.0.1") for title in ("GREEDY", "HONEST", "THIRD"))
    listener = start(peer=rows, max_associations=3, max_associations_per_peer=2)
    inside = [Peer(listener.port) for _ in range(6)]

    def ask(n: int, title: str) -> int:
        return inside[n].associate(calling=title)[0]

    assert [ask(0, "GREEDY"), ask(1, "GREEDY"), ask(2, "GREEDY")] == [2, 2, 3]
    assert ask(3, "HONEST") == 2
    assert ask(4, "HONEST") == 3  # the house is full, and it has its kept place
    assert ask(5, "THIRD") == 2
    for peer in inside:
        peer.sock.close()
    wait_until(lambda: listener.server.open_associations == 0)


def test_a_row_names_what_its_peer_may_send_and_how_fast(start: Start) -> None:
    """Classes that the row does not name are refused at negotiation, C-ECHO never is; beyond its rate a sender's answers wait, and none is lost."""
    listener = start(peer=(PeerRow("MAMMO", "127.0.0.1", sop_classes=(MG_PRESENTATION,), images_per_s=4.0),))
    both = {1: (MG_PRESENTATION, [EXPLICIT]), 3: (MR, [EXPLICIT]), 5: (ECHO, [IMPLICIT])}
    with Peer(listener.port) as peer:
        assert peer.associate(both, calling="MAMMO")[0] == 2
        assert {key: result for key, (result, _) in peer.results.items()} == {1: 0, 3: 3, 5: 0}
        began = time.monotonic()
        for _ in range(8):
            ds = dcmread(BytesIO(mammogram(SOPClassUID=MG_PRESENTATION)))
            assert peer.store(encoded(ds), MG_PRESENTATION, str(ds.SOPInstanceUID)) == 0
        took = time.monotonic() - began
        assert took >= 0.7  # a second's worth at once, then four a second
        peer.release()
    assert len(listener.ledger.read.instances()) == 8
    with pytest.raises(Defect, match="over 20 s"):
        check_doors(Settings(dicom=Dicom(peer=(PeerRow("SLOW", images_per_s=0.1),))))


LOCAL, ROW = Dicom(), Dicom(peer=(PeerRow("PACS", "10.1.2.0/24"), PeerRow("PACS2", "10.1.3.4", "OTHER")))
CALLERS = [
    (LOCAL, "ANY", "CMAN", "127.0.0.1", None),
    (LOCAL, "ANY", "CMAN", "127.9.9.9", None),
    (LOCAL, "ANY", "CMAN", "::1", None),
    (LOCAL, "ANY", "CMAN", "::ffff:127.0.0.1", None),
    (LOCAL, "ANY", "cman", "127.0.0.1", guard.CALLED_NOT_ALLOWED),
    (LOCAL, "ANY", "CMAN", "10.0.0.1", guard.CALLING_NOT_ALLOWED),
    (LOCAL, "", "CMAN", "127.0.0.1", guard.CALLING_NOT_ALLOWED),
    (LOCAL, "A\nB", "CMAN", "127.0.0.1", guard.CALLING_NOT_ALLOWED),
    (LOCAL, "..\\..", "CMAN", "127.0.0.1", guard.CALLING_NOT_ALLOWED),
    (ROW, "PACS", "CMAN", "10.1.2.77", None),
    (ROW, "PACS", "CMAN", "10.1.3.4", guard.CALLING_NOT_ALLOWED),
    (ROW, "PACS2", "OTHER", "10.1.3.4", None),
    (ROW, "PACS2", "CMAN", "10.1.3.4", guard.CALLED_NOT_ALLOWED),
    (ROW, "ANY", "CMAN", "127.0.0.1", guard.CALLING_NOT_ALLOWED),
    (Dicom(any_loopback_peer=False), "ANY", "CMAN", "127.0.0.1", guard.CALLING_NOT_ALLOWED),
]


@pytest.mark.parametrize(("settings", "calling", "called", "address", "expected"), CALLERS)
def test_allow_list(settings: Dicom, calling: str, called: str, address: str, expected: guard.Rejection | None) -> None:
    """Calling title, called title and address must match one row together; titles outside the AE repertoire never do."""
    assert guard.check_caller(Caller(calling, called, address), settings) == expected


def test_stranger_is_rejected_for_echo_too(start: Start) -> None:
    """A peer that is not on the list can't even verify: permanent rejection, with a row that an administrator can read."""
    listener = start(peer=(PeerRow("PACS", "127.0.0.1"),))
    with Peer(listener.port) as stranger:
        assert stranger.associate(calling="STRANGER") == (3, bytes([0, 1, 1, 3]))
    wait_until(lambda: [r.end for r in listener.ledger.read.associations()] == ["rejected"])
    (row,) = listener.ledger.read.associations()
    assert (row.calling, row.address, row.end, row.code) == ("STRANGER", "127.0.0.1", "rejected", "AE_NOT_ALLOWED")
    with Peer(listener.port) as known:
        assert known.associate(calling="PACS")[0] == 2
        assert known.echo() == 0
        assert known.release() == 6


def test_tls_handshake_never_holds_up_the_door(tmp_path: Path) -> None:
    """With silent TLS clients in the lobby an honest one still gets through at once."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    arrived: list[bytes] = []

    def arrive(sock: socket.socket, _: str, message: bytes) -> None:
        arrived.append(message)
        sock.close()

    listening = socket.create_server(("127.0.0.1", 0))
    lobby = Lobby({listening: lambda: server}, Dicom(), arrive)
    port = listening.getsockname()[1]
    lobby.start()
    silent = [connect(port) for _ in range(20)]
    client = ssl.create_default_context(cafile=str(certificate))
    client.check_hostname = False
    message = request({1: (MR, [EXPLICIT])})
    began = time.monotonic()
    with client.wrap_socket(connect(port)) as sock:
        sock.sendall(message)
        wait_until(lambda: bool(arrived))
    assert arrived == [message]
    assert time.monotonic() - began < 1.0
    lobby.stop()
    for sock in silent:
        sock.close()
