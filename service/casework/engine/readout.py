"""From outputs to one outcome per side, by the package's thresholds. Does no I/O.

Silence is never a negative: a side whose modalities do not fulfil `requires` is INSUFFICIENT and shows no probability.
"""

from collections.abc import Iterable, Sequence

from casework.engine.runner import SideOutputs
from casework.modelspec import ModelSpec
from casework.result import Outcome, Side, SideResult

SIDES = (Side.RIGHT, Side.LEFT)


def sufficient(modalities: Iterable[str], spec: ModelSpec) -> bool:
    """Whether a side with these modalities may be read at all."""
    there = set(modalities)
    return any(set(group) <= there for group in spec.requires)


def outcome_of(probability: float, spec: ModelSpec) -> Outcome:
    """The outcome of a calibrated probability."""
    if probability >= spec.positive_at:
        return Outcome.POSITIVE
    return Outcome.NEGATIVE if probability < spec.negative_below else Outcome.INDETERMINATE


def read(outputs: SideOutputs, spec: ModelSpec, sides: Sequence[Side] = SIDES) -> tuple[SideResult, ...]:
    """One result per side, in the batch's order (`sides` names it)."""
    results = []
    for n, (side, modalities) in enumerate(zip(sides, outputs.present, strict=True)):
        if not sufficient(modalities, spec):
            results.append(SideResult(side, Outcome.INSUFFICIENT, None, {}, modalities))
            continue
        probability = float(outputs.prob[n])
        evidence = {m: float(outputs.evidence[m][n]) for m in modalities}
        results.append(SideResult(side, outcome_of(probability, spec), probability, evidence, modalities))
    return tuple(results)
