"""Released graphs without their rounding, in half precision, and as TensorRT engines: the same network in other clothes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from casework.engine.bundle import ModelPackage, open_package
from casework.engine.golden import inputs_of
from casework.engine.sides import FUSION_OUTPUTS
from casework.modelspec import SLOTS
from models.cman import aot
from models.cman.unquantised import halved, unquantised

MODELS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return open_package(MODELS / "cman")


@pytest.fixture(scope="module")
def images(package: ModelPackage) -> NDArray[np.float32]:
    """The recorded case's mammograms."""
    return inputs_of(package.golden[0]).images["MG"].reshape(-1, 1, 224, 224)


def run(graph: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    tokens: NDArray[np.float32] = session.run(["tokens"], {"images": images})[0]
    return tokens


def test_the_float_twin_is_the_network_without_rounding(package: ModelPackage, images: NDArray[np.float32]) -> None:
    """No quantiser is left, weights are the shipped ones, and the tokens differ only by the rounding."""
    twin = unquantised(onnx.load_from_string(package.graphs["MG"]))
    assert not {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in twin.graph.node}
    a, b = run(package.graphs["MG"], images), run(twin.SerializeToString(), images)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98
    assert np.abs(a - b).max() > 0


def test_half_precision_hardly_moves_a_token(package: ModelPackage, images: NDArray[np.float32]) -> None:
    """Half in the graph, float at its ends; tokens within a hundredth of their spread."""
    twin = unquantised(onnx.load_from_string(package.graphs["MG"]))
    half = halved(twin)
    assert {i.data_type for i in half.graph.initializer if len(i.dims) == 4} == {onnx.TensorProto.FLOAT16}
    a, b = run(twin.SerializeToString(), images), run(half.SerializeToString(), images)
    assert np.abs(a - b).mean() < 0.01 * a.std()


@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize(("name", "least", "most"), [("cman", 40, 60), ("cman-lite", 14, 22)])
def test_every_graph_builds_without_a_gpu(name: str, least: float, most: float, target: str) -> None:
    """Each released package, parsed and built for the target, strongly typed, with the service's names and the asked limits."""
    found = {e.role: e for e in aot.engines(open_package(MODELS / name), [target])}
    assert set(found) == {*SLOTS, "fusion"}
    masks = tuple(f"{m.lower()}_mask" for m in SLOTS)
    assert found["fusion"].names == (*(m.lower() for m in SLOTS), *masks, *FUSION_OUTPUTS)
    for modality in SLOTS:
        assert found[modality].names == ("images", "tokens")
        assert found[modality].profile == aot.IMAGES
        assert least < found[modality].megabytes < most  # half of the float weights


def test_what_the_parser_refuses_is_named(package: ModelPackage) -> None:
    """The shipped int8 file itself (unsigned activations) is no engine, and says so instead of building wrongly."""
    with pytest.raises(ValueError, match="MG"):
        aot.build("MG", package.graphs["MG"], "SM89", aot.IMAGES)
