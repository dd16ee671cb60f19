"""Quiet hours: what a wall clock shows, across midnight and changes of the clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from casework import hours

BERLIN = ZoneInfo("Europe/Berlin")  # 2026-03-29 02:00 -> 03:00, 2026-10-25 03:00 -> 02:00
SHANGHAI = ZoneInfo("Asia/Shanghai")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "zone", "now", "until"),
    [
        ("07:30-18:00", SHANGHAI, "2026-06-01 00:00", "2026-06-01 10:00"),  # 08:00 there
        ("07:30-18:00", SHANGHAI, "2026-05-31 23:29", None),  # 07:29
        ("07:30-18:00", SHANGHAI, "2026-06-01 10:00", None),  # 18:00: the end is outside
        ("22:00-06:00", SHANGHAI, "2026-06-01 15:00", "2026-06-01 22:00"),  # 23:00, past midnight
        ("22:00-06:00", SHANGHAI, "2026-06-01 17:00", "2026-06-01 22:00"),  # 01:00
        ("22:00-06:00", SHANGHAI, "2026-06-01 22:00", None),
        ("22:00-06:00", BERLIN, "2026-03-28 22:00", "2026-03-29 04:00"),  # a night of seven hours
        ("22:00-06:00", BERLIN, "2026-10-24 21:00", "2026-10-25 05:00"),  # a night of nine
        ("01:00-02:30", BERLIN, "2026-03-29 00:30", "2026-03-29 01:00"),  # 02:30 is skipped: 03:00 is outside
        ("02:15-02:45", BERLIN, "2026-03-29 01:30", None),  # the window is skipped altogether
        ("02:15-02:45", BERLIN, "2026-10-25 00:20", "2026-10-25 00:45"),  # 02:20 in summer time
        ("02:15-02:45", BERLIN, "2026-10-25 01:20", "2026-10-25 01:45"),  # 02:20 again, in winter time
    ],
)
def test_quiet_until(window: str, zone: ZoneInfo, now: str, until: str | None) -> None:
    """The end of the quiet time is the first minute at which the wall clock is outside, in whatever night."""
    expected = utc(until) if until else None
    assert hours.quiet_until(utc(now), [hours.parse(window)], zone) == expected


def test_windows_that_touch_and_fill_the_day() -> None:
    """Windows that follow each other end with the last; a day that is all quiet ends at least a day ahead."""
    two = [hours.parse("08:00-12:00"), hours.parse("12:00-13:00")]
    assert hours.quiet_until(utc("2026-06-01 09:00"), two, ZoneInfo("UTC")) == utc("2026-06-01 13:00")
    always = [hours.parse("00:00-12:00"), hours.parse("12:00-00:00")]
    end = hours.quiet_until(utc("2026-06-01 09:00"), always, ZoneInfo("UTC"))
    assert end is not None
    assert end - utc("2026-06-01 09:00") >= timedelta(days=1)


@pytest.mark.parametrize(
    "bad", ["", "8-12", "08:00-24:00", "08:00-08:00", "08:00 - 09:00", "25:00-26:00", "０8:00-09:00"]
)
def test_what_is_no_window(bad: str) -> None:
    """Anything but two different times as HH:MM-HH:MM is refused."""
    with pytest.raises(ValueError, match=r"window|HH:MM"):
        hours.parse(bad)


def test_no_such_zone() -> None:
    """A zone that this machine doesn't know is refused; no name means the machine's own."""
    with pytest.raises(ValueError, match="zone"):
        hours.zone_of("Mars/Olympus")
    assert hours.zone_of("") is None
