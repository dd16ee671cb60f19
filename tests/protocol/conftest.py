"""A whole listener inside the test's process: real sockets, spool and SQLite ledger in a temporary folder."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from casework.config import Settings
from casework.entrypoints.listener import Listener
from casework.ledger import Ledger


def make_settings(root: Path, **dicom: Any) -> Settings:
    """Defaults, on a free port, with a disk that counts as empty."""
    settings = Settings()
    storage = replace(settings.storage, root=str(root), watermark=0.98, hard_watermark=0.99, reserve_bytes=1 << 20)
    return replace(settings, dicom=replace(settings.dicom, port=0, **dicom), storage=storage)


def migrated(settings: Settings) -> Settings:
    """Make the ledger's tables."""
    settings.root.mkdir(parents=True, exist_ok=True)
    ledger = Ledger.open(settings.ledger_url)
    ledger.migrate()
    ledger.close()
    return settings


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Listener]]:
    """Start listeners; they are stopped at the end of the test."""
    running: list[Listener] = []

    def make(**dicom: Any) -> Listener:
        listener = Listener(migrated(make_settings(tmp_path / "root", **dicom)))
        listener.start()
        running.append(listener)
        return listener

    yield make
    for listener in running:
        listener.stop(1.0)


@pytest.fixture
def listener(start: Callable[..., Listener]) -> Listener:
    """A listener with default settings."""
    return start()
