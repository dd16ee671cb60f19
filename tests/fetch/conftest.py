"""Fixtures: simulated PACS, and rigs that end with the test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from casework.config import Destination
from tests.fetch.rig import FetchRig
from tests.simulators import pacs
from tests.simulators.pacs import SimulatedPacs


@pytest.fixture
def make_pacs(tmp_path: Path) -> Iterator[Callable[..., SimulatedPacs]]:
    """Start simulated PACS; all end with the test."""
    with ExitStack() as stack:

        def start(name: str = "pacs", **options: Any) -> SimulatedPacs:
            return stack.enter_context(pacs.running(tmp_path / name, **options))

        yield start


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., FetchRig]]:
    """A fetcher with a ledger, a spool and intake."""
    with ExitStack() as stack:

        def make(*destinations: Destination, **options: Any) -> FetchRig:
            rig = FetchRig(tmp_path / "rig", *destinations, **options)
            stack.callback(rig.close)
            return rig

        yield make
