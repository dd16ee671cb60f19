"""A package's half-precision twin: what GPUs run. Made by models/cman/twin.py, bound to the package by digests.

The released encoders round activations to unsigned bytes, which TensorRT's parser refuses (ADR 17). The twin has the same
weights and no rounding of activations, half in the encoders and float in the fusion. That is not the same network to the
last digit, so the twin has golden outputs of its own, recorded from its ONNX graphs on a CPU: a GPU is held to those by the
package's tolerance, and those to the released ones by DRIFT and by never giving
the opposite outcome. Reads the folder it is given.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from casework.engine.bundle import MAX_FILE_BYTES, Golden, ModelPackage, read_below
from casework.engine.protobuf import has_external_data
from casework.engine.readout import cut_for, outcome_of
from casework.errors import Defect, Unavailable
from casework.modelspec import SLOTS, ModelSpec
from casework.result import Outcome

INDEX = "twin.json"
PRECISION = "fp16"
DRIFT = 0.06  # of a probability, between the twin and the released network on the golden samples


def open_twin(package: ModelPackage, folder: Path) -> ModelPackage:
    """The package with the twin's graphs and golden outputs, each what twin.json says, made from this very package.

    Raises:
        Unavailable: ENGINE_UNAVAILABLE, there is no twin.
        Defect: MODEL_INVALID, it belongs to another package or was changed; MODEL_GOLDEN_MISMATCH, it answers otherwise.
    """
    try:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable("ENGINE_UNAVAILABLE", f"no half-precision twin in {folder.name}: make twin") from error
    try:
        index = json.loads(read_below(root, INDEX, 1 << 20))
        if index["package"] != package.sha256 or index["precision"] != PRECISION:
            raise Defect("MODEL_INVALID", "the twin was made from another package")
        graphs = {role: _graph(root, role, index["graphs"][role], package) for role in package.graphs}
        golden = tuple(_golden(root, one, index["golden"][one.name]) for one in package.golden)
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise Defect("MODEL_INVALID", f"twin: {error!r}") from error
    finally:
        os.close(root)
    for ours, its in zip(package.golden, golden, strict=True):
        _near(ours, its, package.spec)
    return replace(package, spec=replace(package.spec, precision=PRECISION), graphs=graphs, golden=golden)


def _verified(root: int, entry: Mapping[str, Any]) -> bytes:
    data = read_below(root, entry["file"], MAX_FILE_BYTES)
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise Defect("MODEL_INVALID", f"twin: {entry['file']} is not what {INDEX} says")
    return data


def _graph(root: int, role: str, entry: Mapping[str, Any], package: ModelPackage) -> bytes:
    data = _verified(root, entry)
    if entry["source"] != hashlib.sha256(package.graphs[role]).hexdigest() or has_external_data(data):
        raise Defect("MODEL_INVALID", f"twin: graph {role} was made from another one, or is not whole")
    return data


def _golden(root: int, ours: Golden, entry: Mapping[str, Any]) -> Golden:
    """The package's inputs with the twin's outputs."""
    with np.load(io.BytesIO(_verified(root, entry)), allow_pickle=False) as archive:
        outputs = {name: archive[name] for name in archive.files}
    inputs = {name: ours.arrays[name] for m in SLOTS for name in (m, f"{m}_mask") if name in ours.arrays}
    return Golden(f"twin of {ours.name}", {**outputs, **inputs})


def _near(ours: Golden, its: Golden, spec: ModelSpec) -> None:
    """Refuse a twin that is not the same network any more."""
    released, twin = (g.arrays["prob"].astype(np.float64) for g in (ours, its))
    if released.shape != twin.shape or not np.abs(released - twin).max() <= DRIFT:
        raise Defect("MODEL_GOLDEN_MISMATCH", f"the twin drifts from the released network: {ours.name}")
    for n, (a, b) in enumerate(zip(released, twin, strict=True)):
        cut = cut_for((m for m in SLOTS if ours.arrays[f"{m}_mask"][n].any()), spec)
        if {outcome_of(float(a), cut), outcome_of(float(b), cut)} == {Outcome.POSITIVE, Outcome.NEGATIVE}:
            raise Defect("MODEL_GOLDEN_MISMATCH", f"the twin has the opposite outcome: {ours.name}, side {n}")
