"""Stage 2: the fusion, on token maps that the served encoders made once. Writes nothing but its checkpoint.

The encoders are frozen and already in the precision that is served, so the fusion learns from exactly the tokens that it
will see, and an epoch costs a tenth of one through the encoders. Targets: the side's risk (a phantom knows its own; with
real labels the risk is the label), by focal loss; and, as an auxiliary task that makes a small budget go far, what each
token's lesion is like in the OTHER modalities, which only matching across modalities can tell.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from casework.modelspec import SLOTS
from models.cman.data import Sides
from models.cman.encoders import WHERE, Schedule, machine, save
from models.cman.net.attention import PLANES, AlignmentPrior, CrossBlock
from models.cman.net.cman import Fusion
from models.cman.net.config import CONCEPTS, MODALITIES, NetConfig

ASKED = {"MG": ("spiculation", "washout"), "MR": ("spiculation", "washout"), "US": ("cortex",)}
"""What the auxiliary task asks of tokens after attention: washout on mammograms is only known by asking the MRI."""

Tokens = Mapping[str, NDArray[np.float16]]


@dataclass(frozen=True, slots=True)
class Losses:
    """Weights and shapes of the losses (Lin et al. 2017 for gamma and alpha; 2 and 0.25 for drawn labels).

    With a risk as the target, focal loss vanishes with the third power of the distance and hardly learns: gamma 0.
    """

    gamma: float = 0.0
    alpha: float = 0.5
    dense: float = 0.1
    aim: float = 0.02  # of what an image adds falling on its lesions and nodes
    drop_modality: float = 0.4  # share of sides that lose one or two modalities
    drop_slot: float = 0.1


def focal(logit: Tensor, target: Tensor, losses: Losses) -> Tensor:
    """Focal loss for targets in 0..1: (target - p)^gamma in place of (1 - p_t)^gamma, equal to it for 0 and 1."""
    p = torch.sigmoid(logit)
    weight = losses.alpha * target + (1.0 - losses.alpha) * (1.0 - target)
    entropy = functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
    return (weight * (target - p).detach().abs() ** losses.gamma * entropy).sum() / weight.sum()


@dataclass(frozen=True, slots=True)
class Pick:
    """Some tokens of a modality. at: (B, n) index; log_weight: (B, n), how many tokens each stands for; found: (B, n).

    grid: tokens along an image's side.
    """

    at: Tensor
    log_weight: Tensor
    found: Tensor
    grid: int

    def to(self, device: torch.device) -> "Pick":
        """The same on a device."""
        return Pick(self.at.to(device), self.log_weight.to(device), self.found.to(device), self.grid)


FOUND_PICKS, OTHER_PICKS = 32, 24


def pick(truth: NDArray[np.uint8], rng: np.random.Generator) -> Pick:
    """Draw tokens with replacement: FOUND_PICKS where there is a lesion or node, OTHER_PICKS elsewhere."""
    found = truth[:, :, [CONCEPTS.index("lesion"), CONCEPTS.index("node")]].max(2).reshape(len(truth), -1) > 25
    at = np.empty((len(truth), FOUND_PICKS + OTHER_PICKS), np.int64)
    weight = np.empty(at.shape, np.float32)
    for n, row in enumerate(found):
        there, empty = np.flatnonzero(row), np.flatnonzero(~row)
        there = there if len(there) else empty
        at[n, :FOUND_PICKS] = rng.choice(there, FOUND_PICKS)
        at[n, FOUND_PICKS:] = rng.choice(empty, OTHER_PICKS)
        weight[n, :FOUND_PICKS] = np.log(len(there) / FOUND_PICKS)
        weight[n, FOUND_PICKS:] = np.log(len(empty) / OTHER_PICKS)
    hit = np.take_along_axis(found, at, 1)
    return Pick(torch.from_numpy(at), torch.from_numpy(weight), torch.from_numpy(hit).float(), truth.shape[-1])


class DenseFusion(nn.Module):
    """The fusion with a linear reading of the concepts per token after attention; the reading is not served."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.fusion = Fusion(config)
        self.read = nn.Linear(config.width, len(CONCEPTS))

    def forward(
        self, maps: dict[str, Tensor], masks: dict[str, Tensor], picks: dict[str, Pick]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Logit (B,), and per modality the picked tokens' concept logits (B, n, K) and what they add for, (B, n).

        The same arithmetic as the served fusion with one block, for the picked tokens only: all tokens are asked, a tenth
        of them asks, and the pool's softmax counts each as often as it stands for.
        """
        fusion = self.fusion
        (block,) = fusion.blocks
        assert isinstance(block, CrossBlock)
        findings = {m: fusion.tokeniser.findings(m, maps[m]) for m in MODALITIES}
        tokens = {m: fusion.tokeniser(m, maps[m], findings[m]) for m in MODALITIES}
        normed = {m: block.norm_token(t) for m, t in tokens.items()}
        answered = block.ask(tokens, normed, masks, {m: p.at for m, p in picks.items()})
        logit, added = next(iter(masks.values())).new_zeros(()), {}
        for m, p in picks.items():
            present = masks[m].gather(1, p.at // fusion.config.grid**2)
            shown = findings[m].gather(1, p.at[:, :, None].expand(-1, -1, len(CONCEPTS)))
            attention, evidence = fusion.pool.parts(m, answered[m], shown, present, p.log_weight)
            added[m] = attention * evidence
            logit = logit + added[m].sum(1) + fusion.pool.base[m] * masks[m].amax(1)
        return logit, {m: self.read(t) for m, t in answered.items()}, added


def _centres(lesion: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Centre of all lesions of an image as (row, col) in -1..1, (N, 2), from shares (N, g, g); NaN without any."""
    axis = (np.arange(lesion.shape[1]) + 0.5) / lesion.shape[1] * 2 - 1
    weight = lesion.astype(np.float64)
    total = np.where(weight.sum((1, 2)) > 0, weight.sum((1, 2)), np.nan)
    return np.stack([(weight.sum(2) * axis).sum(1) / total, (weight.sum(1) * axis).sum(1) / total], 1)


def aim(prior: AlignmentPrior, sides: Sides) -> dict[str, list[float]]:
    """Start the alignment prior at the affine map that fits the training set's lesions; returns it per plane.

    Least squares between the centres of all lesions in CC and AX, MLO and SAG: no lesion has to be matched, because an
    affine map takes a centre to a centre. The halves AX_SUP and AX_INF share AX's geometry.
    """
    lesion = CONCEPTS.index("lesion")
    found = {}
    for n, (mg, mr, _) in enumerate(PLANES):
        partner = "AX" if mr.startswith("AX") else mr
        a = _centres(sides.truth["MG"][:, SLOTS["MG"].index(mg), lesion])
        b = _centres(sides.truth["MR"][:, SLOTS["MR"].index(partner), lesion])
        use = np.isfinite(a).all(1) & np.isfinite(b).all(1)
        with torch.no_grad():
            for source, target, turn, shift in (
                (a, b, prior.turn, prior.shift),
                (b, a, prior.turn_back, prior.shift_back),
            ):
                fit = np.linalg.lstsq(np.c_[source[use], np.ones(use.sum())], target[use], rcond=None)[0]
                turn[n] = torch.from_numpy(fit[:2].T.copy()).float()
                shift[n] = torch.from_numpy(fit[2].copy()).float()
                if source is a:
                    found[f"{mg}-{mr}"] = [round(float(v), 3) for v in fit.T.ravel()]
    return found


def dropped(masks: Mapping[str, NDArray[np.uint8]], losses: Losses, rng: np.random.Generator) -> dict[str, Tensor]:
    """Masks with modalities and slots left out at random; every side keeps at least one image."""
    batch = len(next(iter(masks.values())))
    keep = rng.random((batch, len(MODALITIES))) < 0.5
    keep[np.arange(batch), rng.integers(0, len(MODALITIES), batch)] = True
    keep |= rng.random((batch, 1)) >= losses.drop_modality
    result = {}
    for n, modality in enumerate(MODALITIES):
        slots = rng.random(masks[modality].shape) >= losses.drop_slot
        result[modality] = masks[modality] * slots * keep[:, n : n + 1]
    empty = sum(m.sum(1) for m in result.values()) == 0
    return {m: torch.from_numpy(np.where(empty[:, None], masks[m], r)).float() for m, r in result.items()}


def dense_loss(
    dense: dict[str, Tensor], truth: dict[str, Tensor], masks: dict[str, Tensor], picks: dict[str, Pick]
) -> Tensor:
    """What the lesion or node at each picked token is like, also in modalities that do not show it."""
    total = next(iter(dense.values())).new_zeros(())
    for modality, logits in dense.items():
        per = truth[modality].shape[-1] ** 2
        flat = truth[modality].flatten(3).transpose(2, 3).flatten(1, 2)  # (B, V * g * g, K)
        there = flat.gather(1, picks[modality].at[:, :, None].expand(-1, -1, len(CONCEPTS)))
        present = masks[modality].gather(1, picks[modality].at // per)
        for concept in ASKED[modality]:
            weight = (there[..., CONCEPTS.index(WHERE[concept])] > 0.2) * present
            k = CONCEPTS.index(concept)
            loss = functional.binary_cross_entropy_with_logits(logits[..., k], there[..., k], reduction="none")
            total = total + (loss * weight).sum() / weight.sum().clamp(min=1.0)
    return total / len(dense)


def aim_loss(added: dict[str, Tensor], masks: dict[str, Tensor], picks: dict[str, Pick]) -> Tensor:
    """How little of what each image adds is added on its lesions and nodes; an image that shows none is not asked."""
    total = next(iter(added.values())).new_zeros((), dtype=torch.float32)
    for modality, parts in added.items():
        slots, p = masks[modality].shape[1], picks[modality]
        image = functional.one_hot(p.at // p.grid**2, slots).float()  # (B, n, V)
        whole = (parts.float()[:, :, None] * image).sum(1)
        on_target = ((parts.float() * p.found)[:, :, None] * image).sum(1)
        shows = masks[modality] * (p.found[:, :, None] * image).amax(1)
        share = (on_target + 1e-6) / (whole + 1e-6)
        total = total - (shows * torch.log(share)).sum() / shows.sum().clamp(min=1.0)
    return total


def _batch(tokens: Tokens, at: NDArray[np.int64]) -> dict[str, Tensor]:
    return {m: torch.from_numpy(tokens[m][at].astype(np.float32)) for m in MODALITIES}


def _loss(
    model: DenseFusion, tokens: Tokens, sides: Sides, at: NDArray[np.int64], losses: Losses, *, rng: np.random.Generator
) -> Tensor:
    """The loss of one batch of sides."""
    device = machine()
    masks = {m: v.to(device) for m, v in dropped({m: sides.masks[m][at] for m in MODALITIES}, losses, rng).items()}
    picks = {m: pick(sides.truth[m][at], rng).to(device) for m in MODALITIES}
    maps = {m: t.to(device) for m, t in _batch(tokens, at).items()}
    # One context a step: within one, autocast keeps its copies of the weights, and a longer one would never see an update.
    with torch.autocast(device.type, dtype=torch.bfloat16):
        logit, dense, added = model(maps, masks, picks)
    logit, dense = logit.float(), {m: d.float() for m, d in dense.items()}
    truth = {m: torch.from_numpy(np.asarray(sides.truth[m][at])).to(device).float() / 255.0 for m in MODALITIES}
    main = focal(logit, torch.from_numpy(sides.risk[at]).float().to(device), losses)
    return main + losses.dense * dense_loss(dense, truth, masks, picks) + losses.aim * aim_loss(added, masks, picks)


def train_fusion(
    model: DenseFusion,
    tokens: Tokens,
    sides: Sides,
    schedule: Schedule,
    losses: Losses,
    *,
    seed: int,
    keep: Callable[[int, float], bool],
    every: int = 3,
    checkpoint: Path | None = None,
) -> int:
    """Train in place, from `checkpoint` where there is one; returns the steps that were made.

    keep(step, loss) is asked every few epochs whether to go on, and at the end; the checkpoint is written when it says so.
    """
    model.to(machine())
    torch.manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=schedule.peak, weight_decay=schedule.weight_decay)
    per_epoch = max(1, len(sides.risk) // schedule.batch)
    began, mean, done = time.monotonic(), 1.0, 0
    if checkpoint and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=machine())
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        done, mean, began = state["step"], state["loss"], began - state["seconds"]
    rng = np.random.default_rng([seed, done] if done else seed)  # a resumed run draws anew: no bit-exact copy
    order = rng.permutation(len(sides.risk))
    for step in range(done, schedule.steps):
        share = max(step / schedule.steps, (time.monotonic() - began) / schedule.budget_s)
        if share >= 1.0:
            break
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(share)
        turn = step % per_epoch
        if turn == 0:
            if step > done and step // per_epoch % every == 0:
                if not keep(step, mean):
                    return step
                if checkpoint:
                    now = {"step": step, "loss": mean, "seconds": time.monotonic() - began}
                    save(checkpoint, now | {"model": model.state_dict(), "optimiser": optimiser.state_dict()})
            order = rng.permutation(len(sides.risk))
        at = np.sort(order[turn * schedule.batch : (turn + 1) * schedule.batch])
        loss = _loss(model.train(), tokens, sides, at, losses, rng=rng)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        mean = 0.98 * mean + 0.02 * float(loss.detach())
    else:
        step = schedule.steps
    keep(step, mean)
    return step


@torch.no_grad()
def logits_of(
    model: Fusion, tokens: Tokens, masks: Mapping[str, NDArray[np.uint8]], batch: int = 8
) -> NDArray[np.float64]:
    """Logits of all sides, (N,)."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for n in range(0, len(masks["MG"]), batch):
        at = np.arange(n, min(n + batch, len(masks["MG"])))
        there = {m: torch.from_numpy(masks[m][at]).float().to(device) for m in MODALITIES}
        maps = {m: t.to(device) for m, t in _batch(tokens, at).items()}
        shares = model.contributions(maps, there)
        parts.append(sum(s.sum((1, 2, 3)) for s in shares.values()))
    return torch.cat(parts).double().cpu().numpy()  # type: ignore[arg-type]  # sum() of tensors
