"""Chooses which stored image fills which slot of which side, and says of every other image why not. Does no I/O.

Only coded attributes count, never descriptions. The answer depends on the set of images, not on their order. A wrong
side is worse than no answer: an image that states two sides stops the case.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from casework.modelspec import SLOTS
from casework.preprocess.dynamic import Dynamic, find_dynamic, why_not
from casework.preprocess.facts import TOMOSYNTHESIS, InstanceFacts
from casework.preprocess.names import contradict
from casework.result import Finding, Side

CHOSEN = ""
_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
_NO_VIEW = frozenset(
    {"STEREO_SCOUT", "SCOUT", "TOMO_SCOUT", "SPECIMEN", "STEREO", "LOCALIZER"}
    | {"TOMO_PROJ", "SUBTRACTION", "LOW_ENERGY", "HIGH_ENERGY", "RECOMBINED"}  # single exposures, contrast mammography
)
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_PLACEHOLDERS = frozenset({"19010101", "19110101", "19700101", "20000101"})  # what systems write where none is known
_MIN_PIXELS = 96  # shorter side; smaller ones are icons
_SOURCES_PER_SIDE = len(SLOTS["US"])


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes into the network.

    mammograms: (side, slot) -> SOP Instance UID. ultrasound: side -> SOP Instance UIDs, the best first. mri: the dynamic
    series, or None. reasons: every SOP Instance UID -> "" when it is used, else a code of casework.reasons. stop: the
    code for which the case must not run at all, else "". details: SOP Instance UID -> what decided, as data: its rank
    among those that could fill the place, its phase, or what it is instead.
    """

    mammograms: Mapping[tuple[Side, str], str]
    ultrasound: Mapping[Side, tuple[str, ...]]
    mri: Dynamic | None
    reasons: Mapping[str, str]
    stop: str
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether no image is used."""
        return not self.mammograms and not self.ultrasound and self.mri is None

    def findings(self) -> tuple[Finding, ...]:
        """The reasons of all images that are not used, in the order of their UIDs."""
        return tuple(Finding(code, uid) for uid, code in sorted(self.reasons.items()) if code != CHOSEN)


def choose(
    facts: Sequence[InstanceFacts], without: Mapping[str, str] | None = None, *, synthetic: bool = False
) -> Plan:
    """Choose the images of one patient.

    synthetic: whether mammograms computed from tomosynthesis may stand in where there is no other. without: SOP Instance UID -> code of images that turned out to be unusable (undecodable, blank); the next best takes
    their place and their code is their reason.
    """
    without = without or {}
    reasons = {f.sop_instance_uid: without.get(f.sop_instance_uid, "IMAGE_KIND_NOT_USED") for f in facts}
    if any(f.patient_id for f in facts):  # of whom one image is that doesn't say it, nobody can prove
        nameless = {f.sop_instance_uid: "PATIENT_ID_MISSING" for f in facts if not f.patient_id}
        without, reasons = {**without, **nameless}, {**reasons, **nameless}
    usable = [f for f in facts if f.sop_instance_uid not in without]
    stop = _conflict(usable)
    notes = _Notes(reasons, {})
    mammograms = _choose_mammograms([f for f in usable if f.modality == "MG"], notes, synthetic=synthetic)
    ultrasound = _choose_ultrasound([f for f in usable if f.modality == "US"], notes)
    mri = _choose_mri([f for f in usable if f.modality == "MR"], notes)
    return Plan(mammograms, ultrasound, mri, reasons, stop, notes.details)


@dataclass(frozen=True, slots=True)
class _Notes:
    """Why each image is used or not, while the choice is made."""

    reasons: dict[str, str]
    details: dict[str, str]

    def put(self, f: InstanceFacts, code: str, detail: str = "") -> None:
        """Say it of one image."""
        self.reasons[f.sop_instance_uid] = code
        if detail:
            self.details[f.sop_instance_uid] = detail


def _conflict(facts: Sequence[InstanceFacts]) -> str:
    """The identity and side checks that stop a case."""
    if any(len({v for v in values if v}) > 1 for values in _identities(facts)) or _two_names(facts):
        return "PATIENT_IDENTITY_CONFLICT"
    if any(f.laterality_conflict and _readable(f) for f in facts):
        return "LATERALITY_CONFLICT"
    return ""


def _readable(f: InstanceFacts) -> bool:
    """Whether an image would be read if its side were certain: one that never is stops nothing."""
    if f.modality == "MG":
        return _mammogram_fault(f)[0] in (CHOSEN, "LATERALITY_CONFLICT")
    return f.modality == "US" and f.breast is not False


def _identities(facts: Sequence[InstanceFacts]) -> tuple[list[str], list[str], list[str]]:
    """Patient IDs, birth dates, and sexes; O (other) says nothing."""
    births = [f.patient_birth_date for f in facts]
    sexes = [f.patient_sex for f in facts if f.patient_sex in ("F", "M")]
    return [f.patient_id for f in facts], births, sexes


def _two_names(facts: Sequence[InstanceFacts]) -> bool:
    """Names that can't be of one person, unless both stand beside the (same) birth date.

    IDs such as ANONYMOUS or 0 are used for many patients, mostly without a birth date or with one that means "unknown".
    """
    people = sorted({(f.patient_name, _born(f.patient_birth_date)) for f in facts if f.patient_name})
    return any(contradict(a, b) for (a, born), (b, too) in combinations(people, 2) if not (born and too))


def _born(date: str) -> bool:
    """Whether a birth date is stated that tells one person from another."""
    return "1900" < date[:4] < "2100" and date not in _PLACEHOLDERS


# --- mammography --------------------------------------------------------------------------------------------------


def _choose_mammograms(
    facts: Sequence[InstanceFacts], notes: _Notes, *, synthetic: bool
) -> dict[tuple[Side, str], str]:
    """The best image of each place: full field for presentation, else computed from tomosynthesis where that may be."""
    slots: dict[tuple[Side, str], list[InstanceFacts]] = defaultdict(list)
    volumes: list[InstanceFacts] = []
    for f in facts:
        code, detail = _mammogram_fault(f)
        notes.put(f, code, detail)
        if code == CHOSEN:
            slots[Side(f.laterality), f.view].append(f)
        elif code == "TOMOSYNTHESIS_NOT_USED":
            volumes.append(f)
    chosen: dict[tuple[Side, str], str] = {}
    for slot, candidates in sorted(slots.items()):
        best = _fill(candidates, notes, synthetic=synthetic)
        if best is not None:
            chosen[slot] = best.sop_instance_uid
    for f in volumes:  # a view of which there is nothing else must not vanish
        if f.laterality in ("R", "L") and f.view in SLOTS["MG"] and (Side(f.laterality), f.view) not in slots:
            notes.put(f, "SYNTHETIC_ONLY", "tomosynthesis")
    return chosen


def _fill(candidates: Sequence[InstanceFacts], notes: _Notes, *, synthetic: bool) -> InstanceFacts | None:
    """The image for one place, with a word on each of the candidates."""
    presented = [f for f in candidates if not _for_processing(f)]
    full = [f for f in presented if not f.synthetic]
    ranked = _ranked(full or (presented if synthetic else []))
    best = ranked[0] if ranked else None
    for f in candidates:
        if _for_processing(f):
            twin = best is not None and best.study_date >= f.study_date  # an older day's image is none of a raw one
            notes.put(f, "NOT_FOR_PRESENTATION" if twin else "ONLY_FOR_PROCESSING", "for processing")
        elif f.synthetic and f not in ranked:
            notes.put(f, "SYNTHETIC_NOT_USED" if full else "SYNTHETIC_ONLY", "computed from tomosynthesis")
    for n, f in enumerate(ranked, 1):
        kind = "computed from tomosynthesis" if f.synthetic else "full field"
        rank = f"rank {n} of {len(ranked)}, {kind}, {f.study_date or 'no date'}, {f.rows} x {f.columns}"
        notes.put(f, CHOSEN if n == 1 else "IMAGE_NOT_CHOSEN", rank)
    return best


def _mammogram_fault(f: InstanceFacts) -> tuple[str, str]:
    """Why a mammogram can't be used at all, ("", "") when it can; and what it is instead."""
    if f.sop_class_uid.startswith(TOMOSYNTHESIS) or (f.frame_count > 1 and "TOMOSYNTHESIS" in f.image_type):
        return "TOMOSYNTHESIS_NOT_USED", f"{f.frame_count} frames"
    copied = f.sop_class_uid.startswith(_SECONDARY_CAPTURE) and (f.burned_in == "YES" or f.samples != 1)
    if copied:
        return "SCREEN_COPY", "secondary capture"
    kinds = [
        *f.view_modifiers,
        *sorted(_NO_VIEW & set(f.image_type)),
        *(["contrast agent"] if f.contrast_agent else []),
    ]
    kinds += ["TOMO", "PROJECTION"] if {"TOMO", "PROJECTION"} <= set(f.image_type) else []
    if f.frame_count != 1 or f.samples != 1 or kinds or min(f.rows, f.columns) < _MIN_PIXELS:
        return "IMAGE_KIND_NOT_USED", ", ".join(kinds) or f"{f.frame_count} x {f.rows} x {f.columns} x {f.samples}"
    if f.laterality_conflict:
        return "LATERALITY_CONFLICT", ""
    if f.laterality not in ("R", "L"):
        return "LATERALITY_UNKNOWN", ""
    if f.view in SLOTS["MG"]:
        return CHOSEN, ""
    if f.view:
        return "IMAGE_KIND_NOT_USED", f"view {f.view}"
    return "VIEW_CONFLICT" if f.view_conflict else "VIEW_UNKNOWN", ""


