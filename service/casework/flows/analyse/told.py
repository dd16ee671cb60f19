"""What a report says of images that are missing, left out or in doubt: nothing is dropped without a word. Does no I/O."""

from collections import Counter
from collections.abc import Iterable

from casework.engine import readout
from casework.flows.analyse.inputs import Ready
from casework.ledger import ExclusionRow, FindingRow, StudyRow
from casework.modelspec import SLOTS
from casework.result import Finding, Side

_TOLD = frozenset(
    # What a report says of images that were left out; the ledger keeps the reasons of all others.
    {"LATERALITY_UNKNOWN", "VIEW_UNKNOWN", "PHASES_INCOMPLETE", "ONLY_FOR_PROCESSING", "IMAGE_BLANK", "DECODER_CRASHED"}
    | {"PIXELS_UNDECODABLE", "DIMENSIONS_TOO_LARGE", "HEADER_MALFORMED", "TRANSFER_SYNTAX_NOT_ACCEPTED", "TRUNCATED"}
    | {"CONTRAST_NOT_SEEN", "SIDES_UNCERTAIN"}
)
_TOLD_OF_INTAKE = frozenset({"UID_CONFLICT", "PATIENT_IDENTITY_CONFLICT", "PATIENT_ID_MISSING", "ISSUER_ASSUMED"})


def modalities(ready: Ready, side: Side) -> tuple[str, ...]:
    """The modalities that gave an image of this side."""
    return tuple(m for m in SLOTS if any((side, m, slot) in ready.images for slot in SLOTS[m]))


def left_out(ready: Ready) -> tuple[Finding, ...]:
    """Every image that was not used, with its reason."""
    return tuple(Finding(code, uid) for uid, code in sorted(ready.reasons.items()) if code)


def told_findings(ready: Ready) -> tuple[Finding, ...]:
    """What the report says: missing modalities and views, images left out that a reader would expect, remarks.

    The dynamic series of one modality is one remark, not one for each slice.
    """
    missing: list[Finding] = []
    for modality in SLOTS:
        without = [s for s in readout.SIDES if modality not in modalities(ready, s)]
        if len(without) == len(readout.SIDES):
            missing.append(Finding("MODALITY_MISSING", modality))
        else:
            missing += [Finding("MODALITY_MISSING", modality, side.value) for side in without]
    for side in readout.SIDES:
        if "MG" in modalities(ready, side):
            views = [v for v in SLOTS["MG"] if (side, "MG", v) not in ready.images]
            missing += [Finding("VIEW_MISSING", side.value, view) for view in views]
    images: list[Finding] = []
    for finding in left_out(ready):
        of = ready.facts.get(finding.subject)
        told = finding if of is None or of.modality != "MR" else Finding(finding.code, "MR")
        if finding.code in _TOLD and told not in images:
            images.append(told)
    days = {
        m: sorted({ready.facts[i.sources[0]].study_date for (_, n, _), i in ready.images.items() if n == m})
        for m in SLOTS
    }
    mixed = [Finding("SEVERAL_DAYS", m, ", ".join(found)) for m, found in days.items() if len(found) > 1]
    remarks = [f for f in ready.findings if f.code not in ("IMAGE_NOT_CHOSEN",)]
    return tuple(dict.fromkeys([*missing, *images, *mixed, *remarks]))


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
