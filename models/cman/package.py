"""Write a package's golden samples and manifest, through the service's own runner. Writes files where it is told."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from casework.engine.bundle import Golden, ModelPackage, open_package
from casework.engine.golden import check_golden, inputs_of
from casework.engine.onnxrt import OnnxRunner
from casework.modelspec import SLOTS, ModelSpec
from models.cman.net.cman import Cman

TOLERANCE = 0.02


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _runner(folder: Path, manifest: Mapping[str, Any]) -> OnnxRunner:
    """A runner for a folder that has no golden samples yet."""
    graphs = {role: (folder / name).read_bytes() for role, name in manifest["graphs"].items()}
    return OnnxRunner(ModelPackage(ModelSpec.from_manifest(manifest), "", graphs, ()), threads=2)


def write_golden(folder: Path, manifest: Mapping[str, Any], name: str, case: Mapping[str, NDArray[Any]]) -> str:
    """Run one case (uint8 images and masks by modality) and record inputs and outputs; returns the relative path."""
    outputs = _runner(folder, manifest).run(inputs_of(Golden(name, case)))
    relative = f"golden/{name}.npz"
    (folder / "golden").mkdir(exist_ok=True)
    arrays = {m: case[m].astype(np.uint8) for m in SLOTS} | {f"{m}_mask": case[f"{m}_mask"] for m in SLOTS}
    arrays |= {f"{m}_heat": outputs.heat[m].astype(np.float32) for m in SLOTS}
    arrays |= {f"{m}_evidence": outputs.evidence[m] for m in SLOTS}
    np.savez_compressed(folder / relative, prob=outputs.prob, logit=outputs.logit, **arrays)
    return relative


@torch.no_grad()
def parity(net: Cman, folder: Path, manifest: Mapping[str, Any], case: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """How far the float graphs, run split and image by image as served, are from the whole torch network."""
    outputs = _runner(folder, manifest).run(inputs_of(Golden("parity", case)))
    images = {m: torch.from_numpy(case[m]).float() / 255.0 for m in SLOTS}
    masks = {m: torch.from_numpy(case[f"{m}_mask"]).float() for m in SLOTS}
    logit, _, *heat = net.eval()(images, masks)
    worst = max(float(np.abs(outputs.heat[m] - h.numpy()).max()) for m, h in zip(SLOTS, heat, strict=True))
    return {
        "cases": len(logit),
        "logit_std": float(logit.std()),
        "max_abs_logit": float(np.abs(outputs.logit - logit.numpy()).max()),
        "max_abs_heat": worst,
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any], files: list[str]) -> ModelPackage:
    """Write manifest.json with the sha256 of every file, then open the package and check it as the service does."""
    document = dict(manifest) | {"files": {name: _digest(folder / name) for name in sorted(files)}}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, "utf-8")
    package = open_package(folder)
    check_golden(OnnxRunner(package, threads=2), package)
    return package
