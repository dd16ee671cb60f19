"""What the served network promises, whatever its weights. Runs without torch."""

import itertools

import numpy as np
import onnxruntime
import pytest

from casework.engine.bundle import ModelPackage, open_package
from casework.engine.golden import check_golden
from casework.engine.onnxrt import OnnxRunner
from casework.engine.runner import SideInputs, SideOutputs
from casework.engine.sides import FUSION_OUTPUTS
from casework.errors import Defect
from casework.modelspec import CHANNELS, SLOTS
from tests.engine.conftest import MODELS, noise

SUBSETS = [s for n in range(1, 4) for s in itertools.combinations(SLOTS, n)]


def _same(a: SideOutputs, b: SideOutputs) -> bool:
    return bool(np.array_equal(a.logit, b.logit)) and all(np.array_equal(a.heat[m], b.heat[m]) for m in SLOTS)


def test_absent_images_content_changes_nothing(runner: OnnxRunner, full: SideInputs) -> None:
    """Whatever stands in an absent slot, every output stays the same to the last bit."""
    for mask in full.masks.values():
        mask[:, -1] = 0.0
    full.masks["US"][1] = 0.0
    before = runner.run(full)
    for seed, (modality, mask) in enumerate(full.masks.items()):
        images = full.images[modality]
        images[mask == 0] = noise(images.shape, seed)[mask == 0]
    full.images["US"][1] = np.nan
    assert _same(before, runner.run(full))


