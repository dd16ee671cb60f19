"""From the ledger to the bell: says of each job that may be claimed that it waits, and again where messages went missing.

Holds only what it has said, in memory: a relay that starts anew says everything once more, and workers drop what is said
twice. At most `queue.window` jobs of a lane are said ahead, so a backlog of any size makes no backlog in the broker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from casework.config_queue import Queue
from casework.ledger import Ledger
from casework.observe import QUEUE_RUNG, log
from casework.queue import DELIVER, INFER, Bell, lane_of


@dataclass
class Relay:
    """One thread calls `step`; `clock` is monotonic seconds."""

    ledger: Ledger
    bell: Bell
    settings: Queue
    _said: dict[str, dict[int, float]] = field(default_factory=dict)

    def step(self, clock: float) -> int:
        """Ring for what is new, and for what has waited long while messages are missing; return how often.

        Raises:
            Unavailable: QUEUE_UNAVAILABLE or LEDGER_UNAVAILABLE; the next step does what is left.
        """
        waiting: Mapping[str, list[int]] = {lane: [] for lane in (*INFER, DELIVER)}
        jobs, deliveries = self.ledger.read.waiting(self.settings.window)
        for job_id, priority in jobs:
            waiting[lane_of(priority)].append(job_id)
        waiting[DELIVER].extend(deliveries)
        return sum(self._ring(lane, jobs, clock) for lane, jobs in waiting.items())

    def _ring(self, lane: str, jobs: list[int], clock: float) -> int:
        before = self._said.get(lane, {})
        said = self._said[lane] = {job: before[job] for job in jobs if job in before}
        due = [job for job in jobs if job not in said]
        late = [job for job in jobs if job in said and clock - said[job] >= self.settings.repeat_s]
        if late:
            missing = self.bell.depth(lane) < len(said)
            if missing:
                log.warning("queue.rung_again", kind=lane, count=len(late))
                due += late
            for job in late:  # looked at: again after the next period
                said[job] = clock
        if due:
            self.bell.ring(lane, due)
            said.update(dict.fromkeys(due, clock))
            QUEUE_RUNG.labels(lane).inc(len(due))
        return len(due)
