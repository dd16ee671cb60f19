"""Studies that need torch or onnx: Grad-CAM, the rounding of activations, planes that don't lie where they should.

    python -m models.cman.evidence.studies --data DATA --out docs/evidence [--sides 400] [--runs RUNS]

DATA holds the test cohort (drawn if it isn't there). With RUNS (folds.py) the heads trained there are shifted too, and the
label-noise runs below it (RUNS/labels-00, labels-10, ...: `folds --target label --flipped 0.1`) are read. Writes studies.json,
which `make evidence` puts on its page.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from casework.engine.bundle import ModelPackage, open_package
from casework.modelspec import SLOTS
from models.cman.data import Sides, open_sides
from models.cman.evidence import cohort, folds, heat, measure, recovered, stats
from models.cman.evidence.cohort import Tokens
from models.cman.evidence.shipped import Reader, Reading
from models.cman.net.cman import Fusion
from models.cman.net.config import MODALITIES, NetConfig
from models.cman.unquantised import unquantised

Floats = NDArray[np.float64]
SHIFTS = (0, 1, 2, 3)  # tokens, 16 px each


def _tensors(tokens: Tokens, masks: Mapping[str, NDArray[np.uint8]], at: NDArray[np.int64]) -> tuple[list[Tensor], ...]:
    maps = [torch.from_numpy(np.asarray(tokens[m][at], np.float32)) for m in MODALITIES]
    return maps, [torch.from_numpy(np.asarray(masks[m][at], np.float32)) for m in MODALITIES]


def grad_cam(fusion: Fusion, maps: list[Tensor], masks: list[Tensor]) -> Reading:
    """Grad-CAM (Selvaraju et al. 2017) of the logit on the encoders' token maps, at the served map's resolution."""
    leaves = [m.clone().requires_grad_() for m in maps]
    logit, *_ = fusion(*leaves, *masks)
    gradients = torch.autograd.grad(logit.sum(), leaves)
    found = {}
    for m, leaf, gradient in zip(MODALITIES, leaves, gradients, strict=True):
        weight = gradient.mean((3, 4), keepdim=True)
        cam = functional.relu((weight * leaf).sum(2))
        found[m] = functional.interpolate(cam, scale_factor=4.0, mode="bilinear").detach().numpy()
    return Reading(logit.detach().numpy(), {}, found)


def against_grad_cam(
    fusion: Fusion, tokens: Tokens, sides: Sides, bits: Mapping[str, Any], count: int
) -> dict[str, Any]:
    """Both maps of the same positive sides against the truth."""
    own, reference = heat.Tally(), heat.Tally()
    positive = np.flatnonzero(sides.label == 1)[:count]
    for n in range(0, len(positive), 8):
        at = positive[n : n + 8]
        maps, masks = _tensors(tokens, sides.masks, at)
        truth, there = ({m: a[m][at] for m in SLOTS} for a in (bits, sides.masks))
        reference.add(grad_cam(fusion, maps, masks), truth, there)
        with torch.no_grad():
            logit, _, *heats = fusion(*maps, *masks)
        named = {m: h.numpy() for m, h in zip(MODALITIES, heats, strict=True)}
        own.add(Reading(logit.numpy(), {}, named), truth, there)
    return {"sides": len(positive), "contributions": own.result(), "grad_cam": reference.result()}


def _session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def rounding(package: ModelPackage, tokens: Tokens, sides: Sides, count: int, threads: int) -> dict[str, Any]:
    """int8 as shipped against the float twin of the same weights (unquantised.py), on the first `count` sides."""
    at = np.arange(min(count, len(sides.label)))
    exact = {}
    for m in SLOTS:
        session = _session(unquantised(onnx.load_from_string(package.graphs[m])).SerializeToString(), threads)
        mask, found = sides.masks[m][at], np.zeros((len(at), *tokens[m].shape[1:]), np.float16)
        for n in at:
            there = mask[n] > 0
            images = sides.images[m][n][there].astype(np.float32) / np.float32(255.0)
            found[n][there] = session.run(["tokens"], {"images": images})[0]
        exact[m] = found
    reader, masks = Reader(package, threads), {m: sides.masks[m][at] for m in SLOTS}
    a, b = reader.read({m: tokens[m][at] for m in SLOTS}, masks), reader.read(exact, masks)
    temperature, cut = package.spec.temperature, package.spec.positive_at
    pa, pb = (stats.chances(r.logit.astype(np.float64), temperature) for r in (a, b))
    apart, alike = np.abs(pa - pb), heat.likeness(a, b, masks)
    pair = stats.paired(sides.label[at], a.logit.astype(float), b.logit.astype(float), sides.case[at])
    return {
        "sides": len(at),
        "mean_abs_dp": float(apart.mean()),
        "p99_abs_dp": float(np.percentile(apart, 99)),
        "max_abs_dp": float(apart.max()),
        "flips_at_positive": int(((pa >= cut) != (pb >= cut)).sum()),
        "heat_correlation_mean": float(alike.mean()),
        "auc_int8_minus_float": pair,
    }


def shifted(maps: NDArray[np.float16], by: int, rng: np.random.Generator) -> NDArray[np.float16]:
    """MR maps (n, V, d, g, g) moved `by` tokens in a random direction a side, the free edge repeated."""
    moved = np.empty_like(maps)
    for n, one in enumerate(maps):
        turn = rng.uniform(0, 2 * np.pi)
        dy, dx = round(by * float(np.sin(turn))), round(by * float(np.cos(turn)))
        rows, cols = (np.clip(np.arange(maps.shape[-1]) - d, 0, maps.shape[-1] - 1) for d in (dy, dx))
        moved[n] = one[..., rows, :][..., cols]
    return moved


def misregistered(
    readers: Mapping[str, Callable[[Tokens, Sides], Floats]], tokens: Tokens, sides: Sides, count: int, seed: int
) -> dict[str, Any]:
    """AUC of every reader when the MRI's planes lie beside where they lay in training, by tokens."""
    at = np.arange(min(count, len(sides.label)))
    some = sides.part_without_images(at)
    result: dict[str, Any] = {"sides": len(at)}
    for by in SHIFTS:
        near = {m: np.asarray(tokens[m][at]) for m in SLOTS}
        near["MR"] = shifted(near["MR"], by, np.random.default_rng([seed, by]))
        result[str(by)] = {n: stats.auc(some.label, read(near, some), some.case) for n, read in readers.items()}
    return result


