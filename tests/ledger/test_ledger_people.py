"""What people and callers ask for: retry, cancel, send again, run it now; and what is refused."""

import pytest

from casework.case import JobState
from casework.errors import Refused
from casework.ledger import Ledger, Selector
from tests.ledger.ledger_help import (
    NOW,
    C,
    D,
    artefacts,
    at,
    claim,
    delivered,
    delivering,
    end,
    new_case,
    next_delivery,
    queued,
    record,
    state_of,
)  # fmt: skip

J = JobState


def test_retry_runs_the_same_inputs_again(ledger: Ledger) -> None:
    """Retrying a dead or rejected case queues it with the inputs it had and a fresh count of tries."""
    case_id = queued(ledger, "1.1")
    job = claim(ledger)
    assert ledger.fail_job(job.job_id, job.fence, "INTERNAL", None, NOW)
    ledger.retry_case(case_id, "anna", at(1))
    job = claim(ledger, at(1))
    assert (job.case_id, job.attempt) == (case_id, 1)
    assert ledger.reject_job(job.job_id, job.fence, "NO_USABLE_IMAGE", [], at(2))
    ledger.retry_case(case_id, "anna", at(3))
    assert claim(ledger, at(3)).case_id == case_id
    assert "anna" in {e.actor for e in ledger.read.timeline(case_id)}


def test_retry_cuts_a_wait_short(ledger: Ledger) -> None:
    """Retrying a case that waits for its time starts it now, before the analysis as before a sending."""
    case_id = queued(ledger)
    job = claim(ledger)
    assert ledger.fail_job(job.job_id, job.fence, "INTERNAL", at(900), NOW)
    ledger.retry_case(case_id, "anna", at(1))
    job = claim(ledger, at(1))
    assert job.attempt == 2
    assert ledger.finish_job(job.job_id, job.fence, "{}", artefacts(case_id, 1), [], ["pacs"], at(1))
    assert end(ledger, next_delivery(ledger), D.RETRY_WAIT, "PEER_BUSY")
    ledger.retry_case(case_id, "anna", at(2))
    assert ledger.read.case(case_id).reason == "DELIVERING"
    assert end(ledger, next_delivery(ledger, now=at(2)))


def test_retry_of_an_old_revision_is_refused(ledger: Ledger) -> None:
    """An older revision is not analysed again: it would overtake its successor."""
    old = queued(ledger, "1.1")
    job = claim(ledger)
    assert ledger.fail_job(job.job_id, job.fence, "INTERNAL", None, NOW)
    new_case(ledger, "1.2")
    with pytest.raises(Refused, match="STATE_FORBIDS"):
        ledger.retry_case(old, "anna", NOW)
    assert state_of(ledger, old) is C.NEEDS_ATTENTION


def test_cancel(ledger: Ledger) -> None:
    """A case that is not running can be closed; its job is cancelled, and a retry runs it after all."""
    case_id = queued(ledger)
    ledger.cancel_case(case_id, "anna", NOW, "wrong patient")
    case = ledger.read.case(case_id)
    assert (case.state, case.reason, case.detail) == (C.CLOSED, "CANCELLED", "wrong patient")
    assert ledger.claim_job("analyse", "w", 60, NOW) is None
    assert len(ledger.case_inputs(case_id)) == 1
    ledger.retry_case(case_id, "anna", NOW)
    assert claim(ledger).case_id == case_id


@pytest.mark.parametrize("action", ["retry_case", "cancel_case", "resend_case"])
def test_state_forbids(ledger: Ledger, action: str) -> None:
    """An action that a state doesn't allow is refused with STATE_FORBIDS; an unknown case is NOT_FOUND."""
    case_id = queued(ledger)
    claim(ledger)
    with pytest.raises(Refused, match="STATE_FORBIDS"):
        getattr(ledger, action)(case_id, "anna", NOW)
    with pytest.raises(Refused, match="NOT_FOUND"):
        getattr(ledger, action)("nobody", "anna", NOW)
    assert state_of(ledger, case_id) is C.RUNNING


