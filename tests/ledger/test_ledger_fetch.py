"""Fetching in the ledger, on both databases: whose turn it is, what was named, and that nothing is fetched twice or by two."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy.exc import DBAPIError

from casework.case import CandidateState, Verdict
from casework.errors import Refused
from casework.ledger import ClaimedCandidate, ClaimedOrder, Ledger, Listed, ProcessRow, Stage
from tests.ledger.ledger_help import NOW, arrival, at, change, new_case, record

C = CandidateState


def named(uid: str = "1.9", code: str = "", role: str = "sibling", count: int = 2) -> Listed:
    return Listed(uid, "A9", "20260305", {"US": count}, {"US": {f"{uid}.1": count}}, role, code)


def asked(ledger: Ledger, *listed: Listed, seconds: float = 0.0) -> ClaimedOrder:
    """The PACS is asked for the next case, and answers."""
    ledger.plan_fetches("pacs", 1800, at(seconds))
    order = ledger.claim_order("pacs", "me", 60, at(seconds))
    assert order
    assert ledger.list_candidates(order.order_id, order.fence, listed, at(seconds))
    return order


def taken(ledger: Ledger, seconds: float = 1.0, *, per_hour: int = 10, quiet: bool = False) -> ClaimedCandidate | None:
    return ledger.claim_candidate("pacs", "me", 60, per_hour, at(seconds), quiet=quiet)


def states(ledger: Ledger, case_id: str) -> dict[str, tuple[str, str]]:
    return {c.study_uid: (c.state, c.code) for order in ledger.read.fetches(case_id) for c in order.candidates}


def test_a_case_is_asked_for_once_and_again_after_a_while(ledger: Ledger) -> None:
    """One order for each case and PACS; it falls due again while the case still receives, and not before."""
    new_case(ledger)
    assert [ledger.plan_fetches("pacs", 1800, at(0)) for _ in range(2)] == [1, 0]
    order = ledger.claim_order("pacs", "me", 60, at(0))
    assert order
    assert (order.patient_id, order.by_person, order.here[0].modalities) == ("P1", False, {"MR": 1})
    assert ledger.claim_order("pacs", "other", 60, at(1)) is None
    assert ledger.list_candidates(order.order_id, order.fence, [named()], at(2))
    assert not ledger.list_candidates(order.order_id, order.fence, [], at(3)), "it has ended"
    assert [ledger.plan_fetches("pacs", 1800, at(s)) for s in (1000, 1803)] == [0, 1]
    assert ledger.plan_fetches("other pacs", 1800, at(0)) == 1


def test_a_question_whose_asker_died_is_asked_again(ledger: Ledger) -> None:
    """After its lease a question belongs to the next one; the first asker's answer is not taken any more."""
    new_case(ledger)
    ledger.plan_fetches("pacs", 1800, at(0))
    first = ledger.claim_order("pacs", "a", 60, at(0))
    assert first
    assert ledger.claim_order("pacs", "b", 60, at(59)) is None
    second = ledger.claim_order("pacs", "b", 60, at(61))
    assert second
    assert (second.order_id, second.attempt, second.fence) == (first.order_id, 2, first.fence + 1)
    assert not ledger.list_candidates(first.order_id, first.fence, [named()], at(62))
    assert not ledger.fail_order(first.order_id, first.fence, "PEER_BUSY", None, at(62))


