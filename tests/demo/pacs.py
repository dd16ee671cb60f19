"""The demo's side of the PACS: send with C-STORE, ask with C-FIND, fetch with C-GET."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

RESULT_CLASSES = [
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
]


class Pacs:
    """A PACS at one address, asked as `calling`."""

    def __init__(self, host: str, port: int, ae_title: str, calling: str = "DEMO") -> None:
        self.host, self.port, self.ae_title, self.calling = host, port, ae_title, calling

    def _ae(self) -> AE:
        ae = AE(self.calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
        return ae

    def _associate(self, ae: AE, **options: Any) -> Association:
        assoc = ae.associate(self.host, self.port, ae_title=self.ae_title, **options)
        if not assoc.is_established:
            raise SystemExit(f"the PACS {self.ae_title} at {self.host}:{self.port} did not accept an association")
        return assoc

    def echo(self) -> bool:
        """Whether the PACS answers."""
        ae = self._ae()
        ae.add_requested_context("1.2.840.10008.1.1")
        assoc = ae.associate(self.host, self.port, ae_title=self.ae_title)
        if not assoc.is_established:
            return False
        status = assoc.send_c_echo()
        assoc.release()
        return bool(status and status.Status == 0)

    def store(self, paths: Iterable[Path], sent: Callable[[Path], None]) -> None:
        """Send files as they are, one association for one study."""
        files = list(paths)
        ae = self._ae()
        wanted = {(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) for meta in map(_meta, files)}
        for sop_class, syntax in sorted(wanted):
            ae.add_requested_context(sop_class, syntax)
        assoc = self._associate(ae)
        for path in files:
            status = assoc.send_c_store(path)
            if "Status" not in status or status.Status != 0:
                raise SystemExit(f"the PACS refused {path.name}: {status}")
            sent(path)
        assoc.release()

    def find(self, level: str, **keys: str) -> Iterator[Dataset]:
        """C-FIND in the study root; keys by keyword, empty values are asked for."""
        ae = self._ae()
        ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
        assoc = self._associate(ae)
        query = Dataset()
        query.SpecificCharacterSet = "ISO_IR 192"
        query.QueryRetrieveLevel = level
        for keyword, value in keys.items():
            setattr(query, keyword, value)
        try:
            for status, answer in assoc.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
                if "Status" in status and status.Status in (0xFF00, 0xFF01) and answer is not None:
                    yield answer
        finally:
            assoc.release()

    def get_series(self, study: str, series: str, folder: Path) -> list[Path]:
        """C-GET one series into `folder`; the files are named by a running number, never by what the peer says."""
        kept: list[Path] = []

        def handle(event: evt.Event) -> int:
            path = folder / f"{len(kept):03d}.dcm"
            path.write_bytes(event.encoded_dataset())
            kept.append(path)
            return 0

        ae = self._ae()
        ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
        for sop_class in RESULT_CLASSES:
            ae.add_requested_context(sop_class)
        roles = [build_role(sop_class, scp_role=True) for sop_class in RESULT_CLASSES]
        assoc = self._associate(ae, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, handle)])
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID, query.SeriesInstanceUID = "SERIES", study, series
        for status, _ in assoc.send_c_get(query, StudyRootQueryRetrieveInformationModelGet):
            if "Status" in status and status.Status not in (0x0000, 0xFF00):
                raise SystemExit(f"C-GET of a result series answered 0x{status.Status:04X}")
        assoc.release()
        return kept


def _meta(path: Path) -> Dataset:
    return dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).file_meta
