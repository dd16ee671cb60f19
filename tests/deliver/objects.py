"""Small DICOM files for these tests: enough of a data set to be stored, routed and asked for."""

from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from casework.dicom.answers import StoreItem

SC = "1.2.840.10008.5.1.4.1.1.7"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
MG = "1.2.840.10008.5.1.4.1.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
US = "1.2.840.10008.5.1.4.1.1.6.1"
CLASS = {"MG": MG, "MR": MR, "US": US, "OT": SC, "SR": SR}
CHINESE = "Zhang^Xiaodong=张^小东"


def dataset(modality: str = "OT", *, payload: int = 64, **values: str) -> Dataset:
    """A data set with its file meta; `payload` bytes of pixels; keywords override."""
    ds = Dataset()
    ds.SpecificCharacterSet = "GB18030"
    ds.SOPClassUID = CLASS[modality]
    ds.SOPInstanceUID = generate_uid()
    ds.StudyDate = "20260105"
    ds.Modality = modality
    ds.PatientName = CHINESE
    ds.PatientID = "P1"
    ds.StudyInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    if payload and modality != "SR":
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns = (payload // 1000, 1000) if payload > 60_000 else (1, payload)
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.add_new("PixelData", "OB", bytes(i % 251 for i in range(payload)) + b"\0" * (payload % 2))
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(ds.SOPClassUID), ds.SOPInstanceUID
    ds.file_meta = meta
    return ds


def write(folder: Path, ds: Dataset) -> StoreItem:
    """Write a Part 10 file and name it for sending."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return StoreItem(path, str(ds.SOPClassUID), str(ds.SOPInstanceUID))


def body(path: Path) -> bytes:
    """The bytes after the file meta information: what must be the same at both ends."""
    data = path.read_bytes()
    length = int.from_bytes(data[140:144], "little")  # (0002,0000) is the first element
    return data[144 + length :]
