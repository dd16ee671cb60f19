"""The one question to a PACS, over C-FIND and QIDO-RS: right counts, no half answers, no question that matches everybody."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from casework.config import Destination
from casework.dicom import scu, web
from casework.dicom.query import HeldStudy, held_by_patient
from casework.errors import Refused, Unavailable
from tests.deliver.objects import dataset, write
from tests.deliver.rig import dimse
from tests.simulators import orthanc
from tests.simulators.pacs import SimulatedPacs

MakePacs = Callable[..., SimulatedPacs]


def fill(store: Callable[[list[Any]], Any], folder: Path, patient: str) -> list[HeldStudy]:
    """Two studies of one patient with images and results, one of another; returns what should be counted."""
    mg = dataset("MG", PatientID=patient, StudyDate="20260105")
    again = dataset(
        "MG", PatientID=patient, StudyInstanceUID=mg.StudyInstanceUID, SeriesInstanceUID=mg.SeriesInstanceUID
    )
    us = dataset("US", PatientID=patient, StudyInstanceUID=mg.StudyInstanceUID, StudyDate="20260105")
    results = [dataset(m, PatientID=patient, StudyInstanceUID=mg.StudyInstanceUID) for m in ("SR", "OT")]
    mr = dataset("MR", PatientID=patient, StudyDate="20260110")
    only_results = dataset("SR", PatientID=patient)
    stranger = dataset("MR", PatientID=patient + "0")
    store([write(folder, ds) for ds in (mg, again, us, *results, mr, only_results, stranger)])
    return [
        HeldStudy(str(mg.StudyInstanceUID), "20260105", 3),
        HeldStudy(str(mr.StudyInstanceUID), "20260110", 1),
    ]


def asked(destination: Destination, patient: str, issuer: str = "") -> list[HeldStudy]:
    return sorted(held_by_patient(destination, "CMAN", patient, issuer), key=lambda s: s.study_date)


@pytest.mark.parametrize("patient", ["P1", "P张1"])
@pytest.mark.parametrize("protocol", ["dimse", "qido"])
def test_counts_of_the_three_modalities(make_pacs: MakePacs, tmp_path: Path, patient: str, protocol: str) -> None:
    """MG, MR and US instances per study of this patient only; results and strangers don't count; Chinese IDs too."""
    pacs = make_pacs(http_port=0)
    there = dimse("p", pacs.port)
    want = fill(lambda items: scu.store(there, items, "MODALITY"), tmp_path / "out", patient)
    if protocol == "qido":
        there = Destination("p", kind="stow", url=pacs.url)
    assert asked(there, patient) == want
    assert asked(there, "P2") == []


@pytest.mark.parametrize("protocol", ["dimse", "qido"])
def test_counts_of_a_real_orthanc(tmp_path: Path, protocol: str) -> None:
    """A real Orthanc gives the same counts over C-FIND and over QIDO-RS."""
    with orthanc.running(tmp_path / "orthanc", route=False) as pacs:
        there = dimse("o", pacs.port, aet="ORTHANC")
        want = fill(lambda items: scu.store(there, items, "MODALITY"), tmp_path / "out", "P1")
        if protocol == "qido":
            there = Destination("o", kind="stow", url=pacs.url)
        assert asked(there, "P1") == want
        assert asked(there, "P2") == []


def test_a_pacs_without_series_counts(make_pacs: MakePacs, tmp_path: Path) -> None:
    """Where the PACS does not count instances of a series, they are asked for one by one."""
    pacs = make_pacs()
    there = dimse("p", pacs.port)
    want = fill(lambda items: scu.store(there, items, "MODALITY"), tmp_path / "out", "P1")
    pacs.faults.update(no_series_counts=True)
    assert asked(there, "P1") == want


def test_a_pacs_that_matches_too_much_is_not_believed(make_pacs: MakePacs, tmp_path: Path) -> None:
    """A PACS that answers with other patients' studies too: only those whose Patient ID is exactly ours count."""
    pacs = make_pacs()
    there = dimse("p", pacs.port)
    want = fill(lambda items: scu.store(there, items, "MODALITY"), tmp_path / "out", "P1")
    pacs.faults.update(ignore_patient_id=True)
    assert asked(there, "P1") == want
    assert asked(there, "p1") == []


def test_another_issuer_is_another_patient(make_pacs: MakePacs, tmp_path: Path) -> None:
    """The same Patient ID of another issuer is left out; a study without an issuer may be ours."""
    pacs = make_pacs()
    there = dimse("p", pacs.port)
    ours, theirs, silent = (
        dataset("MR", StudyDate="20260101", IssuerOfPatientID="A"),
        dataset("MR", StudyDate="20260102", IssuerOfPatientID="B"),
        dataset("MR", StudyDate="20260103"),
    )
    scu.store(there, [write(tmp_path / "out", ds) for ds in (ours, theirs, silent)], "MODALITY")
    assert [s.study_uid for s in asked(there, "P1", "A")] == [ours.StudyInstanceUID, silent.StudyInstanceUID]
    assert len(asked(there, "P1")) == 3


@pytest.mark.parametrize("patient", ["", "  ", "P*", "P?", "P1\\P2", "P\n1"])
def test_a_key_that_would_match_others_is_never_asked(make_pacs: MakePacs, patient: str) -> None:
    """An empty Patient ID, a wildcard or a list would ask for other patients: the question is not put."""
    pacs = make_pacs()
    with pytest.raises(Refused, match="PATIENT_ID_MISSING"):
        asked(dimse("p", pacs.port), patient)
    assert pacs.seen["associations"] == 0


@pytest.mark.parametrize(
    "faults", [{"find_status": 0xA700}, {"find_status": 0xC000}, {"refuse": "permanent"}, {"find_delay_s": 3.0}]
)
def test_a_failed_question_is_no_answer(make_pacs: MakePacs, tmp_path: Path, faults: dict[str, Any]) -> None:
    """A failure status, a rejection or a timeout is an exception, never a count of zero."""
    pacs = make_pacs()
    there = dimse("p", pacs.port, timeout_s=1.0)
    scu.store(there, [write(tmp_path / "out", dataset("MR"))], "MODALITY")
    pacs.faults.update(**faults)
    with pytest.raises(Unavailable):
        asked(there, "P1")


def test_nobody_there(tmp_path: Path) -> None:
    """No PACS at the address is an exception for both protocols."""
    port = orthanc.free_port()
    for there in (dimse("p", port), Destination("p", kind="stow", url=f"http://127.0.0.1:{port}/x", timeout_s=1)):
        with pytest.raises(Unavailable, match="PEER_UNREACHABLE"):
            asked(there, "P1")


def test_qido_pages(make_pacs: MakePacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers longer than a page are read to the end."""
    monkeypatch.setattr(web, "PAGE", 2)
    pacs = make_pacs(http_port=0)
    scu.store(dimse("p", pacs.port), [write(tmp_path / "out", dataset("MR")) for _ in range(5)], "MODALITY")
    assert len(asked(Destination("p", kind="stow", url=pacs.url), "P1")) == 5


def test_echo(make_pacs: MakePacs) -> None:
    """C-ECHO says whether the PACS answers, and why not."""
    pacs = make_pacs()
    assert scu.echo(dimse("p", pacs.port), "CMAN").code == "DELIVERED"
    assert scu.echo(dimse("p", pacs.port, aet="OTHER"), "CMAN").code == "PEER_REJECTED_FOR_GOOD"
    assert scu.echo(dimse("p", orthanc.free_port()), "CMAN").code == "PEER_UNREACHABLE"
