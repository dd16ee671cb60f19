"""The look into advisory databases finds what is in them: a check that can't fail proves nothing."""

from packaging.version import Version

from tests.advisories import locked, touches


def test_a_version_in_a_range_or_list_is_found() -> None:
    """From `introduced` up to before `fixed`, up to and with `last_affected`, in any of several ranges, or by name; others are not."""
    events = [{"introduced": "0"}, {"fixed": "10.0.0"}]
    again = [{"introduced": "11"}, {"last_affected": "11.2"}]
    known = {
        "ranges": [{"type": "ECOSYSTEM", "events": events}, {"type": "ECOSYSTEM", "events": again}],
        "versions": ["12.1"],
    }
    found = {v: touches(known, Version(v)) for v in ("9.5", "10.0.0", "10.1", "11.0", "11.2", "11.2.1", "12.1", "12.2")}
    assert [version for version, hit in found.items() if hit] == ["9.5", "11.0", "11.2", "12.1"]
    assert not touches({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, Version("1"))


def test_every_lock_is_looked_at() -> None:
    """The pins of all lock files, by the name that an index compares."""
    pins = locked()
    files = set().union(*pins.values())
    assert {
        "requirements.lock",
        "requirements-service.lock",
        "requirements-gpu.lock",
        "requirements-train.lock",
    } <= files
    assert {"pydicom", "pillow", "typing-extensions", "torch"} <= {name for name, _ in pins}
