"""What a study was told before it left its case is withdrawn there, and a person's word stands until a person changes it."""

from dataclasses import replace

import pytest

from casework.case import WITHDRAW, Artefact, Verdict
from casework.ledger import ClaimedJob, Ledger
from tests.ledger.ledger_help import (
    NOW,
    C,
    D,
    arrival,
    artefacts,
    at,
    claim,
    delivered,
    end,
    new_case,
    next_delivery,
    record,
    sha,
    state_of,
)
from tests.ledger.test_changes import keeper, newest, run

RIGHT, WRONG = "1", "9"  # studies


def of_study(case_id: str, study: str) -> Artefact:
    """A result in one study."""
    uid = f"2.25.{study}{int(case_id, 16)}"[:60]
    return replace(artefacts(case_id, 1)[0], study_instance_uid=study, sop_instance_uid=uid, sha256=sha(uid))


def note_of(one: Artefact) -> Artefact:
    """A rejection note in its study."""
    return replace(one, kind="rejection", sop_instance_uid=f"{one.sop_instance_uid}.1")


def two_studies(ledger: Ledger) -> str:
    """A delivered case with a result in each of its two studies."""
    new_case(ledger, "1.1", study_instance_uid=RIGHT)
    case_id = new_case(ledger, "9.1", study_instance_uid=WRONG)
    keeper(ledger)(20)
    return analyse(ledger, case_id, RIGHT, WRONG)


def analyse(ledger: Ledger, case_id: str, *studies: str) -> str:
    """Run a queued case, and deliver what it says in these studies."""
    job = claim(ledger, at(100))
    assert job.case_id == case_id
    made = [of_study(case_id, study) for study in studies]
    assert ledger.finish_job(job.job_id, job.fence, '{"made":1}', made, [], ["pacs"], at(100))
    for _ in studies:
        assert end(ledger, next_delivery(ledger, now=at(100)), now=at(100))
    return case_id


def withdrawing(ledger: Ledger) -> ClaimedJob | None:
    return ledger.claim_job(WITHDRAW, "worker", 60, at(200))


def withdraw(ledger: Ledger, one: Artefact) -> Artefact:
    """A worker puts the note for one object on its way."""
    job = withdrawing(ledger)
    assert job is not None
    assert ledger.finish_withdrawal(job.job_id, job.fence, [(note_of(one), ["pacs"])], at(200))
    return note_of(one)


@pytest.mark.parametrize(
    ("code", "title"), [("EXCLUDED_WRONG_PATIENT", "RETRACTED_SAFETY"), ("EXCLUDED_POOR_QUALITY", "RETRACTED_QUALITY")]
)
def test_a_study_that_left_is_told_at_once(ledger: Ledger, code: str, title: str) -> None:
    """The note leaves while the case is still being put together; what it withdraws is never sent again; the rest stands."""
    old = two_studies(ledger)
    new = ledger.exclude(old, WRONG, code, "anna", at(150))
    job = withdrawing(ledger)
    assert job is not None
    gone = of_study(old, WRONG)
    assert (job.case_id, ledger.withdrawn(job.job_id)) == (new, [(title, {"pacs": (gone,)})])
    assert ledger.finish_withdrawal(job.job_id, job.fence, [(note_of(gone), ["pacs"])], at(200))
    assert state_of(ledger, new) is C.RECEIVING
    assert next_delivery(ledger, now=at(201)).artefact == note_of(gone)
    assert ("STUDY_WITHDRAWN", WRONG) in {(f.code, f.subject) for f in ledger.read.case_view(new).findings}
    view = ledger.read.case_view(old)
    assert {(a.artefact.study_instance_uid, a.withdrawn) for a in view.artefacts} == {(RIGHT, ""), (WRONG, title)}
    assert (view.case.state, view.case.retraction) == (C.DELIVERED, ""), (
        "the other study's result stands until the new one"
    )
    ledger.resend_case(old, "anna", at(202), ["pacs", "away"])
    assert next_delivery(ledger, "away", now=at(203)).artefact == of_study(old, RIGHT)
    assert ledger.claim_delivery("away", "s", 60, at(203)) is None
    assert ledger.read.verify_audit().ok


def test_a_case_of_which_nothing_is_left_is_retracted(ledger: Ledger) -> None:
    """All its studies left: the earlier revision says so, instead of that every destination has its result."""
    old = two_studies(ledger)
    for study in (RIGHT, WRONG):
        ledger.exclude(old, study, "EXCLUDED_WRONG_SIDE", "anna", at(150))
    assert (state_of(ledger, old), ledger.read.case(old).retraction) == (C.RETRACTED, "RETRACTED_SAFETY")
    assert withdrawing(ledger) is not None
    assert withdrawing(ledger) is not None
    assert withdrawing(ledger) is None


def test_images_that_move_to_their_own_patient_leave_no_result_behind(ledger: Ledger) -> None:
    """A correction names another patient; accepted, it empties the study here, whose result is withdrawn for safety."""
    old = two_studies(ledger)
    moved = arrival("9.1", study_instance_uid=WRONG, patient_id="P2", sha256=sha("moved"))
    assert ledger.record([moved], at(150))[0].verdict is Verdict.KEPT_ASIDE
    ledger.decide(newest(ledger).id, "accepted", "anna", at(151))
    job = withdrawing(ledger)
    assert job is not None
    assert ledger.withdrawn(job.job_id) == [("RETRACTED_SAFETY", {"pacs": (of_study(old, WRONG),)})]


