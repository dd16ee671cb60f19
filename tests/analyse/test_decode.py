"""Pixel decoding: the right pixels in every transfer syntax, and a coded refusal for everything that is not right."""

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels.utils import pixel_array

from casework.errors import Refused
from casework.preprocess.codestream import read_j2k, read_jpeg
from casework.preprocess.decode import Limits, decode, open_header
from tests.analyse.dicoms import body_of, deflated, header, j2k, smooth, write

LOSSLESS = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.RLELossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
]
RNG = np.random.default_rng(20260101)


def refused(path: Path, **options: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        decode(path, **options)
    return caught.value


def refusal(path: Path, **options: Any) -> str:
    return refused(path, **options).code


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_give_the_stored_values(tmp_path: Path, syntax: str) -> None:
    """What was stored comes out, value for value, 12 bits in 16."""
    image = smooth(64, 48, top=4095)
    path = write(tmp_path / "a.dcm", image, syntax, bits=12)
    assert np.array_equal(decode(path).pixels[0], image)


@pytest.mark.parametrize(
    ("dtype", "bits"), [(np.int16, 16), (np.int16, 12), (np.uint16, 16), (np.uint16, 10), (np.uint8, 8)]
)
def test_jpeg_2000_keeps_sign_and_depth(tmp_path: Path, dtype: type, bits: int) -> None:
    """Signed and unsigned samples of every stored depth come out exactly, as pydicom's own decoder has them."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if dtype is np.int16 else (0, (1 << bits) - 1)
    image: NDArray[Any] = RNG.integers(low, high, (72, 56), endpoint=True).astype(dtype)
    path = write(tmp_path / "a.dcm", image, uid.JPEG2000Lossless, bits=bits)
    assert np.array_equal(decode(path).pixels[0], image)
    assert np.array_equal(pixel_array(path, decoding_plugin="pylibjpeg"), image)


@pytest.mark.parametrize("reduce", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_reduced_decoding_is_the_full_image_made_smaller(tmp_path: Path, reduce: int, dtype: type) -> None:
    """A reduced decode correlates with the means around its source pixels and has their brightness, signed or not."""
    image: NDArray[Any] = smooth(512, 384, top=2047).astype(dtype) - (1000 if dtype is np.int16 else 0)
    path = write(tmp_path / "a.dcm", image, uid.JPEG2000Lossless, bits=12)
    small = decode(path, reduce=reduce)
    k = 1 << reduce
    around = np.roll(image, (k // 2, k // 2), axis=(0, 1))  # block i then lies around source pixel k * i
    means = around.reshape(512 // k, k, 384 // k, k).mean(axis=(1, 3))
    assert small.reduce == reduce
    assert small.pixels.dtype == dtype
    assert np.corrcoef(small.pixels[0, 1:, 1:].ravel(), means[1:, 1:].ravel())[0, 1] > 0.99
    assert abs(float(small.pixels.mean()) - float(means.mean())) < 0.01 * 2047


@pytest.mark.parametrize("reduce", [1, 2, 3])
def test_a_reduced_pixel_lies_on_the_source_pixel_it_is_named_after(tmp_path: Path, reduce: int) -> None:
    """A blob's centre in the low-pass band, times the scale, is its centre in the source: no half-pixel drift."""
    y, x = np.mgrid[0:256, 0:256]
    blob = (3000 * np.exp(-((y - 120.0) ** 2 + (x - 88.0) ** 2) / 800)).astype(np.uint16)
    small = (
        decode(write(tmp_path / "a.dcm", blob, uid.JPEG2000Lossless, bits=12), reduce=reduce).pixels[0].astype(float)
    )
    rows, cols = np.mgrid[0 : small.shape[0], 0 : small.shape[1]]
    centre = np.array([(small * rows).sum(), (small * cols).sum()]) / small.sum() * 2**reduce
    assert np.allclose(centre, (120, 88), atol=0.3)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_bits_above_the_stored_ones_are_not_part_of_the_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type
) -> None:
    """Old overlays live in the unused high bits of native pixels: they never reach the grey values."""
    image: NDArray[Any] = RNG.integers(-2048 if dtype is np.int16 else 0, 2047, (40, 32)).astype(dtype)
    noisy: NDArray[Any] = (
        (image.view(np.uint16) & 0x0FFF) | (RNG.integers(0, 16, image.shape) << 12).astype(np.uint16)
    ).view(dtype)
    path = write(tmp_path / "a.dcm", noisy, uid.ExplicitVRLittleEndian, bits=12)
    assert np.array_equal(decode(path).pixels[0], image)
    big = write(tmp_path / "b.dcm", noisy, uid.ExplicitVRBigEndian, bits=12)
    assert np.array_equal(decode(big).pixels[0], image)
    long = write(tmp_path / "c.dcm", np.stack([noisy, noisy]), uid.ExplicitVRLittleEndian, bits=12)
    monkeypatch.setattr("casework.preprocess.decode._LONG_BYTES", 1000)  # frame by frame from the file
    assert np.array_equal(decode(long).pixels, np.stack([image, image]))


