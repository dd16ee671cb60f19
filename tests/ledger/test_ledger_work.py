"""Cases, jobs and deliveries on their way: reasons, leases, fences, tries, and who may do what."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from casework.case import CaseState, JobState
from casework.errors import Defect, Refused
from casework.ledger import Ledger
from tests.ledger.ledger_help import (
    NOW,
    C,
    D,
    Note,
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
    sha,
    stable,
    state_of,
)  # fmt: skip

J = JobState


# --- before the work ------------------------------------------------------------------------------------------


def test_waiting_has_a_reason(ledger: Ledger) -> None:
    """That a case waits is a code on it; it is audited when it changes and only then."""
    case_id = new_case(ledger)
    for _ in range(3):
        assert ledger.set_reason(case_id, C.RECEIVING, "COUNT_INCOMPLETE", at(1), "3 of 5")
    case = ledger.read.case(case_id)
    assert (case.reason, case.detail, case.state) == ("COUNT_INCOMPLETE", "3 of 5", C.RECEIVING)
    assert [e.event for e in ledger.read.timeline(case_id)].count("case.reason") == 1
    assert not ledger.set_reason(case_id, C.STABLE, "QUIET_TIME", at(2))
    with pytest.raises(KeyError):
        ledger.set_reason(case_id, C.RECEIVING, "NO_SUCH_CODE", at(2))


def test_expected_counts(ledger: Ledger) -> None:
    """The newest answer about a study counts; a study that only the PACS knows is listed with nothing received."""
    case_id = new_case(ledger, "1.1", "1.2")
    ledger.set_expected(case_id, "1.2.3", 5, "PACS", NOW)
    ledger.set_expected(case_id, "1.2.3", 6, "PACS", at(1))
    ledger.set_expected(case_id, "9.9", 4, "PACS", at(1))
    here, elsewhere = ledger.case_studies(case_id)
    assert (here.study_uid, here.received, here.expected, here.expected_source) == ("1.2.3", 2, 6, "PACS")
    assert (elsewhere.study_uid, elsewhere.received, elsewhere.expected, elsewhere.last_at) == ("9.9", 0, 4, None)


def test_cases_by_state(ledger: Ledger) -> None:
    """Cases are listed by any set of states, oldest first."""
    one = new_case(ledger, "1.1", patient_id="1", study_instance_uid="1")
    two = stable(ledger, "2.1", patient_id="2", study_instance_uid="2")
    assert [c.id for c in ledger.cases_in(C.RECEIVING, C.STABLE)] == [one, two]
    assert [c.id for c in ledger.cases_in(C.STABLE)] == [two]


def test_losing_the_race_is_not_an_error(ledger: Ledger) -> None:
    """A move from a state that the case has left changes nothing and says so."""
    case_id = stable(ledger)
    assert not ledger.move_case(case_id, C.RECEIVING, C.STABLE, "", "assemble", NOW)
    assert ledger.queue_case(case_id, 0, "assemble", NOW)
    assert ledger.queue_case(case_id, 0, "assemble", NOW) is None


def test_decision_on_an_old_look_is_void(ledger: Ledger) -> None:
    """A case that got an image after somebody looked at it is not moved by what he saw."""
    case_id = new_case(ledger, "1.1")
    seen = ledger.read.case(case_id)
    record(ledger, "1.2", now=at(1))
    assert not ledger.move_case(case_id, C.RECEIVING, C.STABLE, "", "assemble", at(1), seen=seen)
    seen = ledger.read.case(case_id)
    assert ledger.move_case(case_id, C.RECEIVING, C.STABLE, "", "assemble", at(1), seen=seen)


@pytest.mark.parametrize("to", [C.QUEUED, C.RUNNING, C.RENDERED, C.DELIVERING, C.DELIVERED, C.SUPERSEDED])
def test_moves_that_belong_to_work(ledger: Ledger, to: CaseState) -> None:
    """Nobody moves a case into a state that a job or a delivery has to bring about."""
    case_id = stable(ledger)
    with pytest.raises(Defect, match="ILLEGAL_MOVE"):
        ledger.move_case(case_id, C.STABLE, to, "", "test", NOW)


def test_inputs_are_frozen_when_a_case_leaves_reception(ledger: Ledger) -> None:
    """A case that is rejected before any work still says which images it had."""
    case_id = new_case(ledger, "1.1", "1.2")
    assert ledger.move_case(case_id, C.RECEIVING, C.REJECTED, "MODALITY_NOT_ACCEPTED", "assemble", NOW)
    record(ledger, "1.3")
    assert len(ledger.case_inputs(case_id)) == 2


def test_findings_are_kept_once(ledger: Ledger) -> None:
    """The same remark twice is one; it appears beside the image it is about."""
    case_id = new_case(ledger, "1.1")
    for _ in range(2):
        ledger.add_findings(case_id, [Note("VIEW_UNKNOWN", "1.1"), Note("MODALITY_MISSING", "US")], "assemble", NOW)
    ledger.add_findings(case_id, [], "assemble", NOW)
    view = ledger.read.case_view(case_id)
    assert [(f.code, f.subject, f.source) for f in view.findings] == [
        ("VIEW_UNKNOWN", "1.1", "assemble"),
        ("MODALITY_MISSING", "US", "assemble"),
    ]
    assert view.inputs[0].findings == (("VIEW_UNKNOWN", ""),)


# --- jobs -----------------------------------------------------------------------------------------------------


def test_claim_order(ledger: Ledger) -> None:
    """The most urgent job is claimed first, then the oldest; a claimed one is not claimed again."""
    ids = [
        queued(ledger, f"{n}.1", patient_id=str(n), study_instance_uid=str(n), priority=priority)
        for n, priority in enumerate([0, 5, 0, 5])
    ]
    assert [claim(ledger).case_id for _ in range(4)] == [ids[1], ids[3], ids[0], ids[2]]
    assert ledger.claim_job("analyse", "w", 60, NOW) is None
    assert ledger.claim_job("other", "w", 60, NOW) is None


def test_claim_counts_the_try_and_moves_the_case(ledger: Ledger) -> None:
    """A claim raises attempt and fence and moves the case to RUNNING before anything runs."""
    case_id = queued(ledger)
    job = claim(ledger)
    assert (job.attempt, job.fence, job.max_attempts) == (1, 1, 3)
    assert state_of(ledger, case_id) is C.RUNNING
    row = ledger.read.case_view(case_id).jobs[0]
    assert (row.state, row.owner, row.lease_until) == (J.LEASED, "worker", at(60))


def test_finish(ledger: Ledger) -> None:
    """Finishing stores result, artefacts and findings, plans one delivery per DICOM object and destination."""
    case_id = queued(ledger)
    job = claim(ledger)
    note = [Note("MODALITY_MISSING", "US")]
    assert ledger.finish_job(job.job_id, job.fence, '{"a":1}', artefacts(case_id), note, ["one", "two", "one"], NOW)
    view = ledger.read.case_view(case_id)
    assert (view.case.state, view.result_json) == (C.DELIVERING, '{"a":1}')
    assert [a.artefact for a in view.artefacts] == artefacts(case_id)
    assert [(d.destination, d.label) for d in view.deliveries] == [
        ("one", "object 1"), ("one", "object 2"), ("two", "object 1"), ("two", "object 2"),
    ]  # fmt: skip
    assert ledger.read.artefact(case_id, view.artefacts[0].id) == view.artefacts[0]
    with pytest.raises(Refused, match="NOT_FOUND"):
        ledger.read.artefact("other", view.artefacts[0].id)


def test_finish_without_destination(ledger: Ledger) -> None:
    """With no destination the case is DELIVERED and says NO_DESTINATION."""
    case = ledger.read.case(delivering(ledger, destinations=()))
    assert (case.state, case.reason) == (C.DELIVERED, "NO_DESTINATION")


def _finish(ledger: Ledger, job_id: int, fence: int) -> bool:
    return ledger.finish_job(job_id, fence, "{}", artefacts("ab"), [], ["pacs"], at(200))


def _reject(ledger: Ledger, job_id: int, fence: int) -> bool:
    return ledger.reject_job(job_id, fence, "NO_USABLE_IMAGE", [Note("VIEW_UNKNOWN")], at(200))


def _fail(ledger: Ledger, job_id: int, fence: int) -> bool:
    return ledger.fail_job(job_id, fence, "INTERNAL", None, at(200))


def _beat(ledger: Ledger, job_id: int, fence: int) -> bool:
    return ledger.heartbeat(job_id, fence, 60, at(200))


@pytest.mark.parametrize("act", [_finish, _reject, _fail, _beat])
def test_fence(ledger: Ledger, act: Callable[..., bool]) -> None:
    """A worker whose lease was given to another changes nothing; the new holder's word counts."""
    case_id = queued(ledger)
    old = claim(ledger)
    assert ledger.expire_leases(at(61)).jobs_ready == 1
    new = claim(ledger, at(62))
    assert (new.job_id, new.fence, new.attempt) == (old.job_id, 2, 2)
    audit = ledger.read.verify_audit()
    assert not act(ledger, old.job_id, old.fence)
    assert ledger.read.verify_audit() == audit
    assert state_of(ledger, case_id) is C.RUNNING
    assert ledger.read.case_view(case_id).artefacts == ()
    assert act(ledger, new.job_id, new.fence)


