"""Which model serves: a row of the audit at every change, which is also what a step back is measured by."""

import json
import re
from datetime import datetime

from sqlalchemy import select

from casework.errors import Defect
from casework.ledger.columns import clean
from casework.ledger.schema import audit
from casework.ledger.store_base import Store

_EVENT = "model.served"


class ModelStore(Store):
    """The inference worker's part of the facade."""

    def serve_model(
        self, name: str, version: str, sha256: str, signed_by: str, now: datetime, *, allow_rollback: str = ""
    ) -> bool:
        """Note that a model begins to serve; False when it was the last one already.

        `allow_rollback`: "name version" of an older version that a person wants back.

        Raises:
            Defect: MODEL_ROLLBACK, an older version than the one that served last.
        """
        subject = clean(name)
        newest = select(audit.c.detail).where(audit.c.event == _EVENT, audit.c.subject == subject)
        with self._database.write(now) as tx:
            row = tx.connection.execute(newest.order_by(audit.c.seq.desc()).limit(1)).first()
            before = json.loads(row.detail) if row is not None else {}
            if before.get("sha256") == sha256 and before.get("signed_by") == signed_by:
                return False
            back = bool(before) and _order(version) < _order(str(before["version"]))
            if back and allow_rollback != f"{name} {version}":
                raise Defect("MODEL_ROLLBACK", f"{name} {version} after {before['version']}")
            known = {"version": version, "sha256": sha256, "signed_by": signed_by}
            tx.audit(_EVENT, "worker", "", subject, **known, before=str(before.get("version", "")), rollback=back)
        return True


def _order(version: str) -> tuple[int, ...]:
    """Versions in order: their numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", version))
