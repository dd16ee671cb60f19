"""One runner for `tensorrt` (10.16 and 11) and `tensorrt_rtx`, by what their APIs have in common. Owns both libraries.

Plans are strongly typed: the graph's types are the precision. One profile, from one to the most images; a batch runs in the
next power of two, each with a context, buffers and a recorded CUDA graph of its own, because a graph is only good for the
shapes and the context that it was recorded with. Differences: `tensorrt` has a timing cache, RTX compute capabilities that a
plan may be built for without a GPU, a runtime cache of compiled kernels, and its own graphs.
"""

import importlib
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from casework.engine.bundle import ModelPackage
from casework.engine.plans import PlanKey, Plans
from casework.engine.runner import Floats
from casework.engine.sides import ENCODER_INPUT, ENCODER_OUTPUT, SideRunner, outputs_of
from casework.engine.twin import PRECISION
from casework.errors import CaseworkError, Defect, Unavailable
from casework.modelspec import SLOTS
from casework.observe import log

MODULES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt_rtx_libs", "tensorrt_rtx_bindings")}  # libraries first
# The bindings raise these; none has a base of its own.
_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, MemoryError)
Profile = tuple[int, int, int]


class Device(Protocol):
    """What a runner needs of a GPU: casework.engine.gpu.Gpu."""

    name: str
    capability: str
    driver: str
    stream: Any

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]: ...  # noqa: D102 - see Gpu
    def memory(self, size: int) -> int: ...  # noqa: D102
    def upload(self, to: int, array: NDArray[Any]) -> None: ...  # noqa: D102
    def download(self, array: NDArray[Any], source: int) -> None: ...  # noqa: D102
    def wait(self) -> None: ...  # noqa: D102
    def record(self, work: Any) -> Any: ...  # noqa: D102


def profiles(max_sides: int) -> dict[str, Profile]:
    """Least, usual and most along the first axis of each graph: images, and sides with each modality left out in turn."""
    images = {m: (1, len(slots) * min(2, max_sides), len(slots) * max_sides) for m, slots in SLOTS.items()}
    return images | {"fusion": (1, min(2, max_sides), len(SLOTS) * max_sides)}


class Library:
    """`tensorrt` or `tensorrt_rtx`.

    Raises:
        Unavailable: ENGINE_UNAVAILABLE, it isn't installed.
    """

    def __init__(self, kind: str, module: Any = None) -> None:
        try:
            self.trt: Any = module or [importlib.import_module(name) for name in MODULES[kind]][-1]
        except (ImportError, OSError) as error:
            raise Unavailable("ENGINE_UNAVAILABLE", f"{kind} can't be loaded: {type(error).__name__}") from error
        self.kind, self.version = kind, str(self.trt.__version__)
        trt = self.trt

        class Logger(trt.ILogger):  # type: ignore[name-defined,misc]  # a class of the library
            """Keeps errors, drops the rest: its lines are not ours to repeat."""

            def __init__(self) -> None:
                super().__init__()
                self.errors: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                    self.errors.append(message)

        self.logger = Logger()

    def build(
        self, role: str, graph: bytes, profile: Profile, timings: bytes = b"", target: str = ""
    ) -> tuple[bytes, bytes]:
        """Plan and timing cache (b"" with RTX). target: "SM89", to build for another GPU than this one's; RTX only.

        Raises:
            Defect: ENGINE_PLAN_FAILED, the parser or the builder refuses.
        """
        try:
            return self._build(role, graph, profile, timings, target)
        except _ERRORS as error:
            raise Defect("ENGINE_PLAN_FAILED", f"{role}: {type(error).__name__}: {self._last_error()}") from error

    def _build(self, role: str, graph: bytes, profile: Profile, timings: bytes, target: str) -> tuple[bytes, bytes]:
        trt = self.trt
        builder = trt.Builder(self.logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse(graph):
            words = "; ".join(parser.get_error(n).desc() for n in range(parser.num_errors))
            raise Defect("ENGINE_PLAN_FAILED", f"{role}: the parser refuses: {words[:200]}")
        config = builder.create_builder_config()
        cache = None
        if self.kind == "tensorrt-rtx":
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, target or "CURRENT"), 0)
        else:
            cache = config.create_timing_cache(timings)
            config.set_timing_cache(cache, ignore_mismatch=False)
        limits = builder.create_optimization_profile()
        for n in range(network.num_inputs):
            tensor = network.get_input(n)
            limits.set_shape(tensor.name, *[(size, *tuple(tensor.shape)[1:]) for size in profile])
        config.add_optimization_profile(limits)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise Defect("ENGINE_PLAN_FAILED", f"{role}: {self._last_error()}")
        return bytes(plan), b"" if cache is None else bytes(cache.serialize())

    def _last_error(self) -> str:
        return self.logger.errors[-1][:200] if self.logger.errors else ""


