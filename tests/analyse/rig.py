"""A worker with the real ledger, spool, children, engine and report in a folder, and phantom cases to feed it."""

import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from casework.case import Arrival, CaseState, Verdict, derive_uid
from casework.config import Settings, Storage, Work
from casework.dicom.header import read_header
from casework.entrypoints.infer_worker import Worker
from casework.ledger import Ledger
from casework.preprocess.prepared import VERSION
from casework.spool import Spool
from models.cman.phantom import magnetic, mammogram, sonogram
from models.cman.phantom.headers import describe_mammogram, describe_sonogram
from models.cman.phantom.patient import Patient, draw
from tests.analyse.dicoms import j2k

MODELS = Path(__file__).parents[2] / "models"
PATIENT = {"PatientID": "P1", "PatientName": "Phantom^Anna", "PatientBirthDate": "19610203", "PatientSex": "F"}
CLASSES = {
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "CINE": "1.2.840.10008.5.1.4.1.1.3.1",
}


def model(folder: Path, name: str = "cman-tiny") -> Path:
    """A copy of a package that says it was trained with this preprocessing: tests of the path, not of the answer."""
    copy = folder / name
    shutil.copytree(MODELS / name, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["preprocess"] = VERSION
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


class Rig:
    """One storage root, a ledger in it, and helpers that do what the other doors do."""

    def __init__(self, root: Path, **work: Any) -> None:
        self.root = root
        package = work.pop("model", None) or model(root / "models")
        self.settings = Settings(
            storage=Storage(
                root=str(root / "var"),
                reserve_bytes=0,
                watermark=0.99,
                hard_watermark=0.995,
                fsync=work.pop("fsync", True),
            ),
            work=Work(model=str(package), threads=2, **work),
        )
        self.settings.root.mkdir(parents=True)
        self.spool = Spool(self.settings.root)
        self.ledger = Ledger.open(self.settings.ledger_url)
        self.ledger.migrate()

    def arrive(self, files: Iterable[Path]) -> str:
        """Keep files in the spool and record them, as intake does; return the case's id."""
        arrivals = []
        now = datetime.now(UTC)
        for file in files:
            digest, size = self.spool.put(file.read_bytes()), file.stat().st_size
            arrivals.append(
                Arrival(Verdict.ACCEPTED, "", read_header(file), digest, size, "dimse", "TEST", uuid.uuid4().hex, now)
            )
        recorded = self.ledger.record(arrivals, now)
        (case_id,) = {r.case_id for r in recorded}
        assert case_id is not None
        return case_id

    def queue(self, case_id: str) -> None:
        """Declare a case complete, as assembly does."""
        now = datetime.now(UTC)
        assert self.ledger.move_case(case_id, CaseState.RECEIVING, CaseState.STABLE, "", "test", now)
        assert self.ledger.queue_case(case_id, 0, "test", now) is not None

    def worker(self) -> Worker:
        """A worker on this root."""
        return Worker(self.settings)

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()


# --- phantom files --------------------------------------------------------------------------------------------


class Study:
    """Makes the data sets of one study."""

    def __init__(self, folder: Path, name: str, date: str = "20260302") -> None:
        self.folder, self.name, self.date, self.count = folder, name, date, 0
        folder.mkdir(parents=True, exist_ok=True)

    def new(self, kind: str) -> Dataset:
        """A data set with identity and without an image."""
        self.count += 1
        ds = Dataset()
        for keyword, value in PATIENT.items():
            setattr(ds, keyword, value)
        study = derive_uid("test", self.name)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
        ds.SOPClassUID, ds.SOPInstanceUID = CLASSES[kind], derive_uid("test", self.name, str(self.count))
        ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = self.date, "101500", f"A-{self.name}", "1"
        ds.ContentDate, ds.ContentTime, ds.SeriesNumber, ds.InstanceNumber = self.date, "101600", 1, self.count
        ds.ReferringPhysicianName, ds.Manufacturer, ds.SpecificCharacterSet = "", "Phantom", "ISO_IR 192"
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
        return ds

    def save(self, ds: Dataset, frames: Sequence[NDArray[Any]], syntax: str = uid.ExplicitVRLittleEndian) -> Path:
        """Write it; JPEG 2000 lossless or native."""
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
        if syntax == uid.JPEG2000Lossless:
            ds.PixelData = encapsulate([j2k(f, ds.BitsStored) for f in frames])
            ds["PixelData"].VR = "OB"
        else:
            ds.PixelData = b"".join(f.tobytes() for f in frames)
            ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
        path = self.folder / f"{self.name}-{self.count:04}.dcm"
        ds.save_as(path, enforce_file_format=True)
        return path


def mammograms(folder: Path, patient: Patient, rows: int = 600) -> list[Path]:
    """Four views in JPEG 2000."""
    study, paths = Study(folder, "mg"), []
    for breast in patient.breasts:
        for view in ("CC", "MLO"):
            image = mammogram.render(patient, breast, view, rows)
            ds = study.new("MG")
            describe_mammogram(ds, image)
            paths.append(study.save(ds, [image.stored], uid.JPEG2000Lossless))
    return paths


def sonograms(folder: Path, patient: Patient, shape: tuple[int, int] = (240, 320)) -> list[Path]:
    """A still of the node and one of a lesion of each side, and a cine of the right node."""
    study, paths = Study(folder, "us"), []
    for breast in patient.breasts:
        for kind in ("node", "lesion"):
            image = sonogram.render(patient, breast, kind, shape)
            ds = study.new("US")
            describe_sonogram(ds, image)
            paths.append(study.save(ds, list(image.frames)))
    cine = sonogram.render(patient, patient.breasts[0], "cine", shape, tuple(np.linspace(-1, 1, 8)))
    ds = study.new("CINE")
    describe_sonogram(ds, cine)
    paths.append(study.save(ds, list(cine.frames)))
    return paths


def dynamic(
    folder: Path, patient: Patient, shape: tuple[int, int, int] = (12, 96, 96), syntax: str = uid.ExplicitVRLittleEndian
) -> list[Path]:
    """All phases of a dynamic series as classic slices."""
    image = magnetic.render(patient, shape)
    study, paths = Study(folder, "mr"), []
    for phase, volume in enumerate(image.stored):
        for k, plane in enumerate(volume):
            ds = study.new("MR")
            x, y, z = image.origin_mm
            ds.Modality, ds.PhotometricInterpretation, ds.SamplesPerPixel = "MR", "MONOCHROME2", 1
            ds.Rows, ds.Columns = plane.shape
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
            ds.ImagePositionPatient = [round(x, 3), round(y, 3), round(z + k * image.spacing_mm[0], 3)]
            ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            ds.PixelSpacing = [round(v, 4) for v in image.spacing_mm[1:]]
            ds.SliceThickness, ds.FrameOfReferenceUID = round(image.spacing_mm[0], 4), f"{ds.StudyInstanceUID}.9"
            ds.TemporalPositionIdentifier, ds.NumberOfTemporalPositions = phase + 1, len(image.stored)
            seconds = 36900 + image.times_s[phase]
            ds.AcquisitionDate = study.date
            ds.AcquisitionTime = f"{int(seconds // 3600):02}{int(seconds % 3600 // 60):02}{seconds % 60:06.3f}"
            ds.EchoTime, ds.RepetitionTime = 2.1, 5.2
            paths.append(study.save(ds, [plane], syntax))
    return paths


def changed(path: Path, change: Callable[[Dataset], None]) -> Path:
    """The same file with attributes changed."""
    ds = dcmread(path)
    change(ds)
    ds.save_as(path)
    return path


def patient(seed: int = 7) -> Patient:
    """A phantom patient."""
    found = draw(seed)
    return replace(found, mg_vendor="linear")
