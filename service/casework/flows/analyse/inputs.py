"""From the stored instances of a case to prepared images, through the decode children and the cache of prepared images.

The same code prepares ahead and prepares for a running case: what is cached is taken, what is missing is made. A cache
entry is named by what went in (digest of the stored bytes, preprocessing version, size), so it can't be stale; a
missing or damaged one is never an error.
"""

import contextlib
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from casework import __version__
from casework.config import Work
from casework.errors import Defect, Refused, Unavailable
from casework.ledger import InstanceRow
from casework.observe import log
from casework.preprocess import ultrasound
from casework.preprocess.child import Answer, DecodePool
from casework.preprocess.decode import NATIVE, open_header
from casework.preprocess.facts import InstanceFacts
from casework.preprocess.prepared import VERSION, Preparation, PreparedImage, unpack
from casework.preprocess.select import Plan, choose
from casework.preprocess.tasks import facts_from_json, planes_of
from casework.result import Finding, Side
from casework.spool import Spool

_FACTS_IN_ONE_TASK = 16
_REMEMBERED = 8192
_HEADERS_REMEMBERED, _PLANS_REMEMBERED = 512, 16
_TRIES = 2  # of one image's decoding, counted over crashes

V = TypeVar("V")
Place = tuple[Side, str, str]  # side, modality, slot


