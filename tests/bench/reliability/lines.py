"""A PACS at the end of a bad line: another network namespace behind tc netem, slow, lossy, and cut without a word. For F17."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread

from casework.case import CaseState
from casework.config import Destination
from tests.bench.reliability.lab import Lab
from tests.deliver.objects import body, dataset
from tests.deliver.rig import Rig

PORT = 11199


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


class Line:
    """The two ends of a line to a namespace of its own."""

    def __init__(self, number: int) -> None:
        self.space, self.near, self.far = f"cwline{os.getpid()}", f"cwn{os.getpid()}", f"10.78.{number}.2"
        _ip("netns", "add", self.space)
        _ip("link", "add", self.near, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        _ip("addr", "add", f"10.78.{number}.1/24", "dev", self.near)
        _ip("link", "set", self.near, "up")
        _ip("-n", self.space, "addr", "add", f"{self.far}/24", "dev", "eth0")
        _ip("-n", self.space, "link", "set", "eth0", "up")

    def spoil(self) -> str:
        """Make it slow, late and lossy, or only slow where the kernel has no netem; say which."""
        command = ["tc", "qdisc", "replace", "dev", self.near, "root"]
        netem = [*command, *["netem", "delay", "100ms", "20ms", "loss", "2%", "rate", "2mbit"]]
        if subprocess.run(netem, capture_output=True, check=False).returncode == 0:
            return "netem"
        subprocess.run(
            [*command, *["tbf", "rate", "2mbit", "burst", "16kb", "latency", "400ms"]], check=True, capture_output=True
        )
        return "tbf"

    def plug(self, *, out: bool) -> None:
        """Pull the plug, or put it back: neither end hears of it."""
        _ip("-n", self.space, "link", "set", "eth0", "down" if out else "up")

    def close(self) -> None:
        """Remove it."""
        _ip("link", "del", self.near, check=False)
        _ip("netns", "del", self.space, check=False)


@contextmanager
def far_pacs(line: Line, folder: Path) -> Iterator[Path]:
    """Dcmtk's storescp behind the line, which keeps bytes as they came."""
    command = [
        "ip",
        "netns",
        "exec",
        line.space,
        "storescp",
        "--fork",
        "-aet",
        "PACS",
        "+B",
        "-od",
        str(folder),
        str(PORT),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1.0)
        yield folder
    finally:
        process.terminate()
        process.wait(10)


def bad_line(lab: Lab) -> None:
    """Results go over a line of 2 Mbit/s (with netem late and lossy too) that is cut twice in the middle of them."""
    if not shutil.which("tc") or os.geteuid():
        raise RuntimeError("a line needs root, ip and tc: apt-get install iproute2")
    line = Line(lab.rng.randrange(1, 250))
    try:
        with far_pacs(line, lab.place("far")) as far:
            _deliver(lab, line, far)
    finally:
        line.close()


def _deliver(lab: Lab, line: Line, far: Path) -> None:
    destination = Destination("pacs", ae_title="PACS", host=line.far, port=PORT, timeout_s=3.0)
    rig = Rig(lab.place("rig"), destination)
    cuts: list[float] = []

    def cut() -> None:
        for _ in range(2):
            time.sleep(lab.rng.uniform(0.5, 1.5))
            line.plug(out=True)
            cuts.append(time.monotonic())
            time.sleep(4.0)
            line.plug(out=False)

    try:
        lab.figures["line"] = line.spoil()
        results = [dataset("SR"), *(dataset(payload=120_000) for _ in range(lab.n("objects")))]
        case_id = rig.rendered(results, ["pacs"])
        worker = rig.worker(destination, probe_s=0.5)
        cutter = threading.Thread(target=cut)
        cutter.start()
        try:
            rig.turn_until(worker, lambda: rig.state(case_id) is CaseState.DELIVERED, within_s=lab.size["within"])
        except AssertionError:
            states = sorted({row.state for row in rig.deliveries(case_id)})
            lab.must(False, f"not delivered over the bad line: {states}")  # noqa: FBT003 - a plain complaint
        cutter.join()
        held = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): body(path) for path in far.iterdir()}
        made = {str(ds.SOPInstanceUID): body(rig.folder / "made" / f"{ds.SOPInstanceUID}.dcm") for ds in results}
        lab.must(
            held == made,
            f"{sum(held.get(u) == b for u, b in made.items())} of {len(made)} objects are there as they were made",
        )
        tries = sum(row.attempt for row in rig.deliveries(case_id))
        lab.figures |= {"objects_over_a_bad_line": len(made), "cuts": len(cuts), "tries": tries}
    finally:
        rig.close()
