"""The contract of an engine: sides in, logits, evidence and heat-maps out. Does no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from casework.errors import Defect
from casework.modelspec import CHANNELS, SLOTS

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SideInputs:
    """A batch of B sides (of one patient: right, left).

    images: modality -> float32 (B, slots, channels, S, S) in 0..1. masks: modality -> float32 (B, slots), 1.0 where an
    image is present; what stands in an absent slot is never read. A modality may be left out of both.
    """

    images: Mapping[str, Floats]
    masks: Mapping[str, Floats]

    def checked(self, size: int) -> "SideInputs":
        """The same with every modality there (absent ones as zeros).

        Raises:
            Defect: INTERNAL when a shape, a type or a mask is not as described, or a present image holds a value that
                is not finite: such inputs come from our own preprocessing.
        """
        if set(self.images) != set(self.masks) or not set(self.images) <= set(SLOTS) or not self.images:
            raise Defect("INTERNAL", f"engine: modalities {sorted(self.images)} and masks {sorted(self.masks)}")
        batch = next(iter(self.masks.values())).shape[0]
        images, masks = {}, {}
        for modality, slots in SLOTS.items():
            shape = (batch, len(slots), CHANNELS[modality], size, size)
            mask = self.masks.get(modality, np.zeros(shape[:2], np.float32))
            image = self.images.get(modality, np.zeros(shape, np.float32))
            if mask.shape != shape[:2] or not np.isin(mask, (0.0, 1.0)).all():
                raise Defect("INTERNAL", f"engine: mask of {modality} has shape {mask.shape} or a value beside 0 and 1")
            if image.shape != shape or image.dtype != np.float32:
                raise Defect("INTERNAL", f"engine: images of {modality} are {image.dtype} {image.shape}, not {shape}")
            if not np.isfinite(image[mask > 0]).all():
                raise Defect("INTERNAL", f"engine: an image of {modality} holds a value that is not finite")
            images[modality], masks[modality] = image, mask.astype(np.float32)
        return SideInputs(images, masks)


@dataclass(frozen=True, slots=True)
class SideOutputs:
    """What the network says of B sides.

    logit: (B,). prob: (B,), sigmoid of logit / temperature. evidence: modality -> (B,), shares that sum with `bias`
    (0 for CMAN) to the logit. heat: modality -> (B, slots, h, w), whose sum over an image is that image's share.
    present: per side, the modalities that gave at least one image. without: modality -> (B,) logit when that modality is
    left out, NaN where it is not there or nothing else is. distance: modality -> (B,) distance of its images to the
    training's in units of the limit (above 1.0: unusual), NaN where there are none or the package says nothing of it.
    """

    logit: Floats
    prob: Floats
    evidence: Mapping[str, Floats]
    heat: Mapping[str, Floats]
    present: tuple[tuple[str, ...], ...]
    bias: float = 0.0
    without: Mapping[str, Floats] = field(default_factory=dict)
    distance: Mapping[str, Floats] = field(default_factory=dict)


class Runner(Protocol):
    """Anything that runs a model package."""

    def run(self, inputs: SideInputs) -> SideOutputs:
        """Run the network on a batch of sides."""
        ...

    def describe(self) -> str:
        """Name, version and device of the engine, for the result's model identity."""
        ...