def test_heartbeat_keeps_the_lease(ledger: Ledger) -> None:
    """A lease that is prolonged in time does not expire."""
    queued(ledger)
    job = claim(ledger)
    assert ledger.heartbeat(job.job_id, job.fence, 60, at(50))
    assert ledger.read.next_due() == at(110)
    assert ledger.expire_leases(at(100)).total == 0
    assert ledger.expire_leases(at(111)).total == 1


def test_expired_lease_is_claimed_without_a_sweep(ledger: Ledger) -> None:
    """A worker that asks for work takes over what a dead one left, even if nobody swept."""
    queued(ledger)
    claim(ledger)
    assert ledger.claim_job("analyse", "w2", 60, at(30)) is None
    assert claim(ledger, at(61)).attempt == 2


def test_tries_are_bounded(ledger: Ledger) -> None:
    """A job that kills its worker each time is DEAD after max_attempts, and the case needs attention."""
    case_id = queued(ledger)
    for number in range(3):
        assert claim(ledger, at(100 * number)).attempt == number + 1
        swept = ledger.expire_leases(at(100 * number + 61))
        assert (swept.jobs_ready, swept.jobs_dead) == ((1, 0) if number < 2 else (0, 1))
    case = ledger.read.case(case_id)
    assert (case.state, case.reason, case.detail) == (C.NEEDS_ATTENTION, "ATTEMPTS_EXHAUSTED", "LEASE_EXPIRED")
    assert ledger.claim_job("analyse", "w", 60, at(999)) is None