def test_one_at_a_time_and_so_many_an_hour(ledger: Ledger) -> None:
    """A PACS gives one study at a time, and no more in an hour than it may; each has its fence."""
    case_id = new_case(ledger)
    asked(ledger, named("1.7"), named("1.8"), named("1.9"))
    one = taken(ledger)
    assert one
    assert one.images == 2
    assert taken(ledger) is None
    assert ledger.heartbeat_candidate(one.candidate_id, one.fence, 60, at(30))
    assert ledger.end_candidate(one.candidate_id, one.fence, "", {"accepted": 2}, None, at(31))
    assert not ledger.end_candidate(one.candidate_id, one.fence, "", {}, None, at(31))
    assert taken(ledger, 32, per_hour=1) is None
    two = taken(ledger, 32)
    assert two
    assert ledger.end_candidate(two.candidate_id, two.fence, "PEER_BUSY", {}, at(50), at(33), "slow")
    three = taken(ledger, 34)
    assert three
    assert three.study_uid != two.study_uid
    assert ledger.end_candidate(three.candidate_id, three.fence, "FETCH_WRONG_STUDY", {}, None, at(35))
    assert taken(ledger, 40) is None
    again = taken(ledger, 51)
    assert again
    assert (again.study_uid, again.attempt) == (two.study_uid, 2)
    assert sorted(code for _, code in states(ledger, case_id).values()) == ["FETCHED", "FETCHING", "FETCH_WRONG_STUDY"]
    assert [f.code for f in ledger.read.case_view(case_id).findings] == ["FETCH_FAILED"]


def test_what_is_not_needed_any_more_is_not_fetched(ledger: Ledger) -> None:
    """A study that came by itself meanwhile, and one of a case that a person closed, are dropped with their reasons."""
    case_id = new_case(ledger)
    asked(ledger, named("1.7"))
    record(ledger, "1.7.1.1", "1.7.1.2", study_instance_uid="1.7", modality="US")
    assert taken(ledger) is None
    assert states(ledger, case_id) == {"1.7": (C.REJECTED, "FETCH_ALREADY_HERE")}
    other = new_case(ledger, "5.1", patient_id="P5", study_instance_uid="5", accession_number="A5")
    asked(ledger, named("5.7"), seconds=2)
    ledger.cancel_case(other, "ann", at(3))
    assert taken(ledger, 4) is None
    assert states(ledger, other) == {"5.7": (C.REJECTED, "CANCELLED")}


def test_quiet_hours_and_people(ledger: Ledger) -> None:
    """In quiet hours only what a person asked for is fetched; a person's term needs no case; excluded stays excluded."""
    case_id = new_case(ledger)
    asked(ledger, named("1.7"))
    assert taken(ledger, quiet=True) is None
    (row,) = ledger.read.fetches(case_id)[0].candidates
    ledger.exclude_candidate(row.id, "ann", at(2))
    asked_again = ledger.plan_fetches("pacs", 60, at(100))
    assert asked_again == 1
    asked(ledger, named("1.7"), seconds=101)
    assert states(ledger, case_id) == {"1.7": (C.REJECTED, "CANCELLED")}
    assert ledger.order_fetch("A9", ["pacs"], "ann", at(110)) == ledger.order_fetch("A9", ["pacs"], "ann", at(111))
    order = asked(ledger, named("1.9", role="asked"), seconds=112)
    assert (order.by_person, order.term, order.root_id) == (True, "A9", "")
    found = taken(ledger, 113, quiet=True)
    assert found
    assert (found.role, found.patient_id) == ("asked", "")
    with pytest.raises(Refused, match="STATE_FORBIDS"):
        ledger.exclude_candidate(found.candidate_id, "ann", at(114))
    with pytest.raises(Refused, match="NOT_FOUND"):
        ledger.exclude_candidate(4711, "ann", at(114))


def test_a_prior_on_its_way_is_no_case(ledger: Ledger) -> None:
    """What comes of a study that is fetched as a prior is kept aside; what comes of others, and later, is as always."""
    case_id = new_case(ledger)
    asked(ledger, named("1.7", role="prior"))
    assert ledger.read.fetching_since(case_id) is None, "nobody waits for a prior"
    (told,) = record(ledger, "1.7.1.1", study_instance_uid="1.7", study_date="20200101")
    assert (told.verdict, told.code, told.case_id) == (Verdict.KEPT_ASIDE, "PRIOR_CONTEXT", None)
    mixed = [arrival("1.7.1.2", study_instance_uid="1.7"), arrival("1.2.3.1.9"), arrival("1.2.3.1.9")]
    assert [r.verdict for r in ledger.record(mixed, at(1))] == [Verdict.KEPT_ASIDE, Verdict.ACCEPTED, Verdict.DUPLICATE]
    prior = taken(ledger, 2)
    assert prior
    assert ledger.end_candidate(prior.candidate_id, prior.fence, "", {"kept_aside": 2}, None, at(3))
    assert states(ledger, case_id) == {"1.7": (C.FETCHED, "PRIOR_CONTEXT")}
    (late,) = record(ledger, "1.7.1.3", study_instance_uid="1.7", study_date="20200101", now=at(4))
    assert late.verdict is Verdict.ACCEPTED
    assert ledger.read.arrived("1.7", "P1", NOW) == {"kept_aside": 2, "accepted": 1}
    assert ledger.read.arrived("1.7", "P2", NOW) == {"other_patient": 3}


