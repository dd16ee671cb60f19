"""Every case that ends without a result says so in its studies, by the real keeper and worker: silence reads as negative."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from casework.case import ANALYSE, CaseState, DeliveryState
from casework.config import Assembly, Destination
from casework.entrypoints.infer_worker import Worker
from casework.flows.assemble import Assembler
from casework.flows.retract import Retractor
from casework.ledger import CaseView
from models.cman.phantom.dicom import CaseTruth, write_case
from tests.analyse.rig import Rig, changed

PLACES = (Destination("pacs", ae_title="A"), Destination("old", ae_title="B", profile="legacy"))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> CaseTruth:
    """One small phantom patient as files."""
    return write_case(tmp_path_factory.mktemp("case"), 7, full_size=False)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "rig", prepare_ahead=False)
    rig.settings = replace(rig.settings, destination=PLACES, assembly=Assembly(quiet_s=0.0, settle_s=0.0))
    yield rig
    rig.close()


@pytest.fixture
def work(rig: Rig) -> Iterator[Callable[..., CaseView]]:
    """Let the keeper look once and a worker take what there is; what the ledger then says."""
    workers: list[Worker] = []

    def go(case_id: str, *, keeper: bool = True) -> CaseView:
        if keeper:
            desk = Assembler(rig.ledger, rig.settings)
            desk.step(datetime.now(UTC) + timedelta(seconds=1), 0.0)
            desk.close()
        workers[:] = workers or [rig.worker()]
        while workers[0].step() is not None:
            pass
        return rig.ledger.read.case_view(case_id)

    yield go
    for worker in workers:
        worker.close()


def pick(truth: CaseTruth, *starts: str) -> list[Path]:
    return [f for f in truth.files if f.name.startswith(starts)]


def said(rig: Rig, view: CaseView) -> dict[str, Dataset]:
    """What a case says by Study Instance UID; each destination has the form that it shows, on its way."""
    sent = {(d.destination, d.kind) for d in view.deliveries if d.state is DeliveryState.PENDING}
    assert sent == {("pacs", "not-performed"), ("old", "not-performed-page")}
    made = {k: [a.artefact for a in view.artefacts if a.artefact.kind == k] for _, k in sent}
    found: dict[str, Dataset] = {}
    for report, page in zip(made["not-performed"], made["not-performed-page"], strict=True):
        found[report.study_instance_uid] = dcmread(BytesIO(rig.spool.path(report.sha256).read_bytes()))
        picture = dcmread(BytesIO(rig.spool.path(page.sha256).read_bytes()))
        assert (picture.StudyInstanceUID, picture.PatientID) == (
            report.study_instance_uid,
            found[report.study_instance_uid].PatientID,
        )
        assert "not a negative result" in picture.ImageComments
        assert f"[{view.case.reason}]" in picture.ImageComments
    return found


def coded(ds: Dataset) -> list[str]:
    """The reasons, as codes."""
    findings = next(c for c in ds.ContentSequence if c.ConceptNameCodeSequence[0].CodeValue == "121070")
    codes = [c.ConceptCodeSequence[0] for c in findings.ContentSequence if c.ValueType == "CODE"]
    return [str(c.get("CodeValue") or c.LongCodeValue) for c in codes]


def test_a_study_without_a_patient_id_is_told_as_it_came(
    rig: Rig, work: Callable[..., CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """It can be joined to nobody, but it has a study: the word is filed there, with the Patient ID left as empty as it is."""
    files = [changed(f, tmp_path / f.name, lambda ds: setattr(ds, "PatientID", "")) for f in pick(truth, "mg_R")]
    case_id = rig.arrive(files)
    view = work(case_id)
    assert (view.case.state, view.case.reason) == (CaseState.NEEDS_ATTENTION, "PATIENT_ID_MISSING")
    ((study, ds),) = said(rig, view).items()
    assert (study, ds.PatientID, coded(ds)) == (truth.studies["MG"], "", ["PATIENT_ID_MISSING"])
    rig.ledger.retry_case(case_id, "anna", datetime.now(UTC))
    again = work(case_id, keeper=False)
    assert again.case.state is CaseState.DELIVERING
    sr = next(a.artefact for a in again.artefacts if a.artefact.kind == "sr")
    report = dcmread(BytesIO(rig.spool.path(sr.sha256).read_bytes()))
    named = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == ds.SOPInstanceUID, "the later result names what it replaces"
    waiting = {(d.destination, d.kind) for d in again.deliveries if d.state is DeliveryState.PENDING}
    assert waiting == {("pacs", "sr"), ("pacs", "capture"), ("old", "capture")}


def test_a_doubt_about_the_side_is_told(
    rig: Rig, work: Callable[..., CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """The same image once more, of the other side: until a person decides, the study says why there is nothing."""
    first, *_ = pick(truth, "mg_R")
    case_id = rig.arrive(pick(truth, "mg_R"))
    rig.arrive([changed(first, tmp_path / "x.dcm", lambda ds: setattr(ds, "ImageLaterality", "L"))])
    view = work(case_id)
    ((_, ds),) = said(rig, view).items()
    assert coded(ds) == ["SIDE_CHANGED"]


def test_a_doubt_that_is_dismissed_is_withdrawn_and_named_by_nobody(
    rig: Rig, work: Callable[..., CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """The first result stands: a rejection note goes where the word went, and a later report follows the first one."""
    first, *_ = pick(truth, "mg_R")
    case_id = rig.arrive(pick(truth, "mg_R"))
    assert work(case_id).case.state is CaseState.DELIVERING
    second = rig.arrive([changed(first, tmp_path / "x.dcm", lambda ds: setattr(ds, "ImageLaterality", "L"))])
    (word,) = said(rig, work(second)).values()
    now = datetime.now(UTC)
    for name in ("pacs", "old"):
        while sent := rig.ledger.claim_delivery(name, "test", 60, now):
            rig.ledger.finish_delivery(sent.delivery_id, sent.fence, DeliveryState.STORED, "", "", None, now)
    rig.ledger.decide(second, "dismissed", "anna", now)
    view = work(second, keeper=False)
    notes = [a.artefact for a in view.artefacts if a.artefact.kind == "rejection"]
    named = set()
    for note in notes:
        ds = dcmread(BytesIO(rig.spool.path(note.sha256).read_bytes()))
        evidence = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        named |= {r.ReferencedSOPInstanceUID for series in evidence for r in series.ReferencedSOPSequence}
    assert word.SOPInstanceUID in named
    assert {d.destination for d in view.deliveries if d.kind == "rejection"} == {"pacs", "old"}
    third = work(rig.arrive(pick(truth, "mg_L")))
    sr = next(a.artefact for a in third.artefacts if a.artefact.kind == "sr")
    report = dcmread(BytesIO(rig.spool.path(sr.sha256).read_bytes()))
    older = next(a.artefact for a in rig.ledger.read.case_view(case_id).artefacts if a.artefact.kind == "sr")
    replaced = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert replaced.ReferencedSOPInstanceUID == older.sop_instance_uid


def test_a_report_names_no_withdrawn_predecessor(rig: Rig, work: Callable[..., CaseView], truth: CaseTruth) -> None:
    """The first result was retracted before the second is made: the second follows nothing."""
    case_id = rig.arrive(pick(truth, "mg_R"))
    work(case_id)
    Retractor(rig.ledger, rig.spool, rig.settings).retract(case_id, "RETRACTED_SAFETY", "anna", datetime.now(UTC))
    later = rig.arrive(pick(truth, "mg_L"))
    assert work(later).case.reason == "WITHDRAWN_BEFORE"
    rig.ledger.retry_case(later, "anna", datetime.now(UTC))
    view = work(later)
    assert view.case.revision == 2
    sr = next(a.artefact for a in view.artefacts if a.artefact.kind == "sr")
    report = dcmread(BytesIO(rig.spool.path(sr.sha256).read_bytes()))
    series = [s for study in report.PredecessorDocumentsSequence for s in study.ReferencedSeriesSequence]
    named = {str(one.ReferencedSOPInstanceUID) for s in series for one in s.ReferencedSOPSequence}
    assert named == {a.artefact.sop_instance_uid for a in view.artefacts if a.artefact.kind == "not-performed"}


def test_a_report_stands_when_a_later_study_is_preferred(
    rig: Rig, work: Callable[..., CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """A recall ten days later has its own report; the first study, which was analysed, is not told that it wasn't."""
    case_id = rig.arrive(pick(truth, "mg_R"))
    assert work(case_id).case.state is CaseState.DELIVERING

    def later(ds: Dataset) -> None:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(ds, keyword, f"{getattr(ds, keyword)}.7")
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
            if ds.get(keyword):
                day = datetime.strptime(str(ds[keyword].value), "%Y%m%d").replace(tzinfo=UTC) + timedelta(days=10)
                setattr(ds, keyword, f"{day:%Y%m%d}")

    view = work(rig.arrive([changed(f, tmp_path / f.name, later) for f in pick(truth, "mg_R")]))
    assert view.case.revision == 2
    made = {
        a.artefact.kind: a.artefact.study_instance_uid for a in view.artefacts if a.artefact.media_type != "image/png"
    }
    assert made["sr"] == f"{truth.studies['MG']}.7"
    assert "not-performed" not in made


