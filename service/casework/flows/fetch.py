"""Other studies of a case's patient from a PACS: which to fetch and why not the others, when, and that each comes whole.

`choose` is the whole rule, without I/O. In words:
 - only the same patient: Patient ID exactly, issuer, birth date and name without contradiction;
 - a sibling is a study within the window with a modality that the case lacks; only its MG, MR and US series are fetched;
 - a prior is an older study of a modality that the case has, outside the window, where the site wants priors: it is kept
   as context and never becomes part of a case;
 - MR and US have to be of the breast: by a word in body part or description, or in what one of their images says of
   protocol, coil, order and region, which is asked for before silence rejects a study; or by the accession number of a
   study that is here. Another part of the body rejects. Mammography is of the breast;
 - a study that a person named is fetched whatever its date and words say, if it is not another patient's.

Nothing here holds up a case: each PACS has a thread of its own, state lies in the ledger, and who waits does so for a
bounded time (fetch.hold_s). What arrives goes the way of everything else: `take` is intake's door, given by wiring.
"""

import random
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

from casework import hours
from casework.anatomy import of_breast, word_begins
from casework.config import Destination, Fetch, Settings
from casework.dicom.header import is_uid
from casework.dicom.query import WANTED_MODALITIES
from casework.dicom.retrieve import Pace, Series, Take, Tally, retrieve
from casework.dicom.search import FoundSeries, FoundStudy, Person, Search, contradiction, person_of, searching
from casework.errors import CaseworkError, Defect, Refused, Unavailable
from casework.ledger import ClaimedCandidate, ClaimedOrder, HereStudy, Ledger, Listed
from casework.observe import FETCH_IMAGES, FETCH_SECONDS, FETCHES, log
from casework.spool import Spool

LEASE_S = 120.0
IDLE_S, REST_S = 1.0, 5.0
LOOKED_INTO = 8  # studies that say nothing, of which images are asked, for one question
_OF_A_PART = WANTED_MODALITIES - {"MG"}
_SILENT = "FETCH_NOT_BREAST"


@dataclass(frozen=True, slots=True)
class Patient:
    """Whose studies are wanted, what is here of them, and the day around which the case lies (None: no case)."""

    person: Person
    anchor: date | None
    here: tuple[HereStudy, ...]
    window_days: int


def choose(found: Sequence[FoundStudy], patient: Patient, rules: Fetch, term: str = "") -> list[Listed]:
    """The rule of this module: every study with its role and code ("" = chosen), newest first; then the newest priors."""
    listed = [_judge(study, patient, rules, term) for study in found]
    listed.sort(key=lambda item: (item.study_date, item.study_uid), reverse=True)
    kept: dict[str, int] = {}
    final = []
    for item in listed:
        if item.role == "prior" and not item.code:
            of = min(m for m in item.modalities if m in WANTED_MODALITIES)
            kept[of] = kept.get(of, 0) + 1
            if kept[of] > rules.priors:
                final.append(replace(item, code="FETCH_OLDER_PRIOR"))
                continue
        final.append(item)
    return final


def _judge(study: FoundStudy, patient: Patient, rules: Fetch, term: str) -> Listed:
    wanted = [s for s in study.series if s.modality in WANTED_MODALITIES and s.count and is_uid(s.series_uid)]
    modalities: dict[str, int] = {}
    for series in study.series:
        kind = series.modality if series.modality.isalnum() else "OT"
        modalities[kind[:16]] = modalities.get(kind[:16], 0) + series.count
    asked = bool(term) and term in (study.study_uid, study.accession_number)
    role, code, detail = _role(study, wanted, patient, rules, asked=asked)
    return Listed(
        study_uid=study.study_uid if is_uid(study.study_uid) else "",
        accession_number=study.accession_number,
        study_date=study.study_date,
        modalities=modalities,
        series=_by_modality(wanted),
        role=role,
        code=code,
        detail=detail,
    )


