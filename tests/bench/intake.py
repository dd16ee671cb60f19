"""Intake side by side: our listener, Orthanc and storescp take the same files from the same dcmsend processes.

    python -m tests.bench.intake [--rounds 3] [--instances 600] [--gigabytes 2] [--only casework]

Makes its own data in a temporary folder, starts and ends every receiver, prints one table and (with --json) a file. The
receivers take turns within each round, so that a slow moment of the machine meets all of them; the figure is the median.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import generate_uid

from tests.bench import receivers
from tests.bench.instances import write_mammogram, write_mr
from tests.bench.receivers import Receiver

RECEIVERS: dict[str, Callable[[Path], Receiver]] = {
    "casework": receivers.casework,
    "Orthanc": receivers.orthanc,
    "storescp": receivers.storescp,
}


@dataclass(frozen=True)
class Scenario:
    """What is sent: one folder per parallel sender."""

    name: str
    folders: tuple[Path, ...]
    count: int
    megabytes: float


def make_scenarios(root: Path, instances: int) -> list[Scenario]:
    """Write the files; the parallel and the single sender share them."""
    parallel = tuple(root / f"mr{n}" for n in range(8))
    for n in range(instances):
        write_mr(parallel[n % 8] / f"{n}.dcm", series=n % 8, number=n)
    single = root / "single"
    for n in range(instances // 3):
        write_mr(single / f"{n}.dcm", series=9, number=n)
    mammograms = tuple(root / f"mg{n}" for n in range(4))
    for n in range(16):
        write_mammogram(mammograms[n % 4] / f"{n}.dcm", number=n)
    return [
        _scenario(f"{instances} MR of 0.5 MB, 8 senders", parallel),
        _scenario(f"{instances // 3} MR, one sender", (single,)),
        _scenario("16 mammograms of 27 MB, 4 senders", mammograms),
    ]


def _scenario(name: str, folders: tuple[Path, ...]) -> Scenario:
    sizes = [p.stat().st_size for folder in folders for p in folder.iterdir()]
    return Scenario(name, folders, len(sizes), sum(sizes) / 1e6)


def send(scenario: Scenario, receiver: Receiver) -> float:
    """Send a scenario with one dcmsend per folder, all at once; return the seconds until the last one ended.

    Raises:
        RuntimeError: a sender was refused something.
    """
    command = ["dcmsend", "-aec", receiver.ae_title, receivers.HOST, str(receiver.port), "+sd"]
    began = time.perf_counter()
    senders = [
        subprocess.Popen([*command, str(f)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for f in scenario.folders
    ]
    outputs = [s.communicate()[0] for s in senders]
    seconds = time.perf_counter() - began
    for sender, output in zip(senders, outputs, strict=True):
        if sender.returncode or b"E: " in output:
            raise RuntimeError(f"dcmsend to {receiver.name}: {output[-400:]!r}")
    return seconds


def stored(receiver: Receiver) -> int:
    """Instances that the receiver holds, counted on its disk."""
    match receiver.name:
        case "casework":
            return sum(1 for p in (receiver.folder / "spool" / "objects").glob("??/*"))
        case "storescp":
            return sum(1 for _ in (receiver.folder / "out").iterdir())
        case _:  # Orthanc keeps the file and, apart, the header up to the pixel data
            return sum(1 for p in (receiver.folder / "db").glob("??/??/*") if p.stat().st_size > 400_000)


def compare(scenarios: list[Scenario], rounds: int, root: Path, only: str) -> dict[str, dict[str, list[float]]]:
    """Run every scenario on every receiver in turn."""
    seconds: dict[str, dict[str, list[float]]] = {s.name: {} for s in scenarios}
    for turn in range(rounds):
        for scenario in scenarios:
            for name, start in RECEIVERS.items():
                if only and name != only:
                    continue
                folder = root / f"run-{name}"
                shutil.rmtree(folder, ignore_errors=True)
                with receivers.running(start(folder)) as receiver:
                    cpu = receiver.cpu_s()
                    spent = send(scenario, receiver)
                    cpu = receiver.cpu_s() - cpu
                    if stored(receiver) != scenario.count:
                        raise RuntimeError(f"{name} holds {stored(receiver)} of {scenario.count}")
                seconds[scenario.name].setdefault(name, []).append(spent)
                print(
                    f"round {turn + 1}: {scenario.name}: {name} {spent:.2f} s, {cpu:.2f} s CPU",
                    file=sys.stderr,
                    flush=True,
                )
    return seconds


def memory(root: Path, gigabytes: int) -> list[float]:
    """Resident memory of the listener after each gigabyte, MB; every instance is new to it."""
    sizes = []
    with receivers.running(receivers.casework(root / "memory")) as receiver:
        sizes.append(receiver.rss_mb())
        for _ in range(gigabytes):
            for batch in range(4):
                folders = tuple(root / "memory-in" / f"{n}" for n in range(4))
                for n in range(480):
                    write_mr(folders[n % 4] / f"{n}.dcm", series=100 + batch, number=n)
                send(_scenario("memory", folders), receiver)
                shutil.rmtree(root / "memory-in")
            sizes.append(receiver.rss_mb())
    return sizes


def table(scenarios: list[Scenario], seconds: dict[str, dict[str, list[float]]]) -> str:
    """The comparison as Markdown."""
    lines = [
        "| scenario | receiver | median s | instances/s | MB/s | casework is |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for scenario in scenarios:
        ours = statistics.median(seconds[scenario.name].get("casework", [float("nan")]))
        for name, values in seconds[scenario.name].items():
            median = statistics.median(values)
            ratio = "" if name == "casework" else f"{median / ours:.2f} x"
            lines.append(
                f"| {scenario.name} | {name} | {median:.2f} | {scenario.count / median:.0f} | {scenario.megabytes / median:.0f} | {ratio} |"
            )
    return "\n".join(lines)


def main() -> int:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=600)
    parser.add_argument("--gigabytes", type=int, default=2, help="for the memory figure; 0 leaves it out")
    parser.add_argument("--only", default="", choices=["", *RECEIVERS])
    parser.add_argument("--folder", default=None, help="where to work (default: the system's temporary folder)")
    parser.add_argument("--json", default="")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix=f"intake-{generate_uid()[-6:]}-", dir=arguments.folder))
    try:
        scenarios = make_scenarios(root / "data", arguments.instances)
        seconds = compare(scenarios, arguments.rounds, root, arguments.only)
        print(table(scenarios, seconds))
        sizes = memory(root, arguments.gigabytes) if arguments.gigabytes else []
        if sizes:
            print("listener memory, MB: at start, then after each GB: " + ", ".join(f"{s:.0f}" for s in sizes))
        if arguments.json:
            Path(arguments.json).write_text(json.dumps({"seconds": seconds, "memory_mb": sizes}, indent=1))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
