"""A released fusion graph as a torch network again: for gradients, and for heads on the same encoders. Reads one file.

Weights in torch form are not shipped. The exporter keeps the names of most parameters, folds transposed weights into
constants of its own names, and turns the alignment prior into distances; all of it can be read back, and `fusion` is held
against the graph by a test. Encoders stay what they are: only their tokens are needed here.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import GraphProto, numpy_helper
from torch import Tensor

from casework.modelspec import SLOTS
from models.cman.net.attention import PLANES, AlignmentPrior
from models.cman.net.cman import Fusion
from models.cman.net.config import CONCEPTS, MODALITIES, NetConfig

Constants = dict[str, NDArray[np.float32]]


def _constants(graph: GraphProto) -> Constants:
    return {i.name: numpy_helper.to_array(i).copy() for i in graph.initializer}


def _folded(graph: GraphProto, constants: Constants) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(parameter's name, weight) of linear layers whose transposed weight became a constant: the added bias names them."""
    products = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "MatMul" and n.input[1] in constants}
    for node in graph.node:
        bias = next((i for i in node.input if i.endswith(".bias")), "")
        product = next((i for i in node.input if i in products), "")
        if node.op_type == "Add" and bias and product:
            yield bias.removesuffix("bias") + "weight", constants[products[product]].T


def readings(path: Path) -> dict[str, dict[str, Tensor]]:
    """{modality: {"weight": (5, d), "bias": (5,)}} of the linear layer that reads the concepts from a token.

    Raises:
        ValueError: the graph has no such layer.
    """
    graph = onnx.load(str(path)).graph
    constants = _constants(graph)
    known = constants | dict(_folded(graph, constants))
    found = {}
    for m in MODALITIES:
        weight, bias = (known.get(f"tokeniser.concept.{m}.{w}") for w in ("weight", "bias"))
        if weight is None or bias is None or len(weight) != len(CONCEPTS):
            raise ValueError(f"{path}: no reading of the concepts for {m}")
        found[m] = {"weight": torch.from_numpy(weight.copy()), "bias": torch.from_numpy(bias)}
    return found


def fusion(path: Path, config: NetConfig) -> Fusion:
    """The fusion with the graph's weights.

    Raises:
        ValueError: a parameter can't be found in the graph.
    """
    graph = onnx.load(str(path)).graph
    constants = _constants(graph)
    known = constants | dict(_folded(graph, constants))
    net = Fusion(config)
    state = net.state_dict()
    missing = [n for n in state if not n.startswith("prior.") and n not in known]
    if missing:
        raise ValueError(f"{path}: no {', '.join(missing)}")
    for name in state:
        if name in known:
            state[name] = torch.from_numpy(known[name].copy()).reshape(state[name].shape)
    net.load_state_dict(state)
    _align(net.prior, graph, constants)
    return net.eval()


def _places() -> list[tuple[int, int]]:
    """(way, plane) of every distance in the order in which the network computes them: MG asking MR, then MR asking MG."""
    named = [(a, b) for a, b, _ in PLANES]
    forth = [(0, named.index((q, k))) for q in SLOTS["MG"] for k in SLOTS["MR"] if (q, k) in named]
    back = [(1, named.index((k, q))) for q in SLOTS["MR"] for k in SLOTS["MG"] if (k, q) in named]
    return forth + back


@torch.no_grad()
def _align(prior: AlignmentPrior, graph: GraphProto, constants: Constants) -> None:
    """The prior from what is left of it: (expected - coarse) squared, times spread, and the height."""
    users = {i: n for n in graph.node for i in n.input}
    squares = [n for n in graph.node if n.op_type == "Pow" and constants.get(n.input[0], np.zeros(0)).ndim == 3]
    if len(squares) != len(_places()):
        raise ValueError(f"{len(squares)} planes of the alignment prior instead of {len(_places())}")
    fine, coarse = prior.fine.numpy(), prior.coarse.numpy()
    plain = np.c_[fine, np.ones(len(fine))]
    for (way, plane), square in zip(_places(), squares, strict=True):
        turn, shift = (prior.turn, prior.shift) if way == 0 else (prior.turn_back, prior.shift_back)
        expected = constants[square.input[0]][:, 0] + coarse[0]
        fit = np.linalg.lstsq(plain, expected, rcond=None)[0]
        turn[plane], shift[plane] = torch.from_numpy(fit[:2].T.copy()), torch.from_numpy(fit[2].copy())
        scalars: list[float] = []
        node = square
        while len(scalars) < 2:  # on the way to the bias a distance meets two scalars: spread, then height
            node = users[node.output[0]]
            found = [constants[i] for i in node.input if i in constants and node.op_type == "Mul"]
            scalars += [float(c) for c in found if c.size == 1 and float(c) != -0.5]
        prior.log_sigma[way, plane], prior.height[way, plane] = -0.5 * np.log(scalars[0]), scalars[1]
