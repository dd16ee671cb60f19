"""What stands between the network and an association: the lobby (before) and the wire (during). Owns the sockets.

Measured faults of the usual acceptor (reliability findings 4 to 6): one silent TLS client stops the accept loop, any
announced PDU length is read, ten silent sockets lock everybody out. So one selector thread takes all connections as far as a
whole A-ASSOCIATE-RQ, without a thread each, with an absolute deadline; only then is a peer checked, counted and given a
thread. During an association every PDU has a cap by its type and an absolute deadline.
"""

import contextlib
import ipaddress
import re
import resource
import selectors
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from casework.config import Dicom
from casework.config_security import Peer
from casework.errors import Refused
from casework.observe import log

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
_CAPS_SMALL = 1 << 10  # release and abort PDUs have 4 bytes
_AE = re.compile(r"[ -\[\]-~]{1,16}")
_TLS_HANDSHAKE = 0x16  # the first byte of a TLS record with a ClientHello (RFC 8446 5.1)
_SLICE_S = 0.5  # how often a blocked read looks at its deadline
_LOBBY_SOCKETS = 1024
_LOBBY_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the two titles of the request, the address it came from, the names in its verified certificate."""

    calling: str
    called: str
    address: str
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4) and the reason's code."""

    result: int
    source: int
    diagnostic: int
    code: str

    def encode(self) -> bytes:
        """Return the PDU."""
        return struct.pack(">BBIBBBB", ASSOCIATE_RJ, 0, 4, 0, self.result, self.source, self.diagnostic)


CALLING_NOT_ALLOWED = Rejection(1, 1, 3, "AE_NOT_ALLOWED")
CALLED_NOT_ALLOWED = Rejection(1, 1, 7, "AE_NOT_ALLOWED")


def busy(code: str) -> Rejection:
    """A transient rejection, local limit exceeded: the sender may come again."""
    return Rejection(2, 3, 2, code)


def abort_pdu(reason: int = 0) -> bytes:
    """An A-ABORT of the service provider (PS3.8 9.3.8)."""
    return struct.pack(">BBIBBBB", ABORT, 0, 4, 0, 0, 2, reason)


def check_caller(caller: Caller, settings: Dicom) -> Rejection | None:
    """The allow-list: titles, address and, where a row names one, the certificate must match one row together."""
    if not _AE.fullmatch(caller.calling) or not _AE.fullmatch(caller.called):
        return CALLING_NOT_ALLOWED
    address = ipaddress.ip_address(caller.address.removeprefix("::ffff:"))
    if not settings.peer:
        if not (settings.any_loopback_peer and address.is_loopback):
            return CALLING_NOT_ALLOWED
        return None if caller.called == settings.ae_title else CALLED_NOT_ALLOWED
    rows = rows_of(caller, settings)
    if not rows:
        return CALLING_NOT_ALLOWED
    return None if any(caller.called == (p.called_ae_title or settings.ae_title) for p in rows) else CALLED_NOT_ALLOWED


def rows_of(caller: Caller, settings: Dicom) -> list[Peer]:
    """The rows that a caller's title, address and certificate match."""
    address = ipaddress.ip_address(caller.address.removeprefix("::ffff:"))
    return [
        p
        for p in settings.peer
        if p.ae_title == caller.calling
        and _inside(address, p)
        and (not p.certificate_name or p.certificate_name in caller.names)
    ]


def classes_of(caller: Caller, settings: Dicom) -> frozenset[str]:
    """The SOP classes that a caller is kept to; none: all that are taken here."""
    lists = [row.sop_classes for row in rows_of(caller, settings)]
    return frozenset(one for row in lists for one in row) if all(lists) else frozenset()


