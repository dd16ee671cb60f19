"""Reads the sizes that a JPEG, JPEG-LS or JPEG 2000 codestream states about itself. Does no I/O, allocates nothing.

A decoder allocates what the codestream says, not what the DICOM header says, so both are compared before it runs.
"""

import struct
from dataclasses import dataclass

from casework.errors import Refused

_SOC_SIZ = b"\xff\x4f\xff\x51"
_SOT, _SOD, _EOC, _COD = 0xFF90, 0xFF93, b"\xff\xd9", 0xFF52
_JPEG_SOF = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True, slots=True)
class Stated:
    """What a codestream says: grid in pixels, components, bits and sign of the first one, wavelet levels (J2K)."""

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool = False
    levels: int = 0
    at_origin: bool = True
    reversible: bool = False  # J2K: the 5-3 wavelet, by the main header alone


def read_j2k(data: bytes) -> Stated:
    """Read SIZ and COD of a raw JPEG 2000 codestream and walk its tile-parts (ISO/IEC 15444-1 annex A).

    Walking the tile-part lengths finds a stream that was cut short, which the decoder may fill with wrong pixels.

    Raises:
        Refused: PIXELS_UNDECODABLE when it is not a raw codestream, is malformed or is cut short.
    """
    if not data.startswith(_SOC_SIZ):
        raise Refused("PIXELS_UNDECODABLE", "not a JPEG 2000 codestream")
    try:
        width, height, x0, y0, tile_w, tile_h = struct.unpack_from(">6I", data, 8)
        (samples,) = struct.unpack_from(">H", data, 40)
        depth = data[42]
        if not tile_w or not tile_h or -(-width // tile_w) * -(-height // tile_h) > 65535:
            raise Refused("PIXELS_UNDECODABLE", "JPEG 2000 tiles")
        levels, reversible, first_tile = _main_header(data)
        _walk_tile_parts(data, first_tile)
    except (struct.error, IndexError) as error:
        raise Refused("PIXELS_UNDECODABLE", "JPEG 2000 header is cut short") from error
    sign, origin = bool(depth & 0x80), x0 == y0 == 0
    return Stated(height - y0, width - x0, samples, (depth & 0x7F) + 1, sign, levels, origin, reversible)


def _main_header(data: bytes) -> tuple[int, bool, int]:
    """Return (number of wavelet levels, whether the wavelet is reversible, offset of the first SOT)."""
    levels, reversible, at = 0, False, 2
    while True:
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == _SOT:
            return levels, reversible, at
        if marker < 0xFF00 or length < 2:
            raise Refused("PIXELS_UNDECODABLE", "JPEG 2000 main header")
        if marker == _COD:
            levels, reversible = data[at + 9], data[at + 13] == 1  # ISO/IEC 15444-1 table A.20
        at += 2 + length


def _walk_tile_parts(data: bytes, at: int) -> None:
    while data[at : at + 2] != _EOC:
        if at >= len(data.rstrip(b"\0")):
            return  # all tile-parts are whole, only the end marker is missing
        marker, _, _, part_length = struct.unpack_from(">HHHI", data, at)
        if marker != _SOT:
            raise Refused("PIXELS_UNDECODABLE", "JPEG 2000 tile-part lengths")
        if part_length == 0:  # allowed for the last one: it ends with the stream
            if not data.rstrip(b"\0").endswith(_EOC):
                raise Refused("PIXELS_UNDECODABLE", "JPEG 2000 stream is cut short")
            return
        if part_length < 14 or at + part_length > len(data):
            raise Refused("PIXELS_UNDECODABLE", "JPEG 2000 stream is cut short")
        at += part_length


def read_jpeg(data: bytes) -> Stated:
    """Read the frame header of a JPEG or JPEG-LS stream (ITU-T T.81 annex B, T.87 annex C).

    Raises:
        Refused: PIXELS_UNDECODABLE when there is none.
    """
    if data[:2] != b"\xff\xd8":
        raise Refused("PIXELS_UNDECODABLE", "not a JPEG stream")
    at = 2
    try:
        while True:
            if data[at] != 0xFF:
                raise Refused("PIXELS_UNDECODABLE", "JPEG markers")
            marker = data[at + 1]
            if marker == 0xFF:  # fill byte
                at += 1
            elif marker in _JPEG_ALONE:
                at += 2
            elif marker in _JPEG_SOF:
                precision, rows, columns, samples = struct.unpack_from(">BHHB", data, at + 4)
                return Stated(rows, columns, samples, precision)
            else:
                at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    except (struct.error, IndexError) as error:
        raise Refused("PIXELS_UNDECODABLE", "no JPEG frame header") from error
