"""What the doors record: one verdict for each arrival, one home for each image."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import event

from casework.case import Arrival, CaseState, JobState, Verdict
from casework.errors import Refused
from casework.ledger import Ledger
from casework.reasons import REASONS
from tests.ledger.ledger_help import (
    NOW,
    C,
    arrival,
    at,
    claim,
    delivered,
    delivering,
    new_case,
    queued,
    record,
    sha,
    stable,
    state_of,
)  # fmt: skip

V = Verdict


def test_batch_is_answered_in_order(ledger: Ledger) -> None:
    """Each arrival of a batch gets its own answer in the order of arrival: accepted, duplicate, kept aside, refused."""
    batch = [
        arrival("1.1"),
        arrival("1.2"),
        arrival("1.1"),
        arrival("1.2", sha256=sha("other")),
        arrival("1.9", verdict=V.KEPT_ASIDE, code="UID_MISMATCH"),
        arrival("1.9", verdict=V.REFUSED, code="TRUNCATED", header=None, sha256="", size=0),
        arrival("1.3"),
    ]
    answers = ledger.record(batch, NOW)
    assert [(a.verdict, a.code) for a in answers] == [
        (V.ACCEPTED, ""),
        (V.ACCEPTED, ""),
        (V.DUPLICATE, "DUPLICATE"),
        (V.KEPT_ASIDE, "UID_CONFLICT"),
        (V.KEPT_ASIDE, "UID_MISMATCH"),
        (V.REFUSED, "TRUNCATED"),
        (V.ACCEPTED, ""),
    ]
    assert answers[2].instance_id == answers[0].instance_id
    assert [a.instance_id is None for a in answers] == [False, False, False, True, True, True, False]
    assert len({a.case_id for a in answers if a.case_id}) == 1
    assert ledger.record([], NOW) == []


def test_same_bytes_again_add_no_row(ledger: Ledger) -> None:
    """The same instance five times, in one batch and later, is one row, one case, and doesn't reopen anything."""
    first = record(ledger, "1.1", "1.1", "1.1")
    case_id = first[0].case_id
    assert case_id
    assert ledger.move_case(case_id, C.RECEIVING, C.STABLE, "", "t", NOW)
    again = record(ledger, "1.1", "1.1", now=at(5))
    assert [a.verdict for a in again] == [V.DUPLICATE, V.DUPLICATE]
    assert {a.case_id for a in again} == {case_id}
    assert ledger.read.metrics().instances == 1
    assert state_of(ledger, case_id) is C.STABLE


def test_other_bytes_are_kept_aside_and_flagged(ledger: Ledger) -> None:
    """Under a UID that is taken, other bytes never replace the first; the case carries a finding that names both."""
    case_id = new_case(ledger, "1.1")
    answer = ledger.record([arrival("1.1", sha256=sha("other"), association_id="assoc-2")], NOW)[0]
    assert (answer.verdict, answer.code, answer.case_id) == (V.KEPT_ASIDE, "UID_CONFLICT", case_id)
    view = ledger.read.case_view(case_id)
    assert [i.instance.sha256 for i in view.inputs] == [sha("1.1")]
    assert view.inputs[0].findings == (("UID_CONFLICT", f"sha256 {sha('other')}"),)
    assert view.case.state is C.RECEIVING


def test_kept_aside_and_refused_never_enter_a_case(ledger: Ledger) -> None:
    """What was kept aside or refused has a receipt but no instance and opens no case."""
    ledger.record(
        [
            arrival("1.1", verdict=V.KEPT_ASIDE, code="PATIENT_ID_MISSING"),
            arrival("1.2", verdict=V.REFUSED, code="OWN_RESULT"),
        ],
        NOW,
    )
    assert ledger.read.list_cases().items == ()
    told = ledger.read.why("A1")
    assert {r.code for r in told.receipts} == {"PATIENT_ID_MISSING", "OWN_RESULT"}
    assert told.receipt_counts == {"kept_aside": 1, "refused": 1}


def test_accepted_without_header_is_kept_aside(ledger: Ledger) -> None:
    """An arrival without a readable header can't be called accepted, whatever the door says."""
    answer = ledger.record([arrival("1.1", header=None)], NOW)[0]
    assert (answer.verdict, answer.code) == (V.KEPT_ASIDE, "HEADER_MALFORMED")


def test_studies_of_one_patient_are_one_case(ledger: Ledger) -> None:
    """Studies of one Patient ID within the window of the first one's date share a case; outside it they don't."""
    mg = new_case(ledger, "1.1", study_instance_uid="1", study_date="20260101", modality="MG")
    inside = new_case(ledger, "2.1", study_instance_uid="2", study_date="20260401")
    before = new_case(ledger, "3.1", study_instance_uid="3", study_date="20251003")
    outside = new_case(ledger, "4.1", study_instance_uid="4", study_date="20260402")
    assert inside == before == mg
    assert outside != mg
    rows = ledger.case_studies(mg)
    assert [(r.study_uid, dict(r.modalities)) for r in rows] == [("1", {"MG": 1}), ("2", {"MR": 1}), ("3", {"MR": 1})]


