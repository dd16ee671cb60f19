"""What people decide about images: corrections, sides, identities, exclusions; and in which order revisions run and leave."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from casework.case import CaseState, Verdict
from casework.config import Assembly, Policy, Settings
from casework.errors import Refused
from casework.flows.assemble import Assembler
from casework.ledger import EXCLUSIONS, Ledger
from casework.reasons import REASONS
from tests.ledger.ledger_help import (
    NOW,
    C,
    D,
    arrival,
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
    state_of,
)

V = Verdict
BORN: dict[str, str] = {"PatientBirthDate": "19700101", "PatientSex": "F", "Laterality": "L"}
OTHER_SIDE: dict[str, Any] = {"attributes": {"Laterality": "R"}}
OTHER_PATIENT: dict[str, Any] = {"patient_id": "P2"}
OTHER_STUDY: dict[str, Any] = {"study_instance_uid": "9.9"}
OTHER_REGION: dict[str, Any] = {"attributes": {**BORN, "AnatomicRegionModifierCode": "24028007"}}
OTHER_ORDER: dict[str, Any] = {"accession_number": "OTHER"}
OTHER_BIRTH: dict[str, Any] = {"attributes": {**BORN, "PatientBirthDate": "19800101"}}


def again(ledger: Ledger, uid: str = "1.1", content: str = "corrected", **changes: Any) -> Any:
    """The same SOP Instance UID with other bytes."""
    return ledger.record([arrival(uid, sha256=sha(content), **changes)], at(5))[0]


def keeper(ledger: Ledger, policy: Policy | None = None) -> Callable[[float], None]:
    """The real assembly; called with seconds, it lets so much time pass and looks."""
    settings = replace(Settings(), assembly=Assembly(quiet_s=10), policy=policy or Policy())
    assembler = Assembler(ledger, settings)
    clock = [0.0]

    def look(seconds: float) -> None:
        assembler.step(at(10 + clock[0]), clock[0])
        clock[0] += seconds
        assembler.step(at(10 + clock[0]), clock[0])

    return look


def run(ledger: Ledger, *destinations: str) -> str:
    """Analyse the next case; its id."""
    job = claim(ledger, at(100))
    assert ledger.finish_job(job.job_id, job.fence, '{"made":1}', artefacts(job.case_id, 1), [], destinations, at(100))
    return job.case_id


def newest(ledger: Ledger, patient: str = "P1") -> Any:
    """The newest revision of a patient's case."""
    return next(item.case for item in ledger.read.list_cases(q=patient).items if item.newest)


# --- corrections ----------------------------------------------------------------------------------------------


def test_a_correction_waits_for_a_person_and_makes_a_revision(ledger: Ledger) -> None:
    """Other bytes for the same side and patient are kept aside; accepted, they are used by a new revision; both stay."""
    old = delivered(ledger, "1.1", "1.2")
    assert again(ledger).code == "UID_CONFLICT"
    view = ledger.read.case_view(old)
    assert [(d.code, d.subject, d.sha256, d.stops) for d in view.doubts] == [
        ("UID_CONFLICT", "1.1", sha("corrected"), False)
    ]
    assert view.case.state is C.DELIVERED, "nothing stops"
    new = ledger.decide(old, "accepted", "anna", at(6))
    case = ledger.read.case(new)
    assert (case.revision, case.predecessor, case.state) == (2, old, C.RECEIVING)
    assert {r.sha256 for r in ledger.case_inputs(new)} == {sha("corrected"), sha("1.2")}
    assert {r.sha256 for r in ledger.case_inputs(old)} == {sha("1.1"), sha("1.2")}, "the old revision keeps its own"
    assert [(f.code, f.subject, f.detail) for f in ledger.read.case_view(new).findings] == [
        ("INPUT_REPLACED", "1.2.3", "1")
    ]
    out = ledger.read.exclusions(new)
    assert [(e.sop_instance_uid, e.sha256, e.replaced_by, e.code) for e in out] == [
        ("1.1", sha("1.1"), sha("corrected"), "INPUT_REPLACED")
    ]
    assert ledger.read.intake_findings(new) == [], "what was accepted is not kept aside any more"
    assert {e.event for e in ledger.read.timeline(old)} >= {"case.decided", "instances.excluded"}
    assert ledger.read.verify_audit().ok