def test_a_study_that_leaves_its_case_gets_a_note_and_the_rest_goes_on(
    rig: Rig, work: Callable[..., CaseView], truth: CaseTruth
) -> None:
    """Mammograms of another patient are taken out: their study's result is withdrawn there, the ultrasound's is replaced."""
    case_id = rig.arrive(pick(truth, "mg_R", "us_R"))
    old = work(case_id)
    now = datetime.now(UTC)
    for name in ("pacs", "old"):
        while sent := rig.ledger.claim_delivery(name, "test", 60, now):
            rig.ledger.finish_delivery(sent.delivery_id, sent.fence, DeliveryState.STORED, "", "", None, now)
    new = rig.ledger.exclude(case_id, truth.studies["MG"], "EXCLUDED_WRONG_PATIENT", "anna", now)
    view = work(new)
    notes = [a.artefact for a in view.artefacts if a.artefact.kind == "rejection"]
    rejected = set()
    for note in notes:
        ds = dcmread(BytesIO(rig.spool.path(note.sha256).read_bytes()))
        assert (ds.StudyInstanceUID, ds.ConceptNameCodeSequence[0].CodeValue) == (truth.studies["MG"], "113037")
        evidence = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        rejected |= {r.ReferencedSOPInstanceUID for series in evidence for r in series.ReferencedSOPSequence}
    sent_there = {d.artefact_id for d in old.deliveries}
    theirs = {a.artefact.sop_instance_uid for a in old.artefacts if a.id in sent_there}
    ours = {a.artefact.sop_instance_uid for a in old.artefacts if a.artefact.study_instance_uid == truth.studies["MG"]}
    assert rejected == theirs & ours, "everything in that study, nothing of another"
    assert {d.destination for d in view.deliveries if d.kind == "rejection"} == {"pacs", "old"}
    (sr,) = [a.artefact for a in view.artefacts if a.artefact.kind == "sr"]
    assert sr.study_instance_uid == truth.studies["US"]
    named = dcmread(BytesIO(rig.spool.path(sr.sha256).read_bytes())).PredecessorDocumentsSequence
    assert [study.StudyInstanceUID for study in named] == [truth.studies["US"]], "what is withdrawn is no predecessor"


