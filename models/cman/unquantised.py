"""The float twin of a quantised encoder, and its half-precision form for GPUs. Reads and writes ONNX files only.

    python -m models.cman.unquantised [--package models/cman] --out FOLDER

The float weights of a release are too large to ship, and its int8 files (unsigned activations, as ONNX Runtime wants them on
a CPU) are refused by TensorRT's parser. The twin has the shipped seven-bit weights as floats and no rounding of
activations: what a GPU runs, and what the rounding of activations is measured against. It is not the network before
quantisation: the weights' own rounding can't be undone (MODEL_CARD.md has that difference, measured at release).
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from casework.engine.bundle import open_package
from casework.modelspec import SLOTS


def _whole(node: NodeProto, constants: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """The constant that a DequantizeLinear gives: (q - zero) * scale, per channel along its axis."""
    value, scale = (constants[i].astype(np.float32) for i in node.input[:2])
    zero = constants[node.input[2]].astype(np.float32) if len(node.input) > 2 else np.zeros_like(scale)
    if scale.ndim and scale.size > 1:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [-1 if n == axis else 1 for n in range(value.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    whole: NDArray[np.float32] = ((value - zero) * scale).astype(np.float32)
    return whole


def unquantised(model: ModelProto) -> ModelProto:
    """A copy without QuantizeLinear and DequantizeLinear: constants are folded, activations pass unrounded.

    Raises:
        ValueError: an activation is quantised in a way this does not know.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    quantised = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    same: dict[str, str] = {}
    folded: dict[str, NDArray[np.float32]] = {}
    for node in graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        if node.input[0] in constants:
            folded[node.output[0]] = _whole(node, constants)
        elif node.input[0] in quantised:
            same[node.output[0]] = quantised[node.input[0]]
        else:
            raise ValueError(f"{node.name}: neither a constant nor a rounded activation")
    kept = [n for n in graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    for node in kept:
        for n, name in enumerate(node.input):
            found = name
            while found in same:  # an activation may be rounded more than once on its way
                found = same[found]
            node.input[n] = found
    used = {name for node in kept for name in node.input}
    floats = [numpy_helper.from_array(v, k) for k, v in folded.items() if k in used]
    others = [i for i in graph.initializer if i.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend([*others, *floats])
    onnx.checker.check_model(result, full_check=True)
    return result


def halved(model: ModelProto) -> ModelProto:
    """Half precision inside, float in and out: strongly typed, as TensorRT reads precision from the graph's types."""
    result: ModelProto = convert_float_to_float16(model, keep_io_types=True)
    OnnxModel(result).topological_sort()  # the converter puts its casts at the end
    onnx.checker.check_model(result, full_check=True)
    return result


def main() -> None:
    """Write the twins of a package's encoders and its fusion as it is, under the package's file names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=Path(__file__).parent)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--half", action="store_true", help="encoders in half precision")
    options = parser.parse_args()
    package = open_package(options.package)
    options.out.mkdir(parents=True, exist_ok=True)
    for role, name in package.spec.graphs.items():
        model = onnx.load_from_string(package.graphs[role])
        if role in SLOTS:
            model = halved(unquantised(model)) if options.half else unquantised(model)
        onnx.save(model, str(options.out / name))


if __name__ == "__main__":
    main()
