"""A bounded walk over one encoded data set: keeps a few values, skips the rest, proves that it is whole. Does no I/O.

pydicom inflates without a bound, recurses per sequence and returns an empty data set for a cut pixel stream; this walk
does none of that. It is iterative, counts elements and depth, never copies a value that is not asked for, and reads the
pixel data's frame of lengths but not its bytes. Encodings: PS3.5 7.1 (explicit and implicit VR), 7.5 (sequences), A.4
(encapsulated), A.5 (deflated).
"""

import zlib
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from pydicom._dicom_dict import DicomDictionary

from casework.errors import Refused

Buffer = bytes | bytearray | memoryview

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_PIXEL_DATA = 0x7FE00010
_LONG_VRS = frozenset(v.encode() for v in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # noqa: SIM905 - as PS3.5 lists them
_SEQUENCE_TAGS = frozenset(tag for tag, entry in DicomDictionary.items() if entry[0] == "SQ")
_MAX_VALUE = 4096
_CHUNK = 64 << 10


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one walk."""

    depth: int = 64  # DCMTK's default since CVE-2026-10528
    elements: int = 300_000  # a dynamic series of 2,000 frames in one object has about 160,000
    inflated_bytes: int = 1 << 30
    inflated_header_bytes: int = 16 << 20  # what is held in memory of an inflated data set
    inflation_ratio: int = 100


@dataclass(slots=True)
class Scan:
    """What the walk found: raw values by tag, values inside sequences by (sequence tag, tag), and the pixel data."""

    top: dict[int, bytes] = field(default_factory=dict)
    nested: dict[tuple[int, int], bytes] = field(default_factory=dict)
    pixel_bytes: int | None = None  # None: no pixel data
    encapsulated: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which values to keep: top-level tags, and (sequence tag, tag) inside sequences, the first of each."""

    top: frozenset[int]
    nested: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the data set is encoded."""

    implicit: bool
    big_endian: bool = False


@dataclass(slots=True)
class _Level:
    """One open sequence or item: where it ends at the latest, whether only a delimiter ends it."""

    limit: int
    delimited: bool
    sequence: int  # the tag of a sequence, or of the sequence that an item is in
    is_item: bool
    implicit: bool


class Scanner:
    """Walks one buffer once. `end` may lie beyond the buffer for inflated data whose tail was counted, not kept."""

    def __init__(self, buffer: Buffer, encoding: Encoding, wanted: Wanted, limits: Limits) -> None:
        order = ">" if encoding.big_endian else "<"
        self._buffer, self._wanted, self._limits = buffer, wanted, limits
        self._nested_tags = frozenset(tag for _, tag in wanted.nested)
        self._explicit_head = Struct(order + "HH2sH").unpack_from
        self._implicit_head = Struct(order + "HHI").unpack_from
        self._long = Struct(order + "I").unpack_from
        self._held = len(buffer)
        self._position = self._end = 0
        self._levels: list[_Level] = []
        self._level = _Level(0, delimited=False, sequence=0, is_item=True, implicit=encoding.implicit)
        self._scan = Scan()

    @property
    def seen(self) -> Scan:
        """What was found so far, also by a walk that was refused."""
        return self._scan

    def walk(self, start: int, end: int) -> Scan:
        """Read the elements in [start, end).

        Raises:
            Refused: TRUNCATED, HEADER_MALFORMED, NESTING_TOO_DEEP or INFLATES_TOO_FAR.
        """
        self._position, self._end, self._level.limit = start, end, end
        for _ in range(self._limits.elements):
            while self._position >= self._level.limit:
                if not self._leave():
                    return self._scan
            if self._position >= self._held:
                return self._scan  # the rest was counted, not kept; only pixel data may reach there
            self._step()
        raise Refused("HEADER_MALFORMED", "too many elements")

    def _leave(self) -> bool:
        """The current level has reached its limit; False when it was the data set itself."""
        if self._position > self._level.limit or self._level.delimited:
            raise self._cut("a sequence runs past its end")
        if not self._levels:
            return False
        self._level = self._levels.pop()
        return True

    def _cut(self, detail: str, limit: int | None = None) -> Refused:
        """The error for something that does not fit: cut at the end of the data, or wrong inside it."""
        limit = self._level.limit if limit is None else limit
        return Refused("TRUNCATED" if limit == self._end else "HEADER_MALFORMED", detail)

    def _room(self, size: int) -> None:
        if min(self._level.limit, self._held) - self._position < size:
            raise Refused("TRUNCATED", "an element's header is cut")

    def _step(self) -> None:
        """Read one element, item or delimiter."""
        self._room(8)
        position, level = self._position, self._level
        if level.implicit:
            group, element, length = self._implicit_head(self._buffer, position)
            vr = b""
        else:
            group, element, vr, length = self._explicit_head(self._buffer, position)
        tag = group << 16 | element
        self._position = position + 8
        if group == 0xFFFE:
            self._item(tag, self._long(self._buffer, position + 4)[0])
            return
        if not level.is_item:
            raise Refused("HEADER_MALFORMED", "an element between the items of a sequence")
        if level.implicit:
            is_sequence = tag in _SEQUENCE_TAGS or (length == _UNDEFINED and tag not in PIXEL_TAGS)
        else:
            if vr in _LONG_VRS:
                self._room(4)
                length = self._long(self._buffer, self._position)[0]
                self._position += 4
            elif not (vr.isalpha() and vr.isupper()):
                raise Refused("HEADER_MALFORMED", "not a value representation")
            is_sequence = vr == b"SQ" or (vr == b"UN" and length == _UNDEFINED)
        if is_sequence:
            self._enter(tag, length, is_item=False, implicit=level.implicit or vr == b"UN")
        elif length == _UNDEFINED:
            self._fragments(tag)
        else:
            self._value(tag, length)

    def _item(self, tag: int, length: int) -> None:
        level = self._level
        if tag == _ITEM and not level.is_item:
            self._enter(level.sequence, length, is_item=True, implicit=level.implicit)
        elif level.delimited and tag == (_ITEM_END if level.is_item else _SEQUENCE_END):
            self._level = self._levels.pop()
        else:
            raise Refused("HEADER_MALFORMED", "a delimiter where none belongs")

    def _enter(self, sequence: int, length: int, *, is_item: bool, implicit: bool) -> None:
        """Open a sequence or an item inside the current level."""
        if len(self._levels) >= 2 * self._limits.depth:
            raise Refused("NESTING_TOO_DEEP")
        outer, delimited = self._level.limit, length == _UNDEFINED
        limit = outer if delimited else self._position + length
        if limit > outer:
            raise self._cut("a sequence runs past its end")
        self._levels.append(self._level)
        self._level = _Level(limit, delimited, sequence, is_item, implicit)

    def _value(self, tag: int, length: int) -> None:
        """Pass one value, keeping its beginning if it is wanted."""
        position = self._position
        if length > self._level.limit - position:
            raise self._cut("a value runs past the end")
        if not self._levels and tag in PIXEL_TAGS:
            self._scan.pixel_bytes = length
        elif position + length > self._held:
            raise Refused("INFLATES_TOO_FAR", "the header is too long")
        elif not self._levels:
            if tag in self._wanted.top:
                self._scan.top[tag] = self._bytes(length)
        elif tag in self._nested_tags and (self._level.sequence, tag) in self._wanted.nested:
            self._scan.nested.setdefault((self._level.sequence, tag), self._bytes(length))
        self._position = position + length

    def _bytes(self, length: int) -> bytes:
        return bytes(self._buffer[self._position : self._position + min(length, _MAX_VALUE)])

    def _fragments(self, tag: int) -> None:
        """Pass encapsulated fragments up to their delimiter (PS3.5 A.4)."""
        total, items = 0, 0
        while True:
            self._room(8)
            group, element, length = self._implicit_head(self._buffer, self._position)
            self._position += 8
            if group << 16 | element == _SEQUENCE_END:
                break
            items += 1
            if group << 16 | element != _ITEM or length == _UNDEFINED or items > self._limits.elements:
                raise Refused("HEADER_MALFORMED", "not a fragment")
            if length > self._level.limit - self._position:
                raise self._cut("a fragment is cut")
            self._position += length
            total += length if items > 1 else 0  # the first item is the offset table
        if tag == _PIXEL_DATA and not self._levels:
            self._scan.pixel_bytes, self._scan.encapsulated = total, True


def inflate(data: Buffer, start: int, limits: Limits) -> tuple[bytes, int]:
    """Inflate a deflated data set (PS3.5 A.5) in bounded steps; return its kept beginning and its whole length.

    Raises:
        Refused: INFLATES_TOO_FAR beyond the ratio or the byte cap, TRUNCATED when the stream has no end, HEADER_MALFORMED.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    allowed = min(limits.inflated_bytes, max(len(data) - start, 1 << 10) * limits.inflation_ratio)
    kept, total, pending = bytearray(), 0, start
    tail = b""
    try:
        while not stream.eof:
            if not tail:
                tail = bytes(data[pending : pending + _CHUNK])  # a copy: a view in a traceback would pin the memory map
                pending += len(tail)
            # All was read: the end of the last match may still be inside.
            piece = stream.decompress(tail, 1 << 20) if tail else stream.flush()
            if not tail and not stream.eof:
                raise Refused("TRUNCATED", "the deflated stream has no end")
            tail = stream.unconsumed_tail
            total += len(piece)
            if total > allowed:
                raise Refused("INFLATES_TOO_FAR")
            room = limits.inflated_header_bytes - len(kept)
            kept += piece[:room]
    except zlib.error as error:
        raise Refused("HEADER_MALFORMED", "not a deflated stream") from error
    return bytes(kept), total
