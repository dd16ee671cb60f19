"""Turns the pixel data of one stored instance into grey arrays, at full or reduced resolution. Reads one file.

Runs in the decode child (child.py): what it reads is hostile until proved otherwise. Every size is checked before
anything is allocated, against the caps and against what the codestream itself states.

A JPEG 2000 image can be decoded at reduced resolution: the wavelet's low-pass band IS a smaller image, whose sample i
lies exactly on source pixel i * 2**reduce (ISO/IEC 15444-1 annex F). Other syntaxes are decoded in full.
"""

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset, read_preamble
from pydicom.filewriter import write_file_meta_info
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import as_pixel_options, iter_pixels

from casework.errors import Refused
from casework.preprocess import nvimg
from casework.preprocess.codestream import Stated, read_j2k, read_jpeg

_J2K = frozenset({uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K})
_PLUGINS = {
    # One named decoder for a syntax: which pixels come out must not depend on what else is installed.
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pylibjpeg",
    uid.JPEGLossless: "pylibjpeg",
    uid.JPEGLosslessSV1: "pylibjpeg",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.RLELossless: "pydicom",
    **dict.fromkeys(_J2K, "pylibjpeg"),
}
NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    }
)
TRANSFER_SYNTAXES: frozenset[str] = frozenset(map(str, {*_PLUGINS, *NATIVE}))
"""Every transfer syntax that `decode` reads."""

