"""Why did my study not run? Every row of the table, brought about for real and asked for."""

import contextlib
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE

from casework.case import CaseState, Verdict
from casework.config import Destination, Gate, Peer, Policy, Work
from casework.entrypoints.infer_worker import Worker
from casework.errors import Defect
from casework.flows.deliver import Breaker, DestinationWorker
from casework.flows.intake import Context
from casework.flows.retract import Retractor
from casework.ledger import Why, read_timeline, read_why
from casework.preprocess.child import COMMAND
from casework.reasons import REASONS
from tests.analyse import bad_child
from tests.analyse.rig import model
from tests.deliver.objects import MG, write
from tests.deliver.rig import dimse
from tests.fetch.rig import FAST, breast, fill
from tests.simulators import pacs as simulator
from tests.simulators.orthanc import free_port
from tests.simulators.pacs import SimulatedPacs
from tests.why.table import SITUATIONS
from tests.why.world import ACCESSION, World

CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
Answer = tuple[Why, str, list[str], list[str]]
Made = dict[str, Callable[["Stage"], Answer]]
MADE: Made = {}


class Stage:
    """Makes worlds and PACS for one test, and takes them down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.worlds: list[World] = []
        self.pacs: list[SimulatedPacs] = []

    def world(self, *destinations: Destination, **sections: Any) -> World:
        self.worlds.append(World(self.folder / "world", *destinations, **sections))
        return self.worlds[-1]

    def a_pacs(self, *images: Dataset, **options: Any) -> SimulatedPacs:
        pacs = simulator.SimulatedPacs(self.folder / "pacs", **options).start()
        self.pacs.append(pacs)
        fill(pacs.port, self.folder / "filled", *images)
        return pacs

    def close(self) -> None:
        for world in self.worlds:
            world.close()
        for pacs in self.pacs:
            pacs.stop()


@pytest.fixture
def stage() -> Iterator[Stage]:
    memory = Path("/dev/shm")  # noqa: S108 - emptied below
    folder = Path(tempfile.mkdtemp(prefix="why", dir=memory if memory.is_dir() else None))
    made = Stage(folder)
    yield made
    made.close()
    shutil.rmtree(folder, ignore_errors=True)


def situation(make: Callable[[Stage], Answer]) -> Callable[[Stage], Answer]:
    """The function's name is the row that it brings about."""
    MADE[make.__name__] = make
    return make


