"""Dynamic MRI: phases in order, sides by anatomy, projections that lead back to the right voxel."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from casework.modelspec import SLOTS
from casework.preprocess import mri
from casework.preprocess.prepared import PreparedImage
from casework.result import Side
from tests.unit.mri_helpers import MM, SHAPE, Series, Voxel, classic, enhanced, sagittal, volumes
from tests.unit.preprocess_helpers import peak

SIZE = 96
RIGHT: Voxel = (13, 20, 12)  # superior half, lateral in the right breast
LEFT: Voxel = (5, 30, 66)  # inferior half, lateral in the left breast
DOTS = {RIGHT: (900.0, 500.0), LEFT: (500.0, 900.0)}


def located(image: PreparedImage) -> tuple[str, int, float, float]:
    """Where the brightest spot of the tensor's early channel lies in the source."""
    spot = image.tensor_to_picture(peak(image.tensor[1] + image.tensor[2]))[0]
    point = image.locate(float(spot[0]), float(spot[1]))
    return point.sop_instance_uid, point.frame_number, point.row, point.col


@pytest.mark.parametrize("slot", SLOTS["MR"])
@pytest.mark.parametrize(("side", "voxel"), [(Side.RIGHT, RIGHT), (Side.LEFT, LEFT)])
def test_a_bright_voxel_comes_back_from_every_projection(side: Side, voxel: Voxel, slot: str) -> None:
    """The peak of a projection leads to the slice, row and column of the voxel that made it, on both sides."""
    prepared = mri.prepare(*classic(volumes(DOTS)), SIZE)
    z, y, x = voxel
    if slot == ("AX_INF" if side is Side.RIGHT else "AX_SUP"):
        assert prepared.images[side, slot].tensor[1:].max() < 0.2  # the other half does not see it
        return
    uid, frame, row, col = located(prepared.images[side, slot])
    assert (uid, frame) == (f"1.5.2.{z + 1}", 1)
    assert abs(row - y) <= 1
    assert abs(col - x) <= 1


@pytest.mark.parametrize("make", [sagittal, enhanced])
def test_other_ways_of_storing_the_same_patient_give_the_same_tensors(
    make: Callable[[NDArray[np.int16]], Series],
) -> None:
    """Sagittal planes and an Enhanced multi-frame object end in the same picture as axial slices."""
    data = volumes(DOTS)
    a, b = mri.prepare(*classic(data), SIZE), mri.prepare(*make(data), SIZE)
    for key, image in a.images.items():
        np.testing.assert_allclose(image.tensor, b.images[key].tensor, atol=1e-5)


def test_a_sagittal_series_leads_back_to_its_own_planes() -> None:
    """Row and column are those of the stored sagittal plane, whose rows run to the feet."""
    prepared = mri.prepare(*sagittal(volumes(DOTS)), SIZE)
    for slot in ("AX", "SAG"):
        uid, _, row, col = located(prepared.images[Side.LEFT, slot])
        assert abs(int(uid.rsplit(".", 1)[1]) - (LEFT[2] + 1)) <= 1
        assert uid.startswith("1.6.2.")
        assert abs(row - (SHAPE[0] - 1 - LEFT[0])) <= 1
        assert abs(col - LEFT[1]) <= 1
    assert prepared.images[Side.LEFT, "SAG"].planar
    assert not prepared.images[Side.LEFT, "AX"].planar


def test_an_enhanced_object_leads_back_to_its_frame() -> None:
    """The frame number counts from 1 through all phases."""
    prepared = mri.prepare(*enhanced(volumes(DOTS)), SIZE)
    uid, frame, row, col = located(prepared.images[Side.RIGHT, "AX"])
    assert (uid, frame) == ("1.7", SHAPE[0] + RIGHT[0] + 1)
    assert abs(row - RIGHT[1]) <= 1
    assert abs(col - RIGHT[2]) <= 1


def test_slices_in_any_order_give_the_same_result() -> None:
    """Arrival order says nothing: shuffled slices end in the same tensors."""
    stacks, facts = classic(volumes(DOTS))
    seed = 20250301
    print("seed", seed)
    order = list(range(len(stacks)))
    random.Random(seed).shuffle(order)
    a = mri.prepare(stacks, facts, SIZE)
    b = mri.prepare([stacks[n] for n in order], [facts[n] for n in order], SIZE)
    for key, image in a.images.items():
        np.testing.assert_array_equal(image.tensor, b.images[key].tensor)
        assert image.sources == b.images[key].sources


