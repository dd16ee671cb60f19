"""C-STORE over real sockets: what ends as accepted, duplicate, kept aside or refused, and what is on the disk then."""

import hashlib
import shutil
import sqlite3
import subprocess
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, generate_uid
from pynetdicom import AE

from casework.dicom.classes import IMAGE_CLASSES, TRANSFER_SYNTAXES
from casework.dicom.header import parse_file_meta, part10_prefix
from casework.entrypoints.listener import Listener
from tests.bench.instances import CT_CLASS, MG_PRESENTATION, SC_CLASS, image, save
from tests.protocol.peer import ECHO, EXPLICIT, IMPLICIT, MR, Peer, encoded, request, store_one

SUCCESS, NO_RESOURCES, MISMATCH, NOT_UNDERSTOOD, NO_CLASS = 0, 0xA700, 0xA900, 0xC000, 0x0122


def receipts(listener: Listener) -> list[tuple[str, str]]:
    """Verdict and code of every receipt, oldest first."""
    with sqlite3.connect(listener.settings.root / "ledger" / "ledger.db") as connection:
        return list(connection.execute("SELECT verdict, code FROM receipt ORDER BY id"))


def digests(listener: Listener) -> set[str]:
    """What the spool holds."""
    return set(listener.spool.digests())


def leftovers(listener: Listener) -> list[Path]:
    """Half-written files."""
    return list((listener.settings.root / "incoming").iterdir())


def nested(depth: int) -> Dataset:
    """Sequences in sequences."""
    ds = Dataset()
    ds.CodeValue = "1"
    for _ in range(depth):
        outer = Dataset()
        outer.add_new(0x00400275, "SQ", [ds])
        ds = outer
    ds.file_meta = image().file_meta
    return ds


def test_stored_bytes_are_the_received_bytes(listener: Listener) -> None:
    """The object on disk is our zero preamble and file meta, then the data set byte for byte, under its own SHA-256."""
    ds = image()
    assert store_one(listener.port, ds) == SUCCESS
    (digest,) = digests(listener)
    stored = listener.spool.path(digest).read_bytes()
    assert hashlib.sha256(stored).hexdigest() == digest
    assert stored[:132] == bytes(128) + b"DICM"
    assert stored[parse_file_meta(stored).dataset_offset :] == encoded(ds)
    assert receipts(listener) == [("accepted", "")]
    assert not leftovers(listener)


@pytest.mark.parametrize("syntax", sorted(TRANSFER_SYNTAXES))
def test_every_transfer_syntax_is_taken_and_kept(listener: Listener, syntax: str) -> None:
    """Each offered transfer syntax is negotiated and its bytes are kept as received, the pixels undecoded."""
    ds = image(syntax=syntax)
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        ds.add_new(0x7FE00010, "OB", encapsulate([b"\xff\xd8not really a stream\xff\xd9"]))
        ds["PixelData"].is_undefined_length = True
    if syntax == ExplicitVRBigEndian:
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data = encoded(ds)
    if syntax == DeflatedExplicitVRLittleEndian:
        squeeze = zlib.compressobj(wbits=-15)
        data = squeeze.compress(data) + squeeze.flush()
    with Peer(listener.port) as peer:
        peer.associate({1: (MR, [syntax])})
        assert peer.results[1] == (0, syntax)
        assert peer.store(data, MR, str(ds.SOPInstanceUID)) == SUCCESS
        assert peer.release() == 6
    (digest,) = digests(listener)
    assert listener.spool.path(digest).read_bytes() == part10_prefix(MR, str(ds.SOPInstanceUID), syntax) + data


@pytest.mark.parametrize("sop_class", sorted(IMAGE_CLASSES))
def test_every_image_class_of_a_breast_case_is_taken(listener: Listener, sop_class: str) -> None:
    """Each storage class that a breast case can hold is accepted with the modality that belongs to it."""
    ds = image(sop_class, Modality=IMAGE_CLASSES[sop_class] or "MG")
    assert store_one(listener.port, ds) == SUCCESS
    assert receipts(listener) == [("accepted", "")]


def truncated(ds: Dataset) -> bytes:
    return encoded(ds)[:-40]


def no_pixels(ds: Dataset) -> bytes:
    del ds.PixelData
    return encoded(ds)


def cut_stream(ds: Dataset) -> bytes:
    ds.add_new(0x7FE00010, "OB", encapsulate([b"x" * 400]))
    ds["PixelData"].is_undefined_length = True
    return encoded(ds)[:-60]


