"""Every figure of docs/benchmarks.md in one run: `make bench`, or `python -m tests.bench [NAME ...] [--quick]`.

Each bench is a program of its own; their output is shown as it comes and kept in .work/bench. Times are of this machine at this
moment: compare ratios within one run, not seconds across runs.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import casework

OUT = Path(__file__).resolve().parents[2] / ".work" / "bench"
BENCHES: dict[str, tuple[list[str], list[str]]] = {
    # name: (module and arguments, arguments of a quick run)
    "network": (["network"], ["network", "--rounds", "5"]),
    "case": (["case"], ["case", "--rounds", "1"]),
    "latency": (["latency"], ["latency", "--cases", "1"]),
    "intake": (["intake"], ["intake", "--rounds", "1", "--gigabytes", "0"]),
    "cases": (["cases"], ["cases", "--patients", "50", "--control-patients", "25"]),
    "queue": (["queue"], ["queue", "--jobs", "600", "--kills", "10", "--outage", "20", "--scaled-jobs", "10"]),
    "scaling": (["scaling"], ["scaling"]),
    "killstorm": (["killstorm"], ["killstorm", "--rounds", "10", "--control-rounds", "2"]),
}


def main() -> int:
    """Run the benches one after the other; 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="default: all; " + ", ".join(BENCHES))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    failed = []
    print(f"casework {casework.__version__}, {datetime.now(UTC):%Y-%m-%d}, {_machine()}, load {os.getloadavg()[0]:.1f}")
    for name in options.names or BENCHES:
        arguments = BENCHES[name][options.quick]
        print(f"\n=== {name}: python -m tests.bench.{' '.join(arguments)}", flush=True)
        begun = time.monotonic()
        command = [sys.executable, "-m", f"tests.bench.{arguments[0]}", *arguments[1:]]
        with (
            (OUT / f"{name}.txt").open("w") as kept,
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                kept.write(line)
        print(f"({name}: {time.monotonic() - begun:.0f} s)")
        if process.returncode:
            failed.append(name)
    if failed:
        print("failed:", ", ".join(failed))
    return 1 if failed else 0


def _machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    return f"{os.cpu_count()} x {model or platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
