"""What the ledger's tests do in other processes. Run as `python -m tests.ledger.ledger_child NAME URL ARGUMENTS...`."""

import sys
import time
from pathlib import Path

from casework.ledger import Ledger
from casework.ledger.lock import WriteLock
from tests.ledger.ledger_help import NOW, record


def send(url: str, name: str, count: str) -> None:
    """Record images for ever or `count` times, a line on standard output for each that was acknowledged."""
    ledger = Ledger.open(url)
    number = 0
    print("ready", flush=True)
    while not int(count) or number < int(count):
        uids = [f"{name}.{number}.{n}" for n in range(3)]
        for uid, done in zip(uids, record(ledger, *uids, patient_id=name, study_instance_uid=name), strict=True):
            print(uid, done.instance_id, flush=True)
        number += 1
    ledger.close()


def stop_inside(url: str) -> None:
    """Begin a transaction, write, say so, and wait to be killed."""
    ledger = Ledger.open(url)
    with ledger._database.write(NOW) as tx:
        tx.audit("case.moved", "nobody", "never")
        from sqlalchemy import insert

        from casework.ledger.schema import association

        row = {"id": "never", "calling": "", "called": "", "address": "", "opened_at": NOW, "ended": "", "code": ""}
        tx.connection.execute(insert(association), {**row, "counts": {}, "owner": "", "seen_at": NOW})
        print("inside", flush=True)
        time.sleep(60)


def claim_all(url: str, owner: str) -> None:
    """Claim jobs until there are none, printing each."""
    ledger = Ledger.open(url)
    print("ready", flush=True)
    sys.stdin.readline()
    while (job := ledger.claim_job("analyse", owner, 60, NOW)) is not None:
        print(job.job_id, flush=True)
    ledger.close()


def hammer(url: str, name: str, rounds: str) -> None:
    """Write, checkpoint after every transaction, read, and open and close the ledger again and again."""
    from casework.ledger import database

    database._CHECKPOINT_EVERY = 1
    for turn in range(int(rounds)):
        ledger = Ledger.open(url)
        for number in range(10):
            record(ledger, f"{name}.{turn}.{number}", patient_id=name, study_instance_uid=name)
            ledger.read.metrics()
        ledger.close()


def migrate(url: str) -> None:
    """Migrate as soon as standard input says so."""
    ledger = Ledger.open(url)
    print("ready", flush=True)
    sys.stdin.readline()
    ledger.migrate()
    print(ledger.info().schema, flush=True)
    ledger.close()


def count_up(folder: str, rounds: str) -> None:
    """Add one to a number in a file, unsafely, under the write lock."""
    lock, file = WriteLock(Path(folder) / "x.db", 30), Path(folder) / "number"
    for _ in range(int(rounds)):
        with lock.held(), lock.held():
            number = int(file.read_text())
            time.sleep(0.0005)
            file.write_text(str(number + 1))


def hold(folder: str) -> None:
    """Take the write lock and keep it."""
    with WriteLock(Path(folder) / "ledger.db", 30).held():
        print("ready", flush=True)
        time.sleep(60)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
