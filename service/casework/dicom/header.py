"""Reads the header of an instance from hostile bytes: identifiers and the few values that assembly needs, never pixels.

Reads files only in `read_header`. Every bound is checked before memory is used; every refusal carries a code. Text is
decoded by Specific Character Set and control characters are replaced, so that no value can break a log line or a page.
"""

import contextlib
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct, pack, unpack
from struct import error as struct_error

from pydicom.charset import decode_bytes, python_encoding
from pydicom.valuerep import TEXT_VR_DELIMS

from casework.case import Header, derive_uid
from casework.dicom.classes import (
    DEFLATED_LE,
    EXPLICIT_BE,
    IMAGE_CLASSES,
    IMPLICIT_LE,
    NATIVE_SYNTAXES,
    TRANSFER_SYNTAXES,
)
from casework.dicom.scanner import Buffer, Encoding, Limits, Scan, Scanner, Wanted, inflate
from casework.errors import Refused

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_IR, _IR_2022 = re.compile(r"\bISO.IR."), re.compile(r"\bISO.2022.IR.")  # vendors write ISO-IR 100, ISO IR 192
_IMPLEMENTATION_UID = derive_uid("implementation")  # never changes: it is part of the stored bytes and so of the digest
_MAX_META = 64 << 10

_IDENTIFIERS: Mapping[int, str] = {
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
}
_TEXT: Mapping[int, str] = {
    0x00080060: "Modality",
    0x00100020: "PatientID",
    0x00100021: "IssuerOfPatientID",
    0x00080050: "AccessionNumber",
    0x00080020: "StudyDate",
    0x00080005: "SpecificCharacterSet",
    0x00080008: "ImageType",
    0x00080021: "SeriesDate",
    0x00080022: "AcquisitionDate",
    0x00080023: "ContentDate",
    0x0008002A: "AcquisitionDateTime",
    0x00080030: "StudyTime",
    0x00080031: "SeriesTime",
    0x00080032: "AcquisitionTime",
    0x00080033: "ContentTime",
    0x00080068: "PresentationIntentType",
    0x00080070: "Manufacturer",
    0x00081030: "StudyDescription",
    0x0008103E: "SeriesDescription",
    0x00081090: "ManufacturerModelName",
    0x00100030: "PatientBirthDate",
    0x00100040: "PatientSex",
    0x00180015: "BodyPartExamined",
    0x00180020: "ScanningSequence",
    0x00181000: "DeviceSerialNumber",
    0x00181030: "ProtocolName",
    0x00185101: "ViewPosition",
    0x00200011: "SeriesNumber",
    0x00200012: "AcquisitionNumber",
    0x00200013: "InstanceNumber",
    0x00200020: "PatientOrientation",
    0x00200052: "FrameOfReferenceUID",
    0x00200060: "Laterality",
    0x00200062: "ImageLaterality",
    0x00200100: "TemporalPositionIdentifier",
    0x00200105: "NumberOfTemporalPositions",
    0x00181060: "TriggerTime",
    0x00280004: "PhotometricInterpretation",
    0x00280008: "NumberOfFrames",
    0x00280301: "BurnedInAnnotation",
    0x00401003: "RequestedProcedurePriority",
}
_NUMBERS: Mapping[int, str] = {
    0x00280002: "SamplesPerPixel",
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00280100: "BitsAllocated",
}
_NESTED: Mapping[tuple[int, int], str] = {
    (0x00540220, 0x00080100): "ViewCode",
    (0x00209071, 0x00209072): "FrameLaterality",
    (0x00082218, 0x00080100): "AnatomicRegionCode",
    (0x00082220, 0x00080100): "AnatomicRegionModifierCode",
    (0x00400275, 0x00401003): "RequestedProcedurePriority",
}
LIMITS = Limits()
_WANTED = Wanted(frozenset(_IDENTIFIERS) | frozenset(_TEXT) | frozenset(_NUMBERS), frozenset(_NESTED))
_MEMBERS = frozenset({"SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"}) | frozenset(
    {"Modality", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyDate"}
)
_META_TAGS = {0x00020002: "class", 0x00020003: "instance", 0x00020010: "syntax"}


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What a Part 10 file says of itself: where its data set starts, and the three UIDs that matter."""

    dataset_offset: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


def is_uid(value: str) -> bool:
    """Whether a string is a UID by PS3.5 9.1 (leading zeros are let through, as vendors send them)."""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def read_header(source: Path | bytes, max_frames_bytes: int = 4 << 30, limits: Limits = LIMITS) -> Header:
    """Read the header of a Part 10 file.

    Raises:
        Refused: with the code that says why it can't be accepted.
        OSError: the file can't be opened.
    """
    if isinstance(source, bytes):
        return _read_part10(source, max_frames_bytes, limits)
    with source.open("rb") as file:
        return read_mapped(file.fileno(), max_frames_bytes, limits)


def read_mapped(fd: int, max_frames_bytes: int, limits: Limits = LIMITS) -> Header:
    """Read the header of an open Part 10 file through a memory map, so that only the pages of the header are touched.

    Raises:
        Refused: see `read_header`.
    """
    try:
        mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    except ValueError as error:  # an empty file can't be mapped
        raise Refused("NOT_DICOM", "empty") from error
    with mapped, memoryview(mapped) as view:
        return _read_part10(view, max_frames_bytes, limits)


def _read_part10(buffer: Buffer, max_frames_bytes: int, limits: Limits) -> Header:
    meta = parse_file_meta(buffer)
    header = read_dataset(buffer, meta.dataset_offset, meta.transfer_syntax_uid, max_frames_bytes, limits)
    if (header.sop_class_uid, header.sop_instance_uid) != (meta.sop_class_uid, meta.sop_instance_uid):
        raise Refused("UID_MISMATCH", "file meta information")
    return header


def read_dataset(buffer: Buffer, offset: int, syntax: str, max_frames_bytes: int, limits: Limits = LIMITS) -> Header:
    """Read the header of an encoded data set that starts at `offset` and ends with the buffer.

    Raises:
        Refused: see `read_header`.
    """
    if syntax not in TRANSFER_SYNTAXES:
        raise Refused("TRANSFER_SYNTAX_NOT_ACCEPTED")
    end = len(buffer)
    if syntax == DEFLATED_LE:
        buffer, end = inflate(buffer, offset, limits)
        offset = 0
    if end == offset:
        raise Refused("TRUNCATED", "the data set is empty")
    big = syntax == EXPLICIT_BE
    scanner = Scanner(buffer, Encoding(syntax == IMPLICIT_LE, big), _WANTED, limits)
    scan = scanner.walk(offset, end)
    header = _header(scan, syntax)
    if header.sop_class_uid in IMAGE_CLASSES:
        _check_pixels(scan, syntax, max_frames_bytes, big_endian=big)
    return header


def peek(start: bytes) -> Header | None:
    """What the beginning of a Part 10 file says, for a refusal's row; None when it doesn't get as far as the UIDs."""
    try:
        meta = parse_file_meta(start)
        syntax = meta.transfer_syntax_uid
        if syntax not in TRANSFER_SYNTAXES or syntax == DEFLATED_LE:
            return None
        scanner = Scanner(start, Encoding(syntax == IMPLICIT_LE, syntax == EXPLICIT_BE), _WANTED, LIMITS)
        with contextlib.suppress(Refused):  # it is cut somewhere: what stands before that is what is asked for
            scanner.walk(meta.dataset_offset, len(start))
        return _header(scanner.seen, syntax)
    except Refused:
        return None


def _header(scan: Scan, syntax: str) -> Header:
    uids = {name: _uid(scan.top.get(tag, b"")) for tag, name in _IDENTIFIERS.items()}
    values = _values(scan, big_endian=syntax == EXPLICIT_BE)
    return Header(
        sop_instance_uid=uids["SOPInstanceUID"],
        sop_class_uid=uids["SOPClassUID"],
        study_instance_uid=uids["StudyInstanceUID"],
        series_instance_uid=uids["SeriesInstanceUID"],
        transfer_syntax_uid=syntax,
        # Some vendors leave Modality out; a class that exists for one modality only says it as well.
        modality=values.get("Modality", "") or IMAGE_CLASSES.get(uids["SOPClassUID"], ""),
        patient_id=values.get("PatientID", ""),
        issuer_of_patient_id=values.get("IssuerOfPatientID", ""),
        accession_number=values.get("AccessionNumber", ""),
        study_date=values.get("StudyDate", ""),
        attributes={name: value for name, value in values.items() if value and name not in _MEMBERS},
    )


def _uid(raw: bytes) -> str:
    value = raw.rstrip(b"\0 ").decode("ascii", "replace")
    if not is_uid(value):
        raise Refused("UID_INVALID")
    return value


def _values(scan: Scan, *, big_endian: bool) -> dict[str, str]:
    """Decode what was kept, by keyword."""
    encodings = _encodings(scan.top.get(0x00080005, b""))
    values = {name: _text(scan.top[tag], encodings) for tag, name in _TEXT.items() if tag in scan.top}
    values |= {name: _text(scan.nested[key], encodings) for key, name in _NESTED.items() if key in scan.nested}
    for tag, name in _NUMBERS.items():
        if len(scan.top.get(tag, b"")) >= 2:
            values[name] = str(_number(scan, tag, big_endian=big_endian))
    return values


def _encodings(raw: bytes) -> list[str]:
    """Python's names of a Specific Character Set's terms; unknown terms are read as Latin-1, which always decodes."""
    text = _IR.sub("ISO_IR ", _IR_2022.sub("ISO 2022 IR ", raw.decode("ascii", "replace").rstrip("\0 ")))
    terms = [term.strip() for term in text.split("\\")]
    return [python_encoding.get(term, "latin_1") for term in terms] or ["latin_1"]


def _text(raw: bytes, encodings: list[str]) -> str:
    """Decode one value; a value that its own character set can't decode is read as Latin-1 rather than refused."""
    raw = raw.rstrip(b"\0 ")
    if raw.isascii() and b"\x1b" not in raw:
        text = raw.decode("ascii")
    else:
        try:
            text = decode_bytes(raw, encodings, set(TEXT_VR_DELIMS))
        except (LookupError, UnicodeError):
            text = raw.decode("latin_1")
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text).strip()


