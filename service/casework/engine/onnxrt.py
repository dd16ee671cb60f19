"""Run a package in ONNX Runtime, on the CPU or by CUDA.

Owns ONNX Runtime. Graphs come from memory, already digested. Threads of two encoders never compete: the graphs run one
after the other, each on all threads. By CUDA nothing is moved to the CPU without a word: such a session is refused.
"""

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from casework.engine.bundle import ModelPackage
from casework.engine.runner import Floats
from casework.engine.sides import SideRunner, outputs_of
from casework.errors import Defect, Unavailable

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

# ONNX Runtime's errors have no common base below Exception.
ORT_ERRORS = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
    ValueError,
)


def _session(role: str, graph: bytes, threads: int, device: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads cost 2.5x when the cores are shared with decoding, and gain nothing when they are not.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[str | tuple[str, dict[str, str]]] = [CPU]
    if device is not None:
        if CUDA not in onnxruntime.get_available_providers():
            raise Unavailable("ENGINE_UNAVAILABLE", "this ONNX Runtime has no CUDA: install onnxruntime-gpu")
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers = [(CUDA, {"device_id": str(device)})]
    try:
        made = onnxruntime.InferenceSession(graph, options, providers=providers)
    except ORT_ERRORS as error:
        if device is not None:
            raise Unavailable("ENGINE_UNAVAILABLE", f"CUDA, graph {role}: {type(error).__name__}") from error
        raise Defect("MODEL_INVALID", f"graph {role}: {type(error).__name__}") from error
    if device is not None and made.get_providers()[0] != CUDA:  # ONNX Runtime would go on with the CPU
        raise Unavailable("ENGINE_UNAVAILABLE", f"CUDA, graph {role}: the provider could not be loaded")
    return made


class OnnxRunner(SideRunner):
    """A package, ready to run. threads: 0 = number of cores. device: a GPU's number, None for the CPU.

    Raises:
        Defect: MODEL_INVALID.
        Unavailable: ENGINE_UNAVAILABLE, no GPU, driver or CUDA build is there.
    """

    def __init__(self, package: ModelPackage, threads: int = 0, *, device: int | None = None) -> None:
        self._provider = CPU if device is None else CUDA
        self._sessions = {role: _session(role, graph, threads, device) for role, graph in package.graphs.items()}
        self._check_names()
        shape = self._sessions["fusion"].get_inputs()[0].shape
        super().__init__(package, tuple(int(n) for n in shape[2:]))

    def _check_names(self) -> None:
        for role, session in self._sessions.items():
            names = {n.name for n in session.get_outputs()}
            if not set(outputs_of(role)) <= names:
                raise Defect("MODEL_INVALID", f"graph {role}: outputs are {sorted(names)}")

    def describe(self) -> str:
        """Engine and device, e.g. "onnxruntime 1.31.1 CPUExecutionProvider"."""
        return f"onnxruntime {onnxruntime.__version__} {self._provider}"

    def _run(self, role: str, outputs: tuple[str, ...], feeds: dict[str, Floats]) -> list[Floats]:
        try:
            results: list[Floats] = self._sessions[role].run(list(outputs), feeds)
        except ORT_ERRORS as error:
            if self._provider == CUDA:
                raise Unavailable("ENGINE_LOST", f"CUDA, graph {role}: {type(error).__name__}") from error
            raise Defect("INTERNAL", f"engine: graph {role}: {type(error).__name__}") from error
        return results
