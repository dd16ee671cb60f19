"""Train CMAN: encoders on dense truth, then the fusion on what the served encoders say. Resumable, seeded, bounded.

    python -m models.cman.train --data DATA --run models/cman/runs/NAME [--budget-min 75] [--preset quick] [--only MG]

DATA holds the folders train-1, train-2, ... and val (models/cman/data.py). --only trains one encoder, keeps its tokens and stops, so that
several can be trained side by side (MG first: the others begin with its weights after 100 steps). A run's folder keeps one checkpoint a stage and a log;
a stage whose checkpoint is there is not repeated. Stages end after their steps or their share of the time, whichever
comes first; log.jsonl says which, so a run on a slower machine can be told apart from the released one.
"""

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from casework.engine.bundle import ModelPackage
from casework.modelspec import ModelSpec
from models.cman.data import Sides, open_all, open_sides
from models.cman.encoders import DenseEncoder, Schedule, dense_auc, save, train_encoder
from models.cman.export import NAMES, quantise, write_encoder
from models.cman.folder import check_splits
from models.cman.fuse import DenseFusion, Losses, Tokens, aim, logits_of, train_fusion
from models.cman.journal import Journal
from models.cman.net.cman import Cman
from models.cman.net.config import MODALITIES, RESNET50, NetConfig

PRESETS: dict[str, dict[str, Any]] = {
    # CPU, about an hour on two cores.
    "quick": {
        "encoder_steps": {"MG": 700, "MR": 500, "US": 400},
        "encoder_share": {"MG": 0.4, "MR": 0.4, "US": 0.3},
        "encoder": {"batch": 32, "peak": 1e-3, "weight_decay": 1e-5},
        "fusion_steps": 1500,
        "fusion_share": 0.3,
        "fusion": {"batch": 32, "peak": 1e-3, "weight_decay": 1e-5},
    },
    # Half an hour of one large GPU, drawing included; written, never run.
    "gpu": {
        "encoder_steps": {"MG": 4000, "MR": 4000, "US": 2500},
        "encoder_share": {"MG": 0.25, "MR": 0.25, "US": 0.15},
        "encoder": {"batch": 96, "peak": 1e-3, "weight_decay": 1e-5},
        "fusion_steps": 6000,
        "fusion_share": 0.25,
        "fusion": {"batch": 64, "peak": 1e-3, "weight_decay": 1e-5},
    },
    # The paper's rates; written for a GPU and days of phantoms, not run for the shipped weights.
    "full": {
        "encoder_steps": {"MG": 40000, "MR": 40000, "US": 20000},
        "encoder_share": {"MG": 0.3, "MR": 0.3, "US": 0.15},
        "encoder": {"batch": 64, "peak": 1e-4, "weight_decay": 1e-5},
        "fusion_steps": 50000,
        "fusion_share": 0.2,
        "fusion": {"batch": 32, "peak": 1e-4, "weight_decay": 1e-5},
    },
}
DEFAULT = replace(RESNET50, blocks=1)
PATIENCE = 10  # looks at validation without a better AUC, after which the fusion stops


def config_of(run: Path) -> NetConfig:
    """The network of a run: what its config.json says (distil.py writes one), else the shipped teacher's."""
    path = run / "config.json"
    return NetConfig.from_dict(json.loads(path.read_text("utf-8"))) if path.exists() else DEFAULT


def stage_encoders(
    run: Path, data: Path, preset: dict[str, Any], *, budget_s: float, seed: int, log: Journal, only: str = ""
) -> None:
    """One checkpoint an encoder. MR and US begin with what MG knew after 100 steps: edges and blobs look alike."""
    for n, modality in enumerate(MODALITIES):
        if only and modality != only:
            continue
        path = run / f"encoder-{modality}.pt"
        if path.exists():
            continue
        torch.manual_seed(seed + n)
        model = DenseEncoder(modality, config_of(run))
        start = run / "encoder-MG.start"
        if modality != "MG" and start.exists():
            _borrow(model, torch.load(start, weights_only=True, map_location="cpu")["model"])
        elif modality != "MG":
            log(f"encoder {modality} begins from nothing: MG's run was shorter than 100 steps")
        share = preset["encoder_share"][modality]
        schedule = Schedule(preset["encoder_steps"][modality], share * budget_s, **preset["encoder"])
        began, train = time.monotonic(), open_all(train_sets(data))
        if not train.known:
            raise ValueError(
                f"encoders learn from dense truth, which real cases lack: put a phantom run's encoders in {run}"
            )
        curve, resume = log.curve(f"encoder {modality}"), run / f"encoder-{modality}.resume"
        steps = train_encoder(model, train, modality, schedule, seed=seed + n, curve=curve, checkpoint=resume)
        scores = dense_auc(model, open_sides(data / "val"), modality, seed)
        log(
            f"encoder {modality}",
            steps=steps,
            sides=len(train.label),
            seconds=round(time.monotonic() - began),
            dense_auc=scores,
        )
        (run / f"encoder-{modality}.resume").unlink(missing_ok=True)
        save(path, {"state": model.state_dict(), "steps": steps, "dense_auc": scores, "schedule": asdict(schedule)})