BAD: dict[str, tuple[Any, int, str]] = {
    "truncated": (truncated, NOT_UNDERSTOOD, "TRUNCATED"),
    "without pixel data": (no_pixels, NOT_UNDERSTOOD, "TRUNCATED"),
    "empty": (lambda _: b"", NOT_UNDERSTOOD, "TRUNCATED"),
    "HTML": (lambda _: b"<!DOCTYPE html><html></html>" * 9, NOT_UNDERSTOOD, "TRUNCATED"),
    "group length of nonsense": (lambda _: b"\xff" * 4000, NOT_UNDERSTOOD, "HEADER_MALFORMED"),
    "nested 70 deep": (lambda ds: encoded(nested(70)) + encoded(ds), NOT_UNDERSTOOD, "NESTING_TOO_DEEP"),
    "a slice bigger than the cap": (
        lambda ds: encoded(image(SOPInstanceUID=ds.SOPInstanceUID, Rows=65535, Columns=65535, NumberOfFrames=10)),
        NOT_UNDERSTOOD,
        "DIMENSIONS_TOO_LARGE",
    ),
    "fewer pixels than it says": (
        lambda ds: encoded(image(SOPInstanceUID=ds.SOPInstanceUID, Rows=600)),
        NOT_UNDERSTOOD,
        "TRUNCATED",
    ),
    "another UID than the command": (lambda _: encoded(image()), MISMATCH, "UID_MISMATCH"),
    "a path as Study UID": (
        lambda ds: encoded(image(SOPInstanceUID=ds.SOPInstanceUID, StudyInstanceUID="../../etc")),
        NOT_UNDERSTOOD,
        "UID_INVALID",
    ),
    "no Series UID": (
        lambda ds: encoded(image(SOPInstanceUID=ds.SOPInstanceUID, SeriesInstanceUID=None)),
        NOT_UNDERSTOOD,
        "UID_INVALID",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_a_code_and_harms_nothing(listener: Listener, case: str) -> None:
    """A bad instance is answered with its own status and code, leaves no byte behind, and the next one is stored."""
    make, status, code = BAD[case]
    bad, good = image(), image()
    with Peer(listener.port) as peer:
        peer.associate()
        assert peer.store(make(bad), MR, str(bad.SOPInstanceUID)) == status
        assert not digests(listener)
        assert peer.store(encoded(good), MR, str(good.SOPInstanceUID)) == SUCCESS
        assert peer.release() == 6
    assert receipts(listener) == [("refused", code), ("accepted", "")]
    assert len(digests(listener)) == 1
    assert not leftovers(listener)


def test_cut_pixel_stream_is_refused(listener: Listener) -> None:
    """An encapsulated stream without its end is TRUNCATED, although pydicom would read an empty data set from it."""
    ds = image(syntax="1.2.840.10008.1.2.4.90")
    with Peer(listener.port) as peer:
        peer.associate({1: (MR, ["1.2.840.10008.1.2.4.90"])})
        assert peer.store(cut_stream(ds), MR, str(ds.SOPInstanceUID)) == NOT_UNDERSTOOD
    assert receipts(listener) == [("refused", "TRUNCATED")]


def test_deflate_bomb_is_refused(listener: Listener) -> None:
    """A deflated data set that inflates beyond 100 times its size is refused without being inflated."""
    ds = image()
    squeeze = zlib.compressobj(9, wbits=-15)
    bomb = squeeze.compress(encoded(ds) + bytes(300 << 20)) + squeeze.flush()
    with Peer(listener.port) as peer:
        peer.associate({1: (MR, [DeflatedExplicitVRLittleEndian])})
        assert peer.store(bomb, MR, str(ds.SOPInstanceUID)) == NOT_UNDERSTOOD
    assert receipts(listener) == [("refused", "INFLATES_TOO_FAR")]


def test_path_like_uid_touches_no_path(listener: Listener, tmp_path: Path) -> None:
    """A SOP Instance UID of ../../etc/evil in the command is refused and no file outside the spool appears."""
    before = {p for p in tmp_path.rglob("*") if "incoming" not in p.parts}
    assert store_one(listener.port, image(), sop_instance="../../etc/evil") == NOT_UNDERSTOOD
    after = {p for p in tmp_path.rglob("*") if "incoming" not in p.parts}
    assert {p.name for p in after - before} <= {"ledger.db-wal", "ledger.db-shm"}
    assert receipts(listener) == [("refused", "UID_INVALID")]


ASIDE: dict[str, tuple[dict[str, Any], str]] = {
    "PET in an MR class": ({"Modality": "PT"}, "MODALITY_NOT_ACCEPTED"),
    "CT as secondary capture": ({"sop_class": SC_CLASS, "Modality": "CT"}, "MODALITY_NOT_ACCEPTED"),
    "secondary capture without Modality": ({"sop_class": SC_CLASS, "Modality": None}, "MODALITY_NOT_ACCEPTED"),
    "no Patient ID": ({"PatientID": ""}, "PATIENT_ID_MISSING"),
    "our own capture": (
        {"sop_class": SC_CLASS, "Manufacturer": "casework", "SOPInstanceUID": "2.25.12345", "Modality": "MG"},
        "OWN_RESULT",
    ),
}


@pytest.mark.parametrize("case", ASIDE)
def test_what_is_not_for_us_is_kept_aside(listener: Listener, case: str) -> None:
    """An object that can't be analysed is durable, answered with success and flagged, so the PACS's queue goes on."""
    values, code = ASIDE[case]
    assert store_one(listener.port, image(**values)) == SUCCESS
    assert receipts(listener) == [("kept_aside", code)]
    assert len(digests(listener)) == 1


def test_ct_is_not_negotiated(listener: Listener) -> None:
    """CT and PET get no presentation context (abstract syntax not supported), the MR beside them does."""
    with Peer(listener.port) as peer:
        peer.associate({1: (CT_CLASS, [EXPLICIT]), 3: (MR, [EXPLICIT]), 5: (MR, ["1.2.840.10008.1.2.4.100"])})
        assert {n: r for n, (r, _) in peer.results.items()} == {1: 3, 3: 0, 5: 4}
        assert peer.release() == 6


def test_class_of_the_command_must_be_the_contexts(listener: Listener) -> None:
    """An instance sent under another class's context is answered 0x0122."""
    ds = image(MG_PRESENTATION)
    with Peer(listener.port) as peer:
        peer.associate()
        assert peer.store(encoded(ds), MG_PRESENTATION, str(ds.SOPInstanceUID)) == NO_CLASS
    assert not digests(listener)


def test_mammogram_without_modality_is_known_by_its_class(listener: Listener) -> None:
    """A vendor's mammogram without Modality is accepted as MG; without ViewPosition as well."""
    assert store_one(listener.port, image(MG_PRESENTATION, Modality=None)) == SUCCESS
    assert receipts(listener) == [("accepted", "")]


def test_duplicates_and_conflicts(listener: Listener) -> None:
    """The same bytes again are a success without a new row; other bytes under the UID are kept aside, the first stays."""
    ds = image()
    other = image(SOPInstanceUID=ds.SOPInstanceUID)
    for sent in (ds, ds, other):
        assert store_one(listener.port, sent) == SUCCESS
    assert receipts(listener) == [("accepted", ""), ("duplicate", "DUPLICATE"), ("kept_aside", "UID_CONFLICT")]
    assert len(digests(listener)) == 2


def test_same_study_five_times_at_once(listener: Listener) -> None:
    """Five senders with the same 12 instances at once: every store succeeds, each instance has one row."""
    study = [image(InstanceNumber=n) for n in range(12)]
    statuses: list[int] = []

    def send(shift: int) -> None:
        with Peer(listener.port) as peer:
            peer.associate()
            for n in range(12):
                ds = study[(n * (1 if shift % 2 else -1) + shift) % 12]
                statuses.append(peer.store(encoded(ds), MR, str(ds.SOPInstanceUID)))
            peer.release()

    threads = [threading.Thread(target=send, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [SUCCESS] * 60
    verdicts = [verdict for verdict, _ in receipts(listener)]
    assert (verdicts.count("accepted"), verdicts.count("duplicate")) == (12, 48)
    assert len(digests(listener)) == 12


def test_abort_half_way_keeps_what_was_acknowledged(listener: Listener) -> None:
    """After two acknowledged images and an abort inside the third, the two stay and no half file is left."""
    with Peer(listener.port) as peer:
        peer.associate()
        for _ in range(2):
            ds = image()
            assert peer.store(encoded(ds), MR, str(ds.SOPInstanceUID)) == SUCCESS
        from tests.protocol.peer import command, fragment, pdu

        ds = image()
        peer.send(fragment(1, 3, command(1, MR, str(ds.SOPInstanceUID), data=True)) + fragment(1, 0, encoded(ds)[:300]))
        peer.send(pdu(7, bytes(4)))
        assert peer.receive()[0] == 0
    wait_closed(listener)
    assert len(digests(listener)) == 2
    assert not leftovers(listener)
    (row,) = listener.ledger.read.associations()
    assert (row.end, row.code, row.counts["stored"]) == ("aborted", "PEER_ABORTED", 2)


def wait_closed(listener: Listener) -> None:
    """Until no association is open."""
    end = time.monotonic() + 5
    while listener.server.open_associations and time.monotonic() < end:
        time.sleep(0.01)
    assert listener.server.open_associations == 0


def test_control_characters_in_names(listener: Listener, capfd: pytest.CaptureFixture[str]) -> None:
    """Line breaks and escapes in text are stored as sent, decoded without them, and reach no log line."""
    ds = image(PatientName="Evil\r\nERROR^\x1b[31m", SeriesDescription="a\nb\x07c", PatientID="P\r\n1")
    assert store_one(listener.port, ds) == SUCCESS
    with sqlite3.connect(listener.settings.root / "ledger" / "ledger.db") as connection:
        ((patient, attributes),) = connection.execute("SELECT patient_id, attributes FROM instance")
    assert patient == "P\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}1"
    assert "\\n" not in attributes
    assert "\\u0007" not in attributes
    assert "Evil" not in capfd.readouterr().err


def test_association_log(listener: Listener) -> None:
    """Each association leaves a row: who, from where, how it ended, how many instances."""
    with Peer(listener.port) as peer:
        peer.associate(calling="SENDER_1")
        assert peer.echo() == SUCCESS
        peer.release()
    wait_closed(listener)
    (row,) = listener.ledger.read.associations()
    assert (row.calling, row.called, row.address, row.end) == ("SENDER_1", "CMAN", "127.0.0.1", "released")
    assert row.counts == {"stored": 0, "refused": 0, "echo": 1}


def test_sender_that_prefers_implicit_still_keeps_its_vrs(listener: Listener) -> None:
    """Of several proposed syntaxes the sender's first with explicit VRs is chosen."""
    with Peer(listener.port) as peer:
        peer.associate({1: (MR, [IMPLICIT, EXPLICIT]), 3: (MR, [IMPLICIT]), 5: (ECHO, [IMPLICIT])})
        assert [peer.results[n] for n in (1, 3, 5)] == [(0, EXPLICIT), (0, IMPLICIT), (0, IMPLICIT)]


@pytest.mark.parametrize("tool", ["dcmsend", "storescu"])
def test_dcmtk_sends(listener: Listener, tmp_path: Path, tool: str) -> None:
    """DCMTK's senders store a folder of MR, mammograms and a capture without a complaint."""
    if shutil.which(tool) is None:
        pytest.fail("install dcmtk: the README's test command does")
    for n, ds in enumerate([image(), image(), image(MG_PRESENTATION), image(SC_CLASS, Modality="MG")]):
        save(ds, tmp_path / "in" / f"{n}.dcm")
    command = [tool, "-aec", "CMAN", "127.0.0.1", str(listener.port), "+sd", str(tmp_path / "in")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert receipts(listener) == [("accepted", "")] * 4


def test_requests_that_are_no_requests(listener: Listener) -> None:
    """Random bytes in place of an association's items end with an abort, and the port still serves."""
    good = request({1: (MR, [EXPLICIT])})
    for cut in (80, 90, 110, len(good) - 3):
        broken = good[:2] + (cut - 6).to_bytes(4, "big") + good[6:cut]
        with Peer(listener.port) as peer:
            peer.send(broken)
            assert peer.receive()[0] in (0, 2, 3, 7)
    assert store_one(listener.port, image(SOPInstanceUID=generate_uid())) == SUCCESS


def test_pynetdicom_sends(listener: Listener) -> None:
    """Pynetdicom's requestor understands our acceptance, stores, verifies and releases."""
    ae = AE(ae_title="PYNET")
    ae.add_requested_context(MR, [EXPLICIT, IMPLICIT])
    ae.add_requested_context(ECHO)
    ae.add_requested_context(CT_CLASS)
    assoc = ae.associate("127.0.0.1", listener.port, ae_title="CMAN")
    assert assoc.is_established
    assert [c.abstract_syntax for c in assoc.accepted_contexts] == [MR, ECHO]
    assert assoc.send_c_echo().Status == SUCCESS
    assert assoc.send_c_store(image()).Status == SUCCESS
    rejected = assoc.send_c_store(image(PatientID="P", StudyInstanceUID="not.a.uid"))
    assert (rejected.Status, rejected.ErrorComment) == (
        NOT_UNDERSTOOD,
        "UID_INVALID: An identifier is missing or not a valid UID.",
    )
    assoc.release()
    assert assoc.is_released
