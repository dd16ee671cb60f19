"""Retraction through the real ledger to real peers: who had a result hears of it, and nothing of it is sent any more."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from casework.case import CaseState, DeliveryState
from casework.config import Report
from casework.errors import Refused
from casework.flows.retract import Retractor
from casework.report import render
from tests.conformance.studies import NOW, make
from tests.deliver.objects import dataset
from tests.deliver.rig import Rig, arrival, dimse
from tests.simulators import orthanc
from tests.simulators.pacs import SimulatedPacs

MakePacs = Callable[..., SimulatedPacs]
MakeRig = Callable[..., Rig]
C, D = CaseState, DeliveryState
KO = "1.2.840.10008.5.1.4.1.1.88.59"


def results(*modalities: str) -> list[Dataset]:
    """Reports and captures of a real case, as data sets."""
    case = make("gb18030", modalities=modalities or ("MG",))
    rendered = render(case.result, case.sources, Report(), NOW)
    return [dcmread(BytesIO(r.data)) for r in rendered if r.media_type == "application/dicom"]


def retract(rig: Rig, case_id: str, code: str = "RETRACTED_SAFETY") -> None:
    """A person's decision."""
    Retractor(rig.ledger, rig.spool, rig.settings).retract(case_id, code, "someone", datetime.now(UTC))


def notes(pacs: SimulatedPacs) -> list[Dataset]:
    """The rejection notes that a PACS holds."""
    return [dcmread(s.path) for s in pacs.archive.all() if s.sop_class == KO]


def named(note: Dataset) -> set[str]:
    """What a note withdraws."""
    items = [r for i in note.ContentSequence for r in i.get("ReferencedSOPSequence", [])]
    return {str(r.ReferencedSOPInstanceUID) for r in items}


def drain(rig: Rig, *workers: object) -> None:
    """Send everything that waits."""
    for worker in workers:
        rig.turn_until(worker, lambda w=worker: w.step() > 0)  # type: ignore[misc, arg-type]


