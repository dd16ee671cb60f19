"""The input gate: every check of casework.checks on what a case holds, measured and not assumed. Does no I/O.

What is asked of the headers comes from the facts, what is asked of the pixels from the notes of the preparation, what the
model was trained on from its manifest. The distance to the training distribution is known only after the encoders have
run; `with_distance` adds it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations

from casework.checks import ROWS, Row, Severity
from casework.modelspec import SLOTS, TrainedOn
from casework.preprocess.facts import InstanceFacts
from casework.preprocess.names import contradict, other_given
from casework.preprocess.prepared import PreparedImage
from casework.preprocess.quality import CLIPPED, MOTION_MM
from casework.result import Check, Finding, Side

_CLEAR_WALL = (
    1.5  # the breast at one edge so many times as tall as at the other: real and phantom mammograms have 4.9 or more
)
_MONTH = 31  # days: treatment may lie between studies that are further apart
Place = tuple[Side, str, str]  # side, modality, slot


@dataclass(frozen=True, slots=True)
class Seen:
    """What the gate looks at.

    reasons: SOP Instance UID -> "" when used, else a code. remarks: of the preparation; before: what intake and the
    PACS's count said; enough: whether any side fulfils the model's `requires`; stop: the plan's, for which nothing was
    prepared.
    """

    images: Mapping[Place, PreparedImage]
    facts: Mapping[str, InstanceFacts]
    reasons: Mapping[str, str]
    remarks: tuple[Finding, ...]
    before: tuple[Finding, ...]
    enough: bool
    stop: str
    trained: TrainedOn

    def used(self, modality: str = "") -> list[InstanceFacts]:
        """The facts of the images that are read, in the order of their UIDs."""
        uids = sorted({uid for i in self.images.values() for uid in i.sources})
        found = [self.facts[uid] for uid in uids if uid in self.facts]
        return [f for f in found if modality in ("", f.modality)]

    def sides(self, modality: str) -> list[Side]:
        """The sides that have an image of a modality."""
        return [s for s in Side if any((s, modality, slot) in self.images for slot in SLOTS[modality])]


Found = tuple[list[Finding], str]  # findings, value; the value "?" means that it can't be known


def assess(seen: Seen, severity: Mapping[str, Severity]) -> tuple[Check, ...]:
    """One check for each row of the table, in its order. severity: casework.checks.severities."""
    told = _told(seen)
    checks = []
    for row in ROWS:
        if seen.stop and row.code not in _OF_HEADERS:
            checks.append(Check(row.code, Severity.NOT_AVAILABLE.value))
            continue
        special = _SPECIAL.get(row.code)
        found, value = special(seen) if special is not None else ([], "")
        mine = [f for f in told if f.code in row.codes]
        checks.append(_check(row, [*found, *mine], value, severity))
    return tuple(checks)


def with_distance(
    checks: Sequence[Check], distances: Mapping[str, float], severity: Mapping[str, Severity]
) -> tuple[Check, ...]:
    """The checks with INPUT_UNUSUAL answered. distances: modality -> the largest of the sides, in units of the limit."""
    if not distances:
        return tuple(checks)
    found = [Finding("INPUT_UNUSUAL", m, f"{v:.2f}") for m, v in distances.items() if v > 1.0]
    value = ", ".join(f"{m} {v:.2f}" for m, v in distances.items())
    row = next(r for r in ROWS if r.code == "INPUT_UNUSUAL")
    return tuple(_check(row, found, value, severity) if c.code == row.code else c for c in checks)


def stops(checks: Sequence[Check]) -> tuple[str, ...]:
    """The codes of the checks that stop, the gravest first."""
    return tuple(c.code for c in checks if c.severity == Severity.STOP)


def told_by(checks: Sequence[Check]) -> tuple[Finding, ...]:
    """What a report says: the findings of all checks that did not pass."""
    return tuple(dict.fromkeys(f for c in checks for f in c.findings))


def _check(row: Row, found: Sequence[Finding], value: str, severity: Mapping[str, Severity]) -> Check:
    if found:
        return Check(row.code, severity[row.code].value, value.strip("?"), tuple(dict.fromkeys(found)))
    unknown = value == "?" or (row.code == "INPUT_UNUSUAL" and not value)
    return Check(row.code, (Severity.NOT_AVAILABLE if unknown else Severity.PASS).value, value.strip("?"))


def _told(seen: Seen) -> list[Finding]:
    """The reasons of images that were left out, and the remarks of those that were not.

    A dynamic series is one remark, not one for each slice.
    """
    found = []
    for uid, code in sorted(seen.reasons.items()):
        of = seen.facts.get(uid)
        if code:
            found.append(Finding(code, uid if of is None or of.modality != "MR" else "MR"))
    return [*found, *(f for f in seen.remarks if f.code not in ("IMAGE_NOT_CHOSEN", "ORIENTATION_UNEXPECTED"))]


# --- checks that need more than a reason ------------------------------------------------------------------------


def _identity(seen: Seen) -> Found:
    return ([Finding(seen.stop)] if seen.stop == "PATIENT_IDENTITY_CONFLICT" else []), f"{len(seen.facts)} images"


def _names(seen: Seen) -> Found:
    names = sorted({f.patient_name for f in seen.facts.values() if f.patient_name})
    differ = any(contradict(a, b) or other_given(a, b) for a, b in combinations(names, 2))
    return ([Finding("NAMES_DIFFER")] if differ else []), f"{len(names)} spellings" if names else "?"


def _laterality(seen: Seen) -> Found:
    asked = [f for f in seen.facts.values() if f.modality in ("MG", "US")]
    left_out = {uid for uid, code in seen.reasons.items() if code != "LATERALITY_CONFLICT"}
    found = [
        Finding("LATERALITY_CONFLICT", f.sop_instance_uid)
        for f in asked
        if f.laterality_conflict and f.sop_instance_uid not in left_out
    ]
    return found, f"{len(asked)} images"


def _walls(seen: Seen) -> list[tuple[str, bool, str]]:
    """(SOP Instance UID, whether side and orientation agree and the pixels clearly don't, "as usual" or not)."""
    found = []
    for (side, modality, _), image in sorted(seen.images.items()):
        of = seen.facts.get(image.sources[0])
        if modality == "MG" and of is not None:
            usual = "right" if side is Side.RIGHT else "left"
            clear = float(image.notes.get("wall_ratio", "0")) >= _CLEAR_WALL
            against = of.chest_wall == usual != image.notes.get("chest_wall") and clear
            how = image.notes.get("orientation", "")
            # Orientation and pixels may agree with each other and with the other side.
            found.append((image.sources[0], against, "unexpected" if of.chest_wall not in ("", usual) else how))
    return found


def _pixels_side(seen: Seen) -> Found:
    walls = _walls(seen)
    ratios = [i.notes.get("wall_ratio", "") for (_, m, _), i in sorted(seen.images.items()) if m == "MG"]
    return [Finding("SIDE_PIXELS_CONFLICT", uid) for uid, against, _ in walls if against], ", ".join(ratios) or "?"


def _orientation(seen: Seen) -> Found:
    walls = _walls(seen)
    found = [
        Finding("ORIENTATION_UNEXPECTED", uid) for uid, against, how in walls if how == "unexpected" and not against
    ]
    return found, f"{len(walls)} mammograms" if walls else "?"


def _enough(seen: Seen) -> Found:
    return ([] if seen.enough else [Finding("NO_USABLE_IMAGE")]), f"{len(seen.images)} images"


def _implant(seen: Seen) -> Found:
    mammograms = [f for f in seen.facts.values() if f.modality == "MG"]
    marked = [f.sop_instance_uid for f in mammograms if f.implant or "implant displaced" in f.view_modifiers]
    found = [] if seen.trained.implants else [Finding("IMPLANT_PRESENT", uid) for uid in sorted(marked)]
    return found, f"{len(marked)} of {len(mammograms)}" if mammograms else "?"


def _modalities(seen: Seen) -> Found:
    found = []
    there = {f.laterality for u, f in seen.facts.items() if seen.reasons.get(u) == "MR_SIDE_NOT_READ"}
    for modality in SLOTS:
        without = [s for s in Side if s not in seen.sides(modality)]
        if modality == "MR" and there:
            without = [s for s in without if s.value not in there]
        if len(without) == len(Side):
            found.append(Finding("MODALITY_MISSING", modality))
        else:
            found += [Finding("MODALITY_MISSING", modality, side.value) for side in without]
    return found, ", ".join(f"{m} {''.join(seen.sides(m)) or '-'}" for m in SLOTS)


def _views(seen: Seen) -> Found:
    found = [
        Finding("VIEW_MISSING", side.value, view)
        for side in seen.sides("MG")
        for view in SLOTS["MG"]
        if (side, "MG", view) not in seen.images
    ]
    there = [f"{s.value} {v}" for s in Side for v in SLOTS["MG"] if (s, "MG", v) in seen.images]
    return found, ", ".join(there) or "?"


def _synthetic(seen: Seen) -> Found:
    return [Finding("SYNTHETIC_USED", f.sop_instance_uid) for f in seen.used("MG") if f.synthetic], ""


def _phases(seen: Seen) -> Found:
    """A study with MR images of which none is read, unless an older or another one of that day stands for it."""
    used = seen.used("MR")
    day = max((f.study_date for f in used), default="")
    asked = [f for f in seen.facts.values() if f.modality == "MR" and f.breast is not False]
    studies = {(f.study_instance_uid, f.study_date) for f in asked}
    read = {f.study_instance_uid for f in used}
    lost = [s for s, date in studies if s not in read and (not used or date > day)]
    phases = {i.notes.get("phases", "") for (_, m, _), i in seen.images.items() if m == "MR"} - {""}
    return ([Finding("PHASES_INCOMPLETE", "MR")] if lost else []), ", ".join(sorted(phases)) or "?"


def _measured(code: str, note: str, limits: Mapping[str, float]) -> Callable[[Seen], Found]:
    """A number of the preparation's notes against a limit a modality."""

    def look(seen: Seen) -> Found:
        found: dict[str, Finding] = {}
        worst: dict[str, float] = {}
        for (_, modality, _), image in sorted(seen.images.items()):
            if modality in limits and note in image.notes:
                value = float(image.notes[note])
                worst[modality] = max(value, worst.get(modality, 0.0))
                if value > limits[modality]:
                    subject = "MR" if modality == "MR" else image.sources[0]
                    found[subject] = Finding(code, subject, f"{value:g}")
        return list(found.values()), ", ".join(f"{m} {v:g}" for m, v in sorted(worst.items())) or "?"

    return look


def _spacing(seen: Seen) -> Found:
    values: dict[tuple[str, str], float] = {}
    for f in seen.used("MG"):
        if f.spacing_mm:
            values["MG", f.sop_instance_uid] = max(f.spacing_mm)
    for (_, modality, _), image in seen.images.items():
        if modality == "MR" and "spacing_mm" in image.notes:
            values["MR", "MR"] = max(float(v) for v in image.notes["spacing_mm"].split(","))
    ranges = seen.trained.spacing_mm
    known = {k: v for k, v in values.items() if k[0] in ranges}
    outside = [
        Finding("SPACING_UNUSUAL", subject, f"{v:.3f} mm")
        for (m, subject), v in sorted(known.items())
        if not ranges[m][0] <= v <= ranges[m][1]
    ]
    return outside, ", ".join(sorted({f"{m} {v:.3f}" for (m, _), v in known.items()})) or "?"


def _days(seen: Seen) -> Found:
    days = {m: sorted({f.study_date for f in seen.used(m)}) for m in SLOTS}
    found = [Finding("SEVERAL_DAYS", m, ", ".join(v)) for m, v in days.items() if len(v) > 1]
    return found, ", ".join(f"{m} {' '.join(v)}" for m, v in days.items() if v)


def _apart(seen: Seen) -> Found:
    days = sorted({day for f in seen.used() if (day := f.study_date).isdigit() and len(day) == 8})
    span = (_date(days[-1]) - _date(days[0])).days if days else 0
    return (
        [Finding("DAYS_APART", "", f"{days[0]} .. {days[-1]}")] if span > _MONTH else []
    ), f"{span} d" if days else "?"


def _date(day: str) -> datetime:
    try:
        return datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)  # no day: as far apart as can be