def test_a_dismissed_correction_changes_nothing(ledger: Ledger) -> None:
    """The first bytes stand, no revision opens, and the same bytes again ask nobody again."""
    old = delivered(ledger, "1.1")
    again(ledger)
    assert ledger.decide(old, "dismissed", "anna", at(6)) == old
    assert again(ledger).verdict is V.KEPT_ASIDE
    assert [d.decision for d in ledger.read.case_view(old).doubts] == ["dismissed"]
    with pytest.raises(Refused, match="NOT_FOUND"):
        ledger.decide(old, "accepted", "anna", at(7))


def test_of_several_corrections_the_last_one_counts(ledger: Ledger) -> None:
    """Two corrections of one image: accepting takes the later one; its bytes and the others' are duplicates from then on."""
    old = delivered(ledger, "1.1")
    again(ledger, content="second")
    again(ledger, content="third")
    new = ledger.decide(old, "accepted", "anna", at(6))
    assert [r.sha256 for r in ledger.case_inputs(new)] == [sha("third")]
    assert sorted(d.decision for d in ledger.read.case_view(new).doubts) == ["accepted", "dismissed"]
    assert [again(ledger, content=c).verdict for c in ("third",)] == [V.DUPLICATE]
    assert record(ledger, "1.1")[0].verdict is V.KEPT_ASIDE, "it was replaced: that it comes again is news"


def test_a_correction_that_is_taken_back_is_a_correction_again(ledger: Ledger) -> None:
    """Right, corrected to left, right again, left again: each time a person decides, and what is active follows."""
    case_id = ledger.record([arrival("1.1", sha256=sha("right"), attributes={"Laterality": "R"})], at(1))[0].case_id
    for n, side in enumerate(("left", "right", "left")):
        attributes = {"Laterality": side[0].upper()}
        came = ledger.record([arrival("1.1", sha256=sha(side), attributes=attributes)], at(10 * n + 2))[0]
        assert (came.verdict, came.code) == (V.KEPT_ASIDE, "SIDE_CHANGED")
        assert ledger.stopped_by(newest(ledger).id) == "SIDE_CHANGED"
        case_id = ledger.decide(newest(ledger).id, "accepted", "Dr A", at(10 * n + 5))
        assert [row.header.attributes["Laterality"] for row in ledger.case_inputs(case_id)] == [side[0].upper()]
        twice = ledger.record([arrival("1.1", sha256=sha(side), attributes=attributes)], at(10 * n + 6))[0]
        assert twice.verdict is V.DUPLICATE
        assert ledger.stopped_by(case_id) == ""


def test_what_was_replaced_by_mistake_comes_back_when_the_mistake_is_taken_out(ledger: Ledger) -> None:
    """Left, replaced by right, right taken out: of the left one that is sent again a person decides, it is not dropped."""
    ledger.record([arrival("1.1", sha256=sha("left"), attributes={"Laterality": "L"})], at(1))
    ledger.record([arrival("1.1", sha256=sha("right"), attributes={"Laterality": "R"})], at(2))
    case_id = ledger.decide(newest(ledger).id, "accepted", "Dr A", at(3))
    case_id = ledger.exclude(case_id, "1.1", "EXCLUDED_WRONG_SIDE", "Dr A", at(4))
    assert ledger.record([arrival("1.1", sha256=sha("right"))], at(5))[0].verdict is V.DUPLICATE
    came = [arrival("1.1", sha256=sha("left"), attributes={"Laterality": "L"})] * 2
    assert [(r.verdict, r.code) for r in ledger.record(came, at(6))] == [(V.KEPT_ASIDE, "SIDE_CHANGED")] * 2
    assert ledger.case_inputs(newest(ledger).id) == []
    ledger.decide(newest(ledger).id, "accepted", "Dr A", at(7))
    assert [row.sha256 for row in ledger.case_inputs(newest(ledger).id)] == [sha("left")]


