"""Files in parts come back whole or not at all."""

from pathlib import Path

import pytest
import torch

from models.cman import parts


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A checkpoint and a graph."""
    torch.manual_seed(1)
    state = {"state": {"w": torch.randn(100, 100), "count": torch.tensor(7)}, "steps": 3}
    torch.save(state, tmp_path / "encoder-MG.pt")
    (tmp_path / "fusion.onnx").write_bytes(bytes(range(256)) * 50)
    return [tmp_path / "encoder-MG.pt", tmp_path / "fusion.onnx"]


def test_what_was_split_is_joined_again(files: list[Path], tmp_path: Path) -> None:
    """Bytes as they were; a checkpoint in half precision with its counters untouched and no part over the limit."""
    made = parts.split(files, tmp_path / "out", half=True, limit=8000)
    assert len(made) > 4
    assert max(p.stat().st_size for p in made) <= 8000
    parts.join(tmp_path / "out", tmp_path / "back")
    assert (tmp_path / "back" / "fusion.onnx").read_bytes() == files[1].read_bytes()
    before, after = (torch.load(p, weights_only=True) for p in (files[0], tmp_path / "back" / files[0].name))
    assert after["state"]["w"].dtype == torch.float32
    assert torch.allclose(before["state"]["w"], after["state"]["w"], atol=2e-3)
    assert (after["state"]["count"], after["steps"]) == (7, 3)


def test_a_missing_or_altered_part_is_named(files: list[Path], tmp_path: Path) -> None:
    """Nothing is written for a file whose parts are not all there as they were."""
    made = parts.split(files[1:], tmp_path / "out", half=False, limit=8000)
    whole = made[1].read_bytes()
    made[1].write_bytes(whole[:-1] + b"x")
    with pytest.raises(ValueError, match="not what was split"):
        parts.join(tmp_path / "out", tmp_path / "back")
    made[1].unlink()
    with pytest.raises(ValueError, match=r"no fusion\.onnx-01"):
        parts.join(tmp_path / "out", tmp_path / "back")
    assert not list((tmp_path / "back").iterdir())
