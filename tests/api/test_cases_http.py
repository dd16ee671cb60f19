"""Cases over HTTP: found, explained, asked for once, cancelled, retried, sent again, and their results downloaded."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest
from pydicom.uid import generate_uid

from casework.case import CaseState, DeliveryState
from casework.ledger import Rule, Waiting
from tests.api.conftest import Api
from tests.api.samples import case_of, finish, mammogram, store
from tests.api.test_contract import load
from tests.api.test_problems import check_problem

RESULT = {
    "schema": "casework-result-1",
    "model": {"name": "cman", "version": "0.1.0", "sha256": "ab" * 32, "engine": "onnxruntime", "device_uid": "2.25.1"},
    "sides": [
        {
            "side": "R",
            "outcome": "positive",
            "probability": 0.83,
            "evidence": {"MG": 1.2, "US": 0.4},
            "modalities": ["MG", "US"],
        },
        {"side": "L", "outcome": "insufficient", "probability": None, "evidence": {}, "modalities": []},
    ],
    "words": {"en": "Right axilla: positive.", "zh": "右侧腋窝：阳性。"},
}


def valid(body: Any, schema: str) -> Any:
    """A body that fits one schema of the contract."""
    schemas = load()["components"]["schemas"]
    jsonschema.validate(body, {"$ref": f"#/components/schemas/{schema}", "components": {"schemas": schemas}})
    return body


def finished(api: Api, accession: str = "A-1") -> str:
    """A case with a stored result."""
    store(api, mammogram(AccessionNumber=accession), mammogram(AccessionNumber=accession, ImageLaterality="L"))
    case_id = case_of(api, accession)
    finish(api, case_id, json.dumps(RESULT))
    return case_id


def test_lists_and_pages(own_api: Api) -> None:
    """Cases come newest first, page by page without gaps, and can be chosen by state and by identifier."""
    for n in range(5):
        store(own_api, mammogram(PatientID=f"P{n}", AccessionNumber=f"A{n}", StudyInstanceUID=f"1.2.{n}"))
    with own_api.client("viewer") as client:
        first = valid(client.get("/v1/cases", params={"limit": 2}).json(), "CasePage")
        second = client.get("/v1/cases", params={"limit": 2, "cursor": first["next_cursor"]}).json()
        third = client.get("/v1/cases", params={"limit": 2, "cursor": second["next_cursor"]}).json()
        ids = [item["patient_id"] for page in (first, second, third) for item in page["items"]]
        assert ids == ["P4", "P3", "P2", "P1", "P0"]
        assert third["next_cursor"] is None
        for q in ("A3", "P3", "1.2.3", second["items"][0]["id"]):
            found = client.get("/v1/cases", params={"q": q}).json()["items"]
            assert len(found) == 1
        assert client.get("/v1/cases", params={"state": "delivered"}).json()["items"] == []
        receipts = valid(client.get("/v1/receipts", params={"limit": 4}).json(), "ReceiptPage")
        rest = client.get("/v1/receipts", params={"limit": 4, "cursor": receipts["next_cursor"]}).json()
        assert [len(receipts["items"]), len(rest["items"]), rest["next_cursor"]] == [4, 1, None]
    with own_api.client("admin") as client:
        log = valid(client.get("/v1/associations", params={"limit": 3}).json(), "AssociationPage")
        more = client.get("/v1/associations", params={"limit": 3, "cursor": log["next_cursor"]}).json()
        assert len({item["id"] for item in log["items"] + more["items"]}) == 5


def test_a_finished_case(own_api: Api) -> None:
    """A case with a result shows sides, model, words, findings, deliveries, and a timeline in words."""
    case_id = finished(own_api)
    with own_api.client("viewer") as client:
        case = valid(client.get(f"/v1/cases/{case_id}").json(), "Case")
        assert case["state"] == "delivering"
        assert [(side["side"], side["outcome"]) for side in case["sides"]] == [("R", "positive"), ("L", "insufficient")]
        assert case["model"]["name"] == "cman"
        assert case["report"] == "Right axilla: positive."
        assert case["disclaimer"] == "AI research output, unverified. Not for diagnosis."
        assert case["findings"][0]["reason"]["code"] == "MODALITY_MISSING"
        chinese = client.get(f"/v1/cases/{case_id}", headers={"Accept-Language": "zh"}).json()
        assert chinese["report"] == "右侧腋窝：阳性。"
        assert chinese["reason"]["text"] != case["reason"]["text"]
        events = valid(client.get(f"/v1/cases/{case_id}/events").json(), "EventList")["items"]
        assert [e["sequence"] for e in events] == sorted(e["sequence"] for e in events)
        assert {"case.opened", "instances.accepted", "case.moved"} <= {e["event"] for e in events}
        results = valid(client.get(f"/v1/cases/{case_id}/results").json(), "ResultList")
        assert [d["destination"] for d in results["deliveries"]] == ["pacs"] * 3
        out = valid(client.get("/v1/deliveries").json(), "DeliveryPage")
        assert len(out["items"]) == 3
        assert len(client.get("/v1/deliveries", params={"cursor": out["items"][1]["id"]}).json()["items"]) == 1


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"sides": 1}', '{"sides": [], "model": {}}', '{"sides": [], "model": null}']
)
def test_a_result_of_an_unknown_form_hides_nothing_else(text: str, own_api: Api) -> None:
    """A stored result that this version can't read leaves the case readable, without sides."""
    store(own_api, mammogram())
    case_id = case_of(own_api, "A-1")
    finish(own_api, case_id, text)
    with own_api.client("viewer") as client:
        case = valid(client.get(f"/v1/cases/{case_id}").json(), "Case")
    assert (case["sides"], case["model"], case["report"]) == ([], None, "")


