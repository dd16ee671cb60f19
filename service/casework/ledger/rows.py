"""Database rows into the frozen rows that others see. Reads, never writes."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, exists, or_, select

from casework.case import DeliveryState, JobState, Verdict
from casework.ledger.schema import artefact, delivery, doubt, exclusion, finding, instance, job, study, withdrawal
from casework.ledger.store_delivery import artefact_of
from casework.ledger.types import (
    ArtefactRow,
    AssociationRow,
    DeliveryRow,
    DoubtRow,
    ExclusionRow,
    FindingRow,
    JobRow,
    ReceiptRow,
)


def artefact_columns() -> Any:
    """SELECT that gives `artefact_row` what it needs."""
    may_be_there = or_(delivery.c.fence > 0, delivery.c.state != DeliveryState.CANCELLED)
    issued = exists().where(delivery.c.artefact_id == artefact.c.id, may_be_there)
    columns = select(artefact, withdrawal.c.code.label("withdrawn"), issued.label("issued"))
    return columns.outerjoin_from(artefact, withdrawal, withdrawal.c.artefact_id == artefact.c.id)


def artefact_row(row: Any) -> ArtefactRow:
    """Build the row that others see."""
    return ArtefactRow(
        row.id, row.case_id, artefact_of(row), row.created_at, row.withdrawn or "", issued=bool(row.issued)
    )


def association_row(row: Any) -> AssociationRow:
    """Build the row that others see."""
    return AssociationRow(
        id=row.id,
        calling=row.calling,
        called=row.called,
        address=row.address,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        end=row.ended,
        code=row.code,
        counts=row.counts,
    )


def receipt_row(row: Any) -> ReceiptRow:
    """Build the row that others see."""
    return ReceiptRow(
        id=row.id,
        verdict=Verdict(row.verdict),
        code=row.code,
        door=row.door,
        peer=row.peer,
        association_id=row.association_id,
        sop_instance_uid=row.sop_uid,
        study_instance_uid=row.study_uid,
        modality=row.modality,
        patient_id=row.patient_id,
        accession_number=row.accession,
        sha256=row.sha256,
        size=row.size,
        instance_id=row.instance_id,
        received_at=row.received_at,
    )


def jobs_of(connection: Connection, case_id: str) -> list[JobRow]:
    """Jobs of a case, oldest first."""
    return [
        JobRow(
            id=row.id,
            case_id=row.case_id,
            kind=row.kind,
            state=JobState(row.state),
            attempt=row.attempt,
            max_attempts=row.max_attempts,
            owner=row.owner,
            lease_until=row.lease_until,
            next_at=row.next_at,
            code=row.code,
            created_at=row.created_at,
            changed_at=row.changed_at,
        )
        for row in connection.execute(select(job).where(job.c.case_id == case_id).order_by(job.c.id))
    ]


def delivery_columns() -> Any:
    """SELECT that gives `delivery_row` what it needs."""
    return select(delivery, artefact.c.kind, artefact.c.label, artefact.c.sop_uid).join_from(
        delivery, artefact, delivery.c.artefact_id == artefact.c.id
    )


def delivery_row(row: Any) -> DeliveryRow:
    """Build the row that others see."""
    return DeliveryRow(
        id=row.id,
        case_id=row.case_id,
        artefact_id=row.artefact_id,
        kind=row.kind,
        label=row.label,
        sop_instance_uid=row.sop_uid,
        destination=row.destination,
        state=DeliveryState(row.state),
        attempt=row.attempt,
        status=row.status,
        code=row.code,
        first_at=row.first_at,
        next_at=row.next_at,
        changed_at=row.changed_at,
        proof=row.proof,
        stored_at=row.stored_at,
    )


def deliveries_of(connection: Connection, case_id: str) -> list[DeliveryRow]:
    """Deliveries of a case, in the order of planning."""
    query = delivery_columns().where(delivery.c.case_id == case_id).order_by(delivery.c.id)
    return [delivery_row(row) for row in connection.execute(query)]


def findings_of(connection: Connection, case_id: str) -> list[FindingRow]:
    """Findings of a case, oldest first."""
    query = select(finding).where(finding.c.case_id == case_id).order_by(finding.c.id)
    return [FindingRow(r.code, r.subject, r.detail, r.source, r.at) for r in connection.execute(query)]


def doubts_of(connection: Connection, root_id: str) -> tuple[DoubtRow, ...]:
    """Doubts about a case, open ones first, then the newest decisions."""
    columns = (doubt.c.id, doubt.c.code, doubt.c.subject, doubt.c.sha256, doubt.c.at)
    query = select(*columns, doubt.c.decision, doubt.c.decided_by, doubt.c.decided_at)
    query = query.where(doubt.c.root_id == root_id).order_by(doubt.c.decision != "", doubt.c.id)
    return tuple(DoubtRow(*row) for row in connection.execute(query))


def exclusions_of(connection: Connection, root_id: str) -> tuple[ExclusionRow, ...]:
    """What is taken out of a case now, oldest first."""
    instead = instance.alias("instead")
    own = (instance.c.sop_uid, instance.c.series_uid, instance.c.study_uid, instance.c.modality, instance.c.sha256)
    query = (
        select(
            *own, exclusion.c.code, exclusion.c.detail, exclusion.c.actor, exclusion.c.at, instead.c.sha256.label("by")
        )
        .join_from(exclusion, instance, exclusion.c.instance_id == instance.c.id)
        .outerjoin(instead, exclusion.c.replaced_by == instead.c.id)
        .where(exclusion.c.root_id == root_id, exclusion.c.lifted_at.is_(None))
        .order_by(exclusion.c.at, instance.c.id)
    )
    return tuple(
        ExclusionRow(
            sop_instance_uid=row.sop_uid,
            series_instance_uid=row.series_uid,
            study_instance_uid=row.study_uid,
            modality=row.modality,
            sha256=row.sha256,
            code=row.code,
            detail=row.detail,
            actor=row.actor,
            at=row.at,
            replaced_by=row.by or "",
        )
        for row in connection.execute(query)
    )


def studies_by_root(connection: Connection, roots: Iterable[str]) -> dict[str, list[Any]]:
    """Study rows of several roots."""
    grouped: dict[str, list[Any]] = {}
    query = select(study).where(study.c.root_id.in_(list(roots))).order_by(study.c.id)
    for row in connection.execute(query):
        grouped.setdefault(row.root_id, []).append(row)
    return grouped
