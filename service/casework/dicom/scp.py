"""The SCP for storage, verification and commitment reports: one thread per association, bytes straight to a sink.

Why not pynetdicom's acceptor: it polls with sleeps, copies every PDU four times, hands data sets from thread to thread and
reads without bounds. Here the lobby (guard.py) brings a whole A-ASSOCIATE-RQ, and from then on one loop reads PDUs into one
buffer and writes their fragments onwards. The acceptor's half of the upper layer's state machine (PS3.8 9.2) is small: data,
release, abort; anything else is a violation. Group 0000 is always implicit little endian (PS3.7 6.3.1).
A peer that we ask for storage commitment reports on an association that it opens, as SCP of that service (PS3.4 J.3.3):
the role selection (PS3.7 D.3.3.4) is granted to such peers only; for all others the service does not exist.
Nothing here stores anything: the caller's `Sink` does.
"""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from casework.case import derive_uid
from casework.config import Dicom
from casework.dicom import guard, status
from casework.dicom.classes import EXPLICIT_LE, IMPLICIT_LE, VERIFICATION, choose_syntax
from casework.dicom.commitment import PUSH_MODEL
from casework.dicom.guard import Caller, Closed, Lobby, Rejection, Turnstile, Wire
from casework.errors import CaseworkError, Defect, Refused
from casework.observe import ASSOCIATIONS, log
from casework.tls import ServerTls, names_of

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_IMPLEMENTATION_UID = derive_uid("implementation")
_C_STORE_RQ, _C_ECHO_RQ, _C_CANCEL_RQ, _N_EVENT_REPORT_RQ, _RESPONSE = 0x0001, 0x0030, 0x0FFF, 0x0100, 0x8000
_NO_DATA_SET = 0x0101
_MAX_COMMAND = 16 << 10
_GROUP0, _CLASS, _FIELD, _ID, _RESPONDING, _DATA_SET, _STATUS, _COMMENT, _INSTANCE = (
    0x0000,
    0x0002,
    0x0100,
    0x0110,
    0x0120,
    0x0800,
    0x0900,
    0x0902,
    0x1000,
)


class Sink(Protocol):
    """Where one instance's bytes go."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the data set; must not keep the view."""

    def finish(self) -> tuple[int, str]:
        """Return the status to answer and its code; the instance is durable if it is a success."""

    def abandon(self) -> None:
        """The instance will not be completed."""


class Store(Protocol):
    """What the doors give this module: admission, associations and instances, in the flow's words."""

    def admit(self) -> str:
        """The code why no association should begin now, or ""."""

    def opened(self, caller: Caller) -> str:
        """An association begins; return its id. Raises CaseworkError when it can't be recorded."""

    def rejected(self, caller: Caller, code: str) -> None:
        """An association was turned away; must not block."""

    def closed(self, association_id: str, end: str, code: str, counts: dict[str, int]) -> None:
        """An association ended."""

    def begin(self, association_id: str, caller: Caller, sop_class: str, sop_instance: str, syntax: str) -> Sink:
        """An instance begins."""

    def report(self, caller: Caller, syntax: str) -> Sink:
        """A storage commitment report begins."""


@dataclass(frozen=True, slots=True)
class Command:
    """The elements of a command set that an acceptor needs (PS3.7 9.3)."""

    field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool


@dataclass(slots=True)
class _Association:
    """What one association knows while it lasts."""

    id: str
    caller: Caller
    contexts: Mapping[int, tuple[str, str]]  # context id -> (abstract syntax, transfer syntax)
    command_bytes: bytearray = field(default_factory=bytearray)
    command: Command | None = None
    context_id: int = 0
    sink: Sink | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"stored": 0, "refused": 0, "echo": 0})


