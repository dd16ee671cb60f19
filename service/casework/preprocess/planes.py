"""The planes of a dynamic MRI with their pixels, places and times, and what is irregular about them. Does no I/O.

Which frames make which phase is `dynamic.find_dynamic`'s answer; here repeated slices go before it is asked, and what fell
out and what is uneven is said after.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from casework.preprocess.dynamic import MIN_PHASES, FrameRef, find_dynamic
from casework.preprocess.facts import FrameFacts, InstanceFacts
from casework.result import Finding

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane: stored values (rows, cols), 0-based frame, place along the normal in mm."""

    pixels: NDArray[np.generic]
    frame: int
    facts: InstanceFacts
    own: FrameFacts
    along_mm: float


@dataclass(frozen=True, slots=True)
class Series:
    """Phases in time, each with the same places in the same order; seconds after the first, None where not stated."""

    phases: tuple[tuple[Plane, ...], ...]
    times_s: tuple[float | None, ...]
    step_mm: float


def arrange(
    stacks: Sequence[NDArray[np.generic]], facts: Sequence[InstanceFacts]
) -> tuple[Series | None, list[Finding]]:
    """Sort the planes of instances (in any order) into phases; None, with a finding, when there are too few."""
    readable = [n for n, f in enumerate(facts) if _matches(stacks[n], f)]
    findings = [
        Finding("PIXELS_UNDECODABLE", f.sop_instance_uid) for n, f in enumerate(facts) if n not in set(readable)
    ]
    kept, twins = _without_twins([facts[n] for n in readable], [stacks[n] for n in readable])
    findings += [Finding("GEOMETRY_IRREGULAR", uid, "repeated slice") for uid in twins]
    dynamic = find_dynamic([f for f, _ in kept.values()])
    if dynamic is None:
        return None, [*findings, Finding("PHASES_INCOMPLETE", "MR", f"fewer than {MIN_PHASES}")]
    normal = _normal(kept, dynamic.phases[0][0])
    phases = tuple(tuple(_plane(ref, kept, normal) for ref in phase) for phase in dynamic.phases)
    subject, used = phases[0][0].facts.series_instance_uid, dynamic.instances
    left = [uid for uid in kept if uid not in used]
    findings += [Finding("IMAGE_NOT_CHOSEN", uid, "not part of the dynamic series") for uid in left]
    step, regular = _step(phases[0])
    if not regular:
        findings.append(Finding("GEOMETRY_IRREGULAR", subject, "gap between slices"))
    return Series(phases, _times(phases), step), findings


def _matches(stack: NDArray[np.generic], facts: InstanceFacts) -> bool:
    count = stack.shape[0] if stack.ndim == 3 else 1
    return stack.shape[-2:] == (facts.rows, facts.columns) and count >= len(facts.frames) > 0


_Kept = dict[str, tuple[InstanceFacts, NDArray[np.generic]]]


def _without_twins(facts: Sequence[InstanceFacts], stacks: Sequence[NDArray[np.generic]]) -> tuple[_Kept, list[str]]:
    """Instances by UID, without classic slices that repeat another's series, place, time and pixels."""
    kept: _Kept = {}
    seen: dict[Hashable, list[str]] = {}
    twins = []
    for one, stack in sorted(zip(facts, stacks, strict=True), key=lambda pair: pair[0].sop_instance_uid):
        own = one.frames[0]
        key = (one.series_instance_uid, own.position, own.temporal_position, own.acquired_s, own.trigger_ms)
        same = len(one.frames) == 1 and any(np.array_equal(kept[uid][1], stack) for uid in seen.get(key, ()))
        if same:
            twins.append(one.sop_instance_uid)
        else:
            kept[one.sop_instance_uid] = (one, stack)
            seen.setdefault(key, []).append(one.sop_instance_uid)
    return kept, twins


def _normal(kept: _Kept, ref: FrameRef) -> NDArray[np.float64]:
    own = kept[ref.sop_instance_uid][0].frames[ref.frame]
    return np.cross(own.orientation[:3], own.orientation[3:])


def _plane(ref: FrameRef, kept: _Kept, normal: NDArray[np.float64]) -> Plane:
    facts, stack = kept[ref.sop_instance_uid]
    own = facts.frames[ref.frame]
    pixels = stack[ref.frame] if stack.ndim == 3 else stack
    return Plane(pixels, ref.frame, facts, own, float(np.dot(normal, own.position)))


def _step(phase: Sequence[Plane]) -> tuple[float, bool]:
    """Distance between slices in mm, and whether it is the same everywhere."""
    gaps = np.diff([p.along_mm for p in phase])
    step = float(np.median(gaps))
    return step, bool(np.all(np.abs(gaps - step) < 0.1 * step + 0.05))


def _times(phases: Sequence[Sequence[Plane]]) -> tuple[float | None, ...]:
    """Seconds of each phase after the first: from acquisition times, else trigger times."""
    for found in (
        [[p.own.acquired_s for p in phase] for phase in phases],
        [[None if p.own.trigger_ms is None else p.own.trigger_ms / 1e3 for p in phase] for phase in phases],
    ):
        starts = [min((v for v in phase if v is not None), default=None) for phase in found]
        known = [s for s in starts if s is not None]
        if len(known) == len(phases) and len(set(known)) == len(known):
            return tuple((s - known[0]) % _DAY_S for s in known)  # a time without a date jumps back at midnight
    return tuple(None for _ in phases)
