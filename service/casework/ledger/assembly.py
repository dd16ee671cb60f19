"""Which root and study an instance belongs to, and which revision it opens. Part of the intake's transaction.

A root gathers the studies of one Patient ID and issuer whose day lies within the window around the root's first study.
A study that has a root stays with it. Without a Patient ID the study is its own root. Instances of one Study Instance
UID that name two different patients are never mixed: each patient gets a root of his own, and both stop until a person has
decided. The same Patient ID with and without an issuer is one patient when birth date and sex say so, else two that name
each other.
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update

from casework.case import ANALYSE, STAT_PRIORITY, CaseState, Header
from casework.ledger.database import Tx
from casework.ledger.schema import case_input, case_revision, case_root, instance, study
from casework.ledger.store_base import cancel_jobs, move_case

_LOOKED_AT = 200  # images of a case whose birth date and sex are compared when only the issuer differs
_ANSWERED = (CaseState.DELIVERED, CaseState.SUPERSEDED, CaseState.CLOSED, CaseState.RETRACTED)
_Who = tuple[str, str, str]  # Study Instance UID, Patient ID, issuer


@dataclass(frozen=True, slots=True)
class Home:
    """Where an instance lives."""

    root_id: str
    study_id: int
    patient_id: str
    issuer: str
    accession: str

    def admits(self, patient_id: str, issuer: str) -> bool:
        """Whether an instance of this study may be of the same patient; silence contradicts nothing."""
        if not patient_id or not self.patient_id:
            return True
        return patient_id == self.patient_id and (issuer == self.issuer or not issuer or not self.issuer)


class Assembler:
    """Finds and makes roots, studies and revisions for one batch."""

    def __init__(self, tx: Tx, window_days: int) -> None:
        self._tx = tx
        self._window = timedelta(days=window_days)
        self._studies: dict[str, list[Home]] = {}
        self._homes: dict[_Who, Home] = {}
        self._newest: dict[str, str] = {}
        self._urgent: dict[str, int] = {}  # root -> priority that an image of this batch asks for
        self.notes: list[
            tuple[str, str, str]
        ] = []  # (root, code, Study Instance UID): what to say of a case's identity

    # --- roots and studies ---

    def look(self, headers: Iterable[Header]) -> None:
        """Read the studies that are known already."""
        unread = {header.study_instance_uid for header in headers} - set(self._studies)
        if not unread:
            return
        query = (
            select(study.c.id, study.c.study_uid, study.c.accession, study.c.root_id, case_root.c.patient_id)
            .add_columns(case_root.c.issuer)
            .join_from(study, case_root, study.c.root_id == case_root.c.id)
            .where(study.c.study_uid.in_(sorted(unread)))
            .order_by(study.c.id)
        )
        self._studies.update({uid: [] for uid in unread})
        for row in self._tx.connection.execute(query):
            home = Home(row.root_id, row.id, row.patient_id, row.issuer, row.accession)
            self._studies[row.study_uid].append(home)

    def known_home(self, header: Header) -> Home | None:
        """The home of a study that is known already."""
        _, patient_id, issuer = _who(header)
        homes = self._studies.get(header.study_instance_uid, [])
        return next((home for home in homes if home.admits(patient_id, issuer)), None)

    def place(self, arrivals: Sequence[tuple[Header, datetime]]) -> None:
        """Find or make the home of every new instance."""
        self.look(header for header, _ in arrivals)
        for header, received_at in arrivals:
            who = _who(header)
            home = self._homes.get(who)
            if home is None:
                home = self._homes[who] = self.known_home(header) or self._new_study(header, received_at)
            if header.attributes.get("RequestedProcedurePriority", "").upper() == "STAT":
                self._urgent[home.root_id] = STAT_PRIORITY
            if header.accession_number and not home.accession:
                self._homes[who] = self._learn_accession(header, home)

    def home(self, header: Header) -> Home:
        """The home that `place` found."""
        return self._homes[_who(header)]

    def _learn_accession(self, header: Header, home: Home) -> Home:
        values = {"accession": header.accession_number}
        self._tx.connection.execute(update(study).where(study.c.id == home.study_id).values(values))
        learned = Home(home.root_id, home.study_id, home.patient_id, home.issuer, header.accession_number)
        homes = self._studies[header.study_instance_uid]
        homes[homes.index(home)] = learned
        return learned

    def _new_study(self, header: Header, received_at: datetime) -> Home:
        uid = header.study_instance_uid
        root_id, root_patient, root_issuer = self._root_for(header, received_at)
        others = self._studies[uid]
        if others:
            roots = [home.root_id for home in others] + [root_id]
            self.notes += [(one, "PATIENT_IDENTITY_CONFLICT", uid) for one in roots]
        row = {
            "root_id": root_id,
            "study_uid": uid,
            "accession": header.accession_number,
            "study_date": header.study_date,
            "first_at": received_at,
        }
        key = self._tx.connection.execute(insert(study).returning(study.c.id), row).scalar_one()
        home = Home(root_id, key, root_patient, root_issuer, header.accession_number)
        others.append(home)
        return home

    def _root_for(self, header: Header, received_at: datetime) -> tuple[str, str, str]:
        uid, patient_id, issuer = _who(header)
        key = json.dumps([issuer, patient_id]) if patient_id else f"study:{uid}"
        day = _day(header.study_date, received_at)
        rows = self._tx.connection.execute(select(case_root).where(case_root.c.patient_key == key)).all()
        near = [row for row in rows if abs(row.anchor - day) <= self._window or not patient_id]
        if near:
            best = min(near, key=lambda row: (abs(row.anchor - day), -row.created_at.timestamp()))
            return best.id, best.patient_id, best.issuer
        alike, doubtful = self._of_other_issuer(header, day) if patient_id else ([], [])
        if len(alike) == 1:
            self.notes.append((alike[0].id, "ISSUER_ASSUMED", uid))
            return alike[0].id, alike[0].patient_id, alike[0].issuer
        root_id = uuid.uuid4().hex
        if alike or doubtful:
            self.notes += [(one, "ISSUER_UNCERTAIN", uid) for one in (root_id, *(row.id for row in alike + doubtful))]
        root = {
            "id": root_id,
            "patient_key": key,
            "patient_id": patient_id,
            "issuer": issuer,
            "anchor": day,
            "created_at": self._tx.now,
        }
        self._tx.connection.execute(insert(case_root), root)
        return root_id, patient_id, issuer

    def _of_other_issuer(self, header: Header, day: datetime) -> tuple[list[Any], list[Any]]:
        """Roots near that day with this Patient ID, where one of the two names no issuer: surely the same patient, and perhaps.

        Birth date and sex decide. Roots that contradict in them, or in the issuer, are other patients.
        """
        _, patient_id, issuer = _who(header)
        alike: list[Any] = []
        doubtful: list[Any] = []
        for root in self._tx.connection.execute(select(case_root).where(case_root.c.patient_id == patient_id)).all():
            if abs(root.anchor - day) > self._window:
                continue
            own = select(instance.c.issuer, instance.c.attributes).where(instance.c.root_id == root.id)
            rows = self._tx.connection.execute(own.limit(_LOOKED_AT)).all()
            issuers = {root.issuer, *(row.issuer.strip() for row in rows)} - {""}
            if issuer and issuers - {issuer}:
                continue
            same = _same_person([row.attributes for row in rows], header.attributes)
            if same is not False:
                (alike if same else doubtful).append(root)
        return alike, doubtful

    # --- revisions ---

    def newest(self, root_id: str) -> str:
        """The id of a root's newest revision."""
        if root_id not in self._newest:
            query = select(case_revision.c.id).where(case_revision.c.root_id == root_id)
            newest = query.order_by(case_revision.c.revision.desc()).limit(1)
            self._newest[root_id] = self._tx.connection.execute(newest).scalar_one()
        return self._newest[root_id]

    def reopen(self, root_ids: set[str]) -> dict[str, str]:
        """Make sure that each root with a new image has a revision in RECEIVING; return root -> case id."""
        query = select(case_revision).where(case_revision.c.root_id.in_(sorted(root_ids)))
        latest = {row.root_id: row for row in self._tx.connection.execute(query.order_by(case_revision.c.revision))}
        touched = []
        for root_id in sorted(root_ids):
            row = latest.get(root_id)
            state = CaseState(row.state) if row is not None else None
            if row is None or state not in (CaseState.RECEIVING, CaseState.STABLE, CaseState.QUEUED):
                self._newest[root_id] = self._open(root_id, row)
                continue
            self._newest[root_id] = row.id
            touched.append(row.id)
            if state is not CaseState.RECEIVING:
                leave_queue(self._tx, row.id, "intake")
                move_case(self._tx, row.id, CaseState(row.state), CaseState.RECEIVING, code="", actor="intake")
        if touched:
            values = {"last_at": self._tx.now, "requested_at": None}
            self._tx.connection.execute(update(case_revision).where(case_revision.c.id.in_(touched)).values(values))
        for root_id, priority in self._urgent.items():
            less = (case_revision.c.id == self._newest[root_id]) & (case_revision.c.priority < priority)
            self._tx.connection.execute(update(case_revision).where(less).values(priority=priority))
        return {root_id: self._newest[root_id] for root_id in root_ids}

    def _open(self, root_id: str, before: Any) -> str:
        now = self._tx.now
        case_id = uuid.uuid4().hex
        revision, predecessor = (before.revision + 1, before.id) if before else (1, None)
        urgent = before.priority if before and CaseState(before.state) not in _ANSWERED else 0
        row = {
            "id": case_id,
            "root_id": root_id,
            "revision": revision,
            "predecessor": predecessor,
            "state": CaseState.RECEIVING,
            "reason": "",
            "detail": "",
            "priority": max(urgent, self._urgent.get(root_id, 0)),
            "waiting_for": "",
            "waiting_since": before.waiting_since if before else None,
            "waiting_until": None,
            "opened_at": now,
            "last_at": now,
            "changed_at": now,
            "requested_at": None,
            "result_json": "",
        }
        self._tx.connection.execute(insert(case_revision), row)
        self._tx.audit("case.opened", "intake", case_id, revision=revision, predecessor=predecessor)
        if before:
            self._tx.audit("case.succeeded", "intake", before.id, successor=case_id)
        return case_id


