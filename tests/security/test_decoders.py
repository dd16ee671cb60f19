"""Two independent decoders give the same pixels for every transfer syntax, bit for bit where it is lossless: else nothing may run.

A wrong decoder shows plausible pictures (pylibjpeg-libjpeg once wrapped values of real ultrasound), so each one that is used
is compared with one of another origin: JPEG lossless with Rorden's decoder and dcmtk's, JPEG-LS (CharLS) with libjpeg (Richter),
JPEG 2000 (OpenJPEG) with FFmpeg's, HTJ2K (OpenJPEG) with OpenJPH, RLE and native with dcmtk's. A disagreement is a stop.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import imagecodecs
import numpy as np
import pytest
from libjpeg import decode as richter
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder

from casework.errors import Refused
from casework.preprocess.decode import _PLUGINS, NATIVE, TRANSFER_SYNTAXES, decode

Pixels = NDArray[Any]
SHARED = Path(os.environ.get("CASEWORK_SHARED") or Path(__file__).parents[3] / "shared") / "data"
SEED = 20261120
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SHAPE = (67, 93)  # odd sides: no block fits


REAL_FILES = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder of real DICOM files (CASEWORK_SHARED)")


def ffmpeg(stream: bytes) -> Pixels:
    """FFmpeg's own JPEG 2000 decoder; depths between 8 and 16 come in the top bits."""
    codec = av.CodecContext.create("jpeg2000", "r")
    frames = [*codec.decode(av.Packet(stream)), *codec.decode(None)]
    values: Pixels = frames[0].to_ndarray()
    return values


def dcmtk(file: Path, tool: str, out: Path) -> Pixels:
    """Every frame as dcmtk decodes it, colours as they are stored."""
    keep = ["+cn", "+px"] if tool == "dcmdjpeg" else ["+te"] if tool == "dcmconv" else []
    subprocess.run([tool, *keep, str(file), str(out)], check=True, capture_output=True)
    return raw(out)


def raw(file: Path) -> Pixels:
    """Native pixels (N, h, w, samples) without any of our code or pydicom's decoders."""
    ds = dcmread(file)
    kind = np.dtype(f"<{'i' if ds.PixelRepresentation else 'u'}{ds.BitsAllocated // 8}")
    frames, samples = int(ds.get("NumberOfFrames", 1)), int(ds.SamplesPerPixel)
    count = frames * ds.Rows * ds.Columns * samples
    flat = np.frombuffer(ds.PixelData, kind, count)
    if samples > 1 and ds.get("PlanarConfiguration", 0):
        return np.moveaxis(flat.reshape(frames, samples, ds.Rows, ds.Columns), 1, -1)
    return flat.reshape(frames, ds.Rows, ds.Columns, samples)


def ours(ds: Dataset) -> Pixels:
    """Every frame by the decoder that the service uses, before any colour or palette is applied."""
    syntax = ds.file_meta.TransferSyntaxUID
    values: Pixels = get_decoder(syntax).as_array(ds, raw=True, decoding_plugin=_PLUGINS[syntax])[0]
    return values.reshape(int(ds.get("NumberOfFrames", 1) or 1), ds.Rows, ds.Columns, int(ds.SamplesPerPixel))


