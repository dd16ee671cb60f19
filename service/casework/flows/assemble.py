"""When a case is complete: every turn looks at the cases that receive, and queues them or says why not.

`judge` is the whole rule, without I/O. In words:
 - an undecided doubt about patient or side stops the case, whoever asks; so does a person's word that the case is closed
   or its result withdrawn, until a person retries it (withdrawn: or has taken out what was wrong);
 - a person's request counts as complete;
 - without a Patient ID nothing can be joined or asked for: a person has to look, and a retry runs it as a case of its own;
 - when a PACS has been asked: complete means that for each study exactly as many images are here as it holds, that it
   said so twice at least settle_s apart, the second time after the last image came, and that nothing came for settle_s.
   The association need not be closed then: many PACS keep it open for a while. Short of the count, the case waits until
   give_up_s after the last image, and then runs with what is there and with the finding COUNT_INCOMPLETE;
 - otherwise, or when there is more here than the PACS knows of: all associations closed and quiet_s without an image;
 - a keeper that was restarted goes by the counts that the ledger noted until a PACS answers again;
 - an association that brought nothing for give_up_s holds nobody up: the row of a door that was killed stays open;
 - a case that could run, but lacks a kind of image that the site's policy waits for, waits until its deadline and then
   runs with the finding WAIT_OVER. STAT and a person's request wait for none. Every wait has an end: the policy's times
   are bounded by the window, and are counted by the monotonic clock from the persisted beginning;
 - while other studies of the patient are being fetched from a PACS (flows.fetch), until fetch.hold_s after the revision
   was opened.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta

from casework.anatomy import elsewhere
from casework.case import CaseState
from casework.config import Assembly, Policy, Settings
from casework.dicom.query import WANTED_MODALITIES, HeldStudy, held_by_patient
from casework.errors import Defect, Refused
from casework.flows.expected import Ask, PacsWatch, Question, counts
from casework.ledger import CaseRow, Ledger, StudyRow, Waiting
from casework.observe import log
from casework.queue import INFER, Turns, lane_of
from casework.tracing import note_span

ACTOR = "assemble"
LOOK_UP_AGAIN_S = 10.0
PRESSING_S = 3.0
AT_ONCE = 50  # cases that one look queues: STAT first, and by `Turns` one routine case in five, however much STAT comes
NO_WAIT = Policy()
MOVED = timedelta(seconds=60)  # by so much the wall clock may differ from what was written before it is written anew


@dataclass(frozen=True, slots=True)
class Note:
    """A finding that assembly puts on a case."""

    code: str
    subject: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What the asked PACS hold of the case's studies, and how sure that is. Times in seconds."""

    counts: Mapping[str, int]
    unchanged_s: float
    after_last_image: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that `judge` looks at. received: usable images per study; idle_s: since the newest image."""

    received: Mapping[str, int]
    idle_s: float
    open_associations: int = 0
    known: Known | None = None
    requested: bool = False
    has_patient_id: bool = True
    modalities: frozenset[str] = frozenset()
    stat: bool = False
    doubt: str = ""  # the code of an undecided doubt about patient or side
    excluded: Mapping[str, int] = field(default_factory=dict)  # per study: came, and was taken out by a person
    emptied: bool = False  # nothing is left because people took it out
    waited_s: float = 0.0  # for a modality, in this revision and older ones


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a case now. state RECEIVING = wait."""

    state: CaseState
    code: str
    notes: tuple[Note, ...] = ()
    missing: tuple[str, ...] = ()  # modalities that are waited for ...
    left_s: float = 0.0  # ... so much longer


def judge(facts: Facts, rules: Assembly, policy: Policy = NO_WAIT) -> Verdict:
    """The rule of this module."""
    verdict = _complete(facts, rules, policy)
    if verdict.state is CaseState.STABLE and not facts.requested and not facts.stat:
        return _await_modalities(verdict, facts, policy)
    return verdict


