"""Proof of landing: ask each destination whether it holds what it stored, by storage commitment or by a query.

A commitment is asked for as a transaction that the ledger knows before the destination does. Its answer comes when the
destination likes, to the listener (flows/commitment.py) or on the same association; destinations lose answers when they
restart, so silence is followed by a query and a new question. Only after `work.proof_wait_s`, or when the destination
says that it does not hold an object, the same bytes go again, a bounded number of times.
"""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from casework.case import Proof
from casework.config import Destination, Settings
from casework.dicom import commitment, query, scu
from casework.dicom.answers import Answer
from casework.errors import CaseworkError, Unavailable
from casework.ledger import Ledger, Resend, Unproved
from casework.observe import log

POLL_S = 0.5
FIRST_WAIT_S = 1.0


class Prover:
    """Proves what one destination stored. One thread runs `step` in a loop."""

    def __init__(
        self,
        ledger: Ledger,
        destination: Destination,
        settings: Settings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.destination = destination
        self._ledger, self._work = ledger, settings.work
        self._calling = settings.dicom.ae_title
        self._now = now

    def step(self) -> float:
        """One look at what is due; return the seconds to wait before the next."""
        if not self.destination.proves:
            waived = self._ledger.waive_proofs(self.destination.name, self._now())
            if waived:
                log.warning("prove.waived", destination=self.destination.name, count=waived)
            return POLL_S * 20
        rows = self._ledger.unproved(self.destination.name, self._now())
        if rows:
            self._prove(rows)
        return POLL_S

    def close(self) -> None:
        """Nothing is kept open between two looks."""

    def _prove(self, rows: Sequence[Unproved]) -> None:
        by_query = self.destination.proves == "query"
        looked = [row for row in rows if by_query or row.asked]
        held, answered = self._look(looked)
        proofs = [_held(row) for row in looked if row.artefact.sop_instance_uid in held]
        missing = [row for row in looked if row.artefact.sop_instance_uid not in held]
        overdue = [row for row in missing if self._age(row) >= timedelta(seconds=self._work.proof_wait_s)]
        proofs += [_missing(row, answered=answered) for row in overdue]
        self._settle(proofs)
        rest = [row for row in missing if row not in overdue]
        if by_query:
            self._later(rest)
        else:
            self._ask([*(row for row in rows if not row.asked), *rest])

    def _look(self, rows: Sequence[Unproved]) -> tuple[set[str], bool]:
        """What the destination holds of these by its own index, and whether it could be asked."""
        if not rows:
            return set(), True
        series = [(row.artefact.study_instance_uid, row.artefact.series_instance_uid) for row in rows]
        try:
            return query.held_instances(self.destination, self._calling, series), True
        except CaseworkError as error:
            log.warning("prove.no_answer", destination=self.destination.name, code=error.code, count=len(rows))
            return set(), False

    def _ask(self, rows: Sequence[Unproved]) -> None:
        """Ask for storage commitment of these in one transaction."""
        if not rows:
            return
        uid = f"2.25.{uuid.uuid4().int}"
        until = self._now() + timedelta(seconds=self._work.proof_again_s)
        self._ledger.ask_commitment(uid, self.destination.name, [row.delivery_id for row in rows], until, self._now())
        objects = [(row.artefact.sop_class_uid, row.artefact.sop_instance_uid) for row in rows]
        answer = scu.ask_commitment(self.destination.committer, self._calling, uid, objects, self._on_report)
        good = answer.answer is Answer.STORED
        report = log.info if good else log.warning
        report(
            "prove.asked",
            destination=self.destination.name,
            count=len(rows),
            status=answer.words,
            code="" if good else answer.code,
        )
        if not good:
            self._later(rows)

    def _on_report(self, report: commitment.Report) -> int:
        """A report on the association that asked (in its thread); returns the status to answer with."""
        work, now = self._work, self._now()
        resend = Resend(now + timedelta(seconds=work.retry_first_s), work.proof_resends)
        name = self.destination.name
        try:
            known = self._ledger.commitment_report(
                report.transaction_uid, [name], commitment.proofs(report), resend, now
            )
        except Unavailable:
            return 0x0110  # processing failure
        return 0x0000 if known else 0x0115  # invalid argument value

    def _later(self, rows: Sequence[Unproved]) -> None:
        """Look again after as long as it has been waited for already, within bounds."""
        now = self._now()
        longest = timedelta(seconds=self._work.proof_again_s)
        waits = {
            row.delivery_id: now + min(max(self._age(row), timedelta(seconds=FIRST_WAIT_S)), longest) for row in rows
        }
        if waits:
            self._ledger.look_later(waits, now)

    def _settle(self, proofs: Sequence[Proof]) -> None:
        if not proofs:
            return
        now = self._now()
        resend = Resend(now + timedelta(seconds=self._work.retry_first_s), self._work.proof_resends)
        moved = self._ledger.settle_proofs(self.destination.name, proofs, resend, now)
        bad = [proof for proof in proofs if not proof.held]
        report = log.warning if bad else log.info
        report(
            "prove.settled", destination=self.destination.name, count=moved, code=bad[0].code if bad else "COMMITTED"
        )

    def _age(self, row: Unproved) -> timedelta:
        return self._now() - row.stored_at


def _held(row: Unproved) -> Proof:
    return Proof(row.artefact.sop_instance_uid, held=True, how="query", code="COMMITTED")


def _missing(row: Unproved, *, answered: bool) -> Proof:
    code = "RESULT_NOT_HELD" if answered else "PROOF_MISSING"
    return Proof(row.artefact.sop_instance_uid, held=False, how="query", code=code)
