"""What a report says of images that are missing, left out or in doubt: nothing is dropped without a word. Does no I/O."""

from collections import Counter
from collections.abc import Iterable

from casework.case import ALTERED
from casework.engine import readout
from casework.flows.analyse.inputs import Ready
from casework.ledger import ExclusionRow, FindingRow, InstanceRow, StudyRow
from casework.modelspec import SLOTS, ModelSpec
from casework.preprocess.gate import Seen
from casework.result import Choice, Finding, Side, SideResult

_TOLD_OF_INTAKE = ALTERED | {"PATIENT_IDENTITY_CONFLICT", "PATIENT_ID_MISSING", "ISSUER_ASSUMED", "ISSUER_UNCERTAIN"}


def modalities(ready: Ready, side: Side) -> tuple[str, ...]:
    """The modalities that gave an image of this side."""
    return tuple(m for m in SLOTS if any((side, m, slot) in ready.images for slot in SLOTS[m]))


def left_out(ready: Ready) -> tuple[Finding, ...]:
    """Every image that was not used, with its reason."""
    return tuple(Finding(code, uid) for uid, code in sorted(ready.reasons.items()) if code)


def seen(ready: Ready, before: tuple[Finding, ...], spec: ModelSpec) -> Seen:
    """What the gate looks at."""
    return Seen(
        images=ready.images,
        facts=ready.facts,
        reasons=ready.reasons,
        remarks=ready.findings,
        before=before,
        enough=any(readout.sufficient(modalities(ready, s), spec) for s in readout.SIDES),
        stop=ready.plan.stop,
        trained=spec.trained_on,
    )


def choices(ready: Ready, rows: Iterable[InstanceRow]) -> tuple[Choice, ...]:
    """Every image with its reason: images of one series that share a fate and its detail are one entry."""
    grouped: dict[tuple[str, str, str, str], list[str]] = {}
    for row in rows:
        of = row.header
        uid = of.sop_instance_uid
        key = (of.modality, of.series_instance_uid, ready.reasons.get(uid, ""), ready.plan.details.get(uid, ""))
        grouped.setdefault(key, []).append(uid)
    return tuple(Choice(*key, tuple(sorted(uids))) for key, uids in sorted(grouped.items()))


def furthest(sides: Iterable[SideResult]) -> dict[str, float]:
    """The largest distance to the training images of each modality over the sides."""
    found: dict[str, float] = {}
    for side in sides:
        for modality, value in side.distance.items():
            found[modality] = max(value, found.get(modality, 0.0))
    return found


def unstable(sides: Iterable[SideResult]) -> tuple[Finding, ...]:
    """The sides whose answer hangs on one modality."""
    return tuple(Finding("ANSWER_UNSTABLE", s.side.value) for s in sides if "ANSWER_UNSTABLE" in s.held_back)


def said_before(
    studies: Iterable[StudyRow], intake: Iterable[FindingRow], taken_out: Iterable[ExclusionRow] = ()
) -> tuple[Finding, ...]:
    """What is known before the analysis: images that never came, that were kept aside, that a person replaced or took out.

    The counts are compared as they are now: an image may have come after a finding said that it was missing.
    """
    short = [
        Finding("COUNT_INCOMPLETE", s.study_uid, f"{s.received + s.excluded} of {s.expected}")
        for s in studies
        if s.expected is not None and s.received + s.excluded < s.expected
    ]
    aside = [Finding(f.code, f.subject) for f in intake if f.code in _TOLD_OF_INTAKE]
    out = Counter((row.code, row.study_instance_uid) for row in taken_out)
    without = [Finding(code, uid, str(count)) for (code, uid), count in sorted(out.items())]
    return tuple(dict.fromkeys([*short, *aside, *without]))
