"""The rule of completeness, without I/O: every wait has a reason, and every wait ends."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casework.case import CASE_MOVES, CaseState
from casework.config import Assembly
from casework.flows.assemble import Facts, Known, judge
from casework.reasons import REASONS, Family

RULES = Assembly(quiet_s=60, settle_s=1, give_up_s=900)
C = CaseState
FULL = Known({"1": 4, "2": 2}, unchanged_s=1.0, after_last_image=True)
READY = Facts({"1": 4, "2": 2}, idle_s=1.0, known=FULL)

ROWS = [
    # what is looked at                                                             state, code
    ("count reached, said twice, settled", READY, C.STABLE, "QUEUED"),
    ("... with the sender's association still open", replace(READY, open_associations=1), C.STABLE, "QUEUED"),
    ("an image came just now", replace(READY, idle_s=0.9), C.RECEIVING, "QUIET_TIME"),
    ("the PACS said it once", replace(READY, known=replace(FULL, unchanged_s=0.0)), C.RECEIVING, "QUIET_TIME"),
    ("it was asked before the last image", replace(READY, known=replace(FULL, after_last_image=False)), C.RECEIVING, "QUIET_TIME"),
    ("... and does not answer any more", replace(READY, idle_s=60, known=replace(FULL, after_last_image=False)), C.STABLE, "QUEUED"),
    ("one image short", replace(READY, received={"1": 3, "2": 2}), C.RECEIVING, "COUNT_INCOMPLETE"),
    ("a whole study short", replace(READY, received={"1": 4}, idle_s=899), C.RECEIVING, "COUNT_INCOMPLETE"),
    ("short, association open", replace(READY, received={"1": 4}, idle_s=850, open_associations=1), C.RECEIVING, "ASSOCIATION_OPEN"),
    ("short for too long, a dead door's association open", replace(READY, received={"1": 4}, idle_s=900, open_associations=1), C.STABLE, "QUEUED"),
    ("no PACS, a dead door's association open", Facts({"1": 4}, 900, open_associations=1), C.STABLE, "QUEUED"),
    ("nothing usable, a dead door's association open", Facts({}, 900, open_associations=1), C.REJECTED, "MODALITY_NOT_ACCEPTED"),
    ("short for too long", replace(READY, received={"1": 4}, idle_s=900), C.STABLE, "QUEUED"),
    ("more than the PACS knows", replace(READY, received={"1": 5, "2": 2}), C.RECEIVING, "QUIET_TIME"),
    ("... after the quiet time", replace(READY, received={"1": 5, "2": 2}, idle_s=60), C.STABLE, "QUEUED"),
    ("a study that the PACS does not know", replace(READY, received={"1": 4, "2": 2, "3": 1}), C.RECEIVING, "QUIET_TIME"),
    ("the PACS holds nothing of this patient", replace(READY, known=replace(FULL, counts={})), C.RECEIVING, "QUIET_TIME"),
    ("no PACS, association open", Facts({"1": 4}, 100, open_associations=2), C.RECEIVING, "ASSOCIATION_OPEN"),
    ("no PACS, not quiet", Facts({"1": 4}, 59.9), C.RECEIVING, "QUIET_TIME"),
    ("no PACS, quiet", Facts({"1": 4}, 60), C.STABLE, "QUEUED"),
    ("a person asked", Facts({"1": 1}, 0, open_associations=1, requested=True), C.STABLE, "QUEUED"),
    ("nothing usable yet", Facts({}, 5), C.RECEIVING, "QUIET_TIME"),
    ("nothing usable", Facts({}, 60), C.REJECTED, "MODALITY_NOT_ACCEPTED"),
    ("nothing usable, though a person asked", Facts({}, 60, requested=True), C.REJECTED, "MODALITY_NOT_ACCEPTED"),
    ("no Patient ID", Facts({"1": 1}, 60, has_patient_id=False), C.NEEDS_ATTENTION, "PATIENT_ID_MISSING"),
    ("no Patient ID, still coming", Facts({"1": 1}, 1, has_patient_id=False), C.RECEIVING, "QUIET_TIME"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_rule(row: tuple[str, Facts, CaseState, str]) -> None:
    """Each situation has its verdict and its reason."""
    _, facts, state, code = row
    verdict = judge(facts, RULES)
    assert (verdict.state, verdict.code) == (state, code)


def test_what_was_missing_stays_a_finding() -> None:
    """A case that ran short says which study and how many."""
    notes = judge(replace(READY, received={"1": 1}, idle_s=900), RULES).notes
    assert [(n.code, n.subject, n.detail) for n in notes] == [
        ("COUNT_INCOMPLETE", "1", "1 of 4"),
        ("COUNT_INCOMPLETE", "2", "0 of 2"),
    ]
    assert judge(READY, RULES).notes == ()


COUNTS = st.dictionaries(st.sampled_from("123"), st.integers(1, 5))
FACTS = st.builds(
    Facts,
    received=COUNTS,
    idle_s=st.floats(0, 2000),
    open_associations=st.integers(0, 2),
    known=st.none() | st.builds(Known, counts=COUNTS, unchanged_s=st.floats(0, 100), after_last_image=st.booleans()),
    requested=st.booleans(),
    has_patient_id=st.booleans(),
)


@given(FACTS)
def test_every_verdict_is_a_legal_move_with_words(facts: Facts) -> None:
    """A wait has a waiting reason; anything else is a move that the table lists."""
    verdict = judge(facts, RULES)
    if verdict.state is C.RECEIVING:
        assert REASONS[verdict.code].family is Family.WAITING
    else:
        assert verdict.state in CASE_MOVES[C.RECEIVING]
        assert verdict.code in REASONS


@given(FACTS)
def test_no_case_waits_for_ever(facts: Facts) -> None:
    """Once the associations are closed and give_up_s has passed, nothing waits any more."""
    late = replace(facts, open_associations=0, idle_s=RULES.give_up_s)
    assert judge(late, RULES).state is not C.RECEIVING


@given(FACTS)
def test_nothing_runs_early_and_short_without_a_word(facts: Facts) -> None:
    """A case that is queued with fewer images than the PACS holds says so, or a person asked for it."""
    verdict = judge(facts, RULES)
    if verdict.state is not C.STABLE or facts.requested or facts.known is None:
        return
    short = {uid for uid, n in facts.known.counts.items() if facts.received.get(uid, 0) < n}
    assert {n.subject for n in verdict.notes} == short