def _scanner(seen: Seen) -> Found:
    makers = seen.trained.manufacturers
    asked = {(f.modality, f.manufacturer) for f in seen.used() if f.modality in makers}
    found = [Finding("SCANNER_UNKNOWN", m, maker) for m, maker in sorted(asked) if maker not in makers[m]]
    return found, ", ".join(f"{m} {maker or '-'}" for m, maker in sorted(asked)) or "?"


def _age(seen: Seen) -> Found:
    ages = sorted({f.patient_age_years for f in seen.used() if f.patient_age_years is not None})
    span = seen.trained.age_years
    if span is None or not ages:
        return [], "?"
    outside = [a for a in ages if not span[0] <= a <= span[1]]
    return ([Finding("AGE_OUTSIDE", "", f"{outside[0]:.0f}")] if outside else []), ", ".join(f"{a:.0f}" for a in ages)


def _sex(seen: Seen) -> Found:
    stated = sorted({f.patient_sex for f in seen.used() if f.patient_sex})
    if not seen.trained.sexes or not stated:
        return [], "?"
    return [Finding("SEX_OUTSIDE", "", s) for s in stated if s not in seen.trained.sexes], ", ".join(stated)


def _count(seen: Seen) -> Found:
    short = [f for f in seen.before if f.code == "COUNT_INCOMPLETE"]
    return short, ", ".join(f.detail for f in short)