def test_bytes_that_were_said_to_be_another_patients_never_come_back_by_themselves(ledger: Ledger) -> None:
    """Corrected to P2, taken out there for quality, sent again as P1: a person decides, P1's case gets nothing."""
    ledger.record([arrival("1.1", sha256=sha("as P1"))], at(1))
    again(ledger, content="as P2", **OTHER_PATIENT)
    ledger.decide(newest(ledger).id, "accepted", "Dr A", at(6))
    ledger.exclude(newest(ledger, "P2").id, "1.1", "EXCLUDED_POOR_QUALITY", "Dr A", at(7))
    came = ledger.record([arrival("1.1", sha256=sha("as P1"))], at(8))[0]
    assert (came.verdict, came.code) == (V.KEPT_ASIDE, "IDENTITY_CHANGED")
    assert [ledger.case_inputs(newest(ledger, who).id) for who in ("P1", "P2")] == [[], []]


def test_a_policy_accepts_no_side_or_patient(ledger: Ledger) -> None:
    """Of an image that came with other pixels and then with another side nothing is accepted without a person."""
    new_case(ledger, "1.1", attributes=BORN)
    again(ledger, content="pixels", attributes=BORN)
    ((case_id, uid, seen),) = ledger.corrections()
    again(ledger, content="side", **OTHER_SIDE)
    assert ledger.corrections() == []
    with pytest.raises(Refused, match="STATE_FORBIDS"):
        ledger.decide(case_id, "accepted", "policy", at(7), uid, seen=seen)
    keeper(ledger, Policy(accept_corrections=True))(20)
    assert (newest(ledger).state, newest(ledger).reason) == (C.NEEDS_ATTENTION, "SIDE_CHANGED")


def test_a_policy_may_accept_corrections(ledger: Ledger) -> None:
    """With policy.accept_corrections the keeper does it, in its own name, and never for a side or a patient."""
    look = keeper(ledger, Policy(accept_corrections=True))
    delivered(ledger, "1.1", "1.2")
    again(ledger)
    again(ledger, "1.2", content="mirrored", **OTHER_SIDE)
    look(0)
    case = newest(ledger)
    assert {r.sha256 for r in ledger.case_inputs(case.id)} == {sha("corrected"), sha("1.2")}
    assert [(d.code, d.decision, d.decided_by) for d in ledger.read.case_view(case.id).doubts] == [
        ("SIDE_CHANGED", "", ""),
        ("UID_CONFLICT", "accepted", "policy"),
    ]
    keeper(ledger)(20)
    assert (newest(ledger).state, newest(ledger).reason) == (C.NEEDS_ATTENTION, "SIDE_CHANGED")


# --- side and identity ----------------------------------------------------------------------------------------

STOPS: list[tuple[dict[str, Any], str]] = [
    (OTHER_SIDE, "SIDE_CHANGED"),
    ({"modality": "MG"}, "SIDE_CHANGED"),
    (OTHER_REGION, "SIDE_CHANGED"),
    (OTHER_ORDER, "IDENTITY_CHANGED"),
    (OTHER_PATIENT, "IDENTITY_CHANGED"),
    (OTHER_STUDY, "IDENTITY_CHANGED"),
    (OTHER_BIRTH, "IDENTITY_CHANGED"),
]