def test_failed_try_waits_for_its_time(ledger: Ledger) -> None:
    """A failed try puts the case back into the queue until its time; the last one needs attention with the error."""
    case_id = queued(ledger)
    for number in range(3):
        job = claim(ledger, at(100 * number))
        assert ledger.fail_job(
            job.job_id, job.fence, "DECODER_CRASHED", at(100 * number + 50), at(100 * number + 10), "SIGSEGV"
        )
        if number == 2:
            break
        case = ledger.read.case(case_id)
        assert (case.state, case.reason, case.detail) == (C.QUEUED, "RETRY_LATER", "DECODER_CRASHED SIGSEGV")
        assert ledger.read.next_due() == at(100 * number + 50)
        assert ledger.promote_due(at(100 * number + 49)).total == 0
        assert ledger.claim_job("analyse", "w", 60, at(100 * number + 49)) is None
        assert ledger.promote_due(at(100 * number + 50)).jobs_ready == 1
    case = ledger.read.case(case_id)
    assert (case.state, case.reason, case.detail) == (
        C.NEEDS_ATTENTION,
        "ATTEMPTS_EXHAUSTED",
        "DECODER_CRASHED SIGSEGV",
    )


def test_deterministic_error_is_not_repeated(ledger: Ledger) -> None:
    """A failure without a time to retry is final at once."""
    case_id = queued(ledger)
    job = claim(ledger)
    assert ledger.fail_job(job.job_id, job.fence, "RESULT_SELF_CHECK", None, NOW, "laterality")
    case = ledger.read.case(case_id)
    assert (case.state, case.reason, case.detail) == (C.NEEDS_ATTENTION, "RESULT_SELF_CHECK", "laterality")
    assert ledger.read.case_view(case_id).jobs[0].state is J.DEAD


def test_reject(ledger: Ledger) -> None:
    """Input that can't be analysed ends the case as REJECTED with code and findings, without a dead job."""
    case_id = queued(ledger)
    job = claim(ledger)
    assert ledger.reject_job(job.job_id, job.fence, "NO_USABLE_IMAGE", [Note("VIEW_UNKNOWN", "1.2.3.1.1")], NOW)
    view = ledger.read.case_view(case_id)
    assert (view.case.state, view.case.reason) == (C.REJECTED, "NO_USABLE_IMAGE")
    assert view.jobs[0].state is J.SUCCEEDED
    assert view.inputs[0].findings == (("VIEW_UNKNOWN", ""),)


# --- deliveries -----------------------------------------------------------------------------------------------


