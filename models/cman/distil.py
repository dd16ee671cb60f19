"""cman-lite's encoders: a student taught by the shipped encoders, on their tokens. Resumable, seeded, bounded.

    python -m models.cman.distil --data DATA --run models/cman/runs/lite [--steps 500] [--only MG]
    python -m models.cman.train --data DATA --run models/cman/runs/lite
    python -m models.cman.release --data DATA --run models/cman/runs/lite --name cman-lite --out models/cman-lite --beside models/cman

Cascaded distillation: first the teacher's features (token maps), from half of the run also its attention (where a map is
strong: Zagoruyko and Komodakis 2017), from eight tenths also its logits (what its readings of the concepts say), each
added to the ones before, and the dense truth throughout. DATA holds train-1, train-2, ... and val. The teacher's
tokens are made once, by the graphs that are served, so the student learns from what it is to stand in for; its readings of
the concepts are the teacher's own. The run's folder is then one that train.py goes on with: the encoders are there.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from casework.engine.bundle import open_package
from models.cman.data import TOKEN, Sides, open_all, open_sides
from models.cman.encoders import (
    VISIBLE,
    DenseEncoder,
    Schedule,
    corner,
    dense_auc,
    dense_loss,
    fit,
    machine,
    mixed,
    save,
    settle,
)
from models.cman.evidence import cohort
from models.cman.evidence.recovered import readings
from models.cman.journal import Journal
from models.cman.net.config import CONCEPTS, MODALITIES, STUDENT
from models.cman.train import train_sets

ATTENTION_FROM, LOGITS_FROM = 0.5, 0.8
Lesson = tuple[
    Tensor, Tensor, Tensor
]  # images (n, C, h, w), the teacher's tokens (n, d, h/16, w/16), truth (n, 5, ...)


def lessons(
    sides: Sides,
    tokens: NDArray[np.float16],
    modality: str,
    *,
    batch: int,
    size: int,
    rng: np.random.Generator,
) -> Iterator[Lesson]:
    """Endless batches of crops on the token grid with what the teacher said of the whole image there."""
    images, truth = sides.images[modality], sides.truth[modality]
    side, slot = np.nonzero(sides.masks[modality])
    grid, cut = images.shape[-1] // TOKEN, size // TOKEN
    while True:
        parts: tuple[list[NDArray[np.generic]], ...] = ([], [], [])
        for at in rng.integers(0, len(side), batch):
            here = (side[at], slot[at])
            row, col = corner(truth[here], grid, cut, rng)
            pixels = (slice(row * TOKEN, row * TOKEN + size), slice(col * TOKEN, col * TOKEN + size))
            place = (slice(row, row + cut), slice(col, col + cut))
            parts[0].append(images[here][:, *pixels])
            parts[1].append(tokens[here][:, *place])
            parts[2].append(truth[here][:, *place])
        pictures, said, dense = (torch.from_numpy(np.stack(p)).float() for p in parts)
        yield pictures / 255.0, said, dense / 255.0


def inner(maps: Tensor) -> Tensor:
    """Without the outermost ring: at a crop's border the student sees less than the teacher saw."""
    return maps[:, :, 1:-1, 1:-1]


def strength(maps: Tensor) -> Tensor:
    """Where a map is strong, (n, h * w), of unit length."""
    return functional.normalize(maps.pow(2).mean(1).flatten(1), dim=1)


def taught(
    tokens: Tensor, said: Tensor, truth: Tensor, *, read: Mapping[str, Tensor], modality: str, over: float
) -> Tensor:
    """The loss at a share `over` of the run; read: the frozen reading of the concepts."""
    spread = said.std((0, 2, 3), keepdim=True).clamp(min=1e-3)
    loss = functional.smooth_l1_loss(tokens / spread, said / spread)
    if over >= ATTENTION_FROM:
        loss = loss + 10.0 * (strength(tokens) - strength(said)).pow(2).sum(1).mean()
    weight = read["weight"][:, :, None, None].to(tokens.device)
    own, teacher = (functional.conv2d(t, weight, read["bias"].to(tokens.device)) for t in (tokens, said))
    if over >= LOGITS_FROM:
        at = [CONCEPTS.index(c) for c in VISIBLE[modality]]
        goal = torch.sigmoid(teacher[:, at]).detach()
        loss = loss + functional.binary_cross_entropy_with_logits(own[:, at], goal)
    return loss + 0.1 * dense_loss(own, truth, VISIBLE[modality])


