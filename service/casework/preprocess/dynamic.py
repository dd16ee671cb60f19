"""Finds the contrast phases of a dynamic breast MRI among all MR frames of a patient. Does no I/O.

Nothing is believed from descriptions or series limits: vendors put the phases into one series (by temporal position,
trigger time or only acquisition time), into one series each, or into the frames of Enhanced MR objects. What counts is
geometry: a phase is a set of parallel slices at different positions; a dynamic series is at least three phases at the
same positions, acquired one after the other with the same echo and repetition time. Where the order of the phases is not
certain, or the first of them is not the one before contrast, there is none: a later phase taken for the first one turns
uptake into its opposite.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from casework.preprocess.facts import FrameFacts, InstanceFacts

MIN_PHASES = 3
MIN_SLICES = 4
_MAX_PHASES = 200
_LONGEST_ECHO_MS = 15.0  # a dynamic series is T1-weighted gradient echo; diffusion and T2 take longer
_LONGEST_S = 7200.0  # from the first phase's start to the last one's
_HALF_DAY_S = 43_200.0
_OTHER_KINDS = frozenset(
    # Image Type after its second value: what has the geometry and times of a dynamic series and is none.
    {"LOCALIZER", "ADC", "DIFFUSION", "TRACEW", "FA", "MIP", "PROJECTION IMAGE", "SUB", "SUBTRACTION"}
    | {"FAT", "F", "IN_PHASE", "IP", "OUT_PHASE", "OPP_PHASE", "OP", "FAT_FRACTION", "FF", "WATER_FRACTION", "WF"}
    | {"PHASE", "PHASE MAP", "P", "REAL", "R", "IMAGINARY", "I"}
)
_AFTER_CONTRAST = frozenset({"POST_CONTRAST", "DELAYED", "STEADY_STATE"})  # Contrast/Bolus Agent Phase (PS3.3 C.8.13.5)


@dataclass(frozen=True, slots=True, order=True)
class FrameRef:
    """One frame: 0-based index within an instance."""

    sop_instance_uid: str
    frame: int


@dataclass(frozen=True, slots=True)
class Dynamic:
    """A dynamic series: phases in order of time, each a stack of frames in order of position (the same in each)."""

    study_instance_uid: str
    phases: tuple[tuple[FrameRef, ...], ...]

    @property
    def instances(self) -> frozenset[str]:
        """The SOP Instance UIDs that it is made of."""
        return frozenset(ref.sop_instance_uid for phase in self.phases for ref in phase)


@dataclass(frozen=True, slots=True)
class _Frame:
    ref: FrameRef
    own: FrameFacts
    of: InstanceFacts
    normal: tuple[float, ...]
    place_mm: float  # along the normal


@dataclass(frozen=True, slots=True)
class _Stack:
    """One phase: frames by position; `order` is its number within its series, as its series counts phases."""

    series_uid: str
    order: int
    frames: Mapping[float, _Frame]

    @property
    def start_s(self) -> float | None:
        """When it was begun, None when that is not stated."""
        return min((f.own.acquired_s for f in self.frames.values() if f.own.acquired_s is not None), default=None)

    @property
    def trigger_ms(self) -> float:
        """The first trigger time, 0 when that is not stated."""
        return min(f.own.trigger_ms or 0.0 for f in self.frames.values())

    @property
    def series_number(self) -> int:
        """The Series Number."""
        return min(f.of.series_number for f in self.frames.values())


def find_dynamic(facts: Sequence[InstanceFacts]) -> Dynamic | None:
    """The best dynamic series of these MR instances, None when there is none with MIN_PHASES phases.

    The newest study wins, then more phases, then more slices; the answer does not depend on the order of `facts`.
    """
    clusters: dict[Hashable, list[_Frame]] = defaultdict(list)
    for instance in facts:
        for frame in _usable(instance):
            clusters[_geometry(frame)].append(frame)
    found = [dynamic for frames in clusters.values() for dynamic in _dynamics(frames)]
    if not found:
        return None
    date = {f.study_instance_uid: f.study_date for f in facts}
    return max(found, key=lambda d: (date[d.study_instance_uid], len(d.phases), len(d.phases[0]), d.phases))


def why_not(instance: InstanceFacts) -> str:
    """Why an instance can't be part of a dynamic series, whatever else there is; "" when it can."""
    kinds = sorted(_OTHER_KINDS & set(instance.image_type[2:]))
    b_values = sorted({f.b_value for f in instance.frames if f.b_value})
    if "DERIVED" in instance.image_type[:1] or kinds:
        return f"image type {' '.join(kinds) or 'DERIVED'}"
    if instance.samples != 1:
        return "colour"
    if b_values and all(f.b_value for f in instance.frames):
        return f"diffusion, b {b_values[-1]:g}"
    if "EP" in instance.scanning_sequence:  # many vendors state the b-value of diffusion in private attributes only
        return "echo planar"
    if (instance.echo_time_ms or 0.0) > _LONGEST_ECHO_MS:
        return f"echo time {instance.echo_time_ms:g} ms"
    return "" if any(len(f.position) == 3 and len(f.orientation) == 6 for f in instance.frames) else "no plane"


