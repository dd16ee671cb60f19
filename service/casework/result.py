"""What an analysis says before it is rendered: sides, heat-maps, findings, the model's identity. Does no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Side(StrEnum):
    """A breast's side, as DICOM's Image Laterality writes it."""

    RIGHT = "R"
    LEFT = "L"


class Outcome(StrEnum):
    """What the analysis says of one side's axilla. Silence is never a negative: every side of a result has one."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    INDETERMINATE = "indeterminate"
    INSUFFICIENT = "insufficient"


@dataclass(frozen=True, slots=True)
class Finding:
    """One coded remark on a case or an image. `subject` is a SOP Instance UID, a modality, a side or ""."""

    code: str
    subject: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """What one check of the input gate came to. severity: as casework.checks names it; value: what was measured, as data."""

    code: str
    severity: str
    value: str = ""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """Images of one series that share a fate. code "": used; detail: rank, phase or kind, as data."""

    modality: str
    series_instance_uid: str
    code: str
    detail: str
    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Depths:
    """Which voxel each pixel of a projection was read from: the way from a projection's heat to slices.

    slices: (SOP Instance UID, 1-based frame number) by plane index.
    depth: (h, w) int16, index of the voxel behind each pixel of the projection's grid.
    picture_to_grid: 2x3 matrix, picture (row, col) -> grid (row, col).
    to_voxel: 3x4 matrix, (grid row, grid col, depth, 1) -> (plane index, source row, source col).
    """

    slices: tuple[tuple[str, int], ...]
    depth: NDArray[np.int16]
    picture_to_grid: NDArray[np.float64]
    to_voxel: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeatImage:
    """One analysed image with its heat-map, both on the display grid.

    picture: (h, w) uint8, the source as the model's window shows it.
    heat: (h, w) float32 in 0..1, share of the side's evidence, scaled by the case's largest value.
    to_source: 2x3 matrix, display (row, col) pixel centres -> source (row, col) pixel centres.
    frame_number: 1-based frame of a multi-frame source, else 1.
    sources: SOP Instance UIDs that made the picture (one for MG and US, many for an MR projection); first = reference.
    region: polygon (N, 2) of source (row, col) around the hottest area, or None where there is no single source frame
        or no evidence; peak: source (row, col).
    depths: of a projection, where somebody asks for its heat on slices.
    """

    side: Side
    modality: str
    view: str
    study_instance_uid: str
    sources: tuple[str, ...]
    frame_number: int
    picture: NDArray[np.uint8]
    heat: NDArray[np.float32]
    to_source: NDArray[np.float64]
    region: NDArray[np.float64] | None
    peak: tuple[float, float] | None
    depths: Depths | None = None


@dataclass(frozen=True, slots=True)
class SideResult:
    """The analysis of one side. probability is None when the outcome is INSUFFICIENT; evidence: modality -> logit share.

    without: modality -> probability when it is left out. spread: between the largest and the least of these and the
    probability, None with one modality. distance: modality -> distance to the training images, above 1.0 unusual. cut:
    positive at, negative below, for the modalities that are there. held_back: codes for which there is no decision
    although the number alone would give one.
    """

    side: Side
    outcome: Outcome
    probability: float | None
    evidence: Mapping[str, float]
    modalities: tuple[str, ...]
    without: Mapping[str, float] = field(default_factory=dict)
    spread: float | None = None
    distance: Mapping[str, float] = field(default_factory=dict)
    cut: tuple[float, float] | None = None
    held_back: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model and engine made a result; `device_uid` changes whenever any of it changes.

    training, training_zh: a sentence on what the weights have seen, from the package's manifest; "" when it has none.
    """

    name: str
    version: str
    sha256: str  # of the package's manifest
    engine: str  # e.g. "onnxruntime 1.31.1 CPUExecutionProvider int8 0f3a91c2d4e5"
    device_uid: str
    training: str = ""
    training_zh: str = ""
    passport: str = ""  # digest, runner, device, driver and precision of the engine that passed its examination


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Everything that a report says, before it is rendered."""

    case_id: str
    revision: int
    model: ModelIdentity
    sides: tuple[SideResult, ...]
    images: tuple[HeatImage, ...]
    findings: tuple[Finding, ...]
    input_digest: str  # see input_digest()
    thresholds: Mapping[str, float]
    checks: tuple[Check, ...] = ()
    choices: tuple[Choice, ...] = ()
    stopped: tuple[str, ...] = ()  # codes for which nothing was analysed, the gravest first
    predecessors: tuple[tuple[str, str, str, str], ...] = ()  # (study, series, sop class, sop instance) of older SRs
    # (SOP Instance UID, 1-based frame) -> (rows, columns) picture of an MR slice, where somebody asks for slices with heat
    planes: Mapping[tuple[str, int], NDArray[np.uint8]] = field(default_factory=dict)
