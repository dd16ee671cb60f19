"""Cases that end without a run: their studies are told that nothing was analysed, and why; and what a closed case sends."""

from dataclasses import replace

import pytest

from casework.case import TELL, WITHDRAW, Artefact, JobState
from casework.errors import Refused
from casework.ledger import ClaimedJob, Ledger
from tests.ledger.ledger_help import (
    NOW,
    C,
    D,
    arrival,
    artefacts,
    at,
    claim,
    end,
    new_case,
    next_delivery,
    queued,
    sha,
    state_of,
)

NO = Artefact(
    "not-performed", "application/dicom", "1.2.3", "1.2.8", "1.2.840.10008.5.1.4.1.1.88.11", "2.25.77", sha("no"), 90, "no"
)  # fmt: skip
PAGE = replace(NO, kind="not-performed-page", sop_class_uid="1.2.840.10008.5.1.4.1.1.7", sop_instance_uid="2.25.78")


def telling(ledger: Ledger, seconds: float = 1) -> ClaimedJob | None:
    return ledger.claim_job(TELL, "worker", 60, at(seconds))


def tell(ledger: Ledger, *made: Artefact, seconds: float = 1, **withheld: frozenset[str]) -> str:
    """A worker tells of the next case; its id."""
    job = telling(ledger, seconds)
    assert job is not None
    assert ledger.finish_telling(job.job_id, job.fence, made, ["pacs"], at(seconds), withheld=withheld)
    return job.case_id


def stopped(ledger: Ledger, study: str = "1.2.3") -> str:
    """A case that the keeper stopped."""
    case_id = new_case(ledger, f"{study}.1.1", study_instance_uid=study, patient_id="")
    assert ledger.move_case(case_id, C.RECEIVING, C.NEEDS_ATTENTION, "PATIENT_ID_MISSING", "assemble", NOW)
    return case_id


def test_what_the_keeper_stops_is_told(ledger: Ledger) -> None:
    """The document goes out, the case stays where it is, and nobody is told twice."""
    case_id = stopped(ledger)
    assert ledger.read.waiting_jobs(TELL, 9), "a broker rings for it too"
    assert tell(ledger, NO) == case_id
    case = ledger.read.case_view(case_id)
    assert (case.case.state, case.case.reason) == (C.NEEDS_ATTENTION, "PATIENT_ID_MISSING")
    assert [a.artefact for a in case.artefacts] == [NO]
    assert end(ledger, next_delivery(ledger, now=at(2)), now=at(2))
    assert state_of(ledger, case_id) is C.NEEDS_ATTENTION
    assert telling(ledger) is None


def test_a_doubt_holds_results_and_not_the_word_that_there_are_none(ledger: Ledger) -> None:
    """An undecided doubt about the side stops every result; the document that says so leaves at once."""
    case_id = new_case(ledger)
    ledger.record([arrival(sha256=sha("other"), attributes={"Laterality": "R"})], NOW)
    assert ledger.stopped_by(case_id) == "SIDE_CHANGED"
    assert ledger.move_case(case_id, C.RECEIVING, C.NEEDS_ATTENTION, "SIDE_CHANGED", "assemble", NOW)
    tell(ledger, NO)
    assert next_delivery(ledger, now=at(2)).artefact == NO


def test_a_case_whose_workers_keep_dying_is_told(ledger: Ledger) -> None:
    """Tries spent by crashes: the sweep ends the case, and another worker says so in its studies."""
    case_id = queued(ledger)
    for n in range(3):
        claim(ledger, at(100 * n))
        ledger.expire_leases(at(100 * n + 61))
    assert (state_of(ledger, case_id), ledger.read.case(case_id).reason) == (C.NEEDS_ATTENTION, "ATTEMPTS_EXHAUSTED")
    assert tell(ledger, NO, seconds=400) == case_id


def test_a_case_that_runs_after_all_takes_the_word_back(ledger: Ledger) -> None:
    """What was not sent yet never will be, for any destination; what was is not sent again."""
    case_id = stopped(ledger)
    tell(ledger, NO)
    ledger.retry_case(case_id, "anna", at(2))
    job = claim(ledger, at(2))
    assert ledger.claim_delivery("pacs", "s", 60, at(2)) is None, "not while it is analysed"
    result = artefacts(case_id, 1)
    assert ledger.finish_job(job.job_id, job.fence, "{}", result, [], ["pacs", "late"], at(3))
    made = ledger.read.case_view(case_id).deliveries
    assert {(d.destination, d.kind, d.state) for d in made} == {
        ("pacs", "not-performed", D.CANCELLED),
        ("pacs", result[0].kind, D.PENDING),
        ("late", result[0].kind, D.PENDING),
    }
    for name in ("pacs", "late"):
        assert end(ledger, next_delivery(ledger, name, now=at(4)), now=at(4))
    ledger.resend_case(case_id, "anna", at(5), ["pacs"])
    assert [next_delivery(ledger, now=at(5)).artefact, ledger.claim_delivery("pacs", "s", 60, at(5))] == [
        result[0],
        None,
    ]


