"""The sign of life that containers are checked by."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from casework.config import load
from casework.entrypoints.pulse import STALE_S, Pulse, look


def test_a_door_that_can_not_work_is_alive(tmp_path: Path) -> None:
    """A listener whose disk is full is not ready, and must not be killed for it; one that is silent is neither."""
    settings = load(None, {"CASEWORK_STORAGE_ROOT": str(tmp_path)})
    now = datetime.now(UTC)
    assert look(settings, "listener", now, only_alive=True).startswith("no sign of life")
    Pulse(settings, "listener").beat({"ok": False, "code": "DISK_LOW"})
    assert look(settings, "listener", now) == "DISK_LOW"
    assert look(settings, "listener", now, only_alive=True) == ""
    late = now + timedelta(seconds=STALE_S + 5)
    assert look(settings, "listener", late, only_alive=True).startswith("silent for")
