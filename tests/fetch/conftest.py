"""Fixtures: simulated PACS, and rigs that end with the test."""

import shutil
import tempfile
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
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: what is slow here must not be the disk."""
    memory = Path("/dev/shm")  # noqa: S108 - emptied below
    path = Path(tempfile.mkdtemp(prefix="fetch", dir=memory if memory.is_dir() else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make_rig(folder: Path) -> Iterator[Callable[..., FetchRig]]:
    """A fetcher with a ledger, a spool and intake."""
    with ExitStack() as stack:

        def make(*destinations: Destination, **options: Any) -> FetchRig:
            rig = FetchRig(folder / "rig", *destinations, **options)
            stack.callback(rig.close)
            return rig

        yield make
