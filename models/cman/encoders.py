"""Stage 1: each encoder alone, on dense truth, from crops at the served pixel scale. Writes nothing.

A phantom tells for every token what lies there, which is worth far more than one label per side: a few thousand crops
teach a ResNet-50 what a lesion, a spiculated margin, washout and a thick cortex look like. Crops of 96 px cost a fifth
of a whole image; the encoder is fully convolutional and serves whole images, for which batch-norm statistics are taken
again at the end.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.cman.data import TOKEN, Sides
from models.cman.journal import Curve
from models.cman.net.config import CONCEPTS, NetConfig
from models.cman.net.temporal import encoder_of

VISIBLE = {
    "MG": ("lesion", "spiculation"),
    "MR": ("lesion", "washout"),
    "US": ("lesion", "node", "cortex"),
}
"""The concepts that a modality shows; the others are learned by the fusion."""
WHERE = {"spiculation": "lesion", "washout": "lesion", "cortex": "node"}
"""Properties are only asked where the thing is that has them."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast: whichever of steps and seconds ends first; the rate follows a one-cycle over both."""

    steps: int
    budget_s: float
    batch: int = 32
    peak: float = 1e-3
    weight_decay: float = 1e-5

    def rate(self, progress: float) -> float:
        """The learning rate at a share of the run: linear warm-up over 5 %, cosine to 1 % of the peak."""
        if progress < 0.05:
            return self.peak * max(progress / 0.05, 0.02)
        return self.peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - 0.05) / 0.95)))


class DenseEncoder(nn.Module):
    """An encoder with a linear reading of the concepts per token, which the fusion takes over."""

    def __init__(self, modality: str, config: NetConfig) -> None:
        super().__init__()
        self.encoder = encoder_of(modality, config)
        self.read = nn.Conv2d(config.width, len(CONCEPTS), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, C, h, w) -> concept logits (n, K, h/16, w/16)."""
        reading: Tensor = self.read(self.encoder(images))
        return reading


@cache
def machine() -> torch.device:
    """Where training computes: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def save(path: Path, value: object) -> None:
    """All or nothing, so that a stopped run resumes from a whole checkpoint."""
    part = path.with_name(path.name + ".part")
    torch.save(value, part)
    part.replace(path)


def dense_loss(logits: Tensor, truth: Tensor, concepts: tuple[str, ...], lesion_weight: float = 8.0) -> Tensor:
    """Where is a lesion or node (every token), and what is it like (only where there is one).

    logits, truth: (n, K, ...) with K as CONCEPTS; truth in 0..1, the share of the token's area.
    """
    total = logits.new_zeros(())
    for concept in concepts:
        k = CONCEPTS.index(concept)
        if concept in WHERE:
            weight = (truth[:, CONCEPTS.index(WHERE[concept])] > 0.2).float()
        else:
            weight = 1.0 + (lesion_weight - 1.0) * truth[:, k]
        loss = functional.binary_cross_entropy_with_logits(logits[:, k], truth[:, k], reduction="none")
        total = total + (loss * weight).sum() / weight.sum().clamp(min=1.0)
    return total


