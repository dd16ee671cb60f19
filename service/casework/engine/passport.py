"""What serves here, and that it was examined: an engine shows at every start that it is the released network. Does no I/O.

Examined against the package's golden samples, which the released ONNX graphs gave: probabilities within the manifest's
tolerance, the same outcomes, heat-maps that show the same, evidence that sums to the logit, and the same answer twice.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from casework.engine.bundle import ModelPackage
from casework.engine.golden import check_golden, inputs_of
from casework.engine.readout import cut_for, outcome_of, sufficient
from casework.engine.runner import Runner, SideOutputs
from casework.errors import Defect

SAME_RUN = 1e-4  # of a probability, between two runs of the same input
SUM = 1e-2  # of a logit, between it and its evidence


@dataclass(frozen=True, slots=True)
class Passport:
    """What an engine is. Whatever changes its `sha256` changes the device UID of its results."""

    runner: str  # of config_engine.RUNNERS
    engine: str  # library and version
    device: str
    driver: str
    precision: str
    package: str  # sha256 of the manifest
    plan: str  # sha256 over the graphs or plans that run
    passed_over: tuple[tuple[str, str], ...] = ()  # runners before it in the order, and why not: not part of what it is

    @property
    def sha256(self) -> str:
        """Digest of what it is."""
        what = asdict(self)
        del what["passed_over"]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    @property
    def line(self) -> str:
        """At most 64 characters (DICOM LO): engine, precision and the digest's beginning."""
        return f"{self.engine[:44]} {self.precision} {self.sha256[:12]}"

    @property
    def stamp(self) -> str:
        """The rest of it, for reports and logs."""
        driver = f", driver {self.driver}" if self.driver else ""
        return f"{self.sha256[:32]}: {self.runner}, {self.device}{driver}, {self.precision}"

    def about(self) -> dict[str, str]:
        """What the audit and the readiness route say of it."""
        over = {"passed_over": ", ".join(f"{name} {code}" for name, code in self.passed_over)}
        return {
            "engine": self.line,
            "passport": self.stamp,
            "sha256": self.sha256,
            **(over if self.passed_over else {}),
        }


def digest_of(graphs: Sequence[bytes]) -> str:
    """One digest over what runs, in the order of the package's roles."""
    return hashlib.sha256(b"".join(hashlib.sha256(g).digest() for g in graphs)).hexdigest()


def examine(runner: Runner, package: ModelPackage) -> None:
    """Let a runner show that it is the released network.

    Raises:
        Defect: MODEL_GOLDEN_MISMATCH, saying in what it differs; MODEL_INVALID, a sample is incomplete.
    """
    spec = package.spec
    said = check_golden(runner, package)
    for golden, outputs in zip(package.golden, said, strict=True):
        expected = golden.arrays["prob"].astype(np.float32)
        for n, modalities in enumerate(outputs.present):
            cut = cut_for(modalities, spec)
            if not sufficient(modalities, spec):
                continue
            if outcome_of(float(outputs.prob[n]), cut) is not outcome_of(float(expected[n]), cut):
                raise Defect("MODEL_GOLDEN_MISMATCH", f"{golden.name}: another outcome of side {n}")
        _sums(golden.name, outputs)
    last = package.golden[-1]
    again = runner.run(inputs_of(last))
    if not np.abs(again.prob - said[-1].prob).max() <= SAME_RUN:
        raise Defect("MODEL_GOLDEN_MISMATCH", f"{last.name}: two runs differ")


def _sums(name: str, outputs: SideOutputs) -> None:
    total = sum((np.asarray(v, np.float64) for v in outputs.evidence.values()), np.zeros(len(outputs.logit)))
    if not np.abs(total + outputs.bias - outputs.logit).max() <= SUM:
        raise Defect("MODEL_GOLDEN_MISMATCH", f"{name}: the evidence does not sum to the logit")
