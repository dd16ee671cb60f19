"""An engine that is not the released network never serves, and what serves can be told from its results."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casework import config
from casework.config_engine import Engine
from casework.engine.bundle import ModelPackage
from casework.engine.choose import OPENERS, Opened, Opener, Place, open_cpu, open_engine
from casework.engine.onnxrt import OnnxRunner
from casework.engine.passport import examine
from casework.engine.runner import SideInputs, SideOutputs
from casework.errors import CaseworkError, Defect
from casework.flows.analyse.batch import identity
from casework.observe import ENGINE_PASSED_OVER


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "twin", tmp_path / "plans", 1)


class Bent:
    """The real engine with something done to its answers."""

    def __init__(self, runner: OnnxRunner, bend: Callable[[SideOutputs], SideOutputs]) -> None:
        self.runner, self.bend = runner, bend

    def run(self, inputs: SideInputs) -> SideOutputs:
        return self.bend(self.runner.run(inputs))

    def describe(self) -> str:
        return self.runner.describe()


def _restless() -> Callable[[SideOutputs], SideOutputs]:
    calls = iter(range(100))
    return lambda o: replace(o, prob=o.prob + np.float32(0.0005 * next(calls)))


def _crossed(outputs: SideOutputs) -> SideOutputs:
    return replace(outputs, heat={m: v[:, ::-1] for m, v in outputs.heat.items()})


BENDS: Mapping[str, tuple[Callable[[SideOutputs], SideOutputs], str]] = {
    "a probability": (lambda o: replace(o, prob=np.clip(o.prob + 0.05, 0, 1).astype(np.float32)), "a probability"),
    "not a number": (lambda o: replace(o, prob=o.prob * np.float32("nan")), "a probability"),
    "sides changed over": (lambda o: replace(o, prob=o.prob[::-1].copy()), "differs"),
    "maps of another image": (_crossed, "heat-maps"),
    "evidence of nothing": (lambda o: replace(o, evidence={m: v * 0 for m, v in o.evidence.items()}), "sum"),
    "another answer each time": (_restless(), "two runs"),
}


@pytest.mark.parametrize("name", BENDS)
def test_a_corrupted_engine_is_refused(package: ModelPackage, runner: OnnxRunner, name: str) -> None:
    """Probabilities, maps, evidence or repeatability that are not the package's: refused, naming what differs."""
    bend, words = BENDS[name]
    with pytest.raises(Defect, match="MODEL_GOLDEN_MISMATCH") as caught:
        examine(Bent(runner, bend), package)
    assert words in caught.value.detail


def test_a_session_with_damaged_weights_is_refused(package: ModelPackage) -> None:
    """Real sessions whose encoders were swapped are other networks, and do not pass."""
    graphs = dict(package.graphs)
    graphs["MG"], graphs["US"] = graphs["US"], graphs["MG"]
    if graphs["MG"] == graphs["US"]:
        pytest.fail("the package's encoders are the same")
    with pytest.raises(Defect, match="MODEL_GOLDEN_MISMATCH"):
        examine(OnnxRunner(replace(package, graphs=graphs), threads=1), package)


def test_an_outcome_on_the_other_side_of_a_threshold_is_refused(package: ModelPackage, runner: OnnxRunner) -> None:
    """A probability within the tolerance whose outcome is another is still a mismatch."""
    golden = package.golden[0]
    first = float(golden.arrays["prob"][0])
    spec = replace(package.spec, positive_at=first, negative_below=min(first, package.spec.negative_below), subsets={})
    lower = Bent(runner, lambda o: replace(o, prob=(o.prob - np.float32(0.001)).astype(np.float32)))
    with pytest.raises(Defect, match="another outcome"):
        examine(lower, replace(package, spec=spec))


def test_the_next_engine_serves_and_says_so(package: ModelPackage, place: Place) -> None:
    """On this machine without a GPU the whole order is tried; the CPU serves, and log, metric and passport name the rest."""
    for order in (("tensorrt", "cuda", "cpu"), ("tensorrt-rtx", "cpu")):
        opened = open_engine(package, Engine(order=order), place)
        assert opened.passport.runner == "cpu"
        assert opened.passport.passed_over == tuple((name, "ENGINE_UNAVAILABLE") for name in order[:-1])
        assert ENGINE_PASSED_OVER.labels(order[0], "ENGINE_UNAVAILABLE")._value.get() == 1


def test_an_engine_that_fails_its_examination_is_passed_over(package: ModelPackage, place: Place) -> None:
    """A first engine that opens but answers otherwise never serves."""

    def bad(package: ModelPackage, engine: Engine, place: Place) -> Opened:
        opened = open_cpu(package, engine, place)
        assert isinstance(opened.runner, OnnxRunner)
        return replace(opened, runner=Bent(opened.runner, _crossed))

    openers: Mapping[str, Opener] = {**OPENERS, "cuda": bad}
    opened = open_engine(package, Engine(order=("cuda", "cpu")), place, openers)
    assert opened.passport.passed_over == (("cuda", "MODEL_GOLDEN_MISMATCH"),)
    with pytest.raises(Defect, match="MODEL_GOLDEN_MISMATCH"):
        open_engine(package, Engine(order=("cuda",)), place, openers)


def test_without_an_engine_nothing_serves(package: ModelPackage, place: Place) -> None:
    """An order without the CPU, on a machine without a GPU, refuses to start."""
    with pytest.raises(CaseworkError, match="ENGINE_UNAVAILABLE"):
        open_engine(package, Engine(order=("tensorrt", "cuda")), place)


def test_results_name_what_computed_them(package: ModelPackage, place: Place) -> None:
    """Driver, device, precision, plan or package: whatever differs gives results another device UID; a fallback doesn't."""
    passport = open_engine(package, Engine(), place).passport
    ours = identity(package, passport)
    assert len(passport.line) <= 64
    assert ours.engine == passport.line
    assert passport.sha256[:12] in ours.engine
    assert passport.sha256[:32] in ours.passport
    for name in ("runner", "engine", "device", "driver", "precision", "package", "plan"):
        changes: dict[str, Any] = {name: "another"}
        other = replace(passport, **changes)
        assert identity(package, other).device_uid != ours.device_uid, name
    again = replace(passport, passed_over=(("cuda", "ENGINE_UNAVAILABLE"),))
    assert identity(package, again).device_uid == ours.device_uid


@pytest.mark.parametrize("order", ["", "gpu", "cpu,cpu", "tensorrt,tensorrt-rtx,cpu"])
def test_an_order_that_can_not_be_is_refused(order: str) -> None:
    """Unknown, doubled and clashing runners stop the start."""
    with pytest.raises(Defect, match=r"engine\.order"):
        config.load(None, {"CASEWORK_ENGINE_ORDER": order})
