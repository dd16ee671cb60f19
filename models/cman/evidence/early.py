"""Early fusion of pixels: planes stacked as channels of one network, trained from the start on the same folds.

    python -m models.cman.evidence.early --data DATA --out RUNS [--network resnet50] [--steps 6000] [--folds 0 1 2 3 4]

The baseline that the issue of registration is about: mammogram and MRI projections of one plane, turned alike and resized to
one grid, are the channels of one image. Three such images (axial, sagittal, ultrasound) go through three encoders,
and pooled maps into one logit. resnet50 and student are for a GPU; small is what processors can train. It gets what CMAN's training gets: the risk as target, the
dense truth of each stack's tokens, the same dropout of modalities. Scores go beside those of folds.py, in its form.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from casework.engine.bundle import open_package
from casework.modelspec import CHANNELS, SLOTS
from models.cman.data import Sides, open_sides
from models.cman.encoders import Schedule, dense_loss, fit, machine, save
from models.cman.evidence import cohort, folds
from models.cman.evidence.heads import STACKS, AttentionPool, turned
from models.cman.fuse import Losses, dropped, focal
from models.cman.journal import Journal
from models.cman.net.config import CONCEPTS, MODALITIES, RESNET50, STUDENT, NetConfig
from models.cman.net.encoder import Encoder

SMALL = NetConfig(base=32, depths=(2, 2, 2, 2), width=64)
NETWORKS = {"resnet50": RESNET50, "student": STUDENT, "small": SMALL}
FIRST = {"axial": ("MG", "CC"), "sagittal": ("MG", "MLO"), "us": ("US", "1")}
"""The image of a stack whose truth is the stack's: the one that is not turned."""
ASKED = {
    "axial": ("lesion", "spiculation", "washout"),
    "sagittal": ("lesion", "spiculation", "washout"),
    "us": ("node", "cortex"),
}
Batch = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]  # images and truth by stack, risk


class EarlyPixels(nn.Module):
    """Stacks {name: (n, C, S, S)} -> logit (n,) and the concepts' logits {name: (n, 5, g, g)}."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        channels = {n: sum(CHANNELS[m] for m, _ in images) for n, images in STACKS.items()}
        self.encoders = nn.ModuleDict({n: Encoder("MG", config, channels=c) for n, c in channels.items()})
        self.read = nn.ModuleDict({n: nn.Conv2d(config.width, len(CONCEPTS), 1) for n in STACKS})
        self.pools = nn.ModuleDict({n: AttentionPool(config.width) for n in STACKS})
        size = len(STACKS) * (config.width + 2 * len(CONCEPTS))
        self.mlp = nn.Sequential(nn.Linear(size, 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, 1))

    def forward(self, stacks: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See the class."""
        vectors, read = [], {}
        for name, images in stacks.items():
            maps = self.encoders[name](images)
            read[name] = self.read[name](maps)
            tokens, seen = (m.flatten(2).transpose(1, 2) for m in (maps, read[name].sigmoid()))
            vectors.append(self.pools[name](tokens, seen, torch.ones_like(seen[..., 0])))
        return self.mlp(torch.cat(vectors, 1))[:, 0], read