def _by_modality(wanted: Sequence[FoundSeries]) -> dict[str, dict[str, int]]:
    """Modality -> Series Instance UID -> images."""
    series: dict[str, dict[str, int]] = {}
    for one in wanted:
        series.setdefault(one.modality, {})[one.series_uid] = one.count
    return series


def _role(
    study: FoundStudy, wanted: Sequence[FoundSeries], patient: Patient, rules: Fetch, *, asked: bool
) -> tuple[str, str, str]:
    """Role, code and detail of one study."""
    role = "asked" if asked else "sibling"
    if not is_uid(study.study_uid):
        return role, "UID_INVALID", ""
    if patient.person.patient_id and (what := contradiction(patient.person, study.person)):
        return role, "FETCH_OTHER_PATIENT", what
    if not wanted:
        return role, "FETCH_MODALITY", ""
    count = sum(series.count for series in wanted)
    here = next((s for s in patient.here if s.study_uid == study.study_uid), None)
    if here is not None and (not asked or sum(here.modalities.values()) >= count):
        return role, "FETCH_ALREADY_HERE", f"{sum(here.modalities.values())} of {count}"
    if count > rules.max_images:
        return role, "FETCH_TOO_MANY_IMAGES", str(count)
    if asked:
        return role, "", ""
    role, code, detail = _by_date(study, {series.modality for series in wanted}, patient, rules)
    if not code:
        orders = {s.accession_number for s in patient.here} - {""}
        code = _not_breast(study, wanted, rules.breast_words, orders)
    return role, code, detail


def _by_date(study: FoundStudy, modalities: set[str], patient: Patient, rules: Fetch) -> tuple[str, str, str]:
    """Sibling or prior, or neither."""
    day = day_of(study.study_date)
    if day is None or patient.anchor is None:
        return "sibling", "FETCH_DATE_UNKNOWN", ""
    near = [s for s in patient.here if _near(s.study_date, patient)]
    has = {m for s in near for m in s.modalities if m not in s.elsewhere}
    away = (day - patient.anchor).days
    if abs(away) <= patient.window_days:
        if not rules.siblings or modalities <= has:
            return "sibling", "FETCH_MODALITY_HERE", ""
        return "sibling", "", ""
    old = away < 0 and -away <= rules.prior_years * 366
    if rules.priors and old and modalities & has:
        return "prior", "", ""
    return "prior" if away < 0 else "sibling", "FETCH_OUTSIDE_WINDOW", f"{away} d"


def _near(study_date: str, patient: Patient) -> bool:
    """Whether a study that is here lies in the case's window; one without a date does."""
    day = day_of(study_date)
    return day is None or patient.anchor is None or abs((day - patient.anchor).days) <= patient.window_days


def _not_breast(study: FoundStudy, wanted: Sequence[FoundSeries], words: Sequence[str], orders: Collection[str]) -> str:
    """The code why MR or US series are not of the breast, "" when they are, or when nobody asks. orders: accession numbers here."""
    others = [series for series in wanted if series.modality != "MG"]
    if not words or len(others) < len(wanted):
        return ""
    coded = {of_breast(s.body_part, ()) for s in others}
    if True in coded:
        return ""
    if False in coded:  # what is coded counts before what is described
        return "FETCH_BODY_PART"
    texts = [study.description, *(t for s in others for t in (s.description, *s.said))]
    if any(word_begins(words, text) or of_breast("", {text}) for text in texts):
        return ""
    return "" if study.accession_number in orders else _SILENT


def day_of(value: str) -> date | None:
    """A DA value as a day, None when it is not one."""
    try:
        return datetime.strptime(value.strip(), "%Y%m%d").date()  # noqa: DTZ007 - a DICOM date has no zone
    except ValueError:
        return None


class Door(Protocol):
    """Intake, as the fetcher sees it; wiring gives it."""

    def receiving(self, claimed: ClaimedCandidate, destination: Destination) -> AbstractContextManager[Take]:
        """Take the images of one study for the length of a block."""

    def admit(self) -> str:
        """The code why nothing can be taken now, or ""."""


