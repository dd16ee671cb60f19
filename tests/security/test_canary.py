"""Nothing of a patient leaves: unique words in every text of an image are looked for wherever the whole service leaves something."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import psutil
import pytest
from pydicom import dcmread
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.api.samples import mammogram, multipart
from tests.demo.service import Service
from tests.protocol.peer import Peer, encoded, store_one
from tests.queue.redis_server import RedisServer

TINY = Path(__file__).resolve().parents[2] / "models" / "cman-tiny"
TEXT = {"PN": 64, "LO": 64, "SH": 16, "LT": 200, "ST": 200, "UT": 200, "UC": 64, "AE": 16}
NEEDED = {"PatientID", "AccessionNumber", "SpecificCharacterSet"}
WORD = re.compile(rb"CNRY\d{4}")


def canaries() -> Dataset:
    """A mammogram with a word of its own in every text element of the dictionary, in sequences and private elements too."""
    ds = dcmread(BytesIO(mammogram(PatientID="CNRY9001", AccessionNumber="CNRY9002")))
    number = 0
    for tag, (vr, vm, _, retired, keyword) in DicomDictionary.items():
        group = tag >> 16
        usual = group in (0x08, 0x10, 0x18, 0x20, 0x28, 0x32, 0x38, 0x40) and keyword and not retired
        if vr in TEXT and usual and keyword not in NEEDED and vm.startswith("1"):
            ds.add_new(tag, vr, f"CNRY{number:04d}")
            number += 1
    assert number > 250
    ds.PatientBirthDate = "19030405"
    other = Dataset()
    other.PatientID = "CNRY9003"
    ds.OtherPatientIDsSequence = Sequence([other])
    ds.private_block(0x0011, "CNRY9004", create=True).add_new(1, "LO", "CNRY9005")
    return ds


def words_in(data: bytes) -> set[bytes]:
    return set(WORD.findall(data)) | ({b"birth date"} if b"19030405" in data else set())


def files_below(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


class Overheard:
    """Every command that a Redis is given, as its MONITOR tells them."""

    def __init__(self, port: int) -> None:
        self.said = bytearray()
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.sendall(b"MONITOR\r\n")
        assert self._sock.recv(5) == b"+OK\r\n"
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._sock.recv(1 << 16):
                self.said += data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._sock.close()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.mark.timeout(240)
def test_no_word_of_a_patient_leaves(tmp_path: Path, redis_server: RedisServer) -> None:
    """After images, refusals and errors with canaries: none in log, metrics, Redis, temporary files, names of files, bundle or cores."""
    queue, overheard = redis_server.settings(), Overheard(redis_server.port)
    temporary, work = tmp_path / "tmp", tmp_path / "CNRY9100-files"
    for folder in (temporary, work):
        folder.mkdir()
    service = Service(
        tmp_path / "service",
        CASEWORK_WORK_MODEL=str(TINY),
        CASEWORK_ASSEMBLY_QUIET_S="1",
        CASEWORK_HTTP_KEYS_FILE="",
        CASEWORK_QUEUE_KIND="celery",
        CASEWORK_QUEUE_URL=queue.url,
        CASEWORK_QUEUE_PASSWORD_FILE=queue.password_file,
        TMPDIR=str(temporary),
    )
    service.start("CNRY9200", 1)
    root = tmp_path / "service" / "storage"
    try:
        ds = canaries()
        with Peer(service.dicom_port) as peer:
            syntax = str(ds.file_meta.TransferSyntaxUID)
            assert peer.associate({1: (str(ds.SOPClassUID), [syntax])}, calling="CNRY9200")[0] == 2
            assert peer.store(encoded(ds), str(ds.SOPClassUID), str(ds.SOPInstanceUID)) == 0
            peer.store(encoded(ds)[:-40], str(ds.SOPClassUID), "CNRY9300")
        store_one(service.dicom_port, ds)  # an AE title that is not listed
        file = work / "CNRY9101.dcm"
        ds.save_as(file, enforce_file_format=True)
        send = [sys.executable, "-m", "casework", "send", str(file), "--to", f"CMAN@127.0.0.1:{service.dicom_port}"]
        subprocess.run(
            [*send, "--calling", "CNRY9200"],
            check=False,
            capture_output=True,
            env=os.environ | {"TMPDIR": str(temporary)},
        )
        key = (root / "secrets" / "admin.key").read_text().strip()
        with httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {key}"}, timeout=20) as client:
            body, kind = multipart([file.read_bytes(), b"CNRY9400 is no DICOM"])
            head = {"Content-Type": kind, "Content-Location": "CNRY9401", "User-Agent": "CNRY9402"}
            client.post("/dicom-web/studies", content=body, headers=head)
            for path in (
                "/v1/cases/CNRY9403",
                "/CNRY9404",
                "/v1/why?q=CNRY9405",
                "/v1/cases?q=CNRY9001&state=CNRY9406",
            ):
                client.get(path)
            case_id = _settled(client)
            metrics = client.get("/v1/metrics").content
        children = psutil.Process(service.pid).children(recursive=True)
        doors = [child for child in children if "casework" in " ".join(child.cmdline())]
        assert len(doors) >= 5
        for process in (psutil.Process(service.pid), *doors):
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            assert re.search(r"Max core file size\s+0\s+0\s", limits), process.cmdline()
        for process in doors:
            assert "CNRY" not in " ".join(process.cmdline()) + " ".join(process.environ().values())
        bundle = tmp_path / "bundle.zip"
        command = [sys.executable, "-m", "casework", "support-bundle", str(bundle), "--case", case_id]
        made = subprocess.run([*command, "--config", str(service.config)], check=True, capture_output=True)
        kept_by_redis = {key: redis_server.admin.dump(key) for key in redis_server.admin.scan_iter()}
    finally:
        service.stop()
        overheard.close()
    assert b"casework.rung" in overheard.said, "the case went through Redis, so the search looks at the right place"
    assert words_in(bytes(overheard.said)) == set()
    assert all(words_in(bytes(key) + bytes(value or b"")) == set() for key, value in kept_by_redis.items())
    assert all(words_in(path.read_bytes()) == set() for path in files_below(redis_server.folder))
    assert words_in(metrics) == set()
    log = (tmp_path / "service" / "service.log").read_bytes()
    assert b"instance" in log or b"association" in log
    assert words_in(log) == set()
    assert words_in(made.stdout + made.stderr) == set()
    assert bundle.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(bundle) as archive:
        assert "headers.json" in archive.namelist()
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert b'"113100"' in content
    assert words_in(content) - {b"CNRY9200"} == set(), "9200 is the PACS's AE title, a setting"
    assert str(ds.SOPInstanceUID).encode() not in content
    assert all(words_in(path.read_bytes()) == set() for path in files_below(temporary))
    kept = files_below(root)
    assert all(not WORD.search(str(path).encode()) for path in kept)
    assert [path for path in kept if path.stat().st_mode & 0o077] == []
    assert any(words_in(path.read_bytes()) for path in kept), (
        "the images are where they belong, so the search finds words"
    )


def _settled(client: httpx.Client) -> str:
    """The case's id, when it has come to an end."""
    deadline = time.monotonic() + 60
    while True:
        items = client.get("/v1/cases").json()["items"]
        if items and items[0]["state"] not in ("receiving", "stable", "queued", "running"):
            return str(items[0]["id"])
        assert time.monotonic() < deadline, items
        time.sleep(0.2)
