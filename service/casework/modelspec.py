"""What one model needs and says, read from its package's manifest.json. Does no I/O.

A package is a folder: manifest.json, ONNX files, golden inputs and outputs, MODEL_CARD.md. Every file is named in the
manifest with its sha256. Slots are the images of ONE side (one breast and its axilla): the network runs once per side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
class TrainedOn:
    """What the training images covered, as far as the manifest says; empty where it doesn't.

    spacing_mm: "MG" (pixels of a mammogram), "MR" (planes of an MRI) -> (least, largest).
    """

    age_years: tuple[float, float] | None = None
    sexes: tuple[str, ...] = ()
    manufacturers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    spacing_mm: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    implants: bool = False
    synthetic: bool = False  # whether mammograms computed from tomosynthesis may be read where there is no other


@dataclass(frozen=True, slots=True)
class Cut:
    """Two thresholds on a probability: positive at or above one, negative below the other."""

    positive_at: float
    negative_below: float


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
    subsets: Mapping[tuple[str, ...], Cut]  # modalities that are there, in the order of SLOTS -> their own thresholds
    spread_limit: float | None  # a probability that moves further when one modality is left out decides nothing
    reference: str  # relative path of reference.npz, "" when the package has none
    trained_on: TrainedOn

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
                subsets={_modalities(k): _cut(v) for k, v in manifest.get("subset_thresholds", {}).items()},
                spread_limit=None if manifest.get("spread_limit") is None else float(manifest["spread_limit"]),
                reference=str(manifest.get("reference", "")),
                trained_on=_trained_on(manifest.get("trained_on", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Defect("MODEL_INVALID", f"manifest: {error!r}") from error
        for wrong, words in _senseless(spec):
            if wrong:
                raise Defect("MODEL_INVALID", f"manifest: {words}")
        return spec


def _modalities(name: str) -> tuple[str, ...]:
    """Modalities in the order of SLOTS from a name such as MG+US."""
    found = tuple(m for m in SLOTS if m in name.split("+"))
    if "+".join(found) != name:
        raise ValueError(f"subset_thresholds {name!r}")
    return found


def _cut(values: Mapping[str, Any]) -> Cut:
    cut = Cut(float(values["positive_at"]), float(values["negative_below"]))
    if not 0.0 <= cut.negative_below <= cut.positive_at <= 1.0:
        raise ValueError("subset_thresholds")
    return cut


def _trained_on(values: Mapping[str, Any]) -> TrainedOn:
    def span(pair: Any) -> tuple[float, float]:
        least, largest = pair
        return float(least), float(largest)

    age = values.get("age_years")
    return TrainedOn(
        age_years=None if age is None else span(age),
        sexes=tuple(str(s) for s in values.get("sexes", ())),
        manufacturers={str(k): tuple(str(m) for m in v) for k, v in values.get("manufacturers", {}).items()},
        spacing_mm={str(k): span(v) for k, v in values.get("spacing_mm", {}).items()},
        implants=values.get("implants") is True,
        synthetic=values.get("synthetic") is True,
    )


def _senseless(spec: ModelSpec) -> tuple[tuple[bool, str], ...]:
    """Checks of values; written so that a NaN fails them."""
    return (
        (not 0 < spec.input_size <= 4096, "input_size"),
        (not 0.0 < spec.temperature < 100.0, "temperature"),
        (not 0.0 < spec.negative_below <= spec.positive_at < 1.0, "thresholds"),
        (not 0.0 < spec.golden_tolerance <= 0.1, "golden_tolerance"),
        (spec.spread_limit is not None and not 0.0 < spec.spread_limit <= 1.0, "spread_limit"),
        (not spec.requires or not all(group and set(group) <= set(SLOTS) for group in spec.requires), "requires"),
    )
