"""The questions: what a page, an operator and a worker ask, and what they are told."""

import pytest
from sqlalchemy import text

from casework.case import Verdict
from casework.errors import CaseworkError, Refused
from casework.ledger import Ledger, Selector
from casework.ledger.read_why import _BY_STATE
from casework.reasons import REASONS
from tests.ledger.ledger_help import (
    NOW,
    C,
    D,
    arrival,
    at,
    claim,
    delivered,
    delivering,
    end,
    new_case,
    next_delivery,
    queued,
    record,
    stable,
)  # fmt: skip


def test_case_view(ledger: Ledger) -> None:
    """The view of a case holds its studies, images, revisions, artefacts, deliveries, jobs and result."""
    old = delivered(ledger, "1.1")
    new = new_case(ledger, "2.1", study_instance_uid="2", modality="MG", accession_number="A2")
    view = ledger.read.case_view(old)
    assert view.newest_id == new
    assert [r.id for r in view.revisions] == [old, new]
    assert dict(view.modalities) == {"MR": 1}
    assert (len(view.artefacts), len(view.deliveries), len(view.jobs), view.result_json) == (2, 1, 1, '{"made":1}')
    assert dict(ledger.read.case_view(new).modalities) == {"MR": 1, "MG": 1}
    assert [s.accession_number for s in ledger.read.case_view(new).studies] == ["A1", "A2"]


