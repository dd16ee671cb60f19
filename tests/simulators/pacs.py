"""A PACS of our own: C-ECHO, C-STORE, C-FIND, C-GET, C-MOVE, storage commitment, autorouting, DICOMweb, and faults on demand.

    python -m tests.simulators.pacs --port 4242 --aet PACS --dir /tmp/pacs --http-port 8042 --route-to CMAN@127.0.0.1:11112

It keeps objects as they were received, routes every series of modality MG, MR or US that has become stable, and never
routes what came from the AE that it routes to.
"""

import argparse
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import AllTransferSyntaxes, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from tests.simulators.pacs_commitment import Commitment
from tests.simulators.pacs_index import LEVELS, Archive, Stored

ROUTED = ("MG", "MR", "US")
_QUERY = (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelMove,
)
_config.STORE_SEND_CHUNKED_DATASET = True


@dataclass
class Faults:
    """What goes wrong. `times` bounds how often a store fault happens; -1 = for ever."""

    status: int = 0  # answer C-STORE with this status; only warnings (Bxxx) keep the object
    delay_s: float = 0.0  # before each C-STORE answer
    slow_s_per_pdu: float = 0.0  # before each PDU is taken off the wire
    abort: str = ""  # "keep" or "lose": abort after the whole object arrived, with the object kept or lost
    lose_after_ack: bool = False
    refuse: str = ""  # "permanent" or "transient": reject every association
    reject_classes: list[str] = field(default_factory=list)  # SOP classes that are not accepted
    only_implicit: bool = False
    find_delay_s: float = 0.0
    find_status: int = 0
    ignore_patient_id: bool = False  # C-FIND answers with everybody's studies
    no_series_counts: bool = False  # C-FIND leaves NumberOfSeriesRelatedInstances out
    http_status: int = 0  # answer STOW with this status and no body
    http_failure_reason: int = 0  # answer STOW 409 with this FailureReason
    http_retry_after: str = ""
    http_break: bool = False  # keep the object, then close the connection without an answer
    commit: str = "new"  # how storage commitment is answered: "new" or "same" association, "silent", "refuse"
    commit_reason: int = 0  # report every object as failed with this Failure Reason
    commit_foreign: bool = False  # report a transaction that nobody asked for
    times: int = -1

    def update(self, **values: Any) -> None:
        """Set switches by name.

        Raises:
            KeyError: there is no such switch.
        """
        known = {f.name: f for f in fields(self)}
        for name, value in values.items():
            setattr(self, known[name].name, value)


