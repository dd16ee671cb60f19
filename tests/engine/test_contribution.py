"""Leaving a modality out and the distance to the training, through the real graphs."""

import numpy as np
import pytest

from casework.engine.bundle import ModelPackage, Reference
from casework.engine.onnxrt import OnnxRunner
from casework.engine.runner import SideInputs
from casework.modelspec import SLOTS


def test_the_score_without_a_modality_is_that_of_a_run_without_it(runner: OnnxRunner, full: SideInputs) -> None:
    """What the fusion says with a mask is what a whole run says to which the modality was never given."""
    outputs = runner.run(full)
    for left_out in SLOTS:
        rest = [m for m in SLOTS if m != left_out]
        alone = runner.run(SideInputs({m: full.images[m] for m in rest}, {m: full.masks[m] for m in rest}))
        assert outputs.without[left_out] == pytest.approx(alone.logit, abs=2e-5)


def test_a_lone_modality_can_not_be_left_out(runner: OnnxRunner, full: SideInputs) -> None:
    """With one modality there is nothing left to answer from; sides are independent of each other."""
    masks = {m: v.copy() for m, v in full.masks.items()}
    masks["MR"][0], masks["US"][0] = 0.0, 0.0
    outputs = runner.run(SideInputs(full.images, masks))
    assert np.isnan([outputs.without[m][0] for m in SLOTS]).all()
    assert outputs.without["MG"][1] == pytest.approx(runner.run(full).without["MG"][1], abs=2e-5)


def test_the_distance_is_small_where_the_reference_was_made_and_large_elsewhere(
    package: ModelPackage, full: SideInputs
) -> None:
    """Features of the reference's own centre are near, noise is far; an absent modality has no distance."""
    plain = OnnxRunner(package, threads=2)
    centre = plain.encode("MG", np.ascontiguousarray(full.images["MG"].reshape(-1, *full.images["MG"].shape[2:])))
    pooled = centre.mean(axis=(2, 3))
    width = pooled.shape[1]
    cloud = Reference(pooled, np.stack([np.eye(width, dtype=np.float32)] * len(pooled)) / width, 1.0)
    known = OnnxRunner(ModelPackage(package.spec, package.sha256, package.graphs, (), {"MG": cloud}), threads=2)
    assert known.run(full).distance["MG"] == pytest.approx([0.0, 0.0], abs=1e-3)
    assert set(known.run(full).distance) == {"MG"}
    assert plain.run(full).distance == {}
    noise = {m: v.copy() for m, v in full.images.items()}
    noise["MG"][:] = np.random.default_rng(1).random(noise["MG"].shape).astype(np.float32)
    assert (known.run(SideInputs(noise, full.masks)).distance["MG"] > 0.01).all()
    masks = {m: v.copy() for m, v in full.masks.items()}
    masks["MG"][1] = 0.0
    assert np.isnan(known.run(SideInputs(full.images, masks)).distance["MG"][1])
