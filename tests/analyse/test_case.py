"""A case from claim to results, with the real ledger, spool, decode children, engine and report."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from casework.case import ANALYSE, CaseState
from casework.config import Destination
from casework.engine.runner import Runner, SideInputs, SideOutputs
from casework.entrypoints.infer_worker import Worker
from casework.entrypoints.pulse import look
from casework.errors import CaseworkError, Defect, Unavailable
from casework.flows.analyse import Stopwatch
from casework.ledger import CaseView
from casework.report import heat, slices_needed
from casework.result import CaseResult
from models.cman.phantom.dicom import CaseTruth, write_case
from tests.analyse.rig import Rig, changed

BAD = (sys.executable, str(Path(__file__).parent / "bad_child.py"))


@pytest.fixture(scope="session")
def truth(tmp_path_factory: pytest.TempPathFactory) -> CaseTruth:
    """One small phantom patient as files."""
    return write_case(tmp_path_factory.mktemp("case"), 7, full_size=False)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "rig", prepare_ahead=False)
    yield rig
    rig.close()


@pytest.fixture
def run(rig: Rig) -> Iterator[Callable[..., CaseView]]:
    """Let files arrive, queue the case, run it and return what the ledger then says."""
    workers: list[Worker] = []

    def go(files: list[Path], **options: Any) -> CaseView:
        case_id = rig.arrive(files)
        rig.queue(case_id)
        workers.append(rig.worker(**options))
        assert workers[-1].step() is not None
        return rig.ledger.read.case_view(case_id)

    yield go
    for worker in workers:
        worker.close()


def pick(truth: CaseTruth, *starts: str) -> list[Path]:
    return [f for f in truth.files if f.name.startswith(starts)]


def document(view: CaseView) -> dict[str, Any]:
    return dict(json.loads(view.result_json))


def codes(view: CaseView) -> set[tuple[str, str, str]]:
    return {(f.code, f.subject, f.detail) for f in view.findings}


def probabilities(view: CaseView) -> dict[str, Any]:
    return {side["side"]: side["probability"] for side in document(view)["sides"]}


def test_a_whole_case_becomes_reports_and_heat_maps(rig: Rig, run: Callable[..., CaseView], truth: CaseTruth) -> None:
    """Every modality and both sides are analysed; each study gets its report and captures; all bytes are durable."""
    view = run(list(truth.files))
    assert (view.case.state, view.case.reason) == (CaseState.DELIVERED, "NO_DESTINATION")
    found = document(view)
    assert {s["side"]: set(s["modalities"]) for s in found["sides"]} == {
        "R": {"MG", "MR", "US"},
        "L": {"MG", "MR", "US"},
    }
    assert all(0 < s["probability"] < 1 for s in found["sides"])
    made = [(a.artefact.kind, a.artefact.study_instance_uid) for a in view.artefacts]
    assert sorted(study for kind, study in made if kind == "sr") == sorted(truth.studies.values())
    assert made.count(("capture", truth.studies["MG"])) == 4
    assert made.count(("capture", truth.studies["MR"])) == 8
    assert made.count(("capture", truth.studies["US"])) == 6
    for row in view.artefacts:
        assert rig.spool.path(row.artefact.sha256).stat().st_size == row.artefact.size
    assert set(found["seconds"]) >= {"claim", "plan", "decode", "tensor", "network", "readout", "render", "store"}
    used = {(i["side"], i["modality"], i["slot"]) for i in found["prepared"]}
    assert len(used) == 18


def test_destinations_get_what_their_profiles_ask_for(
    rig: Rig, truth: CaseTruth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One case for two PACS: the maps, masks and slices of a whole case are made, checked, stored, and go to the one that wants them.

    The small model suspects nobody, so two slices are asked for that a region would have marked.
    """
    asked: list[tuple[str, int]] = []

    def needed(result: CaseResult, sources: Mapping[str, Dataset]) -> list[tuple[str, int]]:
        read = next(i.depths for i in result.images if i.depths is not None)
        asked[:] = sorted({*slices_needed(result, sources), *read.slices[5:7]}, key=read.slices.index)
        return asked

    monkeypatch.setattr("casework.flows.analyse.case.slices_needed", needed)
    places = (
        Destination("archive", ae_title="A", profile="full"),
        Destination("old", ae_title="B", profile="legacy"),
    )
    rig.settings = replace(rig.settings, destination=places)
    case_id = rig.arrive(truth.files)
    rig.queue(case_id)
    worker = rig.worker()
    try:
        ended = worker.step()
    finally:
        worker.close()
    assert ended is not None
    assert ended.code == ""
    view = rig.ledger.read.case_view(case_id)
    sent = {name: {d.kind for d in view.deliveries if d.destination == name} for name in ("archive", "old")}
    assert sent["old"] == {"capture"}
    assert sent["archive"] >= {"sr", "capture", "parametric-map"}
    made = [row.artefact for row in view.artefacts if row.artefact.kind == "parametric-map"]
    assert [a.study_instance_uid for a in made] == [truth.studies["MR"]]
    ds = dcmread(rig.spool.path(made[0].sha256))
    values = np.frombuffer(ds.FloatPixelData, "<f4")
    assert 0 < values.max() <= 1
    (slices,) = [row.artefact for row in view.artefacts if row.artefact.kind == "slices"]
    ds = dcmread(rig.spool.path(slices.sha256))
    assert {(r.ReferencedSOPInstanceUID, 1) for r in ds.SourceImageSequence} == set(asked)
    source = next(
        s for s in map(dcmread, truth.files) if s.SOPInstanceUID == ds.SourceImageSequence[0].ReferencedSOPInstanceUID
    )
    shown = np.asarray(Image.fromarray(ds.pixel_array[0]).convert("L"), float)
    bright = np.asarray(
        Image.fromarray(source.pixel_array.astype(np.float32)).resize((640, round(640 * source.Rows / source.Columns)))
    )
    at = heat.Layout.of((source.Rows, source.Columns), "MR")
    cut = shown[at.corner[1] :, at.corner[0] :][: at.size[1], : at.size[0]]
    assert np.corrcoef(cut.ravel(), bright.ravel())[0, 1] > 0.9