def likeness(student: nn.Module, sides: Sides, tokens: NDArray[np.float16], modality: str, count: int = 48) -> float:
    """Mean correlation of student's and teacher's tokens on whole images that the student was not shown."""
    count = min(count, len(tokens))
    with torch.no_grad():
        images = torch.from_numpy(np.array(sides.images[modality][:count, 0])).float() / 255.0
        own = student.eval()(images).flatten(1).numpy()
    said = np.asarray(tokens[:count, 0], np.float32).reshape(count, -1)
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(own, said, strict=True)]))


def teach(  # noqa: PLR0917  # one encoder's run
    run: Path,
    modality: str,
    material: Mapping[str, tuple[Sides, NDArray[np.float16]]],
    read: Mapping[str, Tensor],
    schedule: Schedule,
    seed: int,
    crop: int,
    log: Journal,
) -> None:
    """Train one student and write run/encoder-MODALITY.pt."""
    torch.manual_seed(seed)
    began, whole = time.monotonic(), DenseEncoder(modality, STUDENT)
    whole.read.load_state_dict({"weight": read["weight"][:, :, None, None], "bias": read["bias"]})
    student = whole.encoder.to(machine())
    sides, said = material["train"]

    def loss(net: nn.Module, batch: Lesson, over: float) -> Tensor:
        tokens = mixed(net, batch[0])
        return taught(
            inner(tokens), *(inner(b.to(tokens.device)) for b in batch[1:]), read=read, modality=modality, over=over
        )

    def draw(rng: np.random.Generator) -> Iterator[Lesson]:
        return lessons(sides, said, modality, batch=schedule.batch, size=crop, rng=rng)

    steps = fit(
        student, draw, loss, schedule, seed, log.curve(f"student {modality}"), run / f"encoder-{modality}.resume"
    )
    settle(student, sides, modality, np.random.default_rng([seed, steps]))
    alike = likeness(student, *material["val"], modality)
    scores = dense_auc(whole.cpu(), material["val"][0], modality, seed)
    about = {"steps": steps, "dense_auc": scores, "likeness": alike, "schedule": asdict(schedule)}
    seconds = round(time.monotonic() - began)
    log(f"encoder {modality}", sides=len(sides.label), seconds=seconds, taught=True, **about)
    (run / f"encoder-{modality}.resume").unlink(missing_ok=True)
    save(run / f"encoder-{modality}.pt", {"state": whole.state_dict(), **about})


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the encoders that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--budget-min", type=float, default=60.0, help="minutes for one encoder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=MODALITIES, default="")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    log = Journal(options.run)
    package = open_package(options.teacher)
    read = readings(options.teacher / package.spec.graphs["fusion"])
    (options.run / "config.json").write_text(json.dumps(STUDENT.as_dict(), indent=1) + "\n", "utf-8")
    folders = train_sets(options.data, options.run)
    sides = {"train": open_all(folders), "val": open_sides(options.data / "val")}
    for n, modality in enumerate(MODALITIES):
        if options.only in ("", modality) and not (options.run / f"encoder-{modality}.pt").exists():
            parts = [
                cohort.encoded(package, f, options.threads, modalities=(modality,))[modality]
                for f in (*folders, options.data / "val")
            ]
            said = {"train": parts[0] if len(folders) == 1 else np.concatenate(parts[:-1]), "val": parts[-1]}
            schedule = Schedule(options.steps, 60 * options.budget_min, options.batch, options.lr)
            material = {k: (sides[k], said[k]) for k in sides}
            teach(options.run, modality, material, read[modality], schedule, options.seed + n, options.crop, log)


if __name__ == "__main__":
    main()
