"""Storage commitment as a PACS does it: takes the N-ACTION, reports on a new association, on the same one, or never."""

import threading
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

if TYPE_CHECKING:
    from tests.simulators.pacs import SimulatedPacs

NO_SUCH_INSTANCE = 0x0112


class Commitment:
    """The service of one simulated PACS; `faults.commit` says how it answers."""

    def __init__(self, pacs: "SimulatedPacs") -> None:
        self._pacs = pacs
        self.answers: list[int] = []  # statuses that our reports were answered with
        self.asked: list[str] = []  # transaction UIDs

    def on_action(self, event: evt.Event) -> tuple[int, None]:
        """N-ACTION: remember the question and answer as told."""
        faults, wanted = self._pacs.faults, event.action_information
        self.asked.append(str(wanted.TransactionUID))
        if faults.commit == "refuse":
            return 0x0110, None
        report = self.report(wanted)
        if faults.commit == "same":
            threading.Timer(0.1, self._send, (event.assoc, report)).start()
        elif faults.commit == "new":
            calling = event.assoc.requestor.ae_title
            threading.Timer(0.1, self.send, (calling, report)).start()
        return 0x0000, None

    def report(self, wanted: Dataset) -> Dataset:
        """What is true of these objects here, unless a fault says otherwise."""
        faults = self._pacs.faults
        ds = Dataset()
        ds.TransactionUID = generate_uid() if faults.commit_foreign else wanted.TransactionUID
        good: list[Dataset] = []
        bad: list[Dataset] = []
        for item in wanted.ReferencedSOPSequence:
            held = self._pacs.holds(str(item.ReferencedSOPInstanceUID)) is not None
            reason = faults.commit_reason or (0 if held else NO_SUCH_INSTANCE)
            if reason:
                item.FailureReason = reason
            (bad if reason else good).append(item)
        if good:
            ds.ReferencedSOPSequence = good
        if bad:
            ds.FailedSOPSequence = bad
        return ds

    def send(self, to: str, report: Dataset) -> int:
        """N-EVENT-REPORT on an association of our own; the status that it was answered with, -1 without one."""
        title, host, port = self._pacs.peers[to]
        ae = AE(self._pacs.aet)
        ae.add_requested_context(StorageCommitmentPushModel)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        assoc = ae.associate(host, port, ae_title=title, ext_neg=[role])
        if not assoc.is_established:
            self.answers.append(-1)
            return -1
        status = self._send(assoc, report)
        assoc.release()
        return status

    def _send(self, assoc: Any, report: Dataset) -> int:
        event_type = 2 if "FailedSOPSequence" in report else 1
        answer, _ = assoc.send_n_event_report(
            report, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        self.answers.append(int(answer.get("Status", -1)))
        return self.answers[-1]