_BROKEN = (
    # What pydicom and the decoders raise on malformed input; MemoryError is left to the child.
    AttributeError,
    BytesLengthException,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_LONG_BYTES = 64 << 20
_PIECE = 1 << 20
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601 luma


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps on what one call may allocate, in bytes or frames."""

    decoded_bytes: int = 1 << 30
    file_bytes: int = 1 << 30
    inflated_bytes: int = 1 << 29
    inflation_ratio: int = 100  # inflated to packed, as at the door
    inflation_free_bytes: int = 16 << 20  # no ratio is asked of less
    frames: int = 100_000


@dataclass(frozen=True, slots=True)
class Decoded:
    """Grey stored values (N, h, w) of the frames asked for; reduce: how often they were halved by the wavelet."""

    pixels: NDArray[np.generic]
    reduce: int


@dataclass(frozen=True, slots=True)
class _Grid:
    rows: int
    columns: int
    frames: int
    samples: int
    bits: int
    photometric: str


def open_header(path: Path, limits: Limits = Limits()) -> Dataset:
    """Read everything but the pixels.

    Raises:
        Refused: NOT_DICOM, HEADER_MALFORMED, INFLATES_TOO_FAR or TOO_LARGE.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _read(_plain(file, limits), pixels=False)


def decode(
    path: Path,
    *,
    reduce: int = 0,
    frames: Sequence[int] | None = None,
    limits: Limits = Limits(),
) -> Decoded:
    """Decode frames (0-based, None = all) of a stored instance to grey stored values, halved at most `reduce` times.

    Colour becomes luma; palettes are applied; MONOCHROME1 is not inverted and no rescale or window is applied.

    Raises:
        Refused: PIXELS_UNDECODABLE, DIMENSIONS_TOO_LARGE, TRANSFER_SYNTAX_NOT_ACCEPTED, or as open_header.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the decoders remark on is checked here in our own words
        source = _plain(file, limits)
        streamed = _is_long(source)
        dataset = _read(source, pixels=not streamed)
        syntax = _syntax(dataset.file_meta)
        if str(syntax) not in TRANSFER_SYNTAXES:
            raise Refused("TRANSFER_SYNTAX_NOT_ACCEPTED")
        grid = _grid(dataset, limits)
        indices = _indices(frames, grid, limits)
        try:
            if syntax in NATIVE and not streamed:
                plain = _plain_grey(dataset, indices, syntax, grid)
                if plain is not None:
                    return Decoded(plain, 0)
            if syntax in NATIVE:
                return Decoded(_generic(dataset, source if streamed else None, indices, syntax, grid), 0)
            if streamed:
                source.seek(0)
                dataset = _read(source, pixels=True)
            stated = _check_streams(dataset, indices, syntax, grid)
            if stated is not None and syntax in _J2K and _pillow_can(stated, dataset, grid):
                return _wavelet(dataset, indices, reduce, grid, stated, syntax)
            return Decoded(_generic(dataset, None, indices, syntax, grid), 0)
        except _BROKEN as error:
            raise Refused("PIXELS_UNDECODABLE", type(error).__name__) from error


# --- reading ------------------------------------------------------------------------------------------------------


def _plain(file: BinaryIO, limits: Limits) -> BinaryIO:
    """The file itself, or for a deflated data set a copy in memory, inflated within the cap (PS3.5 A.5)."""
    file.seek(0, io.SEEK_END)
    if file.tell() > limits.file_bytes:
        raise Refused("TOO_LARGE")
    file.seek(0)
    try:
        read_preamble(file, force=False)
        meta = FileMetaDataset(read_dataset(file, False, True, stop_when=lambda tag, _, __: tag.group != 2))  # noqa: FBT003 - pydicom's own signature
    except (InvalidDicomError, *_BROKEN) as error:
        raise Refused("NOT_DICOM", type(error).__name__) from error
    if _syntax(meta) != uid.DeflatedExplicitVRLittleEndian:
        file.seek(0)
        return file
    return _inflate(meta, file, limits)


def _is_long(source: BinaryIO) -> bool:
    """Whether the frames of a native file should be read one by one from the file."""
    at = source.tell()
    size = source.seek(0, io.SEEK_END)
    source.seek(at)
    return size > _LONG_BYTES


def _syntax(meta: Dataset) -> uid.UID:
    try:
        return uid.UID(str(meta.get("TransferSyntaxUID", "")))
    except _BROKEN as error:
        raise Refused("HEADER_MALFORMED", "Transfer Syntax UID") from error


def _inflate(meta: FileMetaDataset, file: BinaryIO, limits: Limits) -> BinaryIO:
    """A Part 10 stream in Explicit VR Little Endian, made of the deflated data set that starts where `file` stands."""
    packed, body = file.read(), bytearray()
    cap = min(limits.inflated_bytes, max(limits.inflation_free_bytes, limits.inflation_ratio * len(packed)))
    try:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        while packed and not inflater.eof:
            body += inflater.decompress(packed, _PIECE)
            packed = inflater.unconsumed_tail
            if len(body) > cap:
                raise Refused("INFLATES_TOO_FAR")
        if not inflater.eof:
            body += inflater.flush()  # all was read, but the end of the last match is still inside
    except zlib.error as error:
        raise Refused("HEADER_MALFORMED", "deflate") from error
    if not inflater.eof:
        raise Refused("TRUNCATED")
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    head = DicomBytesIO()
    write_file_meta_info(head, meta, enforce_standard=False)
    body[:0] = b"\0" * 128 + b"DICM" + head.getvalue()
    return io.BytesIO(body)


def _read(file: BinaryIO, *, pixels: bool) -> Dataset:
    try:
        dataset = pydicom.dcmread(file, stop_before_pixels=not pixels)
    except InvalidDicomError as error:
        raise Refused("NOT_DICOM") from error
    except _BROKEN as error:
        raise Refused("HEADER_MALFORMED", type(error).__name__) from error
    if "SOPInstanceUID" not in dataset:  # a cut pixel stream can read as an empty data set without an error
        raise Refused("TRUNCATED", "no SOP Instance UID")
    return dataset


def _grid(header: Dataset, limits: Limits) -> _Grid:
    """The image's size by its header.

    Raises:
        Refused: PIXELS_UNDECODABLE when a value is missing or absurd, DIMENSIONS_TOO_LARGE.
    """
    try:
        grid = _Grid(
            rows=int(header.Rows),
            columns=int(header.Columns),
            frames=int(header.get("NumberOfFrames") or 1),
            samples=int(header.get("SamplesPerPixel") or 1),
            bits=int(header.BitsAllocated),
            photometric=str(header.PhotometricInterpretation),
        )
    except _BROKEN as error:
        raise Refused("PIXELS_UNDECODABLE", "image attributes") from error
    if min(grid.rows, grid.columns, grid.frames) < 1 or grid.samples not in (1, 3) or grid.bits not in (8, 16):
        raise Refused("PIXELS_UNDECODABLE", "rows, columns, frames, samples or bits")
    if grid.frames > limits.frames or _frame_bytes(grid) > limits.decoded_bytes:
        raise Refused("DIMENSIONS_TOO_LARGE")
    return grid


def _frame_bytes(grid: _Grid) -> int:
    return grid.rows * grid.columns * grid.samples * grid.bits // 8


def _indices(frames: Sequence[int] | None, grid: _Grid, limits: Limits) -> list[int]:
    indices = list(range(grid.frames)) if frames is None else list(frames)
    if not indices or min(indices) < 0 or max(indices) >= grid.frames:
        raise Refused("PIXELS_UNDECODABLE", "no such frame")
    if len(indices) * _frame_bytes(grid) > limits.decoded_bytes:
        raise Refused("DIMENSIONS_TOO_LARGE")
    return indices


# --- decoding -----------------------------------------------------------------------------------------------------


def _stream(dataset: Dataset, index: int, grid: _Grid) -> bytes:
    """One frame's codestream (PS3.5 A.4)."""
    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    return get_frame(dataset.PixelData, index, number_of_frames=grid.frames, extended_offsets=offsets)


def _check_streams(dataset: Dataset, indices: list[int], syntax: str, grid: _Grid) -> Stated | None:
    """Compare each codestream's own size with the header's; return the first one's words (None for RLE)."""
    if syntax == uid.RLELossless:
        return None
    first = None
    for index in indices:
        data = _stream(dataset, index, grid)
        if syntax in _J2K and data[:4] == b"\0\0\0\x0c":  # a JP2 file, which DICOM does not allow but modalities write
            data = data[max(data.find(b"\xff\x4f\xff\x51"), 0) :]
        stated = read_j2k(data) if syntax in _J2K else read_jpeg(data)
        if (stated.rows, stated.columns, stated.samples) != (grid.rows, grid.columns, grid.samples):
            raise Refused("PIXELS_UNDECODABLE", "codestream and header differ in size")
        if stated.precision > grid.bits:
            raise Refused("PIXELS_UNDECODABLE", "codestream is deeper than Bits Allocated")
        if syntax in _J2K and _sign_in_doubt(stated, dataset):
            raise Refused("PIXELS_UNDECODABLE", "codestream and header differ in sign")
        first = first or stated
    return first


def _sign_in_doubt(stated: Stated, dataset: Dataset) -> bool:
    """Whether the header calls a mammogram signed and its codestream doesn't; a mammogram never is (PS3.3 C.8.11.3).

    The brighter half of its values would turn negative. In other images the header's sign is the usual repair.
    """
    signed = bool(dataset.get("PixelRepresentation", 0))
    return dataset.get("Modality") == "MG" and signed and not stated.signed


def _pillow_can(stated: Stated, dataset: Dataset, grid: _Grid) -> bool:
    """Whether the low-pass decoder gives exact stored values: grey, sign as the header says, grid at the origin."""
    return (
        grid.samples == 1
        and grid.photometric in ("MONOCHROME1", "MONOCHROME2")
        and stated.signed == bool(dataset.get("PixelRepresentation", 0))
        and stated.at_origin
        and stated.precision <= 16
        and _stream(dataset, 0, grid)[:2] == b"\xff\x4f"
    )


def _wavelet(  # noqa: PLR0917 - what is known of the frames
    dataset: Dataset, indices: list[int], reduce: int, grid: _Grid, stated: Stated, syntax: str
) -> Decoded:
    """Decode JPEG 2000 frames at a resolution of 1 / 2**reduce, or the nearest one that the stream and Pillow can give.

    Pillow rounds a reduced side half down where the standard rounds up and then fails.
    """
    level = min(reduce, stated.levels)
    while level and any((n + (1 << level >> 1)) >> level != -(-n >> level) for n in (grid.rows, grid.columns)):
        level -= 1
    beside = None if level else nvimg.CURRENT

    def one(index: int) -> NDArray[np.generic]:
        stream = _stream(dataset, index, grid)
        made = beside.frame(stream, stated, syntax) if beside else None
        return _low_pass(stream, level, stated) if made is None else made

    frames = np.stack([one(index) for index in indices])
    if frames.shape[1:] != (-(-grid.rows >> level), -(-grid.columns >> level)):
        raise Refused("PIXELS_UNDECODABLE", "decoded size")
    return Decoded(frames, level)


def _low_pass(stream: bytes, level: int, stated: Stated) -> NDArray[np.generic]:
    with Image.open(io.BytesIO(stream), formats=("JPEG2000",)) as image:
        image.reduce = level  # type: ignore[method-assign, assignment] # Pillow's JPEG 2000 plug-in makes it settable
        image.load()
        values = np.array(image)
    # Pillow stores N-bit samples in the top bits of 8 or 16 and signed ones with an offset; both are undone here.
    wide = (values >> (values.dtype.itemsize * 8 - stated.precision)).astype(np.int32)
    if stated.signed:
        return (wide - (1 << (stated.precision - 1))).astype(np.int8 if stated.precision <= 8 else np.int16)
    return wide.astype(np.uint8 if stated.precision <= 8 else np.uint16)


def _generic(
    header: Dataset, file: BinaryIO | None, indices: list[int], syntax: str, grid: _Grid
) -> NDArray[np.generic]:
    """Frames (N, h, w) through pydicom: from a long native file one by one, others by the one decoder of their syntax."""
    if file is not None:
        file.seek(0)
        frames = cast(Generator[NDArray[np.generic], None, None], iter_pixels(file, indices=indices))
        with contextlib.closing(frames) as native:  # its clean-up seeks in the file
            return np.stack([_grey(frame, header, grid) for frame in native])
    found = get_decoder(syntax).iter_array(
        header,
        indices=indices,
        raw=False,
        validate=True,
        decoding_plugin=_PLUGINS.get(uid.UID(syntax), ""),
        **as_pixel_options(header),
    )
    return np.stack([_grey(frame, header, grid) for frame, _ in found])


def _plain_grey(dataset: Dataset, indices: list[int], syntax: str, grid: _Grid) -> NDArray[np.generic] | None:
    """Native little-endian grey frames without pydicom's detour, which costs more than the pixels of a small slice.

    None where anything is unusual, also when there are fewer bytes than the header promises.
    """
    data = dataset.get("PixelData")
    size = grid.rows * grid.columns * grid.bits // 8
    stored = int(dataset.get("BitsStored") or grid.bits)
    usual = grid.samples == 1 and grid.photometric in ("MONOCHROME1", "MONOCHROME2") and 0 < stored <= grid.bits
    if syntax == uid.ExplicitVRBigEndian or not usual or not isinstance(data, bytes) or len(data) < size * grid.frames:
        return None
    dtype = np.dtype(f"<{'i' if dataset.get('PixelRepresentation', 0) else 'u'}{grid.bits // 8}")
    shape = (grid.rows, grid.columns)
    frames = np.stack([np.frombuffer(data, dtype, shape[0] * shape[1], n * size).reshape(shape) for n in indices])
    unused = grid.bits - stored
    return (frames << unused) >> unused if unused else frames  # unused bits may hold an overlay (PS3.5 8.1.1)


def _grey(frame: NDArray[np.generic], header: Dataset, grid: _Grid) -> NDArray[np.generic]:
    """One frame as grey (h, w): palettes applied (PS3.3 C.7.6.3.1.5), colour to luma as uint8."""
    if grid.photometric == "PALETTE COLOR":
        colour = apply_color_lut(frame, header)
        frame = (colour >> 8).astype(np.uint8) if colour.dtype.itemsize == 2 else colour
    if frame.ndim == 2:
        if grid.photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise Refused("PIXELS_UNDECODABLE", "photometric interpretation")
        return frame
    if frame.shape[-1] < 3:
        raise Refused("PIXELS_UNDECODABLE", "samples per pixel")
    luma = frame[..., :3].astype(np.float32) @ _GREY
    return np.rint(luma).astype(frame.dtype)
