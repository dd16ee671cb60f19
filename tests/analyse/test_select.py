"""The choice of images: by what is coded, never by order or description, and with a reason for every image."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casework.preprocess.dynamic import find_dynamic
from casework.preprocess.facts import InstanceFacts, Region
from casework.preprocess.select import CHOSEN, choose
from casework.reasons import REASONS
from casework.result import Side
from tests.analyse.dicoms import MR_CLASS, US_CLASS, facts, plane

R, L = Side.RIGHT, Side.LEFT


def mg(uid: str, **known: Any) -> InstanceFacts:
    return facts(sop_instance_uid=uid, **known)


def us(uid: str, **known: Any) -> InstanceFacts:
    values = {"modality": "US", "sop_class_uid": US_CLASS, "view": "", "presentation": "", "rows": 480, "columns": 640}
    return facts(sop_instance_uid=uid, **(values | known))


def mr(uid: str, z: float, series: str = "s", frame: dict[str, Any] | None = None, **known: Any) -> InstanceFacts:
    values: dict[str, Any] = {
        "modality": "MR", "sop_class_uid": MR_CLASS, "laterality": "", "view": "", "presentation": "",
        "rows": 256, "columns": 256, "echo_time_ms": 2.0, "repetition_time_ms": 5.0,
    }  # fmt: skip
    return facts(
        sop_instance_uid=uid, series_instance_uid=series, frames=(plane(z, **(frame or {})),), **(values | known)
    )


def four_views() -> list[InstanceFacts]:
    return [mg(f"{side}{view}", laterality=side, view=view) for side in "RL" for view in ("CC", "MLO")]


def test_four_views_fill_four_slots() -> None:
    """A standard examination fills every mammography slot, and every image is chosen."""
    plan = choose(four_views())
    assert plan.mammograms == {(R, "CC"): "RCC", (R, "MLO"): "RMLO", (L, "CC"): "LCC", (L, "MLO"): "LMLO"}
    assert set(plan.reasons.values()) == {CHOSEN}
    assert not plan.stop


@pytest.mark.parametrize(
    ("known", "code"),
    [
        ({"laterality": ""}, "LATERALITY_UNKNOWN"),
        ({"laterality": "B"}, "LATERALITY_UNKNOWN"),
        ({"view": ""}, "VIEW_UNKNOWN"),
        ({"view": "ML"}, "IMAGE_KIND_NOT_USED"),
        ({"view_modifiers": ("spot",)}, "IMAGE_KIND_NOT_USED"),
        ({"view_modifiers": ("partial",)}, "IMAGE_KIND_NOT_USED"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "STEREO_SCOUT")}, "IMAGE_KIND_NOT_USED"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "TOMO_PROJ")}, "IMAGE_KIND_NOT_USED"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "TOMO", "PROJECTION")}, "IMAGE_KIND_NOT_USED"),
        ({"image_type": ("DERIVED", "PRIMARY", "SUBTRACTION")}, "IMAGE_KIND_NOT_USED"),
        ({"contrast_agent": True}, "IMAGE_KIND_NOT_USED"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.13.1.3", "frame_count": 60}, "SYNTHETIC_ONLY"),
        ({"rows": 64, "columns": 64}, "IMAGE_KIND_NOT_USED"),
        ({"samples": 3}, "IMAGE_KIND_NOT_USED"),
        ({"presentation": "FOR PROCESSING"}, "ONLY_FOR_PROCESSING"),
        ({"presentation": "", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.2.1"}, "ONLY_FOR_PROCESSING"),
        ({"modality": "CT"}, "IMAGE_KIND_NOT_USED"),
    ],
)
def test_what_can_not_be_used_is_left_out_with_its_reason(known: dict[str, Any], code: str) -> None:
    """A lone image that the model can't use fills nothing and says why."""
    plan = choose([mg("a", **known)])
    assert plan.empty
    assert plan.reasons == {"a": code}
    assert REASONS[code]


def test_the_presented_twin_is_preferred() -> None:
    """Of a raw and a presented image of the same view the presented one is used, also when the raw one is newer."""
    plan = choose([mg("raw", presentation="FOR PROCESSING", content_s=9.0), mg("shown", content_s=1.0)])
    assert plan.mammograms == {(R, "CC"): "shown"}
    assert plan.reasons["raw"] == "NOT_FOR_PRESENTATION"


