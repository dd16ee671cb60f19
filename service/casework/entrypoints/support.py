"""The support bundle: what somebody far away needs to see, and nothing of a patient. Writes one ZIP file, readable by its owner only.

Everything in it is counted, coded or our own; names of hosts, AE titles and destinations are the site's and are in it.
Of a case: its moves (no subject but ours, no words that a person wrote) and, with headers, de-identified ones.
"""

import dataclasses
import json
import os
import platform
import re
import sys
import urllib.parse
import zipfile
from collections.abc import Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from casework import __version__
from casework.config import Settings
from casework.dicom.deidentify import harmless_header
from casework.entrypoints.doctor import examine
from casework.errors import CaseworkError
from casework.ledger import Event, Ledger
from casework.spool import Spool

_DETAILS = ("from", "to", "code", "due", "attempt", "status", "destination")
_PLAIN = re.compile(r"[A-Za-z0-9_.:+-]{0,64}")
_OURS = re.compile(r"(job|delivery):\d+")
_MAX_HEADERS = 500


def write_bundle(settings: Settings, ledger: Ledger, target: Path, now: datetime, case_id: str = "") -> int:
    """Write the bundle; return the number of entries.

    Raises:
        Refused: NOT_FOUND, no such case.
    """
    handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        count = 0
        for name, content in _entries(settings, ledger, now, case_id):
            archive.writestr(name, json.dumps(content, indent=1, default=str, ensure_ascii=False))
            count += 1
    return count


def _entries(settings: Settings, ledger: Ledger, now: datetime, case_id: str) -> Iterator[tuple[str, Any]]:
    packages = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    yield (
        "about.json",
        {
            "version": __version__,
            "python": sys.version,
            "platform": platform.platform(),
            "at": now,
            "packages": packages,
        },
    )
    yield "settings.json", said(settings)
    yield "doctor.json", [dataclasses.asdict(check) for check in examine(settings)]
    check, info = ledger.read.verify_audit(), ledger.info()
    yield "ledger.json", {"info": dataclasses.asdict(info), "audit": dataclasses.asdict(check)}
    yield "counts.json", dataclasses.asdict(ledger.read.metrics())
    yield "processes.json", [dataclasses.asdict(row) for row in ledger.read.processes()]
    if case_id:
        yield "case.json", _case(ledger, case_id)
        yield "headers.json", list(_headers(settings, ledger, case_id))


def said(settings: Settings) -> dict[str, Any]:
    """The settings as they may be shown: of an address with a user, a path or a query only scheme and host."""
    values = dataclasses.asdict(settings)
    for section in (values["storage"], values["queue"], *values["destination"], *values["webhook"], values["oidc"]):
        for name, value in section.items():
            if name.endswith("url") and value:
                parts = urllib.parse.urlsplit(value)
                section[name] = f"{parts.scheme}://{parts.hostname or ''}"
    return values


def _case(ledger: Ledger, case_id: str) -> dict[str, Any]:
    row = ledger.read.case(case_id)
    moves = [_move(event) for event in ledger.read.timeline(case_id)]
    return {"id": row.id, "revision": row.revision, "state": row.state, "reason": row.reason, "moves": moves}


def _move(event: Event) -> dict[str, Any]:
    details = {key: str(event.detail[key]) for key in _DETAILS if key in event.detail}
    plain = {key: value for key, value in details.items() if _PLAIN.fullmatch(value)}
    subject = event.subject if _OURS.fullmatch(event.subject) else ""
    return {"sequence": event.seq, "at": event.at, "event": event.event, "subject": subject, **plain}


def _headers(settings: Settings, ledger: Ledger, case_id: str) -> Iterator[dict[str, Any]]:
    spool = Spool(settings.root)
    for row in ledger.case_inputs(case_id, here_only=True)[:_MAX_HEADERS]:
        try:
            yield harmless_header(spool.path(row.sha256))
        except CaseworkError as error:
            yield {"code": error.code}
