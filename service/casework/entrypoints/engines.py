"""What the configuration says of engines, as paths; and plans built before a worker needs them."""

import time
from collections.abc import Iterator
from pathlib import Path

from casework.config import Settings
from casework.engine.bundle import ModelPackage, open_package
from casework.engine.choose import Place
from casework.engine.gpu import Gpu
from casework.engine.plans import Plans
from casework.engine.trt import MODULES, Library, plans_of, profiles
from casework.engine.twin import open_twin
from casework.errors import Refused


def place_of(settings: Settings) -> Place:
    """Where this configuration keeps an engine's files."""
    engine, model = settings.engine, settings.model_folder
    twin = Path(engine.twin) if engine.twin else model.with_name(f"{model.name}-fp16")
    plans = Path(engine.plans) if engine.plans else settings.root / "plans"
    return Place(twin.resolve(), plans.resolve(), settings.work.threads)


def open_model(settings: Settings) -> ModelPackage:
    """The configured package, signed by whom the configuration trusts.

    Raises:
        Defect: MODEL_INVALID, MODEL_UNSIGNED and their like.
    """
    signing = settings.signing
    return open_package(settings.model_folder, signing.public_key_files, allow_unsigned=signing.allow_unsigned)


def build_plans(settings: Settings) -> Iterator[str]:
    """Build what is missing for this GPU; a line for each graph.

    Raises:
        Refused: STATE_FORBIDS, no TensorRT runner is in engine.order.
        CaseworkError: ENGINE_UNAVAILABLE, ENGINE_PLAN_FAILED, MODEL_INVALID.
    """
    kind = next((name for name in settings.engine.order if name in MODULES), "")
    if not kind:
        raise Refused("STATE_FORBIDS", "engine.order names neither tensorrt nor tensorrt-rtx: no plans are needed")
    package, place = open_model(settings), place_of(settings)
    twin, library, gpu = open_twin(package, place.twin), Library(kind), Gpu(settings.engine.device)
    kept = Plans(place.plans)
    yield f"{kind} {library.version} on {gpu.name} ({gpu.capability}), driver {gpu.driver}, into {place.plans}"
    for role, graph in twin.graphs.items():
        began = time.monotonic()
        found = plans_of(library, {role: graph}, gpu, kept, settings.engine.max_sides, build=True)
        seconds = time.monotonic() - began
        least, usual, most = profiles(settings.engine.max_sides)[role]
        yield f"{role}: {len(found[role]) / 1e6:.1f} MB for {least} to {most} (usually {usual}), {seconds:.1f} s"


def check_targets(settings: Settings, targets: list[str]) -> Iterator[str]:
    """Build every graph for other GPUs with TensorRT for RTX, which needs none, and keep nothing.

    Raises:
        CaseworkError: as build_plans.
    """
    package = open_model(settings)
    twin, library = open_twin(package, place_of(settings).twin), Library("tensorrt-rtx")
    for target in targets:
        for role, graph in twin.graphs.items():
            plan, _ = library.build(role, graph, profiles(settings.engine.max_sides)[role], target=target)
            yield f"{target} {role}: {len(plan) / 1e6:.1f} MB"