class SimulatedPacs:
    """The PACS as an object; `start` and `stop` it, or use `running`."""

    def __init__(  # noqa: PLR0917 - the order of the command line
        self,
        folder: Path,
        aet: str = "PACS",
        port: int = 0,
        http_port: int | None = None,
        route_to: str = "",
        stable_s: float = 1.0,
        peers: tuple[str, ...] = (),
    ) -> None:
        self.aet, self.port, self.stable_s = aet, port, stable_s
        self.archive = Archive(folder)
        self.commitment = Commitment(self)
        self.faults = Faults()
        self.seen: Counter[str] = Counter()  # associations, echoes, stores, finds: what peers asked of us
        self.store_times: list[float] = []
        self.route_to = parse_peer(route_to) if route_to else None
        self.peers = {p[0]: p for p in map(parse_peer, peers)}
        if self.route_to:
            self.peers[self.route_to[0]] = self.route_to
        self.routed: dict[str, int] = {}  # series -> instances when it was last sent
        self.progress: Counter[str] = Counter()  # routed, failed
        self._http_port = http_port
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._server: Any = None
        self._web: Any = None
        self._router: threading.Thread | None = None

    # --- life ----------------------------------------------------------------------------------------------

    def start(self) -> "SimulatedPacs":
        """Bind the ports; `port` then holds the real one."""
        self._stop.clear()
        ae = AE(self.aet)
        ae.require_called_aet = True
        ae.maximum_associations = 100
        ae.network_timeout = 60
        ae.add_supported_context(Verification)
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        for uid in _QUERY:
            ae.add_supported_context(uid)
        for cx in AllStoragePresentationContexts:
            ae.add_supported_context(str(cx.abstract_syntax), list(AllTransferSyntaxes), scu_role=True, scp_role=True)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_PDU_RECV, self._on_pdu),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_C_GET, self._on_get),
            (evt.EVT_C_MOVE, self._on_move),
            (evt.EVT_N_ACTION, self.commitment.on_action),
        ]
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]
        if self._http_port is not None:
            from tests.simulators.pacs_web import serve

            self._web = serve(self, self._http_port)
            self._http_port = self._web.server_address[1]
        if self.route_to:
            self._router = threading.Thread(target=self._route_forever, daemon=True, name="router")
            self._router.start()
        return self

    def stop(self) -> None:
        """Close the ports; what was stored stays."""
        self._stop.set()
        if self._router:
            self._router.join(10)
        if self._web:
            self._web.shutdown()
            self._web.server_close()
            self._web = None
        if self._server:
            self._server.shutdown()
            self._server = None

    @property
    def url(self) -> str:
        """The DICOMweb root."""
        return f"http://127.0.0.1:{self._http_port}/dicom-web"

    # --- what tests ask ------------------------------------------------------------------------------------

    def holds(self, sop_uid: str) -> Stored | None:
        """The kept object, or None."""
        return self.archive.of(sop_uid)

    def routing(self) -> dict[str, int]:
        """How far the routing is: instances that should go out, went out, and failed at the last try."""
        with self._lock:
            due = [s for s in self.archive.all() if self._routable(s)]
            return {"total": len(due), "routed": self.progress["routed"], "failed": self.progress["failed"]}

    # --- handlers ------------------------------------------------------------------------------------------

    def _on_requested(self, event: evt.Event) -> None:
        self.seen["associations"] += 1
        assoc = event.assoc
        if self.faults.refuse:
            source, reason = (0x01, 0x01) if self.faults.refuse == "permanent" else (0x03, 0x02)
            assoc.acse.send_reject(0x01 if self.faults.refuse == "permanent" else 0x02, source, reason)
            assoc.kill()
            return
        supported = [
            cx for cx in assoc.acceptor.supported_contexts if cx.abstract_syntax not in self.faults.reject_classes
        ]
        if self.faults.only_implicit:
            for cx in supported:
                cx.transfer_syntax = [ImplicitVRLittleEndian]
        assoc.acceptor.supported_contexts = supported

    def _on_pdu(self, _: evt.Event) -> None:
        if self.faults.slow_s_per_pdu:
            self._stop.wait(self.faults.slow_s_per_pdu)

    def _on_echo(self, _: evt.Event) -> int:
        self.seen["echoes"] += 1
        return 0x0000

    def take_fault(self) -> Faults | None:
        """The faults, while any are left."""
        with self._lock:
            if self.faults.times == 0:
                return None
            if self.faults.times > 0:
                self.faults.times -= 1
            return self.faults

    def _on_store(self, event: evt.Event) -> int:
        self.seen["stores"] += 1
        self.store_times.append(time.monotonic())
        faults = self.take_fault()
        if faults is None:
            self.archive.keep(as_received(event), event.assoc.requestor.ae_title)
            return 0x0000
        if faults.delay_s:
            self._stop.wait(faults.delay_s)
        if faults.status and faults.status >> 12 != 0xB:
            return faults.status
        if faults.abort != "lose" and not faults.lose_after_ack:
            self.archive.keep(as_received(event), event.assoc.requestor.ae_title)
        if faults.abort:
            event.assoc.abort()
        return faults.status

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.seen["finds"] += 1
        self._stop.wait(self.faults.find_delay_s)
        level = str(event.identifier.get("QueryRetrieveLevel", ""))
        if self.faults.find_status or level not in LEVELS:
            yield self.faults.find_status or 0xA900, None
            return
        query = event.identifier
        if self.faults.ignore_patient_id and "PatientID" in query:
            query.PatientID = ""
        for answer in self.archive.answers(query, level):
            if self.faults.no_series_counts and "NumberOfSeriesRelatedInstances" in answer:
                del answer.NumberOfSeriesRelatedInstances
            answer.QueryRetrieveLevel = level
            answer.RetrieveAETitle = self.aet
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, answer

    def _on_get(self, event: evt.Event) -> Iterator[Any]:
        found = self.archive.matching(event.identifier)
        yield len(found)
        yield from self._sub_operations(event, found)

    def _on_move(self, event: evt.Event) -> Iterator[Any]:
        peer = self.peers.get(str(event.move_destination).strip())
        if peer is None:
            yield None, None
            return
        found = self.archive.matching(event.identifier)
        pairs = dict.fromkeys((s.sop_class, s.transfer_syntax) for s in found)
        ae = AE()
        for sop_class, syntax in pairs:
            ae.add_requested_context(sop_class, syntax)
        yield peer[1], peer[2], {"ae_title": peer[0], "contexts": ae.requested_contexts}
        yield len(found)
        yield from self._sub_operations(event, found)

    def _sub_operations(self, event: evt.Event, found: list[Stored]) -> Iterator[tuple[int, Dataset | None]]:
        for stored in found:
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, dcmread(stored.path)

    # --- routing -------------------------------------------------------------------------------------------

    def _routable(self, stored: Stored) -> bool:
        assert self.route_to is not None
        return stored.value("Modality") in ROUTED and stored.calling != self.route_to[0]

    def _route_forever(self) -> None:
        while not self._stop.wait(0.1):
            due = self._stable_series()
            if due and not self._route(due):
                self._stop.wait(2.0)

    def _stable_series(self) -> dict[str, list[Stored]]:
        """Series that should go out: nothing new for stable_s, and their count has changed since they last went."""
        series: dict[str, list[Stored]] = {}
        for stored in self.archive.all():
            if self._routable(stored):
                series.setdefault(stored.value("SeriesInstanceUID"), []).append(stored)
        now = time.monotonic()
        return {
            uid: members
            for uid, members in series.items()
            if self.routed.get(uid) != len(members) and now - max(s.arrived for s in members) >= self.stable_s
        }

    def _route(self, due: dict[str, list[Stored]]) -> bool:
        """Send whole series over one association; False when any instance was not taken."""
        assert self.route_to is not None
        title, host, port = self.route_to
        objects = [s for members in due.values() for s in members]
        self.progress["failed"] = 0
        try:
            socket.create_connection((host, port), 5).close()
        except OSError:
            self.progress["failed"] = len(objects)
            return False
        ae = AE(self.aet)
        ae.connection_timeout = 5
        ae.dimse_timeout = ae.acse_timeout = ae.network_timeout = 60
        for sop_class, syntax in dict.fromkeys((s.sop_class, s.transfer_syntax) for s in objects):
            ae.add_requested_context(sop_class, syntax)
        assoc = ae.associate(host, port, ae_title=title)
        if not assoc.is_established:
            self.progress["failed"] = len(objects)
            return False
        good = True
        for uid, members in due.items():
            taken = [self._send(assoc, stored) for stored in members]
            if all(taken):
                self.routed[uid] = len(members)
            good = good and all(taken)
        if assoc.is_established:
            assoc.release()
        return good

    def _send(self, assoc: Any, stored: Stored) -> bool:
        """C-STORE one object; a refusal of the object (not of us) counts as taken, it would only be refused again."""
        try:
            status = assoc.send_c_store(stored.path).get("Status")
        except (RuntimeError, ValueError):
            status = None
        self.progress["failed" if status is None or status >> 8 == 0xA7 else "routed"] += 1
        return status is not None and status >> 8 != 0xA7