def _for_processing(f: InstanceFacts) -> bool:
    return f.presentation == "FOR PROCESSING" or f.sop_class_uid == _FOR_PROCESSING


def _ranked(candidates: Sequence[InstanceFacts]) -> list[InstanceFacts]:
    """The best first: the newest of those that are not much smaller than the largest (a repeat with a small field is a detail).

    Between days the detector may have changed, so only a far smaller image is a detail there.
    """
    if not candidates:
        return []
    largest = max(f.rows * f.columns for f in candidates)
    day = max(f.study_date for f in candidates if 4 * f.rows * f.columns >= largest)
    whole = max(f.rows * f.columns for f in candidates if f.study_date == day)

    def order(f: InstanceFacts) -> tuple[bool, bool, tuple[str, float, int, str]]:
        return f.study_date == day, 2 * f.rows * f.columns >= whole, _newness(f)

    return sorted(candidates, key=order, reverse=True)


def _newness(f: InstanceFacts) -> tuple[str, float, int, str]:
    return f.study_date, f.content_s or 0.0, f.instance_number, f.sop_instance_uid


# --- ultrasound ---------------------------------------------------------------------------------------------------


def _choose_ultrasound(facts: Sequence[InstanceFacts], notes: _Notes) -> dict[Side, tuple[str, ...]]:
    """Up to three images of the newest study that shows the side; grey tissue images before colour flow, stills first."""
    sides: dict[Side, list[InstanceFacts]] = defaultdict(list)
    for f in facts:
        if f.breast is False:
            notes.put(f, "BODY_PART_OTHER")
        elif min(f.rows, f.columns) < _MIN_PIXELS:
            notes.put(f, "IMAGE_KIND_NOT_USED", f"{f.rows} x {f.columns}")
        elif f.laterality_conflict:
            notes.put(f, "LATERALITY_CONFLICT")
        elif f.laterality not in ("R", "L"):
            notes.put(f, "LATERALITY_UNKNOWN")
        else:
            notes.put(f, "IMAGE_NOT_CHOSEN", f"study of {f.study_date or 'no date'}")
            sides[Side(f.laterality)].append(f)
    chosen: dict[Side, tuple[str, ...]] = {}
    for side, candidates in sorted(sides.items()):
        study = max((f.study_date, f.study_instance_uid) for f in candidates)
        of_study = [f for f in candidates if (f.study_date, f.study_instance_uid) == study]
        ranked = sorted(of_study, key=_ultrasound_rank)
        chosen[side] = tuple(f.sop_instance_uid for f in ranked[:_SOURCES_PER_SIDE])
        for n, f in enumerate(ranked, 1):
            kind = "colour flow" if _ultrasound_rank(f)[0] else "cine" if f.frame_count > 1 else "still"
            code = CHOSEN if n <= _SOURCES_PER_SIDE else "IMAGE_NOT_CHOSEN"
            notes.put(f, code, f"rank {n} of {len(ranked)}, {kind}")
    return chosen


