"""What a released fusion graph still says to training code: the readings of the concepts. Reads one file.

The encoders' weights in torch form are not shipped; the tokens that the shipped graphs give and the linear readings of
the concepts inside the fusion graph are all that a new head on the same encoders needs.
"""

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from models.cman.net.config import CONCEPTS, MODALITIES


def readings(fusion: Path) -> dict[str, dict[str, Tensor]]:
    """{modality: {"weight": (5, d), "bias": (5,)}} of the linear layer that reads the concepts from a token.

    The exporter keeps the names of biases but folds the transposed weights into constants of its own names: the weight
    is the constant of the matrix product that the named bias is added to.

    Raises:
        ValueError: the graph has no such product.
    """
    graph = onnx.load(str(fusion)).graph
    constants = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    products = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "MatMul"}
    found = {}
    for node in graph.node:
        for modality in MODALITIES:
            bias = f"tokeniser.concept.{modality}.bias"
            if node.op_type == "Add" and bias in node.input:
                product = next(i for i in node.input if i != bias)
                found[modality] = {"weight": constants[products[product]].T.contiguous(), "bias": constants[bias]}
    if set(found) != set(MODALITIES) or any(len(r["weight"]) != len(CONCEPTS) for r in found.values()):
        raise ValueError(f"{fusion}: no readings of the concepts for {set(MODALITIES) - set(found)}")
    return found
