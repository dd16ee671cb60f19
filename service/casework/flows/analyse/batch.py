"""Who reads, what goes into the network and what comes out of it: pieces without I/O."""

from collections.abc import Mapping, Sequence

import numpy as np

from casework import __version__
from casework.case import derive_uid
from casework.engine.bundle import ModelPackage
from casework.engine.passport import Passport
from casework.engine.runner import SideInputs, SideOutputs
from casework.flows.analyse.heat import heat_images
from casework.flows.analyse.inputs import Ready
from casework.modelspec import CHANNELS, SLOTS
from casework.preprocess.prepared import VERSION
from casework.result import HeatImage, ModelIdentity, Side


def identity(package: ModelPackage, passport: Passport) -> ModelIdentity:
    """Model and engine; the device UID changes with either of them, the preprocessing or the program."""
    device = derive_uid("device", package.sha256, passport.sha256, VERSION, __version__)
    stated = package.spec.raw.get("training_statement")
    said = {k: v for k, v in stated.items() if isinstance(v, str)} if isinstance(stated, Mapping) else {}
    return ModelIdentity(
        package.spec.name,
        package.spec.version,
        package.sha256,
        passport.line,
        device,
        passport=passport.stamp,
        training=said.get("en", ""),
        training_zh=said.get("zh", ""),
    )


def side_inputs(ready: Ready, sides: Sequence[Side], size: int) -> SideInputs:
    """The network's batch: one entry per side, in the order of `sides`."""
    images, masks = {}, {}
    for modality, slots in SLOTS.items():
        tensor = np.zeros((len(sides), len(slots), CHANNELS[modality], size, size), np.float32)
        mask = np.zeros((len(sides), len(slots)), np.float32)
        for b, side in enumerate(sides):
            for k, slot in enumerate(slots):
                image = ready.images.get((side, modality, slot))
                if image is not None:
                    tensor[b, k], mask[b, k] = image.tensor, 1.0
        images[modality], masks[modality] = tensor, mask
    return SideInputs(images, masks)


def contributions(
    ready: Ready, sides: Sequence[Side], outputs: SideOutputs, *, depths: bool = False
) -> tuple[HeatImage, ...]:
    """Heat-maps of every image that the network saw, by side, modality and slot. depths: see heat_images."""
    shapes = {uid: (f.rows, f.columns) for uid, f in ready.facts.items()}
    places = [(b, s, m, k, slot) for b, s in enumerate(sides) for m in SLOTS for k, slot in enumerate(SLOTS[m])]
    return heat_images(
        [
            (ready.images[s, m, slot], outputs.heat[m][b, k])
            for b, s, m, k, slot in places
            if (s, m, slot) in ready.images
        ],
        shapes,
        depths=depths,
    )
