"""The logs that the API lists: what came in, what went out, one artefact, one earlier request. Never writes."""

from collections.abc import Sequence

from sqlalchemy import select

from casework.case import Verdict
from casework.errors import Refused
from casework.ledger.database import Database
from casework.ledger.rows import artefact_columns, artefact_row, delivery_columns, delivery_row, receipt_row
from casework.ledger.schema import artefact, delivery, instance, receipt, request
from casework.ledger.store_cases import instance_row
from casework.ledger.store_retention import gone
from casework.ledger.types import ArtefactRow, DeliveryRow, InstanceRow, ReceiptRow


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
        query = delivery_columns().order_by(delivery.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(delivery.c.id < before)
        with self._database.read() as connection:
            return [delivery_row(row) for row in connection.execute(query)]

    def instances(self, after_id: int = 0, limit: int = 500) -> list[InstanceRow]:
        """All instances whose bytes are kept, by id; ask again with the last id for the next page."""
        query = (
            select(instance)
            .where(instance.c.id > after_id, ~gone(instance.c.sha256))
            .order_by(instance.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [instance_row(row) for row in connection.execute(query)]

    def aside(self, after_id: int = 0, limit: int = 500) -> list[tuple[int, str]]:
        """Receipt and digest of all that was kept aside and is kept still, by receipt; ask again with the last for the next page."""
        mine = (receipt.c.id > after_id) & (receipt.c.verdict == Verdict.KEPT_ASIDE) & (receipt.c.sha256 != "")
        query = select(receipt.c.id, receipt.c.sha256).where(mine, ~gone(receipt.c.sha256))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(receipt.c.id).limit(limit))
            return [(row.id, row.sha256) for row in rows]

    def known_objects(self, digests: Sequence[str]) -> set[str]:
        """Those of some hundred digests that a row names: stored images, results, what came again or was kept aside."""
        found: set[str] = set()
        with self._database.read() as connection:
            for table in (instance, artefact, receipt):
                found.update(connection.execute(select(table.c.sha256).where(table.c.sha256.in_(digests))).scalars())
        return found

    def artefacts(self, after_id: int = 0, limit: int = 500) -> list[ArtefactRow]:
        """All artefacts whose bytes are kept, by id; ask again with the last id for the next page."""
        kept = artefact_columns().where(artefact.c.id > after_id, ~gone(artefact.c.sha256))
        query = kept.order_by(artefact.c.id).limit(limit)
        with self._database.read() as connection:
            return [artefact_row(row) for row in connection.execute(query)]

    def artefacts_of(self, case_id: str) -> list[ArtefactRow]:
        """What one revision produced, in the order of making; nothing for an unknown one."""
        query = artefact_columns().where(artefact.c.case_id == case_id).order_by(artefact.c.id)
        with self._database.read() as connection:
            return [artefact_row(row) for row in connection.execute(query)]

    def artefact_by_id(self, artefact_id: int) -> ArtefactRow:
        """One artefact of any case.

        Raises:
            Refused: NOT_FOUND.
        """
        with self._database.read() as connection:
            row = connection.execute(artefact_columns().where(artefact.c.id == artefact_id)).one_or_none()
        if row is None:
            raise Refused("NOT_FOUND")
        return artefact_row(row)

    def requested(self, idempotency_key: str, actor: str | None = None) -> tuple[str, ...]:
        """The cases that an earlier request for analysis was answered with; keys belong to their actor.

        Raises:
            Refused: NOT_FOUND.
        """
        query = select(request.c.case_ids).where(request.c.key == idempotency_key).order_by(request.c.at)
        if actor is not None:
            query = query.where(request.c.actor == actor)
        with self._database.read() as connection:
            found = connection.execute(query).scalars().first()
        if found is None:
            raise Refused("NOT_FOUND")
        return tuple(found["ids"])