def test_a_signed_header_never_turns_half_of_a_mammogram_dark(tmp_path: Path) -> None:
    """Pixel Representation 1 over an unsigned JPEG 2000 codestream: the bright half would become negative."""
    path = write(tmp_path / "a.dcm", smooth(64, 48), uid.JPEG2000Lossless, bits=12, PixelRepresentation=1)
    assert refusal(path) == "PIXELS_UNDECODABLE"


@pytest.mark.parametrize("shape", [(401, 333), (402, 335), (403, 337), (97, 1000)])
def test_every_size_can_be_reduced_or_is_decoded_larger(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Odd sizes never fail: the decoder goes as far down as it can and says how far."""
    image = smooth(*shape)
    decoded = decode(write(tmp_path / "a.dcm", image, uid.JPEG2000Lossless, bits=12), reduce=3)
    assert decoded.pixels[0].shape == tuple(-(-n >> decoded.reduce) for n in shape)


def test_other_syntaxes_are_not_reduced(tmp_path: Path) -> None:
    """Reduction is the wavelet's; everything else comes out at full size and says so."""
    decoded = decode(write(tmp_path / "a.dcm", smooth(64, 64), uid.ExplicitVRLittleEndian, bits=12), reduce=2)
    assert (decoded.reduce, decoded.pixels.shape) == (0, (1, 64, 64))


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless])
def test_only_the_frames_asked_for_come_out(tmp_path: Path, syntax: str) -> None:
    """Frames are picked by index and in the order asked for."""
    cine = RNG.integers(0, 256, (5, 40, 32)).astype(np.uint8)
    path = write(tmp_path / "a.dcm", cine, syntax)
    assert np.array_equal(decode(path, frames=[3, 1]).pixels, cine[[3, 1]])
    assert refusal(path, frames=[5]) == "PIXELS_UNDECODABLE"


def test_colour_becomes_luma(tmp_path: Path) -> None:
    """RGB is weighed as BT.601 says."""
    image = RNG.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    grey = decode(write(tmp_path / "a.dcm", image, uid.ExplicitVRLittleEndian)).pixels[0]
    assert np.array_equal(grey, np.rint(image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)))


def test_ybr_full_becomes_luma(tmp_path: Path) -> None:
    """In YBR_FULL the first channel is the grey value, within rounding."""
    image = np.full((32, 32, 3), 128, np.uint8)
    image[..., 0] = RNG.integers(0, 256, (32, 32))
    path = write(tmp_path / "a.dcm", image, uid.ExplicitVRLittleEndian, PhotometricInterpretation="YBR_FULL")
    assert np.abs(decode(path).pixels[0].astype(int) - image[..., 0]).max() <= 1


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    """PALETTE COLOR indices become the grey of their colours."""
    image = RNG.integers(0, 256, (32, 32)).astype(np.uint8)
    table = (np.arange(256)[::-1] * 257).astype("<u2").tobytes()
    palette: dict[str, Any] = {
        f"{c}PaletteColorLookupTable{w}": v
        for c in ("Red", "Green", "Blue")
        for w, v in (("Descriptor", [256, 0, 16]), ("Data", table))
    }
    path = write(
        tmp_path / "a.dcm", image, uid.ExplicitVRLittleEndian, PhotometricInterpretation="PALETTE COLOR", **palette
    )
    assert np.abs(decode(path).pixels[0].astype(int) - (255 - image.astype(int))).max() <= 1


