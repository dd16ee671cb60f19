"""What each engine of this machine does: `make bench-gpu`, or `python -m tests.bench.gpu [--package F] [--out FILE.json]`.

For TensorRT, TensorRT for RTX, ONNX Runtime by CUDA and by the CPU (released graphs, and the twin that GPUs run): cold start,
parity with the golden samples, p50 and p99 of a run by sides, memory; then a whole case with decoding by the engine that serves.
A table and a JSON file; what a machine lacks is a line, never a number. Ends within --seconds (default 420).

To run it on a borrowed machine: needed are service/, tests/, models/cman-tiny and models/cman-tiny-fp16
(1.5 MB each), or one other package and its twin (`make twin`); the packages of requirements-gpu.lock have to be there.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from casework.config_engine import Engine
from casework.engine.bundle import ModelPackage, open_package
from casework.engine.choose import OPENERS, Opened, Opener, Place
from casework.engine.golden import inputs_of
from casework.engine.onnxrt import OnnxRunner
from casework.engine.passport import Passport, digest_of, examine
from casework.engine.runner import SideInputs
from casework.engine.twin import open_twin
from casework.errors import CaseworkError
from casework.modelspec import SLOTS

MODELS = Path(__file__).resolve().parents[2] / "models"
SIDES = (1, 2, 4, 8)
ROUNDS = 100  # at most, for each size of batch; fewer when the time is up


def main() -> int:
    """Run everything there is; 0 also without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=MODELS / "cman")
    parser.add_argument("--twin", type=Path, help="default: the package's folder + -fp16")
    parser.add_argument("--plans", type=Path, help="keep plans here between runs (default: a cold build)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--no-case", action="store_true", help="leave out the whole case")
    options = parser.parse_args()
    ends = time.monotonic() + options.seconds
    package = open_package(options.package)
    found: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "package": f"{package.spec.name} {package.spec.version}", "engines": []}  # fmt: skip
    print(f"{found['package']} on {json.dumps(found['machine'])}")
    with tempfile.TemporaryDirectory() as folder:
        twin = options.twin or options.package.with_name(f"{options.package.name}-fp16")
        place = Place(twin, options.plans or Path(folder) / "plans")
        openers: dict[str, Opener] = {**OPENERS, "cpu twin": open_cpu_twin}
        for n, (name, opener) in enumerate(openers.items()):
            share = (ends - time.monotonic() - 120.0 * (not options.no_case)) / (len(openers) - n)
            found["engines"].append(measure(name, opener, package, place, max(5.0, share)))
        here = [e["engine"] for e in found["engines"] if "missing" not in e and e["engine"] in OPENERS]
        best = next((name for name in ("tensorrt", "tensorrt-rtx", "cuda", "cpu") if name in here), "cpu")
        found["case"] = {"skipped": "--no-case"}
        if not options.no_case:
            found["case"] = whole_case(options.package, best, place.plans, ends - time.monotonic())
    found["torch"] = "not measured: the package holds ONNX graphs, no torch weights"
    print(f"torch: {found['torch']}")
    print(f"whole case: {json.dumps(found['case'], indent=1)}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0


def machine() -> dict[str, Any]:
    """What this is, as far as it says."""
    try:
        named = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        named = "no GPU"
    return {"gpu": named, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "system": platform.platform()}


def open_cpu_twin(package: ModelPackage, engine: Engine, place: Place) -> Opened:
    """The twin in ONNX Runtime on the CPU: what a GPU has to say, without one."""
    twin = open_twin(package, place.twin)
    runner = OnnxRunner(twin)
    digest = digest_of([twin.graphs[role] for role in sorted(twin.graphs)])
    return Opened(runner, twin, Passport("cpu", runner.describe(), "", "", "fp16", package.sha256, digest))


def measure(name: str, opener: Opener, package: ModelPackage, place: Place, seconds: float) -> dict[str, Any]:
    """One engine, or why it is not here."""
    order = (name,) if name in OPENERS else ("cpu",)
    began = time.monotonic()
    try:
        opened = opener(package, Engine(order=order, max_sides=max(SIDES)), place)
        cold = time.monotonic() - began
        examine(opened.runner, opened.package)
    except CaseworkError as error:
        print(f"{name}: not here, {error.code} ({error.detail})")
        return {"engine": name, "missing": error.code, "detail": error.detail}
    made: dict[str, Any] = {"engine": name, **asdict(opened.passport), "cold_start_s": round(cold, 2)}
    made["parity"] = parity(opened, package)
    full = inputs_of(package.golden[0])
    until = time.monotonic() + seconds
    print(f"{name}: {opened.passport.line}, cold start {cold:.2f} s, parity {made['parity']}")
    for at, sides in enumerate(SIDES):
        left = until - time.monotonic()
        if left <= 0:
            print(f"  {sides} sides: no time is left")
            break
        share = left / (len(SIDES) - at)
        made[f"{sides}_sides"] = times(opened, repeat(full, sides), share)
        print(f"  {sides} sides: {made[f'{sides}_sides']}")
    made["memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    made["gpu_memory_mb"] = gpu_memory()
    return made


def parity(opened: Opened, released: ModelPackage) -> dict[str, float]:
    """Largest difference of a probability: from its own reference, and from the released network."""
    own = far = 0.0
    for mine, theirs in zip(opened.package.golden, released.golden, strict=True):
        prob = opened.runner.run(inputs_of(mine)).prob
        own = max(own, float(np.abs(prob - mine.arrays["prob"].astype(np.float32)).max()))
        far = max(far, float(np.abs(prob - theirs.arrays["prob"].astype(np.float32)).max()))
    return {"own_reference": round(own, 5), "released": round(far, 5)}


def repeat(full: SideInputs, sides: int) -> SideInputs:
    """So many sides of the recorded case."""
    rows = [n % len(full.masks["MG"]) for n in range(sides)]
    return SideInputs({m: full.images[m][rows] for m in SLOTS}, {m: full.masks[m][rows] for m in SLOTS})


def times(opened: Opened, inputs: SideInputs, seconds: float) -> dict[str, float]:
    """p50 and p99 in milliseconds after up to three runs that don't count."""
    until, taken = time.monotonic() + seconds, list[float]()
    for _ in range(3):
        if time.monotonic() < until:
            opened.runner.run(inputs)
    while len(taken) < ROUNDS and (len(taken) < 3 or time.monotonic() < until):
        began = time.perf_counter()
        opened.runner.run(inputs)
        taken.append(1000 * (time.perf_counter() - began))
    p50, p99 = np.percentile(taken, (50, 99))
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "rounds": len(taken)}


def gpu_memory() -> float | None:
    """Used memory of the first GPU in MB; None without one."""
    try:
        from cuda.bindings import runtime

        status, free, total = runtime.cudaMemGetInfo()
    except (ImportError, RuntimeError, ValueError):
        return None
    return None if int(status) else round((total - free) / 1e6)


def whole_case(package: Path, engine: str, plans: Path, seconds: float) -> dict[str, Any]:
    """Claim to results with decoding, by a worker with this engine (tests.bench.case, a phantom of full size)."""
    if seconds < 60:
        return {"skipped": f"{seconds:.0f} s are left, a minute is needed"}
    command = [
        sys.executable, "-W", "ignore", "-m", "tests.bench.case", "--rounds", "2", "--model", str(package),
        "--engine", engine, "--plans", str(plans),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"skipped": "not done in time"}
    return {"engine": engine, "status": done.returncode, "says": done.stdout.splitlines() or done.stderr[-300:]}


if __name__ == "__main__":
    sys.exit(main())
