"""`casework adopt`: images in the spool that the ledger does not know come in once more, through the doors' own intake.

That happens when a ledger was lost and an older copy restored over a spool that went on (docs/runbooks.md), and when a door died
between keeping an image and recording it; then nobody was told that it is here. Each one is judged, recorded and audited as
from any other door; one that is known by then is a duplicate. Nothing is ever deleted or changed, and a service may run.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice

from casework.case import Verdict
from casework.config import Settings
from casework.dicom import classes
from casework.dicom.header import read_header
from casework.errors import Refused
from casework.flows.intake import Context, Intake
from casework.ledger import Ledger
from casework.spool import Spool

SETTLED_S = 60.0  # a door records within moments what it keeps: younger ones are on their way
_PAGE = 500
_BLOCK = 1 << 20


def adopt(settings: Settings, ledger: Ledger, *, settled_s: float = SETTLED_S, dry: bool = False) -> Counter[str]:
    """Take in what nobody knows, in the order in which it was written; how many by what became of them.

    "changed" (the bytes are not those of the name), "result" (the service's own, made again when it is missing) and "no image"
    stay where they are and are not recorded. dry: only count, as "unknown".

    Raises:
        Unavailable: the disk or the ledger; what was taken in until then stays.
    """
    spool = Spool(settings.root, fsync=settings.storage.fsync)
    found = Counter[str]()
    orphans = sorted(_unknown(spool, ledger, settled_s))
    with closing(Intake(spool, ledger, settings)) as intake:
        for _, digest in orphans:
            found["unknown" if dry else _take(intake, spool, digest, settings)] += 1
    return found


def _unknown(spool: Spool, ledger: Ledger, settled_s: float) -> Iterator[tuple[float, str]]:
    """When each object was written that no row names and that nobody writes any more, and its digest."""
    digests = spool.digests()
    while page := list(islice(digests, _PAGE)):
        for digest in set(page) - ledger.read.known_objects(page):
            with suppress(FileNotFoundError):  # retention took it meanwhile
                written = spool.path(digest).stat().st_mtime
                if time.time() - written >= settled_s:
                    yield written, digest


def _take(intake: Intake, spool: Spool, digest: str, settings: Settings) -> str:
    """Let one object come in again as it is; what became of it, with the code."""
    try:
        header = read_header(spool.path(digest), settings.dicom.max_frames_bytes)
    except Refused:
        return "no image"
    if classes.is_own_result(header, settings.report.manufacturer):
        return "result"
    incoming = intake.begin()
    try:
        with spool.open(digest) as file:
            while block := file.read(_BLOCK):
                incoming.write(block)
        if incoming.sha256 != digest:
            return "changed"
        answer = intake.receive(incoming, Context("adopt", "spool", ""))
    finally:
        incoming.abandon()
    return answer.verdict.value if answer.verdict is Verdict.ACCEPTED else f"{answer.verdict.value} {answer.code}"
