"""Webhooks: from the audit's rows of case moves to signed events at the programs that the configuration names.

An event says that a case moved, by its id, states, coded reason and links into our API; never a name, an identifier of a
patient or study, or free text. It is put into the outbox once for each webhook and sent as the same bytes until it is taken;
receivers may see it twice or out of order, and tell by `id` and `sequence`.
"""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from casework import courier
from casework.case import CaseState, NoticeState
from casework.config import Settings, Webhook
from casework.ledger import ClaimedNotice, Ledger, News
from casework.observe import log

POLL_S = 0.5
BATCH = 200
_WITH_RESULTS = frozenset({CaseState.RENDERED})


class Notifier:
    """Tells one webhook. One thread runs `step` in a loop."""

    def __init__(
        self,
        ledger: Ledger,
        hook: Webhook,
        settings: Settings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.hook = hook
        self._ledger, self._work, self._now, self._draw = ledger, settings.work, now, draw

    @property
    def name(self) -> str:
        """The webhook's name."""
        return self.hook.name

    def step(self) -> float:
        """Take news, send one event; return the seconds to wait before the next."""
        more = self._take()
        claim = self._ledger.claim_notice(self.name, self.hook.timeout_s * 2 + 10.0, self._now())
        if claim is None:
            return 0.0 if more else POLL_S
        self._send(claim)
        return 0.0

    def close(self) -> None:
        """Nothing is kept open between two events."""

    def _take(self) -> bool:
        """Put what happened since the last look into the outbox; whether there may be more."""
        seen, news = self._ledger.news(self.name, self._now(), BATCH)
        if not news:
            return False
        horizon = self._now() - timedelta(seconds=self._work.retry_horizon_s)
        notices = []
        for item in news:
            kind = "case.results" if item.state in _WITH_RESULTS else "case.state"
            if kind in self.hook.events and item.at >= horizon:  # a webhook that was away for weeks wants no history
                notices.append((item, self._body(item, kind)))
        self._ledger.put_notices(self.name, seen, news[-1].seq, notices, self._now())
        return len(news) == BATCH

    def _body(self, item: News, kind: str) -> str:
        """The event's bytes as text: canonical JSON (openapi.yaml, CaseEvent)."""
        row = self._ledger.read.case(item.case_id)
        body: dict[str, Any] = {
            "id": item.event_id,
            "type": kind,
            "at": item.at.isoformat().replace("+00:00", "Z"),
            "sequence": item.seq,
            "case": {
                "id": item.case_id,
                "revision": row.revision,
                "predecessor": row.predecessor,
                "previous_state": item.was.value,
                "state": item.state.value,
                "reason": item.code,
                "retraction": row.retraction if item.state is CaseState.RETRACTED else "",
            },
            "links": {"case": f"/v1/cases/{item.case_id}", "results": f"/v1/cases/{item.case_id}/results"},
            "results": [],
        }
        if kind == "case.results":
            made = self._ledger.read.case_view(item.case_id).artefacts
            body["results"] = [
                {"kind": a.artefact.kind, "media_type": a.artefact.media_type, "url": f"/v1/results/{a.id}"}
                for a in made
            ]
        return json.dumps(body, ensure_ascii=True, separators=(",", ":"), sort_keys=True)

    def _send(self, claim: ClaimedNotice) -> None:
        outcome = courier.post(self.hook, claim.event_id, claim.body.encode("ascii"), self._now())
        now = self._now()
        overdue = now - claim.created_at >= timedelta(seconds=self._work.retry_horizon_s)
        if outcome.code and outcome.again and overdue:
            outcome = replace(outcome, code="WEBHOOK_HORIZON", again=False)
        status = f"HTTP {outcome.status}" if outcome.status else ""
        if not outcome.code:
            state, next_at = NoticeState.SENT, None
        elif outcome.again:
            state, next_at = NoticeState.PENDING, now + timedelta(seconds=self._wait_s(claim.attempt))
        else:
            state, next_at = NoticeState.DEAD, None
        held = self._ledger.finish_notice(claim, state, status, outcome.code, next_at, now)
        report = log.info if state is NoticeState.SENT else log.error if state is NoticeState.DEAD else log.warning
        report(
            "webhook.sent" if held else "webhook.fenced_off",
            destination=self.name,
            case_id=claim.case_id,
            attempt=claim.attempt,
            state=str(state),
            code=outcome.code,
            status=status,
        )

    def _wait_s(self, attempt: int) -> float:
        """Doubling, full jitter, at least a second."""
        ceiling = min(self._work.retry_first_s * 2.0 ** min(attempt - 1, 30), self._work.retry_max_s)
        return max(ceiling * self._draw(), min(1.0, self._work.retry_first_s))
