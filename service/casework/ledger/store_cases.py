"""What assembly writes and asks: reasons, expected counts, moves before the work, the queue."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, func, insert, select, update

from casework.case import ANALYSE, NOT_PERFORMED, REJECTION, TELL, TOLD, CaseState, Header, JobState
from casework.errors import Defect
from casework.ledger import store_base as base
from casework.ledger.assembly import leave_queue
from casework.ledger.columns import clean
from casework.ledger.database import Tx
from casework.ledger.schema import (
    artefact,
    association,
    case_input,
    case_revision,
    doubt,
    exclusion,
    expected_count,
    instance,
    job,
    receipt,
    study,
)
from casework.ledger.store_retention import all_gone
from casework.ledger.types import CaseRow, FindingLike, InstanceRow, StudyRow, Waiting
from casework.reasons import reason as known_reason

_C = CaseState
# Moves that only happen together with a job or a delivery, in their own methods.
_WITH_WORK = frozenset({_C.QUEUED, _C.RUNNING, _C.RENDERED, _C.DELIVERING, _C.DELIVERED, _C.SUPERSEDED})


class CaseStore(base.Store):
    """Assembly's part of the facade."""

    def cases_in(self, *states: CaseState) -> list[CaseRow]:
        """Cases in any of these states, oldest first."""
        query = base.case_columns().where(case_revision.c.state.in_(states)).order_by(case_revision.c.no)
        with self._database.read() as connection:
            return [base.case_row(row) for row in connection.execute(query)]

    def case_studies(self, case_id: str) -> list[StudyRow]:
        """The case's studies with counts by modality; a study that is only expected has none.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.read() as connection:
            return studies_of(connection, base.get_case(connection, case_id))

    def case_inputs(self, case_id: str, *, here_only: bool = False) -> list[InstanceRow]:
        """The case's frozen instances, or all that its root has so far while nothing is frozen. `here_only`: without those that retention took.

        Raises:
            Refused: NOT_FOUND.
            Defect: IMAGES_REMOVED, by the retention policy.
        """
        with self._database.read() as connection:
            rows = inputs_of(connection, base.get_case(connection, case_id))
            missing = all_gone(connection, [row.sha256 for row in rows])
        if missing and not here_only:
            raise Defect("IMAGES_REMOVED")
        return [row for row in rows if row.sha256 not in missing]

    def open_associations_of(self, case_id: str) -> int:
        """How many associations that brought an instance of this case are still open.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.read() as connection:
            root_id = base.get_case(connection, case_id).root_id
            brought = select(receipt.c.association_id).where(receipt.c.root_id == root_id)
            still = and_(association.c.closed_at.is_(None), association.c.id.in_(brought))
            return connection.execute(select(func.count()).select_from(association).where(still)).scalar_one()

    def stopped_by(self, case_id: str) -> str:
        """The code of the oldest undecided doubt that stops this case, else of a person's word that does; "" without one.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.read() as connection:
            case = base.get_case(connection, case_id)
            query = select(doubt.c.code).where(base.undecided(case.root_id)).order_by(doubt.c.id).limit(1)
            return connection.execute(query).scalar_one_or_none() or _said_before(connection, case)

    def set_expected(self, case_id: str, study_uid: str, count: int, source: str, now: datetime) -> None:
        """Note how many instances of a study there are to come, and who says so; the newest answer counts.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.write(now) as tx:
            root_id = base.get_case(tx.connection, case_id).root_id
            where = (expected_count.c.root_id == root_id) & (expected_count.c.study_uid == study_uid)
            old = tx.connection.execute(select(expected_count).where(where)).one_or_none()
            values = {"instances": count, "source": source, "asked_at": now}
            if old is None:
                row = {"root_id": root_id, "study_uid": clean(study_uid), **values}
                tx.connection.execute(insert(expected_count), row)
            else:
                tx.connection.execute(update(expected_count).where(where).values(values))
            if old is None or (old.instances, old.source) != (count, source):
                tx.audit("case.expected", source, case_id, f"study:{study_uid}", count=count)

    def set_reason(self, case_id: str, state: CaseState, reason: str, now: datetime, detail: str = "") -> bool:
        """Say in a code why the case still is in `state`; audited only when it changes. False: it isn't there any more."""
        with self._database.read() as connection:
            row = base.get_case(connection, case_id)
        if (row.state, row.reason, row.detail) == (state, reason, base.words(detail)):
            return True
        with self._database.write(now) as tx:
            return explain(tx, case_id, state, code=reason, detail=detail, actor="assemble")

    def set_waiting(self, case_id: str, waiting: Waiting | None, now: datetime) -> bool:
        """Write down for which modalities a receiving case waits, since and until when; None: for none.

        When a wait began stays known after it ended, for later revisions. False: the case is not RECEIVING any more.
        """
        with self._database.write(now) as tx:
            where = (case_revision.c.id == case_id) & (case_revision.c.state == _C.RECEIVING)
            if waiting is None:
                values: dict[str, Any] = {"waiting_for": "", "waiting_until": None}
            else:
                values = {"waiting_for": ",".join(waiting.modalities)}
                values |= {"waiting_since": waiting.since, "waiting_until": waiting.until}
            if tx.connection.execute(update(case_revision).where(where).values(values)).rowcount != 1:
                return False
            told = {"for": waiting.modalities, "until": waiting.until.isoformat()} if waiting else {"for": ()}
            tx.audit("case.waiting", "assemble", case_id, **told)
            return True

    def move_case(  # noqa: PLR0917 - the contract's signature
        self,
        case_id: str,
        from_: CaseState,
        to: CaseState,
        reason: str,
        actor: str,
        now: datetime,
        detail: str = "",
        *,
        seen: CaseRow | None = None,
    ) -> bool:
        """Move a case before or beside the work; False when it was not in `from_` any more.

        seen: what the decision was made on; False too when an image came since.

        Raises:
            Defect: ILLEGAL_MOVE, the tables don't list it or it belongs to a job or a delivery.
        """
        if to in _WITH_WORK or from_ is _C.RUNNING:
            raise Defect("ILLEGAL_MOVE", f"case {from_} -> {to} moves with its work only")
        with self._database.write(now) as tx:
            if seen is not None and base.get_case(tx.connection, case_id).last_at != seen.last_at:
                return False
            if not base.move_case(tx, case_id, from_, to, code=reason, actor=actor, detail=detail):
                return False
            before_work(tx, case_id, from_, to, actor)
            if to in TOLD:
                plan_telling(tx, case_id, self._max_attempts, actor)
            return True

    def queue_case(self, case_id: str, priority: int, actor: str, now: datetime) -> int | None:
        """STABLE -> QUEUED: freeze the inputs and make the job READY; None when the case is not STABLE any more.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.write(now) as tx:
            row = base.get_case(tx.connection, case_id)
            urgent = max(priority, row.priority)
            if not base.move_case(tx, case_id, _C.STABLE, _C.QUEUED, code="QUEUED", actor=actor, priority=urgent):
                return None
            base.freeze_inputs(tx, case_id, row.root_id)
            return new_job(tx, case_id, urgent, self._max_attempts, actor)

    def add_findings(self, case_id: str, findings: Sequence[FindingLike], source: str, now: datetime) -> None:
        """Put coded remarks on a case; those that it has already are not repeated."""
        if findings:
            with self._database.write(now) as tx:
                base.add_findings(tx, case_id, findings, source)


def before_work(tx: Tx, case_id: str, from_: CaseState, to: CaseState, actor: str) -> None:
    """Keep queue and inputs true when a case leaves or re-enters reception."""
    if from_ is _C.QUEUED:
        leave_queue(tx, case_id, actor, keep_inputs=to is not _C.RECEIVING)
    if from_ in (_C.RECEIVING, _C.STABLE) and to in (_C.REJECTED, _C.NEEDS_ATTENTION, _C.CLOSED):
        base.freeze_inputs(tx, case_id, base.get_case(tx.connection, case_id).root_id)


def _said_before(connection: Any, case: CaseRow) -> str:
    """Why this revision doesn't run by itself: a person closed the one before, or withdrew it and nothing was mended since.

    A retry is the person's word that it may. Taking out, or replacing, an image of the withdrawn one mends it; the site's
    own rule for harmless corrections doesn't.
    """
    if case.predecessor is None:
        return ""
    before = base.get_case(connection, case.predecessor)
    if before.state is _C.CLOSED and before.reason == "CANCELLED":
        return "CLOSED_BEFORE"
    if before.state is _C.NEEDS_ATTENTION and before.reason in ("CLOSED_BEFORE", "WITHDRAWN_BEFORE"):
        return before.reason
    if not before.retraction:
        return ""
    used = select(case_input.c.instance_id).where(case_input.c.case_id == before.id)
    mended = select(exclusion.c.instance_id).where(exclusion.c.lifted_at.is_(None), exclusion.c.actor != "policy")
    found = connection.execute(mended.where(exclusion.c.instance_id.in_(used)).limit(1)).first()
    return "" if found else "WITHDRAWN_BEFORE"


def explain(tx: Tx, case_id: str, state: CaseState, *, code: str, detail: str, actor: str) -> bool:
    """Change a case's reason without moving it."""
    if code:
        known_reason(code)
    where = (case_revision.c.id == case_id) & (case_revision.c.state == state)
    row = tx.connection.execute(select(case_revision.c.reason, case_revision.c.detail).where(where)).one_or_none()
    if row is None:
        return False
    if (row.reason, row.detail) != (code, base.words(detail)):
        values = {"reason": code, "detail": base.words(detail)}
        tx.connection.execute(update(case_revision).where(where).values(values))
        tx.audit("case.reason", actor, case_id, state=state, code=code, detail=base.words(detail))
    return True


