"""Saying in a case's studies that nothing was analysed, and why: silence would read as a negative one.

Said by a run that stops, of studies that a run did not use, and by a job of its own where a case ended without a run:
before it (no Patient ID, a doubt, a person closed it) or because no try survived. Only headers are read for that.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from casework.case import Artefact
from casework.config import Settings
from casework.flows.analyse.inputs import Inputs, Ready
from casework.flows.analyse.record import Record
from casework.flows.analyse.stopped import silent_studies, stopped_result
from casework.flows.analyse.told import left_out
from casework.ledger import CaseRow, ClaimedJob, InstanceRow, Ledger
from casework.reasons import REASONS
from casework.report import (
    Rendered,
    Silent,
    check_not_performed,
    readable,
    render_not_performed,
    render_rejection,
    to_reject,
    verdict_json,
)
from casework.result import CaseResult, Check, Choice, Finding, ModelIdentity


@dataclass(frozen=True, slots=True)
class Why:
    """Why nothing was analysed: reason codes, the gravest first, with what the gate saw and chose."""

    codes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    checks: tuple[Check, ...] = ()
    choices: tuple[Choice, ...] = ()


class Teller:
    """Makes, checks and keeps what says that nothing was analysed."""

    def __init__(
        self, ledger: Ledger, inputs: Inputs, record: Record, identity: ModelIdentity, settings: Settings
    ) -> None:
        self._ledger, self._inputs, self._record = ledger, inputs, record
        self._identity, self._settings = identity, settings

    def ended(self, case_id: str, pause: Callable[[], None], now: datetime) -> list[Artefact]:
        """A document for every study of a case that ended as its state says. The verdict stays the case's state.

        Raises:
            CaseworkError: it can't be said.
        """
        case = self._ledger.read.case(case_id)
        last_error = case.detail.split(" ")[0]  # what the tries failed of
        codes = [case.reason, *([last_error] if last_error in REASONS else [])]
        return self.stopped(case, Why(tuple(dict.fromkeys(codes)), self._record.said_before(case)), pause, now)[1]

    def withdrawal(self, job: ClaimedJob, now: datetime) -> list[tuple[Artefact, list[str]]]:
        """Notes that withdraw what was said, with the destinations that have it: its study left the case, or its doubt was dismissed.

        Raises:
            CaseworkError: it can't be said.
        """
        notes, language = [], self._settings.report.language
        for code, reached in self._ledger.withdrawn(job.job_id):
            for artefacts, destinations in to_reject(reached):
                note = render_rejection(job.case_id, code, readable(artefacts, self._record.header), language, now)
                notes += [(made, destinations) for made in self._record.store([note])]
        return notes

    def stopped(self, case: CaseRow, why: Why, pause: Callable[[], None], now: datetime) -> tuple[str, list[Artefact]]:
        """The verdict, and a document for every study that has to be told.

        Raises:
            CaseworkError: it can't be said.
        """
        rows = self._rows(case)
        facts, _ = self._inputs.facts_of(rows, pause)
        result = stopped_result(
            case,
            why.codes,
            why.findings,
            model=self._identity,
            digest=self._record.digest(case, rows),
            predecessors=self._record.predecessors(case),
        )
        result = replace(result, checks=why.checks, choices=why.choices)
        studies = silent_studies(rows, facts, self._inputs.header)
        rendered = self._documents(result, studies, now)
        pause()
        return json.dumps(verdict_json(result, rendered, now), ensure_ascii=False), self._record.store(rendered)

    def untold(  # noqa: PLR0917 - the run, and what it made
        self,
        case: CaseRow,
        result: CaseResult,
        rows: Sequence[InstanceRow],
        ready: Ready,
        told: set[str],
        now: datetime,
    ) -> list[Rendered]:
        """Documents for the case's studies that gave no image, now or to a report that stands: nobody else tells them so."""
        told = told | self._record.reported(case, rows)
        studies = silent_studies(rows, ready.facts, self._inputs.header, told)
        silent = replace(result, stopped=("STUDY_NOT_USED",), findings=left_out(ready))
        return self._documents(silent, studies, now)

    def _documents(self, result: CaseResult, studies: Sequence[Silent], now: datetime) -> list[Rendered]:
        if not studies:
            return []
        pages = self._settings.pages
        rendered = render_not_performed(result, studies, self._settings.report, now, pages=pages)
        check_not_performed(rendered, result, studies, pages=pages)
        return rendered

    def _rows(self, case: CaseRow) -> list[InstanceRow]:
        """The case's images; where people took out every one, those that are this patient's."""
        rows = self._ledger.case_inputs(case.id, here_only=True)
        if rows or case.predecessor is None:
            return rows
        out = self._ledger.read.exclusions(case.id)
        others = {(e.sop_instance_uid, e.sha256) for e in out if e.code == "EXCLUDED_WRONG_PATIENT"}
        before = self._ledger.case_inputs(case.predecessor, here_only=True)
        return [r for r in before if (r.header.sop_instance_uid, r.sha256) not in others]
