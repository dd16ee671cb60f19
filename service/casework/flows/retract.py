"""Withdrawing a case's results: a rejection note to every destination that has or may have them, and nothing more sent.

The notes are rendered from the stored bytes of what they withdraw, and go through the same outbox with the same proof.
"""

from collections.abc import Sequence
from datetime import datetime
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset

from casework.case import RETRACTIONS, Artefact
from casework.config import Settings
from casework.errors import Refused, Unavailable
from casework.ledger import Ledger, Retraction
from casework.observe import log
from casework.report import readable, render_rejection, to_reject
from casework.spool import Spool

_TRIES = 5  # a destination may get something between the look and the decision


class Retractor:
    """Retracts cases; one call is one decision of a person."""

    def __init__(self, ledger: Ledger, spool: Spool, settings: Settings) -> None:
        self._ledger, self._spool = ledger, spool
        self._language = settings.report.language

    def retract(self, case_id: str, code: str, actor: str, now: datetime, detail: str = "") -> None:
        """Retract; the same code again changes nothing.

        Raises:
            Refused: NOT_FOUND, STATE_FORBIDS, REQUEST_INVALID (not a code of case.RETRACTIONS).
            Defect: SPOOL_CORRUPT, RESULT_SELF_CHECK.
            Unavailable: RETRY_LATER.
        """
        if code not in RETRACTIONS:
            raise Refused("REQUEST_INVALID", "reason")
        for _ in range(_TRIES):
            seen = self._ledger.retraction(case_id)
            notes = [] if seen.case.retraction else self._notes(seen, code, now)
            if self._ledger.retract_case(seen, code, notes, actor, now, detail):
                log.warning("case.retracted", case_id=case_id, code=code, count=len(notes))
                return
        raise Unavailable("RETRY_LATER", "results are being sent")

    def _notes(self, seen: Retraction, code: str, now: datetime) -> list[tuple[Artefact, list[str]]]:
        """One note for each study and set of objects, with the destinations that have this set."""
        made = []
        for artefacts, destinations in to_reject(seen.reached):
            objects = readable(artefacts, self._header)
            made.append((self._keep(seen.case.id, code, objects, now), destinations))
        return made

    def _header(self, artefact: Artefact) -> Dataset:
        return dcmread(BytesIO(self._spool.whole(artefact.sha256)), stop_before_pixels=True)

    def _keep(self, case_id: str, code: str, objects: Sequence[Dataset], now: datetime) -> Artefact:
        note = render_rejection(case_id, code, objects, self._language, now)
        return Artefact(
            kind=note.kind,
            media_type=note.media_type,
            study_instance_uid=note.study_instance_uid,
            series_instance_uid=note.series_instance_uid,
            sop_class_uid=note.sop_class_uid,
            sop_instance_uid=note.sop_instance_uid,
            sha256=self._spool.put(note.data),
            size=len(note.data),
            label=note.label,
        )