def test_a_case_that_no_try_survives_is_told(rig: Rig, work: Callable[..., CaseView], truth: CaseTruth) -> None:
    """Three workers die over it; the fourth says so in both studies, with the last error beside the reason."""
    case_id = rig.arrive(pick(truth, "mg_R", "us_R"))
    rig.queue(case_id)
    at = datetime.now(UTC) - timedelta(hours=2)
    for n in range(3):
        assert rig.ledger.claim_job(ANALYSE, "doomed", 1, at + timedelta(minutes=n)) is not None
    rig.ledger.expire_leases(at + timedelta(minutes=5))
    view = work(case_id, keeper=False)
    assert view.case.reason == "ATTEMPTS_EXHAUSTED"
    told = said(rig, view)
    assert set(told) == {truth.studies["MG"], truth.studies["US"]}
    assert {code for ds in told.values() for code in coded(ds)} == {"ATTEMPTS_EXHAUSTED", "LEASE_EXPIRED"}


def test_a_case_that_a_person_closed_is_told(rig: Rig, work: Callable[..., CaseView], truth: CaseTruth) -> None:
    """Closing decides that it isn't analysed; that is no finding either."""
    case_id = rig.arrive(pick(truth, "mg_R"))
    rig.ledger.cancel_case(case_id, "anna", datetime.now(UTC), "not ours")
    ((_, ds),) = said(rig, work(case_id, keeper=False)).items()
    assert coded(ds) == ["CANCELLED"]


