"""Peers that are silent, slow or malformed: F30 and F31. An honest C-ECHO is asked all the while."""

import random
import socket
import statistics
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import psutil
from pynetdicom.tests import encoded_dimse_msg, encoded_pdu_items

from casework.config import Dicom
from casework.dicom import guard, scp
from casework.errors import Refused
from tests.bench import receivers
from tests.bench.receivers import HOST, Receiver
from tests.bench.reliability.lab import Lab
from tests.protocol.peer import ECHO, EXPLICIT, IMPLICIT, MR, Peer, command, fragment, request

STRANGER = "127.0.0.3"  # not the honest sender's address: the places of one address are its own to waste
HANG_S = 10.0
LENGTHS = (0, 1, 2, 5, 6, 0x7F, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)
_GROWTH_MB = 50


def echo_s(port: int) -> float:
    """How long an honest C-ECHO takes, association and release included; infinite when it fails."""
    began = time.monotonic()
    try:
        with Peer(port) as peer:
            if peer.associate()[0] == 2 and peer.echo() == 0 and peer.release() == 6:
                return time.monotonic() - began
    except OSError:
        pass
    return float("inf")


class Asker:
    """Asks honest C-ECHOs in a thread until it is stopped."""

    def __init__(self, port: int) -> None:
        self.quiet_s = statistics.median(echo_s(port) for _ in range(5))
        self.took: list[float] = []
        self._port, self._stop = port, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Asker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            self.took.append(echo_s(self._port))

    def judge(self, lab: Lab) -> None:
        """Within a second (`echo_s`); on a machine that is busy with other things within thirty times of what it took before."""
        worst = max(self.took, default=float("inf"))
        lab.figures |= {
            "echoes": len(self.took),
            "echo_quiet_ms": round(1000 * self.quiet_s),
            "echo_worst_ms": round(1000 * worst) if worst < 1e6 else "none",
        }
        lab.must(
            worst <= max(lab.size.get("echo_s", 1.0), 30 * self.quiet_s),
            f"an honest echo took {worst:.2f} s ({self.quiet_s:.3f} s before)",
        )


