"""STOW-RS over a real socket into a real spool and ledger: what is acknowledged is durable, what isn't says why."""

import hashlib
import http.client
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydicom import Dataset

from casework.case import Verdict
from casework.entrypoints.api.door import Door
from casework.flows.intake import Intake
from tests.api.conftest import Api, raw, run_server, serving
from tests.api.samples import case_of, mammogram, multipart, store
from tests.api.test_problems import check_problem

CT = "1.2.840.10008.5.1.4.1.1.2"


def uids(module: dict[str, Any], tag: str) -> list[str]:
    """SOP Instance UIDs of one sequence."""
    return [item["00081155"]["Value"][0] for item in module.get(tag, {}).get("Value", [])]


def test_stored_instances_are_durable_and_make_a_case(own_api: Api) -> None:
    """Two mammograms in one request: 200, both referenced, bytes in the spool, one case with its accession number."""
    first, second = mammogram(AccessionNumber="A-77"), mammogram(AccessionNumber="A-77", ViewPosition="MLO")
    body, content_type = multipart([first, second])
    with own_api.client("operator") as client:
        response = client.post("/dicom-web/studies", content=body, headers={"Content-Type": content_type})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/dicom+json"
    Dataset.from_json(response.text)
    assert len(uids(response.json(), "00081199")) == 2
    view = own_api.ledger.read.case_view(case_of(own_api, "A-77"))
    assert view.modalities == {"MG": 2}
    for row in view.inputs:
        with own_api.door.spool.open(row.instance.sha256) as file:
            assert hashlib.sha256(file.read()).hexdigest() == row.instance.sha256
    (log,) = own_api.ledger.read.associations()
    assert (log.calling, log.called, log.end, dict(log.counts)) == (
        "operator-key",
        "STOW-RS",
        "released",
        {"accepted": 2},
    )


def test_the_same_again_is_a_success_and_no_new_row(own_api: Api) -> None:
    """The same bytes twice in one request and once more later: stored each time, one instance; other bytes: kept aside."""
    part = mammogram()
    for parts in ([part, part], [part]):
        assert "00081198" not in store(own_api, *parts)
    assert own_api.ledger.read.metrics().instances == 1
    uid = store(own_api, part)["00081199"]["Value"][0]["00081155"]["Value"][0]  # type: ignore[index]  # DICOM JSON
    store(own_api, mammogram(SOPInstanceUID=uid, ViewPosition="MLO"))
    assert own_api.ledger.read.metrics().instances == 1
    verdicts = [row.verdict for row in own_api.ledger.read.receipts()]
    assert verdicts.count(Verdict.KEPT_ASIDE) == 1
    assert verdicts.count(Verdict.DUPLICATE) == 3


def test_some_fail(own_api: Api) -> None:
    """A good part beside a CT and beside bytes that are not DICOM: 202, each in its sequence with its reason."""
    good, ct = mammogram(), mammogram(SOPClassUID=CT, Modality="CT", AccessionNumber="A-CT")
    body, content_type = multipart([good, ct, b"not dicom"])
    with own_api.client("operator") as client:
        response = client.post("/dicom-web/studies", content=body, headers={"Content-Type": content_type})
        assert response.status_code == 202
        module = response.json()
        assert len(uids(module, "00081199")) == 1
        assert module["00081198"]["Value"][0]["00081197"]["Value"] == [0x0122]
        assert module["0008119A"]["Value"] == [{"00081197": {"vr": "US", "Value": [0xC000]}}]
        why = client.post("/v1/why", json={"q": "A-CT"}).json()
    assert why["receipt_counts"] == {"refused": 1}
    assert why["receipts"][0]["reason"]["code"] == "SOP_CLASS_NOT_ACCEPTED"


def test_all_fail(own_api: Api) -> None:
    """Only parts that can't be kept: 409, and nothing is in the ledger as an instance."""
    body, content_type = multipart([b"not dicom", b""])
    with own_api.client("operator") as client:
        response = client.post("/dicom-web/studies", content=body, headers={"Content-Type": content_type})
    assert response.status_code == 409
    assert len(response.json()["0008119A"]["Value"]) == 2
    assert own_api.ledger.read.metrics().instances == 0


