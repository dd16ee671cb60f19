"""Packages that exist to be timed: the shipped network in float and at 384 px, the student untrained. Writes where told.

    python -m models.cman.speed --out .work/speed && python -m tests.bench.network .work/speed/*

cman's are the shipped weights (floats are those of the int8 file, unquantised.py; at 384 px the same convolutions run over
a larger image, and the fusion over 24 x 24 tokens). cman-lite's are random: time does not depend on what weights are, and
nothing else may be read from these packages.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto

from casework.engine.bundle import ModelPackage, open_package
from casework.modelspec import CHANNELS, SLOTS
from models.cman.evidence import recovered
from models.cman.export import NAMES, quantise, write_encoder, write_fusion
from models.cman.net.cman import Cman, Fusion
from models.cman.net.config import MODALITIES, STUDENT, NetConfig
from models.cman.package import write_golden, write_manifest
from models.cman.unquantised import unquantised

CARD = "For timing only (models/cman/speed.py). Never configure it where a result could reach a patient.\n"


def resized(model: ModelProto, size: int) -> ModelProto:
    """A fully convolutional encoder over images of another size; dimensions inside are inferred again."""
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    for value, side in ((result.graph.input[0], size), (result.graph.output[0], size // 16)):
        for axis in (2, 3):
            value.type.tensor_type.shape.dim[axis].dim_value = side
    onnx.checker.check_model(result, full_check=True)
    return result


def dress(folder: Path, of: Mapping[str, Any], config: NetConfig, precision: str) -> None:
    """Make a package of a folder with the four graphs: manifest, one recorded run, a card that says what it is."""
    rng = np.random.default_rng(1)
    case: dict[str, Any] = {}
    for m, slots in SLOTS.items():
        shape = (1, len(slots), CHANNELS[m], config.input_size, config.input_size)
        case[m] = np.kron(rng.integers(0, 255, (*shape[:3], 8, 8)), np.ones((config.input_size // 8,) * 2)).astype(
            np.uint8
        )
        case[f"{m}_mask"] = np.ones((1, len(slots)), np.uint8)
    manifest = {
        **{
            k: of[k]
            for k in ("version", "intended_use", "licence", "preprocess", "thresholds", "temperature", "requires")
        },
        "name": folder.name,
        "training": "for timing only",
        "training_statement": {"en": "For timing only.", "zh": "仅用于计时。"},
        "input_size": config.input_size,
        "precision": precision,
        "graphs": NAMES,
        "golden": [],
        "golden_tolerance": 0.1,
        "files": {},
        "network": config.as_dict(),
        "opset": 18,
    }
    manifest["golden"] = [write_golden(folder, manifest, "full", case)]
    (folder / "MODEL_CARD.md").write_text(CARD, "utf-8")
    write_manifest(folder, manifest, [*NAMES.values(), *manifest["golden"], "MODEL_CARD.md"])


def shipped(package: ModelPackage, path: Path, size: int, precision: str, out: Path) -> None:
    """The shipped network in another precision or at another size."""
    config = replace(NetConfig.from_dict(package.spec.raw["network"]), input_size=size)
    out.mkdir(parents=True, exist_ok=True)
    for m in MODALITIES:
        model = onnx.load_from_string(package.graphs[m])
        model = unquantised(model) if precision == "fp32" else model
        onnx.save(resized(model, size), str(out / NAMES[m]))
    fusion = Fusion(config)
    fusion.load_state_dict(recovered.fusion(path, NetConfig.from_dict(package.spec.raw["network"])).state_dict())
    write_fusion(fusion.eval(), out)
    dress(out, package.spec.raw, config, precision)


def student(package: ModelPackage, size: int, precision: str, out: Path) -> None:
    """The student with random weights."""
    torch.manual_seed(1)
    config = replace(STUDENT, input_size=size)
    net = Cman(config).eval()
    out.mkdir(parents=True, exist_ok=True)
    for m in MODALITIES:
        path = write_encoder(net.encoders[m], m, config, out)
        if precision == "int8":
            quantise(path, np.random.default_rng(1).random((8, CHANNELS[m], size, size), np.float32))
    write_fusion(net.fusion, out)
    dress(out, package.spec.raw, config, precision)


def main() -> None:
    """Write what is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    package = open_package(options.package)
    path = options.package / json.loads((options.package / "manifest.json").read_text("utf-8"))["graphs"]["fusion"]
    for size in (224, 384):
        for precision in ("fp32", "int8"):
            whole = options.out / f"cman-{size}-{precision}"
            if not (whole / "manifest.json").exists():
                shipped(package, path, size, precision, whole)
            lite = options.out / f"cman-lite-{size}-{precision}"
            if not (lite / "manifest.json").exists():
                student(package, size, precision, lite)


if __name__ == "__main__":
    main()
