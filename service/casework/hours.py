"""Windows of local time, such as "22:00-06:00", and when they end. Does no I/O.

A window is about what a wall clock shows: it may pass midnight, an hour that a change of the clock repeats lies in it
twice, and one that the change skips not at all.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

_FORM = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_MINUTE = timedelta(minutes=1)
_LONGEST_MINUTES = 25 * 60  # the longest local day


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` up to but not including `end`, every day; `end` before `start` passes midnight."""

    start: time
    end: time

    def holds(self, wall: time) -> bool:
        """Whether a wall clock's time lies in the window."""
        if self.start < self.end:
            return self.start <= wall < self.end
        return wall >= self.start or wall < self.end


def parse(text: str) -> Window:
    """Read "HH:MM-HH:MM".

    Raises:
        ValueError: it has another form, or both ends are the same.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError("expected HH:MM-HH:MM")
    numbers = [int(n) for n in match.groups()]
    window = Window(time(numbers[0], numbers[1]), time(numbers[2], numbers[3]))
    if window.start == window.end:
        raise ValueError("a window needs two different ends")
    return window


def zone_of(name: str) -> tzinfo | None:
    """The zone of an IANA name; None for "", which means the machine's own.

    Raises:
        ValueError: there is no such zone here.
    """
    try:
        return ZoneInfo(name) if name else None
    except (OSError, KeyError) as error:
        raise ValueError("no such time zone") from error


def quiet_until(now: datetime, windows: Sequence[Window], zone: tzinfo | None) -> datetime | None:
    """The minute at which no window holds any more, in UTC; None when none holds now.

    Windows that fill the whole day give a time one day ahead.
    """

    def quiet(moment: datetime) -> bool:
        wall = moment.astimezone(zone).time()
        return any(window.holds(wall) for window in windows)

    if not windows or not quiet(now):
        return None
    # Minute by minute: no rule of any zone has to be known, and a day has only 1,500 of them.
    moment = now.astimezone(UTC).replace(second=0, microsecond=0)
    for _ in range(_LONGEST_MINUTES):
        moment += _MINUTE
        if not quiet(moment):
            break
    return moment
