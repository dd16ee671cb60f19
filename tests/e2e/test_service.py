"""What the service promises as a whole."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom import dcmread

from tests.demo.verify import problems
from tests.e2e.conftest import Hospital, make_case

pytestmark = pytest.mark.timeout(240)


def wait_for(what: str, ready: Callable[[], Any], seconds: float = 90.0) -> Any:
    """The first true answer of `ready`, which is asked five times a second."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := ready():
            return answer
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def delivered(hospital: Hospital, truth: Any, revision: int = 1) -> dict[str, Any]:
    """Wait until that revision of the case is delivered; return it."""

    def ready() -> dict[str, Any] | None:
        case = hospital.case(truth)
        if case is not None and case["state"] in ("needs_attention", "rejected"):
            raise AssertionError(f"{case['state']}: {case['reason']}")
        return case if case and case["revision"] == revision and case["state"] == "delivered" else None

    return dict(wait_for(f"revision {revision} delivered", ready))


def test_a_case_comes_back_into_its_studies(hospital: Hospital, tmp_path: Path) -> None:
    """Three studies of a patient with a Chinese name in, one SR and the heat-maps in each study out, identity intact, once."""
    truth = make_case(tmp_path, 31, character_set="gb18030")
    sent = hospital.send(truth)
    case = delivered(hospital, truth)
    assert case["modalities"] == {
        "MG": 4,
        "MR": sum(ds.Modality == "MR" for ds in sent),
        "US": sum(ds.Modality == "US" for ds in sent),
    }
    assert {side["side"] for side in case["sides"]} == {"R", "L"}
    results = {study: hospital.results().get(study, []) for study in truth.studies.values()}
    assert list(problems({str(ds.SOPInstanceUID): ds for ds in sent}, results)) == []
    name = dcmread(truth.files[0], stop_before_pixels=True).get_item("PatientName").value
    assert any(byte > 127 for byte in name)
    for stored in hospital.pacs.archive.all():
        ds = dcmread(stored.path, stop_before_pixels=True)
        assert ds.get_item("PatientName").value == name, "the name's bytes changed"


