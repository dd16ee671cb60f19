"""Chooses which stored image fills which slot of which side, and says of every other image why not. Does no I/O.

Only coded attributes count, never descriptions. The answer depends on the set of images, not on their order. A wrong
side is worse than no answer: an image that states two sides stops the case.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from casework.modelspec import SLOTS
from casework.preprocess.dynamic import Dynamic, find_dynamic
from casework.preprocess.facts import InstanceFacts
from casework.preprocess.names import contradict
from casework.result import Finding, Side

CHOSEN = ""
_TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1."  # volumes and projections (PS3.4 B.5)
_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
_NO_VIEW = frozenset({"STEREO_SCOUT", "SCOUT", "TOMO_SCOUT", "SPECIMEN", "STEREO", "LOCALIZER"})
_MIN_PIXELS = 96  # shorter side; smaller ones are icons
_SOURCES_PER_SIDE = len(SLOTS["US"])


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes into the network.

    mammograms: (side, slot) -> SOP Instance UID. ultrasound: side -> SOP Instance UIDs, the best first. mri: the dynamic
    series, or None. reasons: every SOP Instance UID -> "" when it is used, else a code of casework.reasons. stop: the
    code for which the case must not run at all, else "".
    """

    mammograms: Mapping[tuple[Side, str], str]
    ultrasound: Mapping[Side, tuple[str, ...]]
    mri: Dynamic | None
    reasons: Mapping[str, str]
    stop: str

    @property
    def empty(self) -> bool:
        """Whether no image is used."""
        return not self.mammograms and not self.ultrasound and self.mri is None

    def findings(self) -> tuple[Finding, ...]:
        """The reasons of all images that are not used, in the order of their UIDs."""
        return tuple(Finding(code, uid) for uid, code in sorted(self.reasons.items()) if code != CHOSEN)


def choose(facts: Sequence[InstanceFacts], without: Mapping[str, str] | None = None) -> Plan:
    """Choose the images of one patient.

    without: SOP Instance UID -> code of images that turned out to be unusable (undecodable, blank); the next best takes
    their place and their code is their reason.
    """
    without = without or {}
    reasons = {f.sop_instance_uid: without.get(f.sop_instance_uid, "IMAGE_KIND_NOT_USED") for f in facts}
    usable = [f for f in facts if f.sop_instance_uid not in without]
    stop = _conflict(usable)
    mammograms = _choose_mammograms([f for f in usable if f.modality == "MG"], reasons)
    ultrasound = _choose_ultrasound([f for f in usable if f.modality == "US"], reasons)
    mri = _choose_mri([f for f in usable if f.modality == "MR"], reasons)
    return Plan(mammograms, ultrasound, mri, reasons, stop)


def _conflict(facts: Sequence[InstanceFacts]) -> str:
    """The identity and side checks that stop a case."""
    if any(len({v for v in values if v}) > 1 for values in _identities(facts)) or _two_names(facts):
        return "PATIENT_IDENTITY_CONFLICT"
    if any(f.laterality_conflict and f.modality in ("MG", "US") for f in facts):
        return "LATERALITY_CONFLICT"
    return ""


def _identities(facts: Sequence[InstanceFacts]) -> tuple[list[str], list[str]]:
    """Birth dates, and sexes; O (other) says nothing."""
    births = [f.patient_birth_date for f in facts]
    sexes = [f.patient_sex for f in facts if f.patient_sex in ("F", "M")]
    return births, sexes


def _two_names(facts: Sequence[InstanceFacts]) -> bool:
    """Names that can't be of one person, unless both stand beside the (same) birth date.

    IDs such as ANONYMOUS or 0 are used for many patients, mostly without a birth date.
    """
    people = sorted({(f.patient_name, bool(f.patient_birth_date)) for f in facts if f.patient_name})
    return any(contradict(a, b) for (a, born), (b, too) in combinations(people, 2) if not (born and too))


# --- mammography --------------------------------------------------------------------------------------------------


def _choose_mammograms(facts: Sequence[InstanceFacts], reasons: dict[str, str]) -> dict[tuple[Side, str], str]:
    slots: dict[tuple[Side, str], list[InstanceFacts]] = defaultdict(list)
    for f in facts:
        reasons[f.sop_instance_uid] = _mammogram_fault(f)
        if reasons[f.sop_instance_uid] == CHOSEN:
            slots[Side(f.laterality), f.view].append(f)
    chosen: dict[tuple[Side, str], str] = {}
    for slot, candidates in sorted(slots.items()):
        presented = [f for f in candidates if not _for_processing(f)]
        best = _best_mammogram(presented)
        for f in candidates:
            twin = best is not None and best.study_date >= f.study_date  # an older day's image is none of a raw one
            raw_code = "NOT_FOR_PRESENTATION" if twin else "ONLY_FOR_PROCESSING"
            reasons[f.sop_instance_uid] = raw_code if _for_processing(f) else "IMAGE_NOT_CHOSEN"
        if best is not None:
            reasons[best.sop_instance_uid] = CHOSEN
            chosen[slot] = best.sop_instance_uid
    return chosen


