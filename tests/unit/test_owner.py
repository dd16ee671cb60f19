"""Who is dead and who is only elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from casework import owner, spool
from casework.spool import Spool


def test_only_processes_of_this_place_are_called_dead() -> None:
    """A process that ended is dead, a living one is not, and one of another host or container may be alive."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = owner.place()
    assert owner.dead_at_boot(f"{here}/{gone.pid}")
    assert owner.dead_at_boot(f"{here}/{os.getpid()}")  # asked at a boot: an earlier process had the number
    assert not owner.dead_at_boot(f"{here}/{os.getppid()}")
    assert not owner.dead_at_boot(f"{here}0/{gone.pid}")
    assert not owner.dead_at_boot(f"another/1/{gone.pid}")
    assert not owner.dead_at_boot("")


def test_half_files_of_another_host_stay_for_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its locks may not show on a shared file system: a listener that boots must not take away what another one writes."""
    monkeypatch.setattr(spool, "place", lambda: "another/1")
    theirs = Spool(tmp_path).begin()
    theirs.close()  # no lock is seen here
    monkeypatch.undo()
    ours = Spool(tmp_path)
    assert ours.sweep_incoming() == 0
    long_ago = theirs.path.stat().st_mtime - 3601
    os.utime(theirs.path, (long_ago, long_ago))
    assert ours.sweep_incoming() == 1
