"""The order of contrast phases: certain, or there is no dynamic series. A wrong one hides what takes up contrast agent."""

from dataclasses import replace
from typing import Any

import pytest
from pydicom.dataset import Dataset

from casework.preprocess.dynamic import Dynamic, find_dynamic
from casework.preprocess.facts import InstanceFacts
from tests.analyse.dicoms import MR_CLASS, facts, plane

PHASES, SLICES = 4, 6


def slice_of(phase: int, k: int, series: str = "s", frame: dict[str, Any] | None = None, **known: Any) -> InstanceFacts:
    """One slice; its UID says series, phase and position."""
    values: dict[str, Any] = {
        "modality": "MR", "sop_class_uid": MR_CLASS, "laterality": "", "view": "", "presentation": "",
        "rows": 256, "columns": 256, "echo_time_ms": 2.0, "repetition_time_ms": 5.0, "scanning_sequence": ("GR",),
    }  # fmt: skip
    return facts(
        sop_instance_uid=f"{series}.{phase}.{k}",
        series_instance_uid=series,
        frames=(plane(3.0 * k, **(frame or {})),),
        **(values | known),
    )


def series(name: str = "s", per_phase: bool = False, first: int = 0, **frame: Any) -> list[InstanceFacts]:
    """Phases `first` to the last; values of `frame` are functions of the phase."""
    return [
        slice_of(
            p,
            k,
            f"{name}{p}" if per_phase else name,
            {keyword: of(p) for keyword, of in frame.items()},
            series_number=10 + p if per_phase else 10,
        )
        for p in range(first, PHASES)
        for k in range(SLICES)
    ]


def order(found: Dynamic | None) -> list[str]:
    assert found is not None
    return [phase[0].sop_instance_uid.split(".")[1] for phase in found.phases]


@pytest.mark.parametrize("per_phase", [False, True])
@pytest.mark.parametrize("numbered", [False, True])
def test_midnight_between_two_phases_changes_nothing(per_phase: bool, numbered: bool) -> None:
    """Times without a date of their own: 23:57, 23:59, 00:01, 00:03 come in this order."""
    frame: dict[str, Any] = {"acquired_s": lambda p: (86_220.0 + 120.0 * p) % 86_400}
    if numbered:
        frame["temporal_position"] = lambda p: p + 1
    assert order(find_dynamic(series(per_phase=per_phase, **frame))) == ["0", "1", "2", "3"]


def test_a_count_that_contradicts_the_times_is_believed_no_more_than_they_are() -> None:
    """Temporal positions that run against the acquisition times: nothing is certain."""
    counted: dict[str, Any] = {"temporal_position": lambda p: p + 1}
    assert find_dynamic(series(**counted, acquired_s=lambda p: 90.0 * p)) is not None
    assert find_dynamic(series(**counted, acquired_s=lambda p: -90.0 * p)) is None


@pytest.mark.parametrize("per_phase", [False, True])
def test_a_lost_first_phase_is_noticed(per_phase: bool) -> None:
    """Positions 2, 3, 4 without 1: the first contrast phase must not pass for the one before contrast."""
    counted: dict[str, Any] = {"temporal_position": lambda p: p + 1, "acquired_s": lambda p: 90.0 * p}
    assert find_dynamic(series(per_phase=per_phase, first=1, **counted)) is None
    from_zero: dict[str, Any] = {"temporal_position": lambda p: p, "acquired_s": lambda p: 90.0 * p}
    assert find_dynamic(series(per_phase=per_phase, first=1, **from_zero)) is not None, "some vendors count from 0"


def test_a_first_phase_after_contrast_is_none() -> None:
    """An Enhanced MR frame that says POST_CONTRAST is not the one before contrast."""
    phases: dict[str, Any] = {"acquired_s": lambda p: 90.0 * p}
    assert find_dynamic(series(**phases, contrast_phase=lambda _: "POST_CONTRAST")) is None
    assert find_dynamic(series(**phases, contrast_phase=lambda p: "POST_CONTRAST" if p else "PRE_CONTRAST")) is not None


def test_water_and_fat_of_one_acquisition_are_not_two_phases() -> None:
    """Dixon images have one geometry and one time; fat is used for nothing, and unmarked twins make nothing certain."""
    timed: dict[str, Any] = {"acquired_s": lambda p: 90.0 * p}
    water = [
        replace(f, image_type=("ORIGINAL", "PRIMARY", "DIXON", "WATER")) for f in series("w", per_phase=True, **timed)
    ]
    fat = [replace(f, image_type=("ORIGINAL", "PRIMARY", "DIXON", "FAT")) for f in series("f", per_phase=True, **timed)]
    found = find_dynamic([*water, *fat])
    assert found is not None
    assert found.instances == {f.sop_instance_uid for f in water}
    unmarked = series("a", per_phase=True, **timed) + series("b", per_phase=True, **timed)
    assert find_dynamic(unmarked) is None


def test_series_that_nothing_orders_are_no_phases() -> None:
    """Series of equal times and equal numbers would be ordered by their UIDs."""
    numbered = series(per_phase=True, acquired_s=lambda _: 36_000.0)
    assert order(find_dynamic(numbered)) == ["0", "1", "2", "3"]
    assert find_dynamic([replace(f, series_number=10) for f in numbered]) is None
    some = [
        replace(f, frames=(replace(f.frames[0], acquired_s=None),)) if f.series_number == 12 else f
        for f in series(per_phase=True, acquired_s=lambda p: 90.0 * p)
    ]
    assert find_dynamic(some) is None, "a series without a time has no place among those with one"


@pytest.mark.parametrize(
    "kind",
    [
        {"scanning_sequence": ("EP",), "echo_time_ms": None},
        {"scanning_sequence": ("SE", "EP"), "echo_time_ms": 60.0},
        {"echo_time_ms": 62.0},
        {"image_type": ("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE")},
        {"image_type": ("ORIGINAL", "PRIMARY", "P", "ND")},
    ],
)
def test_diffusion_with_private_b_values_is_no_dynamic_series(kind: dict[str, Any]) -> None:
    """Many volumes of one geometry, one after the other, and nothing standard says b: its echo or its kind does."""
    diffusion = [slice_of(p, k, "dwi", {"acquired_s": 20.0 * p}, **kind) for p in range(8) for k in range(SLICES)]
    assert find_dynamic(diffusion) is None
    found = find_dynamic([*diffusion, *series(acquired_s=lambda p: 300.0 + 90.0 * p)])
    assert found is not None
    assert {uid.split(".")[0] for uid in found.instances} == {"s"}


def test_a_name_is_read_from_the_header() -> None:
    """Facts carry the name that the identity check compares."""
    ds = Dataset()
    ds.Modality, ds.PatientName = "MG", "Doe^Jane"
    assert InstanceFacts.from_dataset(ds).patient_name == "Doe^Jane"
