"""How often a caller may ask: token buckets in bounded memory. Does no I/O; time is an argument (monotonic seconds)."""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests at once, refilled at so many a second."""

    burst: float
    per_s: float


KEY_RATE = Rate(burst=400, per_s=100)
FAILURE_RATE = Rate(burst=60, per_s=1)  # requests without a valid key, by address


class Buckets:
    """One bucket a name; the names used longest ago are forgotten beyond `capacity`, which only ever helps a caller."""

    def __init__(self, rate: Rate, capacity: int = 4096) -> None:
        self._rate = rate
        self._capacity = capacity
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, now: float) -> bool:
        """Use one token of `name`; False when there is none."""
        tokens, at = self._buckets.pop(name, (self._rate.burst, now))
        tokens = min(self._rate.burst, tokens + (now - at) * self._rate.per_s)
        allowed = tokens >= 1
        self._buckets[name] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return allowed