def test_a_case_of_which_all_images_were_taken_out_is_told(
    rig: Rig, work: Callable[..., CaseView], truth: CaseTruth
) -> None:
    """Poor images leave the study without an answer, which it says. Another person's are not told of in that person's name."""
    case_id = rig.arrive(pick(truth, "mg_R"))
    work(case_id)
    now = datetime.now(UTC)
    later = rig.ledger.exclude(case_id, truth.studies["MG"], "EXCLUDED_POOR_QUALITY", "anna", now)
    view = work(later)
    assert (view.case.state, view.case.reason) == (CaseState.REJECTED, "ALL_EXCLUDED")
    ((_, ds),) = said(rig, view).items()
    assert coded(ds) == ["ALL_EXCLUDED"]
    rig.ledger.restore(later, truth.studies["MG"], "anna", now)
    last = rig.ledger.exclude(case_id, truth.studies["MG"], "EXCLUDED_WRONG_PATIENT", "anna", now)
    assert work(last).artefacts == ()


def test_a_case_that_waited_to_its_end_is_told(
    rig: Rig, work: Callable[..., CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """What the model requires never came: the case runs at the end of its wait, is stopped, and its study says why."""

    def sideless(ds: Dataset) -> None:
        for keyword in ("ImageLaterality", "Laterality", "AnatomicRegionSequence"):
            if keyword in ds:
                delattr(ds, keyword)

    rig.settings = replace(rig.settings, policy=replace(rig.settings.policy, wait_mg_h=1))
    case_id = rig.arrive([changed(f, tmp_path / f.name, sideless) for f in pick(truth, "us_R")])
    now = datetime.now(UTC) + timedelta(seconds=1)
    desk = Assembler(rig.ledger, rig.settings)
    for clock in (0.0, 3700.0):
        desk.step(now + timedelta(seconds=clock), clock)
    desk.close()
    view = work(case_id, keeper=False)
    assert "WAIT_OVER" in {f.code for f in view.findings}
    ((_, ds),) = said(rig, view).items()
    assert coded(ds) == ["NO_USABLE_IMAGE"]


def test_images_of_other_kinds_are_no_study_that_waits(
    rig: Rig, work: Callable[..., CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """A CT that was routed here by mistake: rejected, and nothing is put into it."""

    def ct(ds: Dataset) -> None:
        ds.Modality, ds.SOPClassUID = "CT", "1.2.840.10008.5.1.4.1.1.2"
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID

    view = work(rig.arrive([changed(pick(truth, "mg_R")[0], tmp_path / "x.dcm", ct)]))
    assert (view.case.state, view.case.reason) == (CaseState.REJECTED, "MODALITY_NOT_ACCEPTED")
    assert view.artefacts == ()
