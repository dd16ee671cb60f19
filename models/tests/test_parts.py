"""The network's parts and the heads beside it keep their promises, whatever their weights."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from casework.engine.sides import FUSION_OUTPUTS
from casework.modelspec import CHANNELS, SLOTS
from models.cman import distil, encoders, export, fuse, release, train
from models.cman.data import Sides
from models.cman.evidence import early, folds, generator, heads, studies
from models.cman.evidence.recovered import fusion, readings
from models.cman.net.cman import Fusion
from models.cman.net.config import CONCEPTS, MODALITIES, RESNET50, STUDENT, TINY, NetConfig
from models.cman.net.encoder import Encoder
from models.cman.net.student import START, AttentiveBottleneck, ParallelAttention
from models.cman.net.temporal import TemporalEncoder, encoder_of

CMAN = Path(__file__).resolve().parents[1] / "cman"
RESNET50_PARAMETERS = 25.56e6  # He et al. 2015, with its classifier
SMALL = replace(TINY, input_size=64)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(7)
    torch.set_num_threads(1)


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_students_encoder_has_at_most_31_percent_of_resnet50(modality: str) -> None:
    """The second seed's bound, encoder by encoder; the teacher's encoder is a ResNet-50 without classifier."""
    assert count(Encoder(modality, STUDENT)) <= 0.31 * RESNET50_PARAMETERS
    assert count(Encoder(modality, STUDENT)) <= 0.31 * count(Encoder(modality, RESNET50))


def test_the_residual_scale_starts_at_one_half_and_learns() -> None:
    """Every unit's gamma is 0.5 per channel, is trained, and scales what the unit adds to its input."""
    unit = AttentiveBottleneck(32, 8, 1, reduction=4, dilation=2)
    assert set(unit.gamma.flatten().tolist()) == {START} == {0.5}
    x = torch.rand(2, 32, 8, 8)
    unit(x).sum().backward()
    assert unit.gamma.grad is not None and unit.gamma.grad.abs().sum() > 0  # noqa: PT018  # one thought
    with torch.no_grad():
        unit.gamma.zero_()
    assert torch.equal(unit(x), x)


def test_channel_and_spatial_gates_stand_side_by_side() -> None:
    """The gate of a place differs over places, that of a channel over channels, and neither closes the other."""
    gates = ParallelAttention(16, reduction=2, dilation=2).eval()(torch.rand(1, 16, 12, 12))
    assert gates.shape == (1, 16, 12, 12)
    assert gates.min() > 0
    assert gates.max() < 2
    over_places = gates - gates.mean(1, keepdim=True)
    assert torch.allclose(over_places, over_places.mean((2, 3), keepdim=True).expand_as(over_places), atol=1e-5)


@pytest.mark.parametrize("dilation", [1, 4])
def test_the_spatial_gate_sees_as_far_as_its_dilation(dilation: int) -> None:
    """A changed pixel moves the gate exactly `dilation` pixels away (the channel's gate moves all alike)."""
    attention = ParallelAttention(8, reduction=1, dilation=dilation).eval()
    with torch.no_grad():
        attention.excite.weight.zero_()
        x = torch.rand(1, 8, 16, 16)
        before = attention(x)
        x[..., 8, 8] += 5.0
        moved = (attention(x) - before).abs().amax((0, 1)) > 1e-7
    assert {abs(int(r) - 8) for r, _ in moved.nonzero()} <= {0, dilation}
    assert moved[8 + dilation, 8]


