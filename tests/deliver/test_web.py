"""STOW-RS: each class of HTTP answer, per-instance failures, and what goes over the wire."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from casework.case import CaseState, DeliveryState
from casework.config import Destination
from casework.dicom import web
from casework.dicom.answers import Answer
from tests.deliver.objects import body, dataset, write
from tests.deliver.rig import Rig
from tests.simulators.orthanc import free_port
from tests.simulators.pacs import SimulatedPacs

MakePacs = Callable[..., SimulatedPacs]
MakeRig = Callable[..., Rig]
D = DeliveryState


def stow(pacs: SimulatedPacs, **values: Any) -> Destination:
    return Destination("web", kind="stow", url=pacs.url, **{"timeout_s": 10.0, **values})


FAULTS = [
    ({}, D.STORED, "DELIVERED", "HTTP 200"),
    ({"http_status": 202}, D.RETRY_WAIT, "PEER_FAILED", "HTTP 202"),
    ({"http_status": 400}, D.DEAD, "PEER_REFUSED_OBJECT", "HTTP 400"),
    ({"http_status": 401}, D.DEAD, "PEER_REFUSED_OBJECT", "HTTP 401"),
    ({"http_status": 302}, D.DEAD, "PEER_REFUSED_OBJECT", "HTTP 302"),
    ({"http_status": 409}, D.DEAD, "PEER_REFUSED_OBJECT", "HTTP 409"),
    ({"http_status": 413}, D.DEAD, "PEER_REFUSED_OBJECT", "HTTP 413"),
    ({"http_status": 429}, D.RETRY_WAIT, "PEER_BUSY", "HTTP 429"),
    ({"http_status": 500}, D.RETRY_WAIT, "PEER_BUSY", "HTTP 500"),
    ({"http_status": 503}, D.RETRY_WAIT, "PEER_BUSY", "HTTP 503"),
    ({"http_status": 507}, D.RETRY_WAIT, "PEER_BUSY", "HTTP 507"),
    ({"http_failure_reason": 0xA700}, D.RETRY_WAIT, "PEER_BUSY", "0xA700"),
    ({"http_failure_reason": 0xC000}, D.DEAD, "PEER_REFUSED_OBJECT", "0xC000"),
    ({"http_failure_reason": 0x0110}, D.RETRY_WAIT, "PEER_FAILED", "0x0110"),
    ({"http_failure_reason": 0x0111}, D.STORED, "DELIVERED", "0x0111"),
    ({"http_break": True}, D.UNKNOWN, "PEER_OUTCOME_UNKNOWN", ""),
]


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: "-".join(str(v) for v in row[0].values()) or "good")
def test_each_class_of_http_answer(make_pacs: MakePacs, make_rig: MakeRig, row: tuple[Any, ...]) -> None:
    """One STOW-RS request answered so leaves the delivery in this state with this code and status."""
    faults, state, code, status = row
    pacs = make_pacs(http_port=0)
    pacs.faults.update(**faults)
    rig = make_rig(stow(pacs))
    case_id = rig.rendered([dataset()], ["web"])
    worker = rig.worker(stow(pacs))
    worker.step()
    worker.close()
    (delivery,) = rig.deliveries(case_id)
    assert (delivery.state, delivery.code, delivery.status) == (state, code, status)


def test_stow_delivers_the_stored_bytes(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """Every object of a case arrives by STOW-RS as rendered, and the case is delivered."""
    pacs = make_pacs(http_port=0)
    rig = make_rig(stow(pacs))
    results = [dataset("SR"), dataset(payload=3_000_000), dataset()]
    case_id = rig.rendered(results, ["web"])
    worker = rig.worker(stow(pacs))
    rig.turn_until(worker, lambda: rig.state(case_id) is CaseState.DELIVERED)
    worker.close()
    for ds in results:
        held = pacs.holds(str(ds.SOPInstanceUID))
        assert held is not None
        assert body(held.path) == body(rig.folder / "made" / f"{ds.SOPInstanceUID}.dcm")


def test_a_broken_stow_ends_with_one_copy(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """The server keeps the object and dies before it answers: the same bytes go again and it holds one."""
    pacs = make_pacs(http_port=0)
    pacs.faults.update(http_break=True, times=1)
    rig = make_rig(stow(pacs))
    case_id = rig.rendered([dataset("SR")], ["web"])
    worker = rig.worker(stow(pacs))
    rig.turn_until(worker, lambda: rig.state(case_id) is CaseState.DELIVERED)
    worker.close()
    assert (pacs.seen["stows"], len(pacs.archive.all())) == (2, 1)


def test_stow_down_and_back(tmp_path: Path, make_rig: MakeRig) -> None:
    """While nobody listens only probes go; once the server is back the object is delivered once."""
    port = free_port()
    destination = Destination("web", kind="stow", url=f"http://127.0.0.1:{port}/dicom-web", timeout_s=1.0)
    rig = make_rig(destination)
    case_id = rig.rendered([dataset("SR")], ["web"])
    worker = rig.worker(destination)
    rig.turn_until(worker, lambda: worker.breaker.open)
    back = SimulatedPacs(tmp_path / "pacs", http_port=port).start()
    try:
        rig.turn_until(worker, lambda: rig.state(case_id) is CaseState.DELIVERED)
        worker.close()
        assert back.seen["stows"] == 1
    finally:
        back.stop()


def test_retry_after_is_honoured(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """A server that asks for a pause gets it, within the longest wait of ours."""
    from casework.config import Work

    pacs = make_pacs(http_port=0)
    pacs.faults.update(http_status=503, http_retry_after="120")
    rig = make_rig(stow(pacs), work=Work(retry_first_s=1, retry_max_s=1800))
    case_id = rig.rendered([dataset()], ["web"])
    rig.worker(stow(pacs)).step()
    (delivery,) = rig.deliveries(case_id)
    assert delivery.next_at is not None
    assert 100 < (delivery.next_at - datetime.now(UTC)).total_seconds() <= 120


def test_retry_after_forms() -> None:
    """Seconds and dates are understood; nonsense and the past mean no wish."""
    assert web.retry_after_s("7") == 7
    assert (
        50 < web.retry_after_s(format_datetime(datetime.now(UTC).replace(microsecond=0)).replace("+0000", "-0001")) < 70
    )
    for nonsense in ("", "soon", "-3", "٣", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert web.retry_after_s(nonsense) == 0


def answer(stored: dict[str, int | None], failed: dict[str, int | None], others: list[int] | None = None) -> bytes:
    """A Store Instances response."""

    def items(of: dict[str, int | None], tag: str) -> dict[str, Any]:
        return {
            "vr": "SQ",
            "Value": [
                {"00081155": {"vr": "UI", "Value": [uid]}}
                | ({tag: {"vr": "US", "Value": [n]}} if n is not None else {})
                for uid, n in of.items()
            ],
        }

    document = {"00081199": items(stored, "00081196"), "00081198": items(failed, "00081197")}
    if others:
        document["0008119A"] = {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [n]}} for n in others]}
    return json.dumps(document).encode()


BODIES = [
    (200, answer({"1": None}, {}), Answer.STORED),
    (200, answer({"1": 0xB000}, {}), Answer.WARNED),
    (202, answer({"1": None}, {"2": 0xC000}), Answer.STORED),
    (202, answer({"2": None}, {"1": 0xC000}), Answer.NEVER),
    (202, answer({"2": None}, {"1": 0xA700}), Answer.AGAIN),
    (202, answer({"2": None}, {"1": None}), Answer.FEW),
    (202, answer({"2": None}, {}), Answer.FEW),
    (200, answer({"2": None}, {"1": 0x0122}), Answer.NEVER),
    (409, answer({}, {"1": 0x0111}), Answer.STORED),
    (409, answer({}, {}, [0xA700]), Answer.AGAIN),
    (409, answer({"1": None}, {}), Answer.FEW),
    (409, b"", Answer.NEVER),
    (200, b"<xml/>", Answer.STORED),
    (200, b"[1, 2]", Answer.STORED),
    (200, b'{"00081198": {"Value": ["x", {"00081155": 3}]}}', Answer.STORED),
    (500, b"\xff", Answer.AGAIN),
]


@pytest.mark.parametrize(("status", "document", "expected"), BODIES)
def test_the_body_decides_for_each_instance(status: int, document: bytes, expected: Answer) -> None:
    """What the body says of an instance outweighs the status; what it leaves out is not stored when others failed."""
    (result,) = web.classify(["1"], status, 0.0, document)
    assert result.answer is expected


def test_one_request_may_carry_many(make_pacs: MakePacs, tmp_path: Path) -> None:
    """Several objects in one request have one result each, in order."""
    pacs = make_pacs(http_port=0)
    items = [write(tmp_path / "out", dataset()) for _ in range(4)]
    results = web.store(stow(pacs), items)
    assert [r.sop_uid for r in results] == [i.sop_instance_uid for i in items]
    assert {r.answer for r in results} == {Answer.STORED}
    assert (pacs.seen["stows"], len(pacs.archive.all())) == (1, 4)
    assert web.store(stow(pacs), []) == []


def test_the_token_comes_from_a_file_and_is_not_sent_elsewhere(tmp_path: Path) -> None:
    """The bearer token is sent to the destination, and a redirect to another place is not followed."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    seen: list[tuple[str, str]] = []

    class Redirecting(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_POST(self) -> None:
            seen.append((self.path, self.headers.get("Authorization", "")))
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(307)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    token = tmp_path / "token"
    token.write_text("s3cret\n", "utf-8")
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/dicom-web/"
        destination = Destination("web", kind="stow", url=url, token_file=str(token), timeout_s=2)
        (result,) = web.store(destination, [write(tmp_path, dataset())])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (result.answer, result.words) == (Answer.NEVER, "HTTP 307")
    assert seen == [("/dicom-web/studies", "Bearer s3cret")]


def test_a_server_that_never_answers_costs_its_deadline(tmp_path: Path) -> None:
    """A silent server ends as an unknown outcome within the deadline."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/dicom-web"
        started = time.monotonic()
        (result,) = web.store(Destination("web", kind="stow", url=url, timeout_s=0.5), [write(tmp_path, dataset())])
    assert result.answer is Answer.UNKNOWN
    assert time.monotonic() - started < 10


def test_a_missing_file_is_ours(tmp_path: Path, make_pacs: MakePacs) -> None:
    """A result that is not on the disk any more is a defect of ours, not an answer of the peer."""
    pacs = make_pacs(http_port=0)
    item = write(tmp_path / "out", dataset())
    item.path.unlink()
    (result,) = web.store(stow(pacs), [item])
    assert result.code == "SPOOL_CORRUPT"


def test_a_server_that_drips_its_headers_is_cut_off(tmp_path: Path) -> None:
    """An answer that comes byte by byte ends at the deadline and is an unknown outcome, not an endless wait."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                for _ in range(100):
                    connection.sendall(b"a")
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        with web.WebSession(Destination("web", kind="stow", url=url, timeout_s=0.5)) as session:
            result = session.send(write(tmp_path, dataset("SR")))
    assert result.code == "PEER_OUTCOME_UNKNOWN"
    assert time.monotonic() - began < 6