def _usable(instance: InstanceFacts) -> Iterable[_Frame]:
    """Original grey frames of a short gradient echo, with a plane and without diffusion weighting."""
    if why_not(instance):
        return
    for n, own in enumerate(instance.frames[: instance.frame_count]):
        if len(own.position) == 3 and len(own.orientation) == 6 and not own.b_value:
            across = np.cross(own.orientation[:3], own.orientation[3:])
            length = float(np.linalg.norm(across))
            if length > 0.5:
                normal = tuple(round(float(v), 3) + 0.0 for v in across / length)
                place = round(float(np.dot(across / length, own.position)), 1)
                yield _Frame(FrameRef(instance.sop_instance_uid, n), own, instance, normal, place)


def _geometry(frame: _Frame) -> Hashable:
    """What all phases of a dynamic series share. In-plane origin too: fat-water pairs differ in echo time only."""
    own, of = frame.own, frame.of
    rows, columns = np.array(own.orientation[:3]), np.array(own.orientation[3:])
    origin = (round(float(rows @ own.position)), round(float(columns @ own.position)))
    return (
        of.study_instance_uid,
        of.frame_of_reference,  # positions of two of them say nothing about each other (PS3.3 C.7.4.1)
        of.rows,
        of.columns,
        tuple(round(v, 2) for v in frame.normal),
        tuple(round(v, 2) for v in own.spacing_mm),
        origin,
        of.echo_time_ms is not None and round(of.echo_time_ms, 1),
        of.repetition_time_ms is not None and round(of.repetition_time_ms, 1),
    )


def _dynamics(frames: list[_Frame]) -> list[Dynamic]:
    """The dynamic series among frames of one geometry, at most one for each range of positions."""
    by_series: dict[str, list[_Frame]] = defaultdict(list)
    for frame in _past_midnight(frames):
        by_series[frame.of.series_instance_uid].append(frame)
    stacks = [s for _, members in sorted(by_series.items()) for s in _stacks(members)]
    found = []
    for group in _overlapping(stacks):
        whole = _whole_phases(_in_time(group))
        if MIN_PHASES <= len(whole) <= _MAX_PHASES:
            shared = sorted(set.intersection(*(set(s.frames) for s in whole)))
            phases = tuple(tuple(stack.frames[place].ref for place in shared) for stack in whole)
            found.append(Dynamic(frames[0].of.study_instance_uid, phases))
    return found


def _past_midnight(frames: list[_Frame]) -> list[_Frame]:
    """Times that have no date of their own jump back at midnight: those after it get a day more."""
    times = [f.own.acquired_s for f in frames if f.own.acquired_s is not None]
    if not times or max(times) - min(times) <= _HALF_DAY_S:
        return frames
    middle = min(times) + _HALF_DAY_S

    def later(frame: _Frame) -> _Frame:
        at = frame.own.acquired_s
        if at is None or at >= middle:
            return frame
        return replace(frame, own=replace(frame.own, acquired_s=at + 2 * _HALF_DAY_S))

    return [later(f) for f in frames]


def _in_time(stacks: list[_Stack]) -> list[_Stack]:
    """Stacks in the order of their acquisition; none when that is not certain.

    Between series the start of acquisition decides, then the Series Number; within a series its own count of phases.
    """
    starts = {s.start_s for s in stacks}
    if None in starts and len(starts) > 1 and len({s.series_uid for s in stacks}) > 1:
        return []
    known = [s for s in starts if s is not None]
    if known and max(known) - min(known) > _LONGEST_S:
        return []
    whens = {id(s): (0.0 if None in starts else s.start_s or 0.0, s.trigger_ms) for s in stacks}
    ordered = sorted(stacks, key=lambda s: (*whens[id(s)], s.series_number, s.order))
    timed = len(set(whens.values())) > 1
    for one, after in pairwise(ordered):
        if one.series_uid == after.series_uid:
            if one.order >= after.order:
                return []  # the series counts its phases in another order than that of their times
        elif whens[id(one)] == whens[id(after)] and (timed or one.series_number == after.series_number):
            return []  # acquired at the same time: not one after the other
    return ordered if ordered and _is_before_contrast(ordered[0]) else []