def test_what_was_prepared_ahead_is_what_would_have_been_made(rig: Rig, truth: CaseTruth, tmp_path: Path) -> None:
    """After preparing ahead nothing is decoded any more, and the answer is the same to the last bit."""
    case_id = rig.arrive(truth.files)
    worker = rig.worker()
    time.sleep(0.5)
    assert worker.ahead.step() == 1
    assert worker.ahead.step() == 0
    worker.pool.close()  # a worker without decoders: only what is prepared can be used
    rig.queue(case_id)
    ended = worker.step()
    assert ended is not None
    assert ended.code == ""
    cold = Rig(tmp_path / "cold", prepare_ahead=False)
    other_id = cold.arrive(reversed(truth.files))
    cold.queue(other_id)
    other = cold.worker()
    other.step()
    warm_view, cold_view = rig.ledger.read.case_view(case_id), cold.ledger.read.case_view(other_id)
    assert probabilities(warm_view) == probabilities(cold_view)
    assert document(warm_view)["input_digest"] == document(cold_view)["input_digest"]
    assert document(warm_view)["prepared"] == document(cold_view)["prepared"]
    for one in (worker, other):
        one.close()
    cold.close()


def test_a_damaged_cache_is_made_again(rig: Rig, truth: CaseTruth) -> None:
    """Cache entries that were cut, emptied or filled with noise cost time and nothing else."""
    case_id = rig.arrive(truth.files)
    worker = rig.worker()
    time.sleep(0.5)
    worker.ahead.step()
    for n, path in enumerate(sorted((rig.settings.root / "prepared").glob("??/*"))):
        data = path.read_bytes()
        path.write_bytes((data[: len(data) // 2], b"", os.urandom(300))[n % 3])
    worker.close()
    fresh = rig.worker()
    rig.queue(case_id)
    ended = fresh.step()
    assert ended is not None
    assert ended.code == ""
    fresh.close()


def test_one_modality_of_one_side_is_enough_and_the_rest_is_said(
    run: Callable[..., CaseView], truth: CaseTruth
) -> None:
    """What is missing is named; a side without images is insufficient and has no probability."""
    view = run(pick(truth, "us_L"))
    sides = {s["side"]: s for s in document(view)["sides"]}
    assert (sides["R"]["outcome"], sides["R"]["probability"]) == ("insufficient", None)
    assert sides["L"]["probability"] is not None
    assert {("MODALITY_MISSING", "MG", ""), ("MODALITY_MISSING", "MR", ""), ("MODALITY_MISSING", "US", "R")} <= codes(
        view
    )
    assert all(i["side"] == "L" for i in document(view)["images"])


def test_a_missing_view_is_named(run: Callable[..., CaseView], truth: CaseTruth) -> None:
    """Three of four mammograms are analysed and the missing view is named with its side."""
    view = run([*pick(truth, "mg_R"), *pick(truth, "mg_L_CC")])
    assert ("VIEW_MISSING", "L", "MLO") in codes(view)
    assert set(probabilities(view)) == {"R", "L"}


def cut(path: Path, target: Path) -> Path:
    """The file without the second half of its pixels: every length is still as stated."""
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\x4f\xff\x51")
    sot = data.index(b"\xff\x90", at)
    data[sot + 6 : sot + 10] = (1 << 30).to_bytes(4)
    target.write_bytes(data)
    return target


def test_an_undecodable_mammogram_is_left_out_and_named(
    run: Callable[..., CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """The other images are analysed; the broken one has its reason, and its view counts as missing."""
    files = [cut(f, tmp_path / "x.dcm") if f.name == "mg_R_CC.dcm" else f for f in pick(truth, "mg")]
    uid = dcmread(pick(truth, "mg_R_CC")[0], stop_before_pixels=True).SOPInstanceUID
    view = run(files)
    assert view.case.state is CaseState.DELIVERED
    assert {("PIXELS_UNDECODABLE", uid, ""), ("VIEW_MISSING", "R", "CC")} <= codes(view)
    assert len(document(view)["images"]) == 3


def test_without_a_usable_image_the_case_is_rejected_with_every_reason(
    run: Callable[..., CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """A raw mammogram and one without a side: rejected, each image with its own code."""

    def raw(ds: Dataset) -> None:
        ds.PresentationIntentType = "FOR PROCESSING"

    def sideless(ds: Dataset) -> None:
        del ds.ImageLaterality
        for keyword in ("Laterality", "AnatomicRegionSequence"):
            if keyword in ds:
                delattr(ds, keyword)

    one, other = pick(truth, "mg_R")
    view = run([changed(one, tmp_path / "a.dcm", raw), changed(other, tmp_path / "b.dcm", sideless)])
    assert (view.case.state, view.case.reason) == (CaseState.REJECTED, "NO_USABLE_IMAGE")
    assert {code for code, *_ in codes(view)} == {"ONLY_FOR_PROCESSING", "LATERALITY_UNKNOWN"}
    assert {code for row in view.inputs for code, _ in row.findings} == {"ONLY_FOR_PROCESSING", "LATERALITY_UNKNOWN"}
    assert [(a.artefact.kind, a.artefact.study_instance_uid) for a in view.artefacts] == [
        ("not-performed", truth.studies["MG"])
    ]


@pytest.mark.parametrize(
    ("attribute", "code"),
    [
        (("PatientBirthDate", "19000101"), "PATIENT_IDENTITY_CONFLICT"),
        (("PatientSex", "M"), "PATIENT_IDENTITY_CONFLICT"),
        (("Laterality", "L"), "LATERALITY_CONFLICT"),
    ],
)
def test_a_conflict_of_identity_or_side_needs_a_person(
    run: Callable[..., CaseView], truth: CaseTruth, tmp_path: Path, attribute: tuple[str, str], code: str
) -> None:
    """Two birth dates, two sexes or two sides: nothing is analysed, a person is asked, and each study is told."""
    first, *rest = pick(truth, "mg_R", "us_R")
    view = run([changed(first, tmp_path / "a.dcm", lambda ds: setattr(ds, *attribute)), *rest])
    assert (view.case.state, view.case.reason) == (CaseState.NEEDS_ATTENTION, code)
    assert {a.artefact.kind for a in view.artefacts} == {"not-performed"}
    assert {a.artefact.study_instance_uid for a in view.artefacts} == {truth.studies["MG"], truth.studies["US"]}
    assert (document(view)["performed"], document(view)["stopped"]) == (False, [code])
    assert set(probabilities(view).values()) == {None}


def test_a_decoder_crash_costs_the_image_never_the_worker(run: Callable[..., CaseView], truth: CaseTruth) -> None:
    """A decoder that dies on every right mammogram: the left ones are analysed, the others say why, the worker lives."""
    view = run(pick(truth, "mg"), decoder=(*BAD, "crash-on-right"))
    assert view.case.state is CaseState.DELIVERED
    assert {c for c, subject, _ in codes(view) if c == "DECODER_CRASHED" and subject} == {"DECODER_CRASHED"}
    sides = {s["side"]: s for s in document(view)["sides"]}
    assert sides["R"]["outcome"] == "insufficient"
    assert sides["L"]["probability"] is not None


class Failing:
    """An engine that fails in a chosen way before it works."""

    def __init__(self, runner: Runner, error: Exception) -> None:
        self.runner, self.error = runner, error

    def run(self, inputs: SideInputs) -> SideOutputs:  # noqa: ARG002 - the contract's name
        raise self.error

    def describe(self) -> str:
        return self.runner.describe()


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (Unavailable("DISK_LOW"), CaseState.QUEUED, "DISK_LOW"),
        (Defect("RESULT_SELF_CHECK", "R17"), CaseState.NEEDS_ATTENTION, "RESULT_SELF_CHECK"),
        (ZeroDivisionError(), CaseState.NEEDS_ATTENTION, "INTERNAL"),
    ],
)
def test_failures_are_retried_by_their_class(
    rig: Rig, truth: CaseTruth, error: Exception, state: CaseState, code: str
) -> None:
    """What may pass is tried again later, at most three times; a defect goes to a person at once."""
    case_id = rig.arrive(pick(truth, "us_L_node"))
    rig.queue(case_id)
    worker = rig.worker()
    worker.analyser._runner = Failing(worker.runner, error)
    ended = worker.step()
    assert ended is not None
    assert ended.code == code
    assert rig.ledger.read.case(case_id).state is state
    if state is CaseState.QUEUED:
        assert worker.step() is None, "it waits for its time"
        for attempt in (2, 3):
            rig.ledger.promote_due(datetime.now(UTC) + timedelta(hours=1))
            assert worker.step() is not None, attempt
        assert rig.ledger.read.case(case_id).state is CaseState.NEEDS_ATTENTION
        assert rig.ledger.read.case(case_id).reason == "ATTEMPTS_EXHAUSTED"
    worker.close()


def test_a_worker_that_was_overtaken_changes_nothing(rig: Rig, truth: CaseTruth) -> None:
    """When the lease is another worker's, the first one's results are refused; the second one's count, once."""
    case_id = rig.arrive(pick(truth, "us_L"))
    rig.queue(case_id)
    worker = rig.worker()
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    slow = rig.ledger.claim_job(ANALYSE, "slow", 1.0, long_ago)
    quick = rig.ledger.claim_job(ANALYSE, "quick", 60.0, datetime.now(UTC))
    assert slow is not None
    assert quick is not None
    assert worker.analyser.run(slow, Stopwatch()).code == "LEASE_EXPIRED"
    assert not rig.ledger.read.case_view(case_id).artefacts
    assert worker.analyser.run(quick, Stopwatch()).code == ""
    kinds = [a.artefact.kind for a in rig.ledger.read.case_view(case_id).artefacts]
    assert kinds.count("sr") == 1
    worker.close()


def test_the_heartbeat_keeps_a_long_case(tmp_path: Path, truth: CaseTruth) -> None:
    """A case that takes longer than its lease is not taken away while its worker lives."""
    rig = Rig(tmp_path / "rig", prepare_ahead=False, lease_s=0.6, heartbeat_s=0.15)
    rig.queue(rig.arrive(pick(truth, "us_L_node")))
    worker = rig.worker()

    class Slow(Failing):
        def run(self, inputs: SideInputs) -> SideOutputs:
            time.sleep(1.5)
            assert rig.ledger.claim_job(ANALYSE, "thief", 60.0, datetime.now(UTC)) is None
            return self.runner.run(inputs)

    worker.analyser._runner = Slow(worker.runner, ValueError())
    ended = worker.step()
    assert ended is not None
    assert ended.code == ""
    worker.close()
    rig.close()


def test_a_late_image_makes_a_revision_that_names_its_predecessor(
    rig: Rig, run: Callable[..., CaseView], truth: CaseTruth
) -> None:
    """The second result refers to the first one's report and has other UIDs."""
    first = run(pick(truth, "us_L_node"))
    second = run(pick(truth, "us_L_lesion"))
    assert (second.case.revision, second.case.predecessor) == (2, first.case.id)
    (old,) = [a.artefact for a in first.artefacts if a.artefact.kind == "sr"]
    (new,) = [a.artefact for a in second.artefacts if a.artefact.kind == "sr"]
    report = dcmread(BytesIO(rig.spool.path(new.sha256).read_bytes()))
    named = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == old.sop_instance_uid
    assert new.sop_instance_uid != old.sop_instance_uid


def test_the_process_ends_its_case_when_told_to_stop(rig: Rig, truth: CaseTruth, tmp_path: Path) -> None:
    """SIGTERM while a case waits or runs: the process exits with 0, and a case is either finished or still queued."""
    rig.queue(case_id := rig.arrive(pick(truth, "us")))
    config = tmp_path / "casework.toml"
    config.write_text(
        f'[storage]\nroot = "{rig.settings.root}"\nreserve_bytes = 0\nwatermark = 0.98\nhard_watermark = 0.99\n'
        f'[work]\nmodel = "{rig.settings.work.model}"\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "casework", "infer-worker", "--config", str(config)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while rig.ledger.read.case(case_id).state is CaseState.QUEUED and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert rig.ledger.read.case(case_id).state is CaseState.DELIVERED
    assert not look(rig.settings, "infer-worker", datetime.now(UTC))
    assert "silent" in look(rig.settings, "infer-worker", datetime.now(UTC) + timedelta(minutes=3))
    assert "no sign of life" in look(rig.settings, "keeper", datetime.now(UTC))


def test_a_killed_report_process_costs_no_case(tmp_path: Path, truth: CaseTruth) -> None:
    """A worker that has started has kept nothing; with its report process dead, the case still ends with the same objects."""
    rig = Rig(tmp_path / "rig", prepare_ahead=False, report_process=True)
    worker = rig.worker()
    try:
        worker.start()
        assert not [f for f in (rig.settings.root / "objects").rglob("*") if f.is_file()]
        rig.queue(case_id := rig.arrive(pick(truth, "us")))
        assert worker.reports.pid is not None
        os.kill(worker.reports.pid, signal.SIGKILL)
        ended = worker.step()
        assert ended is not None
        assert not ended.code
        kinds = [a.artefact.kind for a in rig.ledger.read.case_view(case_id).artefacts]
        assert (kinds.count("sr"), kinds.count("capture")) == (1, 6)
    finally:
        worker.close()
        rig.close()


def test_a_model_that_was_trained_otherwise_is_refused(rig: Rig) -> None:
    """A package that names another preprocessing version never runs."""
    manifest = Path(rig.settings.work.model) / "manifest.json"
    stated = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**stated, "preprocess": "casework-preprocess-0"}))
    with pytest.raises(CaseworkError, match="MODEL_INVALID"):
        Worker(replace(rig.settings))
