"""Traces are off unless a collector is named, name no patient, and hold nothing up; a whole case's is in test_probe."""

import socket
import time
from collections.abc import Iterator

import pytest

from casework import config, tracing
from casework.errors import Defect
from tests.ops.collector import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_off_costs_and_sends_nothing(collector: Collector) -> None:
    """Without a collector a span is one comparison."""
    tracing.start_tracing("", "test")
    began = time.perf_counter()
    for _ in range(10_000):
        tracing.note_span("receive", "case", 0.1)
    assert time.perf_counter() - began < 0.5
    assert collector.spans == []


def test_only_listed_attributes_leave(collector: Collector) -> None:
    """What is not on the list stays here, whoever passes it."""
    tracing.start_tracing(collector.url, "test")
    with tracing.closing_traces():
        tracing.note_span("deliver", "case-1", 0.1, destination="pacs", patient="SMITH^JANE")
        tracing.note_span("deliver", "", 0.1)
    [(name, _, said)] = collector.spans
    assert (name, said) == ("deliver", {"case_id": "case-1", "destination": "pacs"})
    assert b"SMITH" not in collector.raw


def test_a_collector_that_is_away_holds_nothing_up() -> None:
    """Spans for a port where nobody listens are dropped; the work and the end of the process go on."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1/traces"
    tracing.start_tracing(url, "test")
    began = time.monotonic()
    for _ in range(1000):
        tracing.note_span("infer", "case-1", 0.1)
    assert time.monotonic() - began < 2
    tracing.stop_tracing()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("url", ["collector:4318", "ftp://h/v1", "http://user:secret@h/v1/traces", "http://h/?key=1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """Other schemes, missing hosts and passwords in the address stop the start."""
    with pytest.raises(Defect, match=r"traces\.url"):
        config.load(None, {"CASEWORK_TRACES_URL": url})