@pytest.mark.parametrize(("changes", "code"), STOPS)
@pytest.mark.parametrize("make", [new_case, queued, delivering, delivered])
def test_another_side_or_patient_under_a_known_uid_stops_the_case(
    ledger: Ledger, make: Callable[..., str], changes: dict[str, Any], code: str
) -> None:
    """Wherever the case stands, it ends with a person and a coded reason; nothing is merged, run or sent meanwhile."""
    first = make(ledger, "1.1", attributes=BORN)
    answer = again(ledger, **{"attributes": BORN, **changes})
    assert (answer.verdict, answer.code) == (V.KEPT_ASIDE, code)
    assert REASONS[code].zh
    keeper(ledger)(20)
    case = newest(ledger)
    assert (case.state, case.reason) == (C.NEEDS_ATTENTION, code)
    assert [r.sha256 for r in ledger.case_inputs(case.id)] == [sha("1.1")], "the first stands"
    assert ledger.claim_job("analyse", "w", 60, at(200)) is None
    assert ledger.claim_delivery("pacs", "s", 60, at(200)) is None, "what was on its way is held"
    with pytest.raises(Refused, match="DECISION_NEEDED"):
        ledger.retry_case(case.id, "anna", at(201))
    if make is delivering:
        assert (state_of(ledger, first), ledger.read.case(first).reason) == (C.NEEDS_ATTENTION, "HELD")
        with pytest.raises(Refused, match="DECISION_NEEDED"):
            ledger.resend_case(first, "anna", at(202))


def test_nobody_can_hurry_past_a_doubt(ledger: Ledger) -> None:
    """A request for analysis doesn't run a case whose side is in doubt."""
    from casework.ledger import Selector

    new_case(ledger, "1.1")
    again(ledger, **OTHER_SIDE)
    ledger.request_analysis("k", "h", Selector(patient_id="P1"), "ris", at(6), 100)
    keeper(ledger)(0)
    assert (newest(ledger).state, newest(ledger).reason) == (C.NEEDS_ATTENTION, "SIDE_CHANGED")


def test_an_accepted_side_is_used_from_then_on(ledger: Ledger) -> None:
    """The revision after the decision uses the corrected image; an undelivered result of the wrong one is never sent."""
    old = delivering(ledger, "1.1")
    again(ledger, **OTHER_SIDE)
    keeper(ledger)(20)
    new = ledger.decide(newest(ledger).id, "accepted", "anna", at(40))
    assert state_of(ledger, old) is C.SUPERSEDED
    assert ledger.claim_delivery("pacs", "s", 60, at(41)) is None
    assert [r.header.attributes["Laterality"] for r in ledger.case_inputs(new)] == ["R"]
    keeper(ledger)(20)
    assert state_of(ledger, new) is C.QUEUED
    assert run(ledger, "pacs") == new
    assert next_delivery(ledger).case_id == new


def test_a_dismissed_side_lets_the_first_result_go(ledger: Ledger) -> None:
    """The revision that waited is closed with a reason and what was held is sent."""
    old = delivering(ledger, "1.1")
    again(ledger, **OTHER_SIDE)
    keeper(ledger)(20)
    flagged = newest(ledger).id
    assert ledger.decide(flagged, "dismissed", "anna", at(40)) == flagged
    assert (ledger.read.case(flagged).state, ledger.read.case(flagged).reason) == (C.CLOSED, "DISMISSED")
    assert (state_of(ledger, old), ledger.read.case(old).reason) == (C.DELIVERING, "DELIVERING")
    sent = next_delivery(ledger, now=at(41))
    assert sent.case_id == old
    again(ledger, content="once more", **OTHER_SIDE)
    assert ledger.read.case(old).reason == "HELD"
    assert end(ledger, sent)
    ledger.decide(newest(ledger).id, "dismissed", "anna", at(50))
    assert state_of(ledger, old) is C.DELIVERED, "what was on the wire when the doubt came counts"


def test_a_dismissed_doubt_of_a_case_that_never_ran_lets_it_run(ledger: Ledger) -> None:
    """Before any result there is nothing to fall back on: the case goes on with the first images."""
    new_case(ledger, "1.1")
    again(ledger, **OTHER_SIDE)
    keeper(ledger)(20)
    case_id = ledger.decide(newest(ledger).id, "dismissed", "anna", at(40))
    keeper(ledger)(20)
    assert state_of(ledger, case_id) is C.QUEUED


