"""Prepared images survive the cache: packed to bytes and back, and nothing else is taken for one."""

import io

import numpy as np
import pytest

from casework.preprocess import mri, prepared
from casework.preprocess.prepared import Preparation, pack, unpack
from casework.result import Finding
from tests.unit.mri_helpers import classic, volumes


def made() -> Preparation:
    images = mri.prepare(*classic(volumes({(10, 20, 12): (900.0, 400.0)})), 64).images
    return Preparation(images, (Finding("GEOMETRY_IRREGULAR", "1.2", "gap"),))


def test_what_is_packed_comes_back() -> None:
    """Arrays, maps, places, notes and findings are the same after the cache (tensors to half precision)."""
    before = made()
    after = unpack(pack(before))
    assert after.findings == before.findings
    assert list(after.images) == list(before.images)
    for key, a in before.images.items():
        b = after.images[key]
        np.testing.assert_allclose(a.tensor, b.tensor, atol=5e-4)
        np.testing.assert_array_equal(a.picture, b.picture)
        np.testing.assert_array_equal(a.tensor_to_source.matrix, b.tensor_to_source.matrix)
        assert (a.sources, a.notes, a.planar, a.slot, a.side) == (b.sources, b.notes, b.planar, b.slot, b.side)
        assert a.locate(30.0, 40.0) == b.locate(30.0, 40.0)


def test_another_versions_cache_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache entry of other preprocessing parameters is refused."""
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "VERSION", "casework-preprocess-0")
        old = pack(made())
    with pytest.raises(ValueError, match="casework-preprocess-0"):
        unpack(old)


@pytest.mark.parametrize("cut", [0, 1, 50, -1, -200])
def test_a_torn_cache_entry_is_refused(cut: int) -> None:
    """Bytes that end early, or are something else, raise ValueError and nothing worse."""
    whole = pack(made())
    with pytest.raises(ValueError, match=r"not a preparation|pickle"):
        unpack(whole[:cut])


def test_pickles_are_never_loaded() -> None:
    """An array of objects (a pickle in .npz) is refused before anything in it runs."""
    buffer = io.BytesIO()
    np.savez(buffer, head=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        unpack(buffer.getvalue())
