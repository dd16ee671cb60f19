"""The DIMSE client: stores results, asks a PACS, echoes. Owns its associations; never touches the ledger.

An object is sent as its stored bytes, in the transfer syntax that it was rendered in. Only a peer that takes nothing but
Implicit VR Little Endian (the default that every AE has to offer, PS3.5 10.1) gets the same elements re-encoded.
A missing status is never a success. Every call ends within its deadline, whatever the peer does with the connection.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # the names are made at import time
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    Verification,
)
from pynetdicom.transport import AssociationSocket

from casework.config import Destination
from casework.dicom import commitment
from casework.dicom.answers import Answer, StoreItem, StoreResult, ended, of_dimse
from casework.errors import Defect, Refused, Unavailable
from casework.tls import client_context

# A file is streamed from disk PDU by PDU instead of being decoded and encoded again.
_config.STORE_SEND_CHUNKED_DATASET = True

RESULT_CLASSES: tuple[str, ...] = (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)
SLOWEST_BYTES_PER_S = 128 << 10
CONNECT_S = 10.0
RELEASE_S = 3.0
REPORT_S = 1.0  # how long an association stays open for a commitment report that comes at once
FIND_LIMIT = 20_000  # responses of one C-FIND


class StoreSession:
    """One association for as long as it lasts, opened at the first send and again when the peer has dropped it."""

    def __init__(self, destination: Destination, calling: str) -> None:
        self._destination = destination
        self._calling = calling
        self._assoc: Association | None = None
        self._proposed: set[tuple[str, str]] = set()
        self._message_id = 0

    def __enter__(self) -> "StoreSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the association; a peer that does not answer is aborted."""
        if self._assoc is not None:
            release(self._assoc)
            self._assoc = None

    def send(self, item: StoreItem) -> StoreResult:
        """Send one object and classify what became of it. Never raises for what the peer or the file does."""
        try:
            syntax = str(split_dataset(item.path)[0].TransferSyntaxUID)
            size = item.path.stat().st_size
        except (OSError, InvalidDicomError, AttributeError, ValueError):
            return ended(item.sop_instance_uid, "unreadable")
        assoc, how = self._open(item.sop_class_uid, syntax)
        if assoc is None:
            return ended(item.sop_instance_uid, how)
        payload = _payload(assoc, item, syntax)
        if payload is None:
            return ended(item.sop_instance_uid, "no_context")
        return self._exchange(assoc, item, payload, self._destination.timeout_s + size / SLOWEST_BYTES_PER_S)

    def _open(self, sop_class: str, syntax: str) -> tuple[Association | None, str]:
        """An association that proposed this class, or None and a key of answers.ENDS."""
        pair = (sop_class, syntax)
        if self._assoc is not None and self._assoc.is_established and pair in self._proposed:
            return self._assoc, ""
        self.close()
        # One context for each class and syntax, so that a refusal of one says nothing about another.
        wanted = dict.fromkeys([pair, *((uid, str(ExplicitVRLittleEndian)) for uid in RESULT_CLASSES)])
        wanted.update(dict.fromkeys((uid, str(ImplicitVRLittleEndian)) for uid, _ in list(wanted)))
        contexts = [_context(uid, ts) for uid, ts in wanted]
        self._assoc, how = associate(self._destination, self._calling, contexts)
        self._proposed = set(wanted)
        return self._assoc, how

    def _exchange(self, assoc: Association, item: StoreItem, payload: Any, limit_s: float) -> StoreResult:
        """One C-STORE request and its response."""
        self._message_id = self._message_id % 0xFFFF + 1
        assoc.dimse_timeout = limit_s
        try:
            with deadline(assoc.ae, limit_s):
                answer = assoc.send_c_store(payload, msg_id=self._message_id)
        except RuntimeError:  # the peer dropped the association between two objects: nothing was sent
            return ended(item.sop_instance_uid, "aborted_before")
        except ValueError:  # the file's own UIDs can't be put into a command
            return ended(item.sop_instance_uid, "unreadable")
        status = answer.get("Status")
        if status is None:
            self.close()
            return ended(item.sop_instance_uid, "broken")
        return of_dimse(item.sop_instance_uid, int(status))


def _payload(assoc: Association, item: StoreItem, syntax: str) -> Any:
    """The path to stream, a data set to re-encode, or None when the peer took neither context."""
    taken = {str(cx.transfer_syntax[0]) for cx in assoc.accepted_contexts if cx.abstract_syntax == item.sop_class_uid}
    if syntax in taken:
        return item.path
    if syntax == ExplicitVRLittleEndian and ImplicitVRLittleEndian in taken:
        return dcmread(item.path)
    return None