def _number(scan: Scan, tag: int, *, big_endian: bool) -> int:
    raw = scan.top.get(tag, b"")
    if len(raw) < 2:
        return 0
    return int(unpack(">H" if big_endian else "<H", raw[:2])[0])


def _frames(scan: Scan) -> int:
    try:
        return max(int(scan.top.get(0x00280008, b"1").strip(b"\0 ") or 1), 1)
    except ValueError as error:
        raise Refused("HEADER_MALFORMED", "NumberOfFrames") from error


def _check_pixels(scan: Scan, syntax: str, max_frames_bytes: int, *, big_endian: bool) -> None:
    """Check that the pixels are there, whole, and not more than we would ever decode.

    Raises:
        Refused: TRUNCATED, DIMENSIONS_TOO_LARGE or HEADER_MALFORMED.
    """
    if not scan.pixel_bytes:
        raise Refused("TRUNCATED", "no pixel data")
    rows, columns, bits = (_number(scan, tag, big_endian=big_endian) for tag in (0x00280010, 0x00280011, 0x00280100))
    samples = _number(scan, 0x00280002, big_endian=big_endian) or 1
    if not rows or not columns or not bits:
        raise Refused("HEADER_MALFORMED", "Rows, Columns or BitsAllocated")
    expected = rows * columns * samples * _frames(scan) * bits // 8
    if expected > max_frames_bytes:
        raise Refused("DIMENSIONS_TOO_LARGE")
    native = syntax in NATIVE_SYNTAXES
    if native == scan.encapsulated:
        raise Refused("HEADER_MALFORMED", "pixel data does not fit the transfer syntax")
    if not native:
        return
    if scan.top.get(0x00280004, b"").strip(b"\0 ") == b"YBR_FULL_422":
        expected = expected * 2 // 3
    if scan.pixel_bytes < expected:
        raise Refused("TRUNCATED", "fewer pixels than Rows x Columns x Frames")


