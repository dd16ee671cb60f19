"""Reason codes <-> C-STORE statuses (PS3.4 B.2.3, PS3.7 C); STOW-RS uses the same numbers as Failure Reason. Does no I/O."""

from casework.case import Verdict
from casework.reasons import REASONS, Family

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DATA_SET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
PROCESSING_FAILURE = 0x0110
SOP_CLASS_NOT_SUPPORTED = 0x0122
UNRECOGNISED_OPERATION = 0x0211
NOT_AUTHORISED = 0x0124

_BY_CODE = {
    "UID_MISMATCH": DATA_SET_MISMATCH,
    "SOP_CLASS_NOT_ACCEPTED": SOP_CLASS_NOT_SUPPORTED,
    "AE_NOT_ALLOWED": NOT_AUTHORISED,
    "NOT_AUTHORISED": NOT_AUTHORISED,
    "TOO_MANY_ASSOCIATIONS": OUT_OF_RESOURCES,
}
_BY_FAMILY = {
    Family.WAITING: SUCCESS,
    Family.NOTE: SUCCESS,
    Family.REFUSED: CANNOT_UNDERSTAND,
    Family.UNAVAILABLE: OUT_OF_RESOURCES,
    Family.DEFECT: PROCESSING_FAILURE,
}


def status_of(verdict: Verdict, code: str) -> int:
    """The status for an instance: whatever is durable is a success, and the code says why anything else is not."""
    if verdict is not Verdict.REFUSED:
        return SUCCESS
    return _BY_CODE.get(code, _BY_FAMILY[REASONS[code].family])


def comment_of(code: str) -> str:
    """Words for Error Comment (0000,0902), at most 64 ASCII characters."""
    return f"{code}: {REASONS[code].en}"[:64]