class Remembered(Generic[V]):
    """A small thread-safe map that forgets what was used longest ago."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[str, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> V | None:
        """The value, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: str, value: V) -> None:
        """Keep a value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._limit:
                self._values.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Ready:
    """The prepared images of a case, and what is to be said of the others.

    reasons: SOP Instance UID -> "" when used, else the code why not. findings: remarks of the preprocessing.
    """

    plan: Plan
    images: Mapping[Place, PreparedImage]
    facts: Mapping[str, InstanceFacts]
    reasons: Mapping[str, str]
    findings: tuple[Finding, ...]


@dataclass
class _Round:
    """One try to prepare everything that a plan wants."""

    images: dict[Place, PreparedImage] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)  # SOP Instance UID -> code


class Inputs:
    """Facts and prepared images of instances. Safe for use by the running case and the prepare-ahead thread at once."""

    def __init__(self, spool: Spool, pool: DecodePool, size: int, work: Work, *, synthetic: bool = False) -> None:
        """synthetic: whether the model may read mammograms computed from tomosynthesis."""
        self._spool, self._pool, self._size, self._synthetic = spool, pool, size, synthetic
        self._timeout_s = work.decode_cpu_s + 30.0
        self._facts: Remembered[InstanceFacts] = Remembered(_REMEMBERED)
        self._headers: Remembered[Dataset] = Remembered(_HEADERS_REMEMBERED)
        self._plans: Remembered[Plan] = Remembered(_PLANS_REMEMBERED)
        self._codes: Remembered[str] = Remembered(_REMEMBERED)  # digest (and task) -> why it can't be used

    # --- facts ----------------------------------------------------------------------------------------------

    def facts_of(
        self, rows: Sequence[InstanceRow], pause: Callable[[], None]
    ) -> tuple[dict[str, InstanceFacts], dict[str, str]]:
        """Facts by SOP Instance UID, and the codes of instances whose header can't be read."""
        facts: dict[str, InstanceFacts] = {}
        codes: dict[str, str] = {}
        missing: list[InstanceRow] = []
        for row in rows:
            uid, known = row.header.sop_instance_uid, self._known_facts(row)
            if known is not None:
                facts[uid] = known
            elif code := self._codes.get("facts" + row.sha256):
                codes[uid] = code
            else:
                missing.append(row)
        pause()
        batches = [missing[n : n + _FACTS_IN_ONE_TASK] for n in range(0, len(missing), _FACTS_IN_ONE_TASK)]
        futures = [(batch, self._submit({"do": "facts", "paths": self._paths(batch)})) for batch in batches]
        for batch, future in futures:
            self._take_facts(batch, future, facts, codes)
        return facts, codes

    def _known_facts(self, row: InstanceRow) -> InstanceFacts | None:
        known = self._facts.get(row.sha256)
        if known is not None:
            return known
        try:
            known = facts_from_json(json.loads(self._spool.prepared_path(_key("facts", row.sha256)).read_bytes()))
        except (OSError, ValueError):
            return None
        if known.sop_instance_uid != row.header.sop_instance_uid:
            return None
        self._facts.put(row.sha256, known)
        return known

    def _take_facts(
        self,
        batch: Sequence[InstanceRow],
        future: "Future[Answer]",
        facts: dict[str, InstanceFacts],
        codes: dict[str, str],
    ) -> None:
        try:
            found = self._result({"do": "facts", "paths": self._paths(batch)}, future).head["facts"]
        except Unavailable:
            if len(batch) > 1:  # one of them brings the child down: ask for each alone
                for row in batch:
                    alone = self._submit({"do": "facts", "paths": self._paths([row])})
                    self._take_facts([row], alone, facts, codes)
                return
            found = [{"refused": "DECODER_CRASHED"}]
        for row, one in zip(batch, found, strict=True):
            uid = row.header.sop_instance_uid
            if "refused" in one:
                codes[uid] = str(one["refused"])
                self._codes.put("facts" + row.sha256, codes[uid])
            else:
                facts[uid] = facts_from_json(one)
                self._facts.put(row.sha256, facts[uid])
                self._write(_key("facts", row.sha256), json.dumps(one).encode())

    # --- images ---------------------------------------------------------------------------------------------

    def ready(
        self, rows: Sequence[InstanceRow], *, mri: bool = True, pause: Callable[[], None] = lambda: None
    ) -> Ready:
        """Choose and prepare. An image that can't be decoded is replaced by the next best, with its reason kept.

        mri: False leaves the dynamic series for later, while slices still arrive. pause: called between the parts;
        what it raises ends the work, and what is done stays cached.
        """
        by_uid = {row.header.sop_instance_uid: row for row in rows}
        facts, codes = self.facts_of(rows, pause)
        without: dict[str, str] = {}
        while True:
            plan = self._plan(rows, facts, without)
            done = _Round() if plan.stop else self._prepare(plan, by_uid, mri=mri, pause=pause)
            if not done.bad:
                reasons = {**plan.reasons, **codes}
                return Ready(plan, done.images, facts, reasons, tuple(done.findings))
            without |= done.bad

    def planes(
        self, rows: Sequence[InstanceRow], wanted: Sequence[tuple[str, int]], *, pause: Callable[[], None]
    ) -> dict[tuple[str, int], NDArray[np.uint8]]:
        """Pictures of MR slices by (SOP Instance UID, 1-based frame), all on one grey scale; each was decoded before.

        Raises:
            Refused, Unavailable: they can't be decoded now.
        """
        if not wanted:
            return {}
        by_uid = {row.header.sop_instance_uid: row for row in rows}
        items = [[str(self._spool.path(by_uid[uid].sha256)), frame] for uid, frame in wanted]
        task = {"do": "planes", "items": items}
        pause()
        pictures = planes_of(self._result(task, self._submit(task)).payload)
        return dict(zip(wanted, pictures, strict=True))

    def header(self, row: InstanceRow) -> Dataset:
        """The header of an instance, without pixels; whoever gets it only reads it."""
        header = self._headers.get(row.sha256)
        if header is None:
            header = open_header(self._spool.path(row.sha256))
            self._headers.put(row.sha256, header)
        return header

    def _plan(
        self, rows: Sequence[InstanceRow], facts: Mapping[str, InstanceFacts], without: Mapping[str, str]
    ) -> Plan:
        key = _key("plan", *sorted(r.sha256 for r in rows), *sorted(facts), json.dumps(sorted(without.items())))
        plan = self._plans.get(key)
        if plan is None:
            plan = choose([facts[uid] for uid in sorted(facts)], without, synthetic=self._synthetic)
            self._plans.put(key, plan)
        return plan

    def _prepare(self, plan: Plan, rows: Mapping[str, InstanceRow], *, mri: bool, pause: Callable[[], None]) -> _Round:
        done = _Round()
        singles = [("MG", uid) for uid in plan.mammograms.values()]
        singles += [("US", uid) for uids in plan.ultrasound.values() for uid in uids]
        copies = self._decode_slices(plan, rows, done, pause) if mri and plan.mri is not None else {}
        series = self._series_task(plan, rows, copies) if mri and plan.mri is not None and not done.bad else None
        pause()
        # The dynamic series is the longest task, so it goes first; mammograms fill the other children meanwhile.
        waiting_series = self._begin(*series) if series is not None else None
        waiting = {
            uid: self._begin(self._single_key(kind, rows[uid]), self._single_task(kind, rows[uid]))
            for kind, uid in singles
        }
        prepared = {uid: p for uid, w in waiting.items() if (p := self._finish(w, [uid], done, pause)) is not None}
        self._place_mammograms(plan, prepared, done)
        for uids in plan.ultrasound.values():
            _place(done, "US", ultrasound.combine([prepared[uid] for uid in uids if uid in prepared]))
        if waiting_series is not None and plan.mri is not None:
            self._finish_series(waiting_series, sorted(plan.mri.instances), done, pause)
        return done

    def _place_mammograms(self, plan: Plan, prepared: Mapping[str, Preparation], done: _Round) -> None:
        for (side, slot), uid in plan.mammograms.items():
            if uid in prepared:
                if set(prepared[uid].images) != {(side, slot)}:
                    raise Defect("INTERNAL", "a prepared mammogram is of another side or view")
                _place(done, "MG", prepared[uid])

    def _decode_slices(
        self, plan: Plan, rows: Mapping[str, InstanceRow], done: _Round, pause: Callable[[], None]
    ) -> dict[str, str]:
        """Decode compressed slices one by one, in all children, and return the paths of the copies by UID."""
        uids = sorted(plan.mri.instances) if plan.mri is not None else []
        compressed = [uid for uid in uids if rows[uid].header.transfer_syntax_uid not in NATIVE]
        copies = {uid: self._spool.prepared_path(_key("slice", rows[uid].sha256)) for uid in compressed}
        missing = [uid for uid in compressed if not copies[uid].is_file()]
        tasks = {uid: {"do": "slice", "path": str(self._spool.path(rows[uid].sha256))} for uid in missing}
        futures = {uid: self._submit(task) for uid, task in tasks.items()}
        for uid, future in futures.items():
            pause()
            try:
                answer = self._result(tasks[uid], future)
            except (Refused, Unavailable) as error:
                done.bad[uid] = error.code
            else:
                self._write(_key("slice", rows[uid].sha256), answer.payload)
        return {uid: str(path) for uid, path in copies.items()}

    def _series_task(
        self, plan: Plan, rows: Mapping[str, InstanceRow], copies: Mapping[str, str]
    ) -> tuple[str, dict[str, Any]]:
        uids = sorted(plan.mri.instances) if plan.mri is not None else []
        key = _key("MR", *sorted(rows[uid].sha256 for uid in uids), str(self._size))
        items = [
            [
                str(self._spool.path(rows[uid].sha256)),
                str(self._spool.prepared_path(_key("facts", rows[uid].sha256))),
                copies.get(uid, ""),
            ]
            for uid in uids
        ]
        return key, {"do": "MR", "items": items, "size": self._size}

    def _finish_series(self, waiting: "_Waiting", uids: Sequence[str], done: _Round, pause: Callable[[], None]) -> None:
        prepared = self._finish(waiting, uids, done, pause)
        if prepared is None:
            return
        if not prepared.images:
            code = next((f.code for f in prepared.findings), "PHASES_INCOMPLETE")
            done.bad.update(dict.fromkeys(uids, code))
            return
        _place(done, "MR", prepared)

    # --- one task: cache, child, cache ------------------------------------------------------------------------

    def _single_key(self, kind: str, row: InstanceRow) -> str:
        return _key(kind, row.sha256, str(self._size))

    def _single_task(self, kind: str, row: InstanceRow) -> dict[str, Any]:
        return {"do": kind, "path": str(self._spool.path(row.sha256)), "size": self._size}

    def _begin(self, key: str, task: dict[str, Any]) -> "_Waiting":
        """Take it from the cache, or ask a child for it, unless it is known to be unusable."""
        code = self._codes.get(key)
        cached = None if code else self._cached(key)
        future = None if code or cached is not None else self._submit(task)
        return _Waiting(key, task, code, cached, future)

    def _finish(
        self, waiting: "_Waiting", uids: Sequence[str], done: _Round, pause: Callable[[], None]
    ) -> Preparation | None:
        """The preparation; None when `uids` are bad, which is noted."""
        if waiting.cached is not None:
            return waiting.cached
        if waiting.future is None:
            done.bad.update(dict.fromkeys(uids, waiting.code or "PIXELS_UNDECODABLE"))
            return None
        pause()
        try:
            answer = self._result(waiting.task, waiting.future)
        except (Refused, Unavailable) as error:
            self._codes.put(waiting.key, error.code)
            done.bad.update(dict.fromkeys(uids, error.code))
            return None
        if bad := answer.head.get("bad"):  # a series names the slices that it can't read
            done.bad.update({uids[int(n)]: str(code) for n, code in bad.items()})
            return None
        self._write(waiting.key, answer.payload)
        return unpack(answer.payload)

    def _submit(self, task: dict[str, Any]) -> "Future[Answer]":
        return self._pool.submit(task, self._timeout_s)

    def _result(self, task: dict[str, Any], future: "Future[Answer]") -> Answer:
        """The answer; a crash is tried once more on a fresh child.

        Raises:
            Refused: the input can't be used. Unavailable: DECODER_CRASHED, again.
        """
        for _ in range(_TRIES - 1):
            try:
                return future.result()
            except Unavailable as error:
                log.warning("decode.crashed", kind=task["do"], reason=error.detail)
                future = self._submit(task)
        return future.result()

    def _cached(self, key: str) -> Preparation | None:
        path = self._spool.prepared_path(key)
        try:
            return unpack(path.read_bytes())
        except OSError:
            return None
        except ValueError:
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def _write(self, key: str, data: bytes) -> None:
        try:
            self._spool.write_prepared(key, [data])
        except OSError as error:
            log.warning("prepared.not_written", error_type=type(error).__name__)

    def _paths(self, rows: Iterable[InstanceRow]) -> list[str]:
        return [str(self._spool.path(row.sha256)) for row in rows]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One preparation under way: known bad (code), taken from the cache, or asked for."""

    key: str
    task: dict[str, Any]
    code: str | None
    cached: Preparation | None
    future: "Future[Answer] | None"


def _place(done: _Round, modality: str, preparation: Preparation) -> None:
    for (side, slot), image in preparation.images.items():
        done.images[side, modality, slot] = image
    done.findings += preparation.findings


def _key(*parts: str) -> str:
    return hashlib.sha256("|".join((VERSION, __version__, *parts)).encode()).hexdigest()
