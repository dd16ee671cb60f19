"""One NVIDIA GPU: what it is, memory there and pinned memory here, one stream, and recorded graphs. Owns cuda.bindings.

Every call's status is looked at. A call that fails while the model runs leaves the device's context in an unknown state:
the error is ENGINE_LOST and the process has to end.
"""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casework.errors import Unavailable

_DRIVER = Path("/proc/driver/nvidia/version")


class Gpu:
    """A device and its one stream.

    name, capability ("8.9"), driver: for the passport.

    Raises:
        Unavailable: ENGINE_UNAVAILABLE, no library, driver or such device.
    """

    def __init__(self, index: int) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise Unavailable("ENGINE_UNAVAILABLE", "cuda-bindings is not installed") from error
        self._cuda: Any = runtime
        try:
            self._ok(runtime.cudaSetDevice(index))
            about = self._ok(runtime.cudaGetDeviceProperties(index))
            self.stream = self._ok(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
            self.driver = _driver() or str(self._ok(runtime.cudaDriverGetVersion()))
        except (Unavailable, RuntimeError) as error:  # RuntimeError: no driver library at all
            detail = error.detail if isinstance(error, Unavailable) else type(error).__name__
            raise Unavailable("ENGINE_UNAVAILABLE", detail) from error
        self.name = bytes(about.name).split(b"\0")[0].decode("ascii", "replace")
        self.capability = f"{about.major}.{about.minor}"

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array in pinned host memory; it lives as long as the process."""
        size = int(np.prod(shape)) * dtype.itemsize
        pointer = int(self._ok(self._cuda.cudaHostAlloc(size, self._cuda.cudaHostAllocDefault)))
        memory = (ctypes.c_uint8 * size).from_address(pointer)
        return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

    def memory(self, size: int) -> int:
        """An address of so many bytes on the device; they live as long as the process."""
        return int(self._ok(self._cuda.cudaMalloc(size)))

    def upload(self, to: int, array: NDArray[Any]) -> None:
        """Begin to copy a pinned array to the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._ok(self._cuda.cudaMemcpyAsync(to, array.ctypes.data, array.nbytes, kind, self.stream))

    def download(self, array: NDArray[Any], source: int) -> None:
        """Begin to copy into a pinned array."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._ok(self._cuda.cudaMemcpyAsync(array.ctypes.data, source, array.nbytes, kind, self.stream))

    def wait(self) -> None:
        """Until all that was begun is done."""
        self._ok(self._cuda.cudaStreamSynchronize(self.stream))

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` begins as a graph; the answer begins all of it again with one call."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._ok(self._cuda.cudaStreamBeginCapture(self.stream, mode))
        try:
            work()
        finally:
            graph = self._ok(self._cuda.cudaStreamEndCapture(self.stream))
        made = self._ok(self._cuda.cudaGraphInstantiate(graph, 0))
        return lambda: self._ok(self._cuda.cudaGraphLaunch(made, self.stream))

    def _ok(self, answer: tuple[Any, ...]) -> Any:
        """A call's value, when its status is success."""
        status, *values = answer
        if int(status) != 0:
            raise Unavailable("ENGINE_LOST", f"CUDA: {getattr(status, 'name', status)}")
        return values[0] if values else None


def _driver() -> str:
    """The version of NVIDIA's kernel driver, "" where it doesn't say."""
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _DRIVER.read_text("ascii", "replace").splitlines()[0])
    except (OSError, IndexError):
        return ""
    return found.group(1) if found else ""
