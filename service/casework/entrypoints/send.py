"""`casework send`: DICOM files to a node by C-STORE, as they are, with a progress display. Writes nothing."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from casework.config import Destination, Settings
from casework.dicom.answers import Answer, StoreItem
from casework.dicom.scu import StoreSession
from casework.entrypoints.explain import plain
from casework.errors import Refused
from casework.reasons import reason

_TARGET = re.compile(r"([!-?A-~][ -?A-\[\]-~]{0,15})@([A-Za-z0-9.:\-]+):(\d{1,5})")


def send_files(paths: Sequence[Path], to: str, calling: str, settings: Settings, console: Console) -> int:
    """Send files and folders; print what became of them; return how many were not stored.

    Raises:
        Refused: REQUEST_INVALID for a target that is not AE@HOST:PORT; NOT_DICOM when nothing there is a DICOM file.
    """
    destination = _target(to, settings)
    items = sorted(_items(paths, console), key=lambda row: (row[0], str(row[1].path)))
    if not items:
        raise Refused("NOT_DICOM", "no DICOM file found")
    total = sum(item.path.stat().st_size for _, item in items)
    outcomes: Counter[str] = Counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress, StoreSession(destination, calling) as session:
        task = progress.add_task(f"{len(items)} files to {destination.ae_title}", total=total)
        for _, item in items:
            result = session.send(item)
            stored = result.answer in (Answer.STORED, Answer.WARNED)
            outcomes["stored" if stored else result.code] += 1
            if not stored:
                status = "no answer" if result.status is None else f"0x{result.status:04X}"
                progress.console.print(
                    f"{plain(item.path.name)}: {status} {result.code}: {reason(result.code).en}", markup=False
                )
            progress.advance(task, item.path.stat().st_size)
    console.print(", ".join(f"{count} {what}" for what, count in sorted(outcomes.items())))
    return len(items) - outcomes["stored"]


def _target(to: str, settings: Settings) -> Destination:
    if not to:
        dicom = settings.dicom
        return Destination("target", ae_title=dicom.ae_title, host=dicom.host, port=dicom.port)
    match = _TARGET.fullmatch(to)
    if match is None:
        raise Refused("REQUEST_INVALID", "--to: expected AE@HOST:PORT")
    return Destination("target", ae_title=match[1].strip(), host=match[2], port=int(match[3]))


def _items(paths: Sequence[Path], console: Console) -> Iterator[tuple[tuple[str, str], StoreItem]]:
    """Each DICOM file with its class and syntax, so that files which share a context travel together."""
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            try:
                meta = read_file_meta_info(file)
                pair = (str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
                yield pair, StoreItem(file, pair[0], str(meta.MediaStorageSOPInstanceUID))
            except (InvalidDicomError, AttributeError, OSError, ValueError) as error:
                console.print(f"{plain(file.name)}: not sent ({type(error).__name__})", markup=False)