def plans_of(
    library: Library, graphs: Mapping[str, bytes], device: Device, plans: Plans, max_sides: int, *, build: bool
) -> dict[str, bytes]:
    """The plan of every graph for this very GPU and library, built where it is not there.

    Raises:
        Unavailable: ENGINE_UNAVAILABLE, one is missing and may not be built here.
        Defect: ENGINE_PLAN_FAILED.
    """
    timing = f"timing-{library.kind}-{library.version}-sm{device.capability}"
    found: dict[str, bytes] = {}
    for role, graph in graphs.items():
        profile = profiles(max_sides)[role]
        digest = sha256(graph).hexdigest()
        key = PlanKey(digest, library.kind, library.version, device.name, device.capability, PRECISION, profile)
        plan = plans.find(role, key)
        if plan is None:
            if not build:
                raise Unavailable("ENGINE_UNAVAILABLE", f"no plan for {role}: casework build-plan")
            began = time.monotonic()
            plan, timings = library.build(role, graph, profile, plans.cache(timing))
            plans.keep(role, key, plan, time.monotonic() - began)
            if timings:
                plans.keep_cache(timing, timings)
            log.info("plan.built", kind=role, seconds=round(time.monotonic() - began, 1), bytes=len(plan))
        found[role] = plan
    return found


class _Program:
    """One graph for one size of batch: context, buffers on both sides, and the recorded graph after its first run."""

    def __init__(
        self, role: str, size: int, device: Device, *, engine: Any, config: Any, trt: Any, record: bool
    ) -> None:
        self._device, self._record, self._again = device, record, None
        self._context = engine.create_execution_context(config)
        if self._context is None:
            raise Unavailable("ENGINE_LOST", f"{role}: no memory for a batch of {size}")
        self.inputs: dict[str, NDArray[Any]] = {}
        self.outputs: dict[str, NDArray[Any]] = {}
        self._there: dict[str, int] = {}
        names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
        given = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        for name in given:
            if not self._context.set_input_shape(name, (size, *tuple(engine.get_tensor_shape(name))[1:])):
                raise Defect("INTERNAL", f"engine: {role} refuses a batch of {size}")
        if self._context.infer_shapes():
            raise Defect("INTERNAL", f"engine: {role} has inputs without a shape")
        for name in names:
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            array = device.pinned(tuple(self._context.get_tensor_shape(name)), dtype)
            self._there[name] = device.memory(array.nbytes)
            self._context.set_tensor_address(name, self._there[name])
            (self.inputs if name in given else self.outputs)[name] = array

    def run(self, role: str) -> None:
        """From the input arrays to the output arrays."""
        if self._again is not None:
            self._again()
            self._device.wait()
            return
        self._begin(role)
        self._device.wait()
        if self._record:  # the first run let the library allocate, which a recording must not
            self._record = False
            try:
                self._again = self._device.record(lambda: self._begin(role))
            except Unavailable as error:
                log.warning("engine.not_recorded", kind=role, code=error.code)

    def _begin(self, role: str) -> None:
        for name, array in self.inputs.items():
            self._device.upload(self._there[name], array)
        if not self._context.execute_async_v3(int(self._device.stream)):
            raise Unavailable("ENGINE_LOST", f"{role}: not executed")
        for name, array in self.outputs.items():
            self._device.download(array, self._there[name])