def test_a_word_that_is_overtaken_is_not_sent(ledger: Ledger) -> None:
    """A person retries while a worker writes the document: the case runs, and says nothing of the sort."""
    case_id = stopped(ledger)
    job = telling(ledger)
    assert job is not None
    ledger.retry_case(case_id, "anna", at(2))
    assert ledger.finish_telling(job.job_id, job.fence, [NO], ["pacs"], at(3))
    assert ledger.read.case_view(case_id).artefacts == ()
    job = claim(ledger, at(3))
    assert ledger.finish_job(job.job_id, job.fence, "{}", artefacts(case_id, 1), [], ["pacs"], at(4))
    assert telling(ledger, 5) is None


def test_a_word_that_can_not_be_said_is_seen(ledger: Ledger) -> None:
    """A worker that dies over it tries as often as an analysis; then the case says that its readers know nothing."""
    case_id = stopped(ledger)
    for n in range(3):
        assert telling(ledger, 100 * n + 1) is not None
        ledger.expire_leases(at(100 * n + 90))
    assert telling(ledger, 400) is None
    view = ledger.read.case_view(case_id)
    assert (view.case.state, [f.code for f in view.findings]) == (C.NEEDS_ATTENTION, ["NOT_TOLD"])
    ledger.retry_case(case_id, "anna", at(500))
    assert claim(ledger, at(500)).case_id == case_id, "the analysis, not the telling, is tried again"


def test_each_destination_gets_the_form_that_it_shows(ledger: Ledger) -> None:
    """The report, or the page where reports are not shown."""
    stopped(ledger)
    tell(ledger, NO, PAGE, pacs=frozenset({"not-performed"}))
    assert next_delivery(ledger, now=at(2)).artefact == PAGE
    assert ledger.claim_delivery("pacs", "s", 60, at(2)) is None


def delivering(ledger: Ledger) -> str:
    """A case with two results, one refused by the destination and one not sent yet."""
    case_id, job = queued(ledger), claim(ledger)
    assert ledger.finish_job(job.job_id, job.fence, "{}", artefacts(case_id, 2), [], ["pacs"], NOW)
    assert end(ledger, next_delivery(ledger), D.DEAD, "PEER_REFUSED_OBJECT")
    return case_id


def test_a_closed_case_leaves_nothing_waiting_and_can_be_taken_up_again(ledger: Ledger) -> None:
    """Closing cancels what was not sent; a retry sends the very same results, without another analysis."""
    case_id = delivering(ledger)
    ledger.cancel_case(case_id, "anna", at(1))
    assert [d.state for d in ledger.read.case_view(case_id).deliveries] == [D.CANCELLED] * 2
    assert ledger.claim_delivery("pacs", "s", 60, at(1)) is None
    assert (ledger.read.metrics().delivery_backlog, telling(ledger, 1)) == (0, None), "it has results: nobody is told"
    ledger.retry_case(case_id, "anna", at(2))
    for _ in range(2):
        assert end(ledger, next_delivery(ledger, now=at(3)), now=at(3))
    assert state_of(ledger, case_id) is C.DELIVERED


def test_what_was_on_the_wire_when_its_case_was_closed_is_not_repeated(ledger: Ledger) -> None:
    """A sending that fails after its case was closed is over."""
    case_id = delivering(ledger)
    sent = next_delivery(ledger, now=at(1))
    ledger.cancel_case(case_id, "anna", at(2))
    assert end(ledger, sent, D.RETRY_WAIT, "PEER_BUSY", at(3))
    assert {d.state for d in ledger.read.case_view(case_id).deliveries} == {D.CANCELLED}


def test_a_closed_case_without_results_is_told(ledger: Ledger) -> None:
    """A person closed it before it ran: its studies say that nothing was analysed. Once: what was told before stands."""
    closed = new_case(ledger)
    ledger.cancel_case(closed, "anna", NOW)
    assert tell(ledger, NO) == closed
    assert next_delivery(ledger, now=at(2)).artefact == NO
    again = stopped(ledger, "1.2.4")
    tell(ledger, replace(NO, sop_instance_uid="2.25.79", study_instance_uid="1.2.4"))
    ledger.cancel_case(again, "anna", at(3))
    assert telling(ledger, 4) is None
    assert next_delivery(ledger, now=at(4)).case_id == again, "closing does not stop the word"


def test_a_closed_case_is_not_taken_up_behind_a_newer_revision(ledger: Ledger) -> None:
    """Old results would arrive after newer ones."""
    case_id = delivering(ledger)
    ledger.cancel_case(case_id, "anna", at(1))
    new_case(ledger, "1.2.3.1.9")
    with pytest.raises(Refused, match="STATE_FORBIDS"):
        ledger.retry_case(case_id, "anna", at(2))


