"""Outgoing TLS: results, questions and commitment go to the destination whose certificate is believed, and to no other."""

import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from casework.config import Destination
from casework.dicom import scu, web
from casework.dicom.commitment import Report
from casework.dicom.query import held_instances
from casework.errors import Unavailable
from tests.certificates import Authority, Pair, relay
from tests.deliver.objects import body, dataset, write
from tests.simulators.orthanc import free_port
from tests.simulators.pacs import SimulatedPacs

MakePacs = Callable[..., SimulatedPacs]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def theirs(authority: Authority) -> Pair:
    return authority.issue("pacs.hospital.test")


def over_tls(port: int, authority: Authority, **values: object) -> Destination:
    known = {"ae_title": "PACS", "tls": True, "ca_file": authority.file, "timeout_s": 5.0}
    return Destination("pacs", host="127.0.0.1", port=port, **(known | values))  # type: ignore[arg-type]


def test_dcmtk_takes_results_over_tls(authority: Authority, tmp_path: Path) -> None:
    """Dcmtk's storescp, which asks for our certificate, gets the stored bytes over TLS."""
    port, pair, own = free_port(), authority.issue("pacs.test"), authority.issue("casework.test")
    held = tmp_path / "held"
    held.mkdir()
    command = ["storescp", "+tls", pair.key, pair.certificate, "+cf", authority.file, "-od", str(held), str(port)]
    item = write(tmp_path, dataset("SR"))
    destination = over_tls(port, authority, certificate_file=own.certificate, key_file=own.key)
    with subprocess.Popen(command) as receiver:
        try:
            deadline = time.monotonic() + 10
            while scu.echo(destination, "CMAN").code == "PEER_UNREACHABLE" and time.monotonic() < deadline:
                time.sleep(0.05)
            assert scu.store(destination, [item], "CMAN")[0].code == "DELIVERED"
            # Without a certificate of ours it ends before anything of the patient was sent.
            anonymous = replace(destination, certificate_file="", key_file="")
            assert scu.store(anonymous, [item], "CMAN")[0].code in ("PEER_TLS", "PEER_REJECTED")
        finally:
            receiver.terminate()
    assert len(list(held.iterdir())) == 1


def test_question_and_commitment_over_tls(
    make_pacs: MakePacs, authority: Authority, theirs: Pair, tmp_path: Path
) -> None:
    """C-STORE, C-FIND and storage commitment work over TLS as in the clear."""
    pacs = make_pacs(peers=(f"CMAN@127.0.0.1:{free_port()}",))
    pacs.faults.update(commit="same")
    ds = dataset("MG")
    item = write(tmp_path, ds)
    with relay(pacs.port, theirs) as port:
        destination = over_tls(port, authority)
        assert scu.store(destination, [item], "CMAN")[0].code == "DELIVERED"
        series = (str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID))
        assert held_instances(destination, "CMAN", [series]) == {ds.SOPInstanceUID}
        reports: list[Report] = []

        def on_report(report: Report) -> int:
            reports.append(report)
            return 0

        pair = (item.sop_class_uid, item.sop_instance_uid)
        asked = scu.ask_commitment(destination, "CMAN", "2.25.1", [pair], on_report)
        assert asked.code == "DELIVERED"
        assert len(reports) == 1


def test_stow_over_https(make_pacs: MakePacs, authority: Authority, theirs: Pair, tmp_path: Path) -> None:
    """STOW-RS goes to an https root whose certificate comes from ca_file, and to no other."""
    pacs = make_pacs(http_port=0)
    item = write(tmp_path, dataset("MG"))
    plain_port = int(pacs.url.split(":")[2].split("/")[0])
    with relay(plain_port, theirs) as port:
        url = pacs.url.replace("http://", "https://").replace(str(plain_port), str(port))
        good = Destination("web", kind="stow", url=url, ca_file=authority.file, timeout_s=5.0)
        assert web.store(good, [item])[0].code == "DELIVERED"
        stranger = replace(good, ca_file=Authority(tmp_path / "x", "another").file)
        assert web.store(stranger, [item])[0].code == "PEER_TLS"
        assert web.store(replace(good, ca_file=""), [item])[0].code == "PEER_TLS"
        with web.WebSession(stranger) as session, pytest.raises(Unavailable) as caught:
            session.get_json("studies", {})
        assert caught.value.code == "PEER_TLS"
    assert len(pacs.archive.all()) == 1


def test_a_destination_that_is_not_believed_gets_nothing(
    make_pacs: MakePacs, authority: Authority, theirs: Pair, tmp_path: Path
) -> None:
    """Another authority, another name, an ended certificate or plain DICOM behind the port: no byte of DICOM leaves."""
    pacs = make_pacs()
    item = write(tmp_path, dataset("SR"))

    def tries(pair: Pair, **values: object) -> str:
        with relay(pacs.port, pair) as port:
            return scu.store(over_tls(port, authority, **values), [item], "CMAN")[0].code

    assert tries(theirs) == "DELIVERED"
    assert tries(theirs, tls_name="pacs.hospital.test") == "DELIVERED"
    assert tries(theirs, tls_name="other.hospital.test") == "PEER_TLS"
    assert tries(Authority(tmp_path / "other", "other").issue("pacs.hospital.test")) == "PEER_TLS"
    assert tries(authority.issue("ended", days=-1)) == "PEER_TLS"
    assert tries(theirs, ca_file=str(tmp_path / "missing.pem")) == "PEER_TLS"
    plain = over_tls(pacs.port, authority, timeout_s=2.0)
    assert scu.store(plain, [item], "CMAN")[0].code != "DELIVERED"
    assert len(pacs.archive.all()) == 1


def test_a_peer_that_hangs_in_its_handshake_is_left(authority: Authority, tmp_path: Path) -> None:
    """A destination that takes the connection and then says nothing costs its timeout, not for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began, before = time.monotonic(), threading.active_count()
        result = scu.echo(over_tls(silent.getsockname()[1], authority, timeout_s=1.0), "CMAN")
        assert result.code in ("PEER_UNREACHABLE", "PEER_TLS")
        assert time.monotonic() - began < 5.0
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before


def test_the_same_bytes_arrive(make_pacs: MakePacs, authority: Authority, theirs: Pair, tmp_path: Path) -> None:
    """TLS changes nothing of an object."""
    pacs = make_pacs()
    item = write(tmp_path, dataset("OT", payload=200_000))
    with relay(pacs.port, theirs) as port:
        assert scu.store(over_tls(port, authority), [item], "CMAN")[0].code == "DELIVERED"
    (held,) = pacs.archive.all()
    assert body(held.path) == body(item.path)