def test_window_is_a_setting(open_ledger: Callable[..., Ledger]) -> None:
    """The window's length is the one that the ledger was opened with."""
    narrow = open_ledger(window_days=1)
    first = new_case(narrow, "1.1", study_instance_uid="1", study_date="20260101")
    assert new_case(narrow, "2.1", study_instance_uid="2", study_date="20260102") == first
    assert new_case(narrow, "3.1", study_instance_uid="3", study_date="20260103") != first


def test_nearest_root_gets_the_study(ledger: Ledger) -> None:
    """A study that fits two roots of a patient goes to the one whose first study is nearer."""
    first = new_case(ledger, "1.1", study_instance_uid="1", study_date="20260101")
    second = new_case(ledger, "2.1", study_instance_uid="2", study_date="20260601")
    assert first != second
    assert new_case(ledger, "3.1", study_instance_uid="3", study_date="20260325") == second
    assert new_case(ledger, "4.1", study_instance_uid="4", study_date="20260301") == first


def test_known_study_stays_with_its_case(ledger: Ledger) -> None:
    """An image of a study that has a case goes there, whatever date or missing identity it states."""
    case_id = new_case(ledger, "1.1")
    assert new_case(ledger, "1.2", study_date="20200101") == case_id
    assert new_case(ledger, "1.3", patient_id="") == case_id
    assert new_case(ledger, "1.4", issuer_of_patient_id="HOSPITAL") == case_id


@pytest.mark.parametrize("date", ["", "garbage", "20261399"])
def test_study_without_a_date_counts_from_its_arrival(ledger: Ledger, date: str) -> None:
    """Without a usable study date the day of arrival stands in."""
    today = new_case(ledger, "1.1", study_instance_uid="1", study_date="20260302")
    assert new_case(ledger, "2.1", study_instance_uid="2", study_date=date) == today
    later = NOW + timedelta(days=91)
    assert new_case(ledger, "3.1", study_instance_uid="3", study_date=date, received_at=later) != today


def test_dotted_date_is_a_date(ledger: Ledger) -> None:
    """A date in the old notation with dots is read."""
    first = new_case(ledger, "1.1", study_instance_uid="1", study_date="2024.01.05")
    assert new_case(ledger, "2.1", study_instance_uid="2", study_date="20240110") == first


def test_missing_patient_id_joins_nothing(ledger: Ledger) -> None:
    """Two studies without Patient ID are two cases, even on the same day; one study stays one case."""
    one = new_case(ledger, "1.1", study_instance_uid="1", patient_id=" ")
    two = new_case(ledger, "2.1", study_instance_uid="2", patient_id="")
    assert one != two
    assert new_case(ledger, "1.2", study_instance_uid="1", patient_id="") == one


def test_issuers_are_different_patients(ledger: Ledger) -> None:
    """The same Patient ID from two issuers is two patients."""
    one = new_case(ledger, "1.1", study_instance_uid="1", issuer_of_patient_id="A")
    assert new_case(ledger, "2.1", study_instance_uid="2", issuer_of_patient_id="B") != one


def test_two_patients_in_one_study_are_never_mixed(ledger: Ledger) -> None:
    """Images of one Study Instance UID that name two patients go to two cases, and both are flagged."""
    one = new_case(ledger, "1.1")
    two = new_case(ledger, "1.2", patient_id="P2")
    assert one != two
    for case_id in (one, two):
        view = ledger.read.case_view(case_id)
        assert [(f.code, f.subject) for f in view.findings] == [("PATIENT_IDENTITY_CONFLICT", "1.2.3")]
        assert len(view.inputs) == 1
    assert new_case(ledger, "1.3", patient_id="P2") == two


def test_accession_number_that_comes_late_is_found(ledger: Ledger) -> None:
    """A study whose first image has no accession number is found by the one of a later image."""
    case_id = new_case(ledger, "1.1", accession_number="")
    record(ledger, "1.2", "1.3", accession_number="LATE")
    assert [i.case.id for i in ledger.read.list_cases(q="LATE").items] == [case_id]


@pytest.mark.parametrize("make", [stable, queued])
def test_image_before_the_work_reopens_the_case(ledger: Ledger, make: Callable[..., str]) -> None:
    """A new image for a STABLE or QUEUED case takes it back to RECEIVING, cancels its job and unfreezes its inputs."""
    case_id = make(ledger, "1.1")
    assert new_case(ledger, "1.2", now=at(9)) == case_id
    case = ledger.read.case(case_id)
    assert (case.state, case.revision, case.last_at) == (C.RECEIVING, 1, at(9))
    assert ledger.claim_job("analyse", "w", 60, at(9)) is None
    assert [j.state for j in ledger.read.case_view(case_id).jobs] == [JobState.CANCELLED] * (make is queued)
    assert len(ledger.case_inputs(case_id)) == 2


