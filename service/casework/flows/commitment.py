"""Storage commitment reports that peers bring to our listener: read, matched with the ledger's transactions, answered.

The answer is a success only once the ledger has it. A report about a transaction that the ledger does not know, or of
another peer than was asked, changes nothing.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from casework.config import Settings
from casework.dicom import commitment
from casework.dicom.classes import IMPLICIT_LE
from casework.errors import CaseworkError, Refused
from casework.ledger import Ledger, Resend
from casework.observe import log

SUCCESS, PROCESSING_FAILURE, INVALID_ARGUMENT = 0x0000, 0x0110, 0x0115


class CommitmentReports:
    """The listener's side of storage commitment. `peers`: the AE titles that may report."""

    def __init__(
        self, ledger: Ledger, settings: Settings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._ledger, self._work, self._now = ledger, settings.work, now
        self._names: dict[str, list[str]] = {}
        for destination in settings.destination:
            if destination.proves == "commitment":
                for title in {destination.ae_title, destination.committer.ae_title}:
                    self._names.setdefault(title, []).append(destination.name)
        self.peers = frozenset(self._names)

    def begin(self, calling: str, syntax: str) -> "Reception":
        """A report begins to arrive."""
        return Reception(self, calling, syntax)

    def take(self, calling: str, report: commitment.Report) -> tuple[int, str]:
        """Settle a report; return the status and the code to answer with."""
        now = self._now()
        resend = Resend(now + timedelta(seconds=self._work.retry_first_s), self._work.proof_resends)
        names, proofs = self._names.get(calling, []), commitment.proofs(report)
        known = self._ledger.commitment_report(report.transaction_uid, names, proofs, resend, now)
        bad = len(report.failed)
        tell = log.warning if bad or not known else log.info
        code = "" if known else "COMMITMENT_UNKNOWN"
        tell("commitment.reported", count=len(proofs), code=code, state=f"{bad} failed")
        return (SUCCESS, "") if known else (INVALID_ARGUMENT, code)


class Reception:
    """One report on its way in."""

    def __init__(self, reports: CommitmentReports, calling: str, syntax: str) -> None:
        self._reports, self._calling, self._syntax = reports, calling, syntax
        self._data = bytearray()

    def write(self, data: memoryview) -> None:
        """Take the next bytes.

        Raises:
            Refused: REQUEST_TOO_LARGE.
        """
        self._data += data
        if len(self._data) > commitment.MAX_REPORT_BYTES:
            raise Refused("REQUEST_TOO_LARGE", "storage commitment report")

    def finish(self) -> tuple[int, str]:
        """Settle it; return the status and the code."""
        try:
            report = commitment.decode_report(bytes(self._data), implicit_vr=self._syntax == IMPLICIT_LE)
            return self._reports.take(self._calling, report)
        except Refused as error:
            return INVALID_ARGUMENT, error.code
        except CaseworkError as error:
            log.error("commitment.failed", code=error.code)
            return PROCESSING_FAILURE, error.code

    def abandon(self) -> None:
        """The rest will not come."""
        self._data.clear()
