"""Fixtures: the simulated PACS and a rig with the real ledger."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from casework.config import Destination
from tests.deliver.rig import Rig
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
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """A ledger and a spool that know these destinations."""
    with ExitStack() as stack:

        def make(*destinations: Destination, **options: Any) -> Rig:
            rig = Rig(tmp_path / "rig", *destinations, **options)
            stack.callback(rig.close)
            return rig

        yield make