def file_of(folder: Path, syntax: str, stream: bytes, bits: int, *, signed: bool = False, **changes: Any) -> Path:
    """A grey image of one frame with this codestream."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = uid.SecondaryCaptureImageStorage, "1.2.3"
    ds.Rows, ds.Columns = SHAPE
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = 8 if bits <= 8 else 16
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, int(signed)
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, uid.UID("1.2.3")
    path = folder / "a.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def picture(bits: int) -> Pixels:
    """Noise, a ramp and both ends of the scale, so that a wrap or a lost bit shows."""
    print(f"seed {SEED}")
    values = np.random.default_rng(SEED + bits).integers(0, 1 << bits, SHAPE)
    values[:20] = np.linspace(0, (1 << bits) - 1, SHAPE[1]).astype(int)
    values[20:24], values[24:28] = 0, (1 << bits) - 1
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def j2k(pixels: Pixels, bits: int) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, reversible=True, level=0, codecformat="j2k", bitspersample=bits))


def ljpeg(pixels: Pixels, bits: int) -> bytes:
    return bytes(imagecodecs.ljpeg_encode(pixels, bitspersample=bits))


def htj2k(pixels: Pixels, _: int) -> bytes:
    return bytes(imagecodecs.htj2k_encode(pixels, reversible=True))


def jpegls(pixels: Pixels, _: int) -> bytes:
    return bytes(imagecodecs.jpegls_encode(pixels))


def from_top(values: Pixels, bits: int) -> Pixels:
    """What FFmpeg puts into the top bits, back at the bottom."""
    return values >> (16 - bits) if 8 < bits < 16 else values


Second = Callable[[bytes, int], Pixels]
MADE: list[tuple[str, Callable[[Pixels, int], bytes], Second, int]] = [
    *((uid.JPEGLosslessSV1, ljpeg, lambda s, _: np.asarray(imagecodecs.jpegsof3_decode(s)), b) for b in (8, 12, 16)),
    *((uid.JPEGLossless, ljpeg, lambda s, _: np.asarray(imagecodecs.jpegsof3_decode(s)), b) for b in (8, 16)),
    *((uid.JPEGLSLossless, jpegls, lambda s, _: np.asarray(richter(s)), b) for b in (8, 16)),
    *((uid.JPEG2000Lossless, j2k, lambda s, b: from_top(ffmpeg(s), b), b) for b in (8, 12, 16)),
    *((uid.HTJ2KLossless, htj2k, lambda s, _: np.asarray(imagecodecs.htj2k_decode(s)), b) for b in (8, 16)),
    *((uid.HTJ2KLosslessRPCL, htj2k, lambda s, _: np.asarray(imagecodecs.htj2k_decode(s)), b) for b in (8, 16)),
]


@pytest.mark.parametrize(("syntax", "encode", "second", "bits"), MADE)
def test_lossless_syntaxes_bit_for_bit(
    syntax: str, encode: Callable[[Pixels, int], bytes], second: Second, bits: int, tmp_path: Path
) -> None:
    """What was encoded, what the service decodes and what another decoder decodes are the same, to the last bit."""
    truth = picture(bits)
    stream = encode(truth, bits)
    path = file_of(tmp_path, syntax, stream, bits)
    np.testing.assert_array_equal(second(stream, bits).reshape(SHAPE), truth)
    np.testing.assert_array_equal(ours(dcmread(path))[0, ..., 0], truth)
    np.testing.assert_array_equal(decode(path).pixels[0], truth)


REAL: list[tuple[str, str]] = [
    ("mg_ge_lcc_large_jpegll.dcm", "sof3"),
    ("mg_ge_rcc_jpegll.dcm", "sof3"),
    ("us_philips_jpegll_8bit.dcm", "dcmdjpeg"),
    ("odd_bad_sequence_jpegll.dcm", "dcmdjpeg"),
    ("us_philips_jpegls_mono.dcm", "richter"),
    ("us_mindray_rle_ybr_full.dcm", "dcmdrle"),
    ("us_palette_10frame_rle.dcm", "dcmdrle"),
    ("dbt_hologic_bto_4frame_j2k.dcm", "ffmpeg"),
    ("mr_enhanced_j2k_multifragment.dcm", "ffmpeg"),
    ("us_ge_breast_preset_bigendian.dcm", "dcmconv"),
    ("ct_deflated.dcm", "dcmconv"),
    ("mr_breast_dce_twist_slice.dcm", "dcmconv"),
]


LOSSY = "us_sonosite_30frame_jpeg.dcm"


@REAL_FILES
@pytest.mark.parametrize(("name", "tool"), REAL)
def test_real_files_bit_for_bit(name: str, tool: str, tmp_path: Path) -> None:
    """On real files of scanners the service's decoder and one of another origin agree in every pixel of every frame."""
    path = SHARED / name
    ds = dcmread(path)
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax in NATIVE:
        other = dcmtk(path, tool, tmp_path / "o.dcm")
        stored = 16 - int(ds.BitsStored) if ds.BitsAllocated == 16 else 0
        grey = (other << stored) >> stored
        expected = grey[..., 0] if grey.shape[-1] == 1 else np.rint(grey.astype(np.float32) @ LUMA).astype(grey.dtype)
        np.testing.assert_array_equal(decode(path).pixels, expected)
        return
    mine = ours(ds)
    if tool.startswith("dcm"):
        np.testing.assert_array_equal(mine, dcmtk(path, tool, tmp_path / "o.dcm"))
        return
    others: dict[str, Any] = {"sof3": imagecodecs.jpegsof3_decode, "richter": richter, "ffmpeg": ffmpeg}
    for index in range(mine.shape[0]):
        stream = get_frame(ds.PixelData, index, number_of_frames=mine.shape[0])
        np.testing.assert_array_equal(np.asarray(others[tool](stream)).reshape(mine.shape[1:]), mine[index])