def test_deflated_is_inflated_within_its_cap(tmp_path: Path) -> None:
    """A deflated data set decodes; one that inflates beyond the cap is refused before it is in memory."""
    image = smooth(64, 48)
    ds = header(image, uid.ExplicitVRLittleEndian, bits=12)
    ds.PixelData = image.tobytes()
    ds["PixelData"].VR = "OW"
    path = deflated(tmp_path / "a.dcm", body_of(ds))
    assert np.array_equal(decode(path).pixels[0], image)
    assert open_header(path).Rows == 64
    bomb = deflated(tmp_path / "b.dcm", b"\0" * (8 << 20))
    assert refusal(bomb, limits=Limits(inflated_bytes=1 << 20)) == "INFLATES_TOO_FAR"
    cut = tmp_path / "c.dcm"
    cut.write_bytes(path.read_bytes()[:-200])
    assert refusal(cut) == "TRUNCATED"


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"Rows": 65535, "Columns": 65535}, "DIMENSIONS_TOO_LARGE"),
        ({"NumberOfFrames": 2_000_000_000}, "DIMENSIONS_TOO_LARGE"),
        ({"NumberOfFrames": -1}, "PIXELS_UNDECODABLE"),
        ({"Rows": 0}, "PIXELS_UNDECODABLE"),
        ({"BitsAllocated": 64}, "PIXELS_UNDECODABLE"),
        ({"SamplesPerPixel": 2}, "PIXELS_UNDECODABLE"),
        ({"PhotometricInterpretation": "RGB"}, "PIXELS_UNDECODABLE"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PIXELS_UNDECODABLE"),
        ({"Rows": 65}, "PIXELS_UNDECODABLE"),
    ],
)
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless])
def test_absurd_headers_are_refused(tmp_path: Path, syntax: str, attributes: dict[str, Any], code: str) -> None:
    """Lengths in the header are never believed: absurd ones have a code, and nothing of their size is allocated."""
    path = write(tmp_path / "a.dcm", smooth(64, 48), syntax, bits=12)
    import pydicom

    ds = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    assert refusal(path, limits=Limits(decoded_bytes=1 << 24)) == code


def test_a_codestream_larger_than_its_header_is_refused(tmp_path: Path) -> None:
    """The decoder allocates what the codestream says, so a codestream that disagrees with the header is not decoded."""
    path = write(tmp_path / "a.dcm", smooth(64, 48), uid.JPEG2000Lossless, bits=12)
    data = path.read_bytes()
    at = data.index(b"\xff\x4f\xff\x51") + 8
    path.write_bytes(data[:at] + struct.pack(">2I", 1280, 1280) + data[at + 8 :])
    error = refused(path)
    assert (error.code, error.detail) == ("PIXELS_UNDECODABLE", "codestream and header differ in size")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_jpeg_2000_stream_is_refused(tmp_path: Path, keep: float) -> None:
    """A stream that was cut short inside its item is never filled up with invented pixels."""
    from pydicom.encaps import encapsulate

    stream = j2k(smooth(256, 192), 12)
    ds = header(smooth(256, 192), uid.JPEG2000Lossless, bits=12)
    ds.PixelData = encapsulate([stream[: int(len(stream) * keep)]])
    ds["PixelData"].VR = "OB"
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    error = refused(tmp_path / "a.dcm", reduce=2)
    assert (error.code, error.detail) == ("PIXELS_UNDECODABLE", "JPEG 2000 stream is cut short")