def test_late_image_opens_a_new_revision(ledger: Ledger) -> None:
    """An image after the work began opens a revision with its predecessor and all images; the old one is not touched."""
    old = queued(ledger, "1.1")
    job = claim(ledger)
    new = new_case(ledger, "1.2", now=at(9))
    assert new != old
    case = ledger.read.case(new)
    assert (case.state, case.revision, case.predecessor, case.root_id) == (
        C.RECEIVING,
        2,
        old,
        ledger.read.case(old).root_id,
    )
    assert len(ledger.case_inputs(new)) == 2
    assert len(ledger.case_inputs(old)) == 1
    assert new_case(ledger, "1.3", now=at(10)) == new
    assert state_of(ledger, old) is C.RUNNING
    assert ledger.finish_job(job.job_id, job.fence, "{}", [], [], [], at(11))


def _rejected(ledger: Ledger, uid: str) -> str:
    queued(ledger, uid)
    job = claim(ledger)
    assert ledger.reject_job(job.job_id, job.fence, "NO_USABLE_IMAGE", [], NOW)
    return job.case_id


def _closed(ledger: Ledger, uid: str) -> str:
    case_id = new_case(ledger, uid)
    ledger.cancel_case(case_id, "anna", NOW)
    return case_id


@pytest.mark.parametrize("make", [delivering, delivered, _rejected, _closed])
def test_late_image_after_the_end(ledger: Ledger, make: Callable[..., str]) -> None:
    """A case that is being sent, sent, rejected or closed is not changed by a late image; its successor opens."""
    old = make(ledger, "1.1")
    before = state_of(ledger, old)
    new = new_case(ledger, "1.2")
    assert (ledger.read.case(new).predecessor, state_of(ledger, new), state_of(ledger, old)) == (
        old,
        C.RECEIVING,
        before,
    )
    assert len(ledger.case_inputs(old)) == 1


def test_hostile_text_is_stored(ledger: Ledger) -> None:
    """NUL, control characters, lone surrogates, quotes and long values of a header neither fail nor break a question."""
    nasty = "a\0b\x1b[31m'; DROP TABLE audit; --\ud800" + "x" * 5000
    case_id = new_case(ledger, "1.1", accession_number=nasty, modality=nasty, attributes={nasty: nasty}, peer=nasty)
    inputs = ledger.case_inputs(case_id)
    assert "DROP TABLE" in inputs[0].header.accession_number
    assert "\0" not in inputs[0].header.accession_number
    assert ledger.read.verify_audit().ok
    chinese = new_case(ledger, "2.1", study_instance_uid="2", patient_id="病人一", accession_number="検査")
    assert [i.case.id for i in ledger.read.list_cases(q="検査").items] == [chinese]
    assert ledger.case_inputs(chinese)[0].header.patient_id == "病人一"


def test_every_header_value_comes_back(ledger: Ledger) -> None:
    """The header that analysis reads is the one that intake recorded."""
    sent = arrival("1.1", attributes={"ViewPosition": "CC", "Rows": "4096"}, issuer_of_patient_id="H")
    ledger.record([sent], NOW)
    case_id = ledger.read.list_cases().items[0].case.id
    row = ledger.case_inputs(case_id)[0]
    assert row.header == sent.header
    assert (row.sha256, row.size, row.received_at) == (sent.sha256, sent.size, sent.received_at)


def test_naive_time_is_refused(ledger: Ledger) -> None:
    """A time without a zone is refused before anything is written."""
    with pytest.raises(Exception, match="naive"):
        record(ledger, "1.1", received_at=NOW.replace(tzinfo=None))
    assert ledger.read.metrics().instances == 0


def test_same_study_from_many_threads(open_ledger: Callable[..., Ledger]) -> None:
    """Eight threads of two ledgers send the same 40 images in different order: 40 rows, 1 case, 320 receipts."""
    uids = [f"1.{n}" for n in range(40)]
    ledgers = [open_ledger(), open_ledger()]
    answers: list[tuple[str, Verdict]] = []
    failures: list[BaseException] = []

    def send(number: int) -> None:
        order = uids[number * 5 :] + uids[: number * 5]
        try:
            for start in range(0, 40, 8):
                part = order[start : start + 8]
                done = record(ledgers[number % 2], *part)
                answers.extend((uid, a.verdict) for uid, a in zip(part, done, strict=True))
        except BaseException as error:  # noqa: BLE001 - handed to the test below
            failures.append(error)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(uid for uid, verdict in answers if verdict is V.ACCEPTED) == sorted(uids)
    assert len(answers) == 320
    assert ledgers[0].read.metrics().instances == 40
    assert len(ledgers[0].read.list_cases().items) == 1
    assert ledgers[0].read.why("A1").receipt_counts == {"accepted": 40, "duplicate": 280}
    assert ledgers[0].read.verify_audit().ok