@pytest.mark.parametrize("name", SITUATIONS)
def test_situation(name: str, stage: Stage) -> None:
    """The answer names stage and code, says when something happened and what to do, in both languages, and no name."""
    row = SITUATIONS[name]
    why, code, english, chinese = MADE[name](stage)
    assert (why.stage, code) == (row.stage, row.code), "\n".join(english)
    reason = REASONS[row.code]
    assert english[-1] == f"next: {reason.next_en}"
    assert chinese[-1] == f"下一步: {reason.next_zh}"
    assert any(reason.en in line for line in english)
    assert any(reason.zh in line for line in chinese)
    never = name in {"never_heard", "wrong_port", "pacs_holds", "pacs_has_none", "pacs_silent", "listener_down"}
    assert never or any(re.match(r"  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in english), english
    assert "Zhang" not in "".join(english)


def test_every_state_has_a_stage_and_a_reason() -> None:
    """No state of a case leaves the question without an answer."""
    assert set(read_why._BY_STATE) == set(read_timeline.STAGE_OF_STATE) == set(CaseState)
    assert set(read_why._BY_STATE.values()) | set(read_why._DOWN.values()) <= set(REASONS)


def test_every_situation_is_made() -> None:
    """No row of the table without its test, and no test without its row."""
    assert set(MADE) == set(SITUATIONS)


# --- connections ------------------------------------------------------------------------------------------------


@situation
def never_heard(stage: Stage) -> Answer:
    world = stage.world()
    world.sends(world.mg())
    return world.ask("SOMETHING-ELSE")


@situation
def wrong_port(stage: Stage) -> Answer:
    world = stage.world()
    answer = world.ask(ACCESSION)
    assert f"CMAN 127.0.0.1:{world.port}" in "".join(answer[2])  # what to compare the sender's settings with
    return answer


def _turned_away(stage: Stage, peer: Peer) -> Answer:
    world = stage.world()
    world.settings = replace(world.settings, dicom=replace(world.settings.dicom, peer=(peer,)))
    assert world.sends(world.mg())[0].answer.name != "STORED"
    answer = world.ask(ACCESSION)
    assert any("MODALITY" in line for line in answer[2])
    return answer


@situation
def wrong_calling(stage: Stage) -> Answer:
    return _turned_away(stage, Peer("SCANNER"))


@situation
def wrong_called(stage: Stage) -> Answer:
    return _turned_away(stage, Peer("MODALITY", called_ae_title="OTHER"))


@situation
def tls(stage: Stage) -> Answer:
    world = stage.world()
    world.listen(world.port)
    with socket.create_connection(("127.0.0.1", world.port)) as peer:
        peer.sendall(bytes.fromhex("1603010200010001fc0303") + bytes(200))
        with contextlib.suppress(ConnectionResetError):
            peer.recv(100)
    while not any(a.closed_at for a in world.ledger.read.associations()):
        time.sleep(0.02)
    return world.ask(ACCESSION)


@situation
def no_class(stage: Stage) -> Answer:
    world = stage.world()
    world.listen(world.port)
    ae = AE("CT")
    ae.add_requested_context(CT_CLASS)
    assert not ae.associate("127.0.0.1", world.port, ae_title="CMAN").is_established
    while not any(a.closed_at for a in world.ledger.read.associations()):
        time.sleep(0.02)
    return world.ask(ACCESSION)


@situation
def broke_off(stage: Stage) -> Answer:
    world = stage.world()
    world.listen(world.port)
    ae = AE("MODALITY")
    ae.add_requested_context(MG)
    assoc = ae.associate("127.0.0.1", world.port, ae_title="CMAN")
    assoc.abort()
    while not any(a.closed_at for a in world.ledger.read.associations()):
        time.sleep(0.02)
    answer = world.ask(ACCESSION)
    assert any("PEER_ABORTED" in line and "MODALITY" in line for line in answer[2]), answer[2]
    return answer


@situation
def disk(stage: Stage) -> Answer:
    world = stage.world()
    world.settings = replace(world.settings, storage=replace(world.settings.storage, reserve_bytes=1 << 60))
    assert world.sends(world.mg())[0].answer.name != "STORED"
    return world.ask(ACCESSION)


@situation
def disk_in_between(stage: Stage) -> Answer:
    world = stage.world()
    world.settings = replace(world.settings, storage=replace(world.settings.storage, hard_watermark=1e-9))
    assert world.sends(world.mg())[0].answer.name != "STORED"
    while not any(a.closed_at for a in world.ledger.read.associations()):
        time.sleep(0.02)
    assert world.ledger.read.associations()[0].counts["DISK_LOW"] == 1  # the log of associations says so too
    return world.ask(ACCESSION)


@situation
def listener_down(stage: Stage) -> Answer:
    world = stage.world()
    world.door_ran("listener")
    return world.ask(ACCESSION)


@situation
def pacs_holds(stage: Stage) -> Answer:
    pacs = stage.a_pacs(breast("MG", AccessionNumber=ACCESSION, StudyInstanceUID="1.2.77"))
    world = stage.world(replace(dimse("p", pacs.port), query=True))
    answer = world.ask(ACCESSION, pacs=True)
    assert any("1.2.77" in line and "MG 1" in line for line in answer[2])
    return answer


@situation
def pacs_has_none(stage: Stage) -> Answer:
    pacs = stage.a_pacs(breast("MG"))
    return stage.world(replace(dimse("p", pacs.port), query=True)).ask(ACCESSION, pacs=True)


@situation
def pacs_silent(stage: Stage) -> Answer:
    pacs = stage.a_pacs(breast("MG"))
    away = replace(dimse("away", free_port(), timeout_s=1.0), query=True)
    world = stage.world(replace(dimse("p", pacs.port), query=True), away)
    return world.ask(ACCESSION, pacs=True)  # one of two says no; the other can't be asked: that is no "no"


# --- admission --------------------------------------------------------------------------------------------------


@situation
def modality(stage: Stage) -> Answer:
    world = stage.world()
    world.sends(breast("OT", AccessionNumber=ACCESSION))
    return world.ask(ACCESSION)


@situation
def no_patient_id(stage: Stage) -> Answer:
    world = stage.world()
    world.sends(world.mg(PatientID=""))
    return world.ask(ACCESSION)


@situation
def uid_mismatch(stage: Stage) -> Answer:
    world = stage.world()
    reception = world.intake.start_part10(Context("stow", "api:x", "r1", study_instance_uid="1.2.3.999"))
    reception.write(write(world.folder / "made", world.mg()).path.read_bytes())
    assert reception.finish().verdict is Verdict.REFUSED
    return world.ask(ACCESSION)


@situation
def own_result(stage: Stage) -> Answer:
    world = stage.world()
    world.sends(breast("OT", AccessionNumber=ACCESSION, Manufacturer="casework", SOPInstanceUID="2.25.7"))
    return world.ask(ACCESSION)


# --- case -------------------------------------------------------------------------------------------------------


@situation
def open(stage: Stage) -> Answer:  # noqa: A001 - the row's name
    world = stage.world()
    association = world.intake.open_association("MODALITY", "CMAN", "127.0.0.1")
    reception = world.intake.start_part10(Context("dimse", "MODALITY", association))
    reception.write(write(world.folder / "made", world.mg()).path.read_bytes())
    reception.finish()
    world.assemble(after_s=120)
    return world.ask(ACCESSION)


@situation
def quiet(stage: Stage) -> Answer:
    world = stage.world()
    world.sends(world.mg())
    world.assemble()
    return world.ask(ACCESSION)


@situation
def short(stage: Stage) -> Answer:
    here, late = breast("MG", AccessionNumber=ACCESSION), None
    late = breast("MG", StudyInstanceUID=here.StudyInstanceUID)
    pacs = stage.a_pacs(here, late)
    world = stage.world(replace(dimse("p", pacs.port), query=True))
    world.arrives(here)
    world.assemble(after_s=65)
    answer = world.ask(ACCESSION)
    assert any("MG 1 of 2" in line for line in answer[2])
    return answer


@situation
def modality_wait(stage: Stage) -> Answer:
    world = stage.world(policy=Policy(wait_mr_h=6))
    world.arrives(world.mg())
    world.assemble(after_s=120)
    answer = world.ask(ACCESSION)
    assert any(re.search(r"waits for MR since .* until ", line) for line in answer[2])
    return answer


@situation
def keeper_down(stage: Stage) -> Answer:
    world = stage.world()
    world.arrives(world.mg())
    world.door_ran("keeper")
    return world.ask(ACCESSION)


@situation
def cancelled(stage: Stage) -> Answer:
    world = stage.world()
    world.ledger.cancel_case(world.arrives(world.mg()), "cli:ann", datetime.now(UTC))
    answer = world.ask(ACCESSION)
    assert any("cli:ann" in line for line in answer[2])
    return answer


@situation
def superseded(stage: Stage) -> Answer:
    world = stage.world()
    first = world.rendered()
    world.rendered()
    return world.ask(first)


@situation
def retracted(stage: Stage) -> Answer:
    world = stage.world()
    case_id = world.rendered()
    Retractor(world.ledger, world.spool, world.settings).retract(case_id, "RETRACTED_SAFETY", "cli:ann", world.now())
    answer = world.ask(ACCESSION)
    assert any("cli:ann" in line for line in answer[2])
    return answer


@situation
def excluded(stage: Stage) -> Answer:
    world = stage.world()
    image = world.mg()
    case_id = world.arrives(image)
    world.ledger.exclude(case_id, str(image.SOPInstanceUID), "EXCLUDED_POOR_QUALITY", "cli:ann", world.now())
    world.assemble(after_s=120)
    answer = world.ask(ACCESSION)
    assert any("EXCLUDED_POOR_QUALITY" in line and "cli:ann" in line for line in answer[2]), answer[2]
    return answer


# --- fetch ------------------------------------------------------------------------------------------------------


@situation
def fetching(stage: Stage) -> Answer:
    pacs = stage.a_pacs(breast("MR"))
    world = stage.world(replace(dimse("p", pacs.port), retrieve="get"), fetch=replace(FAST, hold_s=600))
    world.arrives(world.mg())
    world.assemble(after_s=120)
    return world.ask(ACCESSION)


def _fetch(stage: Stage, image: Dataset, kind: str = "get", **rules: Any) -> World:
    pacs = stage.a_pacs(image)
    world = stage.world(replace(dimse("p", pacs.port), retrieve=kind), fetch=replace(FAST, **rules))
    world.arrives(world.mg())
    world.run()
    return world


@situation
def candidate_rejected(stage: Stage) -> Answer:
    return _fetch(stage, breast("MR", AccessionNumber="KNEE", BodyPartExamined="KNEE")).ask("KNEE")


@situation
def candidate_failed(stage: Stage) -> Answer:
    return _fetch(stage, breast("MR", AccessionNumber="MR1"), "move").ask("MR1")


@situation
def candidate_waits(stage: Stage) -> Answer:
    now = datetime.now(UTC)
    window = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M}"
    return _fetch(stage, breast("MR", AccessionNumber="MR1"), quiet_hours=(window,)).ask("MR1")


@situation
def candidate_excluded(stage: Stage) -> Answer:
    now = datetime.now(UTC)
    window = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M}"
    world = _fetch(stage, breast("MR", AccessionNumber="MR1"), quiet_hours=(window,))
    (row,) = world.candidates(term="MR1")
    world.ledger.exclude_candidate(row.id, "cli:ann", now)
    return world.ask("MR1")


