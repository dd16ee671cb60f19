"""The Storage Commitment Push Model as data (PS3.4 Annex J): the request, the report, what its reasons mean. Does no I/O."""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.filereader import read_dataset

from casework.case import Proof
from casework.errors import Refused

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"  # well-known, PS3.4 J.3.5
REQUEST_ACTION = 1  # Request Storage Commitment, PS3.4 J.3.2
MAX_REPORT_BYTES = 1 << 20
MAX_ITEMS = 5000

# Failure Reason (0008,1197) in a report, PS3.3 C.14.1.1 -> code, and whether the same bytes may help.
_REASONS: Mapping[int, tuple[str, bool]] = {
    0x0110: ("PEER_FAILED", True),  # processing failure
    0x0112: ("RESULT_NOT_HELD", True),  # no such object instance
    0x0119: ("COMMITMENT_REFUSED", False),  # class and instance conflict
    0x0122: ("COMMITMENT_REFUSED", False),  # referenced SOP class not supported
    0x0213: ("PEER_BUSY", True),  # resource limitation
}


@dataclass(frozen=True, slots=True)
class Report:
    """What an N-EVENT-REPORT says. failed: SOP Instance UID -> Failure Reason, 0 when none is given."""

    transaction_uid: str
    held: tuple[str, ...]
    failed: Mapping[str, int]


def of_reason(reason: int) -> tuple[str, bool]:
    """A row of casework.reasons, and whether sending the same bytes again may help."""
    return _REASONS.get(reason, ("PEER_FAILED", True))


def proofs(report: Report) -> list[Proof]:
    """What a report says of each object."""
    good = [Proof(uid, held=True, how="commitment", code="COMMITTED") for uid in report.held]
    bad = []
    for uid, reason in report.failed.items():
        code, again = of_reason(reason)
        bad.append(Proof(uid, held=False, how="commitment", code=code, status=f"0x{reason:04X}", again=again))
    return good + bad


def request(transaction_uid: str, objects: Iterable[tuple[str, str]]) -> Dataset:
    """The N-ACTION's data set (PS3.4 Table J.3-1). objects: SOP class and instance UIDs."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = [_reference(*pair) for pair in objects]
    return ds


def _reference(sop_class: str, sop_instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
    return item


def decode_report(data: bytes, *, implicit_vr: bool) -> Report:
    """Read a report's bytes (PS3.4 Table J.3-2), little endian.

    Raises:
        Refused: HEADER_MALFORMED.
    """
    try:
        return read_report(read_dataset(BytesIO(data), implicit_vr, True))  # noqa: FBT003 - the library's positional-only style
    except _UNREADABLE as error:
        raise Refused("HEADER_MALFORMED", type(error).__name__) from error


# What pydicom raises on damaged bytes; anything else is for the association's own guard.
_UNREADABLE = (
    AttributeError, BytesLengthException, EOFError, KeyError, NotImplementedError, OSError, OverflowError,
    RecursionError, TypeError, ValueError, struct.error,
)  # fmt: skip


def read_report(ds: Dataset) -> Report:
    """Read a report. An object that is named on both lists has failed.

    Raises:
        Refused: HEADER_MALFORMED, no transaction or too many objects.
    """
    uid = str(ds.get("TransactionUID") or "")
    good, bad = _items(ds, "ReferencedSOPSequence"), _items(ds, "FailedSOPSequence")
    if not uid or len(good) + len(bad) > MAX_ITEMS:
        raise Refused("HEADER_MALFORMED", "not a storage commitment report")
    failed = {str(item.get("ReferencedSOPInstanceUID", "")): int(item.get("FailureReason") or 0) for item in bad}
    held = (str(item.get("ReferencedSOPInstanceUID", "")) for item in good)
    return Report(uid, tuple(u for u in held if u not in failed), failed)


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    return list(ds.get(keyword) or [])
