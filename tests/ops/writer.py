"""A door in a process: `python -m tests.ops.writer ROOT URL FIRST` takes images in, one after the other, until it is killed.

Prints the number of each image once it is acknowledged.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from casework.ledger import Ledger
from casework.spool import Spool
from tests.ledger.ledger_help import arrival


def take_in(ledger: Ledger, spool: Spool, number: int) -> str:
    """Keep and record one image; its digest."""
    digest = spool.put(f"image {number}".encode() * 50)
    changes = {"study_instance_uid": f"1.2.{number}", "patient_id": f"P{number}", "sha256": digest}
    [recorded] = ledger.record([arrival(f"1.2.{number}.1", **changes)], datetime.now(UTC))
    assert recorded.case_id
    return digest


if __name__ == "__main__":
    root, url, first = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    opened, kept = Ledger.open(url), Spool(root)
    while True:
        take_in(opened, kept, first)
        print(first, flush=True)
        first += 1