class Server:
    """The listening AE. `start`, then `stop` (drain); `refuse_with` makes it turn new associations away."""

    def __init__(
        self,
        settings: Dicom,
        store: Store,
        *,
        reporters: frozenset[str] = frozenset(),
        plain: bool = True,
        tls_port: int = 0,
        tls: ServerTls | None = None,
    ) -> None:
        """`reporters`: the AE titles that are asked for storage commitment, and may report.

        `plain` opens the plain port, `tls` the other one; with neither there is no port.
        """
        self._settings, self._store, self._reporters = settings, store, reporters
        self._turnstile = Turnstile(settings)
        self._pace = guard.Pace(settings)
        self._wires: dict[int, Wire] = {}
        ports: dict[socket.socket, Callable[[], ssl.SSLContext] | None] = {}
        self.port = self.tls_port = 0
        if plain:
            ports[sock := listen(settings.host, settings.port)] = None
            self.port = int(sock.getsockname()[1])
        if tls is not None:
            ports[sock := listen(settings.host, tls_port)] = tls.context
            self.tls_port = int(sock.getsockname()[1])
        self._lobby = Lobby(ports, settings, self._arrive, dropped=self._dropped)

    @property
    def open_associations(self) -> int:
        """How many associations have a thread."""
        return self._turnstile.open

    def start(self) -> None:
        """Begin to accept."""
        self._lobby.start()

    def stop(self, drain_s: float) -> bool:
        """Close the port at once, let open associations end by themselves, cut the rest; True when none was cut."""
        self._lobby.stop()
        deadline = time.monotonic() + drain_s
        while self.open_associations and time.monotonic() < deadline:
            time.sleep(0.02)
        cut = list(self._wires.values())
        for wire in cut:
            wire.close()
        while self.open_associations and time.monotonic() < deadline + 5:
            time.sleep(0.02)
        return not cut

    # --- arrival (the lobby's thread: must not block) -----------------------------------------------------

    def _arrive(self, sock: socket.socket, address: str, request: bytes) -> None:
        caller = guard.caller_of(request, address, names_of(sock))
        rejection = guard.check_caller(caller, self._settings)
        if rejection is None and (code := self._store.admit()):
            rejection = guard.busy(code)
        if rejection is None:
            rejection = self._turnstile.enter(caller)
        if rejection is None:
            name = f"assoc-{sock.fileno()}"
            try:
                threading.Thread(target=self._run, args=(sock, caller, request), name=name, daemon=True).start()
            except RuntimeError:  # no more threads: the place is free again
                self._turnstile.leave(caller)
                rejection = guard.busy("TOO_MANY_ASSOCIATIONS")
            else:
                return
        self._reject(sock, address, rejection)
        self._store.rejected(caller, rejection.code)

    def _dropped(self, address: str, code: str) -> None:
        """Somebody never got as far as to say who they are."""
        self._store.rejected(Caller("", "", address), code)

    def _reject(self, sock: socket.socket, address: str, rejection: Rejection) -> None:
        log.warning("association.rejected", code=rejection.code, host=address)
        with contextlib.suppress(OSError):
            sock.send(rejection.encode())
            sock.shutdown(socket.SHUT_WR)
        sock.close()

    # --- one association (its own thread) -----------------------------------------------------------------

    def _run(self, sock: socket.socket, caller: Caller, request: bytes) -> None:
        ASSOCIATIONS.inc()
        try:
            self._guarded(Wire(sock, self._settings), sock, caller, request)
        finally:
            ASSOCIATIONS.dec()
            self._turnstile.leave(caller)

    def _guarded(self, wire: Wire, sock: socket.socket, caller: Caller, request: bytes) -> None:
        self._wires[id(wire)] = wire
        try:
            self._associate(wire, sock, caller, request)
        except Refused as error:
            log.warning("association.refused", code=error.code, host=caller.address)
            with contextlib.suppress(Closed):
                wire.send(guard.abort_pdu(6))
        except Exception as error:  # noqa: BLE001 - the outer guard for DIMSE: one peer's bytes must never end the service
            log.error("association.crashed", error_type=type(error).__name__)
            with contextlib.suppress(Closed):
                wire.send(guard.abort_pdu())
        finally:
            del self._wires[id(wire)]
            wire.close()

    def _associate(self, wire: Wire, sock: socket.socket, caller: Caller, request: bytes) -> None:
        reports = caller.calling in self._reporters
        only = guard.classes_of(caller, self._settings)
        accept, contexts = negotiate(request, self._settings.max_data_pdu_bytes, reports=reports, only=only)
        try:
            association = _Association(self._store.opened(caller), caller, contexts)
        except CaseworkError as error:
            self._reject(sock, caller.address, guard.busy(error.code))
            return
        end, code = "lost", ""
        try:
            wire.send(accept)
            end, code = self._converse(wire, association)
        except Closed:
            end, code = "lost", "PEER_ABORTED"
        except Refused as error:
            end, code = "cut", error.code
            with contextlib.suppress(Closed):
                wire.send(guard.abort_pdu(6))
        finally:
            if association.sink is not None:
                association.sink.abandon()
            if not contexts:  # how it ended says less: nothing that the sender offered is taken here
                code = "SOP_CLASS_NOT_ACCEPTED"
            log.info("association.closed", association_id=association.id, kind=end, code=code, **_sum(association))
            with contextlib.suppress(CaseworkError):  # the next start closes the row
                self._store.closed(association.id, end, code, association.counts)

    def _converse(self, wire: Wire, association: _Association) -> tuple[str, str]:
        """Serve PDUs until the association ends; return how."""
        while True:
            kind, body = wire.next_pdu()
            if kind == guard.P_DATA:
                self._data(wire, association, body)
            elif kind == guard.RELEASE_RQ:
                wire.send(struct.pack(">BBII", guard.RELEASE_RP, 0, 4, 0))
                return "released", ""
            elif kind == guard.ABORT:
                return "aborted", "PEER_ABORTED"
            else:
                raise Refused("PROTOCOL_VIOLATION", "unexpected PDU")

    def _data(self, wire: Wire, association: _Association, body: memoryview) -> None:
        """Take the fragments of one P-DATA-TF (PS3.8 9.3.5)."""
        position, end = 0, len(body)
        while position < end:
            if end - position < 6:
                raise Refused("PROTOCOL_VIOLATION", "fragment header")
            length, context_id, control = struct.unpack_from(">IBB", body, position)
            if length < 2 or length - 2 > end - position - 6 or context_id not in association.contexts:
                raise Refused("PROTOCOL_VIOLATION", "fragment")
            fragment = body[position + 6 : position + 4 + length]
            position += 4 + length
            if control & 1:
                self._command_fragment(wire, association, context_id, fragment, last=bool(control & 2))
            else:
                self._data_fragment(wire, association, context_id, fragment, last=bool(control & 2))

    def _command_fragment(
        self, wire: Wire, association: _Association, context_id: int, fragment: memoryview, *, last: bool
    ) -> None:
        association.command_bytes += fragment
        if association.command is not None or len(association.command_bytes) > _MAX_COMMAND:
            raise Refused("PROTOCOL_VIOLATION", "command")
        if not last:
            return
        command = parse_command(bytes(association.command_bytes))
        association.command_bytes.clear()
        abstract, syntax = association.contexts[context_id]
        if command.field == _C_STORE_RQ and command.has_data_set:
            association.command, association.context_id = command, context_id
            if command.sop_class_uid == abstract:
                association.sink = self._store.begin(
                    association.id, association.caller, command.sop_class_uid, command.sop_instance_uid, syntax
                )
        elif command.field == _N_EVENT_REPORT_RQ and abstract == PUSH_MODEL and command.has_data_set:
            association.command, association.context_id = command, context_id
            association.sink = self._store.report(association.caller, syntax)
        elif command.field == _C_ECHO_RQ and not command.has_data_set:
            association.counts["echo"] += 1
            wire.send(respond(command, context_id, status.SUCCESS))
        elif command.field != _C_CANCEL_RQ:
            raise Refused("PROTOCOL_VIOLATION", "not a C-STORE, C-ECHO or report request")

    def _data_fragment(
        self, wire: Wire, association: _Association, context_id: int, fragment: memoryview, *, last: bool
    ) -> None:
        command = association.command
        if command is None or context_id != association.context_id:
            raise Refused("PROTOCOL_VIOLATION", "data without a command")
        if association.sink is not None:
            association.sink.write(fragment)
        if not last:
            return
        if association.sink is None:  # the command names another class than its context
            answer, code = status.SOP_CLASS_NOT_SUPPORTED, "SOP_CLASS_NOT_ACCEPTED"
        else:
            sink, association.sink = association.sink, None
            answer, code = sink.finish()
            if wait_s := self._pace.wait_s(association.caller, time.monotonic()):
                time.sleep(
                    wait_s
                )  # this peer's own thread, 20 s at most (config_security): the image is durable, only its answer waits
        association.command = None
        kind = "reports" if command.field == _N_EVENT_REPORT_RQ else "stored"
        counted = kind if answer == status.SUCCESS else "refused"
        association.counts[counted] = association.counts.get(counted, 0) + 1
        if code and answer != status.SUCCESS:
            association.counts[code] = association.counts.get(code, 0) + 1
        comment = status.comment_of(code) if answer != status.SUCCESS else ""
        wire.send(respond(command, context_id, answer, comment))


