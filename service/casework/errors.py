"""The error tree: three families under one root, each with a code, what happened and what to do. Does no I/O.

Refused      the sender's mistake: the input is answered with a code and is not retried.
Unavailable  something we wait for: the same call may work later.
Defect       ours: a rule that we promised to keep is broken; it stops the step and raises an alarm.
"""

from casework.reasons import Reason, reason


class CaseworkError(Exception):
    """Root of every error that this package raises on purpose.

    `code` names a row of `casework.reasons`; `detail` is for operators and holds no patient data.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        self.reason: Reason = reason(code)
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {self.reason.en}" + (f" ({detail})" if detail else ""))

    def __reduce__(self) -> tuple[type["CaseworkError"], tuple[str, str]]:
        """Made again from what made it: by default an exception is, from its message, which is no code."""
        return type(self), (self.code, self.detail)


class Refused(CaseworkError):
    """The input can't be accepted or analysed as it is; sending it again unchanged won't help."""


class Unavailable(CaseworkError):
    """A neighbour or resource is not there right now; the same step may be tried again later."""


class Defect(CaseworkError):
    """A promise of our own is broken; the step stops and an operator is told."""
