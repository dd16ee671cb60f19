"""Time the network of a package: one case of 4 mammograms, 8 MR projections and 3 ultrasound frames.

    python -m tests.bench.network [PACKAGE ...] [--threads 2] [--rounds 15]

Packages are run in turns within one process, so that a change of the machine's load meets all of them. The first column
is wall time, the median and the best of the rounds; the second is processor time.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from casework.engine.bundle import ModelPackage, open_package
from casework.engine.onnxrt import OnnxRunner
from casework.engine.runner import SideInputs
from casework.modelspec import CHANNELS, SLOTS

MODELS = Path(__file__).resolve().parents[2] / "models"
US_FRAMES = ((1, 1, 0), (1, 0, 0))  # 3 of 6 slots


def case(package: ModelPackage, seed: int = 1) -> SideInputs:
    """Random pixels: time does not depend on content."""
    rng = np.random.default_rng(seed)
    size = package.spec.input_size
    images = {m: rng.random((2, len(s), CHANNELS[m], size, size), np.float32) for m, s in SLOTS.items()}
    masks = {m: np.ones((2, len(s)), np.float32) for m, s in SLOTS.items()}
    masks["US"] = np.array(US_FRAMES, np.float32)
    return SideInputs(images, masks)


def main() -> None:
    """Print one row per package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", type=Path, default=[MODELS / "cman"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    opened = [open_package(p) for p in options.packages]
    runners = [OnnxRunner(p, options.threads) for p in opened]
    wall: list[list[float]] = [[] for _ in runners]
    busy: list[list[float]] = [[] for _ in runners]
    for turn in range(options.rounds + 2):
        for n, (package, runner) in enumerate(zip(opened, runners, strict=True)):
            inputs = case(package)
            began, used = time.perf_counter(), time.process_time()
            runner.run(inputs)
            if turn >= 2:
                wall[n].append(1e3 * (time.perf_counter() - began))
                busy[n].append(1e3 * (time.process_time() - used))
    print(f"{'package':24} {'precision':9} {'size':>5}  wall ms median (best)   CPU ms   threads {options.threads}")
    for n, package in enumerate(opened):
        spec = package.spec
        median, best, cpu = statistics.median(wall[n]), min(wall[n]), statistics.median(busy[n])
        print(
            f"{options.packages[n].name:24} {spec.precision:9} {spec.input_size:5}  {median:8.0f} ({best:.0f}) {cpu:15.0f}"
        )


if __name__ == "__main__":
    main()
