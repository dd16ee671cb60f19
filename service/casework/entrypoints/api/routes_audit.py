"""The audit, for who watches over the others: its rows, and its head to be kept elsewhere."""

from typing import Annotated

from fastapi import FastAPI, Query

from casework.entrypoints.api import schemas_audit as schemas
from casework.entrypoints.api.door import Door, add
from casework.entrypoints.api.routes_cases import Limit
from casework.entrypoints.keyfile import Role

After = Annotated[int, Query(ge=0, le=2**63 - 1)]


class AuditRoutes:
    """Handlers over `ledger.read`."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def list_audit(self, after: After = 0, limit: Limit = 50) -> schemas.AuditPage:
        """Rows of the audit, oldest first."""
        rows = [schemas.AuditRow.of(event) for event in self._door.ledger.read.audit(after, limit)]
        return schemas.AuditPage(items=rows, next_after=rows[-1].sequence if len(rows) == limit else None)

    def get_audit_head(self) -> schemas.AuditHead:
        """Number and hash of the newest row."""
        head = self._door.ledger.read.audit_head()
        return schemas.AuditHead(sequence=head.seq, hash=head.hash, at=self._door.now())

    def verify_audit(self) -> schemas.AuditCheck:
        """Walk the whole chain."""
        found = self._door.ledger.read.verify_audit()
        return schemas.AuditCheck(
            ok=found.ok, rows=found.rows, head=found.head, first_bad=found.first_bad, problem=found.problem
        )


def add_routes(app: FastAPI, door: Door) -> None:
    """Add the routes of this module."""
    routes = AuditRoutes(door)
    add(app, "GET", "/v1/audit", routes.list_audit, role=Role.AUDITOR, tag="audit", failures=(400, 503))
    add(app, "GET", "/v1/audit/head", routes.get_audit_head, role=Role.AUDITOR, tag="audit", failures=(503,))
    add(app, "GET", "/v1/audit/check", routes.verify_audit, role=Role.AUDITOR, tag="audit", failures=(503,))