def test_a_repeat_replaces_the_older_image_but_a_detail_does_not() -> None:
    """The newest image of a view is used, unless it shows only a small part."""
    old, new, detail = mg("old", content_s=1.0), mg("new", content_s=2.0), mg("d", content_s=3.0, rows=512, columns=512)
    plan = choose([old, new, detail])
    assert plan.mammograms == {(R, "CC"): "new"}
    assert (plan.reasons["old"], plan.reasons["d"]) == ("IMAGE_NOT_CHOSEN", "IMAGE_NOT_CHOSEN")


def test_an_older_day_never_hides_what_is_newer() -> None:
    """A newer image of a smaller detector is used; a newer raw one says that it has no presented twin."""
    old = mg("old", study_date="20260101", rows=4096, columns=3328)
    smaller = mg("new", study_date="20260201", rows=2294, columns=1914)
    assert choose([old, smaller]).mammograms == {(R, "CC"): "new"}
    detail = mg("detail", study_date="20260201", rows=1024, columns=1024)
    assert choose([old, detail]).mammograms == {(R, "CC"): "old"}
    raw = mg("raw", study_date="20260201", presentation="FOR PROCESSING")
    plan = choose([old, raw])
    assert plan.mammograms == {(R, "CC"): "old"}
    assert plan.reasons["raw"] == "ONLY_FOR_PROCESSING"


def test_the_next_best_takes_the_place_of_one_that_can_not_be_decoded() -> None:
    """An undecodable image keeps its own reason and its slot goes to the next."""
    plan = choose([mg("old", content_s=1.0), mg("new", content_s=2.0)], {"new": "PIXELS_UNDECODABLE"})
    assert plan.mammograms == {(R, "CC"): "old"}
    assert plan.reasons["new"] == "PIXELS_UNDECODABLE"


@pytest.mark.parametrize(
    "image", [mg("x", laterality="", laterality_conflict=True), us("x", laterality="", laterality_conflict=True)]
)
def test_two_sides_on_one_image_stop_the_case(image: InstanceFacts) -> None:
    """A wrong side is worse than no answer."""
    assert choose([*four_views(), image]).stop == "LATERALITY_CONFLICT"


@pytest.mark.parametrize("other", [{"patient_birth_date": "19700101"}, {"patient_sex": "M"}])
def test_two_identities_stop_the_case(other: dict[str, str]) -> None:
    """Birth dates or sexes that differ under one Patient ID stop the case; an unstated value or O says nothing."""
    known = {"patient_birth_date": "19600101", "patient_sex": "F"}
    assert not choose([mg("a", **known), us("b", patient_birth_date="", patient_sex="O")]).stop
    assert choose([mg("a", **known), us("b", **(known | other))]).stop == "PATIENT_IDENTITY_CONFLICT"


def test_a_side_in_doubt_on_what_is_never_read_stops_nothing() -> None:
    """A flipped tomosynthesis beside four good mammograms is left out as such."""
    volume = mg(
        "x", sop_class_uid="1.2.840.10008.5.1.4.1.1.13.1.3", frame_count=9, laterality="", laterality_conflict=True
    )
    plan = choose([*four_views(), volume])
    assert (plan.stop, plan.reasons["x"]) == ("", "TOMOSYNTHESIS_NOT_USED")


def test_two_patient_ids_are_two_patients() -> None:
    """Whoever joined them: what states two IDs makes no answer."""
    assert choose([mg("a", patient_id="A"), us("b", patient_id="B")]).stop == "PATIENT_IDENTITY_CONFLICT"
    assert choose([mg("a", patient_id="A"), us("b", patient_id="")]).stop == ""


def test_an_image_without_a_patient_id_is_left_out_where_others_have_one() -> None:
    """It may be anybody's: it is not read and its reason says so; where no image has an ID a person decided that before."""
    views = [replace(f, patient_id="A") for f in four_views()]
    plan = choose([*views[:3], replace(views[3], patient_id="")])
    assert not plan.stop
    assert plan.reasons["LMLO"] == "PATIENT_ID_MISSING"
    assert set(plan.mammograms) == {(R, "CC"), (R, "MLO"), (L, "CC")}
    assert len(choose(four_views()).mammograms) == 4


