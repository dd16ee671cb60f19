"""A case that was not analysed: what says so is stored with the verdict, sent, and never taken for a result."""

import pytest

from casework.case import Artefact, JobState
from casework.errors import Refused
from casework.ledger import Ledger
from tests.ledger.ledger_help import NOW, C, D, Note, artefacts, at, claim, end, next_delivery, queued, sha, state_of

NO = Artefact(
    "not-performed", "application/dicom", "1.2.3", "1.2.8", "1.2.840.10008.5.1.4.1.1.88.11", "2.25.77", sha("no"), 90, "no"
)  # fmt: skip


def rejected(ledger: Ledger, *, attention: bool = False) -> str:
    """A case that was stopped, with the document that says so on its way to one destination."""
    case_id, job = queued(ledger), claim(ledger)
    assert ledger.reject_job(
        job.job_id,
        job.fence,
        "NO_USABLE_IMAGE",
        [Note("VIEW_UNKNOWN", "1.2.3.1.1")],
        NOW,
        result_json='{"performed":false}',
        artefacts=[NO],
        destinations=["pacs"],
        attention=attention,
    )
    return case_id


@pytest.mark.parametrize(
    ("attention", "state", "job"), [(False, C.REJECTED, "succeeded"), (True, C.NEEDS_ATTENTION, "dead")]
)
def test_the_word_goes_out_with_the_verdict(ledger: Ledger, attention: bool, state: str, job: str) -> None:
    """The document is kept and sent although the case is not delivered, and sending it does not deliver the case."""
    case_id = rejected(ledger, attention=attention)
    view = ledger.read.case_view(case_id)
    assert (view.case.state, view.result_json) == (state, '{"performed":false}')
    assert (view.jobs[0].state, [a.artefact for a in view.artefacts]) == (JobState(job), [NO])
    assert ledger.read.metrics().delivery_backlog == 1
    sent = next_delivery(ledger)
    assert sent.artefact == NO
    assert end(ledger, sent)
    assert (state_of(ledger, case_id), ledger.read.case(case_id).reason) == (state, "NO_USABLE_IMAGE")


def test_a_document_that_is_refused_is_seen(ledger: Ledger) -> None:
    """When a destination refuses the document the case needs attention: its silence would read as negative."""
    case_id = rejected(ledger)
    assert end(ledger, next_delivery(ledger), D.DEAD, "PEER_REFUSED_OBJECT")
    case = ledger.read.case(case_id)
    assert (case.state, case.reason) == (C.NEEDS_ATTENTION, "PEER_REFUSED_OBJECT")


def test_retry_analyses_again_and_never_counts_the_document_as_a_result(ledger: Ledger) -> None:
    """Retry of a stopped case runs the analysis, also after a dead sending; sending the document again is no delivery."""
    case_id = rejected(ledger, attention=True)
    assert end(ledger, next_delivery(ledger), D.DEAD, "PEER_REFUSED_OBJECT")
    ledger.resend_case(case_id, "anna", at(1))
    assert state_of(ledger, case_id) is C.NEEDS_ATTENTION
    assert end(ledger, next_delivery(ledger, now=at(1)), D.DEAD, "PEER_REFUSED_OBJECT", at(2))
    ledger.retry_case(case_id, "anna", at(3))
    job = claim(ledger, at(3))
    assert ledger.claim_delivery("pacs", "s", 60, at(3)) is None, "not while it is analysed again"
    assert ledger.finish_job(job.job_id, job.fence, "{}", artefacts(case_id, 1), [], ["pacs"], at(4))
    assert end(ledger, next_delivery(ledger, now=at(4)), now=at(4))
    assert state_of(ledger, case_id) is C.DELIVERED
    assert ledger.claim_delivery("pacs", "s", 60, at(5)) is None, "the document says what is no longer so"


def test_without_a_study_to_tell_there_is_nothing_to_send_again(ledger: Ledger) -> None:
    """A rejected case without a document has nothing to send."""
    case_id, job = queued(ledger), claim(ledger)
    assert ledger.reject_job(job.job_id, job.fence, "NO_USABLE_IMAGE", [], NOW)
    with pytest.raises(Refused, match="STATE_FORBIDS"):
        ledger.resend_case(case_id, "anna", NOW)
