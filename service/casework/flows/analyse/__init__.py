"""Analysis of a case: prepare ahead, run, read out, report, store."""

from casework.flows.analyse.ahead import PrepareAhead
from casework.flows.analyse.case import Analyser, Ended, Stopwatch
from casework.flows.analyse.inputs import Inputs, Ready

__all__ = ["Analyser", "Ended", "Inputs", "PrepareAhead", "Ready", "Stopwatch"]