def test_placeholder_birth_dates_prove_no_identity() -> None:
    """Names without a part in common are two people unless a real birth date says otherwise."""
    for born, stop in (("19000101", "PATIENT_IDENTITY_CONFLICT"), ("", "PATIENT_IDENTITY_CONFLICT"), ("19620517", "")):
        people = [mg(name, patient_name=name, patient_birth_date=born) for name in ("Zhang^San", "Li^Si")]
        assert choose(people).stop == stop


def test_another_part_of_the_body_is_never_read() -> None:
    """Newer pictures of leg and liver take nobody's place, and their faults stop no breast case."""
    new: dict[str, Any] = {"study_instance_uid": "n", "study_date": "20290301", "breast": False}
    liver = [replace(f, sop_instance_uid=f"l{f.sop_instance_uid}", **new) for f in dynamic("temporal")]
    leg = [us("leg", **new), us("both", laterality="", laterality_conflict=True, **new)]
    plan = choose([us("right", laterality="R"), *dynamic("temporal"), *liver, *leg])
    assert plan.stop == ""
    assert plan.ultrasound == {R: ("right",)}
    assert plan.mri is not None
    assert plan.mri.instances == {f.sop_instance_uid for f in dynamic("temporal")}
    assert {plan.reasons[f.sop_instance_uid] for f in (*liver, *leg)} == {"BODY_PART_OTHER"}


def test_ultrasound_takes_the_newest_study_of_a_side_stills_first() -> None:
    """Three images of the newest study of each side: stills before cines, grey before colour flow."""
    flow = (Region(0, 0, 99, 99, 1, 2, None, None),)
    new = {"study_instance_uid": "n", "study_date": "20260301"}
    images = [
        us("old", study_instance_uid="o", study_date="20260101"),
        us("flow", regions=flow, instance_number=1, **new),
        us("cine", frame_count=40, instance_number=2, **new),
        us("still1", instance_number=3, **new),
        us("still2", instance_number=4, **new),
        us("left", laterality="L", study_instance_uid="o"),
        us("none", laterality="", **new),
    ]
    plan = choose(images)
    assert plan.ultrasound == {R: ("still1", "still2", "cine"), L: ("left",)}
    assert plan.reasons["none"] == "LATERALITY_UNKNOWN"
    assert plan.reasons["flow"] == plan.reasons["old"] == "IMAGE_NOT_CHOSEN"


# --- dynamic MRI ----------------------------------------------------------------------------------------------

PHASES, SLICES = 4, 6


def dynamic(kind: str) -> list[InstanceFacts]:
    """A dynamic series of PHASES x SLICES in one of the ways that vendors write it; UIDs say phase.slice."""
    grid = [(p, k) for p in range(PHASES) for k in range(SLICES)]
    if kind == "temporal":
        return [mr(f"{p}.{k}", 3.0 * k, frame={"temporal_position": p + 1}) for p, k in grid]
    if kind == "trigger":
        return [mr(f"{p}.{k}", 3.0 * k, frame={"trigger_ms": 90e3 * p}) for p, k in grid]
    if kind == "time":
        return [mr(f"{p}.{k}", 3.0 * k, frame={"acquired_s": 90.0 * p}) for p, k in grid]
    if kind == "slice times":  # each slice has its own time: no value is shared within a phase
        return [mr(f"{p}.{k}", 3.0 * k, frame={"acquired_s": 90.0 * p + k}) for p, k in grid]
    if kind == "instance numbers":
        return [mr(f"{p}.{k}", 3.0 * k, instance_number=p * SLICES + k) for p, k in grid]
    if kind == "series":
        return [
            mr(f"{p}.{k}", 3.0 * k, series=f"s{p}", series_number=p, frame={"acquired_s": 90.0 * p}) for p, k in grid
        ]
    if kind == "pre and post":
        return [
            mr(
                f"{p}.{k}",
                3.0 * k,
                series="pre" if p == 0 else "post",
                series_number=min(p, 1),
                frame={"acquired_s": 90.0 * p, "temporal_position": p or 1},
            )
            for p, k in grid
        ]
    frames = tuple(plane(3.0 * k, temporal_position=p + 1) for p, k in grid)
    return [facts(sop_instance_uid="multi", modality="MR", frames=frames, frame_count=len(grid), rows=256, columns=256)]


