"""What a power cut leaves of a decoded copy never passes for an image."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from casework.preprocess.facts import InstanceFacts
from casework.preprocess.tasks import _from_cache, _to_npz
from tests.analyse.dicoms import header


def facts(rows: int, columns: int) -> InstanceFacts:
    """Facts of one slice of this size."""
    return InstanceFacts.from_dataset(header(np.zeros((rows, columns), np.uint16), ExplicitVRLittleEndian))


def test_a_whole_copy_is_used(tmp_path: Path) -> None:
    """A decoded copy comes back as it was written."""
    frames = np.arange(64, dtype=np.uint16).reshape(1, 8, 8)
    of = facts(8, 8)
    (tmp_path / "copy").write_bytes(_to_npz(frames))
    found = _from_cache(str(tmp_path / "copy"), of)
    assert found is not None
    assert np.array_equal(found, frames)


@pytest.mark.parametrize("damage", ["zeros inside", "one bit", "cut", "empty", "another form", "gone"])
def test_a_damaged_copy_is_not_used(tmp_path: Path, damage: str) -> None:
    """Blocks of zeros, a changed bit, a cut or an old form are seen; the stored image is decoded again."""
    frames = np.full((1, 64, 64), 1000, np.uint16)
    whole = bytearray(_to_npz(frames))
    middle = len(whole) // 2
    if damage == "zeros inside":
        whole[middle : middle + 512] = bytes(512)
    elif damage == "one bit":
        whole[middle] ^= 1
    copy = tmp_path / "copy"
    copy.write_bytes({"cut": bytes(whole[:-300]), "empty": b""}.get(damage, bytes(whole)))
    if damage == "another form":
        with copy.open("wb") as file:
            np.save(file, frames)
    elif damage == "gone":
        copy.unlink()
    assert _from_cache(str(copy), facts(64, 64)) is None