def store(destination: Destination, objects: Sequence[StoreItem], calling: str) -> list[StoreResult]:
    """Send objects over one association where the peer lets us; one result for each, in order."""
    with StoreSession(destination, calling) as session:
        return [session.send(item) for item in objects]


def echo(destination: Destination, calling: str) -> StoreResult:
    """C-ECHO. The result's answer is STORED when the peer answered with success."""
    assoc, how = associate(destination, calling, [_context(Verification, ImplicitVRLittleEndian)])
    if assoc is None:
        return ended("", how)
    try:
        assoc.dimse_timeout = destination.timeout_s
        with deadline(assoc.ae, destination.timeout_s):
            status = assoc.send_c_echo().get("Status")
    except RuntimeError:
        status = None
    finally:
        release(assoc)
    return ended("", "broken") if status is None else of_dimse("", int(status))


def offers_commitment(destination: Destination, calling: str) -> bool:
    """Whether a destination accepts the storage commitment service; asks for nothing."""
    context = _context(commitment.PUSH_MODEL, ImplicitVRLittleEndian)
    assoc, _ = associate(destination, calling, [context])
    if assoc is None:
        return False
    release(assoc)
    return True


def ask_commitment(
    destination: Destination,
    calling: str,
    uid: str,
    objects: Sequence[tuple[str, str]],
    on_report: Callable[[commitment.Report], int],
) -> StoreResult:
    """N-ACTION: ask for storage commitment of objects (SOP class and instance UIDs) as transaction `uid`.

    The result says what became of the question. The answer comes as an N-EVENT-REPORT: to our listener, or on this
    association, where `on_report` takes it (in another thread) and returns the status to answer with.
    """
    reported = threading.Event()

    def on_event(event: evt.Event) -> tuple[int, None]:
        try:
            return on_report(commitment.read_report(event.event_information)), None
        except Refused:
            return 0x0115, None  # invalid argument value
        finally:
            reported.set()

    context = _context(commitment.PUSH_MODEL, ExplicitVRLittleEndian)
    context.add_transfer_syntax(ImplicitVRLittleEndian)
    assoc, how = associate(destination, calling, [context], on=[(evt.EVT_N_EVENT_REPORT, on_event)])
    if assoc is None:
        return ended("", how)
    try:
        assoc.dimse_timeout = destination.timeout_s
        with deadline(assoc.ae, destination.timeout_s + REPORT_S):
            answer, _ = assoc.send_n_action(
                commitment.request(uid, objects),
                commitment.REQUEST_ACTION,
                UID(commitment.PUSH_MODEL),
                UID(commitment.PUSH_MODEL_INSTANCE),
            )
            status = answer.get("Status")
            if status == 0x0000:
                reported.wait(REPORT_S)
    except (RuntimeError, ValueError):
        status = None
    finally:
        release(assoc)
    return ended("", "broken") if status is None else of_dimse("", int(status))


_FIND_ENDS = {"unreachable": "PEER_UNREACHABLE", "tls": "PEER_TLS"}


class FindSession:
    """C-FIND questions over one association.

    Raises (all methods):
        Unavailable: PEER_UNREACHABLE, PEER_TLS, PEER_REJECTED or PEER_BUSY; an incomplete answer is never returned as complete.
    """

    def __init__(self, destination: Destination, calling: str, model: str) -> None:
        self._limit_s = destination.timeout_s
        self._model = model
        assoc, how = associate(destination, calling, [_context(model, ImplicitVRLittleEndian)])
        if assoc is None:
            raise Unavailable(_FIND_ENDS.get(how, "PEER_REJECTED"), destination.name)
        self._assoc = assoc

    def __enter__(self) -> "FindSession":
        return self

    def __exit__(self, *_: object) -> None:
        release(self._assoc)

    def find(self, identifier: Dataset) -> list[Dataset]:
        """Every pending response's identifier; raises unless the peer ended with success (PS3.4 C.4.1)."""
        found: list[Dataset] = []
        self._assoc.dimse_timeout = self._limit_s
        try:
            with deadline(self._assoc.ae, self._limit_s):
                for status, match in self._assoc.send_c_find(identifier, self._model):
                    code = status.get("Status")
                    if code in (0xFF00, 0xFF01) and match is not None and len(found) < FIND_LIMIT:
                        found.append(match)
                    elif code == 0x0000:
                        return found
                    else:
                        raise Unavailable("PEER_BUSY", "C-FIND " + ("no status" if code is None else f"{code:#06x}"))
        except (RuntimeError, ValueError) as error:
            raise Unavailable("PEER_REJECTED", type(error).__name__) from error
        raise Unavailable("PEER_BUSY", "C-FIND without a final response")


