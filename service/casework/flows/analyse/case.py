"""One case from claim to results: inputs, network, readout, report, store, ledger. Sequence and transaction only.

Every way out is coded: results (finish), an input that can't be analysed (reject), something that may work later
(retry with back-off), or something a person has to see (needs attention). A worker that lost its lease changes nothing.
"""

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Protocol

from pydicom.dataset import Dataset

from casework.case import ANALYSE, TELL, WITHDRAW
from casework.checks import CONFLICTS, severities
from casework.config import Settings
from casework.engine import readout
from casework.engine.bundle import ModelPackage
from casework.engine.passport import Passport
from casework.engine.runner import Runner, SideOutputs
from casework.errors import CaseworkError, Defect, Refused, Unavailable
from casework.flows.analyse.batch import contributions, identity, side_inputs
from casework.flows.analyse.inputs import Inputs, Ready
from casework.flows.analyse.record import Record
from casework.flows.analyse.tell import Teller, Why
from casework.flows.analyse.told import choices, furthest, left_out, modalities, seen, unstable
from casework.ledger import CaseRow, ClaimedJob, InstanceRow, Ledger
from casework.observe import STAGE_SECONDS, log
from casework.preprocess import gate
from casework.report import (
    Rendered,
    check,
    example,
    listed,
    render_images,
    slices_needed,
)
from casework.report.beside import ReportProcess
from casework.result import CaseResult, Check, Choice, Finding, Outcome, Side, SideResult
from casework.spool import Spool
from casework.tracing import note_stages

# objects that lay an MR projection's heat back on slices
_ON_SLICES = frozenset({"parametric-map", "segmentation", "slices"})


class Clock(Protocol):
    """Aware UTC now."""

    def __call__(self) -> datetime:
        """Now."""
        ...


class _Rejected(Exception):
    """The input can't be analysed."""

    def __init__(
        self,
        code: str,
        findings: Sequence[Finding] = (),
        *,
        attention: bool = False,
        detail: str = "",
        why: Sequence[str] = (),
        checks: tuple[Check, ...] = (),
        choices: tuple[Choice, ...] = (),
    ) -> None:
        super().__init__(code)
        self.code, self.findings, self.attention, self.detail = code, findings, attention, detail
        self.why, self.checks, self.choices = tuple(why) or (code,), checks, choices


class _Overtaken(Exception):
    """The lease is somebody else's now."""