@situation
def fetcher_down(stage: Stage) -> Answer:
    now = datetime.now(UTC)
    window = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M}"
    world = _fetch(stage, breast("MR", AccessionNumber="MR1"), quiet_hours=(window,))
    world.door_ran("fetch_worker")
    return world.ask("MR1")


# --- gate, queue, engine ------------------------------------------------------------------------------------------


def _analyse(stage: Stage, *images: Dataset, decoder: Sequence[str] = COMMAND, **sections: Any) -> World:
    world = stage.world(**sections)
    package = model(stage.folder / "models")
    work = Work(model=str(package), threads=1, prepare_ahead=False, report_process=False, decode_processes=1)
    world.settings = replace(world.settings, work=work)
    world.queued(*images)
    worker = Worker(world.settings, decoder)
    try:
        assert worker.step() is not None
    finally:
        worker.close()
    return world


@situation
def side_unknown(stage: Stage) -> Answer:
    plain = breast("MG", AccessionNumber=ACCESSION, ViewPosition="CC", payload=600_000)
    answer = _analyse(stage, plain).ask(ACCESSION)
    assert any("LATERALITY_UNKNOWN" in line for line in answer[2]), answer[2]
    return answer


def _right_cc() -> Dataset:
    return breast("MG", AccessionNumber=ACCESSION, ImageLaterality="R", ViewPosition="CC", payload=600_000)


