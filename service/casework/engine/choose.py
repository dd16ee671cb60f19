"""Which engine serves: the first of the configured order that can be opened and passes its examination, and no other.

A runner that is passed over is said in the log, in a metric, and by ENGINE_FALLBACK in every result that another computes.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from casework.config_engine import Engine
from casework.engine.bundle import ModelPackage
from casework.engine.gpu import Gpu
from casework.engine.onnxrt import OnnxRunner
from casework.engine.passport import Passport, digest_of, examine
from casework.engine.plans import Plans
from casework.engine.runner import Runner
from casework.engine.trt import Library, TrtRunner, plans_of
from casework.engine.twin import open_twin
from casework.errors import CaseworkError
from casework.observe import ENGINE, ENGINE_PASSED_OVER, log


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine's files are, and what it may use. threads: of the CPU, 0 = number of cores."""

    twin: Path
    plans: Path
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine and the package that it runs: the released one or its twin."""

    runner: Runner
    package: ModelPackage
    passport: Passport


Opener = Callable[[ModelPackage, Engine, Place], Opened]


def open_cpu(package: ModelPackage, engine: Engine, place: Place) -> Opened:  # noqa: ARG001 - an opener
    """ONNX Runtime on the CPU, with the released graphs."""
    runner = OnnxRunner(package, place.threads)
    return Opened(runner, package, _passport("cpu", runner, package, package.graphs, device=platform.machine()))


def open_cuda(package: ModelPackage, engine: Engine, place: Place) -> Opened:
    """ONNX Runtime by CUDA, with the half-precision twin."""
    twin, gpu = open_twin(package, place.twin), Gpu(engine.device)
    runner = OnnxRunner(twin, device=engine.device)
    return Opened(runner, twin, _passport("cuda", runner, twin, twin.graphs, device=gpu.name, driver=gpu.driver))


def open_tensorrt(package: ModelPackage, engine: Engine, place: Place) -> Opened:
    """TensorRT, or TensorRT for RTX, with plans of the half-precision twin."""
    kind = next(name for name in engine.order if name.startswith("tensorrt"))
    twin, library, gpu = open_twin(package, place.twin), Library(kind), Gpu(engine.device)
    kept = Plans(place.plans)
    plans = plans_of(library, twin.graphs, gpu, kept, engine.max_sides, build=engine.build_missing)
    runner = TrtRunner(twin, plans, library, gpu, kept)
    return Opened(runner, twin, _passport(kind, runner, twin, plans, device=gpu.name, driver=gpu.driver))


OPENERS: Mapping[str, Opener] = {
    "cpu": open_cpu,
    "cuda": open_cuda,
    "tensorrt": open_tensorrt,
    "tensorrt-rtx": open_tensorrt,
}


def open_engine(package: ModelPackage, engine: Engine, place: Place, openers: Mapping[str, Opener] = OPENERS) -> Opened:
    """Open the engine that serves.

    Raises:
        CaseworkError: that of the last runner of the order; none could be opened, or none passed.
    """
    passed_over: list[tuple[str, str]] = []
    for n, name in enumerate(engine.order):
        try:
            opened = openers[name](package, engine, place)
            examine(opened.runner, opened.package)
        except CaseworkError as error:
            ENGINE_PASSED_OVER.labels(name, error.code).set(1)
            log.error("engine.passed_over", engine=name, code=error.code, reason=error.detail)
            passed_over.append((name, error.code))
            if n + 1 == len(engine.order):
                raise
            continue
        passport = replace(opened.passport, passed_over=tuple(passed_over))
        if isinstance(opened.runner, TrtRunner):
            opened.runner.keep_caches()
        ENGINE.labels(passport.runner, passport.precision).set(1)
        log.info("engine.serves", engine=passport.line, reason=passport.stamp)
        return replace(opened, passport=passport)
    raise AssertionError


def _passport(
    name: str, runner: Runner, package: ModelPackage, runs: Mapping[str, bytes], *, device: str, driver: str = ""
) -> Passport:
    return Passport(
        runner=name,
        engine=runner.describe(),
        device=device,
        driver=driver,
        precision=package.spec.precision,
        package=package.sha256,
        plan=digest_of([runs[role] for role in sorted(runs)]),
    )
