"""Synthetic instances for the benches and the protocol tests: quick to write, unique, and without anybody's data."""

import io
import os
import warnings
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
SC_CLASS = "1.2.840.10008.5.1.4.1.1.7"
MG_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.2"

_STUDY = generate_uid()


def image(
    sop_class: str = MR_CLASS, rows: int = 16, columns: int = 16, *, syntax: str = ExplicitVRLittleEndian, **values: Any
) -> Dataset:
    """A valid small image with random pixels; `values` are set (or removed, when None) by keyword."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _STUDY, f"{_STUDY[:50]}.1"
    ds.Modality = "MG" if sop_class == MG_PRESENTATION else "MR"
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "P-1", "Test^Case", "19700101", "F"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.InstanceNumber = "20260101", "120000", "A-1", 1
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = rows, columns, 16, 12, 11
    ds.PixelRepresentation = 0
    ds.add_new(0x7FE00010, "OW", os.urandom(rows * columns * 2))
    for keyword, value in values.items():
        if value is None:
            delattr(ds, keyword)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # bad values are the point of some tests
                setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", sop_class)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    return ds


def save(ds: Dataset, path: Path) -> Path:
    """Write a Part 10 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def write_mr(path: Path, *, series: int, number: int) -> Path:
    """A 512 x 512 MR slice, 0.5 MB."""
    return save(image(rows=512, columns=512, SeriesInstanceUID=f"{_STUDY[:50]}.{series}", InstanceNumber=number), path)


def write_mammogram(path: Path, *, number: int) -> Path:
    """A 4096 x 3328 mammogram, 27 MB."""
    return save(image(MG_PRESENTATION, 4096, 3328, InstanceNumber=number, ImageLaterality="R", ViewPosition="CC"), path)


def part10(ds: Dataset) -> bytes:
    """An image as a file's bytes."""
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