def test_kinetics_are_those_of_one_voxel() -> None:
    """A lesion that washes out has early above late, one that keeps rising the reverse."""
    prepared = mri.prepare(*classic(volumes(DOTS)), SIZE)
    for side, sign in ((Side.RIGHT, 1), (Side.LEFT, -1)):
        tensor = prepared.images[side, "AX"].tensor
        at = np.unravel_index(int(np.argmax(tensor[1] + tensor[2])), tensor.shape[1:])
        assert sign * (tensor[1][at] - tensor[2][at]) > 0.05


def test_patient_right_is_image_right_and_lateral_is_at_the_left() -> None:
    """+x is the patient's left: what lies there is never put on the right, and lateral is at the tensor's left on both."""
    prepared = mri.prepare(*classic(volumes(DOTS)), SIZE)
    for side in Side:
        spot = peak(prepared.images[side, "AX"].tensor[1] + prepared.images[side, "AX"].tensor[2])[0]
        assert spot[1] < SIZE / 2  # both dots are lateral
    only_left = mri.prepare(*classic(volumes({LEFT: DOTS[LEFT]})), SIZE)
    assert only_left.images[Side.LEFT, "AX"].tensor[1].max() > 0.5
    assert only_left.images[Side.RIGHT, "AX"].tensor[1].max() < 0.1


def test_a_sagittal_projection_has_superior_at_the_top_and_the_chest_wall_at_the_left() -> None:
    """Rows run down the body, columns from posterior to anterior, for both sides."""
    prepared = mri.prepare(*classic(volumes(DOTS)), SIZE)
    right = peak(prepared.images[Side.RIGHT, "SAG"].tensor[1])[0]
    left = peak(prepared.images[Side.LEFT, "SAG"].tensor[2])[0]
    assert right[0] < left[0]  # z 13 is above z 5
    assert right[1] > left[1]  # y 20 is nearer to the nipple than y 30


def test_no_difference_is_subtracted_twice() -> None:
    """A voxel that rises from 200 by the reference becomes one half in the early channel."""
    reference = float(mri.prepare(*classic(volumes(DOTS)), SIZE).images[Side.RIGHT, "AX"].notes["reference"])
    data = volumes({})
    data[1:] += np.where(data[:1] > 0, np.int16(round(reference)), np.int16(0))
    tensor = mri.prepare(*classic(data), SIZE).images[Side.RIGHT, "AX"].tensor
    assert abs(float(np.median(tensor[1][tensor[0] > 0.2])) - 0.5) < 0.01


def test_fewer_than_three_phases_are_no_dynamic_series() -> None:
    """Pre and one post phase: no images, and a coded reason."""
    prepared = mri.prepare(*classic(volumes({}, phases=4)[:2]), SIZE)
    assert not prepared.images
    assert [f.code for f in prepared.findings] == ["PHASES_INCOMPLETE"]


def test_a_missing_slice_in_one_phase_is_noticed_and_the_rest_is_used() -> None:
    """The place that one phase lacks is left out of all phases, and said."""
    stacks, facts = classic(volumes(DOTS))
    del stacks[SHAPE[0] + 3], facts[SHAPE[0] + 3]
    prepared = mri.prepare(stacks, facts, SIZE)
    assert located(prepared.images[Side.RIGHT, "AX"])[0] == f"1.5.2.{RIGHT[0] + 1}"
    assert {"GEOMETRY_IRREGULAR", "IMAGE_NOT_CHOSEN"} == {f.code for f in prepared.findings}


def test_a_repeated_slice_is_noticed_and_used_once() -> None:
    """The same slice under another UID changes nothing but the findings."""
    stacks, facts = classic(volumes(DOTS))
    plain = mri.prepare(stacks, facts, SIZE)
    twin = replace(facts[7], sop_instance_uid="9.9")
    prepared = mri.prepare([*stacks, stacks[7]], [*facts, twin], SIZE)
    assert [(f.code, f.subject) for f in prepared.findings] == [("GEOMETRY_IRREGULAR", "9.9")]
    for key, image in plain.images.items():
        np.testing.assert_array_equal(image.tensor, prepared.images[key].tensor)


def test_the_picture_is_not_stretched() -> None:
    """Pictures have square pixels in millimetres whatever the voxel's shape."""
    prepared = mri.prepare(*classic(volumes(DOTS)), SIZE)
    for slot in ("AX", "SAG"):
        image = prepared.images[Side.RIGHT, slot]
        assert image.projection is not None
        mm = (MM[1], MM[2]) if slot == "AX" else (MM[0], MM[1])
        steps = np.diag(image.projection.picture_to_grid.matrix[:, :2]) * mm
        assert abs(steps[0] / steps[1] - 1) < 0.02