class _TlsSocket(ssl.SSLSocket):
    """A TLS socket that remembers a handshake that failed; the library only logs it."""

    failed = False

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands."""
        try:
            super().do_handshake(block)
        except ssl.SSLError:
            self.failed = True
            raise


class _Client(AE):
    """An AE that remembers the socket of its one association, so that we can cut and close it ourselves."""

    raw: socket.socket | None = None
    tls: tuple[ssl.SSLContext, str] | None = None

    def _create_socket(self, *args: Any) -> AssociationSocket:
        wrapped = super()._create_socket(*args)
        if (
            self.tls is not None and wrapped.socket is not None
        ):  # here, not in the library, which would forget the socket that it made of ours
            context, name = self.tls
            wrapped.socket = context.wrap_socket(wrapped.socket, server_hostname=name)
        self.raw = wrapped.socket
        return wrapped

    @property
    def distrusted(self) -> bool:
        """Whether the handshake failed."""
        return isinstance(self.raw, _TlsSocket) and self.raw.failed


def associate(
    destination: Destination,
    calling: str,
    contexts: list[PresentationContext],
    *,
    roles: Sequence[Any] = (),
    on: Sequence[Any] = (),
) -> tuple[Association | None, str]:
    """Open an association; `roles` are role selections to negotiate, `on` further pairs of event and handler.

    Returns: it and "", or None and a key of answers.ENDS that says why not.
    """
    ae = _Client(ae_title=calling)
    if destination.tls:
        try:
            context = client_context(destination)
        except Defect:
            return None, "tls"
        context.sslsocket_class = _TlsSocket
        ae.tls = context, destination.tls_name or destination.host
    connect_s = min(CONNECT_S, destination.timeout_s)
    ae.connection_timeout = connect_s
    ae.acse_timeout = destination.timeout_s
    ae.network_timeout = None  # an open association may wait for the next object; each object has its own deadline
    seen: set[str] = set()
    handlers: list[Any] = [
        (evt.EVT_CONN_OPEN, lambda _: seen.add("connected")),
        (evt.EVT_ACCEPTED, lambda _: seen.add("accepted")),
        *on,
    ]
    try:
        with deadline(ae, connect_s + destination.timeout_s):
            assoc = ae.associate(
                destination.host,
                destination.port,
                contexts,
                destination.ae_title,
                evt_handlers=handlers,
                ext_neg=list(roles),
                max_pdu=1 << 17,
            )
    except (OSError, RuntimeError, ValueError):  # the name does not resolve, the AE title is not one
        return None, "unreachable"
    if assoc.is_established:
        return assoc, ""
    if ae.raw is not None:
        ae.raw.close()  # the library only forgets it
    if ae.distrusted:
        return None, "tls"
    if assoc.is_rejected:
        permanent = getattr(assoc.acceptor.primitive, "result", None) == 0x01
        return None, "rejected_permanent" if permanent else "rejected_transient"
    if "accepted" in seen:
        return None, "no_context"
    return None, "aborted_before" if "connected" in seen else "unreachable"


def _context(abstract_syntax: str, transfer_syntax: str) -> PresentationContext:
    context = PresentationContext()
    context.abstract_syntax = UID(abstract_syntax)
    context.add_transfer_syntax(UID(transfer_syntax))
    return context


@contextlib.contextmanager
def deadline(ae: AE, seconds: float) -> Iterator[None]:
    """Cut the connection of the client's association when the block takes longer.

    The library's own timeouts only bound the wait for whole PDUs: a peer that stops reading, or stops in the middle of
    its answer, blocks the library's socket thread, and with it every abort, for ever.
    """
    timer = threading.Timer(seconds + 1.0, cut, (ae,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def cut(ae: AE) -> None:
    """Shut the socket down; wakes a thread that is blocked in it."""
    raw = getattr(ae, "raw", None)
    if raw is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(raw, socket.SHUT_RDWR)  # below TLS, which belongs to the other thread


def release(assoc: Association) -> None:
    """Release; abort a peer that does not take part."""
    if not assoc.is_established:
        return
    assoc.acse_timeout = RELEASE_S
    with deadline(assoc.ae, 2 * RELEASE_S):
        assoc.release()
        started = time.monotonic()
        while assoc.dul.is_alive() and time.monotonic() - started < RELEASE_S:
            time.sleep(0.005)


__all__ = [
    "RESULT_CLASSES",
    "Answer",
    "FindSession",
    "StoreItem",
    "StoreResult",
    "StoreSession",
    "ask_commitment",
    "associate",
    "echo",
    "store",
]