def test_resend(ledger: Ledger) -> None:
    """A delivered case is sent again from the stored bytes, to a new destination too; nothing rendered is refused."""
    case_id = delivered(ledger)
    before = ledger.read.case_view(case_id).artefacts
    ledger.resend_case(case_id, "anna", at(5), destinations=["vna"])
    assert state_of(ledger, case_id) is C.DELIVERING
    assert end(ledger, next_delivery(ledger, "pacs", at(6)))
    assert end(ledger, next_delivery(ledger, "vna", at(6)))
    assert state_of(ledger, case_id) is C.DELIVERED
    assert ledger.read.case_view(case_id).artefacts == before

    nothing = delivering(ledger, "9.1", patient_id="9", study_instance_uid="9", destinations=())
    ledger.resend_case(nothing, "anna", NOW, destinations=["pacs"])
    assert end(ledger, next_delivery(ledger))
    empty = delivering(ledger, "8.1", patient_id="8", study_instance_uid="8", destinations=())
    with pytest.raises(Refused, match="STATE_FORBIDS"):
        ledger.resend_case(empty, "anna", NOW)


@pytest.mark.parametrize(
    "selector",
    [Selector(study_uids=("1.2.3",)), Selector(accession_number="A1"), Selector(patient_id="P1"),
     Selector(study_uids=("1.2.3",), accession_number="A1", patient_id="P1")],
)  # fmt: skip
def test_request(ledger: Ledger, selector: Selector) -> None:
    """A request by study, accession or patient marks the newest revision as wanted now; a repeat gets the same answer."""
    case_id = new_case(ledger)
    other = new_case(ledger, "9.1", patient_id="9", study_instance_uid="9", accession_number="A9")
    answer = ledger.request_analysis("key-1", "hash", selector, "ris", at(1), priority=7)
    assert (answer.case_ids, answer.replayed) == ((case_id,), False)
    case = ledger.read.case(case_id)
    assert (case.requested_at, case.priority) == (at(1), 7)
    assert ledger.read.case(other).requested_at is None
    again = ledger.request_analysis("key-1", "hash", selector, "ris", at(2))
    assert (again.case_ids, again.replayed) == ((case_id,), True)
    assert ledger.read.case(case_id).requested_at == at(1)
    with pytest.raises(Refused, match="IDEMPOTENCY_CONFLICT"):
        ledger.request_analysis("key-1", "other", selector, "ris", at(2))
    assert not ledger.request_analysis("key-1", "other", selector, "somebody else", at(2)).replayed


@pytest.mark.parametrize(
    "selector",
    [Selector(), Selector(accession_number="nope"), Selector(study_uids=("1.2.3", "9.9")), Selector(issuer_of_patient_id="X"),
     Selector(accession_number="A1", patient_id="P2")],
)  # fmt: skip
def test_request_for_what_is_not_here(ledger: Ledger, selector: Selector) -> None:
    """A request that names a study that never came, or nothing, is NOT_FOUND, and its key stays free."""
    new_case(ledger)
    with pytest.raises(Refused, match="NOT_FOUND"):
        ledger.request_analysis("key-1", "hash", selector, "ris", NOW)
    assert not ledger.request_analysis("key-1", "hash2", Selector(patient_id="P1"), "ris", NOW).replayed


def test_request_hurries_what_is_queued(ledger: Ledger) -> None:
    """A request with a priority moves a waiting job forward."""
    queued(ledger, "1.1")
    urgent = queued(ledger, "9.1", patient_id="9", study_instance_uid="9", accession_number="A9")
    ledger.request_analysis("", "", Selector(accession_number="A9"), "ris", NOW, priority=9)
    assert claim(ledger).case_id == urgent


def test_new_image_withdraws_a_request(ledger: Ledger) -> None:
    """An image that comes after the request makes the case wait for completeness again."""
    case_id = new_case(ledger, "1.1")
    ledger.request_analysis("", "", Selector(patient_id="P1"), "ris", at(1))
    record(ledger, "1.2", now=at(2))
    assert ledger.read.case(case_id).requested_at is None
