"""What the ledger knows of proof and of order: stored is not delivered, and an older result never follows a newer one."""

from typing import Any

import pytest

from casework.case import Proof
from casework.ledger import Ledger, Resend
from tests.ledger.ledger_help import (
    NOW,
    C,
    D,
    at,
    claim,
    delivered,
    delivering,
    end,
    next_delivery,
    record,
    sha,
    state_of,
)

RESEND = Resend(at(60), 1)


def store(ledger: Ledger, how: str = "commitment", now: Any = NOW) -> int:
    """Send and store the next object, which has yet to be proved."""
    sent = next_delivery(ledger, now=now)
    assert ledger.finish_delivery(sent.delivery_id, sent.fence, D.STORED, "0x0000", "DELIVERED", None, now, how)
    return sent.delivery_id


def uid_of(ledger: Ledger, case_id: str) -> str:
    """The SOP Instance UID of the case's only delivery."""
    return ledger.read.case_view(case_id).deliveries[0].sop_instance_uid


def proof(uid: str, **changes: Any) -> Proof:
    """A proof, or with held=False the lack of it."""
    return Proof(**{"sop_instance_uid": uid, "held": True, "how": "query", "code": "RESULT_NOT_HELD", **changes})


def test_stored_is_delivered_only_with_proof(ledger: Ledger) -> None:
    """A case stays DELIVERING with PROOF_PENDING until every stored object is proved; a second proof moves nothing."""
    case_id = delivering(ledger, count=2)
    store(ledger)
    assert ledger.unproved("pacs", NOW) == []  # the other object is still on its way
    store(ledger)
    assert (state_of(ledger, case_id), ledger.read.case(case_id).reason) == (C.DELIVERING, "PROOF_PENDING")
    rows = ledger.unproved("pacs", NOW)
    uids = [row.artefact.sop_instance_uid for row in rows]
    assert ledger.settle_proofs("pacs", [proof(uids[0])], RESEND, at(1)) == 1
    assert state_of(ledger, case_id) is C.DELIVERING
    assert ledger.settle_proofs("pacs", [proof(uid) for uid in uids], RESEND, at(2)) == 1
    assert state_of(ledger, case_id) is C.DELIVERED
    assert ledger.settle_proofs("pacs", [proof(uid) for uid in uids], RESEND, at(3)) == 0


def test_a_failed_proof_is_due_again_and_then_final(ledger: Ledger) -> None:
    """After the first failure the same object is PENDING when its time comes; after the last a person has to look."""
    case_id = delivering(ledger)
    store(ledger)
    bad = [proof(uid_of(ledger, case_id), held=False)]
    ledger.settle_proofs("pacs", bad, RESEND, at(1))
    assert ledger.promote_due(at(59)).total == 0
    assert ledger.promote_due(at(60)).total == 1
    store(ledger, now=at(61))
    ledger.settle_proofs("pacs", bad, RESEND, at(62))
    assert (state_of(ledger, case_id), ledger.read.case(case_id).reason) == (C.NEEDS_ATTENTION, "RESULT_NOT_HELD")
    assert ledger.promote_due(at(9999)).total == 0
    ledger.retry_case(case_id, "someone", at(10000))
    assert next_delivery(ledger, now=at(10001)).attempt == 1


def test_transactions_survive_and_belong_to_their_destination(ledger: Ledger, open_ledger: Any) -> None:
    """A transaction is known after a restart, only to its own destination, and by its own number."""
    case_id = delivering(ledger)
    key = store(ledger)
    ledger.ask_commitment("2.25.7", "pacs", [key], at(300), NOW)
    assert ledger.unproved("pacs", at(299)) == []
    again = open_ledger()
    told = [proof(uid_of(ledger, case_id), how="commitment")]
    assert not again.commitment_report("2.25.8", ["pacs"], told, RESEND, at(1))
    assert not again.commitment_report("2.25.7", ["other"], told, RESEND, at(1))
    assert state_of(ledger, case_id) is C.DELIVERING
    assert again.commitment_report("2.25.7", ["pacs"], told, RESEND, at(2))
    assert again.commitment_report("2.25.7", ["pacs"], told, RESEND, at(3))
    assert state_of(ledger, case_id) is C.DELIVERED
    assert again.read.verify_audit().ok