KINDS = ["temporal", "trigger", "time", "slice times", "instance numbers", "series", "pre and post", "enhanced"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_phases_of_a_dynamic_series_are_found(kind: str) -> None:
    """However the phases are numbered, they come out in order of time, each with its slices in order of position."""
    found = find_dynamic(dynamic(kind))
    assert found is not None
    refs = [[(r.sop_instance_uid, r.frame) for r in phase] for phase in found.phases]
    if kind == "enhanced":
        assert refs == [[("multi", p * SLICES + k) for k in range(SLICES)] for p in range(PHASES)]
    else:
        assert refs == [[(f"{p}.{k}", 0) for k in range(SLICES)] for p in range(PHASES)]


def test_other_series_are_not_part_of_it() -> None:
    """T2, diffusion, derived subtractions and localisers of the same examination stay outside."""
    base = dynamic("temporal")
    t2 = [mr(f"t2.{k}", 3.0 * k, series="t2", echo_time_ms=90.0) for k in range(SLICES)]
    dwi = [mr(f"d{b}.{k}", 3.0 * k, series="d", frame={"b_value": b}) for b in (50.0, 800.0) for k in range(SLICES)]
    sub = [
        mr(f"s{p}.{k}", 3.0 * k, series=f"u{p}", image_type=("DERIVED", "SECONDARY"))
        for p in range(3)
        for k in range(SLICES)
    ]
    plan = choose([*base, *t2, *dwi, *sub])
    assert plan.mri is not None
    assert plan.mri.instances == {f.sop_instance_uid for f in base}
    assert {plan.reasons[f.sop_instance_uid] for f in [*t2, *dwi, *sub]} == {"MR_NOT_DYNAMIC"}


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("enhanced", "pre and post")])
@pytest.mark.parametrize("phase", range(PHASES))
def test_a_lost_slice_costs_its_position_only(kind: str, phase: int) -> None:
    """Without one slice of one phase, that position is left out of all phases and no phase is."""
    found = find_dynamic([f for f in dynamic(kind) if f.sop_instance_uid != f"{phase}.3"])
    assert found is not None
    assert [[r.sop_instance_uid for r in p] for p in found.phases] == [
        [f"{p}.{k}" for k in range(SLICES) if k != 3] for p in range(PHASES)
    ]


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("enhanced", "pre and post")])
@pytest.mark.parametrize("phase", [0, 1, 2])
def test_a_phase_that_lacks_slices_makes_the_series_unusable(kind: str, phase: int) -> None:
    """No phase is skipped: an early phase without its slices would make the next one pass for it."""
    assert (
        find_dynamic([f for f in dynamic(kind) if f.sop_instance_uid not in {f"{phase}.{k}" for k in range(2)}]) is None
    )


def test_a_scan_that_was_stopped_keeps_its_whole_phases() -> None:
    """A last phase that is cut short is dropped, the phases before it are used."""
    found = find_dynamic([f for f in dynamic("temporal") if f.sop_instance_uid not in {"3.3", "3.4", "3.5"}])
    assert found is not None
    assert len(found.phases) == PHASES - 1


def test_two_breasts_scanned_side_by_side_are_two_series() -> None:
    """Stacks at other positions are no phases of this one."""
    other = [
        replace(
            f,
            sop_instance_uid="o" + f.sop_instance_uid,
            series_instance_uid="other",
            frames=(replace(f.frames[0], position=(-100.0, -100.0, f.frames[0].position[2] + 200)),),
        )
        for f in dynamic("temporal")
    ]
    found = find_dynamic([*dynamic("temporal"), *other])
    assert found is not None
    assert (len(found.phases), len(found.phases[0])) == (PHASES, SLICES)


