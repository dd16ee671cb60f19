"""The simulator's DICOMweb side on http.server: QIDO-RS, WADO-RS, STOW-RS, and the switches under /simulator."""

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from tests.simulators.pacs_index import KEPT, Stored

if TYPE_CHECKING:
    from tests.simulators.pacs import SimulatedPacs

_LEVEL = {"studies": "STUDY", "series": "SERIES", "instances": "IMAGE"}
_ASKED = {
    "STUDY": "PatientID IssuerOfPatientID PatientName PatientBirthDate StudyDate StudyDescription AccessionNumber ModalitiesInStudy "
    "NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances",
    "SERIES": "Modality BodyPartExamined SeriesNumber SeriesDescription NumberOfSeriesRelatedInstances",
    "IMAGE": "SOPClassUID InstanceNumber Rows Columns",
}
_UNIQUE = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}


def serve(pacs: "SimulatedPacs", port: int) -> ThreadingHTTPServer:
    """Serve on loopback in a thread of its own."""
    handler = type("Handler", (_Handler,), {"pacs": pacs})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pacs: "SimulatedPacs"

    def log_message(self, *_: object) -> None:
        """Nothing: the test asks `seen` instead."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = [p for p in url.path.split("/") if p]
        if parts == ["simulator", "routing"]:
            self._json(200, self.pacs.routing() if self.pacs.route_to else {})
            return
        if parts == ["simulator", "seen"]:
            self._json(200, dict(self.pacs.seen))
            return
        if parts[:1] != ["dicom-web"] or len(parts) < 2:
            self._json(404, {})
            return
        ids, resource = _walk(parts[1:])
        query = _query(ids, parse_qsl(url.query))
        if resource:
            self._qido(query, _LEVEL[resource], dict(parse_qsl(url.query)))
        else:
            self._wado(self.pacs.archive.matching(query))

    def do_PUT(self) -> None:
        if self.path != "/simulator/faults":
            self._json(404, {})
            return
        try:
            self.pacs.faults.update(**json.loads(self._body()))
        except (KeyError, ValueError) as error:
            self._json(400, {"error": str(error)})
            return
        self._json(200, {})

    def do_POST(self) -> None:
        body = self._body()
        parts = [p for p in self.path.split("/") if p]
        if parts[:2] != ["dicom-web", "studies"] or len(parts) > 3:
            self._json(404, {})
            return
        self.pacs.seen["stows"] += 1
        faults = self.pacs.take_fault()
        if faults and faults.http_status:
            self._json(
                faults.http_status, None, {"Retry-After": faults.http_retry_after} if faults.http_retry_after else {}
            )
            return
        good: list[Stored] = []
        bad: list[tuple[str, int]] = []
        for part in _parts(body, self.headers.get("Content-Type", "")):
            try:
                good.append(self.pacs.archive.keep(part, "STOW"))
            except (InvalidDicomError, AttributeError):
                bad.append(("", 0xC000))
        if faults and faults.http_failure_reason:
            for stored in good:
                self.pacs.archive.drop(stored.sop_uid)
            bad += [(s.sop_uid, faults.http_failure_reason) for s in good]
            good = []
        if faults and faults.http_break:
            self.close_connection = True
            self.connection.close()
            return
        self._json(200 if not bad else 202 if good else 409, _stow_answer(good, bad), kind="application/dicom+json")

    def _qido(self, query: Dataset, level: str, options: dict[str, str]) -> None:
        self.pacs.seen["qidos"] += 1
        for keyword in _ASKED[level].split():
            if keyword not in query:
                setattr(query, keyword, None)
        found = self.pacs.archive.answers(query, level)
        start = int(options.get("offset", "0"))
        page = found[start : start + int(options.get("limit", "100000"))]
        if page:
            self._json(200, [answer.to_json_dict() for answer in page], kind="application/dicom+json")
        else:
            self._reply(204, b"", "application/dicom+json", {})

    def _wado(self, found: list[Stored]) -> None:
        if not found:
            self._json(404, {})
            return
        boundary = uuid.uuid4().hex
        body = b"".join(
            f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + stored.path.read_bytes() + b"\r\n"
            for stored in found
        )
        body += f"--{boundary}--\r\n".encode()
        self._reply(200, body, f'multipart/related; type="application/dicom"; boundary={boundary}', {})

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _json(
        self, status: int, value: Any, headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        self._reply(status, b"" if value is None else json.dumps(value).encode(), kind, headers or {})

    def _reply(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _walk(parts: list[str]) -> tuple[dict[str, str], str]:
    """studies/{uid}/series -> ({"StudyInstanceUID": uid}, "series"); a path that ends in a UID asks for objects."""
    ids: dict[str, str] = {}
    while len(parts) >= 2:
        ids[_UNIQUE.get(parts[0], "")] = parts[1]
        parts = parts[2:]
    ids.pop("", None)
    return ids, parts[0] if parts and parts[0] in _LEVEL else ""


def _query(ids: dict[str, str], options: list[tuple[str, str]]) -> Dataset:
    query = Dataset()
    for keyword, value in [*ids.items(), *options]:
        if keyword in KEPT or keyword == "ModalitiesInStudy":
            setattr(query, keyword, value)
    return query


def _parts(body: bytes, content_type: str) -> list[bytes]:
    """The parts of multipart/related, in memory."""
    boundary = next((w.split("=", 1)[1].strip('" ') for w in content_type.split(";") if "boundary=" in w), "")
    pieces = body.split(b"--" + boundary.encode())[1:-1]
    return [piece.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for piece in pieces if b"\r\n\r\n" in piece]


def _stow_answer(good: list[Stored], bad: list[tuple[str, int]]) -> dict[str, Any]:
    """The Store Instances response (PS3.18 I.2)."""
    answer: dict[str, Any] = {}
    if good:
        answer["00081199"] = {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [s.sop_uid]}} for s in good]}
    if bad:
        answer["00081198"] = {
            "vr": "SQ",
            "Value": [{"00081155": {"vr": "UI", "Value": [u]}, "00081197": {"vr": "US", "Value": [r]}} for u, r in bad],
        }
    return answer
