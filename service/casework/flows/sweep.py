"""What has to be looked at again and again: leases that ended, retries that are due, leftovers, caches, the disk.

Everything here is safe to repeat and to stop at any moment. Alarms are raised once when they begin and once when they end.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from casework.case import DeliveryState
from casework.config import Settings
from casework.ledger import Ledger, Metrics
from casework.observe import log
from casework.spool import Spool

LEASES_EVERY_S = 0.5
ROOMS_EVERY_S = 30.0
HEAD_EVERY_S = 3600.0
_OPEN = (DeliveryState.PENDING, DeliveryState.RETRY_WAIT, DeliveryState.UNKNOWN, DeliveryState.SENDING)


@dataclass
class Sweeper:
    """One thread calls `step`; `clock` is monotonic seconds."""

    ledger: Ledger
    spool: Spool
    settings: Settings
    alarms: set[str] = field(default_factory=set)
    _leases_at: float = float("-inf")
    _rooms_at: float = float("-inf")
    _head_at: float = float("-inf")

    def boot(self) -> None:
        """Once at start: half-written files of processes that died; nobody was told that they are here."""
        log.info("sweep.boot", count=self.spool.sweep_incoming())
        self.spool.recover_retired()

    def step(self, now: datetime, clock: float) -> None:
        """Do what is due."""
        if clock - self._leases_at >= LEASES_EVERY_S:
            self._leases_at = clock
            self.leases(now)
        if clock - self._rooms_at >= ROOMS_EVERY_S:
            self._rooms_at = clock
            self.rooms(now)
        if clock - self._head_at >= HEAD_EVERY_S:
            self._head_at = clock
            self.head()

    def head(self) -> None:
        """Say the audit's newest row in the log: where logs are kept on another machine, the chain can't be made anew up to it."""
        head = self.ledger.read.audit_head()
        log.info("audit.head", count=head.seq, audit_head=head.hash)

    def leases(self, now: datetime) -> None:
        """Jobs and deliveries whose owner is gone, then those whose time has come."""
        expired = self.ledger.expire_leases(now)
        if expired.total:
            log.warning("sweep.expired", count=expired.total, code="LEASE_EXPIRED")
        due = self.ledger.promote_due(now)
        if due.total:
            log.info("sweep.due", count=due.total)

    def rooms(self, now: datetime) -> None:
        """The prepared cache's bound, the disk floor, results that no configured destination will take."""
        lost = self.ledger.close_stale_associations(now)
        if lost:
            log.warning("sweep.associations", count=lost)
        trimmed = self.spool.trim_prepared(self.settings.storage.prepared_bytes)
        if trimmed:
            log.info("sweep.trimmed", count=trimmed)
        storage, usage = self.settings.storage, self.spool.usage()
        low = usage.share > storage.watermark or usage.free < storage.reserve_bytes
        self._alarm("DISK_LOW", "", on=low, detail=usage.free)
        known = {d.name for d in self.settings.destination if d.send}
        metrics = self.ledger.read.metrics()
        self._proofs(metrics, now)
        queued = metrics.oldest_queued_at
        stalled = queued is not None and now - queued > timedelta(seconds=self.settings.work.queue_alarm_s)
        self._alarm("QUEUE_STALLED", "", on=stalled, detail=metrics.queue_depth)
        waiting = metrics.deliveries
        for name in waiting:
            count = sum(waiting[name].get(state, 0) for state in _OPEN)
            self._alarm("DESTINATION_UNKNOWN", name, on=name not in known and count > 0, detail=count)
            if name not in known:
                self._hold(name, now)

    def _proofs(self, metrics: Metrics, now: datetime) -> None:
        """What was stored long ago and is still not proved: an alarm for its destination, a reason on its case."""
        before = now - timedelta(seconds=self.settings.work.proof_alarm_s)
        known = {d.name for d in self.settings.destination}
        for name in known | set(metrics.unproved):
            count, oldest = metrics.unproved.get(name, (0, now))
            self._alarm("PROOF_LATE", name, on=oldest < before, detail=count)
        self.ledger.note_late_proofs(before, now)

    def _hold(self, destination: str, now: datetime) -> None:
        """Settle what nobody sends: it waits, its case says why, and after the horizon a person has to decide."""
        work = self.settings.work
        horizon, later = timedelta(seconds=work.retry_horizon_s), now + timedelta(seconds=work.retry_max_s)
        while claim := self.ledger.claim_delivery(destination, "sweep", work.lease_s, now):
            overdue = now - claim.first_at >= horizon
            state, again = (DeliveryState.DEAD, None) if overdue else (DeliveryState.RETRY_WAIT, later)
            self.ledger.finish_delivery(claim.delivery_id, claim.fence, state, "", "DESTINATION_UNKNOWN", again, now)

    def _alarm(self, code: str, destination: str, *, on: bool, detail: int) -> None:
        key = f"{code} {destination}".strip()
        if on and key not in self.alarms:
            self.alarms.add(key)
            log.error("alarm.raised", code=code, destination=destination, count=detail)
        elif not on and key in self.alarms:
            self.alarms.discard(key)
            log.info("alarm.cleared", code=code, destination=destination)
