"""DICOM files, multipart bodies and finished cases for the API's tests."""

import io
from datetime import UTC, datetime

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from casework.case import Artefact, CaseState
from casework.result import Finding
from tests.api.conftest import Api

MG = "1.2.840.10008.5.1.4.1.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
SC = "1.2.840.10008.5.1.4.1.1.7"


def mammogram(**changes: object) -> bytes:
    """A small valid mammogram as a Part 10 file; `changes` are attributes by keyword, None removes one."""
    ds = Dataset()
    ds.SOPClassUID = MG
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = "1.2.3.4"
    ds.SeriesInstanceUID = "1.2.3.4.5"
    ds.Modality = "MG"
    ds.PatientName = "Doe^Jane"
    ds.PatientID = "P-1"
    ds.AccessionNumber = "A-1"
    ds.StudyDate = "20260102"
    ds.ImageLaterality = "R"
    ds.ViewPosition = "CC"
    ds.Rows, ds.Columns = 4, 4
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    ds.PixelData = bytes(16)
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def multipart(
    parts: list[bytes], boundary: str = "b0undary", media_type: str = "application/dicom"
) -> tuple[bytes, str]:
    """A body and its Content-Type."""
    head = f"--{boundary}\r\nContent-Type: {media_type}\r\n\r\n".encode()
    body = b"".join(head + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
    return body, f'multipart/related; type="application/dicom"; boundary={boundary}'


def store(api: Api, *parts: bytes, study: str = "") -> dict[str, object]:
    """STOW parts as the operator and return the response module."""
    body, content_type = multipart(list(parts))
    path = f"/dicom-web/studies/{study}" if study else "/dicom-web/studies"
    with api.client("operator") as client:
        response = client.post(path, content=body, headers={"Content-Type": content_type})
    assert response.status_code in (200, 202, 409), response.text
    module: dict[str, object] = response.json()
    return module


def case_of(api: Api, accession: str) -> str:
    """The id of the newest case of an accession number."""
    return api.ledger.read.list_cases(q=accession).items[0].case.id


def preview(seed: int = 0, *, heat: bool = True) -> bytes:
    """A PNG that looks like a heat-map over a breast, or the breast alone."""
    rows, cols = np.mgrid[0:256, 0:200]
    breast = np.clip(1.2 - np.hypot(rows - 128, cols) / 150, 0, 1) * 190
    hot = heat * np.exp(-(((rows - 90 - 8 * seed) ** 2 + (cols - 60) ** 2) / 700))
    picture = np.stack([breast + 160 * hot, breast * (1 - 0.4 * hot) + 60 * hot, breast * (1 - 0.8 * hot)], axis=-1)
    out = io.BytesIO()
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def finish(api: Api, case_id: str, result_json: str, labels: tuple[str, ...] = ("R CC", "L CC")) -> None:
    """Take a case through the queue to a stored result, the way the keeper and the worker do."""
    ledger, spool, now = api.ledger, api.door.spool, datetime.now(UTC)
    if ledger.read.case(case_id).state is CaseState.RECEIVING:
        assert ledger.move_case(case_id, CaseState.RECEIVING, CaseState.STABLE, "QUIET_TIME", "test", now)
    if ledger.read.case(case_id).state is CaseState.STABLE:
        assert ledger.queue_case(case_id, 0, "test", now) is not None
    claimed = ledger.claim_job("analyse", "test", 60, now)
    assert claimed is not None
    assert claimed.case_id == case_id
    made = [("sr", "application/dicom", SR, "report", mammogram(SOPClassUID=SR), str(generate_uid()))]
    for number, label in enumerate(labels):
        uid = str(generate_uid())
        made.append(("capture", "application/dicom", SC, label, mammogram(SOPClassUID=SC), uid))
        made.append(("preview", "image/png", "", label, preview(number), uid))
        made.append(("underlay", "image/png", "", label, preview(number, heat=False), uid))
    made.append(("result-json", "application/json", "", "result", result_json.encode(), ""))
    artefacts = [
        Artefact(kind, media, "1.2.3.4", "1.2.3.4.9", sop_class, uid, spool.put(data), len(data), label)
        for kind, media, sop_class, label, data, uid in made
    ]
    findings = [Finding("MODALITY_MISSING", "MR")]
    assert ledger.finish_job(claimed.job_id, claimed.fence, result_json, artefacts, findings, ["pacs"], now)