def test_what_no_destination_has_needs_no_note(ledger: Ledger) -> None:
    """Results that were never sent are only never sent."""
    old = delivered(ledger, "1.1", destinations=("pacs",))
    new = new_case(ledger, "9.1", study_instance_uid=WRONG)
    keeper(ledger)(20)
    job = claim(ledger, at(100))
    assert ledger.finish_job(
        job.job_id, job.fence, "{}", [of_study(new, WRONG), *artefacts(new, 1)], [], ["pacs"], at(100)
    )
    ledger.exclude(new, WRONG, "EXCLUDED_WRONG_PATIENT", "anna", at(101))
    assert withdrawing(ledger) is None
    assert old != new


def test_a_note_that_is_refused_needs_a_person_and_goes_again(ledger: Ledger) -> None:
    """The case that goes on bears it: delivered or not, it needs attention, and a retry sends the note."""
    old = two_studies(ledger)
    new = ledger.exclude(old, WRONG, "EXCLUDED_WRONG_PATIENT", "anna", at(150))
    note = withdraw(ledger, of_study(old, WRONG))
    refused = next_delivery(ledger, now=at(201))
    keeper(ledger)(500)
    analysed = claim(ledger, at(600))
    assert ledger.finish_job(analysed.job_id, analysed.fence, "{}", [of_study(new, RIGHT)], [], ["pacs"], at(600))
    assert end(ledger, refused, D.DEAD, "PEER_NO_CONTEXT", at(601))
    assert end(ledger, next_delivery(ledger, now=at(602)), now=at(602))
    assert (state_of(ledger, new), ledger.read.case(new).reason) == (C.NEEDS_ATTENTION, "PEER_NO_CONTEXT")
    ledger.retry_case(new, "anna", at(603))
    again = next_delivery(ledger, now=at(604))
    assert again.artefact == note
    assert end(ledger, again, now=at(604))
    assert state_of(ledger, new) is C.DELIVERED


def test_a_retraction_takes_the_older_revisions_with_it(ledger: Ledger) -> None:
    """Else the one before would be the valid word again, made from the same images."""
    old = two_studies(ledger)
    new = new_case(ledger, "1.2", study_instance_uid=RIGHT)
    keeper(ledger)(20)
    analyse(ledger, new, RIGHT, WRONG)
    assert state_of(ledger, old) is C.SUPERSEDED
    seen = ledger.retraction(new)
    every = {of_study(case, study) for case in (old, new) for study in (RIGHT, WRONG)}
    assert (set(seen.reached["pacs"]), seen.older) == (every, (old,))
    assert ledger.retract_case(seen, "RETRACTED_SAFETY", [], "anna", at(300))
    assert {state_of(ledger, one) for one in (old, new)} == {C.RETRACTED}
    assert {ledger.read.case(one).retraction for one in (old, new)} == {"RETRACTED_SAFETY"}


def retracted(ledger: Ledger) -> str:
    """A delivered case that a person withdrew."""
    case_id = delivered(ledger, "1.1", "1.2")
    assert ledger.retract_case(ledger.retraction(case_id), "RETRACTED_SAFETY", [], "anna", at(5))
    return case_id


def closed(ledger: Ledger) -> str:
    """A case that a person closed."""
    case_id = new_case(ledger, "1.1", "1.2")
    ledger.cancel_case(case_id, "anna", at(5), "patient refused")
    return case_id


@pytest.mark.parametrize(("make", "code"), [(retracted, "WITHDRAWN_BEFORE"), (closed, "CLOSED_BEFORE")])
def test_a_person_s_word_stands_until_a_person_changes_it(ledger: Ledger, make: object, code: str) -> None:
    """A late image opens a revision that waits for a person, and so does the next one; a retry runs it, and later ones go by themselves."""
    make(ledger)  # type: ignore[operator]
    record(ledger, "1.3", now=at(6))
    keeper(ledger)(20)
    assert (newest(ledger).state, newest(ledger).reason) == (C.NEEDS_ATTENTION, code)
    record(ledger, "1.4", now=at(40))
    keeper(ledger)(60)
    case = newest(ledger)
    assert (case.revision, case.state, case.reason) == (3, C.NEEDS_ATTENTION, code)
    ledger.retry_case(case.id, "anna", at(100))
    assert run(ledger) == case.id
    record(ledger, "1.5", now=at(200))
    keeper(ledger)(300)
    assert (newest(ledger).revision, newest(ledger).state) == (4, C.QUEUED)


def test_what_was_mended_goes_on_by_itself(ledger: Ledger) -> None:
    """A person withdrew the result and took out the image that was wrong: the others are analysed."""
    case_id = retracted(ledger)
    ledger.exclude(case_id, "1.1", "EXCLUDED_WRONG_PATIENT", "anna", at(6))
    keeper(ledger)(20)
    assert newest(ledger).state is C.QUEUED
    ledger.restore(case_id, "1.1", "anna", at(50))
    keeper(ledger)(60)
    assert newest(ledger).reason == "WITHDRAWN_BEFORE", "put back: nothing is mended"


def test_a_retraction_stops_what_has_not_begun(ledger: Ledger) -> None:
    """A newer revision of the same images waits in the queue: it is judged again."""
    case_id = delivered(ledger, "1.1")
    record(ledger, "1.2", now=NOW)
    keeper(ledger)(20)
    assert newest(ledger).state is C.QUEUED
    assert ledger.retract_case(ledger.retraction(case_id), "RETRACTED_SAFETY", [], "anna", at(50))
    keeper(ledger)(60)
    assert newest(ledger).reason == "WITHDRAWN_BEFORE"
    assert ledger.claim_job("analyse", "w", 60, at(200)) is None