@situation
def gate_stop(stage: Stage) -> Answer:
    return _analyse(stage, _right_cc(), gate=Gate(severity=("VIEW_MISSING=stop",))).ask(ACCESSION)


@situation
def decoder(stage: Stage) -> Answer:
    bad = (sys.executable, str(Path(bad_child.__file__)), "crash-on-right")
    answer = _analyse(stage, _right_cc(), decoder=bad).ask(ACCESSION)
    assert any("DECODER_CRASHED" in line for line in answer[2]), answer[2]
    return answer


@situation
def identity(stage: Stage) -> Answer:
    one = _right_cc()
    other = breast("US", PatientBirthDate="19991231")
    return _analyse(stage, one, other).ask(ACCESSION)


@situation
def queued(stage: Stage) -> Answer:
    world = stage.world()
    for n in range(4):
        world.queued(breast("MG", PatientID=f"P{n}", AccessionNumber=f"A{n}"))
    for _ in range(2):  # two that have run are the measure; the third is running
        job = world.claimed()
        world.ledger.finish_job(job.job_id, job.fence, "{}", [], [], [], datetime.now(UTC) + timedelta(seconds=3))
    world.claimed()
    up = world.doors_run("infer_worker")
    world.queued(world.mg(PatientID="P9"))
    answer = world.ask(ACCESSION)
    for presence in up:
        presence.__exit__(None, None, None)
    (line,) = [line for line in answer[2] if "ahead" in line]
    assert re.search(r"ahead: 1, running: 1, workers: 1; results in about \d+ s - \d+ s \(2 runs measured\)", line), (
        line
    )
    return answer


