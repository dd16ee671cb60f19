"""A new fusion for a package whose encoders stay as they are: train it on their tokens, then release. Resumable, seeded.

    python -m models.cman.refit --data DATA --run RUN [--steps 1500] [--only-train]

DATA holds cohorts (evidence/cohort.py): the fusion learns from the internal one; when to stop comes from validation,
shifts and thresholds too, and the temperature, corrected by what the folds of --baselines say of chance in those patients;
test and external are only read. The package's files are written over, with the version
of statements.py; afterwards `python -m models.cman.reference --data DATA/validation` and `make evidence`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from casework.engine.bundle import ModelPackage, open_package
from casework.modelspec import SLOTS
from models.cman.data import Sides, open_sides
from models.cman.encoders import Schedule
from models.cman.evidence import cohort
from models.cman.evidence.baselines import correction
from models.cman.evidence.recovered import readings
from models.cman.evidence.shipped import Reader, kept_by_subset
from models.cman.export import NAMES, write_fusion
from models.cman.fuse import DenseFusion, Tokens
from models.cman.journal import Journal
from models.cman.net.cman import Fusion
from models.cman.net.config import MODALITIES, NetConfig
from models.cman.release import (
    NONE,
    all_logits,
    choose,
    evaluated,
    manifest_of,
    pointing,
    shifted,
    write,
)
from models.cman.train import graphs_of, stage_fusion
from models.cman.unquantised import unquantised

NAMED = {
    "train": cohort.INTERNAL,
    "val": cohort.VALIDATION,
    "test": cohort.TEST,
    "external": cohort.EXTERNAL,
}


def graphs(package: ModelPackage, fusion: Fusion, run: Path) -> dict[str, Path]:
    """The package's encoders, as shipped and as floats, each with the new fusion."""
    folders = {kind: run / kind for kind in ("int8", "fp32")}
    for kind, folder in folders.items():
        folder.mkdir(exist_ok=True)
        for m in MODALITIES:
            graph = package.graphs[m]
            exact = unquantised(onnx.load_from_string(graph)).SerializeToString() if kind == "fp32" else graph
            (folder / NAMES[m]).write_bytes(exact)
        write_fusion(fusion, folder)
    return folders


@torch.no_grad()
def parity(fusion: Fusion, reader: Reader, tokens: Tokens, sides: Sides) -> dict[str, Any]:
    """How far the fusion's graph is from torch, on eight sides."""
    at = np.arange(min(8, len(sides.label)))
    told = reader.read({m: tokens[m][at] for m in SLOTS}, {m: sides.masks[m][at] for m in SLOTS})
    maps = [torch.from_numpy(np.asarray(tokens[m][at], np.float32)) for m in MODALITIES]
    masks = [torch.from_numpy(sides.masks[m][at]).float() for m in MODALITIES]
    logit, _, *heat = fusion.eval()(*maps, *masks)
    worst = max(float(np.abs(told.heat[m] - h.numpy()).max()) for m, h in zip(SLOTS, heat, strict=True))
    far = float(np.abs(told.logit - logit.numpy()).max())
    return {"cases": len(at), "logit_std": float(logit.std()), "max_abs_logit": far, "max_abs_heat": worst}


def release(  # noqa: PLR0917  # private in all but name, called once
    package: ModelPackage,
    out: Path,
    run: Path,
    material: Mapping[str, tuple[Path, Sides, Tokens]],
    log: Journal,
    seed: int,
    baselines: Path | None = None,
) -> None:
    """Calibrate, evaluate, write."""
    config = NetConfig.from_dict(package.spec.raw["network"])
    model = DenseFusion(config)
    model.load_state_dict(torch.load(run / "fusion.pt", weights_only=True, map_location="cpu"))
    fusion = model.fusion.eval()
    sets = {n: sides for n, (_, sides, _) in material.items()}
    chance = correction(baselines, sets["train"], sets["val"]) if baselines else NONE
    chosen = choose(all_logits(fusion, material["val"][2], sets["val"]), sets["val"].label, chance)
    log("calibration", **chosen)
    folders = graphs(package, shifted(fusion, chosen["shifts"]), run)
    made = graphs_of(folders["int8"], config)
    reader = Reader(made, torch.get_num_threads())
    looked = {n: some for n, some in material.items() if n != "train"}
    logits = {n: kept_by_subset(made, reader, folder, tokens, sides) for n, (folder, sides, tokens) in looked.items()}
    evaluation = evaluated(config, sets, logits, folders, chosen, seed)
    evaluation["pointing_game"] = pointing(reader, material["test"][2], sets["test"])
    before = json.loads((out / "evaluation.json").read_text("utf-8"))
    evaluation["sets"]["encoders"] = before["sets"].get("encoders", before["sets"]["train"])
    kept = [e for e in before["training_log"] if e["event"].split()[0] in ("encoder", *MODALITIES)]
    evaluation["training_log"] = kept + log.entries()
    manifest = manifest_of(package.spec.name, config, evaluation, sets["val"].preprocess, "int8")
    manifest["parity"] = parity(fusion, reader, material["test"][2], sets["test"])
    write(out, folders["int8"], manifest, evaluation, sets["test"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not trained, release."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--budget-min", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--baselines", type=Path, help="docs/evidence: what its folds say of the validation patients")
    parser.add_argument("--only-train", action="store_true", help="stop before anything of the package is written")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    log = Journal(options.run)
    package = open_package(options.package)
    (options.run / "config.json").write_text(json.dumps(package.spec.raw["network"], indent=1) + "\n", "utf-8")
    material = {}
    for name in ("train", "val") if options.only_train else NAMED:
        folder = cohort.drawn(NAMED[name], options.data, package.spec.input_size, options.threads)
        material[name] = (folder, open_sides(folder), cohort.encoded(package, folder, options.threads))
    known = readings(options.package / package.spec.graphs["fusion"])
    schedule = Schedule(options.steps, 60 * options.budget_min, 32, 1e-3, 1e-4)
    (_, train, taught), (_, val, told) = material["train"], material["val"]
    stage_fusion(options.run, (train, val), (taught, told), known, schedule, seed=options.seed, log=log)
    if not options.only_train:
        release(package, options.package, options.run, material, log, options.seed, options.baselines)


if __name__ == "__main__":
    main()