def test_an_accepted_identity_moves_the_image_to_its_patient(ledger: Ledger) -> None:
    """After an ID correction each patient has his own image; the first patient's empty case says that nothing is left."""
    old = delivered(ledger, "1.1")
    again(ledger, **OTHER_PATIENT)
    keeper(ledger)(20)
    ledger.decide(newest(ledger).id, "accepted", "anna", at(40))
    assert [r.sha256 for r in ledger.case_inputs(newest(ledger, "P2").id)] == [sha("corrected")]
    assert ledger.case_inputs(newest(ledger).id) == []
    assert [r.sha256 for r in ledger.case_inputs(old)] == [sha("1.1")]
    keeper(ledger)(20)
    assert (newest(ledger).state, newest(ledger).reason) == (C.REJECTED, "ALL_EXCLUDED")
    assert newest(ledger, "P2").state is C.QUEUED


def test_a_study_of_two_patients_stops_both(ledger: Ledger) -> None:
    """Neither case runs until a person took out what is wrong, or said that both stand; they are never made one."""
    record(ledger, "1.1")
    record(ledger, "1.2", patient_id="P2")
    keeper(ledger)(20)
    for patient in ("P1", "P2"):
        case = newest(ledger, patient)
        assert (case.state, case.reason) == (C.NEEDS_ATTENTION, "PATIENT_IDENTITY_CONFLICT")
        with pytest.raises(Refused, match="STATE_FORBIDS"):
            ledger.decide(case.id, "accepted", "anna", at(50))
    record(ledger, "1.3", patient_id="P2")
    ledger.decide(newest(ledger).id, "dismissed", "anna", at(50))
    keeper(ledger)(20)
    assert newest(ledger).state is C.QUEUED
    assert newest(ledger, "P2").reason == "PATIENT_IDENTITY_CONFLICT", "each case has its own decision"


@pytest.mark.parametrize(
    ("known", "stated", "joined", "said"),
    [
        (BORN, BORN, True, ["ISSUER_ASSUMED"]),
        (BORN, {"PatientBirthDate": "19700101"}, True, ["ISSUER_ASSUMED"]),
        (BORN, {**BORN, "PatientBirthDate": "19700102"}, False, []),
        (BORN, {**BORN, "PatientSex": "M"}, False, []),
        ({}, BORN, False, ["ISSUER_UNCERTAIN"]),
        ({}, {}, False, ["ISSUER_UNCERTAIN"]),
    ],
)
@pytest.mark.parametrize("issuers", [("", "H"), ("H", "")])
def test_the_same_id_with_and_without_issuer(  # noqa: PLR0917 - a table
    ledger: Ledger,
    issuers: tuple[str, str],
    known: dict[str, str],
    stated: dict[str, str],
    joined: bool,
    said: list[str],
) -> None:
    """Birth date and sex decide whether it is one patient; the case says on what ground, and silence joins nobody."""
    one = new_case(ledger, "1.1", study_instance_uid="1", issuer_of_patient_id=issuers[0], attributes=known)
    two = new_case(ledger, "2.1", study_instance_uid="2", issuer_of_patient_id=issuers[1], attributes=stated)
    assert (one == two) is joined
    for case_id in {one, two}:
        assert [f.code for f in ledger.read.case_view(case_id).findings] == said


def test_two_issuers_stay_two_patients(ledger: Ledger) -> None:
    """Different issuers are different patients, also through a study without one that was joined to the first."""
    one = new_case(ledger, "1.1", study_instance_uid="1", attributes=BORN)
    assert new_case(ledger, "2.1", study_instance_uid="2", issuer_of_patient_id="H", attributes=BORN) == one
    assert new_case(ledger, "3.1", study_instance_uid="3", issuer_of_patient_id="G", attributes=BORN) != one


