"""What every engine shares: three encoders over the images that are there, then the fusion. Does no I/O.

An absent image costs nothing: it never reaches an encoder. A subclass says how one graph is run.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from casework.engine.bundle import ModelPackage
from casework.engine.runner import Floats, SideInputs, SideOutputs
from casework.errors import Defect
from casework.modelspec import SLOTS

ENCODER_INPUT, ENCODER_OUTPUT = "images", "tokens"
FUSION_OUTPUTS = ("logit", "evidence", *(f"{m.lower()}_heat" for m in SLOTS))


def outputs_of(role: str) -> tuple[str, ...]:
    """The outputs that a graph must have."""
    return FUSION_OUTPUTS if role == "fusion" else (ENCODER_OUTPUT,)


class SideRunner(ABC):
    """A package on some engine. token_shape: (d, g, g) of one image's tokens."""

    def __init__(self, package: ModelPackage, token_shape: tuple[int, ...]) -> None:
        self._spec, self._reference = package.spec, package.reference
        self._token_shape = token_shape

    @abstractmethod
    def describe(self) -> str:
        """Engine and device."""

    @abstractmethod
    def _run(self, role: str, outputs: tuple[str, ...], feeds: dict[str, Floats]) -> list[Floats]:
        """Run one graph. Arrays are float32; the first axis is that of the batch.

        Raises:
            Defect: INTERNAL.
            Unavailable: ENGINE_LOST, the device is gone or has no memory left.
        """

    def encode(self, modality: str, images: Floats) -> Floats:
        """Images (n, C, S, S) of one modality -> token maps (n, d, g, g). n may be 0."""
        if not len(images):
            return np.zeros((0, *self._token_shape), np.float32)
        tokens: Floats = self._run(modality, (ENCODER_OUTPUT,), {ENCODER_INPUT: images})[0]
        return tokens

    def run(self, inputs: SideInputs) -> SideOutputs:
        """Run the network on a batch of sides.

        Raises:
            Defect: INTERNAL when the inputs are not as SideInputs says, or an output is not finite.
        """
        inputs = inputs.checked(self._spec.input_size)
        feeds: dict[str, Floats] = {}
        distance: dict[str, Floats] = {}
        for modality, mask in inputs.masks.items():
            tokens = np.zeros((*mask.shape, *self._token_shape), np.float32)
            there = mask > 0
            tokens[there] = self.encode(modality, np.ascontiguousarray(inputs.images[modality][there]))
            feeds[modality.lower()] = tokens
            feeds[f"{modality.lower()}_mask"] = mask
            if modality in self._reference:
                distance[modality] = self._distance(modality, tokens, there)
        logit, evidence, *heat = self._run("fusion", FUSION_OUTPUTS, feeds)
        if not all(np.isfinite(a).all() for a in (logit, evidence, *heat)):
            raise Defect("INTERNAL", "engine: an output is not finite")
        return SideOutputs(
            logit=logit,
            prob=(1.0 / (1.0 + np.exp(-logit.astype(np.float64) / self._spec.temperature))).astype(np.float32),
            evidence={m: evidence[:, n] for n, m in enumerate(SLOTS)},
            heat=dict(zip(SLOTS, heat, strict=True)),
            present=tuple(tuple(m for m in SLOTS if inputs.masks[m][n].any()) for n in range(len(logit))),
            without=self._without(feeds),
            distance=distance,
        )

    def _distance(self, modality: str, tokens: Floats, there: NDArray[np.bool_]) -> Floats:
        """Per side, how far the modality's images lie from the training's; NaN without an image."""
        pooled = tokens.mean(axis=(3, 4))
        reference = self._reference[modality]
        found = [reference.distance(p[t]) if t.any() else np.nan for p, t in zip(pooled, there, strict=True)]
        return np.array(found, np.float32)

    def _without(self, feeds: Mapping[str, Floats]) -> dict[str, Floats]:
        """The logit of every side with each of its modalities left out in turn: the fusion alone, in one batch.

        A modality that is the side's only one can't be left out: there would be nothing to answer from.
        """
        there = np.stack([feeds[f"{m.lower()}_mask"].any(axis=1) for m in SLOTS], axis=1)  # (B, modalities)
        cases = [(b, n) for b, n in zip(*np.nonzero(there), strict=True) if there[b].sum() > 1]
        left = {m: np.full(len(there), np.nan, np.float32) for m in SLOTS}
        if not cases:
            return left
        sides = [b for b, _ in cases]
        batch = {name: np.ascontiguousarray(values[sides]) for name, values in feeds.items()}
        for row, (_, n) in enumerate(cases):
            batch[f"{list(SLOTS)[n].lower()}_mask"][row] = 0.0
        (logit,) = self._run("fusion", ("logit",), batch)
        if not np.isfinite(logit).all():
            raise Defect("INTERNAL", "engine: an output is not finite")
        for row, (b, n) in enumerate(cases):
            left[list(SLOTS)[n]][b] = logit[row]
        return left
