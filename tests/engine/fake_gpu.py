"""A GPU and TensorRT played by this machine: "device" memory is host memory, a plan is its ONNX graph, ONNX Runtime computes.

It stands in for hardware that no test has. It is strict where the real one is: sizes and addresses must be set before a run,
shapes must lie in the profile, a recorded graph repeats what was recorded, a plan of another GPU is not opened.
"""

from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from casework.errors import Unavailable

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class FakeGpu:
    """Memory by address, copies at once, one stream."""

    name, capability, driver, stream = "Played GPU", "8.9", "1.2.3", 7

    def __init__(self) -> None:
        self.blocks: dict[int, NDArray[np.uint8]] = {}
        self.recorded = self.replayed = 0
        self.lost = False

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        return np.full(shape, np.nan, dtype)

    def memory(self, size: int) -> int:
        address = 4096 + sum(len(b) for b in self.blocks.values())
        self.blocks[address] = np.full(size, 255, np.uint8)
        return address

    def upload(self, to: int, array: NDArray[Any]) -> None:
        self.blocks[to][:] = np.ascontiguousarray(array).view(np.uint8).ravel()

    def download(self, array: NDArray[Any], source: int) -> None:
        array[...] = self.blocks[source].view(array.dtype).reshape(array.shape)

    def wait(self) -> None:
        if self.lost:
            raise Unavailable("ENGINE_LOST", "CUDA: cudaErrorIllegalAddress")

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1

        def again() -> None:
            self.replayed += 1
            work()

        return again


class _Context:
    def __init__(self, engine: "_Engine") -> None:
        self.engine, self.shapes, self.addresses = engine, dict[str, tuple[int, ...]](), dict[str, int]()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.get_tensor_profile_shape(name, 0)
        self.shapes[name] = shape
        return least[0] <= shape[0] <= most[0] and shape[1:] == self.engine.get_tensor_shape(name)[1:]

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        return (next(iter(self.shapes.values()))[0], *self.engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        gpu = self.engine.gpu
        assert stream == gpu.stream
        assert set(self.addresses) == set(self.engine.tensors)
        feeds = {
            name: gpu.blocks[self.addresses[name]].view(np.float32).reshape(self.shapes[name])
            for name in self.engine.inputs
        }
        for name, made in zip(self.engine.outputs, self.engine.session.run(self.engine.outputs, feeds), strict=True):
            gpu.blocks[self.addresses[name]][:] = np.ascontiguousarray(made).view(np.uint8).ravel()
        return True


class _Engine:
    def __init__(self, graph: bytes, gpu: FakeGpu, profile: tuple[int, int, int]) -> None:
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.gpu, self.profile, self.contexts = gpu, profile, 0
        self.tensors = {n.name: n for n in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.inputs = [n.name for n in self.session.get_inputs()]
        self.outputs = [n.name for n in self.session.get_outputs()]
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, n: int) -> str:
        return list(self.tensors)[n]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.inputs else "out"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if isinstance(n, str) else n for n in self.tensors[name].shape)

    def get_tensor_dtype(self, name: str) -> str:
        return str(self.tensors[name].type)

    def get_tensor_profile_shape(self, name: str, _: int) -> list[tuple[int, ...]]:
        return [(size, *self.get_tensor_shape(name)[1:]) for size in self.profile]

    def create_runtime_config(self) -> SimpleNamespace:
        return SimpleNamespace()

    def create_execution_context(self, _: object) -> _Context:
        self.contexts += 1
        return _Context(self)


class Severity(Enum):
    """Of a library's line."""

    ERROR = 1
    INTERNAL_ERROR = 2


class _Logger:
    Severity = Severity


class PlayedLibrary:
    """`tensorrt` as a Library sees it: plans say for which GPU they are."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.__version__ = "10.99.0"
        self.ILogger, self.TensorIOMode = _Logger, SimpleNamespace(INPUT="in")
        self.gpu, self.engines = gpu, list[_Engine]()

    def nptype(self, name: str) -> type:
        return _TYPES[name]

    def Runtime(self, _: object) -> SimpleNamespace:  # noqa: N802 - the library's name
        return SimpleNamespace(deserialize_cuda_engine=self._open)

    def _open(self, plan: bytes) -> _Engine | None:
        place, profile, graph = plan.split(b"|", 2)
        if place.decode() != self.gpu.name:
            return None
        least, usual, most = (int(n) for n in profile.split(b","))
        self.engines.append(_Engine(graph, self.gpu, (least, usual, most)))
        return self.engines[-1]