def test_a_case_knows_since_when_it_may_wait(ledger: Ledger) -> None:
    """Before the first question, while it is asked, and while a sibling comes; not after a failure."""
    case_id = new_case(ledger)
    assert ledger.read.fetching_since(case_id) == NOW
    ledger.plan_fetches("pacs", 1800, at(5))
    assert ledger.read.fetching_since(case_id) == at(5)
    order = ledger.claim_order("pacs", "me", 60, at(6))
    assert order
    assert ledger.list_candidates(order.order_id, order.fence, [named()], at(7))
    assert ledger.read.fetching_since(case_id) == at(7)
    first = taken(ledger, 8)
    assert first
    assert ledger.read.fetching_since(case_id) == at(7)
    assert ledger.end_candidate(first.candidate_id, first.fence, "PEER_BUSY", {}, at(60), at(9))
    assert ledger.read.fetching_since(case_id) is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE fetch_order SET state = 'listed'",
        "UPDATE fetch_candidate SET state = 'fetched'",
        "UPDATE fetch_candidate SET fence = -1",
        "DELETE FROM fetch_candidate",
        "DELETE FROM fetch_order",
    ],
)
def test_the_database_refuses_what_must_not_be(statement: str, ledger: Ledger, url: str) -> None:
    """A move that the tables don't know, a fence that goes back, a row that goes away."""
    new_case(ledger)
    asked(ledger, named())
    ledger.order_fetch("A9", ["pacs"], "ann", at(1))
    with pytest.raises(DBAPIError):
        change(url, statement)


def test_processes_show_themselves(open_ledger: Callable[..., Ledger]) -> None:
    """A door's row says that it runs, until it is silent for a minute; a start doesn't hide the failure before it."""
    ledger = open_ledger()

    def beat(seconds: float, state: str = "running", code: str = "", *, starts: bool = False) -> None:
        ledger.beat(ProcessRow("keeper", "h", 7, state, code, NOW, at(seconds), "", None), starts=starts)

    beat(0)
    (row,) = ledger.read.processes()
    assert [row.alive(at(s)) for s in (59, 61)] == [True, False]
    beat(10, "failed", "MODEL_INVALID")
    beat(12, starts=True)
    assert ledger.read.processes()[0].code == "MODEL_INVALID"
    beat(20)
    assert ledger.read.processes()[0].alive(at(20))
    beat(20 + timedelta(days=8).total_seconds(), starts=True)
    assert len(ledger.read.processes()) == 1


def test_why_knows_the_study_that_was_only_named(ledger: Ledger) -> None:
    """A study that never came is found by its UID or accession number among the candidates, with its reason."""
    new_case(ledger)
    asked(ledger, named("1.7", "FETCH_BODY_PART"))
    for term in ("1.7", "A9"):
        told = ledger.read.why(term, at(5))
        assert (told.matched_by, told.stage, told.next_code) == ("fetch", Stage.FETCH, "FETCH_BODY_PART")
        assert [m.code for m in told.timeline] == ["", "FETCH_BODY_PART"]
    assert ledger.read.why("P1", at(5)).orders[0].candidates[0].study_uid == "1.7"
    assert ledger.read.fetch_states() == {("pacs", "rejected"): 1}
