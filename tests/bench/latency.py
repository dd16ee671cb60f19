"""Seconds from the last image's acknowledgement to the SR in the PACS, when the expected count is known.

    python -m tests.bench.latency [--cases 3] [--small] [--model models/cman] [--pacs orthanc|simulator]

A PACS routes each full-size phantom case to the running service, which asks the PACS how many images there are. The clock
starts with the ledger's time of the last image and stops at the ledger's time of the last SR's success status.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from models.cman.phantom.dicom import write_case
from tests.demo.pacs import Pacs
from tests.demo.service import Service
from tests.simulators.orthanc import Orthanc
from tests.simulators.pacs import SimulatedPacs

GOAL_S = 5.0


def one(service: Service, pacs: Pacs, folder: Path, seed: int, *, full_size: bool) -> dict[str, float]:
    """Send one case through the PACS; return seconds after the last image for each step."""
    truth = write_case(folder / str(seed), seed, full_size=full_size)
    for modality in truth.studies:
        pacs.store([p for p in truth.files if p.name.startswith(modality.lower())], lambda _: None)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        items = [i for i in service.get("/v1/cases", q=truth.patient_id)["items"] if i["newest"]]
        if items and items[0]["state"] == "delivered" and sum(items[0]["modalities"].values()) == len(truth.files):
            break
        time.sleep(0.2)
    else:
        raise SystemExit(f"case {seed} was not delivered in time")
    case = service.get(f"/v1/cases/{items[0]['id']}")
    last = datetime.fromisoformat(case["last_image_at"])
    results = service.get(f"/v1/cases/{case['id']}/results")
    times = {"revision": float(case["revision"])}
    srs = {f"delivery:{d['id']}" for d in results["deliveries"] if d["kind"] == "sr"}
    landed: dict[str, list[datetime]] = {"stored": [], "committed": []}
    for event in service.get(f"/v1/cases/{case['id']}/events")["items"]:
        state = event.get("detail", {}).get("to")
        if event["subject"] in srs and state in landed:  # the acknowledge, and later the proof
            landed[state].append(datetime.fromisoformat(event["at"]))
        if state in ("queued", "running", "rendered"):
            times[f"to {state}"] = (datetime.fromisoformat(event["at"]) - last).total_seconds()
    times["to first SR in the PACS"] = (min(landed["stored"]) - last).total_seconds()
    times["to last SR in the PACS"] = (max(landed["stored"]) - last).total_seconds()
    if landed["committed"]:
        times["to last SR proved there"] = (max(landed["committed"]) - last).total_seconds()
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--model", type=Path, default=Path("models/cman"))
    parser.add_argument("--pacs", choices=["orthanc", "simulator"], default="orthanc")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="casework-latency-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        service = Service(folder / "service", CASEWORK_WORK_MODEL=str(options.model.resolve()))
        stack.callback(service.stop)
        if options.pacs == "orthanc":
            orthanc = Orthanc(folder / "orthanc", cman_port=service.dicom_port)
            stack.callback(orthanc.stop)
            orthanc.start()
            pacs = Pacs("127.0.0.1", orthanc.port, orthanc.aet)
        else:
            target = f"CMAN@127.0.0.1:{service.dicom_port}"
            simulated = SimulatedPacs(folder / "pacs", "PACS", 0, None, target, 1.0, ()).start()
            stack.callback(simulated.stop)
            pacs = Pacs("127.0.0.1", simulated.port, simulated.aet)
        service.start(pacs.ae_title, pacs.port)
        rounds = [one(service, pacs, folder, 100 + n, full_size=not options.small) for n in range(options.cases)]
    table = Table("seconds after the last image's acknowledgement", "median", "worst")
    figures = {name: [r[name] for r in rounds if name in r] for name in rounds[0]}
    for name, values in figures.items():
        table.add_row(name, f"{statistics.median(values):.2f}", f"{max(values):.2f}")
    Console(width=100).print(table)
    worst = max(figures["to last SR in the PACS"])
    print(f"last image acknowledged to the last SR in the PACS: {worst:.2f} s at worst (goal {GOAL_S:.0f} s)")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
