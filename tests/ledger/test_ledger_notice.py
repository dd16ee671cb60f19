"""The webhooks' outbox in both databases: once for each move and webhook, through crashes and races."""

from typing import Any

import pytest
from sqlalchemy.exc import DatabaseError

from casework.case import NoticeState
from casework.ledger import Ledger
from tests.ledger.ledger_help import NOW, C, at, change, delivered, state_of

N = NoticeState


def take(ledger: Ledger, name: str = "ris") -> int:
    """Put all news into the outbox; returns how many."""
    seen, news = ledger.news(name, NOW)
    if news:
        assert ledger.put_notices(name, seen, news[-1].seq, [(item, item.event_id) for item in news], NOW)
    return len(news)


def test_each_webhook_is_told_once_of_what_happens_from_now_on(ledger: Ledger) -> None:
    """A new webhook begins now; each has its own place; what was read is not read again, by whichever process."""
    delivered(ledger)
    assert take(ledger) == 0
    case_id = delivered(ledger, "1.2.4.1.1", patient_id="P2", study_instance_uid="1.2.4")
    seen, news = ledger.news("ris", NOW)
    assert [item.state for item in news] == [C.STABLE, C.QUEUED, C.RUNNING, C.RENDERED, C.DELIVERING, C.DELIVERED]
    assert {item.case_id for item in news} == {case_id}
    assert len({item.event_id for item in news}) == 6
    rows = [(item, "{}") for item in news]
    assert ledger.put_notices("ris", seen, news[-1].seq, rows, NOW)
    assert not ledger.put_notices("ris", seen, news[-1].seq, rows, NOW)
    assert take(ledger) == 0
    assert take(ledger, "other") == 0
    assert ledger.read.metrics().notices == {"ris": {"pending": 6}}


def test_news_come_in_pieces(ledger: Ledger) -> None:
    """A long history is taken piece by piece, without a gap."""
    take(ledger)
    delivered(ledger)
    seen: list[Any] = []
    while True:
        place, news = ledger.news("ris", NOW, 2)
        if not news:
            break
        assert len(news) <= 2
        seen += news
        assert ledger.put_notices("ris", place, news[-1].seq, [], NOW)
    assert [item.state for item in seen][-1] is C.DELIVERED
    assert len(seen) == 6


def test_a_claim_ends_and_a_stale_one_changes_nothing(ledger: Ledger, open_ledger: Any) -> None:
    """What was claimed is due again after its lease, in any process; whoever was overtaken is fenced off."""
    take(ledger)
    case_id = delivered(ledger)
    take(ledger)
    first = ledger.claim_notice("ris", 30, NOW)
    assert first is not None
    assert (first.attempt, first.case_id) == (1, case_id)
    others = [ledger.claim_notice("ris", 30, at(1)) for _ in range(6)]
    assert [other is None for other in others] == [False] * 5 + [True]
    again = open_ledger().claim_notice("ris", 30, at(30))
    assert again is not None
    assert (again.notice_id, again.attempt) == (first.notice_id, 2)
    assert not ledger.finish_notice(first, N.SENT, "", "", None, at(31))
    assert ledger.finish_notice(again, N.PENDING, "HTTP 500", "WEBHOOK_FAILED", at(40), at(31))
    third = ledger.claim_notice("ris", 30, at(61))
    assert third is not None
    assert ledger.finish_notice(third, N.DEAD, "HTTP 410", "WEBHOOK_GONE", None, at(62))
    assert not ledger.finish_notice(third, N.SENT, "", "", None, at(63))
    assert ledger.repeat_notices("ris", "someone", at(70)) == 1
    assert ledger.repeat_notices("ris", "someone", at(70)) == 0
    assert [e.detail["to"] for e in ledger.read.timeline(case_id) if e.event == "notice.moved"] == ["dead", "pending"]
    assert state_of(ledger, case_id) is C.DELIVERED
    assert ledger.read.verify_audit().ok


def test_the_tables_hold_for_events_too(ledger: Ledger, url: str) -> None:
    """A sent event can't become anything else, by the ledger or by the database itself."""
    take(ledger)
    delivered(ledger)
    take(ledger)
    claim = ledger.claim_notice("ris", 30, NOW)
    assert claim is not None
    assert ledger.finish_notice(claim, N.SENT, "HTTP 204", "", None, NOW)
    with pytest.raises(DatabaseError, match="ILLEGAL_MOVE"):
        change(url, "UPDATE notice SET state = 'pending' WHERE id = :key", key=claim.notice_id)
    with pytest.raises(DatabaseError, match="ILLEGAL_MOVE"):
        change(url, "DELETE FROM notice")
