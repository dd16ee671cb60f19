"""What leaving each modality out and the distance to the training add to one run of the network, taken in turns.

python -m tests.bench.doubts [models/cman] [rounds]
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

from casework.engine.bundle import open_package
from casework.engine.golden import inputs_of
from casework.engine.onnxrt import OnnxRunner
from casework.engine.runner import Floats


class Plain(OnnxRunner):
    """The same engine without either."""

    def _without(self, feeds: Mapping[str, Floats]) -> dict[str, Floats]:  # noqa: ARG002 - the base's name
        return {}


def main() -> None:
    """Print milliseconds of both, median and least."""
    package = open_package(Path(sys.argv[1] if len(sys.argv) > 1 else "models/cman"))
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 12
    inputs = inputs_of(package.golden[0])
    runners = {"without": Plain(replace(package, reference={}), threads=2), "with": OnnxRunner(package, threads=2)}
    took: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds + 1):
        for name, runner in runners.items():
            began = time.perf_counter()
            runner.run(inputs)
            took[name].append(1e3 * (time.perf_counter() - began))
    for name, values in took.items():
        print(f"{name}: median {median(values[1:]):.0f} ms, least {min(values[1:]):.0f} ms")


if __name__ == "__main__":
    main()