def tokens(config: NetConfig, sides: int, seed: int = 1) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Random token maps and full masks."""
    generator = torch.Generator().manual_seed(seed)
    shape = (config.width, config.grid, config.grid)
    maps = {m: torch.randn(sides, len(s), *shape, generator=generator) for m, s in SLOTS.items()}
    return maps, {m: torch.ones(sides, len(s)) for m, s in SLOTS.items()}


def known(config: NetConfig) -> dict[str, dict[str, torch.Tensor]]:
    """Readings of nothing in particular."""
    return {m: {"weight": torch.randn(len(CONCEPTS), config.width), "bias": torch.zeros(len(CONCEPTS))} for m in SLOTS}


def made_up(config: NetConfig, sides: int) -> Sides:
    """Sides without images."""
    rng = np.random.default_rng(5)
    shape = (len(CONCEPTS), config.grid, config.grid)
    truth = {m: (rng.random((sides, len(s), *shape)) < 0.3).astype(np.uint8) * 255 for m, s in SLOTS.items()}
    masks = {m: np.ones((sides, len(s)), np.uint8) for m, s in SLOTS.items()}
    return Sides({}, masks, truth, np.arange(sides) % 2, rng.random(sides), np.arange(sides) // 2, "x")


@pytest.mark.parametrize("name", folds.HEADS)
def test_absent_images_change_nothing_in_any_head(name: str) -> None:
    """A baseline that could see what is not there would not be comparable."""
    maps, masks = tokens(SMALL, 3)
    head = folds.make(name, SMALL, made_up(SMALL, 8), known(SMALL)).eval()
    masks["MR"][:, 2:] = 0.0
    masks["US"][:] = 0.0
    with torch.no_grad():
        for parameter in head.parameters():  # a fresh pool says 0 to everything
            parameter.add_(0.1 * torch.randn_like(parameter))
        before = head(maps, masks)
        maps["MR"][:, 2:] = 40.0
        maps["US"][:] = -40.0
        assert torch.allclose(before, head(maps, masks), atol=1e-5)
        maps["MG"][:] *= -1.0
        maps["MR"][:, :2] *= -1.0
        changed = head(maps, masks)
    assert name == "us" or not torch.allclose(before, changed)


def test_an_axial_projection_is_turned_as_the_craniocaudal_view_lies() -> None:
    """Nipple and lateral come to the same edges: AX (anterior first, lateral left) to CC (lateral first, chest wall left)."""
    axial = torch.zeros(1, 4, 4)
    axial[0, 0, 0] = 1.0  # anterior, lateral
    turned = heads.turned(axial)
    assert turned[0, 0, 3] == 1.0  # lateral: top; anterior: right, where the nipple is


def test_the_unaligned_head_has_no_prior_and_cannot_learn_one() -> None:
    """What it is compared for is exactly the alignment."""
    head = folds.make("cman-unaligned", SMALL, made_up(SMALL, 8), known(SMALL))
    assert isinstance(head, folds.CmanHead)
    prior = head.model.fusion.prior
    assert not prior("MG", "MR").any()
    assert not any(p.requires_grad for p in prior.parameters())
    other = folds.make("cman", SMALL, made_up(SMALL, 8), known(SMALL))
    assert isinstance(other, folds.CmanHead)
    assert other.model.fusion.prior("MG", "MR").any()


def test_the_temporal_head_reads_phases_in_their_order() -> None:
    """One trunk and an LSTM: the order of the phases matters, their number is free, tokens are as the others'."""
    encoder = encoder_of("MR", replace(TINY, temporal=True)).eval()
    assert isinstance(encoder, TemporalEncoder)
    assert not isinstance(encoder_of("MG", replace(TINY, temporal=True)), TemporalEncoder)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        told, swapped = encoder(images), encoder(images[:, [0, 2, 1]])
        assert encoder(torch.rand(2, 6, 64, 64)).shape == told.shape == (2, TINY.width, 4, 4)
    assert not torch.allclose(told, swapped, atol=1e-3)