def _await_modalities(verdict: Verdict, facts: Facts, policy: Policy) -> Verdict:
    """Whether a case that could run waits for a kind of image, or ran out of time for it."""
    missing = [m for m in policy.wanted if m not in facts.modalities]
    present = len(policy.wanted) - len(missing)
    left = {m: hours * 3600 - facts.waited_s for m in missing if (hours := policy.wait_h(m, present))}
    waited_for = tuple(m for m, seconds in left.items() if seconds > 0)
    if waited_for:
        return Verdict(CaseState.RECEIVING, "WAITING_FOR_MODALITY", (), waited_for, max(left.values()))
    over = tuple(Note("WAIT_OVER", m, f"{policy.wait_h(m, present):g} h") for m in left)
    return replace(verdict, notes=(*verdict.notes, *over))


def _complete(facts: Facts, rules: Assembly, policy: Policy) -> Verdict:
    """Whether everything is here of what has begun to come."""
    quiet_s = min(rules.quiet_s, policy.stat_quiet_s) if facts.stat else rules.quiet_s
    held_back = _quiet(facts, rules, quiet_s)
    if facts.doubt:
        return (None if facts.requested else held_back) or Verdict(CaseState.NEEDS_ATTENTION, facts.doubt)
    if not facts.received:
        return held_back or Verdict(CaseState.REJECTED, "ALL_EXCLUDED" if facts.emptied else "MODALITY_NOT_ACCEPTED")
    if facts.requested:
        return Verdict(CaseState.STABLE, "QUEUED")
    if not facts.has_patient_id:
        return held_back or Verdict(CaseState.NEEDS_ATTENTION, "PATIENT_ID_MISSING")
    if facts.known is not None and facts.known.counts:
        came = {
            uid: facts.received.get(uid, 0) + facts.excluded.get(uid, 0) for uid in {*facts.received, *facts.excluded}
        }
        missing = _missing(came, facts.known.counts)
        if missing:
            return _short(facts, rules, missing)
        settled = min(facts.idle_s, facts.known.unchanged_s) >= rules.settle_s
        if came == facts.known.counts and facts.known.after_last_image and settled:
            return Verdict(CaseState.STABLE, "QUEUED")
    return held_back or Verdict(CaseState.STABLE, "QUEUED")


def _quiet(facts: Facts, rules: Assembly, quiet_s: float) -> Verdict | None:
    """Why the case is not quiet, None when it is."""
    if facts.open_associations and facts.idle_s < rules.give_up_s:
        return Verdict(CaseState.RECEIVING, "ASSOCIATION_OPEN")
    if facts.idle_s < quiet_s:
        return Verdict(CaseState.RECEIVING, "QUIET_TIME")
    return None


def _missing(received: Mapping[str, int], expected: Mapping[str, int]) -> tuple[Note, ...]:
    """One note for each study that is short."""
    return tuple(
        Note("COUNT_INCOMPLETE", uid, f"{received.get(uid, 0)} of {count}")
        for uid, count in sorted(expected.items())
        if received.get(uid, 0) < count
    )


def _short(facts: Facts, rules: Assembly, missing: tuple[Note, ...]) -> Verdict:
    if facts.idle_s < rules.give_up_s:
        return Verdict(CaseState.RECEIVING, "ASSOCIATION_OPEN" if facts.open_associations else "COUNT_INCOMPLETE")
    return Verdict(CaseState.STABLE, "QUEUED", missing)


@dataclass
class _Age:
    """How long ago the newest image came, by the monotonic clock once it was seen: a clock that jumps moves nothing."""

    last_at: datetime
    at_first_s: float
    seen: float

    def seconds(self, now: float) -> float:
        return self.at_first_s + now - self.seen