def _aside(seen: Seen) -> Found:
    return [f for f in seen.before if f.code != "COUNT_INCOMPLETE"], ""


_OF_HEADERS = (
    "PATIENT_IDENTITY_CONFLICT",
    "NAMES_DIFFER",
    "LATERALITY_CONFLICT",
    "IMPLANT_PRESENT",
)  # known when nothing is prepared
_SPECIAL: Mapping[str, Callable[[Seen], Found]] = {
    "PATIENT_IDENTITY_CONFLICT": _identity,
    "NAMES_DIFFER": _names,
    "LATERALITY_CONFLICT": _laterality,
    "SIDE_PIXELS_CONFLICT": _pixels_side,
    "ORIENTATION_UNEXPECTED": _orientation,
    "NO_USABLE_IMAGE": _enough,
    "IMPLANT_PRESENT": _implant,
    "MODALITY_MISSING": _modalities,
    "VIEW_MISSING": _views,
    "SYNTHETIC_USED": _synthetic,
    "PHASES_INCOMPLETE": _phases,
    "CLIPPED": _measured("CLIPPED", "clipped", CLIPPED),
    "MOTION_SEEN": _measured("MOTION_SEEN", "motion_mm", {"MR": MOTION_MM}),
    "SPACING_UNUSUAL": _spacing,
    "SEVERAL_DAYS": _days,
    "DAYS_APART": _apart,
    "SCANNER_UNKNOWN": _scanner,
    "AGE_OUTSIDE": _age,
    "SEX_OUTSIDE": _sex,
    "COUNT_INCOMPLETE": _count,
    "UID_CONFLICT": _aside,
}