def leave_queue(tx: Tx, case_id: str, actor: str, *, keep_inputs: bool = False) -> None:
    """Cancel the case's waiting job; forget the frozen inputs unless they stay."""
    cancel_jobs(tx, case_id, actor, ANALYSE)
    if not keep_inputs:
        tx.connection.execute(delete(case_input).where(case_input.c.case_id == case_id))


def _same_person(known: Sequence[Mapping[str, str]], stated: Mapping[str, str]) -> bool | None:
    """What birth date and sex say: True, False, or None when they don't say."""
    births = {birth for one in (*known, stated) if (birth := one.get("PatientBirthDate", "").strip())}
    sexes = {sex for one in (*known, stated) if (sex := one.get("PatientSex", "").strip()) in ("F", "M")}
    if len(births) > 1 or len(sexes) > 1:
        return False
    both = stated.get("PatientBirthDate", "").strip() and any(one.get("PatientBirthDate", "").strip() for one in known)
    return True if both else None


def _who(header: Header) -> _Who:
    return header.study_instance_uid, header.patient_id.strip(), header.issuer_of_patient_id.strip()


def _day(study_date: str, received_at: datetime) -> datetime:
    """The study's day, or the day of arrival when the date is absent or not a DA (PS3.5 6.2; old ones have dots)."""
    try:
        return datetime.strptime(study_date.strip().replace(".", ""), "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return received_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
