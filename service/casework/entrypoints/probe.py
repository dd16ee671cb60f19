"""`casework probe`: readiness proven by traffic. A marked study goes the way of every study, and its result goes to no PACS.

The pictures are those of the model package's first golden sample, as ultrasound images of a patient whose Issuer of Patient
ID is reserved for this (casework.case.PROBE_ISSUER): the ledger plans no delivery of such a case, whoever sent it. What stays is
one closed case in the ledger, which forgets nothing; files of this command are removed.
"""

import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage

from casework.case import PROBE_ISSUER, CaseState
from casework.config import Destination, Settings
from casework.dicom.answers import Answer, StoreItem
from casework.dicom.scu import StoreSession
from casework.entrypoints.engines import open_model
from casework.errors import Defect, Refused, Unavailable
from casework.ledger import CaseView, Ledger, Selector
from casework.tls import own_name

_POLL_S = 0.1
_SCALE = 3  # golden pictures are as small as the network's input; a scanner's are not
_FINAL = frozenset({CaseState.DELIVERED, CaseState.REJECTED, CaseState.NEEDS_ATTENTION})


def send_probe(settings: Settings, ledger: Ledger, within_s: float, calling: str) -> Iterator[str]:
    """Send, wait, look; a line for each thing that was proved.

    Raises:
        Unavailable: PROBE_FAILED, no result came in time, saying how far it got; PEER_UNREACHABLE.
        Defect: PROBE_FAILED, the case ended otherwise than with a result that stays here.
        Refused: what the listener answered.
    """
    began = time.monotonic()
    study, patient = f"2.25.{uuid.uuid4().int}", uuid.uuid4().hex[:12].upper()
    frames = open_model(settings).golden[0].arrays["US"][0, :, 0]
    with tempfile.TemporaryDirectory(dir=settings.root) as folder:
        items = [_write(Path(folder), n, frame, study, patient) for n, frame in enumerate(frames, 1)]
        _send(settings, items, calling)
    yield f"{len(items)} images acknowledged by {settings.dicom.ae_title} after {time.monotonic() - began:.2f} s"
    selector = Selector(study_uids=(study,))
    [case_id] = ledger.request_analysis("", "", selector, "cli:probe", datetime.now(UTC)).case_ids
    view = _await(ledger, case_id, within_s, began)
    _look(view)
    kinds = sorted({a.artefact.kind for a in view.artefacts})
    yield f"case {case_id}: {', '.join(kinds)} made and checked after {time.monotonic() - began:.2f} s; sent nowhere"


def _send(settings: Settings, items: list[StoreItem], calling: str) -> None:
    with StoreSession(_target(settings), calling) as session:
        for item in items:
            result = session.send(item)
            if result.answer is not Answer.STORED:
                family = Unavailable if result.status is None else Refused
                raise family(result.code or "PROBE_FAILED", f"the listener's answer to {calling}")


def _target(settings: Settings) -> Destination:
    """Our own listener: its plain port, or where that is closed the TLS port, whose very certificate is believed."""
    dicom, tls = settings.dicom, settings.tls
    host = "127.0.0.1" if dicom.host == "0.0.0.0" else dicom.host  # noqa: S104 - compared, not bound
    target = Destination("probe", ae_title=dicom.ae_title, host=host, port=dicom.port)
    if tls.plain_dicom:
        return target
    target = replace(target, port=tls.dicom_port, tls=True, tls_name=own_name(tls.certificate_file))
    mine = (tls.certificate_file, tls.key_file) if tls.client_ca_file else ("", "")  # a port that asks who calls
    return replace(target, ca_file=tls.certificate_file, certificate_file=mine[0], key_file=mine[1])


def _await(ledger: Ledger, case_id: str, within_s: float, began: float) -> CaseView:
    while True:
        view = ledger.read.case_view(case_id)
        if view.case.state in _FINAL:
            return view
        if time.monotonic() - began > within_s:
            raise Unavailable("PROBE_FAILED", f"still {view.case.state} {view.case.reason} after {within_s:.0f} s")
        time.sleep(_POLL_S)


def _look(view: CaseView) -> None:
    """Refuse an end that is not a result, or a result that was sent somewhere."""
    kinds = {a.artefact.kind for a in view.artefacts}
    if view.case.state is not CaseState.DELIVERED or not {"sr", "capture"} & kinds:
        raise Defect("PROBE_FAILED", f"the case ended as {view.case.state} {view.case.reason}")
    if view.deliveries:
        raise Defect("PROBE_FAILED", "a delivery was planned for a marked study")


def _write(folder: Path, number: int, frame: NDArray[np.generic], study: str, patient: str) -> StoreItem:
    """One ultrasound image as a file."""
    rows, columns = (np.flatnonzero(frame.any(axis=axis)) for axis in (1, 0))
    seen = np.asarray(frame, np.uint8)[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # without the padding
    size = (seen.shape[1] * _SCALE, seen.shape[0] * _SCALE)
    pixels = np.asarray(Image.fromarray(seen).resize(size, Image.Resampling.BICUBIC))
    now = datetime.now(UTC)
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = UltrasoundImageStorage, f"2.25.{uuid.uuid4().int}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, study).int}"
    ds.PatientID, ds.IssuerOfPatientID, ds.PatientName = patient, PROBE_ISSUER, "PROBE^NO PATIENT"
    ds.PatientBirthDate, ds.PatientSex, ds.StudyID, ds.AccessionNumber = "19700101", "F", "1", ""
    ds.StudyDate = ds.ContentDate = f"{now:%Y%m%d}"
    ds.StudyTime = ds.ContentTime = f"{now:%H%M%S}"
    ds.StudyDescription, ds.Modality, ds.Laterality = "casework probe, no patient: breast", "US", "R"
    ds.BodyPartExamined, ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber = "BREAST", "casework", 1, number
    ds.PhotometricInterpretation, ds.SamplesPerPixel = "MONOCHROME2", 1
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = pixels.shape[1] - 1, pixels.shape[0] - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 4.0 / pixels.shape[0]  # cm: the picture is 4 cm deep
    ds.SequenceOfUltrasoundRegions = [region]
    ds.PixelData = pixels.tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta = meta
    path = folder / f"{number}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return StoreItem(path, str(ds.SOPClassUID), str(ds.SOPInstanceUID))
