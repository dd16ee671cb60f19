"""The sentences that a package states about itself, in one place. Does no I/O."""

from collections.abc import Mapping
from typing import Any

VERSION = "0.1.0"
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
    return (
        f"Synthetic phantoms only: {sets['train']['patients']} patients ({sets['train']['sides']} sides) for training, "
        f"{sets['val']['patients']} for validation. No image of a real person, no pretrained weights."
    )


def training_statement(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """The same for reports, by language."""
    sets = evaluation["sets"]
    counts = (sets["train"]["patients"], sets["train"]["sides"], sets["val"]["patients"])
    chinese = "模型仅用合成模体训练：训练{}例（{}侧），验证{}例。未使用真实人体图像，未使用预训练权重。"
    return {"en": "The model was trained on: " + training(evaluation), "zh": chinese.format(*counts)}