def test_tokens_of_absent_images_change_nothing_in_the_fusion_graph(package: ModelPackage) -> None:
    """The fusion graph itself ignores masked tokens, even large ones: the runner's zeros are not what protects."""
    session = onnxruntime.InferenceSession(package.graphs["fusion"])
    feeds = {}
    for seed, node in enumerate(session.get_inputs()):
        shape = tuple(2 if isinstance(n, str) else n for n in node.shape)
        feeds[node.name] = np.ones(shape, np.float32) if node.name.endswith("mask") else noise(shape, seed)
    feeds["mr_mask"][:, 1] = 0.0
    feeds["us_mask"][:] = 0.0
    before = session.run(list(FUSION_OUTPUTS), feeds)
    feeds["mr"][:, 1] = 50.0
    feeds["us"][:] = -50.0
    for a, b in zip(before, session.run(list(FUSION_OUTPUTS), feeds), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_present_image_does_change_the_result(runner: OnnxRunner, full: SideInputs) -> None:
    """The tests above could fail: the content of a present image reaches the logit."""
    before = runner.run(full)
    full.images["MR"][:, 0] = noise(full.images["MR"][:, 0].shape, 7)
    assert np.abs(before.logit - runner.run(full).logit).min() > 1e-3


def test_contributions_sum_to_the_logit(runner: OnnxRunner, full: SideInputs) -> None:
    """Evidence per modality sums with the bias to the logit, and each image's heat sums to its share."""
    outputs = runner.run(full)
    evidence = np.stack([outputs.evidence[m] for m in SLOTS], 1)
    heat = np.stack([outputs.heat[m].sum((1, 2, 3), dtype=np.float64) for m in SLOTS], 1)
    np.testing.assert_allclose(evidence.sum(1) + outputs.bias, outputs.logit, atol=1e-4)
    np.testing.assert_allclose(heat, evidence, atol=1e-4)
    assert np.abs(evidence).min() > 1e-3


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_subset_of_modalities_runs(runner: OnnxRunner, full: SideInputs, subset: tuple[str, ...]) -> None:
    """Any subset of modalities runs; absent ones have no evidence and no heat; the present ones are named."""
    outputs = runner.run(SideInputs({m: full.images[m] for m in subset}, {m: full.masks[m] for m in subset}))
    assert outputs.present == (subset, subset)
    assert np.isfinite(outputs.prob).all()
    for modality in SLOTS:
        assert bool(outputs.evidence[modality].any()) == (modality in subset)
        assert bool(outputs.heat[modality].any()) == (modality in subset)


def test_any_single_image_runs(runner: OnnxRunner, full: SideInputs) -> None:
    """A side with one image of any slot gives its whole logit to that image."""
    for modality, slots in SLOTS.items():
        for n in range(len(slots)):
            mask = np.zeros((2, len(slots)), np.float32)
            mask[:, n] = 1.0
            outputs = runner.run(SideInputs({modality: full.images[modality]}, {modality: mask}))
            shares = outputs.heat[modality].sum((2, 3))
            np.testing.assert_allclose(shares[:, n], outputs.logit, atol=1e-4)
            assert not np.delete(shares, n, 1).any()


def test_a_side_without_images_is_zero_and_does_not_touch_the_other(runner: OnnxRunner, full: SideInputs) -> None:
    """A side with nothing has logit 0 and no heat; its neighbour in the batch gets the same result as alone."""
    alone = runner.run(full)
    for mask in full.masks.values():
        mask[1] = 0.0
    outputs = runner.run(full)
    assert outputs.logit[1] == 0.0
    assert outputs.present[1] == ()
    assert not any(outputs.heat[m][1].any() for m in SLOTS)
    np.testing.assert_allclose(outputs.logit[0], alone.logit[0], atol=1e-5)


def test_sides_are_independent_of_their_order(runner: OnnxRunner, full: SideInputs) -> None:
    """Swapping the two sides swaps the outputs and changes nothing else."""
    there = runner.run(full)
    back = runner.run(
        SideInputs({m: a[::-1] for m, a in full.images.items()}, {m: a[::-1] for m, a in full.masks.items()})
    )
    np.testing.assert_allclose(there.logit, back.logit[::-1], atol=1e-5)


def test_split_and_single_runs_agree(runner: OnnxRunner, full: SideInputs) -> None:
    """Encoding images one at a time and in batches gives the same tokens, so caching and batching are safe."""
    for modality in SLOTS:
        images = full.images[modality].reshape(-1, *full.images[modality].shape[2:])
        one_by_one = np.concatenate([runner.encode(modality, images[n : n + 1]) for n in range(len(images))])
        np.testing.assert_allclose(runner.encode(modality, images), one_by_one, atol=1e-4)


def test_parity_with_torch_as_recorded(runner: OnnxRunner, package: ModelPackage) -> None:
    """The split graphs reproduce what the whole torch network answered when the package was made."""
    parity = package.spec.raw["parity"]
    assert parity["cases"] >= 8
    assert parity["max_abs_logit"] < 1e-4
    assert parity["max_abs_heat"] < 1e-4


@pytest.mark.parametrize("name", ["cman-tiny", "cman", "cman-lite"])
def test_released_packages_open_and_reproduce_their_golden_samples(name: str) -> None:
    """Each package in models/ verifies, runs and reproduces its golden samples on this machine."""
    released = open_package(MODELS / name)
    check_golden(OnnxRunner(released, threads=2), released)
    assert released.spec.name == name


@pytest.mark.parametrize(
    "damage",
    [
        lambda i: i.images["MG"].__setitem__((0, 0), np.inf),
        lambda i: i.masks["MG"].__setitem__((0, 0), 0.5),
        lambda i: i.images.pop("US"),
        lambda i: i.images.__setitem__("US", i.images["US"].astype(np.float64)),
        lambda i: i.images.__setitem__("US", i.images["US"][:, :2]),
        lambda i: i.masks.__setitem__("US", i.masks["US"][:1]),
        lambda i: (i.images.clear(), i.masks.clear()),
    ],
)
def test_wrong_inputs_are_a_defect(runner: OnnxRunner, full: SideInputs, damage: object) -> None:
    """Inputs of a wrong shape, type or value stop the run; nothing is guessed."""
    inputs = SideInputs(dict(full.images), dict(full.masks))
    damage(inputs)  # type: ignore[operator]  # one of the lambdas above
    with pytest.raises(Defect, match="INTERNAL"):
        runner.run(inputs)


def test_a_value_that_is_not_finite_is_stopped_before_the_network(runner: OnnxRunner, full: SideInputs) -> None:
    """A NaN in a present image is named as ours and never reaches a graph, whatever the graph would make of it."""
    full.images["MR"][0, 1, 2, 5, 5] = np.nan
    with pytest.raises(Defect, match="image of MR holds a value"):
        runner.run(full)


def test_channels_and_slots_agree_with_the_graphs(package: ModelPackage) -> None:
    """The encoders take the channels and the fusion takes the slots that modelspec promises."""
    for modality, slots in SLOTS.items():
        encoder = onnxruntime.InferenceSession(package.graphs[modality]).get_inputs()[0]
        assert encoder.shape[1:] == [CHANNELS[modality], package.spec.input_size, package.spec.input_size]
        fusion = {i.name: i.shape for i in onnxruntime.InferenceSession(package.graphs["fusion"]).get_inputs()}
        assert fusion[modality.lower()][1] == len(slots)
        assert fusion[f"{modality.lower()}_mask"][1] == len(slots)


def test_engine_names_itself(runner: OnnxRunner) -> None:
    """The engine's description names library, version and device, for the report's model identity."""
    assert runner.describe() == f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider"