# --- Part 10 -------------------------------------------------------------------------------------------------

_META_SHORT = Struct("<HH2sH").unpack_from
_META_LONG = Struct("<I").unpack_from


def parse_file_meta(buffer: Buffer) -> FileMeta:
    """Read the file meta information (PS3.10 7.1) at the start of a buffer.

    Raises:
        Refused: NOT_DICOM, HEADER_MALFORMED, UID_INVALID or TRUNCATED.
    """
    if bytes(buffer[128:132]) != b"DICM":
        raise Refused("NOT_DICOM")
    position, found = 132, dict.fromkeys(_META_TAGS.values(), "")
    try:
        while position < _MAX_META:
            if len(buffer) == position:
                break
            group, element, vr, length = _META_SHORT(buffer, position)
            if group != 2:
                break
            position += 8
            if vr in (b"OB", b"UN", b"UT", b"OW", b"SQ", b"UR", b"UC"):
                length = _META_LONG(buffer, position)[0]
                position += 4
            if length > len(buffer) - position:
                raise Refused("TRUNCATED", "file meta information")
            name = _META_TAGS.get(group << 16 | element)
            if name:
                found[name] = _uid(bytes(buffer[position : position + min(length, 65)]))
            position += length
        else:
            raise Refused("HEADER_MALFORMED", "file meta information is too long")
    except struct_error as error:
        raise Refused("TRUNCATED", "file meta information") from error
    if not all(found.values()):
        raise Refused("HEADER_MALFORMED", "file meta information lacks a UID")
    return FileMeta(position, found["class"], found["instance"], found["syntax"])


def part10_prefix(sop_class_uid: str, sop_instance_uid: str, syntax: str) -> bytes:
    """Our own preamble (zeros: a polyglot's code is never kept, CVE-2019-11687) and file meta for a data set as received.

    The same data set gives the same bytes through either door, so that a duplicate is seen as one.
    """
    body = b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01" + b"".join(
        _meta_uid(element, value)
        for element, value in ((2, sop_class_uid), (3, sop_instance_uid), (0x10, syntax), (0x12, _IMPLEMENTATION_UID))
    )
    return bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00" + pack("<I", len(body)) + body


def _meta_uid(element: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    value += b"\0" * (len(value) % 2)
    return pack("<HH2sH", 2, element, b"UI", len(value)) + value