def _sum(association: _Association) -> dict[str, int]:
    return {"count": association.counts["stored"]}


def listen(host: str, port: int) -> socket.socket:
    """Bind a port.

    Raises:
        Defect: CONFIG_INVALID when it is taken or not ours to take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise Defect("CONFIG_INVALID", f"port {port} for DICOM: {error.strerror}") from error
    sock.listen(256)
    return sock


# --- encoding -----------------------------------------------------------------------------------------------


def negotiate(
    request: bytes, max_pdu: int, *, reports: bool = False, only: frozenset[str] = frozenset()
) -> tuple[bytes, dict[int, tuple[str, str]]]:
    """Decode an A-ASSOCIATE-RQ; return the A-ASSOCIATE-AC to send and the accepted contexts.

    reports: whether this peer may report storage commitment. only: the classes that it is kept to, beside C-ECHO.

    Raises:
        Refused: PROTOCOL_VIOLATION when it can't be decoded.
    """
    accepted: dict[int, tuple[str, str]] = {}
    items = _item(0x10, _APPLICATION_CONTEXT.encode())
    for context_id, abstract, syntaxes in _proposed(request):
        refused = bool(only) and abstract not in only and abstract != VERIFICATION
        syntax = None if refused else choose_syntax(abstract, syntaxes)
        if reports and abstract == PUSH_MODEL:
            syntax = next((s for s in (EXPLICIT_LE, IMPLICIT_LE) if s in syntaxes), None)
        if syntax is not None:
            accepted[context_id] = (abstract, syntax)
        known = syntax is not None or (not refused and choose_syntax(abstract, [IMPLICIT_LE]) is not None)
        result = (
            0 if syntax is not None else (4 if known else 3)
        )  # 3: abstract syntax, 4: transfer syntaxes not supported
        body = struct.pack(">BBBB", context_id, 0, result, 0) + _item(0x40, (syntax or IMPLICIT_LE).encode())
        items += _item(0x21, body)
    user = _item(0x51, struct.pack(">I", max_pdu)) + _item(0x52, _IMPLEMENTATION_UID.encode())
    if reports and _proposes_scp(request):
        name = PUSH_MODEL.encode()
        user += _item(
            0x54, struct.pack(">H", len(name)) + name + b"\0\1"
        )  # SCU no, SCP yes: the peer provides the service
    body = struct.pack(">HH", 1, 0) + request[10:74] + items + _item(0x50, user)
    return struct.pack(">BBI", guard.ASSOCIATE_AC, 0, len(body)) + body, accepted


def _proposed(request: bytes) -> list[tuple[int, str, list[str]]]:
    """The presentation contexts of an A-ASSOCIATE-RQ (PS3.8 9.3.2.2): id, abstract syntax, transfer syntaxes."""
    contexts: list[tuple[int, str, list[str]]] = []
    for kind, body in _items(request[74:]):
        if kind != 0x20:
            continue
        if len(body) < 4 or len(contexts) == 128:
            raise Refused("PROTOCOL_VIOLATION", "presentation context")
        inner = [(k, v.rstrip(b"\0 ").decode("latin_1")) for k, v in _items(body[4:])]
        abstract = next((v for k, v in inner if k == 0x30), "")
        contexts.append((body[0], abstract, [v for k, v in inner if k == 0x40]))
    return contexts


def _proposes_scp(request: bytes) -> bool:
    """Whether the peer asks for the SCP role of storage commitment (PS3.7 D.3.3.4.1)."""
    user = next((body for kind, body in _items(request[74:]) if kind == 0x50), b"")
    name = PUSH_MODEL.encode()
    roles = (body for kind, body in _items(user) if kind == 0x54)
    return any(
        body[2:].rstrip(b"\0\1") == name and body.endswith(b"\1") and len(body) == len(name) + 4 for body in roles
    )


def _items(data: bytes) -> list[tuple[int, bytes]]:
    """Split a run of items into types and bodies."""
    items, position = [], 0
    while position < len(data):
        if len(data) - position < 4:
            raise Refused("PROTOCOL_VIOLATION", "item")
        kind, _, length = struct.unpack_from(">BBH", data, position)
        position += 4
        if length > len(data) - position:
            raise Refused("PROTOCOL_VIOLATION", "item")
        items.append((kind, data[position : position + length]))
        position += length
    return items


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def parse_command(data: bytes) -> Command:
    """Read a command set.

    Raises:
        Refused: PROTOCOL_VIOLATION.
    """
    values: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        if len(data) - position < 8:
            raise Refused("PROTOCOL_VIOLATION", "command set")
        group, element, length = struct.unpack_from("<HHI", data, position)
        position += 8
        if group != 0 or length > len(data) - position:
            raise Refused("PROTOCOL_VIOLATION", "command set")
        values[element] = data[position : position + length]
        position += length
    try:
        numbers = [struct.unpack("<H", values[e])[0] for e in (_FIELD, _ID, _DATA_SET)]
    except (KeyError, struct.error) as error:
        if _FIELD in values and values[_FIELD] == struct.pack("<H", _C_CANCEL_RQ):
            return Command(_C_CANCEL_RQ, 0, "", "", has_data_set=False)
        raise Refused("PROTOCOL_VIOLATION", "command set") from error
    texts = [values.get(e, b"").rstrip(b"\0 ").decode("latin_1") for e in (_CLASS, _INSTANCE)]
    return Command(numbers[0], numbers[1], texts[0], texts[1], has_data_set=numbers[2] != _NO_DATA_SET)


def respond(command: Command, context_id: int, answer: int, comment: str = "") -> bytes:
    """Encode the response to a request as one P-DATA-TF with one PDV."""
    body = b"".join(
        (
            _element(_CLASS, _padded(command.sop_class_uid, b"\0")),
            _element(_FIELD, struct.pack("<H", command.field | _RESPONSE)),
            _element(_RESPONDING, struct.pack("<H", command.message_id)),
            _element(_DATA_SET, struct.pack("<H", _NO_DATA_SET)),
            _element(_STATUS, struct.pack("<H", answer)),
            _element(_COMMENT, _padded(comment, b" ")) if comment else b"",
            _element(_INSTANCE, _padded(command.sop_instance_uid, b"\0")) if command.sop_instance_uid else b"",
        )
    )
    body = _element(_GROUP0, struct.pack("<I", len(body))) + body
    return struct.pack(">BBIIBB", guard.P_DATA, 0, len(body) + 6, len(body) + 2, context_id, 3) + body


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, element, len(value)) + value


def _padded(text: str, pad: bytes) -> bytes:
    value = text.encode("latin_1", "replace")
    return value + pad * (len(value) % 2)
