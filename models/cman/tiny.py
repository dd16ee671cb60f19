"""Make models/cman-tiny: the real graphs and package format with small random weights, for tests only.

    python -m models.cman.tiny

The weights are random; batch-norm statistics and the head's scale are set from procedural images so that outputs vary
with the input (with plain random weights a parity test would prove nothing).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from casework.modelspec import CHANNELS, SLOTS
from casework.preprocess.prepared import VERSION
from models.cman.export import NAMES, write_encoder, write_fusion
from models.cman.net.cman import Cman
from models.cman.net.config import MODALITIES, TINY
from models.cman.package import TOLERANCE, parity, write_golden, write_manifest

OUT = Path(__file__).resolve().parents[1] / "cman-tiny"
SEED = 20261120

CARD = """# cman-tiny

**For tests only. The weights are random. Its numbers mean nothing.**

The CMAN graphs (three encoders, fusion) at a fraction of the width, with random weights whose scale was set on
procedural images, so that software can be tested quickly through the real package format. It was not trained, not
evaluated, and must never be configured where a result could reach a patient. Licence: Apache-2.0.

Made by `python -m models.cman.tiny` (seed {seed}).
"""


def blobs(rng: np.random.Generator, count: int, channels: int, size: int) -> NDArray[np.uint8]:
    """Procedural images (count, channels, size, size): a few smooth spots and noise."""
    axis = np.arange(size) / size
    images = rng.uniform(0, 60, (count, channels, size, size))
    for n in range(count):
        for _ in range(4):
            row, col, width = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.02, 0.2)
            spot = np.exp(-((axis[:, None] - row) ** 2 + (axis[None] - col) ** 2) / (2 * width**2))
            images[n] += rng.uniform(40, 120, (channels, 1, 1)) * spot
    return np.bitwise_and(
        np.clip(images, 0, 255).astype(np.uint8), np.uint8(0xC0)
    )  # coarse steps: golden samples stay small


def sides(rng: np.random.Generator, count: int, size: int) -> dict[str, NDArray[np.uint8]]:
    """Images and full masks of `count` sides, by modality."""
    case = {}
    for modality, slots in SLOTS.items():
        flat = blobs(rng, count * len(slots), CHANNELS[modality], size)
        case[modality] = flat.reshape(count, len(slots), CHANNELS[modality], size, size)
        case[f"{modality}_mask"] = np.ones((count, len(slots)), np.uint8)
    return case


@torch.no_grad()
def calibrated(rng: np.random.Generator) -> Cman:
    """A random network whose activations and logits are of useful size."""
    torch.manual_seed(SEED)
    net = Cman(TINY)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            module.momentum = None
    for modality in MODALITIES:
        nn.init.normal_(net.fusion.pool.score[modality].weight)
        nn.init.normal_(net.fusion.pool.evidence[modality].weight)
        nn.init.normal_(net.fusion.pool.evidence_of[modality])
    case = sides(rng, 24, TINY.input_size)
    images = {m: torch.from_numpy(case[m]).float() / 255.0 for m in MODALITIES}
    masks = {m: torch.from_numpy(case[f"{m}_mask"]).float() for m in MODALITIES}
    net.train()
    for modality in MODALITIES:
        net.encode(modality, images[modality])
    for modality, slots in SLOTS.items():
        masks[modality] = torch.from_numpy(rng.integers(0, 2, (24, len(slots)))).float()
    net.eval()
    logits = net(images, masks)[0]
    scale = 1.2 / float(logits.std())
    for modality in MODALITIES:
        net.fusion.pool.evidence[modality].weight *= scale
        net.fusion.pool.evidence_of[modality] *= scale
        net.fusion.pool.evidence[modality].bias.fill_(-0.2 - scale * float(logits.mean()) / 3)
    return net


def main() -> None:
    """Write the package."""
    rng = np.random.default_rng(SEED)
    OUT.mkdir(exist_ok=True)
    net = calibrated(rng)
    for modality in MODALITIES:
        write_encoder(net.encoders[modality], modality, TINY, OUT)
    write_fusion(net.fusion, OUT)
    manifest: dict[str, Any] = {
        "name": "cman-tiny",
        "version": "0.1.0",
        "intended_use": "Software tests only. Random weights; not for any other use.",
        "training": "none",
        "training_statement": {
            "en": "The model was not trained: random weights, for software tests only.",
            "zh": "模型未经训练：权重随机，仅供软件测试。",
        },
        "licence": "Apache-2.0",
        "input_size": TINY.input_size,
        "precision": "fp32",
        "preprocess": VERSION,
        "graphs": NAMES,
        "golden": [],
        "golden_tolerance": TOLERANCE,
        "thresholds": {"positive_at": 0.6, "negative_below": 0.4},
        "temperature": 1.0,
        "requires": [["MG"], ["MR"], ["US"]],
        "files": {},
        "network": TINY.as_dict(),
        "opset": 18,
    }
    case = sides(rng, 8, TINY.input_size)
    for modality, slots in SLOTS.items():
        case[f"{modality}_mask"] = rng.integers(0, 2, (8, len(slots)), np.uint8)
    manifest["parity"] = parity(net, OUT, manifest, case)
    full = sides(rng, 2, TINY.input_size)
    manifest["golden"].append(write_golden(OUT, manifest, "full", full))
    part = sides(rng, 2, TINY.input_size)
    part["MR_mask"][:] = 0
    part["US_mask"][1] = 0
    manifest["golden"].append(write_golden(OUT, manifest, "no-mr", part))
    (OUT / "MODEL_CARD.md").write_text(CARD.format(seed=SEED), "utf-8")
    write_manifest(OUT, manifest, [*manifest["graphs"].values(), *manifest["golden"], "MODEL_CARD.md"])


if __name__ == "__main__":
    main()