# --- exclusion ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("uid", "left"), [("1.1", 2), ("1.2.3.2", 2), ("1.2.3", 0)])
def test_a_person_takes_images_out(ledger: Ledger, uid: str, left: int) -> None:
    """An instance, a series or a study leaves the case in a new revision that says why; the old one keeps its images."""
    old = delivering(ledger, "1.1", "1.2")
    record(ledger, "2.1", series_instance_uid="1.2.3.2")
    new = ledger.exclude(old, uid, "EXCLUDED_WRONG_PATIENT", "cli:anna", at(6), "seen on the monitor")
    assert len(ledger.case_inputs(new)) == left
    assert len(ledger.case_inputs(old)) == 2
    assert {f.code for f in ledger.read.case_view(new).findings} == {"EXCLUDED_WRONG_PATIENT"}
    out = ledger.read.exclusions(new)
    assert {(e.actor, e.detail) for e in out} == {("cli:anna", "seen on the monitor")}
    assert state_of(ledger, old) is (C.DELIVERING if uid == "1.2.3.2" else C.SUPERSEDED)
    keeper(ledger)(20)
    case = newest(ledger)
    assert (case.state, case.reason) == ((C.QUEUED, "QUEUED") if left else (C.REJECTED, "ALL_EXCLUDED"))
    with pytest.raises(Refused, match="NOT_FOUND"):
        ledger.exclude(new, uid, "EXCLUDED_OTHER", "cli:anna", at(60))


def test_what_was_taken_out_may_come_back(ledger: Ledger) -> None:
    """Putting it back opens a revision with the images of the first one, of its own."""
    old = delivered(ledger, "1.1", "1.2")
    ledger.exclude(old, "1.1", "EXCLUDED_POOR_QUALITY", "anna", at(6))
    keeper(ledger)(20)
    run(ledger)
    back = ledger.restore(old, "1.1", "anna", at(110))
    assert ledger.read.case(back).revision == 3
    assert len(ledger.case_inputs(back)) == 2
    ledger.exclude(back, "1.1", "EXCLUDED_OTHER", "anna", at(120))
    assert record(ledger, "1.1")[0].verdict is V.DUPLICATE, "the same bytes don't come back by being sent again"
    assert len(ledger.case_inputs(newest(ledger).id)) == 1


def test_only_one_image_comes_back_under_one_uid(ledger: Ledger) -> None:
    """Of a replaced image, its correction and a third one that came after an exclusion, the last one is put back, alone."""
    old = delivered(ledger, "1.1", "1.2")
    again(ledger)
    ledger.decide(old, "accepted", "anna", at(6))
    ledger.exclude(old, "1.2", "EXCLUDED_OTHER", "anna", at(7))
    new = ledger.restore(old, "1.2.3", "anna", at(7))
    assert {r.sha256 for r in ledger.case_inputs(new)} == {sha("corrected"), sha("1.2")}, "what was replaced stays so"
    ledger.exclude(old, "1.1", "EXCLUDED_OTHER", "anna", at(7))
    new = ledger.restore(old, "1.1", "anna", at(8))
    assert {r.sha256 for r in ledger.case_inputs(new)} == {sha("corrected"), sha("1.2")}
    ledger.exclude(old, "1.1", "EXCLUDED_OTHER", "anna", at(9))
    assert again(ledger, content="third").verdict is V.ACCEPTED
    ledger.exclude(old, "1.1", "EXCLUDED_OTHER", "anna", at(10))
    new = ledger.restore(old, "1.2.3", "anna", at(11))
    assert {r.sha256 for r in ledger.case_inputs(new)} == {sha("third"), sha("1.2")}


def test_a_corrected_image_after_an_exclusion_is_new(ledger: Ledger) -> None:
    """Once the wrong one is out, the modality's corrected image under the same UID is simply taken."""
    old = delivered(ledger, "1.1", "1.2")
    ledger.exclude(old, "1.1", "EXCLUDED_WRONG_SIDE", "anna", at(6))
    answer = again(ledger, **OTHER_SIDE)
    assert answer.verdict is V.ACCEPTED
    assert {r.sha256 for r in ledger.case_inputs(newest(ledger).id)} == {sha("corrected"), sha("1.2")}
    with pytest.raises(Refused, match="STATE_FORBIDS"):
        ledger.restore(old, "1.1", "anna", at(7))
    assert len(ledger.case_inputs(newest(ledger).id)) == 2