class TrtRunner(SideRunner):
    """A package's plans, ready to run.

    Raises:
        Unavailable: ENGINE_UNAVAILABLE, a plan is not for this GPU or library.
        Defect: MODEL_INVALID, a plan has other inputs or outputs than the service knows.
    """

    def __init__(
        self, package: ModelPackage, plans: Mapping[str, bytes], library: Library, device: Device, kept: Plans
    ) -> None:
        self._library, self._device, self._kept = library, device, kept
        self._runtime = library.trt.Runtime(library.logger)
        self._engines, self._configs, self._most = {}, {}, {}
        self._cache_name = f"runtime-{library.kind}-{library.version}-sm{device.capability}"
        for role, plan in plans.items():
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise Unavailable("ENGINE_UNAVAILABLE", f"{role}: the plan is not for this GPU and library")
            self._engines[role] = engine
            self._check(role, engine)
            self._most[role] = int(engine.get_tensor_profile_shape(engine.get_tensor_name(0), 0)[2][0])
            self._configs[role] = self._config(engine)
        self._programs: dict[tuple[str, int], _Program] = {}
        shape = self._engines["MG"].get_tensor_shape(ENCODER_OUTPUT)
        super().__init__(package, tuple(int(n) for n in tuple(shape)[1:]))

    def _config(self, engine: Any) -> Any:
        config = engine.create_runtime_config()
        if self._library.kind == "tensorrt-rtx":  # kernels are compiled at their first use, and kept
            cache = config.create_runtime_cache()
            kept = self._kept.cache(self._cache_name)
            if kept:
                cache.deserialize(kept)
            config.set_runtime_cache(cache)
            config.cuda_graph_strategy = self._library.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return config

    def keep_caches(self) -> None:
        """Keep compiled kernels for the next start (RTX); call it after the golden samples have run."""
        if self._library.kind == "tensorrt-rtx":
            for config in self._configs.values():
                self._kept.keep_cache(self._cache_name, bytes(config.get_runtime_cache().serialize()))

    def _check(self, role: str, engine: Any) -> None:
        names = {engine.get_tensor_name(n) for n in range(engine.num_io_tensors)}
        masks = {f"{m.lower()}_mask" for m in SLOTS}
        given = {ENCODER_INPUT} if role != "fusion" else {*(m.lower() for m in SLOTS), *masks}
        if names != given | set(outputs_of(role)):
            raise Defect("MODEL_INVALID", f"plan {role}: tensors are {sorted(names)}")

    def describe(self) -> str:
        """Library and version, e.g. "tensorrt 10.16.1.11"."""
        return f"{self._library.kind} {self._library.version}"

    def _run(self, role: str, outputs: tuple[str, ...], feeds: dict[str, Floats]) -> list[Floats]:
        total, most = len(next(iter(feeds.values()))), self._most[role]
        parts: list[list[Floats]] = []
        try:
            for start in range(0, total, most):
                parts.append(self._part(role, outputs, {k: v[start : start + most] for k, v in feeds.items()}))
        except CaseworkError:
            raise
        except _ERRORS as error:
            raise Unavailable("ENGINE_LOST", f"{role}: {type(error).__name__}") from error
        return [np.concatenate([part[n] for part in parts]) for n in range(len(outputs))]

    def _part(self, role: str, outputs: tuple[str, ...], feeds: dict[str, Floats]) -> list[Floats]:
        count = len(next(iter(feeds.values())))
        size = min(1 << (count - 1).bit_length(), self._most[role])
        program = self._programs.get((role, size))
        if program is None:
            rtx = self._library.kind == "tensorrt-rtx"
            program = _Program(
                role,
                size,
                self._device,
                engine=self._engines[role],
                config=self._configs[role],
                trt=self._library.trt,
                record=not rtx,
            )
            self._programs[role, size] = program
        for name, array in program.inputs.items():
            array[:count] = feeds[name]
            array[count:] = 0
        program.run(role)
        return [program.outputs[name][:count].astype(np.float32) for name in outputs]