def _readers(
    package: ModelPackage, path: Path, runs: Path | None, sides: Sides, threads: int
) -> dict[str, Callable[[Tokens, Sides], Floats]]:
    """The shipped fusion, and every head of RUNS by its first fold."""
    reader = Reader(package, threads)
    found: dict[str, Callable[[Tokens, Sides], Floats]] = {"shipped": lambda t, s: reader.logits(t, s.masks)}
    known = recovered.readings(path)
    for state in sorted(runs.glob("*-0.pt")) if runs else ():
        name = state.stem.rsplit("-", 1)[0]
        head = folds.make(name, NetConfig.from_dict(package.spec.raw["network"]), sides, known)
        head.load_state_dict(torch.load(state, weights_only=True, map_location="cpu"))
        found[name] = lambda t, s, h=head: folds.scores(h, t, s, np.arange(len(s.label))).astype(np.float64)  # type: ignore[misc]
    return found


def label_noise(runs: Path, sides: Sides) -> dict[str, Any]:
    """AUC on the test cohort by head and share of turned labels, from RUNS/labels-NN."""
    result: dict[str, Any] = {}
    for folder in sorted(runs.glob("labels-*")):
        for path in sorted(folder.glob("*-0.npz")):
            with np.load(path) as found:
                score = found["test"].astype(np.float64)
            numbers = stats.auc(sides.label, score, sides.case)
            result.setdefault(path.stem.rsplit("-", 1)[0], {})[folder.name.removeprefix("labels-")] = numbers
    return result


def main() -> None:
    """Run the studies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--sides", type=int, default=400, help="how many of the test cohort's sides are used")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="another set than the test cohort, to try the command")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    package = open_package(options.package)
    folder = options.folder or cohort.drawn(cohort.TEST, options.data, package.spec.input_size, options.threads)
    sides, tokens = open_sides(folder), cohort.encoded(package, folder, options.threads)
    bits = {m: np.load(folder / f"masks_{m.lower()}.npy", mmap_mode="r") for m in SLOTS}
    path = options.package / package.spec.graphs["fusion"]
    fusion = recovered.fusion(path, NetConfig.from_dict(package.spec.raw["network"]))
    seed = measure.SEED
    found = {
        "manifest_sha256": package.sha256,
        "seed": seed,
        "grad_cam": against_grad_cam(fusion, tokens, sides, bits, options.sides),
        "rounding": rounding(package, tokens, sides, options.sides, options.threads),
    }
    readers = _readers(package, path, options.runs, sides, options.threads)
    found["misregistered"] = misregistered(readers, tokens, sides, options.sides, seed)
    if options.runs:
        found["label_noise"] = label_noise(options.runs, sides)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "studies.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
