"""Train every head on the same five folds of the internal cohort and score the held-out cohorts. Resumable, seeded.

    python -m models.cman.evidence.folds --data DATA --out RUNS [--package models/cman] [--heads cman concat ...]

Encoders are the package's own, frozen; tokens are made once (cohort.py). A fold's heads see the same patients and the same
schedule: the same steps, batch, rate and dropout of modalities, risk as the target (labels with --target label). One file
a head and fold is kept as soon as it is trained; what is there is not trained again. Several processes may share RUNS.
--whole trains on all of the internal cohort instead and holds nothing out: what a head can do with every patient.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn
from torch.nn import functional

from casework.engine.bundle import open_package
from casework.modelspec import SLOTS
from models.cman.data import Sides, open_sides
from models.cman.encoders import Schedule, machine, save
from models.cman.evidence import cohort, generator, heads
from models.cman.evidence.recovered import readings
from models.cman.fuse import DenseFusion, Losses, aim, aim_loss, dense_loss, dropped, focal, pick
from models.cman.net.config import CONCEPTS, MODALITIES, NetConfig
from models.cman.net.tokens import Tokeniser

FOLDS = 5
WHOLE = FOLDS  # in a fold's place: no side is of it, so none is held out
HEADS = ("mg", "mr", "us", "concat", "generative", "early-maps", "cman-unaligned", "cman")
SCORED = ("internal", "validation", "test", "external")


@dataclass(frozen=True, slots=True)
class Plan:
    """What all heads of a run share. target: "risk" (the phantom's own) or "label"; flipped: share of wrong labels."""

    seed: int = 1
    steps: int = 600
    batch: int = 32
    peak: float = 1e-3
    weight_decay: float = 1e-4
    target: str = "risk"
    flipped: float = 0.0
    losses: Losses = field(default_factory=Losses)


def folds_of(sides: Sides, seed: int) -> NDArray[np.int64]:
    """The fold of every side, (N,); both sides of a patient in one, prevalence alike."""
    fold = np.empty(len(sides.label), np.int64)
    split = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for n, (_, held) in enumerate(split.split(sides.label, sides.label, sides.case)):
        fold[held] = n
    return fold


class CmanHead(nn.Module):
    """The fusion as it is served; in training its own sampled forward is used."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.model = DenseFusion(config)

    def forward(self, maps: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        """All tokens, as served."""
        parts = self.model.fusion.contributions(maps, masks)
        return torch.stack([p.sum((1, 2, 3)) for p in parts.values()]).sum(0)


def make(name: str, config: NetConfig, train: Sides, known: Mapping[str, dict[str, Tensor]]) -> nn.Module:
    """A fresh head that reads the concepts as the encoders' training left them."""
    head: nn.Module
    match name:
        case "cman" | "cman-unaligned":
            head = CmanHead(config)
            aim(head.model.fusion.prior, train)
            if name == "cman-unaligned":
                prior = head.model.fusion.prior
                prior.height.data.zero_()
                for parameter in prior.parameters():
                    parameter.requires_grad_(False)  # noqa: FBT003  # torch's own signature
        case "concat" | "generative":
            head = heads.Concat(config)
        case "early-maps":
            head = heads.EarlyMaps(config)
        case _:
            head = heads.Single(config, name.upper())
    for module in head.modules():
        if isinstance(module, Tokeniser):
            for m in MODALITIES:
                module.concept[m].load_state_dict(known[m])
                module.concept[m].requires_grad_(False)  # noqa: FBT003  # torch's own signature
    return head


def _maps(tokens: cohort.Tokens, at: NDArray[np.int64]) -> dict[str, Tensor]:
    return {m: torch.from_numpy(np.asarray(tokens[m][at], np.float32)).to(machine()) for m in MODALITIES}


def _early_dense(read: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    """CMAN's auxiliary task for stacked maps: what the lesions of the CC and the MLO are like."""
    total = next(iter(read.values())).new_zeros(())
    lesion = CONCEPTS.index("lesion")
    for stack, slot in (("axial", "CC"), ("sagittal", "MLO")):
        there = truth["MG"][:, SLOTS["MG"].index(slot)]
        weight = (there[:, lesion] > 0.2).float()
        for concept in ("spiculation", "washout"):
            k = CONCEPTS.index(concept)
            loss = functional.binary_cross_entropy_with_logits(read[stack][:, k], there[:, k], reduction="none")
            total = total + (loss * weight).sum() / weight.sum().clamp(min=1.0)
    return total / 2


def _loss(
    head: nn.Module,
    maps: dict[str, Tensor],
    masks: dict[str, Tensor],
    truth: dict[str, NDArray[np.uint8]],
    target: Tensor,
    *,
    losses: Losses,
    rng: np.random.Generator,
) -> Tensor:
    device = machine()
    dense = {m: torch.from_numpy(t).to(device).float() / 255.0 for m, t in truth.items()}
    if isinstance(head, CmanHead):
        picks = {m: pick(truth[m], rng).to(device) for m in MODALITIES}
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logit, read, added = head.model(maps, masks, picks)
        read = {m: r.float() for m, r in read.items()}
        loss = focal(logit.float(), target, losses) + losses.dense * dense_loss(read, dense, masks, picks)
        return loss + losses.aim * aim_loss(added, masks, picks)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        extra = None
        if isinstance(head, heads.EarlyMaps):
            logit, extra = head.dense(maps, masks)
        else:
            logit = head(maps, masks)
    loss = focal(logit.float(), target, losses)
    if extra:
        loss = loss + losses.dense * _early_dense({n: r.float() for n, r in extra.items()}, dense)
    return loss


def train(  # noqa: PLR0917  # what, from what, whose
    head: nn.Module,
    tokens: cohort.Tokens,
    sides: Sides,
    at: NDArray[np.int64],
    target: NDArray[np.float64],
    plan: Plan,
    *,
    fold: int,
    single: str = "",
    progress: Callable[[str], None] = print,
) -> None:
    """Train in place on the sides `at`; single: only this modality is ever there."""
    rng = np.random.default_rng([plan.seed, fold])
    torch.manual_seed(plan.seed * 100 + fold)
    schedule = Schedule(plan.steps, 1.0, plan.batch, plan.peak, plan.weight_decay)
    some = [p for p in head.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(some, lr=plan.peak, weight_decay=plan.weight_decay)
    order, mean = rng.permutation(at), 1.0
    for step in range(plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step / plan.steps)
        if len(order) < plan.batch:
            order = rng.permutation(at)
        now, order = np.sort(order[: plan.batch]), order[plan.batch :]
        losses = replace(plan.losses, drop_modality=0.0) if single else plan.losses
        masks = {
            m: v.to(machine()) for m, v in dropped({m: sides.masks[m][now] for m in MODALITIES}, losses, rng).items()
        }
        truth = {m: np.asarray(sides.truth[m][now]) for m in MODALITIES}
        goal = torch.from_numpy(target[now]).float().to(machine())
        loss = _loss(head.train(), _maps(tokens, now), masks, truth, goal, losses=losses, rng=rng)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        nn.utils.clip_grad_norm_(some, 1.0)
        optimiser.step()
        mean = 0.98 * mean + 0.02 * float(loss.detach())
        if step % 100 == 99:
            progress(f"step {step + 1}/{plan.steps} loss {mean:.3f}")


@torch.no_grad()
def scores(head: nn.Module, tokens: cohort.Tokens, sides: Sides, at: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits of some sides with everything that they have, (n,)."""
    head.eval()
    parts = [np.zeros(0, np.float32)]
    for n in range(0, len(at), 8):  # few enough for a processor's caches: half the time of 32
        now = at[n : n + 8]
        masks = {m: torch.from_numpy(sides.masks[m][now]).float().to(machine()) for m in MODALITIES}
        parts.append(head(_maps(tokens, now), masks).cpu().numpy())
    return np.concatenate(parts).astype(np.float32)


@torch.no_grad()
def vectors(head: heads.Concat, tokens: cohort.Tokens, sides: Sides, at: NDArray[np.int64]) -> Tensor:
    """What the concatenation head puts side by side, for some sides, (n, d)."""
    head.eval()
    parts = []
    for n in range(0, len(at), 32):
        now = at[n : n + 32]
        masks = {m: torch.from_numpy(sides.masks[m][now]).float() for m in MODALITIES}
        parts.append(head.vector({m: t.cpu() for m, t in _maps(tokens, now).items()}, masks))
    return torch.cat(parts)


def targets(sides: Sides, plan: Plan) -> NDArray[np.float64]:
    """Risk, or drawn labels of which a share is turned over (the label-noise study)."""
    if plan.target == "risk":
        return sides.risk
    rng = np.random.default_rng([plan.seed, 77])
    wrong = rng.random(len(sides.label)) < plan.flipped
    return np.where(wrong, 1 - sides.label, sides.label).astype(np.float64)


def claim(path: Path) -> bool:
    """Whether this process is the one to make a file. The mark beside it holds a process number; a dead one's is void."""
    mark = path.with_suffix(".busy")
    try:
        with mark.open("x", encoding="ascii") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        try:
            os.kill(int(mark.read_text("ascii") or "0"), 0)
        except (ProcessLookupError, FileNotFoundError):
            mark.unlink(missing_ok=True)
            return claim(path)
        return False
    return not path.exists()


def _one(  # noqa: PLR0917  # private, called once
    name: str,
    fold: int,
    plan: Plan,
    data: tuple[Sides, cohort.Tokens],
    head_of: Callable[[Sides], nn.Module],
    held_fold: NDArray[np.int64],
) -> tuple[nn.Module, dict[str, Any]]:
    """Train one head on one fold: the head, and what is to be known of the run."""
    sides, tokens = data
    torch.manual_seed(plan.seed * 100 + fold)
    use = np.flatnonzero(held_fold != fold)
    head = head_of(replace(sides, truth={m: t[use] for m, t in sides.truth.items()})).to(machine())
    single = name.upper() if name in ("mg", "mr", "us") else ""
    began, used = time.monotonic(), time.process_time()

    def tell(words: str) -> None:
        print(f"{name}-{fold}", words, flush=True)

    train(head, tokens, sides, use, targets(sides, plan), plan, fold=fold, single=single, progress=tell)
    if name == "generative":
        assert isinstance(head, heads.Concat)
        risk, label = (torch.from_numpy(v[use]).float() for v in (targets(sides, plan), sides.label))
        generator.refit(head.cpu(), vectors(head, tokens, sides, use), risk, label, plan.seed * 100 + fold)
        head.to(machine())
    trained = time.process_time() - used
    about = {"head": name, "fold": fold, "cpu_s": round(trained), "wall_s": round(time.monotonic() - began)}
    return head, about | {"parameters": sum(p.numel() for p in head.parameters()), "plan": asdict(plan)}


def all_scores(
    head: nn.Module, data: Mapping[str, tuple[Sides, cohort.Tokens]], held: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """A head's logits on the sides that its fold held out and on the other cohorts."""
    sides, tokens = data["internal"]
    found: dict[str, NDArray[Any]] = {"internal": scores(head, tokens, sides, held), "held": held}
    for other in set(data) - {"internal"}:
        found[other] = scores(head, data[other][1], data[other][0], np.arange(len(data[other][0].label)))
    return found


def run(
    options: argparse.Namespace,
    plan: Plan,
    data: Mapping[str, tuple[Sides, cohort.Tokens]],
    config: NetConfig,
    known: Mapping[str, dict[str, Tensor]],
) -> None:
    """Every fold, every head; a head that is trained is not trained again, one that is scored not scored again."""
    fold = folds_of(data["internal"][0], plan.seed)
    for n in options.folds:
        for name in options.heads:
            path = options.out / f"{name}-{n}.npz"
            state, facts = path.with_suffix(".pt"), path.with_suffix(".json")
            if path.exists() or (options.only_train and facts.exists()) or not claim(path):
                continue
            if facts.exists():
                about = json.loads(facts.read_text("utf-8"))
                if about["plan"] != json.loads(json.dumps(asdict(plan))):
                    raise ValueError(f"{state} was trained by another plan")
                head = make(name, config, data["internal"][0], known)
                head.load_state_dict(torch.load(state, weights_only=True, map_location="cpu"))
                head.to(machine())
            else:
                fresh = partial(make, name, config, known=known)
                head, about = _one(name, n, plan, data["internal"], fresh, fold)
                save(state, head.cpu().state_dict())
                facts.write_text(json.dumps(about), "utf-8")
                print(json.dumps({k: about[k] for k in ("head", "fold", "cpu_s", "wall_s")}), flush=True)
                head.to(machine())
            if options.only_train:
                path.with_suffix(".busy").unlink()
            else:
                store(path, all_scores(head, data, np.flatnonzero(fold == n)), about)


def store(path: Path, found: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
    """Keep a fold's scores and what is to be known of it, whole or not at all."""
    part = path.with_suffix(".part.npz")
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about)), **found}
    np.savez_compressed(part, **arrays)
    part.rename(path)
    path.with_suffix(".busy").unlink(missing_ok=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=HEADS)
    parser.add_argument("--folds", nargs="+", type=int, default=range(FOLDS))
    parser.add_argument("--whole", dest="folds", action="store_const", const=[WHOLE], help="no folds: all patients")
    parser.add_argument("--scored", nargs="+", choices=SCORED, default=SCORED)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=("risk", "label"), default="risk")
    parser.add_argument("--flipped", type=float, default=0.0, help="share of labels turned over")
    parser.add_argument("--only-train", action="store_true", help="score later, by the same command without this")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw phantoms")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    package = open_package(options.package)
    data = {}
    for one in (cohort.INTERNAL, cohort.VALIDATION, cohort.TEST, cohort.EXTERNAL):
        if one is cohort.INTERNAL or (one.name in options.scored and not options.only_train):
            folder = cohort.drawn(one, options.data, package.spec.input_size, options.workers)
            data[one.name] = (open_sides(folder), cohort.encoded(package, folder, options.threads))
    config = NetConfig.from_dict(package.spec.raw["network"])
    # Focal loss's gamma is for drawn labels: with a risk as the target it hardly learns (fuse.Losses).
    losses = Losses(gamma=2.0, alpha=0.25) if options.target == "label" else Losses()
    plan = Plan(options.seed, options.steps, target=options.target, flipped=options.flipped, losses=losses)
    known = readings(options.package / package.spec.graphs["fusion"])
    run(options, plan, data, config, known)


if __name__ == "__main__":
    main()
