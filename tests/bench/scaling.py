"""What a national screening load asks for: `python -m tests.bench.scaling [--plot FILE] [--measure]`; docs/scaling.md explains it.

Days of cases through the service's own rules (tests.bench.scaling_world) at times that were measured: `--measure` takes the two
that are its own on this machine, the others are rows of docs/benchmarks.md. Seeds are printed.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from casework.queue import Turns
from tests.bench.scaling_world import DAY_S, Costs, Demand, Outcome, Plant, run, share

SEED = 20261120
# Seconds; each from a row of docs/benchmarks.md or docs/scaling.md.
COSTS = Costs()
WORKERS = (1, 2, 4, 8, 16)
BURST = Demand(burst_times=20.0)


class Never(Turns):
    """The control: STAT strictly first, so that routine work never has its turn."""

    @property
    def routine_first(self) -> bool:
        """Never."""
        return False


def main() -> None:
    """Print the tables; the plot where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--measure", action="store_true", help="only measure a screening case and a ledger write here")
    options = parser.parse_args()
    if options.measure:
        measure()
        return
    print(f"seed {SEED}; a case: {COSTS}")
    print(f"{COSTS.turns} turns of the ledger a case; {COSTS.most_a_second:.1f} cases a second at most")
    days = {n: (run(Plant(n), Demand(), COSTS, SEED), run(Plant(n), BURST, COSTS, SEED)) for n in WORKERS}
    _table(days)
    _resources(days[WORKERS[-1]])
    _regions()
    _starvation()
    if options.plot:
        plot({n: burst for n, (_, burst) in days.items()}, options.plot)


def _table(days: dict[int, tuple[Outcome, Outcome]]) -> None:
    print(
        "\nworkers (2 cores each) | usual day: busiest hour, STAT p99, routine p99 wait | burst: STAT p99, routine p99 wait, all delivered after its end"
    )
    for workers, (usual, burst) in days.items():
        busy = max(usual.worker_hours) / 3600 / workers
        waits = [share(day.waits(stat=stat), 0.99) for day in (usual, burst) for stat in (True, False)]
        after = _drained(burst)
        print(
            f"{workers:3d} | {busy:5.0%} {waits[0]:7.1f} s {waits[1]:7.1f} s | {waits[2]:7.1f} s {waits[3] / 60:7.1f} min {after / 60:7.1f} min"
        )


def _drained(day: Outcome) -> float:
    """Seconds from the burst's end until every case that was sent by then was delivered."""
    end = BURST.burst_at_s + BURST.burst_s
    return max(c.delivered for c in day.cases if c.begun <= end) - end


def _resources(days: tuple[Outcome, Outcome]) -> None:
    print("\nbusiest hour of           | usual day | day of the burst")
    for name, of in {
        "two listener hosts": lambda day: day.listeners.busiest(),
        "the ledger's writer": lambda day: day.ledger.busiest(),
        "the busiest of 100 PACS": lambda day: max(p.busiest() for p in day.pacs),
        f"{WORKERS[-1]} workers": lambda day: max(day.worker_hours) / 3600 / WORKERS[-1],
    }.items():
        print(f"{name:25} | {of(days[0]):9.1%} | {of(days[1]):9.1%}")
    one = run(Plant(WORKERS[-1], destinations=1), Demand(), COSTS, SEED)
    print(
        f"one PACS for the whole country, usual day: its thread is busy for {one.pacs[0].busiest():.0%} of the busiest hour"
    )