def new_job(  # noqa: PLR0917 - the writes' common arguments, and what this one needs
    tx: Tx, case_id: str, priority: int, max_attempts: int, actor: str, kind: str = ANALYSE
) -> int:
    """Make a READY job for a case."""
    row = {
        "case_id": case_id,
        "kind": kind,
        "state": JobState.READY,
        "priority": priority,
        "attempt": 0,
        "max_attempts": max_attempts,
        "fence": 0,
        "owner": "",
        "code": "",
        "created_at": tx.now,
        "changed_at": tx.now,
    }
    key = int(tx.connection.execute(insert(job).returning(job.c.id), row).scalar_one())
    tx.audit("job.made", actor, case_id, f"job:{key}", priority=priority)
    return key


def has_results(connection: Any, case_id: str) -> bool:
    """Whether a case has more than the word that nothing was analysed, or that this is withdrawn."""
    none = artefact.c.kind.in_(NOT_PERFORMED | {REJECTION})
    made = select(artefact.c.id).where(artefact.c.case_id == case_id, ~none).limit(1)
    return connection.execute(made).first() is not None


def plan_telling(tx: Tx, case_id: str, max_attempts: int, actor: str) -> None:
    """A worker is to say in the case's studies that nothing was analysed, and why."""
    if not has_results(tx.connection, case_id):
        new_job(tx, case_id, base.get_case(tx.connection, case_id).priority, max_attempts, actor, TELL)