def test_downloads(own_api: Api) -> None:
    """Every artefact comes back byte for byte under our own name; Accept and If-None-Match are honoured."""
    case_id = finished(own_api)
    with own_api.client("viewer") as client:
        for item in client.get(f"/v1/cases/{case_id}/results").json()["artefacts"]:
            response = client.get(item["url"], headers={"Accept": item["media_type"]})
            assert response.status_code == 200
            assert hashlib.sha256(response.content).hexdigest() == item["sha256"]
            assert response.headers["content-type"] == item["media_type"]
            extension = {"application/dicom": "dcm", "image/png": "png", "application/json": "json"}[item["media_type"]]
            assert (
                response.headers["content-disposition"] == f'attachment; filename="casework-{item["id"]}.{extension}"'
            )
            assert response.headers["content-security-policy"] == "default-src 'none'; sandbox"
            again = client.get(item["url"], headers={"If-None-Match": response.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            main = item["media_type"].split("/")[0]
            for accept in ("*/*", f"{main}/*", f"text/html, {item['media_type']};q=0.1"):
                assert client.get(item["url"], headers={"Accept": accept}).status_code == 200
            for accept in ("text/html", f"*/*, {item['media_type']};q=0"):
                check_problem(client.get(item["url"], headers={"Accept": accept}), 406, "NOT_ACCEPTABLE")


def test_a_missing_object_is_a_coded_defect(own_api: Api) -> None:
    """An artefact whose file is gone is reported as such, not as an empty download."""
    case_id = finished(own_api)
    made = own_api.ledger.read.case_view(case_id).artefacts[0]
    own_api.door.spool.drop(made.artefact.sha256)
    with own_api.client("viewer") as client:
        check_problem(client.get(f"/v1/results/{made.id}"), 500, "SPOOL_CORRUPT")


def test_a_result_that_retention_took_says_so(own_api: Api) -> None:
    """What the policy removed is 410 with its code, for who downloads it and for who wants it sent or withdrawn; it is no defect."""
    case_id, ledger, now = finished(own_api), own_api.ledger, datetime.now(UTC)
    while sent := ledger.claim_delivery("pacs", "test", 60, now):
        assert ledger.finish_delivery(sent.delivery_id, sent.fence, DeliveryState.STORED, "0x0000", "", None, now)
    later = now + timedelta(days=40)
    assert ledger.let_go(Rule("results", 30, later), 100, later)
    for one in ledger.leaving(100):
        assert own_api.door.spool.retire(one.sha256, later.timestamp())
    made = ledger.read.case_view(case_id).artefacts[0]
    with own_api.client("viewer") as client:
        check_problem(client.get(f"/v1/results/{made.id}"), 410, "RESULTS_REMOVED")
    with own_api.client("operator") as client:
        check_problem(client.post(f"/v1/cases/{case_id}/resend"), 410, "RESULTS_REMOVED")


def test_an_analysis_is_asked_for_once(own_api: Api) -> None:
    """The same key and body give the same answer, another body 409, another caller's same key is another request."""
    store(own_api, mammogram(StudyInstanceUID="1.2.1"), mammogram(StudyInstanceUID="1.2.2"))
    wish = {"study_instance_uids": ["1.2.1", "1.2.2"], "priority": "stat"}
    key = {"Idempotency-Key": "once"}
    with own_api.client("operator") as client:
        response = client.post("/v1/analyses", json=wish, headers=key)
        assert response.status_code == 202
        asked = valid(response.json(), "Analysis")
        assert [case["priority"] for case in asked["cases"]] == ["stat"]
        same = client.post(
            "/v1/analyses", json=wish | {"study_instance_uids": ["1.2.2", "1.2.1", "1.2.1"]}, headers=key
        )
        assert (same.status_code, same.json()) == (202, asked)
        other = client.post("/v1/analyses", json=wish | {"priority": "routine"}, headers=key)
        check_problem(other, 409, "IDEMPOTENCY_CONFLICT")
        assert client.get(f"/v1/analyses/{asked['id']}").json() == asked
        missing = client.post("/v1/analyses", json={"accession_number": "none"}, headers={"Idempotency-Key": "2"})
        check_problem(missing, 404, "NOT_FOUND")
        partly = client.post(
            "/v1/analyses", json={"study_instance_uids": ["1.2.1", "9"]}, headers={"Idempotency-Key": "3"}
        )
        check_problem(partly, 404, "NOT_FOUND")
    with own_api.client("admin") as client:
        mine = client.post("/v1/analyses", json={"accession_number": "A-1"}, headers=key)
        assert mine.status_code == 202
        assert mine.json()["id"] != asked["id"]
    assert own_api.ledger.read.case(asked["cases"][0]["id"]).requested_at is not None
    actors = {event.actor for event in own_api.ledger.read.timeline(asked["cases"][0]["id"])}
    assert {"api:operator-key", "api:admin-key"} <= actors


@pytest.mark.parametrize("wish", [{"patient_id": "P-1"}, {"patient_id": "P-1", "issuer_of_patient_id": "H"}])
def test_an_analysis_by_patient(wish: dict[str, str], own_api: Api) -> None:
    """A patient is named by ID, and by issuer where there is one."""
    store(own_api, mammogram(IssuerOfPatientID="H"))
    with own_api.client("operator") as client:
        response = client.post("/v1/analyses", json=wish, headers={"Idempotency-Key": "1"})
    assert response.status_code == 202
    assert len(response.json()["cases"]) == 1


def test_cancel_retry_resend(own_api: Api) -> None:
    """What the state forbids is 409 and changes nothing; what it allows is done and audited under the key's name."""
    store(own_api, mammogram())
    case_id = case_of(own_api, "A-1")
    with own_api.client("operator") as client:
        check_problem(client.post(f"/v1/cases/{case_id}/retry"), 409, "STATE_FORBIDS")
        check_problem(client.post(f"/v1/cases/{case_id}/resend"), 409, "STATE_FORBIDS")
        check_problem(client.post("/v1/cases/none/cancel"), 404, "NOT_FOUND")
        assert valid(client.post(f"/v1/cases/{case_id}/cancel").json(), "Case")["state"] == "closed"
        check_problem(client.post(f"/v1/cases/{case_id}/cancel"), 409, "STATE_FORBIDS")
        response = client.post(f"/v1/cases/{case_id}/retry")
        assert (response.status_code, response.json()["state"]) == (202, "queued")
    finish(own_api, case_id, json.dumps(RESULT))
    now = datetime.now(UTC)
    while claimed := own_api.ledger.claim_delivery("pacs", "test", 60, now):
        own_api.ledger.finish_delivery(
            claimed.delivery_id, claimed.fence, DeliveryState.STORED, "0x0000", "", None, now
        )
    assert own_api.ledger.read.case(case_id).state is CaseState.DELIVERED
    with own_api.client("operator") as client:
        again = client.post(f"/v1/cases/{case_id}/resend")
        assert (again.status_code, again.json()["state"]) == (202, "delivering")
    moves = [event for event in own_api.ledger.read.timeline(case_id) if event.actor == "api:operator-key"]
    assert {"case.moved", "case.retry_asked", "case.resend_asked"} <= {event.event for event in moves}


def test_why(own_api: Api) -> None:
    """The question is answered by accession, study, patient and case; nothing found says so; GET and POST agree."""
    store(own_api, mammogram(AccessionNumber="A-9"))
    case_id = case_of(own_api, "A-9")
    with own_api.client("viewer") as client:
        for term, kind in (("A-9", "accession"), ("1.2.3.4", "study"), ("P-1", "patient"), (case_id, "case")):
            answer = valid(client.get("/v1/why", params={"q": term}).json(), "Why")
            assert answer["matched_by"] == kind
            assert answer["cases"][0]["id"] == case_id
            assert answer["cases"][0]["reason"]["text"]
            assert answer["associations"] == [], "a viewer may not read the association log"
            assert client.post("/v1/why", json={"q": term}).json() == answer
        nothing = client.get("/v1/why", params={"q": "nothing"}).json()
        assert (nothing["matched_by"], nothing["next"]["code"]) == ("", "NEVER_ARRIVED")
    with own_api.client("admin") as client:
        assert len(client.get("/v1/why", params={"q": "A-9"}).json()["associations"]) == 1


def test_service_routes(own_api: Api) -> None:
    """Alive, ready, who am I, and metrics whose labels hold nothing of a patient."""
    store(own_api, mammogram(PatientID="CANARYPATIENT", AccessionNumber="CANARYACC"))
    with own_api.client("") as client:
        assert valid(client.get("/v1/health/live").json(), "Live")["status"] == "alive"
        assert valid(client.get("/v1/health/ready").json(), "Ready")["ready"] is True
    with own_api.client("viewer") as client:
        assert valid(client.get("/v1/session").json(), "Session")["role"] == "viewer"
        metrics = client.get("/v1/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    for line in (
        'casework_cases{state="receiving"} 1.0', "casework_ledger_instances 1.0", "casework_queue_depth 0.0",
        'casework_instances_total{code="",door="stow",verdict="accepted"}', "casework_disk_free_bytes",
    ):  # fmt: skip
        assert line in metrics.text
    assert "CANARY" not in metrics.text


def test_readiness_names_a_lost_ledger(own_api: Api) -> None:
    """When the ledger can't be asked, readiness fails with its code instead of an error page."""
    path = own_api.door.settings.root / "ledger" / "ledger.db"
    own_api.ledger.close()
    path.rename(path.with_suffix(".away"))
    path.mkdir()
    with own_api.client("") as client:
        response = client.get("/v1/health/ready")
    path.rmdir()
    path.with_suffix(".away").rename(path)
    assert response.status_code == 503
    assert {"name": "ledger", "ok": False, "code": "LEDGER_UNAVAILABLE"} in valid(response.json(), "Ready")["checks"]


def test_a_case_that_waits_says_for_what_and_until_when(own_api: Api) -> None:
    """State in words in both languages, modalities, beginning and end of the wait: in the list, the case and the answer to why."""
    store(own_api, mammogram(AccessionNumber="W-1", PatientID="W"))
    case_id = case_of(own_api, "W-1")
    now = datetime.now(UTC)
    own_api.ledger.set_waiting(case_id, Waiting(("MR",), now, now + timedelta(hours=72)), now)
    with own_api.client("viewer") as client:
        listed = valid(client.get("/v1/cases", params={"q": "W-1"}).json(), "CasePage")["items"][0]
        case = valid(client.get(f"/v1/cases/{case_id}", headers={"Accept-Language": "zh"}).json(), "Case")
        told = valid(client.post("/v1/why", json={"q": "W-1"}).json(), "Why")["cases"][0]
    assert (listed["state"], listed["shown"]) == ("receiving", {"code": "waiting", "text": "Waiting for MR"})
    assert case["shown"]["text"] == "等待MR"
    for found in (listed, case, told):
        assert found["waiting_for"] == ["MR"]
        assert datetime.fromisoformat(found["waiting_since"]) == now
        assert datetime.fromisoformat(found["waiting_until"]) == now + timedelta(hours=72)


def test_a_correction_is_decided_and_images_are_taken_out_over_http(own_api: Api) -> None:
    """Kept aside, shown, accepted as a new revision; an image taken out and put back: each with its reason and its author."""
    first, second = generate_uid(), generate_uid()
    same: dict[str, Any] = {"AccessionNumber": "C-1", "PatientID": "C"}
    store(
        own_api, mammogram(SOPInstanceUID=first, **same), mammogram(SOPInstanceUID=second, ViewPosition="MLO", **same)
    )
    store(own_api, mammogram(SOPInstanceUID=first, PixelData=bytes([7] * 16), **same))
    case_id = case_of(own_api, "C-1")
    with own_api.client("operator") as client:
        shown = valid(client.get(f"/v1/cases/{case_id}").json(), "Case")["doubts"]
        assert [(d["reason"]["code"], d["subject"], d["stops"], d["decision"]) for d in shown] == [
            ("UID_CONFLICT", first, False, "")
        ]
        path = f"/v1/cases/{case_id}"
        made = client.post(f"{path}/decisions", json={"decision": "accepted", "detail": "artefact"})
        case = valid(made.json(), "Case")
        assert (made.status_code, [e["reason"]["code"] for e in case["exclusions"]]) == (202, ["INPUT_REPLACED"])
        assert case["exclusions"][0]["replaced_by"] == shown[0]["sha256"]
        check_problem(client.post(f"{path}/decisions", json={"decision": "accepted"}), 404, "NOT_FOUND")
        wish = {"uid": second, "reason": "EXCLUDED_POOR_QUALITY", "detail": "moved"}
        case = valid(client.post(f"{path}/exclusions", json=wish).json(), "Case")
        assert case["modalities"] == {"MG": 1}
        assert {(e["reason"]["code"], e["detail"], e["actor"]) for e in case["exclusions"]} == {
            ("INPUT_REPLACED", "", "api:operator-key"),
            ("EXCLUDED_POOR_QUALITY", "moved", "api:operator-key"),
        }
        check_problem(client.post(f"{path}/exclusions", json=wish), 404, "NOT_FOUND")
        check_problem(client.post(f"{path}/exclusions", json={**wish, "reason": "X"}), 400, "REQUEST_INVALID")
        case = valid(client.post(f"{path}/exclusions", json={**wish, "restore": True}).json(), "Case")
        assert case["modalities"] == {"MG": 2}
    events = {e.event for e in own_api.ledger.read.timeline(case_id)}
    assert {"case.decided", "instances.excluded", "instances.restored"} <= events


def test_a_retracted_result_says_so_everywhere(own_api: Api) -> None:
    """After a retraction the case, its results and every download say so; nothing waits to be sent; again changes nothing."""
    case_id = finished(own_api)
    with own_api.client("operator") as client:
        order = {"reason": "RETRACTED_SAFETY", "note": "wrong side at the modality"}
        for _ in range(2):
            answer = client.post(f"/v1/cases/{case_id}/retract", json=order)
            assert answer.status_code == 202
        body = valid(answer.json(), "Case")
        assert (body["state"], body["retraction"]["code"]) == ("retracted", "RETRACTED_SAFETY")
        results = valid(client.get(f"/v1/cases/{case_id}/results").json(), "ResultList")
        assert {d["state"] for d in results["deliveries"]} == {"cancelled"}
        assert all(made["retracted"] for made in results["artefacts"])
        for made in results["artefacts"]:
            download = client.get(made["url"])
            assert download.headers["casework-retracted"] == "RETRACTED_SAFETY"
            assert "-RETRACTED." in download.headers["content-disposition"]
        check_problem(
            client.post(f"/v1/cases/{case_id}/retract", json={"reason": "RETRACTED_QUALITY"}), 409, "STATE_FORBIDS"
        )
        check_problem(client.post(f"/v1/cases/{case_id}/retract", json={"reason": "BORED"}), 400, "REQUEST_INVALID")
    events = own_api.ledger.read.timeline(case_id)
    assert [e.actor for e in events if e.detail.get("to") == "retracted"] == ["api:operator-key"]