def test_the_study_of_the_address(own_api: Api) -> None:
    """Under /studies/{uid} an instance of another study fails with 0xA900 and is not kept."""
    module = store(own_api, mammogram(), mammogram(StudyInstanceUID="9.9"), study="1.2.3.4")
    assert len(uids(module, "00081199")) == 1
    assert module["00081198"]["Value"][0]["00081197"]["Value"] == [0xA900]  # type: ignore[index]  # DICOM JSON
    assert own_api.ledger.read.metrics().instances == 1


@pytest.mark.parametrize(
    ("content_type", "status", "code"),
    [
        ("", 415, "MEDIA_TYPE_NOT_ACCEPTED"),
        ("application/dicom", 415, "MEDIA_TYPE_NOT_ACCEPTED"),
        ("multipart/form-data; boundary=b", 415, "MEDIA_TYPE_NOT_ACCEPTED"),
        ('multipart/related; type="application/dicom+json"; boundary=b', 415, "MEDIA_TYPE_NOT_ACCEPTED"),
        ("multipart/related", 400, "REQUEST_INVALID"),
        ("multipart/related; boundary=" + "b" * 71, 400, "REQUEST_INVALID"),
        ("multipart/related; boundary=other", 400, "TRUNCATED"),
    ],
)
def test_wrong_media_types(content_type: str, status: int, code: str, api: Api) -> None:
    """Another media type is 415; a body that doesn't hold the announced boundary is 400."""
    body, _ = multipart([b"x"], "b")
    with api.client("operator") as client:
        response = client.post("/dicom-web/studies", content=body, headers={"Content-Type": content_type})
    check_problem(response, status, code)


def test_parts_of_another_type_fail_alone(own_api: Api) -> None:
    """A part that isn't application/dicom fails; the others of the request are stored."""
    good, _ = multipart([mammogram()])
    bad, content_type = multipart([b"<xml/>"], media_type="application/xml")
    with own_api.client("operator") as client:
        response = client.post(
            "/dicom-web/studies",
            content=good.replace(b"--b0undary--\r\n", b"") + bad,
            headers={"Content-Type": content_type},
        )
    assert response.status_code == 202
    assert own_api.ledger.read.metrics().instances == 1


def test_a_body_cut_by_its_sender_keeps_what_was_complete(own_api: Api) -> None:
    """Two parts and half a third, then the body ends: the two stay, the answer says that one failed."""
    body, content_type = multipart([mammogram(), mammogram(ViewPosition="MLO"), mammogram(ImageLaterality="L")])
    with own_api.client("operator") as client:
        response = client.post("/dicom-web/studies", content=body[:-300], headers={"Content-Type": content_type})
    assert response.status_code == 202
    assert len(uids(response.json(), "00081199")) == 2
    assert own_api.ledger.read.metrics().instances == 2
    assert not list((own_api.door.settings.root / "incoming").iterdir())


def test_a_connection_cut_by_its_sender_keeps_what_was_complete(own_api: Api) -> None:
    """The caller vanishes in the middle of the second part: the first stays, nothing half-written is left."""
    body, content_type = multipart([mammogram(), mammogram(PixelData=bytes(2 << 20), Rows=1024, Columns=2048)])
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {own_api.keys['operator']}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", own_api.port)) as connection:
        connection.sendall(head.encode() + body[: 1 << 20])
    for _ in range(200):
        ends = [row.end for row in own_api.ledger.read.associations()]
        if ends == ["aborted"]:
            break
        time.sleep(0.05)
    assert ends == ["aborted"]
    assert own_api.ledger.read.metrics().instances == 1
    assert not list((own_api.door.settings.root / "incoming").iterdir())


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_chunked_bodies(size: int, own_api: Api) -> None:
    """A chunked body in pieces of any size is the same upload."""
    body, content_type = multipart([mammogram(), mammogram(ViewPosition="MLO")], "b")

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    with own_api.client("operator") as client:
        response = client.post("/dicom-web/studies", content=pieces(), headers={"Content-Type": content_type})
    assert response.status_code == 200
    assert own_api.ledger.read.metrics().instances == 2


def test_many_parts_in_one_request(own_api: Api) -> None:
    """Two hundred instances in one request: all acknowledged, all in the ledger, in the request's order."""
    parts = [mammogram() for _ in range(200)]
    module = store(own_api, *parts)
    assert len(uids(module, "00081199")) == 200
    assert own_api.ledger.read.metrics().instances == 200


