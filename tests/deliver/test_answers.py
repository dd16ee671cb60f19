"""The tables of a peer's answers: total, without overlaps, and every code explained."""

import itertools
from datetime import UTC, datetime

import pytest

from casework.case import DELIVERY_MOVES, DeliveryState
from casework.dicom.answers import DIMSE_ROWS, ENDS, HTTP_ROWS, PEER_LEVEL, Answer, ended, of_dimse, of_http
from casework.flows.deliver import settle
from casework.reasons import REASONS, Family

# (status, class) as reliability requires it; the ranges are tried at both ends.
REQUIRED = [
    (0x0000, Answer.STORED),
    (0x0111, Answer.STORED),
    (0xB000, Answer.WARNED),
    (0xB006, Answer.WARNED),
    (0xB007, Answer.WARNED),
    (0xBFFF, Answer.WARNED),
    (0xA700, Answer.AGAIN),
    (0xA7FF, Answer.AGAIN),
    (0xA900, Answer.NEVER),
    (0xA9FF, Answer.NEVER),
    (0xC000, Answer.NEVER),
    (0xCFFF, Answer.NEVER),
    (0x0122, Answer.NEVER),
    (0x0124, Answer.NEVER),
    (0x0117, Answer.NEVER),
    (0x0110, Answer.FEW),
    (0xFE00, Answer.FEW),
]


@pytest.mark.parametrize(("status", "answer"), REQUIRED)
def test_required_classes(status: int, answer: Answer) -> None:
    """Each status that PS3.4 and PS3.7 name for C-STORE has the class that delivery promises."""
    assert of_dimse("1.2", status).answer is answer


def test_every_status_has_a_class() -> None:
    """The tables begin at the lowest status, rise strictly, and so give every status exactly one row."""
    for rows, lowest in ((DIMSE_ROWS, 0x0000), (HTTP_ROWS, 100)):
        starts = [row[0] for row in rows]
        assert starts[0] == lowest
        assert all(a < b for a, b in itertools.pairwise(starts))
    assert {of_dimse("1.2", status).status for status in range(0x10000)} == set(range(0x10000))
    assert all(of_http("1.2", status).code for status in range(1000))


def test_nothing_but_success_duplicate_and_warnings_counts_as_stored() -> None:
    """Of 65,536 statuses only 0000, 0111 and warnings mean that the object is there."""
    stored = {s for s in range(0x10000) if of_dimse("1.2", s).answer in (Answer.STORED, Answer.WARNED)}
    assert stored == {0x0000, 0x0001, 0x0107, 0x0111, 0x0116} | set(range(0xB000, 0xC000))
    assert {s for s in range(100, 1000) if of_http("1.2", s).answer is Answer.STORED} == set(range(200, 300))


def test_http_classes() -> None:
    """2xx stored, 429 and 5xx again, other 4xx and every redirect never."""
    assert {of_http("1", s).answer for s in (429, 408, 425, *range(500, 600))} == {Answer.AGAIN}
    others = [s for s in range(300, 500) if s not in (408, 425, 429)]
    assert {of_http("1", s).answer for s in others} == {Answer.NEVER}


def test_every_code_is_in_the_catalogue_with_the_right_family() -> None:
    """Each code has words; what is tried again is UNAVAILABLE, what needs a person is a DEFECT."""
    rows = [*((a, c) for _, a, c in (*DIMSE_ROWS, *HTTP_ROWS)), *ENDS.values()]
    families = {
        Answer.STORED: Family.NOTE,
        Answer.WARNED: Family.NOTE,
        Answer.AGAIN: Family.UNAVAILABLE,
        Answer.FEW: Family.UNAVAILABLE,
        Answer.UNKNOWN: Family.UNAVAILABLE,
        Answer.NEVER: Family.DEFECT,
    }
    for answer, code in rows:
        assert REASONS[code].family is families[answer], code
    assert {code for _, code in rows} >= PEER_LEVEL


def test_an_end_without_status_is_never_a_success() -> None:
    """A rejection, an abort, a timeout or a missing context never ends as stored."""
    assert not {ended("1", how).answer for how in ENDS} & {Answer.STORED, Answer.WARNED}
    assert all(ended("1", how).words == "" for how in ENDS)


@pytest.mark.parametrize("answer", list(Answer))
@pytest.mark.parametrize("few", [1, 5])
@pytest.mark.parametrize("overdue", [False, True])
def test_every_settlement_is_a_legal_move(answer: Answer, few: int, *, overdue: bool) -> None:
    """Whatever the answer, the ledger is told a move that the table allows, and a retry always has a time."""
    result = next(
        r for r in [*(of_dimse("1", s) for s in range(0x10000)), *(ended("1", h) for h in ENDS)] if r.answer is answer
    )
    settled = settle(result, datetime.max.replace(tzinfo=UTC), few=few, overdue=overdue)
    assert settled.state in DELIVERY_MOVES[DeliveryState.SENDING]
    waits = settled.state in (DeliveryState.RETRY_WAIT, DeliveryState.UNKNOWN)
    assert waits is (settled.next_at is not None)
    if overdue:
        assert not waits


def test_status_words() -> None:
    """A status is written as people write it."""
    assert of_dimse("1", 0xA700).words == "0xA700"
    assert of_http("1", 409).words == "HTTP 409"
