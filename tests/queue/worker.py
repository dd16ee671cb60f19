"""A worker process whose engine takes a fixed time: `python -m tests.queue.worker CONFIG.json`.

Everything but the engine is the service's: the queue's adapter, the claim, the lease, the fence, the ledger. A case whose
accession number begins with DIE kills the process in native code. Each run appends a line to `runs`.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from casework.case import Artefact
from casework.config import Settings, Storage
from casework.config_queue import Queue
from casework.ledger import Ledger
from casework.observe import setup_logging
from casework.queue import INFER, lane_of, open_queue
from tests.ledger.ledger_help import sha


class FixedHands:
    """Claims, waits, finishes."""

    def __init__(self, url: str, latency_s: float, lease_s: float, runs: Path, destinations: list[str]) -> None:
        self._ledger = Ledger.open(url)
        self._latency_s, self._lease_s, self._destinations = latency_s, lease_s, destinations
        self._runs = os.open(runs, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def take(self, job_id: int | None, *, routine_first: bool) -> str | None:
        began = time.monotonic()
        job = self._ledger.claim_job(
            "analyse", f"fixed:{os.getpid()}", self._lease_s, datetime.now(UTC), job_id, routine_first=routine_first
        )
        if job is None:
            if job_id is not None:
                self._note({"drop": job_id, "seconds": time.monotonic() - began})
            return None
        claimed = time.monotonic()
        if self._ledger.case_inputs(job.case_id)[0].header.accession_number.startswith("DIE"):
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(self._latency_s)
        made = Artefact("sr", "application/dicom", "1.2.3", "1.2.9", "1.2.840.10008.5.1.4.1.1.88.34",
                        f"2.25.{int(job.case_id, 16)}"[:60], sha(job.case_id), 100, "SR")  # fmt: skip
        done = self._ledger.finish_job(
            job.job_id, job.fence, "{}", [made], [], self._destinations, datetime.now(UTC)
        )  # fmt: skip
        ended = time.monotonic()
        self._note(
            {"job": job.job_id, "priority": job.priority, "attempt": job.attempt, "done": done, "pid": os.getpid(),
             "host": socket.gethostname(),
             "at": time.time(), "claim": claimed - began, "all": ended - began}
        )  # fmt: skip
        return lane_of(job.priority)

    def _note(self, what: dict[str, object]) -> None:
        os.write(self._runs, (json.dumps(what) + "\n").encode())

    def beat(self) -> None:
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._runs)


def main(config: Path) -> int:
    given = json.loads(config.read_text("utf-8"))
    settings = Settings(queue=Queue(**given["queue"]), storage=Storage(ledger_url=given["url"]))
    setup_logging("fixed-worker")
    os.environ.pop("COVERAGE_PROCESS_START", None)
    return open_queue(settings, INFER).work(
        lambda: FixedHands(
            given["url"], given["latency_s"], given["lease_s"], Path(given["runs"]), given["destinations"]
        )
    )


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