def _ultrasound_rank(f: InstanceFacts) -> tuple[bool, bool, int, int, str]:
    flow = any(r.data_type == 2 for r in f.regions)
    return flow, f.frame_count > 1, f.series_number, f.instance_number, f.sop_instance_uid


# --- MRI ----------------------------------------------------------------------------------------------------------


def _choose_mri(facts: Sequence[InstanceFacts], notes: _Notes) -> Dynamic | None:
    dynamic = find_dynamic([f for f in facts if f.breast is not False])
    used: dict[str, int] = {}
    for n, phase in enumerate(dynamic.phases if dynamic is not None else (), 1):
        for ref in phase:
            used.setdefault(ref.sop_instance_uid, n)
    day = max((f.study_date for f in facts if f.sop_instance_uid in used), default="")
    sides = {f.laterality for f in facts if f.sop_instance_uid in used}
    for f in facts:
        other = why_not(f)
        if f.breast is False:
            notes.put(f, "BODY_PART_OTHER")
        elif f.sop_instance_uid in used and dynamic is not None:
            notes.put(
                f, CHOSEN, f"phase {used[f.sop_instance_uid]} of {len(dynamic.phases)}" if len(f.frames) == 1 else ""
            )
        elif other:
            notes.put(f, "MR_NOT_DYNAMIC", other)
        elif len(sides) == 1 and {*sides, f.laterality} == {"R", "L"}:
            notes.put(f, "MR_SIDE_NOT_READ", f"the series of side {min(sides)} was preferred")
        elif dynamic is not None and f.study_date <= day:
            notes.put(f, "IMAGE_NOT_CHOSEN", "another dynamic series was preferred, or it has fewer phases")
        else:  # a newer study without a dynamic series of its own must not vanish behind an older one's
            notes.put(f, "PHASES_INCOMPLETE")
    return dynamic
