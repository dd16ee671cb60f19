"""Webhook events that nobody took: seen by REST and by `why`, and sent again by an operator."""

from dataclasses import replace
from datetime import UTC, datetime

from casework.case import NoticeState
from casework.config import Webhook
from casework.entrypoints.explain import explain
from tests.api.conftest import Api, run_server
from tests.api.samples import case_of, mammogram, store
from tests.api.test_problems import check_problem


def undelivered(api: Api) -> str:
    """A case of which one event waits and one was given up; the case."""
    ledger, now = api.ledger, datetime.now(UTC)
    ledger.news("ris", now)
    store(api, mammogram())
    case_id = case_of(api, "A-1")
    ledger.cancel_case(case_id, "anna", now)
    seen, news = ledger.news("ris", now)
    assert ledger.put_notices("ris", seen, news[-1].seq, [(item, item.event_id) for item in news], now)
    claim = ledger.claim_notice("ris", 60, now)
    assert claim is not None
    assert ledger.finish_notice(claim, NoticeState.DEAD, "HTTP 410", "WEBHOOK_GONE", None, now)
    return case_id


def test_dead_events_are_listed_explained_and_sent_again(own_api: Api) -> None:
    """A viewer sees what was given up and why; an operator sends it again; without such a webhook nothing is promised."""
    case_id = undelivered(own_api)
    hooks = (Webhook("ris", "https://ris.example/hook", "key"),)
    door = replace(own_api.door, settings=replace(own_api.door.settings, webhook=hooks))
    with run_server(door) as port:
        asked(Api(door, f"http://127.0.0.1:{port}", own_api.keys), case_id)
    words = "\n".join(explain(own_api.ledger.read.why(case_id), "en", datetime.now(UTC)))
    assert "WEBHOOK_GONE" in words
    assert "webhook ris" in words


def asked(api: Api, case_id: str) -> None:
    with api.client("viewer") as viewer, api.client("operator") as operator:
        (dead,) = viewer.get("/v1/notices", params={"state": "dead"}).json()["items"]
        assert (dead["webhook"], dead["case_id"], dead["status"]) == ("ris", case_id, "HTTP 410")
        assert dead["reason"]["code"] == "WEBHOOK_GONE"
        chinese = viewer.get("/v1/notices", headers={"Accept-Language": "zh"}).json()["items"]
        assert not chinese[0]["reason"]["text"].isascii()
        moments = viewer.get("/v1/why", params={"q": case_id}).json()["timeline"]
        assert [m["reason"]["code"] for m in moments if m["event"] == "notice.dead"] == ["WEBHOOK_GONE"]
        check_problem(operator.post("/v1/notices/repeat", json={"webhook": "other"}), 404, "NOT_FOUND")
        assert operator.post("/v1/notices/repeat", json={"webhook": "ris"}).json() == {"repeated": 1}
        assert viewer.get("/v1/notices", params={"state": "dead"}).json()["items"] == []
        page = viewer.get("/v1/notices", params={"limit": 1}).json()
        assert [page["items"][0]["state"], page["next_cursor"]] == ["pending", None]
