"""The shipped fusion graph on cached tokens: what the service would say, without decoding and encoding again."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from casework.engine.bundle import ModelPackage
from casework.engine.sides import FUSION_OUTPUTS
from casework.modelspec import SLOTS
from models.cman import evaluate
from models.cman.data import Sides
from models.cman.evidence.cohort import Tokens
from models.cman.net.config import MODALITIES

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reading:
    """logit (n,); evidence by modality (n,); heat by modality (n, slots, S/4, S/4)."""

    logit: Floats
    evidence: Mapping[str, Floats]
    heat: Mapping[str, Floats]


class Reader:
    """A package's fusion, ready to run. threads: 0 = number of cores."""

    def __init__(self, package: ModelPackage, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = package.graphs["fusion"]
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def read(self, tokens: Mapping[str, NDArray[np.floating[Any]]], masks: Mapping[str, NDArray[np.uint8]]) -> Reading:
        """Some sides with their masks; a token of an absent image changes nothing (tests/engine)."""
        feeds = {m.lower(): np.asarray(tokens[m], np.float32) for m in SLOTS}
        feeds |= {f"{m.lower()}_mask": np.asarray(masks[m], np.float32) for m in SLOTS}
        logit, evidence, *heat = self._session.run(list(FUSION_OUTPUTS), feeds)
        named = {m: evidence[:, n] for n, m in enumerate(SLOTS)}
        return Reading(logit, named, dict(zip(SLOTS, heat, strict=True)))

    def stream(
        self, tokens: Tokens, masks: Mapping[str, NDArray[np.uint8]], batch: int = 4
    ) -> Iterator[tuple[NDArray[np.int64], Reading]]:
        """All sides, some at a time: (their numbers, what was read)."""
        for n in range(0, len(masks["MG"]), batch):
            at = np.arange(n, min(n + batch, len(masks["MG"])))
            yield at, self.read({m: tokens[m][at] for m in SLOTS}, {m: masks[m][at] for m in SLOTS})

    def logits(self, tokens: Tokens, masks: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Logits of all sides, (N,)."""
        return np.concatenate([r.logit for _, r in self.stream(tokens, masks)]).astype(np.float64)


def masked(sides: Sides, subset: tuple[str, ...]) -> dict[str, NDArray[np.uint8]]:
    """The masks with only some modalities."""
    return {m: sides.masks[m] if m in subset else np.zeros_like(sides.masks[m]) for m in MODALITIES}


def by_subset(reader: Reader, tokens: Tokens, sides: Sides) -> dict[str, NDArray[np.float64]]:
    """Logits by subset of modalities, named "MG+MR+US" and so on; the full one first."""
    return {"+".join(s): reader.logits(tokens, masked(sides, s)) for s in evaluate.SUBSETS}


def kept_by_subset(
    package: ModelPackage, reader: Reader, folder: Path, tokens: Tokens, sides: Sides
) -> dict[str, NDArray[np.float64]]:
    """The same, kept beside the cohort under the graphs' digest: minutes for a thousand patients."""
    digests = b"".join(hashlib.sha256(package.graphs[r]).digest() for r in sorted(package.graphs))
    digest, found = hashlib.sha256(digests).hexdigest()[:12], {}
    for subset in evaluate.SUBSETS:
        name = "+".join(subset)
        path = folder / f"logits_{digest}_{name}.npy"
        if not path.exists():
            part = folder / f"logits_{digest}_{name}.{os.getpid()}.part.npy"
            np.save(part, reader.logits(tokens, masked(sides, subset)))
            part.rename(path)
        found[name] = np.load(path)
    return found
