"""A PACS that is broken or hostile: every answer ends with a code, in bounded time and memory, and nothing wrong comes in."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from casework.config import Destination
from casework.dicom import retrieve
from casework.reasons import REASONS
from tests.deliver.rig import dimse
from tests.fetch.rig import FAST, FetchRig, breast, fill
from tests.simulators.orthanc import free_port
from tests.simulators.pacs import SimulatedPacs

MakePacs = Callable[..., SimulatedPacs]
MakeRig = Callable[..., FetchRig]
MULTIPART = 'multipart/related; type="application/dicom"; boundary=b'
RULES = replace(FAST, max_attempts=1, max_bytes=1 << 20, max_images=5)


def part10(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def parts(*images: Dataset) -> bytes:
    head = b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + part10(ds) + b"\r\n" for ds in images) + b"--b--\r\n"


@dataclass
class Hostile:
    """What the server answers: the series it names, and how it gives one."""

    study_uid: str = "1.2.7"
    series_uid: str = "1.2.7.1"
    count: str = "1"
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": MULTIPART})
    body: Callable[[], Iterator[bytes]] = lambda: iter(())
    silent_s: float = 0.0
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def web() -> Iterator[tuple[Hostile, Destination]]:
    """A DICOMweb server that does what a Hostile says."""
    what = Hostile()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            what.asked.append(self.path)
            path = self.path.split("?")[0]
            if path.endswith(("/studies", "/series")):
                level = [{"0020000D": what.study_uid, "00100020": "P1", "00080020": "20260120"},
                         {"0020000E": what.series_uid, "00080060": "MR", "00180015": "BREAST", "00201209": what.count}]  # fmt: skip
                tags = level[path.endswith("/series")]
                answer = json.dumps([{tag: {"vr": "LO", "Value": [value]} for tag, value in tags.items()}]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                return
            what.stop.wait(what.silent_s)
            self.send_response(what.status)
            for name, value in what.headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for piece in what.body():
                    self.wfile.write(piece)
                    what.sent += len(piece)
            except OSError:
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    yield what, Destination("w", kind="stow", url=url, retrieve="wado", timeout_s=2.0)
    what.stop.set()
    server.shutdown()
    server.server_close()


def outcome(rig: FetchRig, **values: Any) -> tuple[str, str, int]:
    """What becomes of the one candidate: state, code, and images of the case beside the mammogram."""
    case_id = rig.arrives(breast("MG", **values))
    rig.run()
    (row,) = rig.candidates(case_id)
    return row.state.value, row.code, len(rig.images(case_id)) - 1


def endless() -> Iterator[bytes]:
    yield b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    while True:
        yield bytes(1 << 16)


def many() -> Iterator[bytes]:
    while True:
        yield parts(mr())[: -len(b"--b--\r\n")]


def drip() -> Iterator[bytes]:
    for byte in parts(mr()):
        time.sleep(0.05)
        yield bytes([byte])


def mr(**values: Any) -> Dataset:
    return breast("MR", **{"StudyInstanceUID": "1.2.7", "SeriesInstanceUID": "1.2.7.1", **values})


BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "a body without end": ({"body": endless}, "FETCH_TOO_MUCH"),
    "more images than there may be": ({"body": many}, "FETCH_TOO_MUCH"),
    "a byte now and then": ({"body": drip}, "PEER_BUSY"),
    "no answer at all": ({"silent_s": 30.0}, "PEER_BUSY"),
    "another study": ({"body": lambda: iter([parts(mr(StudyInstanceUID="1.2.8"))])}, "FETCH_WRONG_STUDY"),
    "another patient": ({"body": lambda: iter([parts(mr(PatientID="P2"))])}, "FETCH_WRONG_PATIENT"),
    "another issuer's patient": (
        {"body": lambda: iter([parts(mr(IssuerOfPatientID="B"))])}, "FETCH_WRONG_PATIENT"),
    "half a body": ({"body": lambda: iter([parts(mr())[:400]])}, "FETCH_INCOMPLETE"),
    "no image": ({"body": lambda: iter([b"--b--\r\n"])}, "FETCH_INCOMPLETE"),
    "words instead of an image": (
        {"body": lambda: iter([b"--b\r\nContent-Type: application/dicom\r\n\r\nhello\r\n--b--\r\n"])}, "FETCH_INCOMPLETE"),
    "a page": ({"headers": {"Content-Type": "text/html"}}, "FETCH_NOT_OFFERED"),
    "a bomb": ({"headers": {"Content-Type": MULTIPART, "Content-Encoding": "gzip"}}, "FETCH_NOT_OFFERED"),
    "a redirect": ({"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}}, "PEER_REJECTED"),
    "forbidden": ({"status": 403}, "PEER_REJECTED"),
    "a server's error": ({"status": 500}, "PEER_BUSY"),
    "gone": ({"status": 404}, "FETCH_INCOMPLETE"),
    "no such service": ({"status": 501}, "FETCH_NOT_OFFERED"),
}  # fmt: skip


@pytest.mark.parametrize("what", BODIES)
def test_wado(what: str, web: tuple[Hostile, Destination], make_rig: MakeRig) -> None:
    """Each broken or hostile answer of WADO-RS has its code, soon, and none of it becomes part of the case."""
    server, destination = web
    values, code = BODIES[what]
    for name, value in values.items():
        setattr(server, name, value)
    rig = make_rig(destination, rules=RULES)
    rig.intake.admit()
    began = time.monotonic()
    state, told, images = outcome(rig, **({"IssuerOfPatientID": "A"} if "issuer" in what else {}))
    assert (state, told) == ("failed", code)
    assert images == 0 or (what.startswith("more") and images <= 5)  # right images stay, also when the rest is cut
    assert time.monotonic() - began < 15
    assert server.sent < 32 << 20
    if what.startswith("another"):
        assert [item.case.patient_id for item in rig.ledger.read.list_cases().items] == ["P1"]


def test_the_right_image_comes(web: tuple[Hostile, Destination], make_rig: MakeRig) -> None:
    """The same server with an honest answer, also one without multipart, is believed: the tests above can fail."""
    server, destination = web
    server.headers, server.body = {"Content-Type": "application/dicom"}, lambda: iter([part10(mr())])
    assert outcome(make_rig(destination, rules=RULES)) == ("fetched", "FETCHED", 1)
    assert any("/studies/1.2.7/series/1.2.7.1" in path for path in server.asked)


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2.7/../../x", "1.2.7?x=1", "", "9" * 65, "1.2.7\r\nX: y"])
@pytest.mark.parametrize("which", ["study_uid", "series_uid"])
def test_uids_that_would_change_the_path(
    uid: str, which: str, web: tuple[Hostile, Destination], make_rig: MakeRig
) -> None:
    """A PACS that names something else than a UID is never asked for it, and the name is not kept."""
    server, destination = web
    setattr(server, which, uid)
    rig = make_rig(destination, rules=RULES)
    state, code, _ = outcome(rig)
    assert (state, code) == ("rejected", "UID_INVALID" if which == "study_uid" else "FETCH_MODALITY")
    assert all(path.split("?")[0].endswith(("/studies", "/series")) for path in server.asked)
    assert not uid or uid not in str(rig.ledger.read.audit())


@pytest.mark.parametrize("kind", ["get", "move"])
def test_dimse_gives_the_wrong_thing(kind: str, make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """By C-GET another study or patient is refused; by C-MOVE it is not taken for the study that was asked for."""
    from tests.simulators.orthanc import free_port

    port = free_port()
    pacs = make_pacs(peers=(f"CMAN@127.0.0.1:{port}",))
    fill(pacs.port, tmp_path / "out", mr(), breast("MR", PatientID="P2", StudyInstanceUID="1.2.8"))
    honest = pacs.archive.matching

    def lying(query: Dataset) -> list[Any]:
        named = "SeriesInstanceUID" in query and query.get("QueryRetrieveLevel") == "SERIES" and "Modality" not in query
        return [s for s in pacs.archive.all() if s.value("PatientID") == "P2"] if named else honest(query)

    pacs.archive.matching = lying  # the lie
    rig = make_rig(replace(dimse("p", pacs.port), retrieve=kind), rules=RULES)
    if kind == "move":
        rig.listen(port)
    state, code, images = outcome(rig)
    assert (state, images) == ("failed", 0)
    assert code == ("FETCH_WRONG_STUDY" if kind == "get" else "FETCH_INCOMPLETE")


def test_c_get_without_end(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """By C-GET, too, bytes are counted as they come: an object beyond the bound is cut before it is whole."""
    pacs = make_pacs()
    big = mr(payload=8_000_000)
    fill(pacs.port, tmp_path / "out", big)
    rig = make_rig(replace(dimse("p", pacs.port), retrieve="get"), rules=RULES)
    assert outcome(rig) == ("failed", "FETCH_TOO_MUCH", 0)


def test_c_get_of_a_huge_image_names_the_other_ways(
    make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What C-GET can't carry is refused with a code of its own, never tried again; the same study comes by C-MOVE."""
    monkeypatch.setattr(retrieve, "GET_INSTANCE_BYTES", 1_000_000)
    rules, port = replace(RULES, max_bytes=100_000_000), free_port()
    pacs = make_pacs(peers=(f"CMAN@127.0.0.1:{port}",))
    fill(pacs.port, tmp_path / "out", mr(payload=8_000_000))
    rig = make_rig(replace(dimse("p", pacs.port), retrieve="get"), rules=rules)
    assert outcome(rig) == ("failed", "FETCH_INSTANCE_TOO_LARGE", 0)
    assert "move" in REASONS["FETCH_INSTANCE_TOO_LARGE"].next_en
    by_move = FetchRig(tmp_path / "move", replace(dimse("p", pacs.port), retrieve="move"), rules=rules)
    by_move.listen(port)
    try:
        assert outcome(by_move) == ("fetched", "FETCHED", 1)
    finally:
        by_move.close()


