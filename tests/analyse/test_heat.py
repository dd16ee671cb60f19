"""Heat-maps: what the network says of a place is shown at that place of the picture and of the source."""

import os

import numpy as np
import pytest
from numpy.typing import NDArray

from casework.errors import Defect
from casework.flows.analyse.heat import FLOOR_LOGITS, heat_images
from casework.geometry import Affine2
from casework.preprocess.prepared import PreparedImage, Projection
from casework.result import Side

SIZE, PICTURE, SOURCE = 64, (200, 160), (800, 640)


def image(to_picture: Affine2 | None = None, **known: object) -> PreparedImage:
    """A planar image: the tensor covers the picture, the source is four times as large."""
    values: dict[str, object] = {
        "side": Side.RIGHT,
        "modality": "MG",
        "slot": "CC",
        "study_instance_uid": "1.2",
        "tensor": np.zeros((1, SIZE, SIZE), np.float32),
        "picture": np.zeros(PICTURE, np.uint8),
        "tensor_to_picture": to_picture or Affine2.resize((SIZE, SIZE), PICTURE),
        "picture_to_source": Affine2.resize(PICTURE, SOURCE),
        "sources": ("s",),
    }
    return PreparedImage(**(values | known))  # type: ignore[arg-type] # a test's shorthand


def spot(row: int, col: int, value: float = 1.0, cells: int = 14) -> NDArray[np.float32]:
    heat = np.zeros((cells, cells), np.float32)
    heat[row, col] = value
    return heat


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("row", "col"), [(0, 0), (3, 10), (13, 13), (7, 2)])
def test_a_hot_cell_is_found_at_its_place(mirrored: bool, row: int, col: int) -> None:
    """Peak, region and picture all lie where the cell lies in the source, also when the tensor is mirrored."""
    way = Affine2.resize((SIZE, SIZE), PICTURE)
    if mirrored:
        way = Affine2.flip_columns(SIZE).then(way)
    (made,) = heat_images([(image(way), spot(row, col))], {"s": SOURCE})
    shown = 13 - col if mirrored else col
    centre = np.array([(row + 0.5) / 14 * SOURCE[0] - 0.5, (shown + 0.5) / 14 * SOURCE[1] - 0.5])
    cell = np.array(SOURCE) / 14
    assert made.peak is not None
    assert made.region is not None
    assert np.all(np.abs(np.array(made.peak) - centre) <= 0.6 * cell)
    assert np.all(np.abs(made.region.mean(axis=0) - centre) <= 0.6 * cell)
    assert np.all(made.region >= 0)
    assert np.all(made.region <= np.array(SOURCE) - 1)
    hot = np.unravel_index(int(np.argmax(made.heat)), made.heat.shape)
    assert np.allclose(np.array(hot) / PICTURE, centre / SOURCE, atol=0.6 / 14)
    assert made.heat.shape == PICTURE
    assert 0 <= float(made.heat.min()) <= float(made.heat.max()) <= 1


def test_all_images_share_one_scale() -> None:
    """The strongest place of the case is 1, an image with half of it shows half, and keeps its region."""
    first, second = heat_images([(image(), spot(3, 3, 2.0)), (image(slot="MLO"), spot(3, 3, 1.0))], {"s": SOURCE})
    assert float(first.heat.max()) == pytest.approx(1.0, abs=0.1)
    assert float(second.heat.max()) == pytest.approx(0.5, abs=0.1)
    assert second.region is not None


def test_evidence_against_is_not_painted() -> None:
    """Places that speak against a finding stay grey, and without evidence there is neither region nor peak."""
    against = -np.abs(np.random.default_rng(1).normal(size=(14, 14))).astype(np.float32)
    (made,) = heat_images([(image(), against)], {"s": SOURCE})
    assert float(made.heat.max()) == 0.0
    assert made.region is None
    assert made.peak is None


def test_noise_is_not_blown_up() -> None:
    """A case without evidence is not scaled to a full colour map."""
    (made,) = heat_images([(image(), spot(3, 3, FLOOR_LOGITS / 10))], {"s": SOURCE})
    assert float(made.heat.max()) <= 0.11
    assert made.region is None


def test_outside_the_tensor_there_is_no_heat() -> None:
    """A tensor that covers a part of the picture leaves the rest cold."""
    way = Affine2.resize((SIZE, SIZE), (50, 50)).then(Affine2.crop(20, 30))
    (made,) = heat_images([(image(way), np.ones((14, 14), np.float32))], {"s": SOURCE})
    inside = made.heat[20:70, 30:80]
    assert np.allclose(inside, 1.0)
    assert float(made.heat.sum()) == pytest.approx(float(inside.sum()))


def test_a_projection_leads_to_the_slice_behind_its_peak() -> None:
    """The slice that shows the hottest place becomes the reference; there is no region across slices."""
    depth = np.zeros((40, 40), np.int16)
    depth[:, 20:] = 2
    to_voxel = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]])
    way = Projection((("a", 1), ("b", 1), ("c", 7)), depth, 3, Affine2.resize(PICTURE, (40, 40)), to_voxel)
    of = image(planar=False, projection=way, modality="MR", slot="AX", sources=("a", "b", "c"))
    (made,) = heat_images([(of, spot(2, 12))], dict.fromkeys("abc", (40, 40)))
    assert made.sources == ("c", "a", "b")
    assert made.frame_number == 7
    assert made.region is None
    assert made.peak is not None
    assert np.allclose(made.peak, ((2.5 / 14) * 40 - 0.5, (12.5 / 14) * 40 - 0.5), atol=1.5)


def test_a_map_that_turns_the_image_is_a_defect() -> None:
    """Rows that become columns would put the heat in the wrong place: refused."""
    turned = Affine2(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    with pytest.raises(Defect):
        heat_images([(image(turned), spot(3, 3))], {"s": SOURCE})


def test_any_map_gives_a_closed_outline_inside_the_source() -> None:
    """Random maps: the outline has at least three corners, lies inside the source and contains the peak's cell."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    for _ in range(50):
        heat = rng.normal(size=(rng.integers(2, 30), rng.integers(2, 30))).astype(np.float32)
        (made,) = heat_images([(image(), heat)], {"s": SOURCE})
        if float(heat.max()) <= 0:
            assert made.region is None
            continue
        assert made.region is not None
        assert made.peak is not None
        assert len(made.region) >= 3
        assert np.all((made.region >= 0) & (made.region <= np.array(SOURCE) - 1))
