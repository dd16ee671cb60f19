"""A sending peer that does exactly what it is told, right or wrong: raw PDUs over a socket. Independent of the product's codec."""

import io
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import UID

MR = "1.2.840.10008.5.1.4.1.1.4"
ECHO = "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


def item(kind: int, body: bytes) -> bytes:
    """One upper layer item."""
    return struct.pack(">BBH", kind, 0, len(body)) + body


def pdu(kind: int, body: bytes) -> bytes:
    """One PDU."""
    return struct.pack(">BBI", kind, 0, len(body)) + body


def request(contexts: dict[int, tuple[str, list[str]]], called: str = "CMAN", calling: str = "TEST") -> bytes:
    """An A-ASSOCIATE-RQ."""
    body = (
        struct.pack(">HH", 1, 0)
        + called.encode("latin_1").ljust(16)[:16]
        + calling.encode("latin_1").ljust(16)[:16]
        + bytes(32)
    )
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (abstract, syntaxes) in contexts.items():
        inner = item(0x30, abstract.encode()) + b"".join(item(0x40, s.encode()) for s in syntaxes)
        body += item(0x20, struct.pack(">BBBB", number, 0, 0, 0) + inner)
    body += item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4"))
    return pdu(1, body)


def command(number: int, sop_class: str, sop_instance: str = "", *, data: bool, message_id: int = 1) -> bytes:
    """A command set."""
    rows = [
        (0x0002, _even(sop_class)),
        (0x0100, struct.pack("<H", number)),
        (0x0110, struct.pack("<H", message_id)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", 1 if data else 0x0101)),
    ]
    if sop_instance:
        rows.append((0x1000, _even(sop_instance)))
    body = b"".join(struct.pack("<HHI", 0, e, len(v)) + v for e, v in rows)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _even(text: str) -> bytes:
    value = text.encode("latin_1")
    return value + b"\0" * (len(value) % 2)


def fragment(context: int, control: int, data: bytes) -> bytes:
    """One P-DATA-TF with one fragment."""
    return pdu(4, struct.pack(">IBB", len(data) + 2, context, control) + data)


def encoded(ds: Dataset) -> bytes:
    """A data set's bytes in its own transfer syntax, without file meta."""
    syntax = UID(ds.file_meta.TransferSyntaxUID)
    buffer = io.BytesIO()
    bare = Dataset(ds)
    if hasattr(bare, "file_meta"):
        del bare.file_meta
    dcmwrite(
        buffer,
        bare,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
        enforce_file_format=False,
    )
    return buffer.getvalue()


@dataclass
class Peer:
    """One connection."""

    port: int
    sock: socket.socket = field(init=False)
    results: dict[int, tuple[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sock = socket.create_connection(("127.0.0.1", self.port), 5)
        self.sock.settimeout(20)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self.sock.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """The next PDU: type and body; (0, b"") when the connection is closed."""
        head = self._exactly(6)
        if not head:
            return 0, b""
        kind, _, length = struct.unpack(">BBI", head)
        return kind, self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = self.sock.recv(size - len(data))
            except ConnectionResetError:
                return b""
            if not piece:
                return b""
            data += piece
        return data

    def associate(self, contexts: dict[int, tuple[str, list[str]]] | None = None, **titles: str) -> tuple[int, bytes]:
        """Ask for an association (default: MR and echo); fill `results` by context id."""
        self.send(request(contexts or {1: (MR, [EXPLICIT]), 3: (ECHO, [IMPLICIT])}, **titles))
        kind, body = self.receive()
        position = 68
        while kind == 2 and position < len(body):
            tag, _, length = struct.unpack_from(">BBH", body, position)
            inner = body[position + 4 : position + 4 + length]
            if tag == 0x21:
                self.results[inner[0]] = (inner[2], inner[8:].decode())
            position += 4 + length
        return kind, body

    def echo(self, context: int = 3) -> int:
        """C-ECHO; return the status."""
        self.send(fragment(context, 3, command(0x30, ECHO, data=False)))
        return self.status()

    def store(self, data: bytes, sop_class: str, sop_instance: str, context: int = 1, chunk: int = 16000) -> int:
        """C-STORE raw data set bytes; return the status."""
        pieces = (data[i : i + chunk] for i in range(0, max(1, len(data)), chunk))
        return self.store_pieces(pieces, sop_class, sop_instance, context)

    def store_pieces(self, pieces: Iterable[bytes], sop_class: str, sop_instance: str, context: int = 1) -> int:
        """C-STORE a data set that comes in pieces, one fragment each; return the status."""
        self.send(fragment(context, 3, command(0x01, sop_class, sop_instance, data=True)))
        last = None
        for piece in pieces:
            if last is not None:
                self.send(fragment(context, 0, last))
            last = piece
        self.send(fragment(context, 2, last or b""))
        return self.status()

    def status(self) -> int:
        """Read one response and return its status; -1 when there is none."""
        kind, body = self.receive()
        if kind != 4:
            return -1
        position = 6
        while position < len(body):
            _, element, length = struct.unpack_from("<HHI", body, position)
            if element == 0x0900:
                return int(struct.unpack_from("<H", body, position + 8)[0])
            position += 8 + length
        return -1

    def release(self) -> int:
        """Release; return the type of the answer (6 is right)."""
        self.send(pdu(5, bytes(4)))
        return self.receive()[0]


def store_one(port: int, ds: Dataset, **values: str) -> int:
    """Associate for one data set, store it, release; return the status (-2: context not accepted)."""
    sop_class, syntax = str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)
    with Peer(port) as peer:
        kind, _ = peer.associate({1: (sop_class, [syntax])})
        if kind != 2 or peer.results[1][0] != 0:
            return -2
        status = peer.store(encoded(ds), sop_class, values.get("sop_instance", str(ds.SOPInstanceUID)))
        peer.release()
        return status
