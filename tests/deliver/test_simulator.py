"""The simulated PACS is a PACS: dcmtk, pynetdicom and our own clients get from it what PS3.4 promises."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from casework.dicom import scu
from tests.deliver.objects import CHINESE, MG, body, dataset, write
from tests.deliver.rig import dimse
from tests.simulators.pacs import SimulatedPacs

MakePacs = Callable[..., SimulatedPacs]


def ask(pacs: SimulatedPacs, model: str, level: str, charset: str = "", **keys: str) -> list[Dataset]:
    ae = AE("TEST")
    ae.add_requested_context(model)
    assoc = ae.associate("127.0.0.1", pacs.port, ae_title=pacs.aet)
    query = Dataset()
    if charset:
        query.SpecificCharacterSet = charset
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    found = [match for status, match in assoc.send_c_find(query, model) if status.Status == 0xFF00]
    assoc.release()
    return [match for match in found if match is not None]


@pytest.fixture
def filled(make_pacs: MakePacs, tmp_path: Path) -> tuple[SimulatedPacs, list[Dataset]]:
    """A PACS with one MG study of two images and an SR, and one MR study."""
    pacs = make_pacs(http_port=0)
    mg = dataset("MG", AccessionNumber="A1")
    more = dataset(
        "MG", AccessionNumber="A1", StudyInstanceUID=mg.StudyInstanceUID, SeriesInstanceUID=mg.SeriesInstanceUID
    )
    objects = [
        mg,
        more,
        dataset("SR", AccessionNumber="A1", StudyInstanceUID=mg.StudyInstanceUID),
        dataset("MR", StudyDate="20260201"),
    ]
    results = scu.store(dimse("p", pacs.port), [write(tmp_path / "out", ds) for ds in objects], "MODALITY")
    assert {r.code for r in results} == {"DELIVERED"}
    return pacs, objects


def test_find_at_every_level(filled: tuple[SimulatedPacs, list[Dataset]]) -> None:
    """Patient, study, series and image answers with their counts, in both roots."""
    pacs, (mg, *_) = filled
    study, patient = StudyRootQueryRetrieveInformationModelFind, PatientRootQueryRetrieveInformationModelFind
    (one,) = ask(pacs, patient, "PATIENT", PatientID="P1", NumberOfPatientRelatedStudies="", PatientName="")
    assert (one.NumberOfPatientRelatedStudies, one.PatientName) == (2, CHINESE)
    found = ask(pacs, study, "STUDY", AccessionNumber="A1", NumberOfStudyRelatedInstances="", ModalitiesInStudy="")
    assert [(s.NumberOfStudyRelatedInstances, sorted(s.ModalitiesInStudy)) for s in found] == [(3, ["MG", "SR"])]
    by_series = ask(
        pacs, study, "SERIES", StudyInstanceUID=mg.StudyInstanceUID, Modality="", NumberOfSeriesRelatedInstances=""
    )
    assert sorted((s.Modality, s.NumberOfSeriesRelatedInstances) for s in by_series) == [("MG", 2), ("SR", 1)]
    images = ask(pacs, study, "IMAGE", SeriesInstanceUID=mg.SeriesInstanceUID, SOPClassUID="")
    assert {i.SOPClassUID for i in images} == {MG}
    assert len(ask(pacs, study, "STUDY", StudyDate="20260101-20260131")) == 1
    assert len(ask(pacs, study, "STUDY", ModalitiesInStudy="MR")) == 1


@pytest.mark.parametrize(("charset", "name"), [("ISO_IR 192", "*张*"), ("GB18030", "张^小东"), ("", "zhang*")])
def test_find_in_chinese(filled: tuple[SimulatedPacs, list[Dataset]], charset: str, name: str) -> None:
    """Names are matched by their characters, whatever set the question is written in, and without regard to case."""
    pacs, _ = filled
    found = ask(pacs, StudyRootQueryRetrieveInformationModelFind, "STUDY", charset, PatientName=name)
    assert [str(s.PatientName) for s in found] == [CHINESE, CHINESE]
    assert not ask(
        pacs, StudyRootQueryRetrieveInformationModelFind, "STUDY", charset, PatientName="*王*" if charset else "wang*"
    )


def test_get_gives_back_what_was_stored(filled: tuple[SimulatedPacs, list[Dataset]]) -> None:
    """C-GET of a series sends its images over the same association."""
    pacs, (mg, *_) = filled
    got: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        got.append(event.dataset)
        return 0

    ae = AE("TEST")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    ae.add_requested_context(MG, "1.2.840.10008.1.2.1")
    assoc = ae.associate(
        "127.0.0.1",
        pacs.port,
        ae_title="PACS",
        ext_neg=[build_role(MG, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    )
    query = Dataset()
    query.QueryRetrieveLevel, query.SeriesInstanceUID = "SERIES", mg.SeriesInstanceUID
    statuses = [s.Status for s, _ in assoc.send_c_get(query, StudyRootQueryRetrieveInformationModelGet)]
    assoc.release()
    assert statuses[-1] == 0x0000
    assert len(got) == 2
    assert all(ds.PatientName == CHINESE for ds in got)


def test_move_sends_to_a_known_peer_only(filled: tuple[SimulatedPacs, list[Dataset]], make_pacs: MakePacs) -> None:
    """C-MOVE sends a study to a peer that the PACS knows, and refuses one that it does not."""
    pacs, (mg, *_) = filled
    target = make_pacs("target", aet="TARGET")
    pacs.peers["TARGET"] = ("TARGET", "127.0.0.1", target.port)
    ae = AE("TEST")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
    assoc = ae.associate("127.0.0.1", pacs.port, ae_title="PACS")
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", mg.StudyInstanceUID
    answers = list(assoc.send_c_move(query, "TARGET", StudyRootQueryRetrieveInformationModelMove))
    refused = list(assoc.send_c_move(query, "NOBODY", StudyRootQueryRetrieveInformationModelMove))
    assoc.release()
    assert answers[-1][0].Status == 0x0000
    assert len(target.archive.all()) == 3
    assert refused[-1][0].Status == 0xA801


def test_wado_gives_the_stored_file(filled: tuple[SimulatedPacs, list[Dataset]], tmp_path: Path) -> None:
    """WADO-RS answers with the bytes that were stored; a study that is not there is 404."""
    pacs, (mg, *_) = filled
    url = f"{pacs.url}/studies/{mg.StudyInstanceUID}/series/{mg.SeriesInstanceUID}/instances/{mg.SOPInstanceUID}"
    data = httpx.get(url).content
    held = pacs.holds(str(mg.SOPInstanceUID))
    assert held is not None
    assert held.path.read_bytes() in data
    assert httpx.get(f"{pacs.url}/studies/1.2.3/series/1.2.3/instances/1.2.3").status_code == 404


def test_it_keeps_the_first_bytes_and_survives_a_restart(make_pacs: MakePacs, tmp_path: Path) -> None:
    """Other bytes under a known UID do not replace the first; a PACS on the same folder knows everything again."""
    pacs = make_pacs()
    first = dataset("MR")
    item = write(tmp_path / "out", first)
    original = body(item.path)
    first.PatientID = "P9"
    other = write(tmp_path / "other", first)
    scu.store(dimse("p", pacs.port), [item, other, item], "MODALITY")
    (held,) = pacs.archive.all()
    assert body(held.path) == original
    again = SimulatedPacs(tmp_path / "pacs")
    assert [s.sop_uid for s in again.archive.all()] == [first.SOPInstanceUID]


def test_it_routes_whole_series_and_shows_how_far_it_is(make_pacs: MakePacs, tmp_path: Path) -> None:
    """MG, MR and US go to CMAN, results and what came from CMAN don't; a CMAN that is away gets everything later."""
    from tests.simulators.orthanc import free_port

    port = free_port()
    pacs = make_pacs(route_to=f"CMAN@127.0.0.1:{port}", stable_s=0.3)
    there = dimse("p", pacs.port)
    images = [dataset(m) for m in ("MG", "MR", "US")]
    scu.store(there, [write(tmp_path / "out", ds) for ds in (*images, dataset("OT"), dataset("SR"))], "MODALITY")
    scu.store(there, [write(tmp_path / "out", dataset("MG"))], "CMAN")
    deadline = time.monotonic() + 15
    while pacs.routing()["failed"] < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pacs.routing() == {"total": 3, "routed": 0, "failed": 3}
    cman = make_pacs("cman", aet="CMAN", port=port)
    while pacs.routing()["routed"] < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sorted(s.value("Modality") for s in cman.archive.all()) == ["MG", "MR", "US"]
    late = dataset("MG", StudyInstanceUID=images[0].StudyInstanceUID, SeriesInstanceUID=images[0].SeriesInstanceUID)
    scu.store(there, [write(tmp_path / "out", late)], "MODALITY")
    while cman.holds(str(late.SOPInstanceUID)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(cman.archive.all()) == 4


def test_it_loses_after_the_acknowledge_when_told_to(make_pacs: MakePacs, tmp_path: Path) -> None:
    """The switch that a storage commitment test needs: success is answered and nothing is kept."""
    pacs = make_pacs()
    pacs.faults.update(lose_after_ack=True)
    (result,) = scu.store(dimse("p", pacs.port), [write(tmp_path / "out", dataset())], "MODALITY")
    assert result.code == "DELIVERED"
    assert pacs.archive.all() == []
    with pytest.raises(KeyError):
        pacs.faults.update(no_such_switch=1)


def test_it_runs_from_the_command_line(tmp_path: Path) -> None:
    """One JSON line says where it listens; dcmtk can echo it; switches can be set over HTTP; SIGTERM ends it."""
    from tests.simulators.orthanc import free_port

    port, http = free_port(), free_port()
    command = [
        sys.executable,
        "-m",
        "tests.simulators.pacs",
        "--port",
        str(port),
        "--aet",
        "SIM",
        "--dir",
        str(tmp_path / "d"),
    ]
    process = subprocess.Popen(
        [*command, "--http-port", str(http), "--fault", "status=42752"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    try:
        where: dict[str, Any] = json.loads(process.stdout.readline())
        assert (where["aet"], where["port"]) == ("SIM", port)
        subprocess.run(["echoscu", "-aec", "SIM", "127.0.0.1", str(port)], check=True, timeout=20)
        there = dimse("p", port, aet="SIM")
        item = write(tmp_path / "out", dataset())
        assert scu.store(there, [item], "T")[0].status == 0xA700
        assert httpx.put(f"http://127.0.0.1:{http}/simulator/faults", json={"status": 0}).status_code == 200
        assert httpx.put(f"http://127.0.0.1:{http}/simulator/faults", json={"nonsense": 0}).status_code == 400
        assert scu.store(there, [item], "T")[0].status == 0
        assert httpx.get(f"http://127.0.0.1:{http}/simulator/seen").json()["stores"] == 2
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0
    (kept,) = (tmp_path / "d").glob("*.dcm")
    assert dcmread(kept).PatientName == CHINESE