class Assembler:
    """Looks after the cases that receive. One thread calls `step`."""

    def __init__(self, ledger: Ledger, settings: Settings, *, ask: Ask = held_by_patient) -> None:
        self._ledger, self._rules, self._policy = ledger, settings.assembly, settings.policy
        self._watches = [
            PacsWatch(destination, settings.dicom.ae_title, first_interval_s=max(self._rules.settle_s, 0.2), ask=ask)
            for destination in settings.destination
            if destination.query
        ]
        fetches = any(d.retrieve for d in settings.destination)
        self._hold = timedelta(seconds=settings.fetch.hold_s if fetches else 0.0)
        self._source = "pacs:" + ",".join(d.name for d in settings.destination if d.query)
        self.pressing = False  # whether the next look should come soon: an answer is on its way that may end a wait
        self._turns = Turns()
        self._ages: dict[str, _Age] = {}
        self._waits: dict[str, _Age] = {}
        self._elsewhere: dict[tuple[str, str], tuple[bool, float]] = {}

    def close(self) -> None:
        """Stop asking."""
        for watch in self._watches:
            watch.close()

    def step(self, now: datetime, clock: float) -> int:
        """One look at every open case; `clock` is monotonic seconds. Returns how many were queued."""
        self.pressing = False
        if self._policy.accept_corrections:
            self._accept_corrections(now)
        cases = self._ledger.cases_in(CaseState.RECEIVING, CaseState.STABLE)
        lines: dict[str, deque[CaseRow]] = {lane: deque() for lane in INFER}
        for case in sorted(cases, key=lambda case: -case.priority):
            lines[lane_of(case.priority)].append(case)
        queued = 0
        while any(lines.values()):
            lane = next(lane for lane in self._turns.order if lines[lane])
            if not self._tend_alone(lines[lane].popleft(), now, clock):
                continue
            self._turns.note(lane)
            queued += 1
            if queued >= AT_ONCE:  # a STAT case that came meanwhile must not wait for thousands of others
                self.pressing = True
                break
        self._forget({case.id for case in cases})
        return queued

    def _accept_corrections(self, now: datetime) -> None:
        """Other bytes that change neither patient nor side take the first ones' place, where the site's policy says so."""
        for case_id, sop_uid, doubts in self._ledger.corrections():
            try:
                self._ledger.decide(case_id, "accepted", "policy", now, sop_uid, seen=doubts)
            except Refused as error:  # a person was faster
                log.info("assemble.decided", case_id=case_id, code=error.code)

    def _tend_alone(self, case: CaseRow, now: datetime, clock: float) -> int:
        """One case's trouble is not the others'."""
        try:
            return self._tend(case, now, clock)
        except (Refused, Defect) as error:
            log.error("assemble.failed", case_id=case.id, code=error.code)
            return 0

    def _tend(self, case: CaseRow, now: datetime, clock: float) -> int:
        if case.state is CaseState.STABLE:  # a keeper stopped between the two moves
            return self._queue(case, now)
        facts = self._facts(case, now, clock)
        verdict = judge(facts, self._rules, self._policy)
        if verdict.state is CaseState.STABLE and not facts.requested and not facts.stat and self._fetching(case, now):
            verdict = Verdict(CaseState.RECEIVING, "FETCHING")
        match verdict.state:
            case CaseState.RECEIVING:
                self._ledger.set_reason(case.id, CaseState.RECEIVING, verdict.code, now)
                self._tell_wait(case, verdict, facts.waited_s, now, clock)
                return 0
            case CaseState.STABLE:
                self._ledger.add_findings(case.id, verdict.notes, ACTOR, now)
                return self._queue(case, now) if self._move(case, verdict, now) else 0
            case _:
                if self._move(case, verdict, now):
                    log.warning("case.stopped", case_id=case.id, state=str(verdict.state), code=verdict.code)
                return 0

    def _fetching(self, case: CaseRow, now: datetime) -> bool:
        """Whether other studies of the patient are on their way from a PACS, and may still be waited for."""
        if not case.patient_id or not timedelta(0) <= now - case.opened_at < self._hold:
            return False
        return self._ledger.read.fetching_since(case.id) is not None

    def _move(self, case: CaseRow, verdict: Verdict, now: datetime) -> bool:
        """Carry the verdict out, unless an image came while it was made: then the next look decides anew."""
        from_, to = CaseState.RECEIVING, verdict.state
        return self._ledger.move_case(case.id, from_, to, verdict.code, ACTOR, now, seen=case)

    def _queue(self, case: CaseRow, now: datetime) -> int:
        job_id = self._ledger.queue_case(case.id, case.priority, ACTOR, now)
        if job_id is None:  # an image came in between
            return 0
        note_span("assemble", case.id, (now - case.opened_at).total_seconds())
        log.info("case.queued", case_id=case.id, job_id=job_id, revision=case.revision)
        return 1

    # --- facts ---------------------------------------------------------------------------------------------

    def _facts(self, case: CaseRow, now: datetime, clock: float) -> Facts:
        studies = self._ledger.case_studies(case.id)
        received = {s.study_uid: n for s in studies if (n := _usable(s))}
        idle_s = self._idle_s(case, now, clock)
        known = self._known(case, studies, received, clock, idle_s) if case.patient_id else None
        if known is not None:
            self._tell(case, studies, known, now)
        return Facts(
            received,
            idle_s,
            self._ledger.open_associations_of(case.id),
            known,
            case.requested_at is not None,
            bool(case.patient_id),
            self._modalities(case, studies),
            case.stat,
            self._ledger.stopped_by(case.id),
            {s.study_uid: s.excluded for s in studies if s.excluded},
            not received and bool(self._ledger.read.exclusions(case.id)),
            self._waited_s(case, now, clock),
        )

    def _modalities(self, case: CaseRow, studies: Sequence[StudyRow]) -> frozenset[str]:
        """What has come; where something is waited for, ultrasound or MRI of another part of the body has not."""
        came = frozenset(m for s in studies for m in s.modalities)
        of_a_part = came & (WANTED_MODALITIES - {"MG"})
        if self._policy == NO_WAIT or not of_a_part:
            return came
        rows = self._ledger.case_inputs(case.id)
        return came - of_a_part | {r.header.modality for r in rows if not elsewhere(r.header.attributes)}

    def _waited_s(self, case: CaseRow, now: datetime, clock: float) -> float:
        """How long the case has waited for a modality; a clock that was set back counts from now."""
        since = case.waiting_since
        if since is None:
            return 0.0
        wait = self._waits.get(case.id)
        if wait is None or abs(wait.last_at - since) > MOVED:
            wait = self._waits[case.id] = _Age(since, max((now - since).total_seconds(), 0.0), clock)
        return wait.seconds(clock)

    def _tell_wait(self, case: CaseRow, verdict: Verdict, waited_s: float, now: datetime, clock: float) -> None:
        """Write down what is waited for, when that is new, or when the wall clock has jumped since."""
        if not verdict.missing:
            if case.waiting_for:
                self._ledger.set_waiting(case.id, None, now)
            return
        since, until = now - timedelta(seconds=waited_s), now + timedelta(seconds=verdict.left_s)
        same = case.waiting_until is not None and abs(until - case.waiting_until) <= MOVED
        if case.waiting_for != verdict.missing or not same:
            self._ledger.set_waiting(case.id, Waiting(verdict.missing, since, until), now)
            self._waits[case.id] = _Age(since, waited_s, clock)

    def _idle_s(self, case: CaseRow, now: datetime, clock: float) -> float:
        age = self._ages.get(case.id)
        if age is None or age.last_at != case.last_at:
            # A keeper that has just started gives the PACS the same time to answer as it gives for a new image.
            unheard = age is None and self._watches
            idle_s = 0.0 if unheard else max((now - case.last_at).total_seconds(), 0.0)
            age = self._ages[case.id] = _Age(case.last_at, idle_s, clock)
        return age.seconds(clock)

    def _known(
        self, case: CaseRow, studies: Sequence[StudyRow], received: Mapping[str, int], clock: float, idle_s: float
    ) -> Known | None:
        """Ask again where it is due; join what the PACS said, the larger count where they differ."""
        belongs = self._belongs(case, studies, received, clock)
        came = {s.study_uid: received.get(s.study_uid, 0) + s.excluded for s in studies}
        question = Question(case.id, case.patient_id, case.issuer_of_patient_id, clock)
        looks = []
        for watch in self._watches:
            look = watch.look(case.id)
            reached = look is not None and not _missing(came, counts(look, belongs))
            if not (look is not None and look.asked_at > clock - idle_s and look.unchanged_s >= self._rules.settle_s):
                watch.want(question, urgent=reached)
            self.pressing |= reached or (look is None and idle_s < PRESSING_S)
            if look is not None:
                looks.append(look)
        if not looks:  # what a keeper before this one was told still stands
            noted = {s.study_uid: s.expected for s in studies if s.expected and s.expected_source.startswith("pacs:")}
            return Known(noted, 0.0, after_last_image=False) if noted and self._watches else None
        joined: dict[str, int] = {}
        for look in looks:
            for uid, count in counts(look, belongs).items():
                joined[uid] = max(joined.get(uid, 0), count)
        return Known(
            joined,
            min(look.unchanged_s for look in looks),
            all(look.asked_at > clock - idle_s for look in looks),
        )

    def _belongs(
        self, case: CaseRow, studies: Sequence[StudyRow], received: Mapping[str, int], clock: float
    ) -> Callable[[HeldStudy], bool]:
        """Whether a study that a PACS names is one of this case: it is here, or its day lies in the window."""
        anchor = next((day for s in studies if (day := _day(s.study_date))), None)

        def belongs(held: HeldStudy) -> bool:
            if held.study_uid in received:
                return True
            day = _day(held.study_date)
            if anchor is not None and day is not None and abs((day - anchor).days) > self._rules.window_days:
                return False
            return not self._is_elsewhere(case, held.study_uid, clock)

        return belongs

    def _is_elsewhere(self, case: CaseRow, study_uid: str, clock: float) -> bool:
        """Whether another case of the ledger has this study; a study without a case is looked up again after a while."""
        key = (case.root_id, study_uid)
        elsewhere, until = self._elsewhere.get(key, (False, 0.0))
        if not elsewhere and clock >= until:
            found = self._ledger.read.list_cases(q=study_uid, limit=1).items
            elsewhere = any(item.case.root_id != case.root_id for item in found)
            self._elsewhere[key] = (elsewhere, clock + LOOK_UP_AGAIN_S)
        return elsewhere

    def _tell(self, case: CaseRow, studies: Sequence[StudyRow], known: Known, now: datetime) -> None:
        """Write down counts that changed, so that the API and `why` can show them."""
        noted = {s.study_uid: s.expected for s in studies}
        for uid, count in known.counts.items():
            if noted.get(uid) != count:
                self._ledger.set_expected(case.id, uid, count, self._source, now)
        for study in studies:  # a study that the PACS no longer names is no longer expected
            if study.expected and study.expected_source.startswith("pacs:") and study.study_uid not in known.counts:
                self._ledger.set_expected(case.id, study.study_uid, 0, self._source, now)

    def _forget(self, open_cases: set[str]) -> None:
        for table in (self._ages, self._waits):
            for case_id in table.keys() - open_cases:
                del table[case_id]
        if not open_cases:
            self._elsewhere.clear()
        for watch in self._watches:
            watch.forget(open_cases)


def _usable(study: StudyRow) -> int:
    return sum(n for modality, n in study.modalities.items() if modality in WANTED_MODALITIES)


def _day(value: str) -> date | None:
    try:
        return datetime.strptime(value, "%Y%m%d").date()  # noqa: DTZ007 - a DICOM date has no zone
    except ValueError:
        return None