def _is_before_contrast(first: _Stack) -> bool:
    """Whether nothing says that a phase before this one is missing."""
    positions = [f.own.temporal_position for f in first.frames.values()]
    if any(f.own.contrast_phase in _AFTER_CONTRAST for f in first.frames.values()):
        return False
    return not all(p is not None and p > 1 for p in positions)  # some vendors count from 0


def _overlapping(stacks: list[_Stack]) -> list[list[_Stack]]:
    """Stacks that share positions, together: both breasts may be scanned one beside the other."""
    groups: list[tuple[set[float], list[_Stack]]] = []
    for stack in stacks:
        places, members = set(stack.frames), [stack]
        apart = []
        for other in groups:
            if other[0] & places:
                places |= other[0]
                members += other[1]
            else:
                apart.append(other)
        groups = [*apart, (places, members)]
    return [members for _, members in groups]


def _whole_phases(stacks: list[_Stack]) -> list[_Stack]:
    """The phases, in order of time, when all of them cover the usual positions; else none.

    Only at the end may phases be cut off (a scan that was stopped). Leaving out an earlier one would move the others:
    the first contrast phase would be taken for the one before contrast.
    """
    if not stacks:
        return []
    counts = Counter(frozenset(s.frames) for s in stacks)
    usual = max(counts, key=lambda places: (counts[places], len(places), sorted(places)))
    enough = [_covers(usual, set(s.frames)) for s in stacks]
    while enough and not enough[-1]:
        enough.pop()
    if not all(enough) or not enough:
        return []
    kept = stacks[: len(enough)]
    return kept if len(set.intersection(*(set(s.frames) for s in kept))) >= MIN_SLICES else []


def _covers(usual: frozenset[float], places: set[float]) -> bool:
    """At least nine of ten positions, or all but one."""
    longest = max(len(usual), len(places))
    return len(usual & places) >= min(0.9 * longest, longest - 1)


_KEYS: tuple[Callable[[_Frame], float | None], ...] = (
    lambda f: f.own.temporal_position,
    lambda f: f.own.trigger_ms,
    lambda f: f.own.acquired_s,
    lambda f: f.of.acquisition_number or None,
)
"""What may number the phases within one series, the most explicit first."""


def _stacks(frames: list[_Frame]) -> list[_Stack]:
    """Split one series into phases, each position at most once in a phase."""
    if max(Counter(f.place_mm for f in frames).values()) == 1:
        return [_stack(frames, 0)]
    for key in _KEYS:
        values = [key(f) for f in frames]
        if None in values:
            continue
        groups: dict[float, list[_Frame]] = defaultdict(list)
        for value, frame in zip(values, frames, strict=True):
            groups[value or 0.0].append(frame)
        if _is_partition(groups.values()):
            return [_stack(groups[value], n) for n, value in enumerate(sorted(groups))]
    return _by_turns(frames)


def _is_partition(groups: Iterable[list[_Frame]]) -> bool:
    """No position twice in a group, and the largest group covers the whole stack (slice times also differ, one by one)."""
    everywhere: set[float] = set()
    largest = 0
    for group in groups:
        places = {f.place_mm for f in group}
        if len(places) != len(group):
            return False
        everywhere |= places
        largest = max(largest, len(places))
    return largest >= min(0.9 * len(everywhere), len(everywhere) - 1)


def _by_turns(frames: list[_Frame]) -> list[_Stack]:
    """Without a usable number: the n-th time a position was acquired belongs to phase n.

    A position that was acquired less often lacks an unknown phase and is left out; when that is more than one in ten,
    nothing is certain and there are no phases.
    """
    counts = Counter(f.place_mm for f in frames)
    often = max(counts.values())
    whole = {place for place, count in counts.items() if count == often}
    if len(whole) < min(0.9 * len(counts), len(counts) - 1):
        return []
    turns: dict[int, list[_Frame]] = defaultdict(list)
    seen: Counter[float] = Counter()
    for frame in sorted((f for f in frames if f.place_mm in whole), key=_when):
        turns[seen[frame.place_mm]].append(frame)
        seen[frame.place_mm] += 1
    return [_stack(members, n) for n, members in sorted(turns.items())]


def _when(frame: _Frame) -> tuple[float, float, float, FrameRef]:
    own, of = frame.own, frame.of
    return (own.acquired_s or 0.0, own.trigger_ms or 0.0, float(of.instance_number), frame.ref)


def _stack(frames: list[_Frame], order: int) -> _Stack:
    return _Stack(frames[0].of.series_instance_uid, order, {f.place_mm: f for f in frames})