class Fetcher:
    """One PACS. One thread calls `step`."""

    def __init__(
        self,
        ledger: Ledger,
        spool: Spool,
        destination: Destination,
        settings: Settings,
        door: Door,
        *,
        stop: threading.Event | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        search: Callable[[Destination, str], AbstractContextManager[Search]] = searching,
    ) -> None:
        self.destination = destination
        self._ledger, self._spool, self._door = ledger, spool, door
        self._rules, self._window_days, self._calling = (
            settings.fetch,
            settings.assembly.window_days,
            settings.dicom.ae_title,
        )
        self._windows = tuple(map(hours.parse, settings.fetch.quiet_hours))
        self._zone = hours.zone_of(settings.fetch.time_zone)
        self._stop = stop or threading.Event()
        self._now, self._search = now, search
        self._owner = f"fetch:{uuid.uuid4().hex[:8]}"

    def step(self) -> float:
        """Ask one question or fetch one study; returns the seconds until the next turn."""
        now = self._now()
        quiet = hours.quiet_until(now, self._windows, self._zone) is not None
        self._ledger.plan_fetches(self.destination.name, self._rules.again_s, now)
        order = self._ledger.claim_order(self.destination.name, self._owner, LEASE_S, now)
        if order is not None:
            self._ask(order)
            return 0.0
        if self._door.admit():
            return REST_S
        candidate = self._ledger.claim_candidate(
            self.destination.name, self._owner, LEASE_S, self._rules.studies_per_hour, now, quiet=quiet
        )
        if candidate is None:
            return IDLE_S
        self._fetch(candidate)
        return 0.0

    # --- asking --------------------------------------------------------------------------------------------

    def _ask(self, order: ClaimedOrder) -> None:
        name, attempt = self.destination.name, order.attempt
        try:
            listed = self._list(order)
        except CaseworkError as error:
            again = self._again_at(error, attempt)
            self._ledger.fail_order(order.order_id, order.fence, error.code, again, self._now())
            FETCHES.labels(name, "ask", error.code).inc()
            log.warning("fetch.not_asked", destination=name, code=error.code, attempt=attempt)
            return
        chosen = sum(not item.code for item in listed)
        self._ledger.list_candidates(order.order_id, order.fence, _once(listed), self._now())
        FETCHES.labels(name, "ask", "").inc()
        log.info("fetch.listed", destination=name, count=len(listed), requests=chosen)

    def _list(self, order: ClaimedOrder) -> list[Listed]:
        """The patient's studies, and those that a person named, each once and judged; silent ones after a closer look."""
        anchor = order.anchor.date() if order.anchor else None
        patient = Patient(self._person(order), anchor, order.here, self._window_days)
        with self._search(self.destination, self._calling) as search:
            found: dict[str, FoundStudy] = {}
            if order.patient_id:
                found |= {study.study_uid: study for study in search.of_patient(order.patient_id)}
            if order.term:
                found |= {study.study_uid: study for study in search.of_term(order.term)}
            studies = [search.details(study) for study in found.values()]
            listed = choose(studies, patient, self._rules, order.term)
            silent = [item.study_uid for item in listed if item.code == _SILENT][:LOOKED_INTO]
            if not silent:
                return listed
            looked = [search.closer(s, _OF_A_PART) if s.study_uid in silent else s for s in studies]
        return choose(looked, patient, self._rules, order.term)

    def _person(self, order: ClaimedOrder) -> Person:
        """Who the case is of: ID and issuer as the ledger has them, name and birth date from one of its images."""
        if not order.patient_id:
            return Person("", "", "", "")
        told = person_of(self._spool.path(order.sample_sha256)) if order.sample_sha256 else Person("", "", "", "")
        return Person(order.patient_id, order.issuer_of_patient_id, told.name, told.birth_date)

    # --- fetching ------------------------------------------------------------------------------------------

    def _fetch(self, claimed: ClaimedCandidate) -> None:
        began, started = self._now(), time.monotonic()
        tally = Tally(self._rules.max_images, self._rules.max_bytes)
        code, detail, again = "", "", None
        try:
            with self._beating(claimed), self._door.receiving(claimed, self.destination) as take:
                self._fetch_series(claimed, take, tally)
            counts = self._count(claimed, tally, began)
            self._check(claimed, tally, counts)
        except CaseworkError as error:
            counts = self._count(claimed, tally, began)
            error = _strange(tally, counts) or error  # what came says more than how it ended
            code, detail, again = error.code, error.detail, self._again_at(error, claimed.attempt)
        self._ledger.end_candidate(claimed.candidate_id, claimed.fence, code, counts, again, self._now(), detail)
        name, seconds = self.destination.name, time.monotonic() - started
        FETCHES.labels(name, "study", code).inc()
        FETCH_SECONDS.labels(name).observe(seconds)
        for verdict, number in counts.items():
            FETCH_IMAGES.labels(name, verdict).inc(number)
        log.info("fetch.ended", destination=name, code=code, count=sum(counts.values()), seconds=round(seconds, 1))

    def _fetch_series(self, claimed: ClaimedCandidate, take: Take, tally: Tally) -> None:
        pace = Pace(self._rules.images_per_s, self._stop)
        every = [(kind, uid, n) for kind, series in claimed.series.items() for uid, n in series.items()]
        for modality, series_uid, count in every:
            if self._stop.is_set():
                raise Unavailable("SHUTTING_DOWN")
            series = Series(claimed.study_uid, series_uid, modality, count)
            retrieve(self.destination, self._calling, series, take=take, tally=tally, pace=pace)

    def _count(self, claimed: ClaimedCandidate, tally: Tally, began: datetime) -> dict[str, int]:
        """What became of the images; by C-MOVE they came through the listener, so the receipts are asked."""
        if self.destination.retrieve != "move":
            return dict(tally.counts)
        return self._ledger.read.arrived(claimed.study_uid, claimed.patient_id, began)

    def _check(self, claimed: ClaimedCandidate, tally: Tally, counts: dict[str, int]) -> None:
        """Raise when what came is not what was asked for."""
        if strange := _strange(tally, counts):
            raise strange
        wanted = claimed.images
        kept = sum(number for verdict, number in counts.items() if verdict not in ("refused", "other_patient"))
        if kept < wanted:
            refusals = " ".join(f"{number} x {code}" for code, number in sorted(tally.codes.items()))
            raise Unavailable("FETCH_INCOMPLETE", f"{kept} of {wanted} {refusals}".strip())

    def _again_at(self, error: CaseworkError, attempt: int) -> datetime | None:
        """When to try again (exponential, jittered), None for never."""
        final = isinstance(error, Defect | Refused)
        if final or (attempt >= self._rules.max_attempts and error.code != "SHUTTING_DOWN"):
            return None
        wait = min(self._rules.retry_first_s * 2 ** (attempt - 1), self._rules.retry_max_s)
        return self._now() + timedelta(seconds=wait * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    @contextmanager
    def _beating(self, claimed: ClaimedCandidate) -> Iterator[None]:
        """Prolong the lease while a study comes."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(LEASE_S / 4):
                try:
                    self._ledger.heartbeat_candidate(claimed.candidate_id, claimed.fence, LEASE_S, self._now())
                except CaseworkError as error:
                    log.warning("fetch.no_heartbeat", code=error.code)

        thread = threading.Thread(target=beat, daemon=True, name="fetch-lease")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _strange(tally: Tally, counts: Mapping[str, int]) -> Refused | None:
    """What is wrong with a PACS that gives other images than those asked for."""
    others = counts.get("other_patient", 0) + tally.codes["FETCH_WRONG_PATIENT"]
    if others:
        return Refused("FETCH_WRONG_PATIENT", str(others))
    return Refused("FETCH_WRONG_STUDY", str(n)) if (n := tally.codes["UID_MISMATCH"]) else None


def _once(listed: Sequence[Listed]) -> list[Listed]:
    """Each study once: a PACS that names one twice, or several without a usable UID."""
    return list({item.study_uid: item for item in listed}.values())
