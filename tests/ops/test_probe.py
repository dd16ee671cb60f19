"""`casework probe` against the running service and a PACS: proven by traffic, seen by nobody, told when it fails."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from casework.config import load
from casework.ledger import Ledger
from tests.e2e.conftest import Hospital, make_case
from tests.e2e.test_service import delivered, wait_for
from tests.ops.collector import Collector

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Hospital]:
    made = Hospital(tmp_path_factory.mktemp("hospital"), CASEWORK_TRACES_URL=collector.url)
    yield made
    made.stop()


def probe(hospital: Hospital, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return casework(hospital, "probe", *arguments)


def casework(hospital: Hospital, *arguments: str) -> "subprocess.CompletedProcess[str]":
    config = ("--config", str(hospital.service.config))
    command = [sys.executable, "-W", "ignore", "-m", "casework", *arguments, *config]
    environment = {**os.environ, **hospital.service.environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=150)


def test_a_probe_takes_the_way_of_a_study_and_reaches_no_pacs(hospital: Hospital) -> None:
    """Received, assembled, analysed, checked, and delivered to nobody; readiness names the engine and the audit its passport."""
    done = probe(hospital, "--calling", "PACS")
    assert done.returncode == 0, done.stderr
    assert "sr" in done.stdout
    assert "sent nowhere" in done.stdout
    assert not hospital.pacs.archive.all()
    [item] = hospital.service.get("/v1/cases")["items"]
    found = hospital.service.get(f"/v1/cases/{item['id']}")
    assert (found["state"], found["reason"]["code"]) == ("delivered", "NO_DESTINATION")
    [engine] = hospital.service.get("/v1/health/ready")["engines"]
    assert found["model"]["engine"] == engine["engine"]
    assert (engine["alive"], engine["fallback"]) == (True, False)
    settings = load(hospital.service.config, hospital.service.environment)
    ledger = Ledger.open(settings.ledger_url)
    try:
        [examined] = [e for e in ledger.read.audit(0, 1000) if e.event == "engine.examined"]
    finally:
        ledger.close()
    assert examined.detail["sha256"] == engine["sha256"]
    assert not list(settings.root.glob("tmp*"))
    again = casework(hospital, "resend", item["id"])
    assert (again.returncode, "no PACS" in again.stderr) == (2, True), again.stderr


def test_a_probe_that_fails_says_why(hospital: Hospital) -> None:
    """No result in time, a title that the listener doesn't know: another status, a code and what to do."""
    done = probe(hospital, "--within", "0", "--calling", "PACS")
    assert (done.returncode, "PROBE_FAILED" in done.stderr) == (3, True), done.stderr
    done = probe(hospital)
    assert (done.returncode, "PEER_REJECTED" in done.stderr) == (3, True), done.stderr


def test_a_case_is_one_trace_over_all_processes(hospital: Hospital, collector: Collector, tmp_path: Path) -> None:
    """Received, assembled, prepared, inferred, rendered, delivered, each by its own door: one trace, found by the case's id."""
    truth = make_case(tmp_path, 77)
    hospital.send(truth, lambda ds: ds.Modality == "US")
    case = delivered(hospital, truth)
    wanted = {"receive", "assemble", "prepare", "infer", "render", "deliver"}

    def mine() -> set[tuple[str, str]]:
        return {(name, trace) for name, trace, said in list(collector.spans) if said["case_id"] == case["id"]}

    wait_for("spans of all stages", lambda: wanted <= {name for name, _ in mine()}, 30)
    assert len({trace for _, trace in mine()}) == 1
    assert {key for _, _, said in collector.spans for key in said} <= {"case_id", "code", "stage", "destination"}
    for secret in (truth.patient_id, *truth.studies.values(), "PROBE^NO"):
        assert secret.encode() not in collector.raw
