"""Questions to the ledger: never writes, never waits for a writer; each answer is one consistent snapshot."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, exists, func, or_, select

from casework.case import ALTERED, ANALYSE, TELL, WITHDRAW, CaseState, DeliveryState, JobState
from casework.errors import Refused
from casework.ledger import audit, read_fetch
from casework.ledger import store_base as base
from casework.ledger.database import Database
from casework.ledger.read_lists import ReadLists
from casework.ledger.read_why import answer
from casework.ledger.rows import (
    artefact_columns,
    artefact_row,
    association_row,
    deliveries_of,
    doubts_of,
    exclusions_of,
    findings_of,
    jobs_of,
    studies_by_root,
)
from casework.ledger.schema import (
    artefact,
    association,
    case_input,
    case_revision,
    case_root,
    delivery,
    exclusion,
    instance,
    job,
    study,
)
from casework.ledger.store_cases import inputs_of, instance_row, studies_of
from casework.ledger.store_delivery import SENDABLE
from casework.ledger.store_jobs import ready_jobs, some_ready
from casework.ledger.store_notice import counts as notice_counts
from casework.ledger.store_process import ProcessRow, processes
from casework.ledger.store_proof import unproved_by_destination
from casework.ledger.types import (
    ArtefactRow,
    AssociationRow,
    AuditCheck,
    AuditHead,
    CaseItem,
    CaseRow,
    CaseView,
    Event,
    ExclusionRow,
    FindingRow,
    InputRow,
    InstanceRow,
    Metrics,
    Page,
)
from casework.ledger.types_fetch import OrderRow
from casework.ledger.types_why import Why

_OPEN_CASES = (CaseState.RECEIVING, CaseState.STABLE, CaseState.QUEUED)
_NEWEST = select(func.max(delivery.c.id)).where(delivery.c.state == DeliveryState.PENDING.value)
_TO_DELIVER = _NEWEST.group_by(delivery.c.destination)
_WAITING = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.UNKNOWN, DeliveryState.RETRY_WAIT)


class Read(ReadLists):
    """All questions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def case(self, case_id: str) -> CaseRow:
        """One revision of a case.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.read() as connection:
            return base.get_case(connection, case_id)

    def case_view(self, case_id: str) -> CaseView:
        """Everything about one revision of a case.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.read() as connection:
            case = base.get_case(connection, case_id)
            own = base.case_columns().where(case_revision.c.root_id == case.root_id).order_by(case_revision.c.revision)
            revisions = tuple(base.case_row(row) for row in connection.execute(own))
            studies = tuple(studies_of(connection, case))
            findings = tuple(findings_of(connection, case_id))
            about: dict[str, list[tuple[str, str]]] = {}
            for finding in findings:
                about.setdefault(finding.subject, []).append((finding.code, finding.detail))
            inputs = tuple(
                InputRow(found, tuple(about.get(found.header.sop_instance_uid, ())))
                for found in inputs_of(connection, case)
            )
            made = artefact_columns().where(artefact.c.case_id == case_id).order_by(artefact.c.id)
            result = select(case_revision.c.result_json).where(case_revision.c.id == case_id)
            return CaseView(
                case=case,
                newest_id=revisions[-1].id,
                studies=studies,
                modalities=_total(row.modalities for row in studies),
                inputs=inputs,
                revisions=revisions,
                jobs=tuple(jobs_of(connection, case_id)),
                artefacts=tuple(artefact_row(row) for row in connection.execute(made)),
                deliveries=tuple(deliveries_of(connection, case_id)),
                findings=findings,
                result_json=connection.execute(result).scalar_one(),
                doubts=doubts_of(connection, case.root_id),
                exclusions=exclusions_of(connection, case.root_id),
            )

    def intake_findings(self, case_id: str) -> list[FindingRow]:
        """What intake remarked on this revision and on older ones of the same case: images stay kept aside.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.read() as connection:
            case = base.get_case(connection, case_id)
            where = (case_revision.c.root_id == case.root_id) & (case_revision.c.revision <= case.revision)
            ids = connection.execute(
                select(case_revision.c.id).where(where).order_by(case_revision.c.revision)
            ).scalars()
            found = [f for one in ids.all() for f in findings_of(connection, one) if f.source == "intake"]
            accepted = {d.subject for d in doubts_of(connection, case.root_id) if d.decision == "accepted"}
            return [f for f in found if f.code not in ALTERED or f.subject not in accepted]

    def exclusions(self, case_id: str) -> tuple[ExclusionRow, ...]:
        """What people took out of a case, or replaced, and did not put back.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.read() as connection:
            return exclusions_of(connection, base.get_case(connection, case_id).root_id)

    def list_cases(self, state: CaseState | None = None, q: str = "", limit: int = 50, cursor: str = "") -> Page:
        """Cases, newest first, one page; `q` is an exact accession number, study UID, Patient ID or case id.

        Raises:
            Refused: REQUEST_INVALID, the cursor is not one of ours.
        """
        query = base.case_columns().order_by(case_revision.c.no.desc()).limit(limit + 1)
        if state is not None:
            query = query.where(case_revision.c.state == state)
        if q:
            named = select(study.c.root_id).where(or_(study.c.accession == q, study.c.study_uid == q))
            matches = (case_revision.c.id == q, case_root.c.patient_id == q, case_revision.c.root_id.in_(named))
            query = query.where(or_(*matches))
        if cursor:
            if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 16):
                raise Refused("REQUEST_INVALID", "cursor")
            query = query.where(case_revision.c.no < int(cursor))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            items = _items(connection, rows[:limit])
        return Page(items, str(rows[limit - 1].no) if len(rows) > limit else "")

    def timeline(self, case_id: str, limit: int = 5000) -> list[Event]:
        """What happened to a case, from the audit, oldest first."""
        with self._database.read() as connection:
            return audit.events(connection, case_id=case_id, limit=limit)

    def audit(self, after_seq: int = 0, limit: int = 1000) -> list[Event]:
        """Audit rows after a sequence number, oldest first."""
        with self._database.read() as connection:
            return audit.events(connection, after_seq=after_seq, limit=limit)

    def why(self, query: str, now: datetime | None = None) -> Why:
        """What happened to an accession number, study, patient, instance or case, and what to do next.

        With `now` it also says which processes are gone, and who was turned away lately.
        """
        with self._database.read() as connection:
            return answer(connection, query, now)

    def fetches(self, case_id: str) -> list[OrderRow]:
        """What was asked of PACS for a case, the studies that they named, and what became of each; newest first.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.read() as connection:
            return read_fetch.orders_of(connection, [base.get_case(connection, case_id).root_id])

    def fetches_of_term(self, term: str) -> list[OrderRow]:
        """The same for an accession number or Study Instance UID, also without a case."""
        with self._database.read() as connection:
            return read_fetch.orders_of(connection, [], term)

    def fetching_since(self, case_id: str) -> datetime | None:
        """Since when a fetch that a case may wait for is under way."""
        with self._database.read() as connection:
            return read_fetch.fetching_since(connection, case_id)

    def arrived(self, study_uid: str, patient_id: str, since: datetime) -> dict[str, int]:
        """Images of a study that came in since then, by verdict; "other_patient" where they name another one."""
        with self._database.read() as connection:
            return read_fetch.arrived(connection, study_uid, patient_id, since)

    def fetch_states(self) -> dict[tuple[str, str], int]:
        """Candidates by destination and state."""
        with self._database.read() as connection:
            return read_fetch.states(connection)

    def processes(self) -> list[ProcessRow]:
        """The service's processes as they last showed themselves."""
        with self._database.read() as connection:
            return processes(connection)

    def associations(self, limit: int = 100, before: datetime | None = None) -> list[AssociationRow]:
        """The association log, newest first."""
        query = select(association).order_by(association.c.opened_at.desc()).limit(limit)
        if before is not None:
            query = query.where(association.c.opened_at < before)
        with self._database.read() as connection:
            return [association_row(row) for row in connection.execute(query)]

    def artefact(self, case_id: str, artefact_id: int) -> ArtefactRow:
        """One artefact of a case.

        Raises:
            Refused: NOT_FOUND.
        """
        query = artefact_columns().where(artefact.c.case_id == case_id, artefact.c.id == artefact_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise Refused("NOT_FOUND")
        return artefact_row(row)

    def instances_of_open_cases(self, after_id: int, limit: int) -> list[InstanceRow]:
        """Instances that wait for an analysis, by id; ask again with the last id to see what came since."""
        roots = select(case_revision.c.root_id).where(case_revision.c.state.in_(_OPEN_CASES))
        query = select(instance).where(instance.c.id > after_id, instance.c.root_id.in_(roots))
        with self._database.read() as connection:
            return [instance_row(row) for row in connection.execute(query.order_by(instance.c.id).limit(limit))]

    def instance_cases(self, instance_id: int) -> list[str]:
        """Cases whose frozen inputs hold an instance."""
        query = select(case_input.c.case_id).where(case_input.c.instance_id == instance_id)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def next_due(self) -> datetime | None:
        """When the next retry or lease falls due; None when nothing is scheduled."""
        times = (
            select(func.min(job.c.next_at)).where(job.c.state == JobState.RETRY_WAIT),
            select(func.min(job.c.lease_until)).where(job.c.state == JobState.LEASED),
            select(func.min(delivery.c.next_at)).where(
                delivery.c.state.in_([DeliveryState.RETRY_WAIT, DeliveryState.UNKNOWN])
            ),
            select(func.min(delivery.c.lease_until)).where(delivery.c.state == DeliveryState.SENDING),
        )
        with self._database.read() as connection:
            due = [connection.execute(query).scalar_one() for query in times]
        return min((time for time in due if time is not None), default=None)

    def waiting_jobs(self, kind: str, limit: int) -> list[tuple[int, int]]:
        """Number and priority of jobs that may be claimed now, in order; at most `limit` of STAT and of the others."""
        with self._database.read() as connection:
            return ready_jobs(connection, kind, limit)

    def waiting(self, limit: int) -> tuple[list[tuple[int, int]], list[int]]:
        """`waiting_jobs` of every kind, and the newest PENDING delivery of each destination; three small questions when all is idle."""
        with self._database.read() as connection:
            kinds = [kind for kind in (ANALYSE, TELL, WITHDRAW) if some_ready(connection, kind)]
            jobs = [row for kind in kinds for row in ready_jobs(connection, kind, limit)]
            return jobs, list(connection.execute(_TO_DELIVER).scalars())

    def metrics(self) -> Metrics:
        """Counts by state, queue depth and the oldest waiting work."""
        with self._database.read() as connection:
            jobs = _counts(connection, job.c.state)
            deliveries: dict[str, dict[str, int]] = {}
            both = select(delivery.c.destination, delivery.c.state, func.count().label("n"))
            for row in connection.execute(both.group_by(delivery.c.destination, delivery.c.state)):
                deliveries.setdefault(row.destination, {})[row.state] = row.n
            ready = job.c.state.in_([JobState.READY, JobState.RETRY_WAIT])
            oldest_job = select(func.min(job.c.created_at)).where(ready)
            # What is left of cases that were closed or superseded is never sent, and nobody waits for it.
            backlog = (
                select(func.count().label("n"), func.min(delivery.c.first_at).label("oldest"))
                .join_from(delivery, case_revision, delivery.c.case_id == case_revision.c.id)
                .where(delivery.c.state.in_(_WAITING), case_revision.c.state.in_(SENDABLE))
            )
            waiting = connection.execute(backlog).one()
            unclosed = select(func.count()).select_from(association).where(association.c.closed_at.is_(None))
            return Metrics(
                cases=_counts(connection, case_revision.c.state),
                jobs=jobs,
                deliveries=deliveries,
                queue_depth=jobs.get(JobState.READY, 0) + jobs.get(JobState.RETRY_WAIT, 0),
                oldest_queued_at=connection.execute(oldest_job).scalar_one(),
                delivery_backlog=waiting.n,
                oldest_delivery_at=waiting.oldest,
                open_associations=connection.execute(unclosed).scalar_one(),
                instances=connection.execute(select(func.count()).select_from(instance)).scalar_one(),
                unproved=unproved_by_destination(connection),
                notices=notice_counts(connection),
            )

    def verify_audit(self, kept: AuditHead | None = None) -> AuditCheck:
        """Walk the audit chain; names the first row that does not verify, or that is not the one of a `kept` head."""
        with self._database.read() as connection:
            return audit.verify(connection, kept)

    def audit_head(self) -> AuditHead:
        """Number and hash of the newest row."""
        with self._database.read() as connection:
            return audit.head(connection)


def _counts(connection: Connection, column: Any) -> dict[str, int]:
    query = select(column.label("value"), func.count().label("n")).group_by(column)
    return {str(row.value): row.n for row in connection.execute(query)}


def _total(counts: Any) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


def _items(connection: Connection, rows: Sequence[Any]) -> tuple[CaseItem, ...]:
    roots = sorted({row.root_id for row in rows})
    studies = studies_by_root(connection, roots)
    newest_query = select(case_revision.c.root_id, func.max(case_revision.c.revision).label("newest"))
    newest_query = newest_query.where(case_revision.c.root_id.in_(roots)).group_by(case_revision.c.root_id)
    newest = {row.root_id: row.newest for row in connection.execute(newest_query)}
    counted = select(instance.c.root_id, instance.c.modality, func.count().label("n"))
    out = exists().where(exclusion.c.instance_id == instance.c.id, exclusion.c.lifted_at.is_(None))
    counted = counted.where(instance.c.root_id.in_(roots), ~out).group_by(instance.c.root_id, instance.c.modality)
    modalities: dict[str, dict[str, int]] = {}
    for row in connection.execute(counted):
        modalities.setdefault(row.root_id, {})[row.modality] = row.n
    return tuple(
        CaseItem(
            case=base.case_row(row),
            accession_numbers=tuple(dict.fromkeys(s.accession for s in studies.get(row.root_id, ()) if s.accession)),
            study_uids=tuple(s.study_uid for s in studies.get(row.root_id, ())),
            modalities=modalities.get(row.root_id, {}),
            newest=newest[row.root_id] == row.revision,
        )
        for row in rows
    )
