"""Does this engine, on this machine, reproduce what the package recorded when it was released? Does no I/O."""

from collections.abc import Mapping

import numpy as np

from casework.engine.bundle import Golden, ModelPackage
from casework.engine.runner import Floats, Runner, SideInputs, SideOutputs
from casework.errors import Defect
from casework.modelspec import SLOTS

HEAT_CORRELATION = 0.99


def inputs_of(golden: Golden) -> SideInputs:
    """The recorded inputs.

    Raises:
        Defect: MODEL_INVALID when an array is missing.
    """
    try:
        arrays = golden.arrays
        images: Mapping[str, Floats] = {m: (arrays[m].astype(np.float32) / np.float32(255.0)) for m in SLOTS}
        return SideInputs(images, {m: arrays[f"{m}_mask"].astype(np.float32) for m in SLOTS})
    except KeyError as error:
        raise Defect("MODEL_INVALID", f"{golden.name}: no array {error}") from error


def _alike(a: Floats, b: Floats) -> bool:
    """Whether two heat-maps show the same; flat ones only when both are flat."""
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    if a.shape != b.shape:
        return False
    if a.std() == 0.0 or b.std() == 0.0:
        return bool(a.std() == b.std())
    return bool(np.corrcoef(a, b)[0, 1] >= HEAT_CORRELATION)


def _compare(name: str, outputs: SideOutputs, golden: Golden, tolerance: float) -> None:
    expected = golden.arrays.get("prob")
    if expected is None or expected.shape != outputs.prob.shape:
        raise Defect("MODEL_INVALID", f"{name}: no probability per side")
    worst = float(np.abs(outputs.prob - expected.astype(np.float32)).max())
    if not worst <= tolerance:
        raise Defect("MODEL_GOLDEN_MISMATCH", f"{name}: a probability differs by {worst:.4f}")
    for modality in SLOTS:
        heat = golden.arrays.get(f"{modality}_heat")
        if heat is None or not _alike(outputs.heat[modality], heat.astype(np.float32)):
            raise Defect("MODEL_GOLDEN_MISMATCH", f"{name}: the heat-maps of {modality} differ")


def check_golden(runner: Runner, package: ModelPackage) -> list[SideOutputs]:
    """Run every golden sample; what the runner said of each.

    Raises:
        Defect: MODEL_GOLDEN_MISMATCH when a probability or a heat-map is not the recorded one;
            MODEL_INVALID when a sample is incomplete.
    """
    said = []
    for golden in package.golden:
        said.append(runner.run(inputs_of(golden)))
        _compare(golden.name, said[-1], golden, package.spec.golden_tolerance)
    return said