def test_a_proof_of_a_copy_that_was_lost_proves_nothing(ledger: Ledger) -> None:
    """Asked, denied, sent again: the late answer to the first question is about the lost copy; an answer to the last one counts."""
    case_id = delivering(ledger)
    key = store(ledger)
    ledger.ask_commitment("2.25.1", "pacs", [key], at(5), at(1))
    ledger.ask_commitment("2.25.2", "pacs", [key], at(20), at(10))
    lost = [proof(uid_of(ledger, case_id), how="commitment", held=False)]
    assert ledger.commitment_report("2.25.2", ["pacs"], lost, RESEND, at(11))
    ledger.promote_due(at(60))
    store(ledger, now=at(61))
    held = [proof(uid_of(ledger, case_id), how="commitment")]
    assert ledger.commitment_report("2.25.1", ["pacs"], held, RESEND, at(62))
    assert state_of(ledger, case_id) is C.DELIVERING
    ledger.ask_commitment("2.25.3", "pacs", [key], at(90), at(70))
    ledger.ask_commitment("2.25.4", "pacs", [key], at(99), at(95))
    assert ledger.commitment_report("2.25.3", ["pacs"], held, RESEND, at(96))
    assert state_of(ledger, case_id) is C.DELIVERED


def test_a_report_moves_only_what_it_was_asked_about(ledger: Ledger) -> None:
    """Objects that a transaction does not list are untouched, whatever its report says."""
    first = delivering(ledger)
    key = store(ledger)
    second = delivering(ledger, "1.2.4.1.1", patient_id="P2", study_instance_uid="1.2.4")
    store(ledger)
    ledger.ask_commitment("2.25.7", "pacs", [key], at(300), NOW)
    told = [proof(uid_of(ledger, case)) for case in (first, second)]
    assert ledger.commitment_report("2.25.7", ["pacs"], told, RESEND, at(1))
    assert (state_of(ledger, first), state_of(ledger, second)) == (C.DELIVERED, C.DELIVERING)


def test_committed_results_can_be_sent_again_by_a_person(ledger: Ledger) -> None:
    """Somebody who knows that the destination lost everything since can have the same bytes sent again."""
    case_id = delivering(ledger)
    store(ledger, "query")
    ledger.settle_proofs("pacs", [proof(uid_of(ledger, case_id))], RESEND, at(1))
    before = ledger.read.case_view(case_id).artefacts
    ledger.resend_case(case_id, "someone", at(2))
    assert next_delivery(ledger, now=at(3)).artefact in [row.artefact for row in before]


@pytest.fixture
def revisions(ledger: Ledger) -> tuple[str, str]:
    """Two revisions of one case, both on their way to one destination."""
    older = delivering(ledger)
    newer = record(ledger, "1.2.3.1.2")[0].case_id
    assert newer
    assert newer != older
    return older, newer


def render(ledger: Ledger, case_id: str) -> None:
    """Bring the newer revision to its outbox."""
    assert ledger.move_case(case_id, C.RECEIVING, C.STABLE, "", "assemble", NOW)
    assert ledger.queue_case(case_id, 0, "assemble", NOW)
    job = claim(ledger)
    made = [_artefact(case_id)]
    assert ledger.finish_job(job.job_id, job.fence, "{}", made, [], ["pacs"], NOW)


def _artefact(case_id: str) -> Any:
    from tests.ledger.ledger_help import artefacts

    (one, _) = artefacts(case_id, 1)
    assert one.sha256 == sha(f"{case_id}1")
    return one


def test_an_older_result_never_follows_a_newer_one(ledger: Ledger, revisions: tuple[str, str]) -> None:
    """Once a newer revision has results for a destination, nothing of an older one goes there any more."""
    _, newer = revisions
    render(ledger, newer)
    sent = next_delivery(ledger)
    assert sent.case_id == newer
    end(ledger, sent)
    assert ledger.claim_delivery("pacs", "sender", 60, at(1)) is None


def test_a_newer_result_waits_for_an_older_one_on_its_way(ledger: Ledger, revisions: tuple[str, str]) -> None:
    """While an older revision's object is being sent, the newer one's is not: it would arrive first."""
    older, newer = revisions
    sent = next_delivery(ledger)
    assert sent.case_id == older
    render(ledger, newer)
    assert ledger.claim_delivery("pacs", "second sender", 60, at(1)) is None
    end(ledger, sent)
    assert next_delivery(ledger, now=at(2)).case_id == newer


def test_one_destination_does_not_order_another(ledger: Ledger) -> None:
    """The order holds within a destination: another patient's and another destination's deliveries go on."""
    delivered(ledger)
    case_id = delivering(ledger, "1.2.4.1.1", patient_id="P2", study_instance_uid="1.2.4", destinations=("pacs", "two"))
    assert {next_delivery(ledger, name).case_id for name in ("pacs", "two")} == {case_id}
