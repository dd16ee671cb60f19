"""Waiting for a modality, with the real keeper's assembly on the real ledger: who waits, until when, and who never does."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from casework.case import CaseState, Shown, shown
from casework.config import Assembly, Policy, Settings
from casework.flows.assemble import Assembler, Facts, judge
from casework.ledger import CaseRow, Ledger
from tests.ledger.ledger_help import NOW, C, arrival, claim

HOUR = timedelta(hours=1)
RULES = Assembly(quiet_s=60)
SITE = Policy(wait_mr_h=72, wait_us_h=24)
OpenLedger = Callable[..., Ledger]


class Site:
    """A keeper with a policy, and a wall clock and a monotonic clock that tests turn, together or not."""

    def __init__(self, ledger: Ledger, policy: Policy, now: datetime = NOW, clock: float = 1000.0) -> None:
        self.ledger, self.now, self.clock = ledger, now, clock
        self._policy = policy
        self.restart()

    def restart(self, policy: Policy | None = None) -> None:
        """Another keeper process: nothing but the ledger is left."""
        self._policy = policy or self._policy
        self.keeper = Assembler(self.ledger, replace(Settings(), assembly=RULES, policy=self._policy))

    def send(self, modality: str, uid: str, **changes: object) -> str:
        """One image of a study of its own; returns the case."""
        study = f"1.2.{('MG', 'MR', 'US').index(modality) + 1}"
        header = {"study_instance_uid": study, "modality": modality, "received_at": self.now, **changes}
        found = self.ledger.record([arrival(f"{study}.{uid}", **header)], self.now)[0].case_id
        assert found
        return found

    def after(self, hours: float, *, wall: float | None = None) -> None:
        """Time passes (the wall clock may show another span), and the keeper looks."""
        self.clock += hours * 3600
        self.now += timedelta(hours=hours if wall is None else wall)
        self.keeper.step(self.now, self.clock)

    def case(self, case_id: str) -> CaseRow:
        return self.ledger.read.case(case_id)


def test_nothing_is_waited_for_unless_asked(ledger: Ledger) -> None:
    """By default a case with one modality runs as soon as that is complete, without a word of waiting."""
    site = Site(ledger, Policy())
    case_id = site.send("MG", "1")
    site.after(0.1)
    assert site.case(case_id).state is C.QUEUED
    assert ledger.read.case_view(case_id).findings == ()


def test_a_case_says_what_it_waits_for_since_when_and_until_when(ledger: Ledger) -> None:
    """The wait is a state that people see, with its modality, its beginning and its end; the answer to why has it too."""
    site = Site(ledger, SITE)
    case_id = site.send("MG", "1")
    site.after(0.01)
    assert (site.case(case_id).reason, site.case(case_id).waiting_for) == ("QUIET_TIME", ())
    site.after(0.1)
    case, began = site.case(case_id), site.now
    assert (case.state, case.reason) == (C.RECEIVING, "WAITING_FOR_MODALITY")
    assert (case.waiting_for, case.waiting_since, case.waiting_until) == (("MR", "US"), began, began + 72 * HOUR)
    assert shown(case.state, case.waiting_for) is Shown.WAITING
    assert ledger.read.why("A1").cases[0].waiting_until == case.waiting_until
    assert [e.detail["for"] for e in ledger.read.timeline(case_id) if e.event == "case.waiting"] == [["MR", "US"]]
    site.after(1)
    assert len([e for e in ledger.read.timeline(case_id) if e.event == "case.waiting"]) == 1, "looking writes nothing"


def test_pictures_of_another_part_of_the_body_end_no_wait(ledger: Ledger) -> None:
    """Three thyroid pictures are not the ultrasound that the case waits for; the breast's is."""
    site = Site(ledger, Policy(wait_us_h=24))
    case_id = site.send("MG", "1")
    site.send("US", "1", attributes={"BodyPartExamined": "THYROID"})
    site.after(0.1)
    site.after(0.1)
    assert site.case(case_id).waiting_for == ("US",)
    site.send("US", "2", attributes={"BodyPartExamined": "BREAST"})
    site.after(0.1)
    site.after(0.1)
    assert (site.case(case_id).state, site.case(case_id).waiting_for) == (C.QUEUED, ())


