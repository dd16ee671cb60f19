"""From outputs to one outcome per side, by the package's thresholds. Does no I/O.

The one rule, in this order:

1. A side whose modalities do not fulfil `requires` is INSUFFICIENT and shows no probability: silence is never a negative.
2. The thresholds are those of the modalities that are there. They were chosen on full input; with fewer modalities the
   same number means less. A manifest may state a pair for a subset (chosen like the full one, on its own validation); for
   one that it doesn't state, both thresholds move apart by WIDEN_LOGITS for each modality that is missing.
3. What would be POSITIVE or NEGATIVE by them becomes INDETERMINATE when the images lie outside the training's
   distribution (distance above 1.0), or when leaving one modality out moves the probability by more than the
   manifest's spread_limit, where a package's own evaluation has found one (models/cman/README.md: cman's has not).
"""

import math
from collections.abc import Iterable, Sequence

from casework.engine.runner import SideOutputs
from casework.modelspec import SLOTS, Cut, ModelSpec
from casework.result import Outcome, Side, SideResult

SIDES = (Side.RIGHT, Side.LEFT)
WIDEN_LOGITS = 0.75


def sufficient(modalities: Iterable[str], spec: ModelSpec) -> bool:
    """Whether a side with these modalities may be read at all."""
    there = set(modalities)
    return any(set(group) <= there for group in spec.requires)


def cut_for(modalities: Iterable[str], spec: ModelSpec) -> Cut:
    """The thresholds for a side with these modalities."""
    there = tuple(m for m in SLOTS if m in set(modalities))
    if there in spec.subsets:
        return spec.subsets[there]
    apart = WIDEN_LOGITS * (len(SLOTS) - len(there))
    return Cut(_moved(spec.positive_at, apart), _moved(spec.negative_below, -apart))


def _moved(probability: float, logits: float) -> float:
    return 1.0 / (1.0 + math.exp(-(math.log(probability / (1.0 - probability)) + logits)))


SHOWN_DECIMALS = 3  # of a probability; report.describe and the SR show one decimal of a percent


def outcome_of(probability: float, cut: Cut) -> Outcome:
    """The outcome of a calibrated probability, decided as it is shown: to a tenth of a percent, like the thresholds beside it."""
    shown = round(probability, SHOWN_DECIMALS)
    if shown >= round(cut.positive_at, SHOWN_DECIMALS):
        return Outcome.POSITIVE
    return Outcome.NEGATIVE if shown < round(cut.negative_below, SHOWN_DECIMALS) else Outcome.INDETERMINATE


def read(outputs: SideOutputs, spec: ModelSpec, sides: Sequence[Side] = SIDES) -> tuple[SideResult, ...]:
    """One result per side, in the batch's order (`sides` names it)."""
    return tuple(
        _read(outputs, n, side, modalities, spec)
        for n, (side, modalities) in enumerate(zip(sides, outputs.present, strict=True))
    )


def _read(outputs: SideOutputs, n: int, side: Side, modalities: tuple[str, ...], spec: ModelSpec) -> SideResult:
    if not sufficient(modalities, spec):
        return SideResult(side, Outcome.INSUFFICIENT, None, {}, modalities)
    probability = float(outputs.prob[n])
    logits = {m: float(v[n]) for m, v in outputs.without.items() if m in modalities}
    without = {m: 1.0 / (1.0 + math.exp(-v / spec.temperature)) for m, v in logits.items() if math.isfinite(v)}
    distance = {m: float(v[n]) for m, v in outputs.distance.items() if m in modalities and math.isfinite(v[n])}
    spread = max([probability, *without.values()]) - min([probability, *without.values()]) if without else None
    hangs = spread is not None and spec.spread_limit is not None and spread > spec.spread_limit
    strange = any(v > 1.0 for v in distance.values())
    cut = cut_for(modalities, spec)
    alone = outcome_of(probability, cut)
    doubts = tuple(code for code, found in (("INPUT_UNUSUAL", strange), ("ANSWER_UNSTABLE", hangs)) if found)
    return SideResult(
        side=side,
        outcome=Outcome.INDETERMINATE if doubts else alone,
        probability=probability,
        evidence={m: float(outputs.evidence[m][n]) for m in modalities},
        modalities=modalities,
        without=without,
        spread=spread,
        distance=distance,
        cut=(cut.positive_at, cut.negative_below),
        held_back=() if alone is Outcome.INDETERMINATE else doubts,
    )