def test_destinations_are_independent(ledger: Ledger) -> None:
    """A destination that holds everything it was given delays no other one."""
    case_id = delivering(ledger, destinations=("slow", "fast"), count=2)
    assert next_delivery(ledger, "slow").artefact.label == "object 1"
    assert end(ledger, next_delivery(ledger, "fast"))
    assert end(ledger, next_delivery(ledger, "fast"))
    assert ledger.claim_delivery("fast", "s", 60, NOW) is None
    assert state_of(ledger, case_id) is C.DELIVERING
    assert ledger.read.metrics().deliveries == {"fast": {"stored": 2}, "slow": {"sending": 1, "pending": 1}}
    assert ledger.read.metrics().delivery_backlog == 2


def test_last_one_makes_it_delivered(ledger: Ledger) -> None:
    """A case is DELIVERED when every object reached every destination, with or without warnings."""
    case_id = delivering(ledger, destinations=("pacs", "vna"))
    assert end(ledger, next_delivery(ledger, "pacs"), D.STORED_WITH_WARNING)
    assert state_of(ledger, case_id) is C.DELIVERING
    assert end(ledger, next_delivery(ledger, "vna"))
    case = ledger.read.case(case_id)
    assert (case.state, case.reason) == (C.DELIVERED, "DELIVERED")


def test_retry_of_a_sending(ledger: Ledger) -> None:
    """A sending that failed for now waits for its time, keeps the time of its first try, and the case says so."""
    case_id = delivering(ledger)
    first = next_delivery(ledger)
    assert end(ledger, first, D.RETRY_WAIT, "PEER_BUSY", at(5))
    case = ledger.read.case(case_id)
    assert (case.reason, case.detail) == ("RETRY_LATER", "pacs PEER_BUSY")
    assert ledger.read.next_due() == at(30)
    assert ledger.read.why(case_id).cases[0].waiting_until == at(30)
    assert ledger.promote_due(at(29)).total == 0
    assert ledger.promote_due(at(30)).deliveries == 1
    again = next_delivery(ledger, now=at(31))
    assert (again.delivery_id, again.attempt, again.fence, again.first_at) == (first.delivery_id, 2, 2, first.first_at)
    assert end(ledger, again)
    assert state_of(ledger, case_id) is C.DELIVERED


def test_unknown_outcome_is_sent_again(ledger: Ledger) -> None:
    """A sending whose end nobody saw becomes pending again, through UNKNOWN: by its sender or when its lease ends."""
    case_id = delivering(ledger, count=2)
    one, two = next_delivery(ledger), next_delivery(ledger)
    assert end(ledger, one, D.UNKNOWN, "PEER_OUTCOME_UNKNOWN")
    assert ledger.heartbeat_delivery(two.delivery_id, two.fence, 60, at(30))
    assert ledger.expire_leases(at(61)).deliveries == 0
    assert ledger.expire_leases(at(91)).deliveries == 1
    assert ledger.promote_due(at(91)).deliveries == 1
    assert not end(ledger, two)
    assert not ledger.heartbeat_delivery(two.delivery_id, two.fence, 60, at(92))
    again = next_delivery(ledger, now=at(92))
    assert (again.delivery_id, again.artefact) == (one.delivery_id, one.artefact)
    states = [str(e.detail["to"]) for e in ledger.read.timeline(case_id) if e.subject == f"delivery:{two.delivery_id}"]
    assert states == ["sending", "unknown", "pending"]


def test_dead_sending_needs_attention_and_stops_nobody(ledger: Ledger) -> None:
    """A refused object makes the case need attention at once, while the other objects go on being sent."""
    case_id = delivering(ledger, count=2)
    assert end(ledger, next_delivery(ledger), D.DEAD, "PEER_REFUSED_OBJECT")
    case = ledger.read.case(case_id)
    assert (case.state, case.reason, case.detail) == (C.NEEDS_ATTENTION, "PEER_REFUSED_OBJECT", "pacs 0x0000")
    assert end(ledger, next_delivery(ledger))
    assert state_of(ledger, case_id) is C.NEEDS_ATTENTION
    ledger.retry_case(case_id, "anna", at(9))
    again = next_delivery(ledger, now=at(9))
    assert (again.attempt, again.first_at) == (1, at(9))
    assert ledger.claim_delivery("pacs", "s", 60, at(9)) is None
    assert end(ledger, again)
    assert state_of(ledger, case_id) is C.DELIVERED


