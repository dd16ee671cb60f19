"""Engines ahead of time: TensorRT for RTX builds a package's graphs without a GPU. Writes files where it is told.

    python -m models.cman.aot [--package models/cman] --out FOLDER [--target SM89 ...]

Strongly typed: precision is that of the graph's types, half in the encoders (unquantised.py), float in the fusion, because
the fusion in fewer bits broke probabilities and heat-maps. An engine holds no machine code: kernels are compiled on the
user's GPU when it is first run. Nothing here was ever run on a GPU; what is checked is that every graph parses and builds,
with its names and the profile that is asked for. Hopper is no target of this library (specs: SM75 to SM121 without SM90).
"""

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import tensorrt_rtx_bindings as trt
import tensorrt_rtx_libs  # noqa: F401  # loads the shared libraries that the bindings need

from casework.engine.bundle import ModelPackage, open_package
from casework.modelspec import SLOTS
from models.cman.unquantised import halved, unquantised

TARGETS = ("SM80", "SM86", "SM89", "SM120")
IMAGES = (1, 8, 32)  # of one modality: least, usual, most in one run
SIDES = (1, 2, 16)


@dataclass(frozen=True, slots=True)
class Engine:
    """One built engine. profile: least, usual and most along the first axis; names: inputs, then outputs."""

    role: str
    target: str
    names: tuple[str, ...]
    profile: tuple[int, int, int]
    sha256_onnx: str
    megabytes: float
    seconds: float


class _Quiet(trt.ILogger):  # type: ignore[misc]  # the bindings have no types
    """Keeps errors, drops the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        """TensorRT's call-back."""
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(message)


def graph_of(package: ModelPackage, role: str) -> bytes:
    """The graph that a GPU runs, serialised."""
    data: bytes = package.graphs[role]
    if role in SLOTS:
        data = halved(unquantised(onnx.load_from_string(data))).SerializeToString()
    return data


def build(role: str, graph: bytes, target: str, profile: tuple[int, int, int]) -> tuple[Engine, bytes]:
    """Parse and build for one compute capability.

    Raises:
        ValueError: the parser or the builder refuses; its words are in the message.
    """
    began, logger = time.monotonic(), _Quiet()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise ValueError(f"{role}: {[parser.get_error(n).desc() for n in range(parser.num_errors)]}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    limits = builder.create_optimization_profile()
    for n in range(network.num_inputs):
        tensor = network.get_input(n)
        shapes = [(size, *tuple(tensor.shape)[1:]) for size in profile]
        limits.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(limits)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise ValueError(f"{role} for {target}: {logger.errors}")
    data = bytes(built)
    inputs = [network.get_input(n).name for n in range(network.num_inputs)]
    outputs = [network.get_output(n).name for n in range(network.num_outputs)]
    names, digest = (*inputs, *outputs), hashlib.sha256(graph).hexdigest()
    return Engine(role, target, names, profile, digest, round(len(data) / 1e6, 1), time.monotonic() - began), data


def engines(package: ModelPackage, targets: Sequence[str], out: Path | None = None) -> list[Engine]:
    """All graphs for all targets; written to `out` where it is given, with what they are beside them."""
    found = []
    for role in package.graphs:
        graph = graph_of(package, role)
        for target in targets:
            engine, data = build(role, graph, target, IMAGES if role in SLOTS else SIDES)
            found.append(engine)
            if out:
                out.mkdir(parents=True, exist_ok=True)
                (out / f"{role.lower()}-{target.lower()}.engine").write_bytes(data)
    return found


def main() -> None:
    """Build and print what was built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=Path(__file__).parent)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=TARGETS)
    options = parser.parse_args()
    found = engines(open_package(options.package), options.target, options.out)
    for engine in found:
        print(f"{engine.role:7} {engine.target:6} {engine.megabytes:6.1f} MB {engine.seconds:5.1f} s  {engine.names}")
    if options.out:
        about = {"library": f"TensorRT for RTX {trt.__version__}", "engines": [asdict(e) for e in found]}
        (options.out / "engines.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
