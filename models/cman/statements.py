"""The sentences that a package states about itself, in one place. Does no I/O."""

from collections.abc import Mapping
from typing import Any

VERSION = "0.2.0"
REQUIRES = [["MG"], ["MR"], ["US"]]
INTENDED_USE = (
    "Research and software integration only. Trained on synthetic phantoms; not for clinical use, not a medical device."
)
EVALUATION = (
    "Held-out synthetic phantoms with known truth. These numbers show that the network can use what the phantoms put into "
    "several modalities. They say nothing about any patient."
)


def training(evaluation: Mapping[str, Any]) -> str:
    """What the weights have seen."""
    sets = evaluation["sets"]
    train = f"{sets['train']['patients']} patients ({sets['train']['sides']} sides) for training"
    if "encoders" in sets:
        first = sets["encoders"]
        train = f"{first['patients']} patients ({first['sides']} sides) for the encoders, {sets['train']['patients']} others ({sets['train']['sides']} sides) for the fusion"
    more = f", {sets['calibration']['patients']} for calibration" if "calibration" in sets else ""
    return (
        f"Synthetic phantoms only: {train}, {sets['val']['patients']} for validation{more}. "
        "No image of a real person, no pretrained weights."
    )


def training_statement(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """The same for reports, by language."""
    sets = evaluation["sets"]
    counts = [sets[n][k] for n in ("encoders", "train") if n in sets for k in ("patients", "sides")]
    train = "编码器训练{}例（{}侧），融合训练另外{}例（{}侧）" if "encoders" in sets else "训练{}例（{}侧）"
    more = f"，校准{sets['calibration']['patients']}例" if "calibration" in sets else ""
    chinese = f"模型仅用合成模体训练：{train}，验证{{}}例{{}}。未使用真实人体图像，未使用预训练权重。"
    return {
        "en": "The model was trained on: " + training(evaluation),
        "zh": chinese.format(*counts, sets["val"]["patients"], more),
    }