def test_a_series_for_each_breast_names_the_one_that_is_not_read() -> None:
    """Sagittal series of both breasts: one is read, and every slice of the other says so."""
    right = [replace(f, laterality="R") for f in dynamic("temporal")]
    left = [
        replace(f, laterality="L", sop_instance_uid="o" + f.sop_instance_uid, series_instance_uid="other",
                frames=(replace(f.frames[0], position=(60.0, *f.frames[0].position[1:])),))
        for f in right
    ]  # fmt: skip
    plan = choose([*right, *left])
    assert plan.mri is not None
    unread = [f for f in (*right, *left) if f.sop_instance_uid not in plan.mri.instances]
    assert len(unread) == len(right)
    assert {plan.reasons[f.sop_instance_uid] for f in unread} == {"MR_SIDE_NOT_READ"}


def test_a_newer_study_without_a_dynamic_series_does_not_vanish_behind_an_older_one() -> None:
    """Last month's whole series is read, and today's broken one says what it lacks."""
    older = dynamic("temporal")
    newer = [
        replace(f, sop_instance_uid=f"n{f.sop_instance_uid}", study_instance_uid="2.9", study_date="20260201")
        for f in older
        if f.sop_instance_uid[0] in "01"
    ]
    plan = choose([*older, *newer])
    assert plan.mri is not None
    assert plan.mri.instances == {f.sop_instance_uid for f in older}
    assert {plan.reasons[f.sop_instance_uid] for f in newer} == {"PHASES_INCOMPLETE"}


def test_two_phases_are_not_enough() -> None:
    """A series with fewer than three phases is left out and says so."""
    plan = choose([f for f in dynamic("temporal") if f.sop_instance_uid[0] in "01"])
    assert plan.mri is None
    assert set(plan.reasons.values()) == {"PHASES_INCOMPLETE"}


# --- order ----------------------------------------------------------------------------------------------------

SIDES, VIEWS = st.sampled_from(["R", "L", "", "B"]), st.sampled_from(["CC", "MLO", "", "ML"])


def patient(draw: Callable[[st.SearchStrategy[Any]], Any]) -> list[InstanceFacts]:
    """Any mixture of mammograms, ultrasound and MRI."""
    images = [
        mg(
            f"mg{n}",
            laterality=draw(SIDES),
            view=draw(VIEWS),
            content_s=draw(st.sampled_from([None, 1.0, 2.0])),
            presentation=draw(st.sampled_from(["FOR PRESENTATION", "FOR PROCESSING", ""])),
            rows=draw(st.sampled_from([64, 512, 2048])),
        )
        for n in range(draw(st.integers(0, 8)))
    ]
    images += [
        us(
            f"us{n}",
            laterality=draw(SIDES),
            frame_count=draw(st.sampled_from([1, 30])),
            study_instance_uid=draw(st.sampled_from("ab")),
        )
        for n in range(draw(st.integers(0, 6)))
    ]
    if draw(st.booleans()):
        images += dynamic(draw(st.sampled_from(KINDS)))
    return images


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers())
def test_the_plan_does_not_depend_on_the_order_of_arrival(data: st.DataObject, seed: int) -> None:
    """Shuffled input gives the same plan; every image has exactly one reason; what is chosen says so."""
    images = patient(data.draw)
    plan = choose(images)
    shuffled = list(images)
    random.Random(seed).shuffle(shuffled)
    assert choose(shuffled) == plan
    assert set(plan.reasons) == {f.sop_instance_uid for f in images}
    used = {*plan.mammograms.values(), *(u for us_ in plan.ultrasound.values() for u in us_)}
    used |= plan.mri.instances if plan.mri is not None else set()
    assert {uid for uid, code in plan.reasons.items() if code == CHOSEN} == used
    for (side, slot), uid in plan.mammograms.items():
        (image,) = [f for f in images if f.sop_instance_uid == uid]
        assert (image.laterality, image.view) == (side.value, slot)


def test_the_plan_of_a_large_case_is_quick() -> None:
    """A case of 2,000 MR slices is planned in well under a second."""
    import time

    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    slices = [mr(f"{p}.{k}", 1.5 * k, frame={"temporal_position": p}) for p in range(10) for k in range(200)]
    random.Random(seed).shuffle(slices)
    began = time.process_time()
    plan = choose(slices)
    assert plan.mri is not None
    assert len(plan.mri.phases) == 10
    assert time.process_time() - began < 2.0
