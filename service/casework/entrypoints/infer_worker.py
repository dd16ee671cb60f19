"""The inference worker: opens the model, checks it against its golden samples, then takes one case at a time.

Two threads: the main one claims and runs cases, the other prepares the images of cases that are still arriving and gives
way while a case runs. `infer_door` decides in which process that happens.
"""

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from casework import owner
from casework.config import Settings
from casework.engine.bundle import ModelPackage
from casework.engine.choose import open_engine
from casework.entrypoints.engines import open_model, place_of
from casework.errors import CaseworkError, Defect, Unavailable
from casework.flows.analyse import Analyser, Ended, Inputs, PrepareAhead
from casework.ledger import Ledger
from casework.observe import log
from casework.preprocess.child import COMMAND, ChildLimits, DecodePool
from casework.preprocess.prepared import VERSION
from casework.report.beside import ReportProcess
from casework.spool import Spool

_DECODER_OPENS_S = 60.0
_AHEAD_POLL_S = 0.25
LOST_STATUS = 6


def _now() -> datetime:
    return datetime.now(UTC)


class Worker:
    """The whole door in one object, so that tests can run it inside their own process."""

    def __init__(self, settings: Settings, decoder: Sequence[str] = COMMAND) -> None:
        """Open everything; the decode children (the program `decoder`) and the report process start while the model loads.

        Raises:
            Defect: MODEL_INVALID, MODEL_UNSIGNED, MODEL_ROLLBACK or MODEL_GOLDEN_MISMATCH.
        """
        work = settings.work
        self.settings = settings
        settings.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = settings.engine
        limits = ChildLimits(work.decode_memory_bytes, work.decode_cpu_s, engine.decoder, engine.device)
        self.pool = DecodePool(work.decode_processes, limits, decoder)
        self.reports = ReportProcess()
        if work.report_process:
            self.reports.start()
        try:
            self.package = open_model(settings)
            _check_preprocess(self.package)
            opened = open_engine(self.package, settings.engine, place_of(settings))
            self.runner, self.passport = opened.runner, opened.passport
            self.ledger = Ledger.open(settings.ledger_url)
            self._serve()
            self.ledger.note_engine("infer_worker", socket.gethostname(), self.passport.about(), _now())
        except CaseworkError:
            self.reports.close()
            self.pool.close()
            raise
        self.spool = spool = Spool(settings.root, fsync=settings.storage.fsync)
        spec = self.package.spec
        inputs = Inputs(spool, self.pool, spec.input_size, work, synthetic=spec.trained_on.synthetic)
        self.ahead = PrepareAhead(self.ledger, spool, inputs, settings, _now)
        self.analyser = Analyser(
            self.ledger,
            spool,
            inputs,
            package=self.package,
            runner=self.runner,
            passport=self.passport,
            reports=self.reports,
            settings=settings,
            now=_now,
        )
        self.owner = owner.process()
        self._thread = threading.Thread(target=self._prepare_ahead, name="ahead", daemon=True)
        log.info("worker.started", model=self.package.spec.name, version=self.package.spec.version)

    def _serve(self) -> None:
        """Put on record which model serves from now on.

        Raises:
            Defect: MODEL_ROLLBACK.
        """
        spec, signed_by = self.package.spec, self.package.signed_by
        back = self.settings.signing.allow_rollback
        self.ledger.serve_model(spec.name, spec.version, self.package.sha256, signed_by, _now(), allow_rollback=back)
        if not signed_by:
            log.warning("model.unsigned", code="MODEL_UNSIGNED", model=spec.name, version=spec.version)
        self._checked_at = time.monotonic()

    def _check_again(self) -> None:
        """Once an hour: what lies on the disk is still what was opened.

        Raises:
            Defect: MODEL_CHANGED; no case is claimed any more, and the next start says what is wrong.
        """
        if time.monotonic() - self._checked_at < self.settings.signing.check_s:
            return
        self._checked_at = time.monotonic()
        try:
            same = open_model(self.settings).sha256 == self.package.sha256
        except Defect as defect:
            raise Defect("MODEL_CHANGED", defect.code) from defect
        if not same:
            raise Defect("MODEL_CHANGED")

    def start(self) -> None:
        """Load what results need, and begin to prepare ahead."""
        self.analyser.warm()
        if self.settings.engine.decoder != "cpu":  # a child that has to fall back says so with its first answer
            said = self.pool.submit({"do": "decoder"}, _DECODER_OPENS_S).result().head
            log.info("decoder.serves", kind=said["decoder"])
        if self.settings.work.prepare_ahead:
            self._thread.start()

    def step(self, job_id: int | None = None, *, routine_first: bool = False) -> Ended | None:
        """Run this job, or the best one, if it waits.

        Raises:
            Unavailable: STORAGE_FAILED: every case would fail and spend its tries, so none is claimed until a restart.
            Defect: MODEL_CHANGED.
        """
        self._check_again()
        if self.spool.failed:
            raise Unavailable("STORAGE_FAILED")
        self.ahead.busy.set()
        try:
            ended = self.analyser.run_next(self.owner, job_id, routine_first=routine_first)
        finally:
            self.ahead.busy.clear()
        if ended is not None and ended.code == "ENGINE_LOST":
            # A CUDA context that failed once answers nothing any more, in this process: whoever started it starts another.
            log.error("worker.ends", code=ended.code)
            os._exit(LOST_STATUS)
        return ended

    def close(self) -> None:
        """End the second thread and the children."""
        self.ahead.stopping.set()
        if self._thread.is_alive():
            self._thread.join(self.settings.work.decode_cpu_s)
        self.reports.close()
        self.pool.close()
        self.ledger.close()

    def health(self) -> Mapping[str, object]:
        """What the health route and `casework doctor` read."""
        spec = self.package.spec
        return {
            "ok": not self.spool.failed,
            "model": spec.name,
            "version": spec.version,
            "engine": self.passport.line,
            "passport": self.passport.stamp,
        }

    def _prepare_ahead(self) -> None:
        while not self.ahead.stopping.wait(_AHEAD_POLL_S):
            try:
                self.ahead.step()
            except CaseworkError as error:
                log.warning("prepare.failed", code=error.code)
            except Exception as error:  # noqa: BLE001 - outer guard of this loop: preparing ahead is never needed
                log.error("prepare.failed", error_type=type(error).__name__)


def _check_preprocess(package: ModelPackage) -> None:
    """A model only runs on what it was trained with: manifests name the version in full or by its number."""
    stated = package.spec.preprocess
    if stated not in (VERSION, VERSION.rpartition("-")[2]):
        raise Defect("MODEL_INVALID", f"trained with preprocessing {stated}, this is {VERSION}")
