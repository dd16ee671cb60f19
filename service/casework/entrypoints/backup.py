"""`casework backup` and `restore`: ledger, stored objects and configuration as one consistent folder.

The ledger is copied first, while the service runs. Objects are on the disk before the ledger names them and never change, so
what is copied after it holds all that it names. Every object is read and its digest compared on the way out and on the way back.
Secrets (keys, passwords, certificates) are not in a backup. What a restore means: docs/runbooks.md.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from casework import __version__
from casework.config import Settings
from casework.errors import Defect, Refused
from casework.ledger import SCHEMA, AuditCheck, Ledger
from casework.ledger.copies import NAMES, copy_in, refuse_used
from casework.spool import Spool

INDEX = "backup.json"
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup is. audit_rows, audit_head: of the copied ledger, so that a restore can be proved."""

    made_at: str
    version: str
    schema: str
    ledger: str  # file name
    ledger_sha256: str
    audit_rows: int
    audit_head: str
    objects: int
    bytes: int


def make_backup(settings: Settings, ledger: Ledger, out: Path, config: Path | None) -> Backup:
    """Write a backup into a new folder.

    Raises:
        Refused: STATE_FORBIDS, the folder is not empty.
        Defect: LEDGER_CORRUPT, the copied ledger's chain is broken, or an object it names is missing or changed.
        Unavailable: LEDGER_UNAVAILABLE.
    """
    if out.exists() and any(out.iterdir()):
        raise Refused("STATE_FORBIDS", f"{out} is not empty")
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = ledger.read.verify_audit()
    count = size = 0
    with Spool(settings.root).keeping():  # retention takes nothing between the ledger's copy and the objects'
        copy = ledger.copy_to(out)
        head = _checked(copy) if copy.name == NAMES["sqlite"] else before  # a dump holds all of it, perhaps more
        if not head.ok:
            raise Defect("LEDGER_CORRUPT", f"audit: row {head.first_bad} {head.problem}")
        for digest in _named(copy, ledger):
            size += _copy(_object(settings.root, digest), _object(out, digest), digest)
            count += 1
    if config is not None:
        shutil.copyfile(config, out / "casework.toml")
    made = Backup(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"), version=__version__, schema=SCHEMA, ledger=copy.name,
        ledger_sha256=_digest(copy), audit_rows=head.rows, audit_head=head.head, objects=count, bytes=size,
    )  # fmt: skip
    part = out / f".{INDEX}"
    part.write_text(json.dumps(asdict(made), indent=1) + "\n", "utf-8")
    part.rename(out / INDEX)
    return made


def restore_backup(settings: Settings, source: Path, *, over_images: bool = False) -> Backup:
    """Bring a backup back into an empty storage root (and an empty database). The ledger comes last: half a restore has none.

    over_images: only the ledger was lost, the root's images stay; those that the backup's ledger doesn't know yet are for
    `adopt`. An object of the backup replaces one of the same name, which is the same bytes or damaged.

    Raises:
        Refused: STATE_FORBIDS, a service runs there, or something is there already; NOT_FOUND, no whole backup.
        Defect: LEDGER_CORRUPT, the backup was changed, or what came back is not what was copied.
    """
    try:
        made = Backup(**json.loads((source / INDEX).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise Refused("NOT_FOUND", f"{source} holds no whole backup ({type(error).__name__})") from error
    copy = source / made.ledger
    if made.ledger not in NAMES.values() or not copy.is_file() or _digest(copy) != made.ledger_sha256:
        raise Defect("LEDGER_CORRUPT", "the backup's ledger is not what was written")
    _refuse_live(settings, over_images=over_images)
    for file in sorted((source / "objects").glob("*/*")):
        _copy(file, _object(settings.root, file.name), file.name)
    copy_in(copy, settings.ledger_url)
    ledger = Ledger.open(settings.ledger_url)
    try:
        ledger.require_current_schema()
        found = ledger.read.verify_audit()
        exact = found.head == made.audit_head or made.ledger != NAMES["sqlite"]
        if not (found.ok and exact and found.rows >= made.audit_rows):
            raise Defect("LEDGER_CORRUPT", "the restored audit is not the one that was copied")
        for digest in _digests(ledger):
            if not _object(settings.root, digest).is_file():
                raise Defect("LEDGER_CORRUPT", "an object that the ledger names was not in the backup")
    finally:
        ledger.close()
    return made


def _refuse_live(settings: Settings, *, over_images: bool) -> None:
    root = settings.root
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (root / "serve.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Refused("STATE_FORBIDS", f"a service runs on {root}") from error
    if not over_images and (root / "objects").exists() and any((root / "objects").glob("*/*")):
        raise Refused("STATE_FORBIDS", f"{root} holds images already: --over-images leaves them there")
    refuse_used(settings.ledger_url)


def _named(copy: Path, ledger: Ledger) -> Iterator[str]:
    """Digests that the copied ledger names; of a PostgreSQL dump, those that the ledger names now, which are more."""
    if copy.name != NAMES["sqlite"]:
        yield from _digests(ledger)
        return
    opened = Ledger.open(f"sqlite:///{copy}")
    try:
        yield from _digests(opened)
    finally:
        opened.close()
        _tidy(copy)


def _checked(copy: Path) -> AuditCheck:
    opened = Ledger.open(f"sqlite:///{copy}")
    try:
        return opened.read.verify_audit()
    finally:
        opened.close()
        _tidy(copy)


def _digests(ledger: Ledger) -> Iterator[str]:
    """Every object that a ledger names, each once."""
    seen: set[str] = set()
    after = 0
    while rows := ledger.read.instances(after, _PAGE):
        seen.update(row.sha256 for row in rows)
        after = rows[-1].id
    after = 0
    while made := ledger.read.artefacts(after, _PAGE):
        seen.update(row.artefact.sha256 for row in made)
        after = made[-1].id
    after = 0
    while aside := ledger.read.aside(after, _PAGE):  # a person may still accept these
        seen.update(sha256 for _, sha256 in aside)
        after = aside[-1][0]
    yield from sorted(seen)


def _tidy(copy: Path) -> None:
    """Remove what opening an SQLite copy left beside it."""
    for suffix in (".turn", ".lock"):
        copy.with_suffix(suffix).unlink(missing_ok=True)
    for suffix in ("-wal", "-shm"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)


def _object(root: Path, digest: str) -> Path:
    return root / "objects" / digest[:2] / digest


def _copy(source: Path, target: Path, digest: str) -> int:
    """Copy one object, flushed, under its name only when its digest is its name; bytes."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = target.with_name(f".{digest}.part")
    found, size = hashlib.sha256(), 0
    try:
        with source.open("rb") as read, part.open("wb") as write:
            part.chmod(0o600)
            while block := read.read(1 << 20):
                found.update(block)
                size += write.write(block)
            write.flush()
            os.fsync(write.fileno())
    except FileNotFoundError as error:
        raise Defect("LEDGER_CORRUPT", f"object {digest[:12]} is missing") from error
    if found.hexdigest() != digest:
        part.unlink()
        raise Defect("LEDGER_CORRUPT", f"object {digest[:12]} is not what its name says")
    part.rename(target)
    return size


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