@pytest.mark.parametrize("syntax", [*LOSSLESS, uid.JPEGBaseline8Bit])
def test_random_damage_is_refused_or_decoded(tmp_path: Path, syntax: str) -> None:
    """Whatever bytes are changed, the answer is pixels of the stated size or a code, never another exception."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    if syntax == uid.JPEGBaseline8Bit:
        good = _jpeg(tmp_path / "a.dcm").read_bytes()
    else:
        good = write(tmp_path / "a.dcm", smooth(64, 48), syntax, bits=12).read_bytes()
    for _ in range(60):
        bad = bytearray(good[: rng.integers(140, len(good) + 1)] if rng.random() < 0.3 else good)
        for at in rng.integers(132, len(bad), rng.integers(1, 12)):
            bad[at] = rng.integers(0, 256)
        (tmp_path / "b.dcm").write_bytes(bad)
        try:
            decoded = decode(tmp_path / "b.dcm", reduce=int(rng.integers(0, 3)), limits=Limits(decoded_bytes=1 << 24))
        except Refused:
            continue
        assert decoded.pixels.ndim == 3


def _jpeg(path: Path) -> Path:
    """A JPEG baseline file of smooth tissue."""
    import io

    from PIL import Image
    from pydicom.encaps import encapsulate

    image = (smooth(64, 48) >> 4).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95)
    ds = header(image, uid.JPEGBaseline8Bit)
    ds.PixelData = encapsulate([stream.getvalue()])
    ds["PixelData"].VR = "OB"
    ds.save_as(path, enforce_file_format=True)
    return path


def test_jpeg_baseline_is_decoded(tmp_path: Path) -> None:
    """A lossy JPEG comes out near what went in."""
    pixels = decode(_jpeg(tmp_path / "a.dcm")).pixels[0].astype(int)
    assert np.abs(pixels - (smooth(64, 48) >> 4)).mean() < 3


def test_unknown_syntax_and_other_files_are_refused(tmp_path: Path) -> None:
    """What no decoder here reads, and what is not DICOM, has its code."""
    path = write(tmp_path / "a.dcm", smooth(64, 48), uid.ExplicitVRLittleEndian)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"))
    assert refusal(path) == "TRANSFER_SYNTAX_NOT_ACCEPTED"
    for junk in (b"", b"\0" * 200, b"<html>", b"\0" * 128 + b"DICM"):
        (tmp_path / "j").write_bytes(junk)
        assert refusal(tmp_path / "j") in ("NOT_DICOM", "TRUNCATED", "HEADER_MALFORMED")


def test_codestream_readers_refuse_noise() -> None:
    """The size readers end on any input, with a code."""
    for data in (
        b"",
        b"\xff\x4f\xff\x51",
        b"\xff\xd8",
        b"\xff\xd8" + b"\xff" * 64,
        b"\xff\xd8\xff\xe0\xff\xff",
        bytes(64),
    ):
        for reader in (read_j2k, read_jpeg):
            with pytest.raises(Refused):
                reader(data)


# --- two decoders agree ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tool", "options"), [("dcmcjpeg", ["+e1"]), ("dcmcjpeg", ["+el"]), ("dcmcjpls", [])])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_streams_of_another_encoder_come_out_exactly(
    tmp_path: Path, tool: str, options: list[str], bits: int
) -> None:
    """What DCMTK encodes without loss, our decoders give back value for value: two implementations agree."""
    if shutil.which(tool) is None:
        pytest.fail(f"{tool} is missing: install dcmtk")
    image = RNG.integers(0, (1 << bits) - 1, (64, 48), endpoint=True).astype(np.uint8 if bits == 8 else np.uint16)
    path = write(tmp_path / "a.dcm", image, uid.ExplicitVRLittleEndian, bits=bits)
    subprocess.run([tool, *options, str(path), str(tmp_path / "b.dcm")], check=True, capture_output=True)
    syntax = open_header(tmp_path / "b.dcm").file_meta.TransferSyntaxUID
    assert syntax.is_compressed
    assert np.array_equal(decode(tmp_path / "b.dcm").pixels[0], image)


def test_real_files_decode_or_are_refused(shared: Path) -> None:
    """Every real file decodes to its stated size or is refused with a code; most of them decode."""
    decoded, codes = 0, set[str]()
    paths = sorted(shared.rglob("*.dcm"))
    for path in paths:
        try:
            pixels: NDArray[Any] = decode(path, frames=[0]).pixels
        except Refused as refused:
            codes.add(refused.code)
            continue
        of = open_header(path)
        assert pixels.shape == (1, of.Rows, of.Columns), path.name
        decoded += 1
    assert decoded >= 0.8 * len(paths) > 0
    assert codes <= {"PIXELS_UNDECODABLE", "NOT_DICOM"}