def test_each_destination_is_told_of_what_it_has(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """One has everything, one a part, one nothing: each hears of exactly its own, and the rest is never sent."""
    all_of_it, part, none = (make_pacs(name) for name in ("all", "part", "none"))
    places = [dimse(n, p.port) for n, p in (("all", all_of_it), ("part", part), ("none", none))]
    rig = make_rig(*places)
    mine = results("MG", "US")
    case_id = rig.rendered(mine, ["all", "part", "none"])
    workers = [rig.worker(place) for place in places]
    drain(rig, workers[0])
    for _ in range(2):
        workers[1].step()
    retract(rig, case_id)
    row = rig.ledger.read.case(case_id)
    assert (row.state, row.reason, row.retraction) == (C.RETRACTED, "RETRACTED_SAFETY", "RETRACTED_SAFETY")
    drain(rig, *workers)
    uids = {str(ds.SOPInstanceUID) for ds in mine}
    assert {uid for note in notes(all_of_it) for uid in named(note)} == uids
    assert {n.StudyInstanceUID for n in notes(all_of_it)} == {ds.StudyInstanceUID for ds in mine}
    held = {s.sop_uid for s in part.archive.all() if s.sop_class != KO}
    assert len(held) == 2
    assert {uid for note in notes(part) for uid in named(note)} == held
    assert none.archive.all() == []
    assert {d.state for d in rig.deliveries(case_id, "none")} == {D.CANCELLED}
    assert {d.state for d in rig.deliveries(case_id)} == {D.STORED, D.CANCELLED}
    assert rig.ledger.read.verify_audit().ok


def test_what_may_have_arrived_is_withdrawn_too(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """An object whose sending broke off without an answer may be there: it is named, and not sent again."""
    pacs = make_pacs()
    place = dimse("pacs", pacs.port)
    rig = make_rig(place)
    case_id = rig.rendered(results(), ["pacs"])
    worker = rig.worker(place)
    pacs.faults.update(abort="keep", times=1)
    worker.step()
    pacs.faults.update(abort="", times=-1)
    retract(rig, case_id)
    drain(rig, worker)
    (note,) = notes(pacs)
    assert named(note) == {s.sop_uid for s in pacs.archive.all() if s.sop_class != KO}
    assert pacs.seen["stores"] == 2


def test_a_note_waits_for_what_is_on_its_way(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """While another sender still sends an object of the case, the note is not claimed: it would arrive first."""
    pacs = make_pacs()
    rig = make_rig(dimse("pacs", pacs.port))
    case_id = rig.rendered(results(), ["pacs"])
    now = datetime.now(UTC)
    sending = rig.ledger.claim_delivery("pacs", "another", 60, now)
    assert sending is not None
    retract(rig, case_id)
    assert rig.ledger.claim_delivery("pacs", "me", 60, now) is None
    rig.ledger.finish_delivery(
        sending.delivery_id, sending.fence, D.RETRY_WAIT, "", "PEER_BUSY", now + timedelta(seconds=9), now
    )
    claimed = rig.ledger.claim_delivery("pacs", "me", 60, now)
    assert claimed is not None
    assert claimed.artefact.kind == "rejection"
    assert rig.deliveries(case_id)[0].state is D.CANCELLED


def test_again_is_the_same_and_another_reason_is_refused(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """The same decision twice leaves one note; another reason, a case without results, and an unknown code are refused."""
    pacs = make_pacs()
    place = dimse("pacs", pacs.port)
    rig = make_rig(place)
    case_id = rig.rendered(results(), ["pacs"])
    worker = rig.worker(place)
    drain(rig, worker)
    for _ in range(2):
        retract(rig, case_id)
        drain(rig, worker)
    assert len(notes(pacs)) == 1
    for code in ("RETRACTED_QUALITY", "NONSENSE"):
        with pytest.raises(Refused):
            retract(rig, case_id, code)
    for decide in (rig.ledger.retry_case, rig.ledger.cancel_case, rig.ledger.resend_case):
        with pytest.raises(Refused, match="STATE_FORBIDS"):
            decide(case_id, "someone", datetime.now(UTC))


def test_a_result_that_was_replaced_can_be_withdrawn_too(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """An older revision's results are still at the PACS: their note goes there although newer results followed."""
    pacs = make_pacs()
    place = dimse("pacs", pacs.port)
    rig = make_rig(place)
    mine = results()
    case_id = rig.rendered(mine, ["pacs"])
    worker = rig.worker(place)
    drain(rig, worker)
    now = datetime.now(UTC)
    source = rig.ledger.case_inputs(case_id)[0].header
    late = dataset("MG", PatientID=source.patient_id, StudyInstanceUID=source.study_instance_uid)
    newer = rig.ledger.record([arrival(late)], now)[0].case_id
    assert newer is not None
    assert newer != case_id
    assert rig.ledger.move_case(newer, C.RECEIVING, C.STABLE, "QUEUED", "test", now)
    rig.ledger.queue_case(newer, 0, "test", now)
    job = rig.ledger.claim_job("analyse", "test", 60, now)
    assert job is not None
    again = dataset("SR", StudyInstanceUID=str(mine[0].StudyInstanceUID))
    assert rig.ledger.finish_job(job.job_id, job.fence, "{}", [rig.artefact(again)], [], ["pacs"], now)
    drain(rig, worker)
    assert (rig.state(case_id), rig.state(newer)) == (C.SUPERSEDED, C.DELIVERED)
    retract(rig, case_id)
    drain(rig, worker)
    (note,) = notes(pacs)
    assert named(note) == {str(ds.SOPInstanceUID) for ds in mine}
    assert (rig.state(case_id), rig.state(newer)) == (C.RETRACTED, C.DELIVERED)


def test_a_note_that_is_refused_needs_a_person(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """A PACS without key objects makes the retracted case need attention; retry sends the note, not the results."""
    pacs = make_pacs()
    place = dimse("pacs", pacs.port)
    rig = make_rig(place)
    mine = results()
    case_id = rig.rendered(mine, ["pacs"])
    worker = rig.worker(place)
    drain(rig, worker)
    pacs.faults.update(reject_classes=[KO])
    retract(rig, case_id)
    drain(rig, worker)
    row = rig.ledger.read.case(case_id)
    assert (row.state, row.reason, row.retraction) == (C.NEEDS_ATTENTION, "PEER_NO_CONTEXT", "RETRACTED_SAFETY")
    pacs.faults.update(reject_classes=[])
    worker.close()
    rig.ledger.retry_case(case_id, "someone", datetime.now(UTC))
    drain(rig, worker)
    assert rig.state(case_id) is C.RETRACTED
    assert len(notes(pacs)) == 1
    assert pacs.seen["stores"] == len(mine) + 1


def test_a_damaged_result_is_withdrawn_too(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """A bit flips on our disk, a file is gone: the note names every object all the same, from what the ledger knows of it."""
    pacs = make_pacs()
    place = dimse("pacs", pacs.port)
    rig = make_rig(place)
    mine = results()
    case_id = rig.rendered(mine, ["pacs"])
    worker = rig.worker(place)
    drain(rig, worker)
    kept = [rig.spool.path(a.artefact.sha256) for a in rig.ledger.read.case_view(case_id).artefacts]
    kept[0].chmod(0o600)
    kept[0].write_bytes(b"x" + kept[0].read_bytes()[1:])
    kept[1].unlink()
    retract(rig, case_id)
    drain(rig, worker)
    (note,) = notes(pacs)
    assert named(note) == {str(ds.SOPInstanceUID) for ds in mine}


def test_orthanc_files_the_note_in_the_right_study(make_rig: MakeRig, tmp_path: Path) -> None:
    """In the real Orthanc the note is in the study of the results that it withdraws, with their patient."""
    with orthanc.running(tmp_path / "orthanc", route=False) as real:
        place = dimse("o", real.port, aet="ORTHANC")
        rig = make_rig(place)
        mine = results("MG", "US")
        case_id = rig.rendered(mine, ["o"])
        worker = rig.worker(place)
        drain(rig, worker)
        retract(rig, case_id, "RETRACTED_WORKLIST")
        drain(rig, worker)
        studies = {str(ds.StudyInstanceUID) for ds in mine}
        assert len(studies) == 2
        for study in studies:
            (series,) = [
                s for s in real.find("Series", {"StudyInstanceUID": study}) if s["MainDicomTags"]["Modality"] == "KO"
            ]
            data = real.find("Instance", {"SeriesInstanceUID": series["MainDicomTags"]["SeriesInstanceUID"]})
            note = dcmread(BytesIO(real.file(data[0]["MainDicomTags"]["SOPInstanceUID"]) or b""))
            assert note.ConceptNameCodeSequence[0].CodeValue == "113038"
            assert named(note) == {str(ds.SOPInstanceUID) for ds in mine if ds.StudyInstanceUID == study}
        assert len(real.get("/patients")) == 1