class Pace:
    """Holds back the answers to those who send faster than their row allows. The image is durable already: nothing is lost by it."""

    def __init__(self, settings: Dicom) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}
        self._asked_for = any(row.images_per_s for row in settings.peer)

    def wait_s(self, caller: Caller, now: float) -> float:
        """How long this answer waits; `now` is monotonic seconds. Up to a second's worth of images may come at once."""
        rates = [row.images_per_s for row in rows_of(caller, self._settings)] if self._asked_for else []
        if not rates or not all(rates):
            return 0.0
        with self._lock:
            turn = max(self._next.get(caller.calling, 0.0), now - 1.0)
            self._next[caller.calling] = turn + 1.0 / max(rates)
            return max(0.0, turn - now)


def _inside(address: ipaddress.IPv4Address | ipaddress.IPv6Address, peer: Peer) -> bool:
    return address in ipaddress.ip_network(peer.address, strict=False)


def caller_of(request: bytes | bytearray, address: str, names: frozenset[str] = frozenset()) -> Caller:
    """Read the titles from their fixed place in an A-ASSOCIATE-RQ (PS3.8 9.3.2).

    Raises:
        Refused: PROTOCOL_VIOLATION.
    """
    if len(request) < 74:
        raise Refused("PROTOCOL_VIOLATION", "association request is too short")
    called, calling = (bytes(request[a:b]).decode("latin_1").strip(" \0") for a, b in ((10, 26), (26, 42)))
    return Caller(calling, called, address, names)


class Turnstile:
    """Counts associations, all and by peer, before a thread exists for them.

    A peer is a listed title at one address with one certificate, so that peers behind one address (NAT) don't take each other's places; and
    each listed title has one place kept for it, however full the house is. Without a list any title can be made up: then an address is a peer.
    """

    def __init__(self, settings: Dicom) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._by_peer: Counter[_Place] = Counter()

    @property
    def open(self) -> int:
        """How many are inside."""
        return self._by_peer.total()

    def enter(self, caller: Caller) -> Rejection | None:
        """Take a place, or say why there is none."""
        place = self._place(caller)
        with self._lock:
            full = self.open >= self._settings.max_associations and not self._kept(place)
            if full or self._by_peer[place] >= self._settings.max_associations_per_peer:
                return busy("TOO_MANY_ASSOCIATIONS")
            self._by_peer[place] += 1
            return None

    def leave(self, caller: Caller) -> None:
        """Give the place back."""
        place = self._place(caller)
        with self._lock:
            self._by_peer[place] -= 1
            if not self._by_peer[place]:
                del self._by_peer[place]

    def _place(self, caller: Caller) -> "_Place":
        return (
            (caller.address, caller.calling, caller.names) if self._settings.peer else (caller.address, "", frozenset())
        )

    def _kept(self, place: "_Place") -> bool:
        return bool(self._settings.peer) and all(calling != place[1] for _, calling, _ in +self._by_peer)


_Place = tuple[str, str, frozenset[str]]  # address, calling title, names in the certificate


@dataclass(slots=True)
class _Guest:
    """A connection that has not yet sent a whole request."""

    sock: socket.socket
    address: str
    deadline: float
    received: bytearray
    wanted: int = 6
    shaking: bool = False