def test_the_word_does_not_cost_an_older_result(ledger: Ledger) -> None:
    """Results that a doubt holds are held and no more: once it is dismissed they go out, though the word went before."""
    first, job = queued(ledger), claim(ledger)
    assert ledger.finish_job(job.job_id, job.fence, "{}", artefacts(first, 1), [], ["pacs"], NOW)
    second = ledger.record([arrival(sha256=sha("other"), attributes={"Laterality": "R"})], at(1))[0].case_id
    assert second is not None
    assert (state_of(ledger, first), ledger.read.case(first).reason) == (C.NEEDS_ATTENTION, "HELD")
    assert ledger.move_case(second, C.RECEIVING, C.NEEDS_ATTENTION, "SIDE_CHANGED", "assemble", at(2))
    tell(ledger, NO, seconds=3)
    assert end(ledger, next_delivery(ledger, now=at(4)), now=at(4))
    ledger.decide(second, "dismissed", "anna", at(5))
    assert end(ledger, next_delivery(ledger, now=at(6)), now=at(6))
    assert (state_of(ledger, first), state_of(ledger, second)) == (C.DELIVERED, C.CLOSED)


def test_the_word_does_not_outdate_a_run_that_is_under_way(ledger: Ledger) -> None:
    """The images change while they are analysed: the newer revision is told of, and the older one's results are kept held."""
    first, job = queued(ledger), claim(ledger)
    second = ledger.record([arrival(sha256=sha("other"), attributes={"Laterality": "R"})], at(1))[0].case_id
    assert second is not None
    assert ledger.move_case(second, C.RECEIVING, C.NEEDS_ATTENTION, "SIDE_CHANGED", "assemble", at(2))
    tell(ledger, NO, seconds=3)
    assert ledger.finish_job(job.job_id, job.fence, "{}", artefacts(first, 1), [], ["pacs"], at(4))
    assert next_delivery(ledger, now=at(5)).artefact == NO
    assert ledger.claim_delivery("pacs", "s", 60, at(5)) is None
    assert state_of(ledger, first) is C.DELIVERING


def test_a_doubt_that_is_dismissed_takes_the_word_back(ledger: Ledger) -> None:
    """An older result stands, so what was said since is withdrawn where it is, and not sent where it isn't."""
    first, job = queued(ledger), claim(ledger)
    assert ledger.finish_job(job.job_id, job.fence, "{}", artefacts(first, 1), [], ["pacs", "away"], NOW)
    for name in ("pacs", "away"):
        assert end(ledger, next_delivery(ledger, name))
    second = ledger.record([arrival(sha256=sha("other"), attributes={"Laterality": "R"})], at(1))[0].case_id
    assert second is not None
    assert ledger.move_case(second, C.RECEIVING, C.NEEDS_ATTENTION, "SIDE_CHANGED", "assemble", at(2))
    word = telling(ledger, 3)
    assert word is not None
    assert ledger.finish_telling(word.job_id, word.fence, [NO], ["pacs", "away"], at(3))
    assert end(ledger, next_delivery(ledger, now=at(4)), now=at(4))
    ledger.decide(second, "dismissed", "anna", at(5))
    assert state_of(ledger, first) is C.DELIVERED
    back = ledger.claim_job(WITHDRAW, "worker", 60, at(6))
    assert back is not None
    assert ledger.withdrawn(back.job_id) == [("RETRACTED_QUALITY", {"pacs": (NO,)})]
    note = replace(NO, kind="rejection", sop_instance_uid="2.25.99", sop_class_uid="1.2.840.10008.5.1.4.1.1.88.59")
    assert ledger.finish_withdrawal(back.job_id, back.fence, [(note, ["pacs"])], at(6))
    assert next_delivery(ledger, now=at(7)).artefact == note
    assert ledger.claim_delivery("away", "s", 60, at(7)) is None
    assert (state_of(ledger, second), telling(ledger, 8)) == (C.CLOSED, None)


def test_a_person_s_decision_ends_what_was_to_be_told(ledger: Ledger) -> None:
    """The doubt is dismissed before the document was made: an older result stands, and no job is left."""
    first, job = queued(ledger), claim(ledger)
    assert ledger.finish_job(job.job_id, job.fence, "{}", artefacts(first, 1), [], ["pacs"], NOW)
    assert end(ledger, next_delivery(ledger))
    second = ledger.record([arrival(sha256=sha("other"), attributes={"Laterality": "R"})], at(1))[0].case_id
    assert second is not None
    assert ledger.move_case(second, C.RECEIVING, C.NEEDS_ATTENTION, "SIDE_CHANGED", "assemble", at(2))
    ledger.decide(second, "dismissed", "anna", at(3))
    assert (state_of(ledger, second), state_of(ledger, first)) == (C.CLOSED, C.DELIVERED)
    assert telling(ledger, 4) is None
    jobs = ledger.read.case_view(second).jobs
    assert [j.state for j in jobs] == [JobState.CANCELLED]
