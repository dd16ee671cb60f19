"""kill -9 of the listener at random, round after round, under 8 senders: what was acknowledged must be there.

    python -m tests.bench.killstorm [--rounds 200] [--control-rounds 5] [--seed N]

Each sender keeps a journal of its own: an instance is written down with the digest of its data set when its success status has
been read, and only then. After each kill the listener starts again on the same folder and the senders repeat what they got no
answer for. In the end every journal entry must be in the ledger and in the spool, byte for byte.

A kill alone leaves the page cache alive, so it can't show a missing fsync. Therefore a power cut is played as well: the
listener runs with os.fsync watched, and after the kill every file that was never flushed is emptied and every name whose
folder was not flushed after the rename is forgotten. With fsync on that must lose nothing; with storage.fsync = false
(the negative control) it must lose something, or this bench proves nothing and fails.
"""

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import receivers
from tests.bench.instances import image
from tests.bench.reliability.oracle import compare
from tests.protocol.peer import MR, Peer, encoded

SENDERS = 8
WATCH = (
    "import os, time\n"
    "_real, _log = os.fsync, os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)\n"
    "def _fsync(fd):\n"
    "    at, s = time.time_ns(), os.fstat(fd)\n"
    "    _real(fd)\n"
    "    os.write(_log, f'{{s.st_ino}} {{at}}\\n'.encode())\n"
    "os.fsync = _fsync\n"
)


@dataclass
class Journal:
    """What one sender knows."""

    number: int
    acknowledged: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    sent: int = 0

    def next_uid(self) -> str:
        """A SOP Instance UID to send: first those without an answer."""
        if self.unanswered:
            return self.unanswered.pop()
        self.sent += 1
        return f"1.2.826.0.1.3680043.8.498.{1000 + self.number}{self.sent:09d}"


class Template:
    """One data set whose SOP Instance UID and pixels' first bytes are exchanged, which is quicker than encoding anew."""

    def __init__(self, rows: int = 96) -> None:
        self._uid = "1.2.826.0.1.3680043.8.498.9999999999999"
        data = encoded(image(rows=rows, columns=rows, SOPInstanceUID=self._uid))
        self._before, self._after = data.split(self._uid.encode())

    def make(self, uid: str) -> bytes:
        """The data set with another UID of the same length."""
        assert len(uid) == len(self._uid)
        return self._before + uid.encode() + self._after


def send_until_broken(port: int, journal: Journal, template: Template) -> None:
    """Send over one association after another until the listener is gone."""
    try:
        while True:
            with Peer(port) as peer:
                if peer.associate()[0] != 2:
                    return
                for _ in range(20):
                    uid = journal.next_uid()
                    journal.unanswered.append(uid)
                    data = template.make(uid)
                    if peer.store(data, MR, uid) != 0:
                        return
                    journal.unanswered.remove(uid)
                    journal.acknowledged[uid] = hashlib.sha256(data).hexdigest()
                peer.release()
    except OSError:
        return


def storm(folder: Path, journals: list[Journal], rounds: int, rng: random.Random, *, fsync: bool, watch: bool) -> float:
    """Run the rounds; return the longest time from start to the first accepted connection."""
    port, slowest, template = receivers.free_port(), 0.0, Template()
    log = folder / "fsync.log"
    prelude = WATCH.format(log=str(log)) if watch else ""
    folder.mkdir(parents=True)
    for turn in range(rounds):
        began = time.monotonic()
        receiver = receivers.casework(folder, port=port, fsync=fsync, prelude=prelude)
        slowest = max(slowest, time.monotonic() - began)
        threads = [threading.Thread(target=send_until_broken, args=(port, j, template)) for j in journals]
        for thread in threads:
            thread.start()
        time.sleep(rng.uniform(0.02, 0.6))
        receiver.process.kill()
        receiver.process.wait(10)
        for thread in threads:
            thread.join()
        if watch:
            cut_power(folder / "spool" / "objects", log)
        if (turn + 1) % 20 == 0:
            print(
                f"round {turn + 1}: {sum(len(j.acknowledged) for j in journals)} acknowledged",
                file=sys.stderr,
                flush=True,
            )
    receivers.stop(receivers.casework(folder, port=port, fsync=fsync))  # the last recovery
    return slowest


def cut_power(objects: Path, log: Path) -> None:
    """Do to the spool what a power cut may do: forget what was never flushed."""
    flushed: dict[int, int] = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        inode, at = line.split()
        flushed[int(inode)] = max(int(at), flushed.get(int(inode), 0))
    for shard in objects.iterdir():
        known = flushed.get(shard.stat().st_ino, 0)
        for path in shard.iterdir():
            status = path.stat()
            if status.st_ctime_ns > known:
                path.unlink()
            elif status.st_ino not in flushed:
                path.write_bytes(b"")


def check(folder: Path, journals: list[Journal]) -> tuple[int, int, int]:
    """Compare journals with ledger and spool; return acknowledged, missing and altered instances."""
    told = {uid: digest for journal in journals for uid, digest in journal.acknowledged.items()}
    missing, altered = compare(folder / "spool" / "objects", folder / "spool" / "ledger" / "ledger.db", told)
    leftover = list((folder / "spool" / "incoming").iterdir())
    if leftover:
        raise RuntimeError(f"{len(leftover)} half files after the last start")
    return len(told), missing, altered


def main() -> int:
    """Run the storm and its control; exit 1 when something acknowledged is gone, or when the control loses nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--control-rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--folder", default=None)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    rng, root, good = (
        random.Random(arguments.seed),
        Path(tempfile.mkdtemp(prefix="killstorm-", dir=arguments.folder)),
        True,
    )
    plans = [
        ("kill -9", arguments.rounds, True, False),
        ("power cut, fsync on", arguments.control_rounds, True, True),
        ("power cut, fsync off (control)", arguments.control_rounds, False, True),
    ]
    try:
        for n, (name, rounds, fsync, watch) in enumerate(plans):
            if not rounds:
                continue
            journals = [Journal(k) for k in range(SENDERS)]
            slowest = storm(root / str(n), journals, rounds, rng, fsync=fsync, watch=watch)
            total, missing, altered = check(root / str(n), journals)
            lost = missing + altered
            good = good and (lost == 0 if fsync else lost > 0)
            row = {"run": name, "rounds": rounds, "acknowledged": total, "missing": missing, "altered": altered}
            print(json.dumps({**row, "slowest_start_s": round(slowest, 2)}), flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print("as it must be" if good else "NOT as it must be")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