def stacked(images: Mapping[str, NDArray[np.uint8]], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Images (n, V, C, S, S) by modality -> stacks; an absent image is black."""
    whole = {
        m: torch.from_numpy(np.asarray(images[m])).float() / 255.0 * masks[m][:, :, None, None, None] for m in SLOTS
    }
    result = {}
    for name, members in STACKS.items():
        planes = [whole[m][:, SLOTS[m].index(slot)] for m, slot in members]
        flat = [turned(p) if slot.startswith("AX") else p for p, (_, slot) in zip(planes, members, strict=True)]
        result[name] = torch.cat(flat, 1)
    return result


def batches(sides: Sides, at: NDArray[np.int64], batch: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Endless batches of whole sides."""
    while True:
        now = np.sort(rng.choice(at, batch, replace=False))
        masks = dropped({m: sides.masks[m][now] for m in MODALITIES}, Losses(), rng)
        stacks = stacked({m: sides.images[m][now] for m in MODALITIES}, masks)
        truth = {}
        for name, (m, slot) in FIRST.items():
            truth[name] = torch.from_numpy(np.asarray(sides.truth[m][now, SLOTS[m].index(slot)])).float() / 255.0
        yield stacks, truth, torch.from_numpy(sides.risk[now]).float()


def loss_of(model: nn.Module, batch: Batch, _: float) -> Tensor:
    """Risk and dense truth."""
    stacks, truth, risk = batch
    device = machine()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        logit, read = model({n: s.to(device) for n, s in stacks.items()})
    total = focal(logit.float(), risk.to(device), Losses())
    for name, concepts in ASKED.items():
        total = total + 0.3 * dense_loss(read[name].float(), truth[name].to(device), concepts)
    return total


@torch.no_grad()
def scores(model: EarlyPixels, sides: Sides, at: NDArray[np.int64], batch: int = 32) -> NDArray[np.float32]:
    """Logits of some sides with everything that they have."""
    model.eval()
    parts = []
    for n in range(0, len(at), batch):
        now = at[n : n + batch]
        masks = {m: torch.from_numpy(sides.masks[m][now]).float() for m in MODALITIES}
        stacks = stacked({m: sides.images[m][now] for m in MODALITIES}, masks)
        parts.append(model({k: s.to(machine()) for k, s in stacks.items()})[0].cpu().numpy())
    return np.concatenate(parts).astype(np.float32)


def train(options: argparse.Namespace, data: Mapping[str, Sides], fold: NDArray[np.int64], n: int) -> None:
    """One fold."""
    torch.manual_seed(options.seed * 100 + n)
    sides = data["internal"]
    use, held = np.flatnonzero(fold != n), np.flatnonzero(fold == n)
    model = EarlyPixels(NETWORKS[options.network]).to(machine())
    schedule = Schedule(options.steps, 60 * options.budget_min, options.batch, options.lr, 1e-5)
    curve = Journal(options.out / "early").curve(f"early {n}")
    began, used = time.monotonic(), time.process_time()

    def draw(rng: np.random.Generator) -> Iterator[Batch]:
        return batches(sides, use, options.batch, rng)

    checkpoint = options.out / f"early-pixels-{n}.resume"
    steps = fit(model, draw, loss_of, schedule, options.seed * 100 + n, curve, checkpoint)
    found: dict[str, NDArray[Any]] = {"internal": scores(model, sides, held), "held": held}
    found |= {c: scores(model, s, np.arange(len(s.label))) for c, s in data.items() if c != "internal"}
    plan = {"network": options.network, "seed": options.seed, "schedule": asdict(schedule)}
    about = {"head": "early-pixels", "fold": n, "cpu_s": round(time.process_time() - used), "plan": plan}
    about |= {
        "steps": steps,
        "wall_s": round(time.monotonic() - began),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    save(options.out / f"early-pixels-{n}.pt", model.cpu().state_dict())
    folds.store(options.out / f"early-pixels-{n}.npz", found, about)
    print(json.dumps({k: about[k] for k in ("head", "fold", "cpu_s", "wall_s")}), flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--network", choices=sorted(NETWORKS), default="resnet50")
    parser.add_argument("--folds", nargs="+", type=int, default=range(folds.FOLDS))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--budget-min", type=float, default=60.0, help="minutes for one fold")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    size = open_package(options.package).spec.input_size
    plans = (cohort.INTERNAL, cohort.VALIDATION, cohort.TEST, cohort.EXTERNAL)
    data = {p.name: open_sides(cohort.drawn(p, options.data, size, options.threads)) for p in plans}
    fold = folds.folds_of(data["internal"], options.seed)
    for n in options.folds:
        if not (options.out / f"early-pixels-{n}.npz").exists():
            train(options, data, fold, n)


if __name__ == "__main__":
    main()
