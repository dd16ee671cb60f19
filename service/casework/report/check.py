"""The self-check before anything is sent: reads the bytes back and compares them with source and result."""

from collections.abc import Mapping, Sequence

from pydicom.dataset import Dataset

from casework.report.render import Rendered
from casework.result import CaseResult


def check(rendered: Sequence[Rendered], result: CaseResult, sources: Mapping[str, Dataset]) -> None:
    """Compare every object with the studies it came from.

    Raises:
        Defect: RESULT_SELF_CHECK, naming the rule.
    """