def test_the_first_deadline_passes_then_the_last(ledger: Ledger) -> None:
    """After a day nobody waits for ultrasound any more, after three days the case runs and says what did not come."""
    site = Site(ledger, SITE)
    case_id = site.send("MG", "1")
    site.after(0.1)
    site.after(24)
    assert site.case(case_id).waiting_for == ("MR",)
    site.after(47.9)
    assert site.case(case_id).state is C.RECEIVING
    site.after(0.2)
    case = site.case(case_id)
    assert (case.state, case.waiting_for, case.waiting_until) == (C.QUEUED, (), None)
    notes = [(f.code, f.subject, f.detail) for f in ledger.read.case_view(case_id).findings]
    assert notes == [("WAIT_OVER", "MR", "72 h"), ("WAIT_OVER", "US", "24 h")]


@pytest.mark.parametrize("order", list(itertools.permutations(("MG", "MR", "US"))))
def test_three_modalities_in_any_order_run_once_when_all_are_there(ledger: Ledger, order: tuple[str, ...]) -> None:
    """Days apart and in any order, the three make one case, which runs once, when the last one is complete."""
    site = Site(ledger, Policy(wait_mg_h=240, wait_mr_h=240, wait_us_h=240))
    ids = set()
    for modality in order:
        ids.add(site.send(modality, "1"))
        site.after(0.01)
        assert site.case(min(ids)).state is C.RECEIVING
        site.after(0.1)
        if modality != order[-1]:
            assert site.case(min(ids)).reason == "WAITING_FOR_MODALITY"
            site.after(30)
    assert len(ids) == 1
    case = site.case(ids.pop())
    assert (case.state, case.waiting_for) == (C.QUEUED, ())
    assert ledger.read.case_view(case.id).findings == ()


def test_two_of_three_may_wait_less_long(ledger: Ledger) -> None:
    """A policy by count: one kind alone waits three days, two wait one; what was waited already counts."""
    site = Site(ledger, Policy(wait_with_one_h=72, wait_with_two_h=24))
    case_id = site.send("MG", "1")
    site.after(0.1)
    began = site.now
    site.after(10)
    site.send("US", "1")
    site.after(0.1)
    case = site.case(case_id)
    assert (case.waiting_for, case.waiting_until) == (("MR",), began + 24 * HOUR)
    site.after(14)
    assert site.case(case_id).state is C.QUEUED


@pytest.mark.parametrize("how", ["request", "stat request", "stat image"])
def test_urgent_cases_wait_for_no_modality(ledger: Ledger, how: str) -> None:
    """A person's request runs at once; a STAT image runs as soon as what it came with is complete."""
    site = Site(ledger, SITE)
    attributes = {"RequestedProcedurePriority": "STAT"} if how == "stat image" else {}
    case_id = site.send("MG", "1", attributes=attributes)
    if how != "stat image":
        from casework.ledger import Selector

        site.after(0.1)
        assert site.case(case_id).reason == "WAITING_FOR_MODALITY"
        ledger.request_analysis("k", "h", Selector(patient_id="P1"), "ris", site.now, 100 if "stat" in how else 0)
        site.after(0)
    else:
        site.after(5 / 3600)
        assert site.case(case_id).state is C.RECEIVING
        site.after(6 / 3600)
    assert site.case(case_id).state is C.QUEUED
    assert site.case(case_id).stat is ("stat" in how)


def test_a_stat_image_hurries_a_case_that_waits(ledger: Ledger) -> None:
    """A case that waits for MRI goes on when a STAT image comes, and its successors stay urgent."""
    site = Site(ledger, SITE)
    case_id = site.send("MG", "1")
    site.after(0.1)
    assert site.send("US", "1", attributes={"RequestedProcedurePriority": "STAT"}) == case_id
    site.after(0.1)
    assert site.case(case_id).state is C.QUEUED
    claim(ledger, site.now)
    later = site.send("US", "2")
    assert site.case(later).stat


