"""How long a case takes from claim to results written: seconds per stage, from cold and prepared ahead.

    python -m tests.bench.case [--model models/cman] [--rounds 3] [--small] [--alone] [--json FILE]

The case is a phantom of full size: four mammograms in lossless JPEG 2000, a dynamic MRI, ultrasound stills and a cine, in the
real ledger, spool, decode children, engine and report, on this machine, fsync on. Cold: nothing was prepared and no
file is in the cache of prepared images. Warm: the prepare-ahead thread had its turn. Decode children and the
report process are running and the worker is warm in both, as in a worker that is up.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil

from casework.config import PROFILES, Destination
from casework.config_engine import Engine
from casework.flows.analyse import Ended
from casework.observe import setup_logging
from models.cman.phantom.dicom import write_case
from tests.analyse.rig import Rig, model

CPU = Engine()
TARGET_S = {"cold": 2.0, "warm": 0.8}


def cpu_s() -> float:
    """Processor seconds of this process and the decode children so far."""
    used = [psutil.Process().cpu_times(), *(p.cpu_times() for p in psutil.Process().children() if p.is_running())]
    return sum(t.user + t.system for t in used)


def one(
    files: list[Path], package: Path, *, warm: bool, beside: bool, profile: str, engine: Engine = CPU
) -> tuple[Ended, float]:
    """One case in a fresh root; how it ended, and its processor seconds."""
    root = Path(tempfile.mkdtemp(prefix="case-bench-"))
    rig = Rig(root, model=package, prepare_ahead=False, report_process=beside)
    place = Destination("pacs", ae_title="PACS", profile=profile)
    rig.settings = replace(rig.settings, destination=(place,), engine=engine)
    worker = rig.worker()
    try:
        for future in [worker.pool.submit({"do": "facts", "paths": []}, 60) for _ in range(worker.pool.size)]:
            future.result()
        worker.start()
        case_id = rig.arrive(files)
        if warm:
            time.sleep(0.5)
            worker.ahead.step()
        rig.queue(case_id)
        before = cpu_s()
        ended = worker.step()
        assert ended is not None
        assert not ended.code, ended.code
        return ended, cpu_s() - before
    finally:
        worker.close()
        rig.close()
        shutil.rmtree(root)


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", default="models/cman")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seed", type=int, default=7)
    arguments.add_argument("--small", action="store_true", help="a sixteenth of the size")
    arguments.add_argument("--alone", action="store_true", help="without the report process beside the worker")
    arguments.add_argument("--profile", default="standard", choices=PROFILES, help="of the one destination")
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--engine", nargs="+", default=["cpu"], help="engine.order")
    arguments.add_argument("--plans", default="", help="engine.plans: built once, not for each round")
    options = arguments.parse_args()
    setup_logging("bench", "ERROR")
    twin = str(Path(options.model).with_name(f"{Path(options.model).name}-fp16").resolve())
    engine = Engine(order=tuple(options.engine), twin=twin, plans=options.plans)
    with tempfile.TemporaryDirectory(prefix="case-bench-files-") as folder:
        place = Path(folder)
        package = model(place / "models", Path(options.model).name)
        files = list(write_case(place / "case", options.seed, full_size=not options.small).files)
        megabytes = sum(f.stat().st_size for f in files) / 1e6
        runs = {
            kind: [
                one(
                    files,
                    package,
                    warm=kind == "warm",
                    beside=not options.alone,
                    profile=options.profile,
                    engine=engine,
                )
                for _ in range(options.rounds)
            ]
            for kind in ("cold", "warm")
        }
    print(
        f"{len(files)} instances, {megabytes:.0f} MB; {options.rounds} rounds, medians; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    stages = list(runs["cold"][0][0].seconds)
    table = {k: {s: statistics.median(e.seconds[s] for e, _ in ended) for s in stages} for k, ended in runs.items()}
    totals = {k: statistics.median(sum(e.seconds.values()) for e, _ in ended) for k, ended in runs.items()}
    cpu = {k: statistics.median(c for _, c in ended) for k, ended in runs.items()}
    print(f"{'seconds':10}" + "".join(f"{kind:>10}" for kind in table))
    for stage in stages:
        print(f"{stage:10}" + "".join(f"{table[kind][stage]:10.3f}" for kind in table))
    print(f"{'all':10}" + "".join(f"{totals[kind]:10.3f}" for kind in table))
    print(f"{'processor':10}" + "".join(f"{cpu[kind]:10.3f}" for kind in table))
    for kind, seconds in totals.items():
        print(
            f"{kind}: {seconds:.2f} s, at most {TARGET_S[kind]} s wanted: {'met' if seconds <= TARGET_S[kind] else 'MISSED'}"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"stages": table, "totals": totals, "processor": cpu, "instances": len(files)}, indent=1)
        )


if __name__ == "__main__":
    main()