def _mammogram_fault(f: InstanceFacts) -> str:
    """Why a mammogram can't be used at all, "" when it can."""
    if f.sop_class_uid.startswith(_TOMOSYNTHESIS) or f.frame_count != 1 or f.samples != 1:
        return "IMAGE_KIND_NOT_USED"
    if f.view_modifiers or _NO_VIEW & set(f.image_type) or min(f.rows, f.columns) < _MIN_PIXELS:
        return "IMAGE_KIND_NOT_USED"
    if f.laterality_conflict:
        return "LATERALITY_CONFLICT"
    if f.laterality not in ("R", "L"):
        return "LATERALITY_UNKNOWN"
    if f.view in SLOTS["MG"]:
        return CHOSEN
    return "IMAGE_KIND_NOT_USED" if f.view else "VIEW_UNKNOWN"


def _for_processing(f: InstanceFacts) -> bool:
    return f.presentation == "FOR PROCESSING" or f.sop_class_uid == _FOR_PROCESSING


def _best_mammogram(candidates: Sequence[InstanceFacts]) -> InstanceFacts | None:
    """The newest of those that are not much smaller than the largest (a repeat with a small field is a detail).

    Between days the detector may have changed, so only a far smaller image is a detail there.
    """
    if not candidates:
        return None
    largest = max(f.rows * f.columns for f in candidates)
    day = max(f.study_date for f in candidates if 4 * f.rows * f.columns >= largest)
    of_day = [f for f in candidates if f.study_date == day]
    largest = max(f.rows * f.columns for f in of_day)
    return max((f for f in of_day if 2 * f.rows * f.columns >= largest), key=_newness)


def _newness(f: InstanceFacts) -> tuple[str, float, int, str]:
    return f.study_date, f.content_s or 0.0, f.instance_number, f.sop_instance_uid


# --- ultrasound ---------------------------------------------------------------------------------------------------


def _choose_ultrasound(facts: Sequence[InstanceFacts], reasons: dict[str, str]) -> dict[Side, tuple[str, ...]]:
    """Up to three images of the newest study that shows the side; grey tissue images before colour flow, stills first."""
    sides: dict[Side, list[InstanceFacts]] = defaultdict(list)
    for f in facts:
        if min(f.rows, f.columns) < _MIN_PIXELS:
            continue
        if f.laterality_conflict:
            reasons[f.sop_instance_uid] = "LATERALITY_CONFLICT"
        elif f.laterality not in ("R", "L"):
            reasons[f.sop_instance_uid] = "LATERALITY_UNKNOWN"
        else:
            reasons[f.sop_instance_uid] = "IMAGE_NOT_CHOSEN"
            sides[Side(f.laterality)].append(f)
    chosen: dict[Side, tuple[str, ...]] = {}
    for side, candidates in sorted(sides.items()):
        study = max((f.study_date, f.study_instance_uid) for f in candidates)
        of_study = [f for f in candidates if (f.study_date, f.study_instance_uid) == study]
        best = sorted(of_study, key=_ultrasound_rank)[:_SOURCES_PER_SIDE]
        chosen[side] = tuple(f.sop_instance_uid for f in best)
        reasons.update(dict.fromkeys(chosen[side], CHOSEN))
    return chosen


def _ultrasound_rank(f: InstanceFacts) -> tuple[bool, bool, int, int, str]:
    flow = any(r.data_type == 2 for r in f.regions)
    return flow, f.frame_count > 1, f.series_number, f.instance_number, f.sop_instance_uid


# --- MRI ----------------------------------------------------------------------------------------------------------


def _choose_mri(facts: Sequence[InstanceFacts], reasons: dict[str, str]) -> Dynamic | None:
    dynamic = find_dynamic(facts)
    used = dynamic.instances if dynamic is not None else frozenset()
    day = max((f.study_date for f in facts if f.sop_instance_uid in used), default="")
    for f in facts:
        # A newer study without a dynamic series of its own must not vanish behind an older one's.
        rest = "IMAGE_NOT_CHOSEN" if dynamic is not None and f.study_date <= day else "PHASES_INCOMPLETE"
        reasons[f.sop_instance_uid] = CHOSEN if f.sop_instance_uid in used else rest
    return dynamic
