"""Removes what the site's policy no longer keeps: the ledger says so first, then the bytes go, then the ledger says that they went.

Every step may be stopped and repeated. Little at a time: the keeper has cases to look after.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from casework.config_retention import Retention
from casework.errors import Unavailable
from casework.ledger import Due, Ledger, rules
from casework.observe import RETENTION, log
from casework.spool import Spool


@dataclass
class Retainer:
    """One thread calls `step`; `clock` is monotonic seconds."""

    ledger: Ledger
    spool: Spool
    policy: Retention
    _at: float = float("-inf")

    def step(self, now: datetime, clock: float) -> None:
        """Do what is due, if it is time to look."""
        if clock - self._at >= self.policy.every_s:
            self._at = clock
            self.turn(now)

    def due(self, now: datetime) -> list[Due]:
        """What the policy would remove by now; nothing is changed."""
        return [self.ledger.retention_due(rule) for rule in rules(self._days(), now)]

    def turn(self, now: datetime) -> int:
        """One piece of everything; how much was let go or erased."""
        count = self._erase(now)  # what an earlier turn did not come to
        for rule in rules(self._days(), now):
            count += self.ledger.let_go(rule, self.policy.batch, now)
        count += self._erase(now)
        if self.policy.images_days:
            self.spool.age_prepared((now - timedelta(days=self.policy.images_days)).timestamp())
        if self.policy.webhooks_days:
            before = now - timedelta(days=self.policy.webhooks_days)
            emptied = self.ledger.forget_notices(before, self.policy.batch, now)
            RETENTION.labels("webhooks").inc(emptied)
            count += emptied
        return count

    def _days(self) -> dict[str, int]:
        return {"images": self.policy.images_days, "results": self.policy.results_days}

    def _erase(self, now: datetime) -> int:
        leaving = self.ledger.leaving(self.policy.batch)
        if not leaving:
            return 0
        gone: dict[str, bool] = {}
        for one in leaving:
            try:
                gone[one.sha256] = self.spool.retire(one.sha256, one.since.timestamp())
            except Unavailable as error:  # a backup is being made; the ledger has said it, and a later turn goes on
                log.info("retention.waits", code=error.code)
                break
        erased = [sha for sha, went in gone.items() if went]
        self.ledger.note_erased(erased, [sha for sha, went in gone.items() if not went], now)
        for one in leaving:
            if gone.get(one.sha256):
                RETENTION.labels(one.kind).inc()
        if erased:
            log.info("retention.erased", count=len(erased))
        return len(erased)