def test_a_reason_is_needed(ledger: Ledger) -> None:
    """Only the catalogue's exclusion codes are taken; each has words."""
    case_id = new_case(ledger, "1.1")
    with pytest.raises(Refused, match="REQUEST_INVALID"):
        ledger.exclude(case_id, "1.1", "DELIVERED", "anna", NOW)
    assert all(REASONS[code].zh for code in EXCLUSIONS)


def test_the_count_of_the_pacs_knows_what_was_taken_out(ledger: Ledger) -> None:
    """An excluded image came: the case isn't short of it."""
    case_id = new_case(ledger, "1.1", "1.2")
    ledger.exclude(case_id, "1.1", "EXCLUDED_OTHER", "anna", at(6))
    (study,) = ledger.case_studies(case_id)
    assert (study.received, study.excluded) == (1, 1)
    again(ledger, "1.2")
    ledger.decide(case_id, "accepted", "anna", at(7))
    (study,) = ledger.case_studies(case_id)
    assert (study.received, study.excluded) == (1, 1), "a replaced one counts once"


# --- the order of revisions -----------------------------------------------------------------------------------


def test_an_older_revision_never_arrives_last(ledger: Ledger) -> None:
    """Once a newer revision has results, nothing of the older one is sent any more."""
    old = delivering(ledger, "1.1", count=2)
    assert end(ledger, next_delivery(ledger))
    record(ledger, "1.2", now=at(5))
    keeper(ledger)(20)
    new = run(ledger, "pacs")
    assert (state_of(ledger, old), state_of(ledger, new)) == (C.SUPERSEDED, C.DELIVERING)
    assert next_delivery(ledger).case_id == new
    assert ledger.claim_delivery("pacs", "s", 60, at(200)) is None


def test_what_is_on_the_wire_arrives_first(ledger: Ledger) -> None:
    """While an older revision's object is being sent, the newer one waits at that destination, and at no other."""
    old = delivering(ledger, "1.1", destinations=("pacs", "other"))
    sending = next_delivery(ledger)
    record(ledger, "1.2", now=at(5))
    keeper(ledger)(20)
    run(ledger, "pacs", "other")
    assert ledger.claim_delivery("pacs", "s", 60, at(50)) is None
    assert next_delivery(ledger, "other").case_id != old
    assert end(ledger, sending, D.RETRY_WAIT, "PEER_UNREACHABLE")
    ledger.promote_due(at(50) + timedelta(days=1))
    assert next_delivery(ledger).case_id != old
    assert ledger.claim_delivery("pacs", "s", 60, at(50)) is None, "the older one's retry is never due"


def test_a_slow_older_revision_is_not_overtaken(ledger: Ledger) -> None:
    """Revisions of a case run one after the other, so that each can name its predecessor."""
    old = queued(ledger, "1.1")
    job = claim(ledger)
    record(ledger, "1.2", now=at(5))
    keeper(ledger)(20)
    assert newest(ledger).state is C.QUEUED
    assert ledger.claim_job("analyse", "w", 60, at(30)) is None
    assert ledger.finish_job(job.job_id, job.fence, '{"m":1}', artefacts(old, 1), [], ["pacs"], at(31))
    assert claim(ledger, at(32)).case_id == newest(ledger).id


def test_a_result_on_an_image_that_was_taken_out_meanwhile_is_kept_and_not_sent(ledger: Ledger) -> None:
    """An exclusion while the analysis runs: its result stays in the record, superseded, and goes nowhere."""
    old = queued(ledger, "1.1", "1.2")
    job = claim(ledger)
    ledger.exclude(old, "1.1", "EXCLUDED_WRONG_PATIENT", "anna", at(5))
    assert ledger.finish_job(job.job_id, job.fence, '{"m":1}', artefacts(old, 1), [], ["pacs"], at(6))
    assert state_of(ledger, old) is CaseState.SUPERSEDED
    assert ledger.read.case_view(old).deliveries == ()
    assert len(ledger.read.case_view(old).artefacts) == 2
