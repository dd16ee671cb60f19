"""The logs that the API lists: what came in, what went out, one artefact, one earlier request. Never writes."""

from sqlalchemy import select

from casework.case import DeliveryState, Verdict
from casework.errors import Refused
from casework.ledger.database import Database
from casework.ledger.rows import artefact_row, receipt_row
from casework.ledger.schema import artefact, delivery, receipt, request
from casework.ledger.types import ArtefactRow, DeliveryRow, ReceiptRow


class ReadLists:
    """A part of `Read`."""

    _database: Database

    def receipts(self, limit: int = 50, before: int | None = None, verdict: Verdict | None = None) -> list[ReceiptRow]:
        """Arrivals, newest first; ask again with the last id for the next page."""
        query = select(receipt).order_by(receipt.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(receipt.c.id < before)
        if verdict is not None:
            query = query.where(receipt.c.verdict == verdict)
        with self._database.read() as connection:
            return [receipt_row(row) for row in connection.execute(query)]

    def deliveries(self, limit: int = 50, before: int | None = None) -> list[DeliveryRow]:
        """Deliveries of all cases, newest first; ask again with the last id for the next page."""
        query = (
            select(delivery, artefact.c.kind, artefact.c.label, artefact.c.sop_uid)
            .join_from(delivery, artefact, delivery.c.artefact_id == artefact.c.id)
            .order_by(delivery.c.id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(delivery.c.id < before)
        with self._database.read() as connection:
            return [
                DeliveryRow(
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
                )
                for row in connection.execute(query)
            ]

    def artefact_by_id(self, artefact_id: int) -> ArtefactRow:
        """One artefact of any case.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.read() as connection:
            row = connection.execute(select(artefact).where(artefact.c.id == artefact_id)).one_or_none()
        if row is None:
            raise Refused("NOT_FOUND")
        return artefact_row(row)

    def requested(self, idempotency_key: str) -> tuple[str, ...]:
        """The cases that an earlier request for analysis was answered with.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.read() as connection:
            found = (
                connection.execute(select(request.c.case_ids).where(request.c.key == idempotency_key)).scalars().first()
            )
        if found is None:
            raise Refused("NOT_FOUND")
        return tuple(found["ids"])
