"""The transition tables are total and say what the documents say."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest

from casework import case

TABLES = [
    (case.CaseState, case.CASE_MOVES, set()),
    (case.JobState, case.JOB_MOVES, {case.JobState.SUCCEEDED, case.JobState.CANCELLED}),
    (case.DeliveryState, case.DELIVERY_MOVES, set()),
    (case.NoticeState, case.NOTICE_MOVES, {case.NoticeState.SENT}),
    (case.OrderState, case.ORDER_MOVES, set()),
    (case.CandidateState, case.CANDIDATE_MOVES, set()),
]


@pytest.mark.parametrize(("states", "moves", "final"), TABLES)
def test_total(states: type[StrEnum], moves: Mapping[Any, frozenset[Any]], final: set[Any]) -> None:
    """Every state is listed once, every target is a state, no state moves to itself, and only final states are ends."""
    assert set(moves) == set(states)
    assert all(target in states and target != source for source, targets in moves.items() for target in targets)
    assert {source for source, targets in moves.items() if not targets} == final


@pytest.mark.parametrize(("states", "moves", "final"), TABLES)
def test_reachable(states: type[StrEnum], moves: Mapping[Any, frozenset[Any]], final: set[Any]) -> None:
    """Every state can be reached from the first one."""
    first = next(iter(states))
    seen, todo = {first}, [first]
    while todo:
        for target in moves[todo.pop()] - seen:
            seen.add(target)
            todo.append(target)
    assert seen == set(states)


def test_nothing_leaves_a_result_silently() -> None:
    """A delivered case can only be superseded, retracted or flagged: none goes back to work without a new revision."""
    c = case.CaseState
    assert case.CASE_MOVES[c.DELIVERED] == {c.SUPERSEDED, c.NEEDS_ATTENTION, c.RETRACTED}
    assert case.CASE_MOVES[c.SUPERSEDED] == {c.RETRACTED}
    assert case.CASE_MOVES[c.RETRACTED] == {c.NEEDS_ATTENTION}


def test_derived_uids_are_valid_and_stable() -> None:
    """The same parts give the same UID, other parts another one, and it fits DICOM's 64 characters."""
    one, two = case.derive_uid("a", "b"), case.derive_uid("a", "c")
    assert one == case.derive_uid("a", "b") != two
    assert one.startswith("2.25.")
    assert len(one) <= 64
    assert not one.split(".")[2].startswith("0")


def test_input_digest_ignores_order_only() -> None:
    """The digest of a run doesn't depend on the order of its images, but on each of them, the model and the pipeline."""
    base = case.input_digest(["a", "b"], "m", "p")
    assert base == case.input_digest(["b", "a"], "m", "p")
    assert (
        len(
            {
                base,
                case.input_digest(["a"], "m", "p"),
                case.input_digest(["a", "b"], "n", "p"),
                case.input_digest(["a", "b"], "m", "q"),
            }
        )
        == 4
    )


def test_what_people_see_is_total() -> None:
    """Every state of a case is shown as exactly one state with words in both languages, and every shown state is used."""
    assert set(case.SHOWN) == set(case.CaseState)
    used = {case.shown(state, waiting) for state in case.CaseState for waiting in ((), ("MR",))}
    assert used == set(case.Shown) == set(case.SHOWN_WORDS)
    for words in case.SHOWN_WORDS.values():
        assert len(words) == 4
        assert all(words)
        assert all(any("\u4e00" <= c <= "\u9fff" for c in zh) for zh in (words[1], words[3]))
    assert case.shown_words(case.CaseState.RECEIVING, ("US", "MR")) == "Waiting for MR, US"
    assert case.shown_words(case.CaseState.RECEIVING, ("MR",), chinese=True) == "等待MR"
    assert case.shown(case.CaseState.QUEUED, ("MR",)) is case.Shown.QUEUED
