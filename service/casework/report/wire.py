"""DICOM data elements to bytes: Explicit VR Little Endian only (PS3.5 section 7 and annex A.2). Does no I/O.

Results are small trees of known shape that are written once; encoding them directly is some ten times faster than
building and writing data sets, keeps a source's text byte for byte, and never replaces a character. What was written
is read back by another library before it may leave (casework.report.check).
"""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from struct import pack

from pydicom.datadict import dictionary_VR, tag_for_keyword

from casework.case import derive_uid
from casework.report.charset import Charset

EXPLICIT_LE = "1.2.840.10008.1.2.1"
IMPLEMENTATION_CLASS_UID = derive_uid("implementation", "casework")

TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_ASCII_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_LIMITS = {"SH": 16, "LO": 64, "CS": 16, "DS": 16, "ST": 1024, "UI": 64}  # characters of one value (PS3.5 6.2)

Value = str | int | float | bytes | Sequence[str] | Sequence[int] | Sequence[float] | Sequence[bytes] | None


@cache
def tag_and_vr(keyword: str) -> tuple[int, str]:
    """Tag and value representation of a keyword of PS3.6.

    Raises:
        KeyError: no such keyword.
    """
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag, dictionary_VR(tag)


def element(tag: int, vr: str, value: bytes) -> bytes:
    """One element with its header, padded to even length."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB", "UN") else b" "
    if vr in _LONG_VRS:
        return pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, len(value)) + value
    return pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value


class Block:
    """A data set, or one item of a sequence, being written: elements by tag, put in any order."""

    __slots__ = ("charset", "elements")

    def __init__(self, charset: Charset, **values: Value) -> None:
        self.charset = charset
        self.elements: dict[int, bytes] = {}
        for keyword, value in values.items():
            self.put(keyword, value)

    def __contains__(self, keyword: str) -> bool:
        return tag_and_vr(keyword)[0] in self.elements

    def put(self, keyword: str, value: Value, vr: str = "") -> None:
        """Set one element. A sequence is given as its items' bytes; None or "" writes an empty element (Type 2).

        Raises:
            ValueError: text that the character set can't say, or a value beyond its representation's length.
        """
        tag, known = tag_and_vr(keyword)
        vr = vr or known
        self.elements[tag] = element(tag, vr, self.encode_value(keyword, vr, value))

    def put_bytes(self, tag: int, vr: str, value: bytes) -> None:
        """Set one element from bytes that are already encoded."""
        self.elements[tag] = element(tag, vr, value)

    def encode_value(self, keyword: str, vr: str, value: Value) -> bytes:
        """The value field, as `put` writes it."""
        if value is None:
            return b""
        if isinstance(value, bytes):
            return value
        values: Sequence[str | int | float | bytes] = value if isinstance(value, list | tuple) else (value,)
        if vr == "SQ":
            return b"".join(v for v in values if isinstance(v, bytes))
        if vr in _NUMBERS:
            return pack(f"<{len(values)}{_NUMBERS[vr]}", *values)
        texts = [str(v) for v in values]
        limit = _LIMITS.get(vr)
        if limit and any(len(t) > limit for t in texts):
            raise ValueError(f"{keyword}: longer than {limit} characters")
        if vr in TEXT_VRS:
            return b"\\".join(self.charset.encode(t) for t in texts)
        return "\\".join(texts).encode("ascii")

    def encode(self) -> bytes:
        """All elements in tag order."""
        return b"".join([self.elements[tag] for tag in sorted(self.elements)])

    def item(self) -> bytes:
        """This block as one item of a sequence (PS3.5 7.5, defined length)."""
        data = self.encode()
        return pack("<HHI", 0xFFFE, 0xE000, len(data)) + data


@lru_cache(maxsize=8192)
def _fixed(keyword: str, value: str) -> bytes:
    tag, vr = tag_and_vr(keyword)
    return element(tag, vr, value.encode("ascii"))


def flat_item(pairs: Iterable[tuple[str, str]], tail: bytes = b"") -> bytes:
    """An item of ASCII elements, given in tag order, and encoded ones after them: quick for long lists."""
    data = b"".join([_fixed(keyword, value) for keyword, value in pairs]) + tail
    return pack("<HHI", 0xFFFE, 0xE000, len(data)) + data


def file_bytes(
    block: Block, sop_class_uid: str, sop_instance_uid: str, version_name: str, pixels: bytes | None = None
) -> bytes:
    """A Part 10 file: preamble, meta information (PS3.10 7.1) and the data set, with `pixels` (8 bit) as its end."""
    meta = Block(
        block.charset,
        FileMetaInformationVersion=b"\0\1",
        MediaStorageSOPClassUID=sop_class_uid,
        MediaStorageSOPInstanceUID=sop_instance_uid,
        TransferSyntaxUID=EXPLICIT_LE,
        ImplementationClassUID=IMPLEMENTATION_CLASS_UID,
        ImplementationVersionName=version_name[:16],
    ).encode()
    parts = [b"\0" * 128, b"DICM", element(0x00020000, "UL", pack("<I", len(meta))), meta, block.encode()]
    if pixels is not None:
        even = len(pixels) + len(pixels) % 2
        parts += [pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, even), pixels, b"\0" * (even - len(pixels))]
    return b"".join(parts)