def studies_of(connection: Any, row: CaseRow) -> list[StudyRow]:
    """Studies of a case: of its frozen inputs once there are any, else of all instances of its root."""
    of = {"case_id": row.id, "root_id": row.root_id}
    frozen = connection.execute(_IS_FROZEN, of).first() is not None
    groups: dict[int, list[Any]] = {}
    for group in connection.execute(_COUNTED[frozen], of):
        groups.setdefault(group.study_id, []).append(group)
    expected = {e.study_uid: e for e in connection.execute(_EXPECTED, of)}
    out = {found.study_id: found.n for found in connection.execute(_TAKEN_OUT, of)}
    made, gone = [], dict[str, int]()
    for found in connection.execute(_STUDIES, of):
        gone[found.study_uid] = out.get(found.id, 0)
        if found.id in groups:
            made.append(_study_row(found, groups[found.id], expected.pop(found.study_uid, None), out.get(found.id, 0)))
    for uid, told in sorted(expected.items()):
        made.append(StudyRow(uid, "", "", {}, None, None, told.instances, told.source, gone.get(uid, 0)))
    return made


def _study_row(found: Any, groups: Iterable[Any], told: Any, excluded: int) -> StudyRow:
    groups = list(groups)
    return StudyRow(
        study_uid=found.study_uid,
        accession_number=found.accession,
        study_date=found.study_date,
        modalities={group.modality: group.n for group in groups},
        first_at=min(group.first_at for group in groups),
        last_at=max(group.last_at for group in groups),
        expected=told.instances if told else None,
        expected_source=told.source if told else "",
        excluded=excluded,
    )


def inputs_of(connection: Any, row: CaseRow) -> list[InstanceRow]:
    """Instances of a case in the order of their arrival."""
    of = {"case_id": row.id, "root_id": row.root_id}
    frozen = connection.execute(_IS_FROZEN, of).first() is not None
    return [instance_row(found) for found in connection.execute(_INSTANCES[frozen], of)]


# Questions of every look at every open case, built once.
_ROOT: Any = bindparam("root_id")
_INPUTS = select(case_input.c.instance_id).where(case_input.c.case_id == bindparam("case_id"))
_IS_FROZEN = _INPUTS.limit(1)
_MEMBERS = {True: instance.c.id.in_(_INPUTS), False: base.active(_ROOT)}
_INSTANCES = {frozen: select(instance).where(own).order_by(instance.c.id) for frozen, own in _MEMBERS.items()}
_COUNT = select(
    instance.c.study_id,
    instance.c.modality,
    func.count().label("n"),
    func.min(instance.c.received_at).label("first_at"),
    func.max(instance.c.received_at).label("last_at"),
).group_by(instance.c.study_id, instance.c.modality)
_COUNTED = {frozen: _COUNT.where(own) for frozen, own in _MEMBERS.items()}
_EXPECTED = select(expected_count).where(expected_count.c.root_id == _ROOT)
_TAKEN_OUT = (
    select(instance.c.study_id, func.count().label("n"))
    .join_from(exclusion, instance, exclusion.c.instance_id == instance.c.id)
    .where(exclusion.c.root_id == _ROOT, exclusion.c.lifted_at.is_(None), exclusion.c.replaced_by.is_(None))
    .group_by(instance.c.study_id)
)
_STUDIES = select(study).where(study.c.root_id == _ROOT).order_by(study.c.id)


def instance_row(row: Any) -> InstanceRow:
    """Build the row that others see."""
    header = Header(
        sop_instance_uid=row.sop_uid,
        sop_class_uid=row.sop_class,
        study_instance_uid=row.study_uid,
        series_instance_uid=row.series_uid,
        transfer_syntax_uid=row.transfer_syntax,
        modality=row.modality,
        patient_id=row.patient_id,
        issuer_of_patient_id=row.issuer,
        accession_number=row.accession,
        study_date=row.study_date,
        attributes=row.attributes,
    )
    return InstanceRow(row.id, header, row.sha256, row.size, row.received_at)
