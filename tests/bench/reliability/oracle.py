"""What was acknowledged against what is there: the senders' journals, the ledger's rows, the spool's bytes."""

import hashlib
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path


def compare(objects: Path, ledger: Path, told: Mapping[str, str]) -> tuple[int, int]:
    """How many acknowledged instances are missing, and how many have other bytes than were sent.

    told: SOP Instance UID -> SHA-256 of the data set that its sender was told is stored.

    Raises:
        RuntimeError: the ledger's file is damaged.
    """
    with closing(sqlite3.connect(ledger)) as connection:
        if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise RuntimeError("the ledger is damaged")
        stored = dict(connection.execute("SELECT sop_uid, sha256 FROM instance"))
    missing = altered = 0
    for uid, digest in told.items():
        path = objects / stored.get(uid, "--")[:2] / stored.get(uid, "--")
        if not path.is_file():
            missing += 1
            continue
        data = path.read_bytes()
        whole = hashlib.sha256(data).hexdigest() == path.name
        altered += not whole or hashlib.sha256(data[dataset_offset(data) :]).hexdigest() != digest
    return missing, altered


def dataset_offset(data: bytes) -> int:
    """Where the data set of a Part 10 file begins."""
    return 144 + int.from_bytes(data[140:144], "little") if len(data) > 144 else 0