class Stopwatch:
    """Seconds per stage, in the order of their first use."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; several uses of a name add up."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    def report(self) -> dict[str, float]:
        """Rounded to a tenth of a millisecond."""
        return {name: round(seconds, 4) for name, seconds in self.seconds.items()}


class Heartbeat:
    """Prolongs a job's lease in the background; `check` says when it was lost."""

    def __init__(self, ledger: Ledger, job: ClaimedJob, settings: Settings, now: Clock) -> None:
        self._ledger, self._job, self._work, self._now = ledger, job, settings.work, now
        self._stop, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raise _Overtaken when the lease is lost."""
        if self._lost.is_set():
            raise _Overtaken

    def _beat(self) -> None:
        while not self._stop.wait(self._work.heartbeat_s):
            try:
                alive = self._ledger.heartbeat(self._job.job_id, self._job.fence, self._work.lease_s, self._now())
            except Unavailable:
                continue  # the ledger may come back before the lease ends; the fence decides
            if not alive:
                self._lost.set()
                return


@dataclass(frozen=True, slots=True)
class Ended:
    """How one job ended: code "" when results were stored; seconds per stage."""

    case_id: str
    code: str
    seconds: Mapping[str, float]
    priority: int = 0


class Analyser:
    """Runs cases with one model package and one engine."""

    def __init__(
        self,
        ledger: Ledger,
        spool: Spool,
        inputs: Inputs,
        *,
        package: ModelPackage,
        runner: Runner,
        passport: Passport,
        reports: ReportProcess,
        settings: Settings,
        now: Clock,
    ) -> None:
        self._ledger, self._inputs, self._reports = ledger, inputs, reports
        self._package, self._runner, self._settings, self._now = package, runner, settings, now
        self._identity = identity(package, passport)
        # Not the engine that the site prefers: every result says so.
        self._fallback = (Finding("ENGINE_FALLBACK"),) if passport.passed_over else ()
        self._severity = severities(settings.gate.severity)
        self._record = Record(ledger, spool, settings, package.sha256)
        self._teller = Teller(ledger, inputs, self._record, self._identity, settings)

    # --- one job --------------------------------------------------------------------------------------------

    def run_next(self, owner: str, job_id: int | None = None, *, routine_first: bool = False) -> Ended | None:
        """Claim this job, or the best one, and bring it to an end; None when it is not to be had.

        After each analysis one word goes where it belongs: that something is withdrawn, else that a case ended without a
        run; so that this waits behind none for long.
        """
        watch, lease_s = Stopwatch(), self._settings.work.lease_s
        with watch.stage("claim"):
            job = self._ledger.claim_job(ANALYSE, owner, lease_s, self._now(), job_id, routine_first=routine_first)
        ended = None if job is None else self.run(job, watch)
        if ended is None or job_id is None:
            for kind in (WITHDRAW, TELL):
                said = self._ledger.claim_job(kind, owner, lease_s, self._now(), job_id, routine_first=routine_first)
                if said is not None:
                    told = self.run(said, Stopwatch())
                    return ended or told
        return ended

    def run(self, job: ClaimedJob, watch: Stopwatch) -> Ended:
        """Bring a claimed job to an end. Only an unreachable ledger raises."""
        try:
            with Heartbeat(self._ledger, job, self._settings, self._now) as beat:
                code = self._run(job, watch, beat) if job.kind == ANALYSE else self._tell(job, beat)
        except _Overtaken:
            code = "LEASE_EXPIRED"
        for stage, seconds in watch.seconds.items():
            STAGE_SECONDS.labels(stage).observe(seconds)
        note_stages(job.case_id, watch.seconds)
        total = round(sum(watch.seconds.values()), 3)
        event = "case.analysed" if job.kind == ANALYSE else "case.told"
        log.info(event, case_id=job.case_id, job_id=job.job_id, attempt=job.attempt, code=code, seconds=total)
        return Ended(job.case_id, code, watch.report(), job.priority)

    def _run(self, job: ClaimedJob, watch: Stopwatch, beat: Heartbeat) -> str:
        """Analyse and end the job; return its code."""
        try:
            self._analyse(job, watch, beat)
        except _Rejected as rejected:
            return self._reject(job, rejected, beat)
        except Refused as refused:
            return self._reject(job, _Rejected(refused.code, ()), beat)
        except Unavailable as error:
            return self._fail(job, error.code, error.detail, again=True)
        except Defect as defect:
            return self._reject(job, _Rejected(defect.code, (), attention=True, detail=defect.detail), beat)
        except _Overtaken:
            raise
        except Exception as error:  # noqa: BLE001 - the worker loop's outer guard: one case must not end the worker
            log.error("case.failed", case_id=job.case_id, error_type=type(error).__name__, where=_where(error))
            where = f"{type(error).__name__} {_where(error)}"
            return self._reject(job, _Rejected("INTERNAL", (), attention=True, detail=where), beat)
        return ""

    def _reject(self, job: ClaimedJob, rejected: _Rejected, beat: Heartbeat) -> str:
        """End a job without a result, and say so in the studies: silence would read as a negative one."""
        try:
            why = Why(rejected.why, tuple(rejected.findings), rejected.checks, rejected.choices)
            case = self._ledger.read.case(job.case_id)
            document, artefacts = self._teller.stopped(case, why, beat.check, self._now())
        except Unavailable as error:
            return self._fail(job, error.code, error.detail, again=True)
        except Exception as error:  # noqa: BLE001 - the case has to end with its own reason, told or not
            reason = error.detail if isinstance(error, Defect) else type(error).__name__
            log.error("case.not_told", case_id=job.case_id, reason=reason, where=_where(error))
            self._ledger.add_findings(job.case_id, rejected.findings, ANALYSE, self._now())
            return self._fail(job, rejected.code, rejected.detail, again=False)
        ended = self._ledger.reject_job(
            job.job_id,
            job.fence,
            rejected.code,
            rejected.findings,
            self._now(),
            rejected.detail,
            result_json=document,
            artefacts=artefacts,
            destinations=self._record.destinations,
            withheld=self._settings.withheld,
            attention=rejected.attention,
        )
        if not ended:
            raise _Overtaken
        return rejected.code

    def _tell(self, job: ClaimedJob, beat: Heartbeat) -> str:
        """Say in the studies of a case that ended without a run that nothing was analysed; or take back what was said."""
        try:
            told = self._told(job, beat)
        except _Overtaken:
            raise
        except CaseworkError as error:
            return self._fail(job, error.code, error.detail, again=True)
        except Exception as error:  # noqa: BLE001 - the outer guard again; its tries are counted
            log.error("case.not_told", case_id=job.case_id, reason=type(error).__name__, where=_where(error))
            return self._fail(job, "INTERNAL", _where(error), again=True)
        if not told:
            raise _Overtaken
        return ""

    def _told(self, job: ClaimedJob, beat: Heartbeat) -> bool:
        """False: the lease is somebody else's now."""
        number, fence, now = job.job_id, job.fence, self._now()
        if job.kind == WITHDRAW:
            return self._ledger.finish_withdrawal(number, fence, self._teller.withdrawal(job, now), now)
        artefacts = self._teller.ended(job.case_id, beat.check, now)
        places, withheld = self._record.destinations, self._settings.withheld
        return self._ledger.finish_telling(number, fence, artefacts, places, now, withheld=withheld)

    def _fail(self, job: ClaimedJob, code: str, detail: str, *, again: bool) -> str:
        work, now = self._settings.work, self._now()
        wait_s = min(work.retry_max_s, work.retry_first_s * 2.0 ** (job.attempt - 1))
        jittered = timedelta(seconds=random.uniform(0.5, 1.0) * wait_s)  # noqa: S311 - jitter
        if not self._ledger.fail_job(job.job_id, job.fence, code, now + jittered if again else None, now, detail):
            raise _Overtaken
        return code

    # --- the sequence -----------------------------------------------------------------------------------------

    def _analyse(self, job: ClaimedJob, watch: Stopwatch, beat: Heartbeat) -> None:
        with watch.stage("claim"):
            rows = self._ledger.case_inputs(job.case_id)
            case = self._ledger.read.case(job.case_id)
        with watch.stage("plan"):
            self._inputs.facts_of(rows, beat.check)
        with watch.stage("decode"):
            ready = self._inputs.ready(rows, pause=beat.check)
        with watch.stage("gate"):
            checks = gate.assess(seen(ready, self._record.said_before(case), self._package.spec), self._severity)
            chosen = choices(ready, rows)
            self._stop(checks, chosen, ready)
        sides = tuple(s for s in readout.SIDES if readout.sufficient(modalities(ready, s), self._package.spec))
        with watch.stage("tensor"):
            batch = side_inputs(ready, sides, self._package.spec.input_size)
        beat.check()
        with watch.stage("network"):
            outputs = self._runner.run(batch)
        with watch.stage("readout"):
            result = self._result(case, rows, ready, sides, outputs)
            checks = gate.with_distance(checks, furthest(result.sides), self._severity)
            self._stop(checks, chosen, ready)
            told = (*gate.told_by(checks), *unstable(result.sides), *self._fallback)
            result = replace(result, checks=checks, choices=chosen, findings=told)
        beat.check()
        with watch.stage("render"):
            sources = self._sources(result, rows)
            if "slices" in self._settings.wanted:
                needed = slices_needed(result, sources)
                result = replace(result, planes=self._inputs.planes(rows, needed, pause=beat.check))
        rendered = self._results(result, sources, watch)
        beat.check()
        spoken = {one.study_instance_uid for one in rendered}
        untold = self._teller.untold(case, result, rows, ready, spoken, self._now())
        with watch.stage("store"):
            artefacts = self._record.store([*rendered, *untold])
        known = {(f.code, f.subject) for f in result.findings}
        rest = [f for f in left_out(ready) if (f.code, f.subject) not in known]
        document = result_json([*rendered, *untold], ready, watch)
        with watch.stage("ledger"):
            findings = [*result.findings, *rest]
            finished = self._ledger.finish_job(
                job.job_id,
                job.fence,
                document,
                artefacts,
                findings,
                self._record.destinations,
                self._now(),
                withheld=self._settings.withheld,
            )
        if not finished:
            raise _Overtaken

    def _results(self, result: CaseResult, sources: Mapping[str, Dataset], watch: Stopwatch) -> list[Rendered]:
        """All objects, made and checked: reports beside, pictures here, then what holds between them."""
        with watch.stage("render"):
            what = (result, sources, self._settings.report, self._now(), self._settings.wanted)
            making = self._reports.reports(*what)
            images = render_images(*what)
            reports = making.result()
        with watch.stage("check"):
            rendered = [*reports.rendered, *images]
            check(rendered, result, sources, reports.examined)
        return rendered

    def warm(self) -> None:
        """Make the results of an invented case and forget them, so that the first real one takes no longer than others."""
        try:
            self._results(*example(self._identity), Stopwatch())
        except CaseworkError as error:  # a real case would meet the same, and say it
            log.warning("worker.not_warmed", code=error.code)

    def _stop(self, checks: tuple[Check, ...], chosen: tuple[Choice, ...], ready: Ready) -> None:
        """Nothing goes on when a check says so.

        Raises:
            _Rejected: a check stops the case.
        """
        why = gate.stops(checks)
        if why:
            causes = [f for c in checks if c.code in why for f in c.findings if f.subject]
            findings = tuple(dict.fromkeys([*causes, *left_out(ready)]))
            raise _Rejected(why[0], findings, attention=why[0] in CONFLICTS, why=why, checks=checks, choices=chosen)

    def _result(
        self,
        case: CaseRow,
        rows: Sequence[InstanceRow],
        ready: Ready,
        sides: tuple[Side, ...],
        outputs: SideOutputs,
    ) -> CaseResult:
        spec = self._package.spec
        read = {r.side: r for r in readout.read(outputs, spec, sides)}
        results = tuple(
            read.get(s) or SideResult(s, Outcome.INSUFFICIENT, None, {}, modalities(ready, s)) for s in readout.SIDES
        )
        return CaseResult(
            case_id=case.root_id,
            revision=case.revision,
            model=self._identity,
            sides=results,
            images=contributions(ready, sides, outputs, depths=bool(_ON_SLICES & self._settings.wanted)),
            findings=(),
            input_digest=self._record.digest(case, rows),
            thresholds={"positive_at": spec.positive_at, "negative_below": spec.negative_below},
            predecessors=self._record.predecessors(case),
        )

    def _sources(self, result: CaseResult, rows: Sequence[InstanceRow]) -> dict[str, Dataset]:
        """The headers of all sources by SOP Instance UID."""
        by_uid = {row.header.sop_instance_uid: row for row in rows}
        uids = dict.fromkeys(uid for image in result.images for uid in image.sources)
        return {uid: self._inputs.header(by_uid[uid]) for uid in uids}


# --- pieces without I/O ------------------------------------------------------------------------------------------


def result_json(rendered: Sequence[Rendered], ready: Ready, watch: Stopwatch) -> str:
    """The rendered result document with how it came about: which image filled which place, seconds per stage."""
    documents = [json.loads(one.data) for one in rendered if one.kind == "result-json"]
    document: dict[str, Any] = documents[0] if documents else {}
    document["prepared"] = [
        {"side": side.value, "modality": modality, "slot": slot, "source": image.sources[0], "notes": dict(image.notes)}
        for (side, modality, slot), image in sorted(ready.images.items())
    ]
    document["not_performed"] = listed(rendered)
    document["seconds"] = watch.report()
    return json.dumps(document, ensure_ascii=False)


def _where(error: BaseException) -> str:
    """File and line of the innermost frame, never its values."""
    place, at = "", error.__traceback__
    while at is not None:
        place = f"{at.tb_frame.f_globals.get('__name__', '?')}:{at.tb_lineno}"
        at = at.tb_next
    return place