@situation
def worker_down(stage: Stage) -> Answer:
    world = stage.world()
    world.queued()
    world.door_ran("infer_worker")
    answer = world.ask(ACCESSION)
    assert any("no estimate" in line for line in answer[2])
    return answer


@situation
def model_refused(stage: Stage) -> Answer:
    world = stage.world()
    world.queued()
    package = model(stage.folder / "models")
    (package / "manifest.json").write_text("{}")
    world.settings = replace(world.settings, work=Work(model=str(package), threads=1))
    with pytest.raises(Defect) as error:
        Worker(world.settings)
    world.door_ran("infer_worker", error.value)
    (again,) = world.doors_run("infer_worker")  # the supervisor's next try has just begun: it hides nothing
    time.sleep(0.3)
    answer = world.ask(ACCESSION)
    again.__exit__(None, None, None)
    return answer


@situation
def running(stage: Stage) -> Answer:
    world = stage.world()
    world.queued()
    world.claimed()
    return world.ask(ACCESSION)


def _failed(stage: Stage, code: str, retry_s: float | None, times: int = 1) -> Answer:
    world = stage.world()
    world.queued()
    now = datetime.now(UTC)
    for n in range(times):
        at = now + timedelta(seconds=n)
        world.ledger.promote_due(at)
        job = world.ledger.claim_job("analyse", "worker", 60, at)
        assert job is not None
        again = None if retry_s is None else at + timedelta(seconds=retry_s)
        assert world.ledger.fail_job(job.job_id, job.fence, code, again, at)
    return world.ask(ACCESSION)


@situation
def retry(stage: Stage) -> Answer:
    answer = _failed(stage, "DECODER_CRASHED", 60)
    assert any("DECODER_CRASHED" in line for line in answer[2])
    assert answer[0].cases[0].waiting_until is not None
    return answer


@situation
def self_check(stage: Stage) -> Answer:
    return _failed(stage, "RESULT_SELF_CHECK", None)


@situation
def lost_workers(stage: Stage) -> Answer:
    return _failed(stage, "LEASE_EXPIRED", 0.5, times=3)


# --- sending --------------------------------------------------------------------------------------------------------


def _send(stage: Stage, destination: Destination) -> Answer:
    world = stage.world(destination)
    world.rendered(destination.name)
    worker = DestinationWorker(
        world.ledger, world.spool, destination, world.settings, breaker=Breaker(0.2, longest_s=1.0)
    )
    for _ in range(3):
        worker.step()
    worker.close()
    return world.ask(ACCESSION)


@situation
def unreachable(stage: Stage) -> Answer:
    answer = _send(stage, dimse("p", free_port(), timeout_s=1.0))
    assert any("PEER_UNREACHABLE" in line and " deliver p " in line for line in answer[2])
    return answer


@situation
def refused(stage: Stage) -> Answer:
    pacs = stage.a_pacs()
    pacs.faults.update(status=0xA900)
    return _send(stage, replace(dimse("p", pacs.port), proof="none"))


@situation
def sender_down(stage: Stage) -> Answer:
    world = stage.world(dimse("p", free_port()))
    world.rendered("p")
    world.door_ran("deliver_worker")
    return world.ask(ACCESSION)


@situation
def unproved(stage: Stage) -> Answer:
    pacs = stage.a_pacs()
    pacs.faults.update(lose_after_ack=True)
    return _send(stage, replace(dimse("p", pacs.port), proof="query"))


@situation
def no_destination(stage: Stage) -> Answer:
    world = stage.world()
    world.rendered()
    return world.ask(ACCESSION)


@situation
def delivered(stage: Stage) -> Answer:
    pacs = stage.a_pacs()
    return _send(stage, replace(dimse("p", pacs.port), proof="none"))