def test_a_second_send_changes_nothing(hospital: Hospital, tmp_path: Path) -> None:
    """The same studies sent again, by another route, make no new row, no new revision and no new object."""
    truth = make_case(tmp_path, 32)
    hospital.send(truth)
    first = delivered(hospital, truth)
    before = {str(ds.SOPInstanceUID) for objects in hospital.results().values() for ds in objects}
    command = [
        sys.executable,
        "-m",
        "casework",
        "send",
        str(truth.files[0].parent),
        "--config",
        str(hospital.service.config),
        "--calling",
        "PACS",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stdout
    assert f"{len(truth.files)} stored" in answer.stdout
    time.sleep(3)
    again = hospital.case(truth)
    assert again is not None
    assert (again["id"], again["state"], again["revision"]) == (first["id"], "delivered", 1)
    assert {str(ds.SOPInstanceUID) for objects in hospital.results().values() for ds in objects} == before


def test_a_late_image_makes_a_revision_that_names_its_predecessor(hospital: Hospital, tmp_path: Path) -> None:
    """Ultrasound that comes after the result makes revision 2, whose SR names the first one; the first is superseded, not changed."""
    truth = make_case(tmp_path, 33)
    hospital.send(truth, lambda ds: ds.Modality != "US")
    first = delivered(hospital, truth)
    study = truth.studies["MG"]
    old = {str(ds.SOPInstanceUID): ds for ds in hospital.results()[study] if ds.Modality == "SR"}
    hospital.send(truth, lambda ds: ds.Modality == "US")
    second = delivered(hospital, truth, revision=2)
    assert second["id"] != first["id"]
    new = [ds for ds in hospital.results()[study] if ds.Modality == "SR" and str(ds.SOPInstanceUID) not in old]
    assert len(new) == 1
    named = [
        str(item.ReferencedSOPInstanceUID)
        for predecessor in new[0].PredecessorDocumentsSequence
        for series in predecessor.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert set(old) <= set(named)
    wait_for(
        "first revision superseded", lambda: hospital.service.get(f"/v1/cases/{first['id']}")["state"] == "superseded"
    )


def test_one_side_never_answers_for_the_other(hospital: Hospital, tmp_path: Path) -> None:
    """A study of the left breast alone says nothing of the right one but that it is insufficient."""
    truth = make_case(tmp_path, 34)
    hospital.send(truth, lambda ds: ds.Modality == "MG" and ds.ImageLaterality == "L")
    case = delivered(hospital, truth)
    sides = {side["side"]: side for side in case["sides"]}
    assert sides["R"]["outcome"] == "insufficient"
    assert sides["R"]["probability"] is None
    assert sides["L"]["probability"] is not None


def test_every_process_may_be_killed_at_any_time(tmp_path: Path) -> None:
    """Kill -9 of each process in turn while a case passes through: the case is delivered once, nothing is lost or doubled."""
    hospital = Hospital(tmp_path / "h", CASEWORK_WORK_LEASE_S="6", CASEWORK_WORK_HEARTBEAT_S="2")
    try:
        truth = make_case(tmp_path, 35)
        parent = psutil.Process(hospital.service.pid)
        sent = hospital.send(truth, lambda ds: ds.Modality == "MG")
        for door in ("listener", "keeper", "infer-worker", "deliver-worker", "api"):
            process = _find(parent, door)
            process.kill()
            psutil.wait_procs([process], timeout=10)  # until then its port still answers
            if door == "listener":
                wait_for("listener back", lambda: _listens(hospital.service.dicom_port))
                sent += hospital.send(truth, lambda ds: ds.Modality != "MG")
        wait_for("api back", lambda: _listens(hospital.service.http_port))
        delivered(hospital, truth, revision=_newest(hospital, truth))
        results = hospital.results()
        newest = {
            str(a["sop_instance_uid"]) for a in _artefacts(hospital, truth) if a["media_type"] == "application/dicom"
        }
        now = {
            study: [ds for ds in results.get(study, []) if str(ds.SOPInstanceUID) in newest]
            for study in truth.studies.values()
        }
        assert list(problems({str(ds.SOPInstanceUID): ds for ds in sent}, now)) == []
    finally:
        assert hospital.stop() == 0


def _find(parent: psutil.Process, door: str) -> psutil.Process:
    """The running process of a door; one that just died is waited for to be back."""

    def running() -> psutil.Process | None:
        for process in parent.children():
            with suppress(psutil.NoSuchProcess):  # a zombie is one too
                if door in process.cmdline():
                    return process
        return None

    found: psutil.Process = wait_for(f"{door} running", running)
    return found


def _newest(hospital: Hospital, truth: Any) -> int:
    """The revision that will hold all images: wait until none is receiving any more and all are in."""

    def complete() -> dict[str, Any] | None:
        case = hospital.case(truth)
        return case if case and sum(case["modalities"].values()) == len(truth.files) else None

    return int(wait_for("all images in the case", complete)["revision"])


def _artefacts(hospital: Hospital, truth: Any) -> list[dict[str, Any]]:
    case = hospital.case(truth)
    assert case is not None
    return list(hospital.service.get(f"/v1/cases/{case['id']}/results")["artefacts"])


def _listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_the_doors_leave_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """Kill -9 of the supervisor leaves no process behind that still writes."""
    hospital = Hospital(tmp_path / "h")
    try:
        children = psutil.Process(hospital.service.pid).children(recursive=True)
        os.kill(hospital.service.pid, signal.SIGKILL)
        gone, alive = psutil.wait_procs(children, timeout=60)
        assert gone
        assert not alive
    finally:
        hospital.stop()


def test_a_storage_root_has_one_service(hospital: Hospital) -> None:
    """A second service on the same storage root is refused with a code."""
    command = [sys.executable, "-m", "casework", "serve", "--config", str(hospital.service.config)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 3
    assert "ALREADY_RUNNING" in answer.stderr


def test_the_command_line_answers(hospital: Hospital, tmp_path: Path) -> None:
    """why, cases, associations, verify-ledger and doctor say what happened, in both languages, with honest exit codes."""
    truth = make_case(tmp_path, 36)
    hospital.send(truth, lambda ds: ds.Modality == "MG")
    case = delivered(hospital, truth)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "casework", *words, "--config", str(hospital.service.config)]
        environment = os.environ | hospital.service.environment
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)

    why = run("why", truth.accessions["MG"])
    assert why.returncode == 0, why.stderr
    assert "Delivered" in why.stdout
    assert case["id"] in why.stdout
    assert truth.patient_name not in why.stdout
    assert "已送达" in run("why", truth.accessions["MG"], "--language", "zh").stdout
    nothing = run("why", "NO-SUCH-ACCESSION")
    assert nothing.returncode == 1
    assert "Nothing under this identifier" in nothing.stdout
    assert case["id"] in run("cases", "--query", truth.patient_id).stdout
    assert "PACS" in run("associations").stdout
    verified = run("verify-ledger", "--objects")
    assert verified.returncode == 0, verified.stdout
    assert "ok" in verified.stdout
    assert "0 bad" in verified.stdout
    doctor = run("doctor")
    assert doctor.returncode == 0, doctor.stdout
    for word in ("disk", "ledger", "listener", "api", "decoders", "model", "peer pacs", "clock"):
        assert word in doctor.stdout
    refused = run("retry", case["id"])
    assert refused.returncode == 2
    assert "STATE_FORBIDS" in refused.stderr
    resent = run("resend", case["id"])
    assert resent.returncode in (0, 2), resent.stderr
    assert run("send", str(truth.files[0]), "--to", "no target").returncode == 2
