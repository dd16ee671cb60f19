"""One run of one experiment in a process of its own: `python -m tests.bench.reliability.one F01 SEED SIZES OUT`."""

import json
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

import casework
from tests.bench.reliability.experiments import EXPERIMENTS
from tests.bench.reliability.lab import Lab


def main(name: str, seed: str, sizes: str, out: str) -> int:
    """Run it and write what came of it; 0 whatever its verdict, 1 when the experiment itself broke."""
    began = time.monotonic()
    run = EXPERIMENTS[name].run
    assert run is not None
    with tempfile.TemporaryDirectory(prefix=f"cw{name}-", ignore_cleanup_errors=True) as folder:
        lab = Lab(Path(folder), json.loads(sizes), random.Random(int(seed)))
        error = ""
        try:
            run(lab)
        except Exception as raised:  # noqa: BLE001 - told apart from a broken promise
            traceback.print_exc()
            error = f"{type(raised).__name__}: {raised}"[:600]
    made = {
        "figures": lab.figures, "complaints": lab.complaints[:20], "error": error,
        "seconds": round(time.monotonic() - began, 1), "product": str(Path(casework.__file__).parent),
    }  # fmt: skip
    Path(out).write_text(json.dumps(made), "utf-8")
    return int(bool(error))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
