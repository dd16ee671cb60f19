"""What a peer's answer to a stored object means for us: the classes as data. Does no I/O.

One table for DIMSE statuses (PS3.7 Annex C, PS3.4 B.2.3) and one for HTTP statuses of STOW-RS (PS3.18 10.5). Both are
total: every 16-bit status and every three-digit HTTP status has exactly one row, which a test proves.
"""

from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Answer(StrEnum):
    """What to do with an object after one try."""

    STORED = "stored"
    WARNED = "warned"  # stored, and the peer says what it changed or dropped: not sent again
    AGAIN = "again"  # back off, until the horizon
    FEW = "few"  # back off, five such answers at most
    NEVER = "never"  # sending the same bytes again can't help: a person has to look
    UNKNOWN = "unknown"  # the connection broke before the answer: the same bytes are sent again


@dataclass(frozen=True, slots=True)
class StoreItem:
    """One stored Part 10 file to be sent as it is."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class StoreResult:
    """How one object fared. status: DIMSE or HTTP status, None when there was none; code: a row of casework.reasons."""

    sop_uid: str
    status: int | None
    code: str
    answer: Answer
    retry_after_s: float = 0.0  # the peer's own wish, 0 when it has none
    http: bool = False  # whether `status` is an HTTP status

    @property
    def words(self) -> str:
        """The status as people write it: 0xA700, HTTP 409, or "" when there was none."""
        if self.status is None:
            return ""
        return f"HTTP {self.status}" if self.http else f"0x{self.status:04X}"


_A = Answer
Row = tuple[int, Answer, str]  # first status of the range; it ends where the next row begins

# fmt: off
DIMSE_ROWS: tuple[Row, ...] = (
    (0x0000, _A.STORED, "DELIVERED"),
    (0x0001, _A.WARNED, "PEER_WARNED"),            # optional attributes not supported
    (0x0002, _A.FEW, "PEER_FAILED"),
    (0x0105, _A.NEVER, "PEER_REFUSED_OBJECT"),     # no such attribute, invalid attribute value
    (0x0107, _A.WARNED, "PEER_WARNED"),            # attribute list
    (0x0108, _A.FEW, "PEER_FAILED"),
    (0x0110, _A.FEW, "PEER_FAILED"),               # processing failure
    (0x0111, _A.STORED, "DELIVERED"),              # duplicate SOP Instance: ours, the bytes never differ
    (0x0112, _A.NEVER, "PEER_REFUSED_OBJECT"),
    (0x0116, _A.WARNED, "PEER_WARNED"),            # attribute value out of range
    (0x0117, _A.NEVER, "PEER_REFUSED_OBJECT"),     # invalid SOP Instance
    (0x0118, _A.NEVER, "PEER_REFUSED_OBJECT"),     # no such SOP class ... missing attribute value
    (0x0122, _A.NEVER, "PEER_REFUSED_OBJECT"),     # SOP class not supported, no such action
    (0x0124, _A.NEVER, "PEER_REFUSED_OBJECT"),     # not authorised
    (0x0125, _A.FEW, "PEER_FAILED"),
    (0x0210, _A.AGAIN, "PEER_BUSY"),               # duplicate invocation
    (0x0211, _A.NEVER, "PEER_REFUSED_OBJECT"),     # unrecognised operation, mistyped argument
    (0x0213, _A.AGAIN, "PEER_BUSY"),               # resource limitation
    (0x0214, _A.FEW, "PEER_FAILED"),
    (0xA700, _A.AGAIN, "PEER_BUSY"),               # out of resources
    (0xA800, _A.FEW, "PEER_FAILED"),
    (0xA900, _A.NEVER, "PEER_REFUSED_OBJECT"),     # data set does not match SOP class
    (0xAA00, _A.FEW, "PEER_FAILED"),
    (0xB000, _A.WARNED, "PEER_WARNED"),            # coercion, elements discarded, does not match
    (0xC000, _A.NEVER, "PEER_REFUSED_OBJECT"),     # cannot understand
    (0xD000, _A.FEW, "PEER_FAILED"),
)

HTTP_ROWS: tuple[Row, ...] = (
    (100, _A.FEW, "PEER_FAILED"),
    (200, _A.STORED, "DELIVERED"),                 # the body may still name failed instances
    (300, _A.NEVER, "PEER_REFUSED_OBJECT"),        # redirects are not followed: the token would travel with them
    (408, _A.AGAIN, "PEER_BUSY"),                  # the server gave up waiting
    (409, _A.NEVER, "PEER_REFUSED_OBJECT"),        # all failed; the body says why for each
    (425, _A.AGAIN, "PEER_BUSY"),                  # too early
    (426, _A.NEVER, "PEER_REFUSED_OBJECT"),
    (429, _A.AGAIN, "PEER_BUSY"),                  # too many requests
    (430, _A.NEVER, "PEER_REFUSED_OBJECT"),
    (500, _A.AGAIN, "PEER_BUSY"),
    (600, _A.FEW, "PEER_FAILED"),
)

# Ends without a status. The names are those of `ended()`.
ENDS: dict[str, tuple[Answer, str]] = {
    "unreachable": (_A.AGAIN, "PEER_UNREACHABLE"),
    "tls": (_A.AGAIN, "PEER_TLS"),                            # its certificate or ours is not believed
    "aborted_before": (_A.AGAIN, "PEER_REJECTED"),            # during the negotiation: nothing was sent
    "rejected_transient": (_A.AGAIN, "PEER_REJECTED"),
    "rejected_permanent": (_A.NEVER, "PEER_REJECTED_FOR_GOOD"),
    "no_context": (_A.NEVER, "PEER_NO_CONTEXT"),
    "broken": (_A.UNKNOWN, "PEER_OUTCOME_UNKNOWN"),           # abort, timeout or an empty status after the send began
    "unreadable": (_A.NEVER, "SPOOL_CORRUPT"),                # our own file can't be read
}
# fmt: on

PEER_LEVEL = frozenset({"PEER_UNREACHABLE", "PEER_TLS", "PEER_REJECTED", "PEER_OUTCOME_UNKNOWN", "PEER_BUSY"})
"""Codes that say something about the destination rather than about the object: they move the circuit breaker."""

_DIMSE_STARTS = [row[0] for row in DIMSE_ROWS]
_HTTP_STARTS = [row[0] for row in HTTP_ROWS]


def of_dimse(sop_uid: str, status: int) -> StoreResult:
    """Classify a C-STORE status, or a Failure Reason (0008,1197), which uses the same numbers."""
    _, answer, code = DIMSE_ROWS[bisect_right(_DIMSE_STARTS, status & 0xFFFF) - 1]
    return StoreResult(sop_uid, status, code, answer)


def of_http(sop_uid: str, status: int, retry_after_s: float = 0.0) -> StoreResult:
    """Classify an HTTP status of a STOW-RS answer whose body says nothing about the instance."""
    _, answer, code = HTTP_ROWS[max(bisect_right(_HTTP_STARTS, status) - 1, 0)]
    return StoreResult(sop_uid, status, code, answer, retry_after_s, http=True)


def ended(sop_uid: str, how: str) -> StoreResult:
    """Classify an end without a status. `how` is a key of ENDS."""
    answer, code = ENDS[how]
    return StoreResult(sop_uid, None, code, answer)