def train_sets(data: Path, run: Path | None = None) -> list[Path]:
    """All training sets that are there; with a run, those that its fusion began with."""
    names = sorted(p.name for p in data.glob("train-*[0-9]"))
    if run:
        record = run / "sets.json"
        if not record.exists():
            record.write_text(json.dumps(names), "utf-8")
        names = json.loads(record.read_text("utf-8"))
    return [data / n for n in names]


def _borrow(model: DenseEncoder, state: dict[str, torch.Tensor]) -> None:
    stem = state["encoder.stem.weight"]
    wanted = model.encoder.stem.weight.shape[1]
    state["encoder.stem.weight"] = stem.repeat(1, wanted // stem.shape[1], 1, 1) / (wanted // stem.shape[1])
    model.load_state_dict(state)


def load_net(run: Path, encoders: tuple[str, ...] = MODALITIES) -> Cman:
    """The network with the run's encoders (or some of them), and its fusion where there is one."""
    net = Cman(config_of(run))
    for modality in encoders:
        state = torch.load(run / f"encoder-{modality}.pt", weights_only=True, map_location="cpu")["state"]
        own = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
        net.encoders[modality].load_state_dict(own)
    if (run / "fusion.pt").exists():
        state = torch.load(run / "fusion.pt", weights_only=True, map_location="cpu")
        net.fusion.load_state_dict({k.removeprefix("fusion."): v for k, v in state.items() if k.startswith("fusion.")})
    return net.eval()


def calibration_images(sides: Sides, modality: str, seed: int, count: int = 64) -> NDArray[np.float32]:
    """Whole images for the quantiser."""
    side, slot = np.nonzero(sides.masks[modality])
    at = np.random.default_rng(seed).choice(len(side), min(count, len(side)), replace=False)
    pixels: NDArray[np.float32] = np.stack([sides.images[modality][side[n], slot[n]] for n in at]).astype(np.float32)
    return pixels / np.float32(255.0)


def stage_graph(run: Path, modality: str, train: Sides, seed: int, log: Journal) -> None:
    """The encoder's graph in run/fp32 and run/int8."""
    done = run / "int8" / NAMES[modality]
    if not done.exists():
        for folder in ("fp32", "int8"):
            (run / folder).mkdir(exist_ok=True)
        exact = write_encoder(load_net(run, (modality,)).encoders[modality], modality, config_of(run), run / "fp32")
        part = done.with_suffix(".part")
        shutil.copyfile(exact, part)
        quantise(part, calibration_images(train, modality, seed))
        part.rename(done)
        log(f"graph {modality}")


def graphs_of(folder: Path, config: NetConfig = DEFAULT) -> ModelPackage:
    """A folder with four graphs that is no package yet, as the runners take it."""
    spec = ModelSpec.from_manifest(
        {"name": "x", "version": "0", "input_size": config.input_size, "precision": "", "preprocess": "", "files": {}}
        | {"graphs": NAMES, "golden": [], "golden_tolerance": 0.02, "temperature": 1.0, "requires": [["MG"]]}
        | {"thresholds": {"positive_at": 0.5, "negative_below": 0.5}}
    )
    return ModelPackage(spec, "", {r: (folder / n).read_bytes() for r, n in NAMES.items()}, ())


def stage_tokens(run: Path, modality: str, data: Path, log: Journal) -> NDArray[np.float16]:
    """Token maps of all present images of a modality, (N, slots, d, g, g), by the int8 encoder, cached in run/tokens."""
    folder, graph = run / "tokens" / data.name, run / "int8" / NAMES[modality]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{modality}.npy"
    if not path.exists():
        sides = open_sides(data)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(graph.read_bytes(), options, providers=["CPUExecutionProvider"])
        mask = sides.masks[modality]
        config = config_of(run)
        array = np.zeros((*mask.shape, config.width, config.grid, config.grid), np.float16)
        side, slot = np.nonzero(mask)
        for n in range(0, len(side), 16):
            at = (side[n : n + 16], slot[n : n + 16])
            images = sides.images[modality][at].astype(np.float32) / np.float32(255.0)
            array[at] = session.run(["tokens"], {"images": images})[0]
        np.save(path.with_suffix(".part.npy"), array)
        path.with_suffix(".part.npy").rename(path)
        log(f"tokens {data.name} {modality}", images=len(side))
    return np.load(path, mmap_mode="r")


def readings_of(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """How the run's encoders read the concepts from a token, by modality (evidence/recovered.py: of a package's)."""
    found = {}
    for modality in MODALITIES:
        state = torch.load(run / f"encoder-{modality}.pt", weights_only=True, map_location="cpu")["state"]
        found[modality] = {"weight": state["read.weight"][:, :, 0, 0], "bias": state["read.bias"]}
    return found


def losses_for(train: Sides, gamma: float | None = None, alpha: float | None = None) -> Losses:
    """What a set is learned by: cross-entropy against known risks, focal loss (Lin et al. 2017) for drawn labels, or as asked.

    Where nobody knows what lies where, there is no auxiliary task.
    """
    usual = Losses() if train.known else Losses(gamma=2.0, alpha=0.25, dense=0.0, aim=0.0)
    asked = {"gamma": gamma, "alpha": alpha}
    return replace(usual, **{k: v for k, v in asked.items() if v is not None})


def stage_fusion(
    run: Path,
    data: tuple[Sides, Sides],
    tokens: tuple[Tokens, Tokens],
    readings: Mapping[str, Mapping[str, torch.Tensor]],
    schedule: Schedule,
    *,
    seed: int,
    log: Journal,
    chosen: Losses | None = None,
) -> None:
    """fusion.pt: the state with the best AUC on validation. readings: the encoders' own, which stay as they are."""
    from sklearn.metrics import roc_auc_score

    if (run / "fusion.pt").exists():
        return
    train, val = data
    torch.manual_seed(seed)
    model = DenseFusion(config_of(run))
    for modality in MODALITIES:
        reading = model.fusion.tokeniser.concept[modality]
        reading.load_state_dict(readings[modality])
        reading.requires_grad_(False)  # noqa: FBT003  # torch's own signature
    if train.known:
        log("alignment", planes=aim(model.fusion.prior, train))

    losses = chosen or losses_for(train)
    began, curve = time.monotonic(), log.curve("fusion")
    kept, resume = run / "fusion.best", run / "fusion.resume"
    best, since = (torch.load(kept, weights_only=True)["auc"] if resume.exists() else 0.0), 0

    def keep(step: int, loss: float) -> bool:
        """Keep the best so far; False when it has not got better for PATIENCE times."""
        nonlocal best, since
        value = float(roc_auc_score(val.label, logits_of(model.fusion, tokens[1], val.masks)))
        curve(step, loss=loss, validation_auc=value)
        since += 1
        if value >= best:
            best, since = value, 0
            save(kept, {"state": model.state_dict(), "auc": value})
        return since < PATIENCE

    steps = train_fusion(model, tokens[0], train, schedule, losses, seed=seed, keep=keep, checkpoint=resume)
    save(run / "fusion.pt", torch.load(kept, weights_only=True)["state"])
    for path in (kept, resume):
        path.unlink(missing_ok=True)
    log("fusion", steps=steps, sides=len(train.label), seconds=round(time.monotonic() - began))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all stages that are not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="quick")
    parser.add_argument("--budget-min", type=float, default=75.0, help="minutes for all stages together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=MODALITIES, default="", help="train this encoder and stop")
    parser.add_argument("--lr", type=float, help="peak rate of both stages, in place of the preset's")
    parser.add_argument("--fusion-steps", type=int, help="in place of the preset's")
    parser.add_argument(
        "--gamma", type=float, help="of the focal loss; 0 is cross-entropy (0 for known risks, 2 for labels)"
    )
    parser.add_argument(
        "--alpha", type=float, help="weight of the positive class in it (0.5 for known risks, 0.25 for labels)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.run.mkdir(parents=True, exist_ok=True)
    log = Journal(options.run)
    preset = PRESETS[options.preset]
    for stage in ("encoder", "fusion"):
        preset[stage] |= {"peak": options.lr} if options.lr else {}
    budget_s = options.budget_min * 60
    check_splits(
        [
            *train_sets(options.data),
            *(options.data / n for n in ("val", "calibration", "test") if (options.data / n).exists()),
        ]
    )
    log("start", seed=options.seed, preset=options.preset, budget_min=options.budget_min)
    began = time.monotonic()
    stage_encoders(options.run, options.data, preset, budget_s=budget_s, seed=options.seed, log=log, only=options.only)
    sets = train_sets(options.data, None if options.only else options.run)
    tokens: list[dict[str, NDArray[np.float16]]] = [{}, {}]
    for modality in (options.only,) if options.only else MODALITIES:
        stage_graph(options.run, modality, open_sides(sets[0]), options.seed, log)
        parts = [stage_tokens(options.run, modality, folder, log) for folder in (*sets, options.data / "val")]
        tokens[0][modality], tokens[1][modality] = np.concatenate(parts[:-1]), parts[-1]
    if options.only:
        return
    train, val = open_all(sets), open_sides(options.data / "val")
    left_s = min(preset["fusion_share"] * budget_s, budget_s - (time.monotonic() - began))
    schedule = Schedule(options.fusion_steps or preset["fusion_steps"], max(left_s, 60.0), **preset["fusion"])
    known = readings_of(options.run)
    losses = losses_for(train, options.gamma, options.alpha)
    material = (train, val), (tokens[0], tokens[1])
    stage_fusion(options.run, *material, known, schedule, seed=options.seed, log=log, chosen=losses)


if __name__ == "__main__":
    main()