@REAL_FILES
def test_lossy_jpeg_within_rounding(tmp_path: Path) -> None:
    """Baseline JPEG: two inverse transforms may round differently, by two grey values and no more."""
    path = SHARED / LOSSY
    other, mine = dcmtk(path, "dcmdjpeg", tmp_path / "o.dcm"), ours(dcmread(path))
    assert mine.shape == other.shape
    assert int(np.abs(mine.astype(np.int32) - other.astype(np.int32)).max()) <= 2


def test_extended_jpeg_within_rounding(tmp_path: Path) -> None:
    """Extended JPEG of 12 bits: libjpeg (Richter), which the service uses, and libjpeg-turbo differ by one grey value at most."""
    columns, rows = np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0]))
    smooth = (2000 + 1500 * np.sin(columns / 9) * np.cos(rows / 7)).astype(np.uint16)
    stream = bytes(imagecodecs.jpeg8_encode(smooth, bitspersample=12, level=95))
    mine = ours(dcmread(file_of(tmp_path, uid.JPEGExtended12Bit, stream, 12)))[0, ..., 0].astype(int)
    other = np.asarray(imagecodecs.jpeg8_decode(stream)).astype(int)
    assert int(np.abs(mine - other).max()) <= 1
    assert int(np.abs(mine - smooth).max()) <= 60, "and both are near what was encoded"


@REAL_FILES
def test_a_stream_that_one_decoder_refuses_is_refused() -> None:
    """A real file with a wrong scan header, which other software repairs by guessing, is refused and not guessed at."""
    with pytest.raises(Refused) as caught:
        decode(SHARED / "mr_toshiba_jpeg_extended12.dcm")
    assert caught.value.code == "PIXELS_UNDECODABLE"


def test_every_syntax_that_is_taken_was_compared() -> None:
    """No transfer syntax can be offered without a second decoder having been asked."""
    here = {
        "us_sonosite_30frame_jpeg.dcm": uid.JPEGBaseline8Bit,
        "us_mindray_rle_ybr_full.dcm": uid.RLELossless,
        "mr_enhanced_j2k_multifragment.dcm": uid.JPEG2000,
        "us_ge_breast_preset_bigendian.dcm": uid.ExplicitVRBigEndian,
        "ct_deflated.dcm": uid.DeflatedExplicitVRLittleEndian,
        "mr_breast_dce_twist_slice.dcm": uid.ExplicitVRLittleEndian,
    }
    lossy_kin = {uid.JPEGLSNearLossless, uid.HTJ2K, uid.ImplicitVRLittleEndian}  # the decoder of a syntax that is there
    assert {row[0] for row in MADE} | {uid.JPEGExtended12Bit} | set(here.values()) | lossy_kin == TRANSFER_SYNTAXES
    assert set(here) <= {LOSSY, *(name for name, _ in REAL)}