def test_the_temporal_head_exports_like_the_others(tmp_path: Path) -> None:
    """The graph gives torch's tokens for any number of images, so the service runs it without a change."""
    config = replace(TINY, temporal=True, input_size=64)
    encoder = encoder_of("MR", config).eval()
    path = export.write_encoder(encoder, "MR", config, tmp_path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count_ in (1, 3):
        images = torch.rand(count_, 3, 64, 64)
        with torch.no_grad():
            wanted = encoder(images).numpy()
        np.testing.assert_allclose(session.run(["tokens"], {"images": images.numpy()})[0], wanted, atol=1e-4)


def test_no_patient_is_in_two_folds() -> None:
    """Both sides of a patient are held out together, and every side once."""
    sides = made_up(SMALL, 60)
    fold = folds.folds_of(sides, seed=1)
    assert set(fold) == set(range(folds.FOLDS))
    assert all(len(set(fold[sides.case == c])) == 1 for c in np.unique(sides.case))


def test_a_fold_is_made_once_and_a_dead_process_does_not_keep_it(tmp_path: Path) -> None:
    """Two processes never train the same fold; a killed one's fold is free again, a finished one's is not."""
    path = tmp_path / "cman-0.npz"
    assert folds.claim(path)
    assert not folds.claim(path)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    path.with_suffix(".busy").write_bytes(gone.stdout.strip())
    assert folds.claim(path)
    path.with_suffix(".busy").unlink()
    path.touch()
    assert not folds.claim(path)


def test_turned_labels_are_as_many_as_asked_and_the_same_for_every_head() -> None:
    """The label-noise study's wrong labels come from the plan's seed alone."""
    sides = made_up(SMALL, 4000)
    plan = folds.Plan(target="label", flipped=0.2)
    wrong = folds.targets(sides, plan) != sides.label
    assert 0.17 < wrong.mean() < 0.23
    assert np.array_equal(folds.targets(sides, plan), folds.targets(sides, plan))
    assert np.array_equal(folds.targets(sides, replace(plan, flipped=0.0)), sides.label)


def test_focal_loss_is_the_papers_for_drawn_labels() -> None:
    """Lin et al. 2017: alpha_t (1 - p_t)^gamma times cross-entropy, here normalised by the alphas."""
    logit, label = torch.tensor([1.2, -0.4, 0.3]), torch.tensor([1.0, 0.0, 0.0])
    p = torch.sigmoid(logit)
    p_t, alpha_t = torch.where(label == 1, p, 1 - p), torch.where(label == 1, 0.25, 0.75)
    wanted = (-alpha_t * (1 - p_t) ** 2 * torch.log(p_t)).sum() / alpha_t.sum()
    assert torch.allclose(fuse.focal(logit, label, fuse.Losses(gamma=2.0, alpha=0.25)), wanted)


def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn() -> None:
    """Features, attention and logits: each part of the lesson is least where student and teacher agree."""
    said = torch.randn(2, 16, 5, 5)
    read = {"weight": torch.randn(len(CONCEPTS), 16), "bias": torch.zeros(len(CONCEPTS))}
    truth = torch.zeros(2, len(CONCEPTS), 5, 5)

    def loss(own: torch.Tensor, over: float) -> float:
        return float(distil.taught(own, said, truth, read=read, modality="MG", over=over))

    other = said + 0.3 * torch.randn(2, 16, 5, 5)
    gains = [loss(other, over) - loss(said, over) for over in (0.0, distil.ATTENTION_FROM, distil.LOGITS_FROM)]
    assert 0 < gains[0] < gains[1] < gains[2]


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """From a checkpoint a run makes only the steps that are left, and the toy's loss falls."""
    seen: list[float] = []

    def loss_of(model: nn.Module, batch: torch.Tensor, _: float) -> torch.Tensor:
        loss = functional.mse_loss(model(batch), -batch)
        seen.append(float(loss.detach()))
        return loss

    def draw(rng: np.random.Generator):  # type: ignore[no-untyped-def]
        while True:
            yield torch.from_numpy(rng.random((4, 1, 2, 2), np.float32))

    def curve(step: int, **values: float) -> None:
        pass

    path, model = tmp_path / "toy.resume", nn.Conv2d(1, 1, 1)
    schedule = encoders.Schedule(200, 60.0, peak=0.05)
    assert encoders.fit(model, draw, loss_of, schedule, 1, curve, path) == 200
    made = len(seen)
    again = nn.Conv2d(1, 1, 1)
    assert encoders.fit(again, draw, loss_of, replace(schedule, steps=230), 1, curve, path) == 230
    assert (made, len(seen)) == (200, 230)
    assert np.mean(seen[200:]) < 0.2 * np.mean(seen[:20])


def test_the_fusions_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Killed between two looks at validation, a run loses what came after the last one and nothing else."""
    sides = made_up(SMALL, 8)
    maps = {m: t.numpy().astype(np.float16) for m, t in tokens(SMALL, 8)[0].items()}
    path, seen = tmp_path / "fusion.resume", list[int]()

    def run(until: int) -> int:
        def keep(step: int, _: float) -> bool:
            seen.append(step)
            if step == until:
                raise KeyboardInterrupt
            return True

        schedule = encoders.Schedule(8, 600.0, batch=4)
        model = fuse.DenseFusion(SMALL)
        return fuse.train_fusion(
            model, maps, sides, schedule, fuse.Losses(), seed=1, keep=keep, every=1, checkpoint=path
        )

    with pytest.raises(KeyboardInterrupt):
        run(until=6)
    assert seen == [2, 4, 6]
    assert run(until=0) == 8
    assert seen == [2, 4, 6, 6, 8]


def test_the_loss_is_a_matter_of_configuration() -> None:
    """Cross-entropy where risks are known, focal loss where labels are all there is, and what is asked for over both."""
    sides = made_up(SMALL, 4)
    assert (train.losses_for(sides).gamma, train.losses_for(sides, gamma=1.5).gamma) == (0.0, 1.5)
    labels = train.losses_for(replace(sides, known=False))
    assert (labels.gamma, labels.alpha, labels.dense, labels.aim) == (2.0, 0.25, 0.0, 0.0)
    assert train.losses_for(replace(sides, known=False), alpha=0.7).alpha == 0.7


def test_the_released_graph_still_tells_its_readings() -> None:
    """Weights of the right shape, biases as the graph names them."""
    found = readings(CMAN / "fusion.onnx")
    named = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(str(CMAN / "fusion.onnx")).graph.initializer}
    for modality in MODALITIES:
        assert found[modality]["weight"].shape == (len(CONCEPTS), RESNET50.width)
        assert np.array_equal(found[modality]["bias"].numpy(), named[f"tokeniser.concept.{modality}.bias"])


def test_the_released_fusion_is_a_torch_network_again() -> None:
    """Weights and alignment prior read back from the graph give the graph's outputs, also with images missing."""
    net = fusion(CMAN / "fusion.onnx", NetConfig.from_dict(json.loads((CMAN / "manifest.json").read_text())["network"]))
    maps, masks = tokens(net.config, 3)
    masks["MR"][1] = 0.0
    masks["US"][2, 1:] = 0.0
    session = onnxruntime.InferenceSession(str(CMAN / "fusion.onnx"), providers=["CPUExecutionProvider"])
    inputs = [*maps.values(), *masks.values()]
    feeds = {i.name: t.numpy() for i, t in zip(session.get_inputs(), inputs, strict=True)}
    with torch.no_grad():
        for own, graphs in zip(net(*inputs), session.run(list(FUSION_OUTPUTS), feeds), strict=True):
            np.testing.assert_allclose(own.numpy(), graphs, atol=1e-5)


def test_the_generator_draws_what_the_minority_looks_like() -> None:
    """Made-up sides fill up the smaller class, from its own distribution, each with a target of its own."""
    source = torch.Generator().manual_seed(3)
    label = (torch.arange(600) % 4 == 0).float()
    vectors = torch.randn(600, 6, generator=source) + 4.0 * label[:, None]
    risk = torch.where(label == 1, 0.8, 0.1)
    x, goal = generator.balanced(vectors, risk, label, seed=1)
    made = x[600:]
    assert len(made) == (label == 0).sum() - (label == 1).sum()
    assert torch.equal(x[:600], vectors)
    assert torch.allclose(made.mean(0), torch.full((6,), 4.0), atol=0.4)
    assert torch.allclose(made.std(0), torch.ones(6), atol=0.35)
    assert (goal[600:] > 0.6).float().mean() > 0.95


def test_early_fusion_stacks_planes_as_they_lie() -> None:
    """The axial stack is the CC with three turned projections of three channels; absent images are black in it."""
    sides = made_up(SMALL, 4)
    rng = np.random.default_rng(2)
    images = {m: rng.integers(0, 255, (4, len(s), CHANNELS[m], 64, 64)).astype(np.uint8) for m, s in SLOTS.items()}
    masks = {m: torch.from_numpy(sides.masks[m]).float() for m in SLOTS}
    masks["MR"][:, SLOTS["MR"].index("AX_SUP")] = 0.0
    stacks = early.stacked(images, masks)
    assert {n: s.shape[1] for n, s in stacks.items()} == {"axial": 10, "sagittal": 4, "us": 3}
    axial = torch.from_numpy(images["MR"][:, 0]).float() / 255.0
    assert torch.equal(stacks["axial"][:, 1:4], heads.turned(axial))
    assert not stacks["axial"][:, 4:7].any()


def test_early_fusion_learns_and_scores() -> None:
    """Loss has a gradient in every encoder, and a score a side comes out."""
    sides = made_up(SMALL, 6)
    rng = np.random.default_rng(2)
    images = {m: rng.integers(0, 255, (6, len(s), CHANNELS[m], 64, 64)).astype(np.uint8) for m, s in SLOTS.items()}
    sides = replace(sides, images=images)
    model = early.EarlyPixels(SMALL)
    early.loss_of(model, next(early.batches(sides, np.arange(6), 4, rng)), 0.0).backward()
    for encoder in model.encoders.values():
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    assert early.scores(model, sides, np.arange(6)).shape == (6,)


def test_grad_cam_finds_the_token_that_decides() -> None:
    """Where only one token speaks, the map's peak is there."""
    net = fusion(CMAN / "fusion.onnx", NetConfig.from_dict(json.loads((CMAN / "manifest.json").read_text())["network"]))
    maps, masks = tokens(net.config, 1)
    found = []
    for sign in (3.0, -3.0):  # Grad-CAM keeps what speaks for; one of the two does
        flat = [m * 0.0 for m in maps.values()]
        flat[0][0, 0, :, 3, 10] = maps["MG"][0, 0, :, 3, 10] * sign
        found.append(studies.grad_cam(net, flat, list(masks.values())).heat["MG"][0, 0])
    strongest = max(found, key=np.max)
    assert strongest.max() > 0
    row, col = np.unravel_index(strongest.argmax(), strongest.shape)
    assert (row // 4, col // 4) == (3, 10)


def some_fusion() -> Fusion:
    """A fusion whose weights say something."""
    net = Fusion(SMALL).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def test_a_place_only_speaks_for_and_what_speaks_against_lies_evenly() -> None:
    """Contributions less their modality's even share are never negative, and all of them sum to the logit."""
    net = some_fusion()
    maps, masks = tokens(SMALL, 3)
    masks["MR"][1, 2:] = 0.0
    masks["US"][2] = 0.0
    with torch.no_grad():
        parts = net.contributions(maps, masks)
        logit, evidence, *_ = net(*maps.values(), *masks.values())
    for m, part in parts.items():
        count_ = masks[m].sum(1).clamp(min=1.0) * SMALL.grid**2
        even = net.pool.base[m].detach() / count_[:, None] * masks[m]
        assert (part - even[:, :, None, None]).min() >= -1e-7
        assert not part[masks[m] == 0].any()
    assert torch.allclose(sum(p.sum((1, 2, 3)) for p in parts.values()), logit, atol=1e-5)  # type: ignore[arg-type]
    assert evidence[2, MODALITIES.index("US")] == 0.0


def test_training_on_some_tokens_is_the_served_arithmetic() -> None:
    """Where every token is picked once, the sampled forward gives the served logit."""
    net = some_fusion()
    maps, masks = tokens(SMALL, 2)
    masks["US"][1] = 0.0
    dense, picks = fuse.DenseFusion(SMALL).eval(), {}
    dense.fusion = net
    for m, slots in SLOTS.items():
        at = torch.arange(len(slots) * SMALL.grid**2).expand(2, -1)
        picks[m] = fuse.Pick(at, torch.zeros(at.shape), torch.zeros(at.shape), SMALL.grid)
    with torch.no_grad():
        assert torch.allclose(dense(maps, masks, picks)[0], net(*maps.values(), *masks.values())[0], atol=1e-5)


def test_each_image_is_asked_to_add_where_it_shows_something() -> None:
    """No loss when all is added on target; an image that adds beside it costs, one that shows nothing or is absent does not."""
    at = torch.tensor([[0, 1, 16, 17]])  # two tokens of the first image, two of the second
    found = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    picks = {"MG": fuse.Pick(at, torch.zeros(1, 4), found, 4)}

    def loss(added: list[float], masks: list[float]) -> float:
        return float(fuse.aim_loss({"MG": torch.tensor([added])}, {"MG": torch.tensor([masks])}, picks))

    assert loss([1.0, 0.0, 0.01, 0.0], [1.0, 1.0]) == pytest.approx(0.0, abs=1e-3)
    assert loss([1.0, 0.0, 0.0, 0.01], [1.0, 1.0]) > 1.0  # however little it adds
    assert loss([1.0, 0.0, 0.0, 0.01], [1.0, 0.0]) == pytest.approx(0.0, abs=1e-3)


def test_every_patient_who_is_to_calibrate_counts() -> None:
    """Validation and the calibration set are fitted as one, subset by subset; a run without that set fits validation alone."""
    sets = {n: made_up(SMALL, size) for n, size in (("val", 6), ("calibration", 10), ("test", 4))}
    logits = {n: {"MG+MR+US": np.full(len(s.label), k, float)} for k, (n, s) in enumerate(sets.items())}
    both, label = release.together(logits, sets)
    assert both["MG+MR+US"].tolist() == [0.0] * 6 + [1.0] * 10
    assert np.array_equal(label, np.concatenate([sets["val"].label, sets["calibration"].label]))
    alone, _ = release.together({"val": logits["val"]}, sets)
    assert len(alone["MG+MR+US"]) == 6


def test_shifted_planes_keep_their_size_and_move_as_far_as_asked() -> None:
    """A spot moves by the asked number of tokens, in any direction; 0 moves nothing."""
    maps = np.zeros((20, 4, 2, 14, 14), np.float16)
    maps[..., 7, 7] = 1.0
    assert np.array_equal(studies.shifted(maps, 0, np.random.default_rng(1)), maps)
    for one in studies.shifted(maps, 3, np.random.default_rng(1)):
        row, col = np.argwhere(one[0, 0])[0]
        assert 2 <= np.hypot(row - 7, col - 7) <= 4


def test_the_student_encodes_any_size_to_the_teachers_grid() -> None:
    """Same channels in, same tokens out, so that it can stand in for the teacher under the same fusion."""
    for modality, channels in CHANNELS.items():
        encoder = Encoder(modality, replace(STUDENT, base=8)).eval()
        assert encoder(torch.rand(1, channels, 96, 96)).shape == (1, STUDENT.width, 6, 6)