def test_list_pages(ledger: Ledger) -> None:
    """Pages follow each other without gap or repeat, newest first, while new cases arrive."""
    ids = [new_case(ledger, f"{n}.1", patient_id=str(n), study_instance_uid=str(n)) for n in range(7)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = ledger.read.list_cases(limit=3, cursor=cursor)
        seen += [item.case.id for item in page.items]
        new_case(ledger, f"new{len(seen)}", patient_id=f"new{len(seen)}", study_instance_uid=f"n{len(seen)}")
        cursor = page.next_cursor
        if not cursor:
            break
    assert seen == ids[::-1]
    for broken in ("x", "-1", "٣", "9" * 40):
        with pytest.raises(Refused, match="REQUEST_INVALID"):
            ledger.read.list_cases(cursor=broken)


def test_list_filters(ledger: Ledger) -> None:
    """A list is narrowed by state, accession number, study, patient and case id; all exact."""
    one = new_case(ledger, "1.1")
    two = stable(ledger, "2.1", patient_id="P2", study_instance_uid="2", accession_number="A2")
    for q in ("A2", "2", "P2", two):
        assert [i.case.id for i in ledger.read.list_cases(q=q).items] == [two], q
    assert [i.case.id for i in ledger.read.list_cases(C.RECEIVING).items] == [one]
    assert ledger.read.list_cases(C.RECEIVING, "A2").items == ()
    assert ledger.read.list_cases(q="A%").items == ()
    item = ledger.read.list_cases(q="A2").items[0]
    assert (item.accession_numbers, item.study_uids, dict(item.modalities), item.newest) == (
        ("A2",),
        ("2",),
        {"MR": 1},
        True,
    )


@pytest.mark.parametrize(
    ("query", "kind"), [("A1", "accession"), ("1.2.3", "study"), ("1.1", "instance"), ("P1", "patient")]
)
def test_why_finds_by_any_identifier(ledger: Ledger, query: str, kind: str) -> None:
    """Whatever identifier is at hand leads to the case, its receipts, its association and the reason."""
    ledger.open_association("assoc-1", "MG1", "CMAN", "10.0.0.7", NOW)
    case_id = new_case(ledger, "1.1")
    ledger.set_reason(case_id, C.RECEIVING, "ASSOCIATION_OPEN", NOW)
    told = ledger.read.why(query)
    assert (told.matched_by, told.next_code) == (kind, "ASSOCIATION_OPEN")
    assert [c.case.id for c in told.cases] == [case_id]
    assert [r.sop_instance_uid for r in told.receipts] == ["1.1"]
    assert [a.calling for a in told.associations] == ["MG1"]
    by_id = ledger.read.why(case_id)
    assert (by_id.matched_by, len(by_id.receipts)) == ("case", 1)


def test_why_of_what_never_became_a_case(ledger: Ledger) -> None:
    """Something that was only refused is explained by its refusal; something never seen has never arrived."""
    record(ledger, "1.1", verdict=Verdict.REFUSED, code="MODALITY_NOT_ACCEPTED", accession_number="CT7")
    told = ledger.read.why("CT7")
    assert (told.cases, told.next_code, told.matched_by) == ((), "MODALITY_NOT_ACCEPTED", "accession")
    for nothing in ("nope", ""):
        told = ledger.read.why(nothing)
        assert (told.next_code, told.matched_by, told.receipts) == ("NEVER_ARRIVED", "", ())


def test_why_shows_trouble_first(ledger: Ledger) -> None:
    """Among many good receipts the refused and kept-aside ones come first, and all are counted."""
    new_case(ledger, *(f"1.{n}" for n in range(250)))
    ledger.record([arrival("1.3", sha256="f" * 64), arrival("1.999", verdict=Verdict.REFUSED, code="TRUNCATED")], NOW)
    told = ledger.read.why("A1")
    assert {r.code for r in told.receipts[:2]} == {"UID_CONFLICT", "TRUNCATED"}
    assert told.receipt_counts == {"accepted": 250, "kept_aside": 1, "refused": 1}
    assert len(told.receipts) == 200


def test_why_has_a_code_for_every_state() -> None:
    """Every state has words even when no reason was stored, and every code is in the catalogue."""
    assert set(_BY_STATE) == set(C)
    assert set(_BY_STATE.values()) <= set(REASONS)


def test_metrics(ledger: Ledger) -> None:
    """Counts by state, depth and age of the queue, and the backlog of each destination."""
    empty = ledger.read.metrics()
    assert (empty.queue_depth, empty.oldest_queued_at, empty.oldest_delivery_at, empty.instances) == (0, None, None, 0)
    delivering(ledger, "1.1", count=2)
    assert end(ledger, next_delivery(ledger), D.RETRY_WAIT, "PEER_BUSY")
    queued(ledger, "2.1", patient_id="2", study_instance_uid="2")
    found = ledger.read.metrics()
    assert found.cases == {"delivering": 1, "queued": 1}
    assert found.jobs == {"succeeded": 1, "ready": 1}
    assert (found.queue_depth, found.oldest_queued_at, found.instances) == (1, NOW, 2)
    assert (found.deliveries, found.delivery_backlog) == ({"pacs": {"retry_wait": 1, "pending": 1}}, 2)
    assert found.oldest_delivery_at == NOW


def test_instances_to_prepare(ledger: Ledger) -> None:
    """Images of cases that wait for their analysis are listed by id; those of cases that are through are not."""
    delivered(ledger, "1.1")
    new_case(ledger, "2.1", "2.2", patient_id="2", study_instance_uid="2")
    first = ledger.read.instances_of_open_cases(0, 1)
    assert [i.header.sop_instance_uid for i in first] == ["2.1"]
    rest = ledger.read.instances_of_open_cases(first[0].id, 10)
    assert [i.header.sop_instance_uid for i in rest] == ["2.2"]
    assert ledger.read.instances_of_open_cases(rest[0].id, 10) == []


def test_instance_belongs_to_its_cases(ledger: Ledger) -> None:
    """An image that two revisions used is found in both."""
    old = delivered(ledger, "1.1")
    new = queued(ledger, "1.2")
    key = ledger.case_inputs(old)[0].id
    assert sorted(ledger.read.instance_cases(key)) == sorted([old, new])


def test_next_due(ledger: Ledger) -> None:
    """The next due time is the earliest of retries and leases, none when nothing is scheduled."""
    assert ledger.read.next_due() is None
    delivering(ledger)
    next_delivery(ledger, now=at(20))
    assert ledger.read.next_due() == at(80)
    queued(ledger, "2.1", patient_id="2", study_instance_uid="2")
    claim(ledger, now=at(5))
    assert ledger.read.next_due() == at(65)


def test_logs_page_by_page(ledger: Ledger) -> None:
    """Receipts and deliveries are listed newest first, instances and artefacts by id; each page follows the last."""
    case_id = delivering(ledger, "1.1", "1.2", "1.3", count=3)
    record(ledger, "1.1")
    receipts = ledger.read.receipts(limit=3)
    assert [r.sop_instance_uid for r in receipts] == ["1.1", "1.3", "1.2"]
    assert [r.sop_instance_uid for r in ledger.read.receipts(before=receipts[-1].id)] == ["1.1"]
    assert [r.id for r in ledger.read.receipts(verdict=Verdict.DUPLICATE)] == [receipts[0].id]
    sent = ledger.read.deliveries(limit=2)
    assert [d.label for d in sent] == ["object 3", "object 2"]
    assert [d.label for d in ledger.read.deliveries(before=sent[-1].id)] == ["object 1"]
    first = ledger.read.instances(limit=2)
    assert [i.header.sop_instance_uid for i in first + ledger.read.instances(first[-1].id)] == ["1.1", "1.2", "1.3"]
    made = ledger.read.artefacts(limit=3)
    assert [a.case_id for a in made + ledger.read.artefacts(made[-1].id)] == [case_id] * 4
    assert ledger.read.artefact_by_id(made[0].id) == made[0]
    with pytest.raises(Refused, match="NOT_FOUND"):
        ledger.read.artefact_by_id(made[-1].id + 99)


def test_request_is_answered_again_to_its_actor(ledger: Ledger) -> None:
    """An earlier request can be looked up by its key, by the one who made it."""
    case_id = new_case(ledger)
    ledger.request_analysis("key-1", "hash", Selector(patient_id="P1"), "ris", NOW)
    assert ledger.read.requested("key-1") == ledger.read.requested("key-1", "ris") == (case_id,)
    for key, actor in (("key-2", None), ("key-1", "somebody else")):
        with pytest.raises(Refused, match="NOT_FOUND"):
            ledger.read.requested(key, actor)


def test_reading_never_writes(ledger: Ledger) -> None:
    """The connection that questions use can't change anything."""
    new_case(ledger)
    with pytest.raises(CaseworkError), ledger._database.read() as connection:
        connection.execute(text("UPDATE case_revision SET priority = 5"))