def slow_peers(lab: Lab) -> None:
    """F30: silent, dripping, half-shaken and flooding peers at once."""
    count, receiver = lab.n("silent"), receivers.casework(lab.folder)
    with receivers.running(receiver):
        threads = psutil.Process(receiver.process.pid).num_threads()
        with Asker(receiver.port) as asker:
            began = time.monotonic()
            held = [_connect(receiver.port) for _ in range(count)]
            drips = [_connect(receiver.port) for _ in range(count // 10)]
            half = [_connect(receiver.port) for _ in range(count // 10)]
            for sock in half:
                sock.send(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a TLS ClientHello
            flood = threading.Thread(target=_flood, args=(receiver.port, lab.n("flood")))
            flood.start()
            most = _drip(drips, receiver.process.pid)
            gone = _gone(held + drips + half)
            took = time.monotonic() - began
            flood.join()
            time.sleep(1.0)
        asker.judge(lab)
        lab.must(gone == len(held + drips + half), f"{len(held + drips + half) - gone} strangers still hold a socket")
        lab.must(took < 40, f"strangers were held for {took:.0f} s")
        lab.must(most <= threads + 60, f"{most} threads")
        lab.must(receiver.process.poll() is None, "the listener ended")
        lab.figures |= {
            "strangers": len(held + drips + half),
            "all_dropped_s": round(took, 1),
            "threads_before": threads,
            "threads_most": most,
        }


def _connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), 20, source_address=(STRANGER, 0))


def _drip(drips: list[socket.socket], pid: int) -> int:
    """Send a request byte by byte for the ten seconds that a request may take, and a little longer; the most threads."""
    message, most = request({1: (MR, [EXPLICIT])}), 0
    for n in range(24):
        for sock in drips:
            try:
                sock.send(message[n : n + 1])
            except OSError:
                continue
        most = max(most, psutil.Process(pid).num_threads())
        time.sleep(0.5)
    return most


def _gone(socks: list[socket.socket]) -> int:
    """How many the listener has closed by now, or does within a few seconds."""
    gone, deadline = 0, time.monotonic() + 25
    for sock in socks:
        sock.settimeout(max(0.05, deadline - time.monotonic()))
        try:
            while sock.recv(64):
                pass
            gone += 1
        except ConnectionError:
            gone += 1
        except TimeoutError:
            pass
        sock.close()
    return gone


def _flood(port: int, count: int) -> None:
    """Associations that are refused, announce too much, or begin and go away."""
    kinds = (
        request({1: (MR, [EXPLICIT])}, called="WRONG"),
        struct.pack(">BBI", 1, 0, 0xFFFFFFFF),
        request({1: (MR, [EXPLICIT])}) + struct.pack(">BBI", 4, 0, 0xFFFFFFFF),
        request({1: (MR, [EXPLICIT])}),
    )
    for n in range(count):
        try:
            with _connect(port) as sock:
                sock.sendall(kinds[n % len(kinds)])
        except OSError:
            continue


def malformed(lab: Lab) -> None:
    """F31: mutated PDUs in each state of an association, made of pynetdicom's own encoded samples.

    Many through the SCP's own decoding, in this process; some over sockets to a real listener.
    """
    decoded(lab)
    sent(lab)


class _Silent:
    """A store, a sink and a wire that take everything."""

    def __getattr__(self, _: str) -> Callable[..., object]:
        return lambda *_, **__: self

    def finish(self) -> tuple[int, str]:
        """As a sink."""
        return 0, ""


def decoded(lab: Lab) -> None:
    """Whatever comes, the only way out is Refused."""
    rng, silent, refused, strange = lab.rng, cast("Any", _Silent()), 0, Counter[str]()
    server = scp.Server(Dicom(), silent, plain=False)  # no port
    caller = guard.Caller("TEST", "CMAN", "127.0.0.1")
    contexts = {1: (MR, EXPLICIT), 3: (ECHO, IMPLICIT)}
    begun = scp.Command(1, 1, MR, "1.2.3", has_data_set=True)
    for number in range(lab.n("decoded")):
        seed = rng.choice(REQUESTS if number % 3 == 0 else COMMANDS if number % 3 == 1 else PDUS)
        message = mutate(seed if number % 3 != 1 else fragment(1, 3, seed), rng)
        association = scp._Association("a", caller, contexts)
        try:
            if number % 3 == 0:
                guard.caller_of(message, "127.0.0.1")
                scp.negotiate(message, 1 << 18, reports=bool(number & 1))
            else:
                if number & 4:
                    association.command, association.context_id, association.sink = begun, 1, silent
                server._data(silent, association, memoryview(message)[6:])
        except Refused:
            refused += 1
        except Exception as error:  # noqa: BLE001 - what is looked for
            strange[f"{type(error).__name__}: {error} of {message[:60].hex()}"] += 1
    lab.must(not strange, f"{strange.total()} unexpected errors: {strange.most_common(2)}")
    lab.figures |= {"decoded_pdus": lab.n("decoded"), "refused": refused}


def sent(lab: Lab) -> None:
    """Over sockets, with an honest echo all the while."""
    receiver = receivers.casework(lab.folder)
    with receivers.running(receiver):
        for _ in range(20):
            echo_s(receiver.port)
        before = receiver.rss_mb()
        each = lab.n("pdus") // 4
        workers = [Mutator(receiver.port, random.Random(lab.rng.randrange(1 << 32)), each) for _ in range(4)]
        with Asker(receiver.port) as asker:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        asker.judge(lab)
        hung = [said for worker in workers for said in worker.hung]
        lab.must(not hung, f"{len(hung)} connections stayed open for {HANG_S:.0f} s: {hung[:2]}")
        lab.must(receiver.process.poll() is None, f"the listener ended with {receiver.process.poll()}")
        lab.must(_emptied(receiver), "associations are left open")
        grown = receiver.rss_mb() - before
        lab.must(grown < _GROWTH_MB, f"memory grew by {grown:.0f} MB")
        lab.must(not list((lab.folder / "spool" / "incoming").iterdir()), "a half file is left")
        crashes = (lab.folder / "output.log").read_text().count("crashed")
        lab.must(not crashes, f"{crashes} unexpected errors in the log")
        lab.figures |= {
            "mutated_pdus": sum(w.sent for w in workers),
            "memory_growth_mb": round(grown, 1),
            "unexpected_errors": crashes,
        }


def _emptied(receiver: Receiver) -> bool:
    """Whether nothing but the listening socket is left a little later."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        links = [c for c in psutil.Process(receiver.process.pid).net_connections("tcp") if c.status == "ESTABLISHED"]
        if not links:
            return True
        time.sleep(0.2)
    return False


def _samples(*modules: object) -> list[bytes]:
    return [
        value for module in modules for value in vars(module).values() if isinstance(value, bytes) and len(value) > 4
    ]


PDUS = _samples(encoded_pdu_items)
REQUESTS = [p for p in PDUS if p[:1] == b"\x01" and len(p) > 74]
COMMANDS = [p[1:] for p in _samples(encoded_dimse_msg) if p[:1] in (b"\x01", b"\x03")]  # without the control byte


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(made) + 1), rng.randrange(8)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(made):
            made[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            made[2:6] = struct.pack(">I", rng.choice((*LENGTHS, len(made) - 6 if len(made) > 6 else 0)))
        elif kind == 3:
            made[at : at + 2] = struct.pack(rng.choice("<>") + "H", rng.choice(LENGTHS) & 0xFFFF)
        elif kind == 4:
            made[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(LENGTHS))
        elif kind == 5:
            del made[at:]
        elif kind == 6:
            made[at:at] = rng.choice(PDUS)[: rng.randrange(200)]
        else:
            made[at:at] = made[: rng.randrange(len(made) + 1)]
    if rng.random() < 0.5 and len(made) > 6:  # mostly the outer length is right, so that the inner ones are looked at
        made[2:6] = struct.pack(">I", len(made) - 6)
    return bytes(made[: 1 << 18])


class Mutator(threading.Thread):
    """Opens connections, brings each to a state, and sends something mutated there."""

    def __init__(self, port: int, rng: random.Random, count: int) -> None:
        super().__init__()
        self._port, self._rng, self._count = port, rng, count
        self.sent, self.hung = 0, []  # type: tuple[int, list[str]]

    def run(self) -> None:
        """All of them."""
        states: list[Callable[[Peer], bytes]] = [self._first, self._inside, self._command, self._data]
        for n in range(self._count):
            state = states[n % len(states)]
            try:
                with Peer(self._port) as peer:
                    message = state(peer)
                    peer.send(message)
                    self.sent += 1
                    self._until_closed(peer, message, state.__name__)
            except (OSError, struct.error):
                continue

    def _until_closed(self, peer: Peer, message: bytes, state: str) -> None:
        """We have said all; the listener has to let go."""
        peer.sock.shutdown(socket.SHUT_WR)
        peer.sock.settimeout(HANG_S)
        try:
            while peer.sock.recv(4096):
                pass
        except TimeoutError:
            self.hung.append(f"{state} {message[:40].hex()}")

    def _first(self, _: Peer) -> bytes:
        """Before an association: a request with our titles."""
        seed = bytearray(self._rng.choice(REQUESTS))
        seed[10:42] = b"CMAN".ljust(16) + b"TEST".ljust(16)
        return mutate(bytes(seed), self._rng)

    def _inside(self, peer: Peer) -> bytes:
        """In an association: any PDU."""
        self._associate(peer)
        return mutate(self._rng.choice(PDUS), self._rng)

    def _command(self, peer: Peer) -> bytes:
        """In an association: a command set, of which the PDV or the elements are wrong."""
        self._associate(peer)
        body = self._rng.choice(COMMANDS)
        if self._rng.random() < 0.5:
            return fragment(1, 3, mutate(body, self._rng))
        return mutate(fragment(1, 3, body), self._rng)

    def _data(self, peer: Peer) -> bytes:
        """While a data set is on its way."""
        self._associate(peer)
        peer.send(fragment(1, 3, command(1, MR, "1.2.3.4", data=True)))
        body = self._rng.choice(PDUS)
        return mutate(fragment(1, self._rng.choice((0, 2)), body), self._rng)

    def _associate(self, peer: Peer) -> None:
        if peer.associate()[0] != 2:
            raise ConnectionError("turned away")
