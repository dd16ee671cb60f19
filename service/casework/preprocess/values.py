"""Tolerant readers of DICOM attribute values: a malformed value is read as absent, never as a crash. Does no I/O."""

import datetime as dt
import math
from collections.abc import Iterable, Iterator
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

_BAD = (ValueError, TypeError, AttributeError, KeyError, OverflowError, NotImplementedError)
"""What pydicom raises when it converts a malformed value."""


def raw(ds: Dataset, keyword: str) -> Any:
    """The element's value, or None when it is absent, empty or can't be converted."""
    try:
        value = ds.get(keyword)
    except _BAD:
        return None
    return None if value is None or value == "" else value


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """All values as stripped text."""
    value = raw(ds, keyword)
    if value is None:
        return ()
    items = value if isinstance(value, MultiValue | list | tuple) else (value,)
    return tuple(str(v).strip().strip("\0") for v in items)


def text(ds: Dataset, keyword: str) -> str:
    """The first value as stripped text, "" when absent."""
    return next(iter(texts(ds, keyword)), "")


def code(ds: Dataset, keyword: str) -> str:
    """The first value as an upper-case code string."""
    return text(ds, keyword).upper()


def numbers(ds: Dataset, keyword: str, count: int | None = None) -> tuple[float, ...]:
    """All values as finite floats; () when any is malformed or there are not `count` of them."""
    value = raw(ds, keyword)
    if value is None:
        return ()
    items = value if isinstance(value, MultiValue | list | tuple) else (value,)
    try:
        out = tuple(float(v) for v in items)
    except _BAD:
        return ()
    if not all(math.isfinite(v) for v in out) or (count is not None and len(out) != count):
        return ()
    return out


def number(ds: Dataset, keyword: str) -> float | None:
    """The first value as a finite float."""
    return next(iter(numbers(ds, keyword)), None)


def whole(ds: Dataset, keyword: str, default: int = 0) -> int:
    """The first value as an int."""
    value = number(ds, keyword)
    return default if value is None else int(value)


def items(ds: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence, () when absent or not a sequence."""
    value = raw(ds, keyword)
    return [v for v in value if isinstance(v, Dataset)] if isinstance(value, Sequence) else []


def item(ds: Dataset, keyword: str) -> Dataset:
    """The first item of a sequence, an empty data set when there is none."""
    return next(iter(items(ds, keyword)), Dataset())


def nested(datasets: Iterable[Dataset], *path: str) -> Iterator[Dataset]:
    """The items at `path` below each data set, first items only on the way."""
    for ds in datasets:
        inner = ds
        for keyword in path[:-1]:
            inner = item(inner, keyword)
        yield from items(inner, path[-1])


def seconds(date: str, time: str) -> float | None:
    """Seconds since the year 1 of DA and TM values (PS3.5 6.2); None when the time is missing or malformed.

    Without a date only differences within one day mean something.
    """
    time = time.replace(":", "").strip()
    try:
        whole_part, _, fraction = time.partition(".")
        if len(whole_part) < 2:
            return None
        hours, minutes = int(whole_part[:2]), int(whole_part[2:4] or 0)
        total = hours * 3600.0 + minutes * 60.0 + int(whole_part[4:6] or 0)
        if fraction:
            total += float("0." + fraction[:6])
        day = date.replace(".", "").strip()
        if len(day) == 8:
            total += dt.date(int(day[:4]), int(day[4:6]), int(day[6:8])).toordinal() * 86400.0
    except ValueError:
        return None
    return total


def datetime_seconds(value: str) -> float | None:
    """Seconds since the year 1 of a DT value, its UTC offset ignored (only differences are used)."""
    bare = value.partition("+")[0].partition("-")[0].strip()
    return seconds(bare[:8], bare[8:]) if len(bare) >= 10 else None


def age_years(value: str, birth: str, on: str) -> float | None:
    """Age in years from PatientAge (also malformed ones such as "732.0m"), else from birth and study date."""
    scale = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}.get(value[-1:].upper())
    try:
        if scale is not None:
            age = float(value[:-1]) * scale
        else:
            born, day = (dt.date(int(v[:4]), int(v[4:6]), int(v[6:8])) for v in (birth, on))
            age = (day - born).days / 365.25
    except ValueError:
        return None
    return age if 0 <= age < 130 else None