def test_c_get_that_stops(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """A PACS that says nothing more in the middle of a C-GET is left after its timeout."""
    pacs = make_pacs()
    fill(pacs.port, tmp_path / "out", mr())
    stop = threading.Event()
    honest = pacs._sub_operations

    def slow(event: Any, found: Any) -> Iterator[Any]:
        stop.wait(20)
        yield from honest(event, found)

    pacs._sub_operations = slow  # the fault
    rig = make_rig(replace(dimse("p", pacs.port, timeout_s=2.0), retrieve="get"), rules=RULES)
    began = time.monotonic()
    state, code, images = outcome(rig)
    stop.set()
    assert (state, images) == ("failed", 0)
    assert code in ("PEER_OUTCOME_UNKNOWN", "PEER_REJECTED", "PEER_BUSY")
    assert time.monotonic() - began < 15


def test_c_move_to_a_title_that_is_not_known(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """A PACS that doesn't know our title as a destination is a matter for a person: named, and not tried again."""
    pacs = make_pacs()
    fill(pacs.port, tmp_path / "out", mr())
    rig = make_rig(replace(dimse("p", pacs.port), retrieve="move"), rules=replace(RULES, max_attempts=5))
    assert outcome(rig) == ("failed", "FETCH_MOVE_UNKNOWN", 0)


def test_our_own_full_disk_is_not_the_pacs_fault(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """While intake can't take anything, nothing is fetched and no try is spent."""
    pacs = make_pacs()
    fill(pacs.port, tmp_path / "out", mr())
    rig = make_rig(replace(dimse("p", pacs.port), retrieve="get"), rules=RULES)
    case_id = rig.arrives(breast("MG"))
    rig.intake.failure = "LEDGER_UNAVAILABLE"
    rig.door.admit = lambda: "DISK_LOW"  # a disk can't be filled here
    rig.run()
    (row,) = rig.candidates(case_id)
    assert (row.state.value, row.attempt) == ("chosen", 0)