def _regions(all_workers: int = 16) -> None:
    """The same country as regions with a ledger, a spool and their share of the workers each; no patient is in two."""
    print(
        f"\nledgers, {all_workers} workers in all | cases a second that they end | burst: STAT p99, routine p99 wait, all delivered after its end"
    )
    for regions in (1, 2, 4, 8):
        demand = replace(BURST, cases_a_year=BURST.cases_a_year // regions)
        day = run(Plant(all_workers // regions, destinations=100 // regions), demand, COSTS, SEED)
        stat, routine = (share(day.waits(stat=stat), 0.99) for stat in (True, False))
        most = regions * COSTS.most_a_second
        print(f"{regions:3d} | {most:5.1f}/s | {stat:6.1f} s {routine / 60:6.1f} min {_drained(day) / 60:6.1f} min")


def _starvation() -> None:
    """A burst of nothing but STAT: what routine work waits, with the rule and without it."""
    flood = replace(BURST, burst_stat_share=1.0)
    print("\na burst of STAT only, 2 workers | STAT p50, p99 wait | longest wait of routine")
    for name, turns in {"after four STAT one routine": Turns, "STAT strictly first (control)": Never}.items():
        day = run(Plant(2, turns=turns), flood, COSTS, SEED)
        stat, routine = day.waits(stat=True), day.waits(stat=False)
        print(
            f"{name:30} | {share(stat, 0.5) / 60:5.1f} min {share(stat, 0.99) / 60:5.1f} min | {routine[-1] / 60:5.1f} min"
        )


def plot(days: dict[int, Outcome], path: Path) -> None:
    """The age of the oldest waiting case over the day of the burst."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for workers, day in days.items():
        shown = [(t / 3600, age / 60) for t, _, age in day.depth if t <= DAY_S]
        axes.plot(*zip(*shown, strict=True), label=f"{workers} workers ({2 * workers} cores)", linewidth=1.2)
    axes.set(
        xlabel="hour of the day",
        ylabel="age of the oldest waiting case, minutes",
        yscale="symlog",
        xlim=(6, 24),
        ylim=(0, None),
    )
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def measure(rounds: int = 5) -> None:
    """Processor time of one screening case of four full-size mammograms; a writer's turn on PostgreSQL with fsync."""
    from casework.observe import setup_logging
    from models.cman.phantom.dicom import write_case
    from tests.analyse.rig import model
    from tests.bench.case import one

    setup_logging("bench", "ERROR")
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        place = Path(folder)
        package = model(place / "models", "cman")
        files = [
            path for path in write_case(place / "case", 7).files if "MG" in path.read_bytes()[:4000].decode("latin-1")
        ]
        for warm in (False, True):
            ran = [one(files, package, warm=warm, beside=True, profile="standard") for _ in range(rounds)]
            wall, used = (
                statistics.median(values)
                for values in zip(*((sum(e.seconds.values()), cpu) for e, cpu in ran), strict=True)
            )
            print(
                f"{len(files)} mammograms, {'prepared ahead' if warm else 'cold'}: {wall:.2f} s, {used:.2f} s of processor"
            )
        spent, used = _writes(place)
        print(
            f"a writer's turn on PostgreSQL, fsync on: fastest tenth {share(spent, 0.1) * 1e3:.1f} ms, median "
            f"{share(spent, 0.5) * 1e3:.1f} ms, {used * 1e3:.1f} ms of processor on both sides"
        )
        print(f"load {os.getloadavg()[0]:.1f}: on a busy machine only processor time means anything")


def _writes(folder: Path, jobs: int = 150) -> tuple[list[float], float]:
    """Claims and ends, one after the other: seconds of each write, sorted, and the processor's for one, server included."""
    from casework.config_queue import Queue
    from casework.ledger import Ledger
    from tests.ledger.postgres_cluster import Cluster
    from tests.queue.conftest import Yard

    cluster, spent = Cluster(fsync=True), []
    try:
        yard = Yard(folder, Queue(), cluster.url("postgres"))
        yard.add(jobs)
        ledger = Ledger.open(cluster.url("postgres"))
        ledger.info()  # connected
        server = psutil.Process(int((cluster.folder / "data" / "postmaster.pid").read_text().split()[0]))
        before, begun = _processor_s(server), time.perf_counter()
        while job := ledger.claim_job("analyse", "bench", 60.0, datetime.now(UTC)):
            spent.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            ledger.finish_job(job.job_id, job.fence, "{}", [], [], [], datetime.now(UTC))
            spent.append(time.perf_counter() - begun)
            begun = time.perf_counter()
        used = _processor_s(server) - before
        ledger.close()
        yard.close()
    finally:
        cluster.stop()
    return sorted(spent), used / len(spent)


def _processor_s(server: psutil.Process) -> float:
    times = [p.cpu_times() for p in (psutil.Process(), server, *server.children())]
    return sum(t.user + t.system for t in times)


if __name__ == "__main__":
    main()