class Lobby:
    """Accepts connections and reads their A-ASSOCIATE-RQ in one thread, whatever the peers do."""

    def __init__(
        self,
        ports: Mapping[socket.socket, Callable[[], ssl.SSLContext] | None],
        settings: Dicom,
        arrive: Callable[[socket.socket, str, bytes], None],
        *,
        dropped: Callable[[str, str], None] = lambda address, code: None,  # noqa: ARG005 - the signature
    ) -> None:
        """`ports`: each listening socket with what gives its TLS context, None for a plain one.

        `arrive` gets a connection with its whole request; it must not block, and owns the socket from then on.

        `dropped` gets the address and the code of who was turned away before; it must not block either.
        """
        self._dropped = dropped
        self._ports, self._settings, self._arrive = dict(ports), settings, arrive
        self._selector = selectors.DefaultSelector()
        self._guests: dict[int, _Guest] = {}
        # Half of this process's handles at most: idle strangers must not take those that files and peers need.
        self._room = min(_LOBBY_SOCKETS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._stopping = False
        self._wake_r, self._wake_w = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="lobby", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        for listening in self._ports:
            listening.setblocking(False)  # noqa: FBT003 - the socket's own signature
            self._selector.register(listening, selectors.EVENT_READ)
        self._selector.register(self._wake_r, selectors.EVENT_READ)
        self._thread.start()

    def stop(self) -> None:
        """Close the ports and everybody in the lobby."""
        self._stopping = True
        self._wake_w.send(b"x")
        self._thread.join()
        self._wake_r.close()  # here and not in the thread, which may end by itself before it is woken
        self._wake_w.close()

    def _run(self) -> None:
        next_check = time.monotonic() + 0.25
        while not self._stopping:
            for key, _ in self._selector.select(0.25):
                if isinstance(key.fileobj, socket.socket) and key.fileobj in self._ports:
                    self._accept(key.fileobj)
                elif key.data is not None:
                    self._serve(key.data)
            if time.monotonic() >= next_check:
                next_check = time.monotonic() + 0.25
                self._expire()
        self._selector.close()
        for listening in self._ports:
            listening.close()
        for guest in self._guests.values():
            guest.sock.close()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(64):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors: let the deadlines free some
                log.warning("lobby.accept", error_type=type(error).__name__)
                return
            try:
                guest = self._guest(sock, address[0], self._ports[listening])
            except OSError:  # gone before its handshake could begin
                sock.close()
                continue
            if len(self._guests) >= self._room:
                self._drop(next(iter(self._guests.values())), "TOO_MANY_ASSOCIATIONS")
            self._guests[guest.sock.fileno()] = guest
            self._selector.register(guest.sock, selectors.EVENT_READ, guest)
            if guest.shaking:
                self._serve(guest)

    def _guest(self, sock: socket.socket, address: str, tls: Callable[[], ssl.SSLContext] | None) -> _Guest:
        sock.setblocking(False)  # noqa: FBT003 - the socket's own signature
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            sock = tls().wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        deadline = time.monotonic() + self._settings.association_deadline_s
        return _Guest(sock, address, deadline, bytearray(), shaking=tls is not None)

    def _serve(self, guest: _Guest) -> None:
        """Go on with one guest as far as its bytes reach; whatever goes wrong concerns this guest alone."""
        try:
            if guest.shaking and not self._shake(guest):
                return
            while len(guest.received) < guest.wanted:
                data = guest.sock.recv(min(guest.wanted - len(guest.received), 64 << 10))
                if not data:
                    self._drop(guest, "")
                    return
                guest.received += data
                if guest.wanted == 6 and len(guest.received) == 6:
                    guest.wanted += self._announced(guest.received)
            self._forget(guest)
            self._arrive(guest.sock, guest.address, bytes(guest.received))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._relieve()
        except Refused as error:
            with contextlib.suppress(OSError):
                guest.sock.send(abort_pdu(6))
            self._drop(guest, error.code)
        except OSError as error:
            self._drop(guest, "TLS_FAILED" if isinstance(error, ssl.SSLError) and guest.shaking else "")
        except Exception as error:  # noqa: BLE001 - the lobby's outer guard: one peer's bytes must never close the door for all
            log.error("lobby.crashed", error_type=type(error).__name__)
            self._drop(guest, "")

    def _announced(self, head: bytearray) -> int:
        kind, _, length = struct.unpack(">BBI", head)
        if kind == _TLS_HANDSHAKE:
            raise Refused("TLS_FAILED", "TLS on a port for plain DICOM")
        if kind != ASSOCIATE_RQ:
            raise Refused("PROTOCOL_VIOLATION", "not an association request")
        if length > self._settings.max_associate_pdu_bytes:
            raise Refused("PDU_TOO_LONG")
        return int(length)

    def _shake(self, guest: _Guest) -> bool:
        try:
            guest.sock.do_handshake()  # type: ignore[attr-defined]  # a TLS socket whenever `shaking` is set
        except ssl.SSLWantReadError:
            self._selector.modify(guest.sock, selectors.EVENT_READ, guest)
            return False
        except ssl.SSLWantWriteError:
            self._selector.modify(guest.sock, selectors.EVENT_WRITE, guest)
            return False
        self._selector.modify(guest.sock, selectors.EVENT_READ, guest)
        guest.shaking = False
        return True

    def _relieve(self) -> None:
        """Keep the bytes held for unfinished requests below their bound by dropping the largest."""
        if sum(len(g.received) for g in self._guests.values() if g.wanted > 64 << 10) > _LOBBY_BYTES:
            self._drop(max(self._guests.values(), key=lambda g: len(g.received)), "TOO_MANY_ASSOCIATIONS")

    def _expire(self) -> None:
        now = time.monotonic()
        for guest in [g for g in self._guests.values() if g.deadline < now]:
            self._drop(guest, "PEER_TOO_SLOW")

    def _forget(self, guest: _Guest) -> None:
        if self._guests.pop(guest.sock.fileno(), None) is not None:
            self._selector.unregister(guest.sock)

    def _drop(self, guest: _Guest, code: str) -> None:
        self._forget(guest)
        guest.sock.close()
        if code:
            log.info("lobby.dropped", code=code, host=guest.address)
            self._dropped(guest.address, code)


class Closed(Exception):
    """The peer closed the connection."""


class Wire:
    """One association's socket: whole PDUs under a cap and a deadline. Blocking, one thread."""

    def __init__(self, sock: socket.socket, settings: Dicom) -> None:
        self._sock, self._settings = sock, settings
        self._buffer = memoryview(bytearray(settings.max_data_pdu_bytes))
        self._flags, self._encrypted = 0, isinstance(sock, ssl.SSLSocket)
        seconds, micros = int(_SLICE_S), int(_SLICE_S % 1 * 1e6)
        if self._encrypted:
            sock.settimeout(_SLICE_S)
        else:
            # The kernel waits for the whole PDU: one call instead of one per segment.
            sock.setblocking(True)  # noqa: FBT003 - the socket's own signature
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, micros))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(settings.pdu_deadline_s), 0))
            self._flags = socket.MSG_WAITALL

    def next_pdu(self) -> tuple[int, memoryview]:
        """Wait for the next PDU and return its type and its body, which is valid until the next call.

        Raises:
            Refused: PDU_TOO_LONG, PEER_TOO_SLOW (also for an idle peer), PROTOCOL_VIOLATION.
            Closed: the peer went away.
        """
        head = self._buffer[:6]
        started = self._fill(head[:1], time.monotonic() + self._settings.idle_s)
        deadline = started + self._settings.pdu_deadline_s
        self._fill(head[1:], deadline)
        kind, _, length = struct.unpack(">BBI", head)
        if not ASSOCIATE_RQ <= kind <= ABORT:
            raise Refused("PROTOCOL_VIOLATION", "unknown PDU type")
        if length > (self._settings.max_data_pdu_bytes if kind == P_DATA else _CAPS_SMALL):
            raise Refused("PDU_TOO_LONG")
        body = self._buffer[:length]
        self._fill(body, deadline)
        return kind, body

    def _fill(self, view: memoryview, deadline: float) -> float:
        """Read exactly `view`; return the time when it was full."""
        while True:
            try:
                count = self._sock.recv_into(view, 0, self._flags) if view else 0
            except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
                count = -1
            except OSError as error:
                raise Closed from error
            now = time.monotonic()
            if count == len(view):
                return now
            if count == 0:
                raise Closed
            if count > 0:
                view = view[count:]
            if now > deadline:
                raise Refused("PEER_TOO_SLOW")

    def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            Closed: the peer went away or does not read.
        """
        try:
            if self._encrypted:
                self._sock.settimeout(self._settings.pdu_deadline_s)
            self._sock.sendall(data)
            if self._encrypted:
                self._sock.settimeout(_SLICE_S)
        except OSError as error:
            raise Closed from error

    def close(self) -> None:
        """Close both directions."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