def test_nobody_waits_for_the_results_of_a_closed_case(ledger: Ledger) -> None:
    """What was not sent when a case was cancelled is neither sent nor counted as a backlog that grows old."""
    case_id = delivering(ledger, count=2)
    assert end(ledger, next_delivery(ledger), D.DEAD, "PEER_REFUSED_OBJECT")
    assert (ledger.read.metrics().delivery_backlog, ledger.read.metrics().oldest_delivery_at is None) == (1, False)
    ledger.cancel_case(case_id, "anna", at(9))
    assert (ledger.read.metrics().delivery_backlog, ledger.read.metrics().oldest_delivery_at) == (0, None)
    assert ledger.claim_delivery("pacs", "s", 60, at(10)) is None


def test_sending_ends_only_in_its_states(ledger: Ledger) -> None:
    """A sending can't end as COMMITTED or PENDING."""
    delivering(ledger)
    sent = next_delivery(ledger)
    for state in (D.COMMITTED, D.PENDING, D.COMMIT_FAILED):
        with pytest.raises(Defect, match="ILLEGAL_MOVE"):
            end(ledger, sent, state)
    assert end(ledger, sent)


def test_successor_supersedes(ledger: Ledger) -> None:
    """When a newer revision is delivered, the older one is SUPERSEDED; one that is still being sent when it is made, at once."""
    old = delivered(ledger, "1.1")
    new = delivered(ledger, "1.2")
    assert ledger.read.case(new).predecessor == old
    assert (state_of(ledger, old), state_of(ledger, new)) == (C.SUPERSEDED, C.DELIVERED)
    assert ledger.read.case(old).reason == "SUPERSEDED"

    slow = delivering(ledger, "1.3")
    late = next_delivery(ledger)
    newer = delivering(ledger, "1.4")
    assert state_of(ledger, slow) is C.SUPERSEDED
    assert ledger.claim_delivery("pacs", "sender", 60, NOW) is None, "what is on the wire arrives first"
    assert end(ledger, late)
    assert end(ledger, next_delivery(ledger))
    assert state_of(ledger, newer) is C.DELIVERED


def test_first_bytes_win(ledger: Ledger) -> None:
    """An object that was rendered once is never replaced by another rendering under the same UID."""
    case_id = queued(ledger)
    job = claim(ledger)
    made = artefacts(case_id, 1)
    assert ledger.finish_job(job.job_id, job.fence, "{}", made, [], ["pacs"], NOW)
    assert ledger.move_case(case_id, C.DELIVERING, C.NEEDS_ATTENTION, "INTERNAL", "test", NOW)
    ledger.retry_case(case_id, "anna", NOW)
    again = claim(ledger)
    other = [type(made[0])(**{f: getattr(a, f) for f in a.__slots__} | {"sha256": sha("other")}) for a in made]
    assert ledger.finish_job(again.job_id, again.fence, "{}", other, [], ["pacs"], NOW)
    view = ledger.read.case_view(case_id)
    assert [a.artefact for a in view.artefacts] == made
    assert len(view.deliveries) == 1
    assert end(ledger, next_delivery(ledger))
    assert state_of(ledger, case_id) is C.DELIVERED


def test_a_destination_is_spared_what_its_profile_leaves_out(ledger: Ledger) -> None:
    """Each destination gets the kinds that it takes and kinds that no profile knows; a later destination likewise."""
    case_id = queued(ledger, "1.1")
    job = claim(ledger)
    (sr, capture, preview), note = artefacts(case_id), artefacts(f"{case_id}0", 1)[0]
    made = [sr, replace(capture, kind="capture"), preview, replace(note, kind="not-performed")]
    withheld = {"legacy": {"sr"}, "late": {"capture"}}
    assert ledger.finish_job(job.job_id, job.fence, "{}", made, [], ["pacs", "legacy"], NOW, withheld=withheld)
    sent = {(d.destination, d.kind) for d in ledger.read.case_view(case_id).deliveries}
    everywhere = {("pacs", k) for k in ("sr", "capture", "not-performed")}
    assert sent == everywhere | {("legacy", "capture"), ("legacy", "not-performed")}
    for destination, count in (("pacs", 3), ("legacy", 2)):
        for _ in range(count):
            assert end(ledger, next_delivery(ledger, destination))
    assert state_of(ledger, case_id) is C.DELIVERED
    ledger.resend_case(case_id, "anna", at(5), ["pacs", "legacy", "late"], withheld=withheld)
    late = [d.kind for d in ledger.read.case_view(case_id).deliveries if d.destination == "late"]
    assert sorted(late) == ["not-performed", "sr"]
