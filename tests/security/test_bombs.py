"""Small files that would grow: each is refused within two seconds of processor time and 256 MiB, by the header's reader and by the decoder."""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from casework.dicom.scanner import Limits, inflate
from casework.preprocess.decode import Limits as DecodeLimits
from casework.preprocess.decode import decode
from tests.api.samples import mammogram


def deflated(zeros_mib: int) -> bytes:
    """A deflated data set whose last element is `zeros_mib` of zeros: one block, repeated in its packed form."""
    ds = dcmread(io.BytesIO(mammogram()))
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    whole = io.BytesIO()
    ds.save_as(whole, enforce_file_format=True)
    start = 144 + struct.unpack("<I", whole.getvalue()[140:144])[0]
    plain = zlib.decompress(whole.getvalue()[start:], -15)
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = pack.compress(plain + struct.pack("<HH2sHI", 0x7FE1, 0x1001, b"OB", 0, zeros_mib << 20)) + pack.flush(
        zlib.Z_FULL_FLUSH
    )
    block = zlib.compressobj(9, zlib.DEFLATED, -15)
    mebibyte = block.compress(bytes(1 << 20)) + block.flush(zlib.Z_FULL_FLUSH)
    return whole.getvalue()[:start] + head + mebibyte * zeros_mib + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def nested(depth: int) -> bytes:
    """A sequence within a sequence, `depth` times, of undefined lengths."""
    file = mammogram()
    opened = (
        struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ) * depth
    closed = (struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)) * depth
    pixels = file.index(struct.pack("<HH", 0x7FE0, 0x0010))
    return file[:pixels] + opened + closed + file[pixels:]


def many_elements() -> bytes:
    """A million private elements before the pixels."""
    file = mammogram()
    pixels = file.index(struct.pack("<HH", 0x7FE0, 0x0010))
    rows = b"".join(
        struct.pack("<HH2sH", 0x6001 + 2 * (n >> 15), 0x1000 + (n & 0x7FFF), b"UN"[:2], 0) + bytes(4)
        for n in range(1 << 18)
    )
    return file[:pixels] + rows * 4 + file[pixels:]


def huge_by_header() -> bytes:
    """65,535 x 65,535 pixels in ten frames, says the header of a file of one kilobyte."""
    return mammogram(Rows=65535, Columns=65535, NumberOfFrames=10)


def encapsulated(stream: bytes, side: int, syntax: str = uid.JPEG2000Lossless, *, empty: int = 0) -> bytes:
    """A grey image of `side` x `side` whose pixels are this codestream, after `empty` fragments of no length."""
    ds = dcmread(io.BytesIO(mammogram(Rows=side, Columns=side, PixelData=b"")))
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    fragments = encapsulate([stream])
    ds.PixelData = (
        fragments[:8] + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * empty + fragments[8:] if empty else fragments
    )
    ds["PixelData"].VR = "OB"
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def swollen_j2k(side: int) -> bytes:
    """A JPEG 2000 codestream of 8 x 8 that says it is `side` x `side`, in one tile."""
    stream = bytearray(imagecodecs.jpeg2k_encode(np.zeros((8, 8), np.uint8), level=0, codecformat="j2k"))
    at = stream.index(b"\xff\x51") + 6
    stream[at : at + 8] = struct.pack(">II", side, side)
    stream[at + 16 : at + 24] = struct.pack(">II", side, side)
    return bytes(stream)


def table_of_offsets() -> bytes:
    """A megabyte of offsets that lead nowhere."""
    ds = dcmread(io.BytesIO(mammogram(NumberOfFrames=2)))
    ds.file_meta.TransferSyntaxUID = uid.RLELossless
    table = struct.pack("<HHI", 0xFFFE, 0xE000, 1 << 20) + b"\xff" * (1 << 20)
    ds.PixelData = table + struct.pack("<HHI", 0xFFFE, 0xE000, 2) + b"\0\0" + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    ds["PixelData"].VR = "OB"
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def deep_items() -> bytes:
    """Nesting of defined lengths, 65 deep."""
    ds = dcmread(io.BytesIO(mammogram()))
    inner = Dataset()
    for _ in range(66):
        outer = Dataset()
        outer.ContentSequence = Sequence([inner])
        inner = outer
    ds.ContentSequence = Sequence([inner])
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def test_honest_deflated_files_of_every_size(tmp_path: Path) -> None:
    """A deflated file whose pieces end with a match just at the size of our buffer is whole, not cut: at the door and in the decoder."""
    rows = 0
    for extra in range(0, 520, 13):
        columns = 1024
        ds = dcmread(io.BytesIO(mammogram(Rows=1024, Columns=columns, PixelData=bytes(1024 * columns))))
        ds.add_new(0x00204000, "LT", "x" * extra * 2)
        ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
        file = tmp_path / "a.dcm"
        ds.save_as(file, enforce_file_format=True)
        whole = file.read_bytes()
        start = 144 + struct.unpack("<I", whole[140:144])[0]
        plain = zlib.decompress(whole[start:], -15)
        _, total = inflate(whole, start, Limits(inflation_ratio=100_000))
        assert total == len(plain)
        rows += decode(file, limits=DecodeLimits(inflation_ratio=100_000)).pixels.shape[1]
    assert rows == 40 * 1024


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "1 MiB that inflates to 1 GiB": ("both", lambda: deflated(1024)),
    "100,000 levels": ("both", lambda: nested(100_000)),
    "65 levels": ("header", deep_items),
    "a million elements": ("header", many_elements),
    "80 GiB by header": ("both", huge_by_header),
    "JPEG 2000 larger than its header": ("decode", lambda: encapsulated(swollen_j2k(60_000), 64)),
    "JPEG 2000 as large as its header": ("decode", lambda: encapsulated(swollen_j2k(60_000), 60_000)),
    "a megabyte of offsets": ("decode", table_of_offsets),
    "100,000 empty fragments": (
        "decode",
        lambda: encapsulated(b"\xff\xd8\xff\xd9", 64, uid.JPEGLosslessSV1, empty=100_000),
    ),
}
RUNS = [(name, how) for name, (where, _) in BOMBS.items() for how in ("header", "decode") if where in ("both", how)]


@pytest.mark.parametrize(("name", "how"), RUNS)
def test_bombs_are_refused(name: str, how: str, tmp_path: Path) -> None:
    """The file is refused with a code of ours, in under two seconds and 256 MiB, Python and its libraries included."""
    file = tmp_path / "bomb.dcm"
    file.write_bytes(BOMBS[name][1]())
    command = [sys.executable, "-m", "tests.security.bomb_child", how, str(file)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    assert found["code"] not in ("taken", "MemoryError"), found
    assert found["seconds"] < 2.0, found
    assert found["mib"] < 256, found