def as_received(event: evt.Event) -> bytes:
    """The Part 10 file of a C-STORE request: the data set's bytes are those of the wire."""
    head = DicomBytesIO()
    head.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(head, event.file_meta)
    data: Any = event.request
    return head.getvalue() + bytes(data.DataSet.getvalue())


def parse_peer(words: str) -> tuple[str, str, int]:
    """AET@host:port."""
    title, _, address = words.partition("@")
    host, _, port = address.rpartition(":")
    return title, host, int(port)


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[SimulatedPacs]:
    """A PACS for the length of a block, on a free port unless told otherwise."""
    pacs = SimulatedPacs(folder, **options).start()
    try:
        yield pacs
    finally:
        pacs.stop()


def main(argv: list[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT; one JSON line says where it listens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--aet", default="PACS")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--http-port", type=int)
    parser.add_argument("--route-to", default="", metavar="AET@HOST:PORT")
    parser.add_argument("--peer", action="append", default=[], metavar="AET@HOST:PORT", help="C-MOVE destination")
    parser.add_argument("--stable-s", type=float, default=1.0)
    parser.add_argument("--fault", action="append", default=[], metavar="NAME=JSON", help="see Faults")
    options = parser.parse_args(argv)
    pacs = SimulatedPacs(
        options.dir,
        aet=options.aet,
        port=options.port,
        http_port=options.http_port,
        route_to=options.route_to,
        stable_s=options.stable_s,
        peers=tuple(options.peer),
    )
    pacs.faults.update(**{name: json.loads(value) for name, _, value in (f.partition("=") for f in options.fault)})
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    pacs.start()
    where = {"aet": pacs.aet, "port": pacs.port, "pid": os.getpid()}
    print(json.dumps(where | ({"url": pacs.url} if options.http_port is not None else {})), flush=True)
    stop.wait()
    pacs.stop()


if __name__ == "__main__":
    main()