def test_limits_of_a_request(tmp_path: Any) -> None:
    """A body beyond the limit is 413 by its announced length and by its real one; nothing half-written is left."""
    with serving(tmp_path, max_body_bytes=100_000) as api, api.client("operator") as client:
        body, content_type = multipart([mammogram(PixelData=bytes(200_000), Rows=400, Columns=500)])
        headers = {"Content-Type": content_type}
        check_problem(client.post("/dicom-web/studies", content=body, headers=headers), 413, "REQUEST_TOO_LARGE")
        stream = iter([body[:90_000], body[90_000:]])
        check_problem(client.post("/dicom-web/studies", content=stream, headers=headers), 413, "REQUEST_TOO_LARGE")
        assert not list((api.door.settings.root / "incoming").iterdir())
        (log,) = api.ledger.read.associations()
        assert (log.end, log.code) == ("aborted", "REQUEST_TOO_LARGE")


def with_storage(api: Api, **changes: Any) -> Door:
    """The same door with other watermarks."""
    settings = replace(api.door.settings, storage=replace(api.door.settings.storage, **changes))
    return replace(api.door, settings=settings, intake=Intake(api.door.spool, api.ledger, settings))


def test_a_full_disk_is_507_and_readiness_fails(own_api: Api) -> None:
    """Above the watermark nothing is taken: 507 with Retry-After, no new file, no row, and /ready says DISK_LOW."""
    door = with_storage(own_api, watermark=1e-9)
    with run_server(door) as port:
        full = Api(door, f"http://127.0.0.1:{port}", own_api.keys)
        body, content_type = multipart([mammogram()])
        with full.client("operator") as client:
            response = client.post("/dicom-web/studies", content=body, headers={"Content-Type": content_type})
            check_problem(response, 507, "DISK_LOW")
            ready = client.get("/v1/health/ready")
        assert ready.status_code == 503
        assert {"name": "intake", "ok": False, "code": "DISK_LOW"} in ready.json()["checks"]
    door.intake.close()
    assert full.ledger.read.metrics().instances == 0
    assert not full.ledger.read.receipts()
    assert not full.ledger.read.associations(), "refused before it began"


def test_a_disk_that_fills_meanwhile_is_507(own_api: Api) -> None:
    """The disk fills after the request was admitted: every part is refused for want of room, and the answer is 507."""
    door = with_storage(own_api, hard_watermark=1e-9)
    with run_server(door) as port:
        full = Api(door, f"http://127.0.0.1:{port}", own_api.keys)
        body, content_type = multipart([mammogram()])
        with full.client("operator") as client:
            response = client.post("/dicom-web/studies", content=body, headers={"Content-Type": content_type})
        check_problem(response, 507, "DISK_LOW")
    door.intake.close()


def test_a_storage_failure_is_503_and_stays(own_api: Api) -> None:
    """After a failed flush nothing is acknowledged any more and readiness says why."""
    own_api.door.spool.failed = True
    body, content_type = multipart([mammogram()])
    with own_api.client("operator") as client:
        response = client.post("/dicom-web/studies", content=body, headers={"Content-Type": content_type})
        check_problem(response, 503, "STORAGE_FAILED")
        assert client.get("/v1/health/ready").status_code == 503


def test_expect_continue(own_api: Api) -> None:
    """A caller that asks first is told to go on, or gets the refusal before it sends anything."""
    body, content_type = multipart([mammogram()])
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    refused = raw(own_api.port, head.encode() + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
    assert refused.startswith(b"HTTP/1.1 401")
    connection = http.client.HTTPConnection("127.0.0.1", own_api.port, timeout=10)
    connection.request(
        "POST",
        "/dicom-web/studies",
        body,
        {"Content-Type": content_type, "Expect": "100-continue", "Authorization": f"Bearer {own_api.keys['operator']}"},
    )
    assert connection.getresponse().status == 200
    connection.close()


def test_identifiers_that_look_like_paths(own_api: Api) -> None:
    """A path-like UID and control characters in names end in a refusal or a plain row, and no file outside objects/."""
    root = own_api.door.settings.root
    before = sorted(p.name for p in root.iterdir())
    with pytest.warns(UserWarning, match="Invalid value for VR UI"):
        evil = mammogram(SOPInstanceUID="../../etc/evil")
    module = store(own_api, evil, mammogram(AccessionNumber="a/../b", PatientID="x\n<b>"))
    assert len(uids(module, "00081199")) == 1
    assert sorted(p.name for p in root.iterdir()) == before
    assert [row.code for row in own_api.ledger.read.receipts(verdict=Verdict.REFUSED)] == ["UID_INVALID"]
