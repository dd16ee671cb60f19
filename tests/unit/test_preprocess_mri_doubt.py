"""Dynamic MRI in doubt: no side, no contrast agent, no order of phases is ever guessed."""

from dataclasses import replace

import numpy as np
import pytest

from casework.preprocess import mri
from casework.preprocess.prepared import Preparation
from casework.result import Side
from tests.unit.mri_helpers import SHAPE, Series, Voxel, classic, volumes

SIZE = 64
RIGHT: Voxel = (13, 20, 12)
LEFT: Voxel = (5, 30, 66)
DOTS = {RIGHT: (900.0, 500.0), LEFT: (500.0, 900.0)}


def one_breast(side: str, *, conflict: bool = False) -> Series:
    """The right half of the field alone, with a stated side."""
    stacks, facts = classic(volumes(DOTS))
    half = SHAPE[2] // 2
    return (
        [np.ascontiguousarray(s[:, :half]) for s in stacks],
        [replace(f, columns=half, laterality=side, laterality_conflict=conflict) for f in facts],
    )


def moved(series: Series, left_mm: float) -> Series:
    """The same patient, the field of view further to her left."""
    stacks, facts = series
    shifted = []
    for f in facts:
        own = f.frames[0]
        x, y, z = own.position
        shifted.append(replace(f, frames=(replace(own, position=(x + left_mm, y, z)),)))
    return stacks, shifted


def codes(prepared: Preparation) -> list[str]:
    return [f.code for f in prepared.findings]


@pytest.mark.parametrize(("side", "conflict"), [("", False), ("B", False), ("", True)])
def test_half_of_one_breast_never_passes_for_the_other_one(side: str, conflict: bool) -> None:
    """A narrow field without one stated side is left out, and said; nothing is split down the middle of a breast."""
    prepared = mri.prepare(*one_breast(side, conflict=conflict), SIZE)
    assert not prepared.images
    assert codes(prepared)[0] == "SIDES_UNCERTAIN"


def test_one_breast_with_a_stated_side_is_that_side_only() -> None:
    """A narrow field with a stated side fills that side's places and no others."""
    prepared = mri.prepare(*one_breast("R"), SIZE)
    assert {side for side, _ in prepared.images} == {Side.RIGHT}


def test_one_breast_on_the_other_side_of_the_body_than_it_states_is_left_out() -> None:
    """The patient's right breast labelled L: the slices' positions say which one it is."""
    assert codes(mri.prepare(*one_breast("L"), SIZE))[0] == "SIDES_UNCERTAIN"
    assert mri.prepare(*moved(one_breast("L"), 80.0), SIZE).images, (
        "scanned in the middle of the magnet: nothing is told"
    )


def test_a_wide_field_that_states_one_side_is_left_out() -> None:
    """Two breasts in the field and one side in the header contradict each other."""
    stacks, facts = classic(volumes(DOTS), PixelSpacing=[3.0, 3.6])
    wide = [replace(f, laterality="R") for f in facts]
    assert codes(mri.prepare(stacks, wide, SIZE)) == ["SIDES_UNCERTAIN"]
    assert mri.prepare(stacks, facts, SIZE).images


@pytest.mark.parametrize("left_mm", [-90.0, 90.0])
def test_a_field_beside_the_midline_is_left_out(left_mm: float) -> None:
    """What is seen then is one side and a part of the other: its middle is not the patient's."""
    assert mri.prepare(*moved(classic(volumes(DOTS)), left_mm / 6), SIZE).images
    assert codes(mri.prepare(*moved(classic(volumes(DOTS)), left_mm), SIZE)) == ["SIDES_UNCERTAIN"]


def test_phases_without_contrast_agent_are_no_negative_finding() -> None:
    """The same volume several times, with and without noise: left out, and said."""
    assert codes(mri.prepare(*classic(volumes({})), SIZE)) == ["CONTRAST_NOT_SEEN"]
    seed = 7
    print("seed", seed)
    noise = np.random.default_rng(seed).normal(0, 12, (4, *SHAPE))
    noisy = np.clip(volumes({}) + noise, 0, None).astype(np.int16)
    assert codes(mri.prepare(*classic(noisy), SIZE)) == ["CONTRAST_NOT_SEEN"]


def test_phases_in_reverse_are_no_negative_finding() -> None:
    """Numbers that run against the contrast agent: its uptake would be clipped away."""
    assert codes(mri.prepare(*classic(volumes(DOTS)[::-1]), SIZE)) == ["CONTRAST_NOT_SEEN"]


def test_values_that_are_not_finite_never_reach_the_network() -> None:
    """A rescale slope beyond every number makes the series unusable, not the case a defect."""
    stacks, facts = classic(volumes(DOTS))
    own = facts[30].frames[0]
    facts[30] = replace(facts[30], frames=(replace(own, slope=1e300),))
    with np.errstate(over="ignore", invalid="ignore"):
        assert codes(mri.prepare(stacks, facts, SIZE)) == ["IMAGE_BLANK"]