def crops(
    sides: Sides, modality: str, batch: int, size: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of crops on the token grid, half of them around something: images and truth."""
    images, truth, masks = sides.images[modality], sides.truth[modality], sides.masks[modality]
    side, slot = np.nonzero(masks)
    grid, cut = images.shape[-1] // TOKEN, size // TOKEN
    while True:
        picked = rng.integers(0, len(side), batch)
        pixels = np.empty((batch, images.shape[2], size, size), np.uint8)
        dense = np.empty((batch, len(CONCEPTS), cut, cut), np.uint8)
        for n, at in enumerate(picked):
            image, dense_at = images[side[at], slot[at]], truth[side[at], slot[at]]
            row, col = corner(dense_at, grid, cut, rng)
            pixels[n] = image[:, row * TOKEN : row * TOKEN + size, col * TOKEN : col * TOKEN + size]
            dense[n] = dense_at[:, row : row + cut, col : col + cut]
        yield torch.from_numpy(pixels).float() / 255.0, torch.from_numpy(dense).float() / 255.0


def _checkpoints(checkpoint: Path | None) -> tuple[Path, ...]:
    """Where a state may be, the newest first; the one after 100 steps is kept under a name of its own."""
    return (checkpoint, checkpoint.with_suffix(".start")) if checkpoint else ()


def corner(dense: NDArray[np.uint8], grid: int, cut: int, rng: np.random.Generator) -> tuple[int, int]:
    """A crop's first token (row, col), often near a lesion or node."""
    there = np.argwhere(dense[[CONCEPTS.index("lesion"), CONCEPTS.index("node")]].max(0) > 50)
    if len(there) and rng.random() < 0.6:
        row, col = there[rng.integers(len(there))] - rng.integers(0, cut, 2)
    else:
        row, col = rng.integers(0, grid - cut + 1, 2)
    return int(np.clip(row, 0, grid - cut)), int(np.clip(col, 0, grid - cut))


Batch = TypeVar("Batch")


def fit(  # noqa: PLR0917  # what is learned, from what, how long
    model: nn.Module,
    draw: Callable[[np.random.Generator], Iterator[Batch]],
    loss_of: Callable[[nn.Module, Batch, float], Tensor],
    schedule: Schedule,
    seed: int,
    curve: Curve,
    checkpoint: Path | None = None,
) -> int:
    """Train in place, from `checkpoint` where there is one; returns the steps that were made.

    draw gives endless batches for a generator; loss_of gets the model, a batch and the share of the run that is over.
    """
    rng = np.random.default_rng(seed)
    model.train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=schedule.peak, weight_decay=schedule.weight_decay)
    began, mean = time.monotonic(), 0.0
    batches = draw(rng)
    done = 0
    start = next((p for p in _checkpoints(checkpoint) if p.exists()), None)
    if start:
        state = torch.load(start, weights_only=True, map_location=machine())
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        # The crops after a resume are new ones, not the same again: a resumed run is no bit-exact copy.
        done, began = state["step"], began - state["seconds"]
        batches = draw(np.random.default_rng([seed, state["step"]]))
    step = done
    for step in range(done + 1, schedule.steps + 1):
        share = max((step - 1) / schedule.steps, (time.monotonic() - began) / schedule.budget_s)
        if share >= 1.0:
            break
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(share)
        loss = loss_of(model, next(batches), share)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimiser.step()
        mean = float(loss.detach()) if step == 1 else 0.98 * mean + 0.02 * float(loss.detach())
        if step % 25 == 0:
            curve(step, loss=mean, seconds=time.monotonic() - began)
        if checkpoint and step % 100 == 0:
            now = {"step": step, "seconds": time.monotonic() - began}
            where = _checkpoints(checkpoint)[0 if step > 100 else 1]
            save(where, now | {"model": model.state_dict(), "optimiser": optimiser.state_dict()})
    return step


def mixed(model: nn.Module, images: Tensor) -> Tensor:
    """The model's answer in bf16 mixed precision, as float."""
    device = machine()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        answer: Tensor = model(images.to(device).contiguous(memory_format=torch.channels_last))
    return answer.float()


def train_encoder(
    model: DenseEncoder,
    sides: Sides,
    modality: str,
    schedule: Schedule,
    *,
    seed: int,
    curve: Curve,
    crop: int = 96,
    checkpoint: Path | None = None,
) -> int:
    """Train in place on dense truth, from `checkpoint` where there is one; returns the steps that were made."""

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor], _: float) -> Tensor:
        return dense_loss(mixed(net, batch[0]), batch[1].to(machine()), VISIBLE[modality])

    def draw(rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        return crops(sides, modality, schedule.batch, crop, rng)

    step = fit(model.to(machine()), draw, loss, schedule, seed, curve, checkpoint)
    settle(model, sides, modality, np.random.default_rng([seed, step]))
    return step


@torch.no_grad()
def settle(model: nn.Module, sides: Sides, modality: str, rng: np.random.Generator, batches: int = 20) -> None:
    """Take batch-norm statistics again, over whole images; the model is left on the CPU, ready to serve."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.cpu().train()
    for images, _ in _whole(sides, modality, rng, batches):
        model(images.contiguous(memory_format=torch.channels_last))
    model.eval()


def _whole(
    sides: Sides, modality: str, rng: np.random.Generator, batches: int, batch: int = 12
) -> Iterator[tuple[Tensor, Tensor]]:
    side, slot = np.nonzero(sides.masks[modality])
    picked = rng.choice(len(side), min(batches * batch, len(side)), replace=False)
    for n in range(0, len(picked) - batch + 1, batch):
        at = picked[n : n + batch]
        images = sides.images[modality][side[at], slot[at]]
        truth = sides.truth[modality][side[at], slot[at]]
        yield torch.from_numpy(np.asarray(images)).float() / 255.0, torch.from_numpy(np.asarray(truth)).float() / 255.0


@torch.no_grad()
def dense_auc(model: DenseEncoder, sides: Sides, modality: str, seed: int, batches: int = 20) -> dict[str, float]:
    """How well each visible concept is read on whole images: area under the ROC curve over tokens."""
    from sklearn.metrics import roc_auc_score

    model.eval()
    pairs = [(model(images), truth) for images, truth in _whole(sides, modality, np.random.default_rng(seed), batches)]
    logits, truth = (torch.cat(p).transpose(0, 1).flatten(1).numpy() for p in zip(*pairs, strict=True))
    result = {}
    for concept in VISIBLE[modality]:
        k = CONCEPTS.index(concept)
        use = truth[CONCEPTS.index(WHERE[concept])] > 0.2 if concept in WHERE else np.ones(len(truth[0]), bool)
        target = truth[k][use] > (0.5 if concept in WHERE else 0.2)
        if 0 < target.sum() < len(target):
            result[concept] = float(roc_auc_score(target, logits[k][use]))
    return result
