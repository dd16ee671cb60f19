"""What one model needs and says, read from its package's manifest.json. Does no I/O.

A package is a folder: manifest.json, ONNX files, golden inputs and outputs, MODEL_CARD.md. Every file is named in the
manifest with its sha256. Slots are the images of ONE side (one breast and its axilla): the network runs once per side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from casework.errors import Defect

SLOTS: Mapping[str, tuple[str, ...]] = {
    # MG: one image a view. MR: projections of the subtraction of one side. US: up to three frames of that side.
    "MG": ("CC", "MLO"),
    "MR": ("AX", "SAG", "AX_SUP", "AX_INF"),
    "US": ("1", "2", "3"),
}
"""Slot names per modality, in the order of the tensors' second axis. Shapes for B sides and input size S:
MG (B, 2, 1, S, S), MR (B, 4, 3, S, S) with channels pre, early minus pre, late minus pre, US (B, 3, 1, S, S);
masks (B, slots) with 1.0 where an image is present. Tensors are float32 in 0..1. Every side is shown the same way
round: MG is mirrored where the chest wall lies at the right (so it lies at the left edge), and axial MR projections of
the left breast are mirrored (so lateral is at the left)."""


CHANNELS: Mapping[str, int] = {"MG": 1, "MR": 3, "US": 1}
"""Channels of a slot's tensor per modality."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The part of a manifest that the service acts on."""

    name: str
    version: str
    input_size: int  # S, pixels
    precision: str  # "fp32" | "int8"
    preprocess: str  # version string of the preprocessing the weights were trained with
    files: Mapping[str, str]  # relative path -> sha256
    graphs: Mapping[str, str]  # role (MG, MR, US encoder or "fusion") -> relative path
    golden: tuple[str, ...]  # relative paths of golden samples
    golden_tolerance: float  # largest allowed difference of a probability
    positive_at: float  # probability at or above: positive
    negative_below: float  # probability below: negative; between: indeterminate
    temperature: float  # logits are divided by it before the sigmoid
    requires: tuple[tuple[str, ...], ...]  # any one of these sets of modalities is enough for a side
    raw: Mapping[str, Any]

    @staticmethod
    def from_manifest(manifest: Mapping[str, Any]) -> "ModelSpec":
        """Read a parsed manifest.json.

        Raises:
            Defect: MODEL_INVALID when a needed key is missing, of the wrong kind, or would make every reading wrong.
        """
        try:
            spec = ModelSpec(
                name=str(manifest["name"]),
                version=str(manifest["version"]),
                input_size=int(manifest["input_size"]),
                precision=str(manifest["precision"]),
                preprocess=str(manifest["preprocess"]),
                files={str(k): str(v) for k, v in manifest["files"].items()},
                graphs={str(k): str(v) for k, v in manifest["graphs"].items()},
                golden=tuple(str(v) for v in manifest["golden"]),
                golden_tolerance=float(manifest["golden_tolerance"]),
                positive_at=float(manifest["thresholds"]["positive_at"]),
                negative_below=float(manifest["thresholds"]["negative_below"]),
                temperature=float(manifest["temperature"]),
                requires=tuple(tuple(str(m) for m in group) for group in manifest["requires"]),
                raw=manifest,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Defect("MODEL_INVALID", f"manifest: {error!r}") from error
        for wrong, words in _senseless(spec):
            if wrong:
                raise Defect("MODEL_INVALID", f"manifest: {words}")
        return spec


def _senseless(spec: ModelSpec) -> tuple[tuple[bool, str], ...]:
    """Checks of values; written so that a NaN fails them."""
    return (
        (not 0 < spec.input_size <= 4096, "input_size"),
        (not 0.0 < spec.temperature < 100.0, "temperature"),
        (not 0.0 < spec.negative_below <= spec.positive_at < 1.0, "thresholds"),
        (not 0.0 < spec.golden_tolerance <= 0.1, "golden_tolerance"),
        (not spec.requires or not all(group and set(group) <= set(SLOTS) for group in spec.requires), "requires"),
    )