def test_an_answered_hurry_is_over(ledger: Ledger) -> None:
    """What comes weeks after a STAT case was delivered waits as everything does."""
    site = Site(ledger, SITE)
    site.send("US", "1", attributes={"RequestedProcedurePriority": "STAT"})
    site.after(0.1)
    site.after(0.1)
    job = claim(ledger, site.now)
    assert ledger.finish_job(job.job_id, job.fence, "{}", [], [], (), site.now)
    assert site.case(job.case_id).state is C.DELIVERED
    routine = site.send("MG", "1")
    assert not site.case(routine).stat
    site.after(0.1)
    site.after(0.1)
    assert site.case(routine).reason == "WAITING_FOR_MODALITY"


@pytest.mark.parametrize("jump", [-24 * 365.0, 24 * 365.0])
def test_a_wait_survives_a_jump_of_the_clock(ledger: Ledger, jump: float) -> None:
    """When the wall clock jumps by a year the wait ends after as long as it would have, and the shown times follow."""
    site = Site(ledger, SITE)
    case_id = site.send("MG", "1")
    site.after(0.1)
    site.after(10, wall=10 + jump)
    case = site.case(case_id)
    assert (case.state, case.waiting_since, case.waiting_until) == (
        C.RECEIVING,
        site.now - 10 * HOUR,
        site.now + 62 * HOUR,
    )
    site.restart()
    site.after(61)
    assert site.case(case_id).state is C.RECEIVING
    site.after(2)
    assert site.case(case_id).state is C.QUEUED


def test_a_wait_survives_a_restart(ledger: Ledger) -> None:
    """A keeper that is down for a while counts the time that passed; one that comes back with its clock set back still ends."""
    site = Site(ledger, SITE)
    case_id = site.send("MG", "1")
    site.after(0.1)
    until = site.case(case_id).waiting_until
    site.restart()
    site.after(40)
    assert site.case(case_id).waiting_until == until
    site.restart()
    site.after(0, wall=-1000)
    site.after(0.1)
    again = site.case(case_id).waiting_until
    assert again is not None
    assert site.now + 71 * HOUR < again <= site.now + 72 * HOUR, "never longer than the policy says, from now"
    site.after(72.1)
    assert site.case(case_id).state is C.QUEUED


def test_what_was_waited_out_is_not_waited_for_again(ledger: Ledger) -> None:
    """A late slice after the case ran short makes a revision that runs at once; the missing MRI, when it comes, another."""
    site = Site(ledger, SITE)
    first = site.send("MG", "1")
    site.after(0.1)
    site.after(72.1)
    job = claim(ledger, site.now)
    assert ledger.finish_job(job.job_id, job.fence, "{}", [], [], [], site.now)
    second = site.send("MG", "2")
    assert second != first
    site.after(0.1)
    assert site.case(second).state is C.QUEUED
    job = claim(ledger, site.now)
    third = site.send("MR", "1")
    site.after(0.1)
    assert (site.case(third).state, site.case(third).revision) == (C.QUEUED, 3)


def test_a_policy_may_change_while_cases_wait(ledger: Ledger) -> None:
    """A shorter time in the configuration ends waits that began under a longer one."""
    site = Site(ledger, SITE)
    case_id = site.send("MG", "1")
    site.after(0.1)
    site.after(5)
    site.restart(Policy(wait_mr_h=4))
    site.after(0)
    assert site.case(case_id).state is C.QUEUED


def test_the_wait_ends_for_every_combination() -> None:
    """Whatever is there and whatever is asked, after the longest time nothing waits for a modality, and says so."""
    times = Policy(wait_mg_h=1, wait_mr_h=2, wait_us_h=3, wait_with_one_h=4, wait_with_two_h=5)
    for size in (1, 2, 3):
        for there in itertools.combinations(("MG", "MR", "US"), size):
            facts = Facts({"1": 1}, idle_s=900, modalities=frozenset(there), waited_s=5 * 3600)
            verdict = judge(facts, RULES, times)
            assert verdict.state is CaseState.STABLE
            assert {n.subject for n in verdict.notes} == {"MG", "MR", "US"} - set(there)
            if size < 3:
                assert judge(replace(facts, waited_s=0), RULES, times).missing