def test_association_log(ledger: Ledger) -> None:
    """An association is open until it is closed, counts against its case while open, and stays in the log."""
    ledger.open_association("assoc-1", "MG1", "CMAN", "10.0.0.7", NOW)
    ledger.open_association("assoc-2", "XX", "CMAN", "10.0.0.8", at(1))
    case_id = new_case(ledger, "1.1")
    assert ledger.open_associations_of(case_id) == 1
    assert ledger.read.metrics().open_associations == 2
    ledger.close_association("assoc-1", "released", "", {"accepted": 1}, at(2))
    ledger.close_association("assoc-2", "rejected", "AE_NOT_ALLOWED", {}, at(3))
    assert ledger.open_associations_of(case_id) == 0
    newest, oldest = ledger.read.associations()
    assert (newest.id, newest.code, newest.end, newest.closed_at) == ("assoc-2", "AE_NOT_ALLOWED", "rejected", at(3))
    assert (oldest.calling, oldest.address, dict(oldest.counts)) == ("MG1", "10.0.0.7", {"accepted": 1})
    assert [a.id for a in ledger.read.associations(before=at(1))] == ["assoc-1"]


def test_associations_of_a_dead_listener_are_closed(ledger: Ledger) -> None:
    """What a dead process left open is closed as lost, so no case waits for it for ever; those of living ones stay."""
    ledger.open_association("assoc-1", "MG1", "CMAN", "10.0.0.7", NOW, "here/1/7")
    ledger.open_association("assoc-2", "MG2", "CMAN", "10.0.0.8", NOW, "elsewhere/1/7")
    case_id = new_case(ledger, "1.1")
    assert ledger.close_stale_associations(at(9)) == 0
    assert ledger.close_stale_associations(at(9), lambda owner: owner.startswith("here")) == 1
    assert ledger.close_stale_associations(at(9), lambda owner: owner.startswith("here")) == 0
    assert ledger.open_associations_of(case_id) == 0
    assert [row.end for row in ledger.read.associations() if row.id == "assoc-1"] == ["lost"]
    assert ledger.read.metrics().open_associations == 1


def test_associations_of_a_silent_process_are_closed(ledger: Ledger) -> None:
    """A host that is cut off says nothing: after two minutes its associations are lost, but not while it is seen."""
    ledger.open_association("assoc-1", "MG1", "CMAN", "10.0.0.7", NOW, "a/1/7")
    ledger.open_association("assoc-2", "MG1", "CMAN", "10.0.0.7", NOW, "b/1/7")
    ledger.see_associations("b/1/7", at(60))
    assert ledger.close_stale_associations(at(119)) == 0
    assert ledger.close_stale_associations(at(121)) == 1
    assert [row.id for row in ledger.read.associations() if row.closed_at is None] == ["assoc-2"]


def test_unknown_case_is_refused(ledger: Ledger) -> None:
    """Asking about a case that isn't there is NOT_FOUND in every question about a case."""
    for ask in (ledger.case_studies, ledger.case_inputs, ledger.open_associations_of, ledger.read.case_view):
        with pytest.raises(Refused, match="NOT_FOUND"):
            ask("nobody")
    assert "NOT_FOUND" in REASONS
    assert ledger.cases_in(*CaseState) == []


def test_a_batch_costs_few_statements(ledger: Ledger) -> None:
    """A batch of 64 images of a known study takes at most twelve statements, so the rate doesn't fall with its size."""
    new_case(ledger, "1.0")
    counted: list[str] = []
    engine = ledger._database._writer
    event.listen(engine, "before_cursor_execute", lambda *arguments: counted.append(arguments[2]))
    record(ledger, *(f"1.1.{n}" for n in range(64)))
    assert 3 < len(counted) <= 12, counted


def test_intake_is_fast(ledger: Ledger, dialect: str) -> None:
    """Batches of 8, fully synchronised, with everything recorded: the rate is printed, and never a crawl."""
    batches: list[list[Arrival]] = [[arrival(f"1.{b}.{n}") for n in range(8)] for b in range(75)]
    started = time.perf_counter()
    for batch in batches:
        ledger.record(batch, NOW)
    rate = 600 / (time.perf_counter() - started)
    print(f"{dialect}: {rate:.0f} instances per second in batches of 8")
    assert rate > 60  # the figure to show is in the benchmarks; this bound only sees a mistake of a power of ten
