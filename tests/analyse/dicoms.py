"""Small DICOM files for the tests: one image in every transfer syntax, and facts by keyword."""

import zlib
from pathlib import Path
from typing import Any

import jpeg_ls
import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from casework.preprocess.facts import FrameFacts, InstanceFacts

MG_CLASS = "1.2.840.10008.5.1.4.1.1.1.2"
US_CLASS = "1.2.840.10008.5.1.4.1.1.6.1"
MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"


def header(array: NDArray[Any], syntax: str, *, bits: int | None = None, **attributes: Any) -> Dataset:
    """A data set that describes `array` (h, w), (n, h, w), or (h, w, 3) when `colour` is in the photometric."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = uid.UID(MG_CLASS)
    ds.SOPClassUID, ds.SOPInstanceUID = MG_CLASS, attributes.pop("SOPInstanceUID", "1.2.3.4")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    ds.Modality = "MG"
    colour = array.shape[-1] == 3 and array.ndim > 2
    shape = array.shape[:-1] if colour else array.shape
    ds.Rows, ds.Columns = shape[-2:]
    if len(shape) == 3:
        ds.NumberOfFrames = shape[0]
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = array.dtype.itemsize * 8
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(array.dtype.kind == "i")
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def j2k(array: NDArray[Any], bits: int) -> bytes:
    """A lossless JPEG 2000 codestream."""
    return encode_array(array, bits_stored=bits, photometric_interpretation=2)


def write(path: Path, array: NDArray[Any], syntax: str, *, bits: int | None = None, **attributes: Any) -> Path:
    """Write `array` as a Part 10 file."""
    ds = header(array, syntax, bits=bits, **attributes)
    frames = list(array) if "NumberOfFrames" in ds else [array]
    match syntax:
        case uid.ExplicitVRBigEndian:
            ds.PixelData = array.astype(array.dtype.newbyteorder(">")).tobytes()
        case uid.JPEG2000Lossless | uid.HTJ2KLossless:
            ds.PixelData = encapsulate([j2k(f, ds.BitsStored) for f in frames])
        case uid.JPEGLSLossless:
            ds.PixelData = encapsulate([bytes(jpeg_ls.encode_array(f)) for f in frames])
        case uid.RLELossless:
            ds.PixelData = array.tobytes()
            ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
            ds.compress(uid.RLELossless, generate_instance_uid=False)
        case _:
            ds.PixelData = array.tobytes()
    ds["PixelData"].VR = "OB" if uid.UID(syntax).is_encapsulated or ds.BitsAllocated == 8 else "OW"
    ds.save_as(path, enforce_file_format=True)
    return path


def deflated(path: Path, body: bytes) -> Path:
    """A Part 10 file in Deflated Explicit VR Little Endian whose data set inflates to `body`."""
    ds = header(np.zeros((4, 4), np.uint8), uid.DeflatedExplicitVRLittleEndian)
    head = DicomBytesIO()
    from pydicom.filewriter import write_file_meta_info

    write_file_meta_info(head, ds.file_meta, enforce_standard=False)
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(b"\0" * 128 + b"DICM" + head.getvalue() + squeezer.compress(body) + squeezer.flush())
    return path


def body_of(ds: Dataset) -> bytes:
    """A data set in Explicit VR Little Endian, without file meta."""
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_dataset(out, ds)
    return out.getvalue()


def smooth(h: int, w: int, top: int = 4000, seed: int = 1) -> NDArray[np.uint16]:
    """A smooth image with a little noise, like tissue: its wavelet pyramid resembles its means."""
    y, x = np.mgrid[0:h, 0:w]
    noise = np.random.default_rng(seed).normal(0, 0.003, (h, w))
    wave = 0.5 + 0.3 * np.sin(x / 37) * np.cos(y / 53) + 0.1 * np.sin(x / 11 + y / 17) + noise
    return np.clip(wave * top, 0, top).astype(np.uint16)


def facts(**known: Any) -> InstanceFacts:
    """Facts of a whole-breast For Presentation mammogram, R CC, unless told otherwise."""
    values: dict[str, Any] = {
        "sop_instance_uid": "1.1", "sop_class_uid": MG_CLASS, "study_instance_uid": "1.9", "series_instance_uid": "1.8",
        "transfer_syntax_uid": uid.JPEG2000Lossless, "modality": "MG", "rows": 2048, "columns": 1664, "frame_count": 1,
        "samples": 1, "photometric": "MONOCHROME2", "bits_stored": 12, "signed": False, "laterality": "R",
        "laterality_conflict": False, "view": "CC", "view_conflict": False, "view_modifiers": (),
        "presentation": "FOR PRESENTATION", "chest_wall": "", "windows": (), "voi_function": "LINEAR", "voi_luts": (),
        "slope": 1.0, "intercept": 0.0, "padding": None, "spacing_mm": (), "image_type": ("ORIGINAL", "PRIMARY"),
        "instance_number": 1, "series_number": 1, "series_description": "", "acquisition_number": 0,
        "temporal_positions": 0, "contrast_agent": False, "echo_time_ms": None, "repetition_time_ms": None,
        "scanning_sequence": (), "frames": (), "regions": (), "frame_time_ms": None, "content_s": None,
        "study_date": "20260101", "manufacturer": "", "implant": False, "burned_in": "", "patient_birth_date": "",
        "patient_sex": "F", "patient_age_years": None, "lossy": False,
    }  # fmt: skip
    return InstanceFacts(**(values | known))


def plane(z: float, **known: Any) -> FrameFacts:
    """An axial plane at height `z` mm."""
    values: dict[str, Any] = {
        "position": (-100.0, -100.0, z), "orientation": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), "spacing_mm": (1.0, 1.0),
        "temporal_position": None, "acquired_s": None, "trigger_ms": None, "slope": 1.0, "intercept": 0.0,
        "b_value": None, "contrast_phase": "",
    }  # fmt: skip
    return FrameFacts(**(values | known))
