"""The gate and the doubts in a whole case: stored, told in the report, shown by `why`; a stop is told in every breast study."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from casework.case import CaseState
from casework.checks import ROWS
from casework.config import Gate
from casework.entrypoints.api import views
from casework.entrypoints.explain import explain
from casework.entrypoints.infer_worker import Worker
from casework.ledger import CaseView
from models.cman.phantom.dicom import CaseTruth, write_case
from tests.analyse.rig import MODELS, Rig, changed


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> CaseTruth:
    """One small phantom patient as files."""
    return write_case(tmp_path_factory.mktemp("case"), 7, full_size=False)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "rig", prepare_ahead=False, model=MODELS / "cman")
    yield rig
    rig.close()


@pytest.fixture
def run(rig: Rig) -> Iterator[Callable[..., CaseView]]:
    workers: list[Worker] = []

    def go(files: list[Path], *severity: str) -> CaseView:
        rig.settings = replace(rig.settings, gate=Gate(severity=severity))
        case_id = rig.arrive(files)
        rig.queue(case_id)
        workers.append(rig.worker())
        assert workers[-1].step() is not None
        return rig.ledger.read.case_view(case_id)

    yield go
    for worker in workers:
        worker.close()


def pick(truth: CaseTruth, *starts: str) -> list[Path]:
    return [f for f in truth.files if f.name.startswith(starts)]


def texts(ds: Dataset) -> Iterator[str]:
    """Every text of a content tree, and the series' description."""
    yield str(ds.get("SeriesDescription", ""))
    for item in ds.get("ContentSequence", []):
        yield str(item.get("TextValue", ""))
        yield from texts(item)


def said(rig: Rig, view: CaseView, kind: str = "sr") -> str:
    """All words of the first object of a kind."""
    made = next(a.artefact for a in view.artefacts if a.artefact.kind == kind)
    return "\n".join(texts(dcmread(BytesIO(rig.spool.path(made.sha256).read_bytes()))))


def document(view: CaseView) -> dict[str, Any]:
    return dict(json.loads(view.result_json))


def test_every_check_and_every_image_is_kept_and_shown(
    rig: Rig, run: Callable[..., CaseView], truth: CaseTruth
) -> None:
    """The whole outcome of the gate and each image's reason are in the result, the API's answer and the words of `why`."""
    view = run(list(truth.files))
    found = document(view)
    assert [c["code"] for c in found["gate"]] == [row.code for row in ROWS]
    by_code = {c["code"]: c["severity"] for c in found["gate"]}
    assert {by_code[c] for c in ("SIDE_PIXELS_CONFLICT", "MOTION_SEEN", "AGE_OUTSIDE", "VIEW_MISSING")} == {"pass"}
    told = [uid for c in found["choices"] for uid in c["instances"]]
    assert sorted(told) == sorted(row.instance.header.sop_instance_uid for row in view.inputs)
    assert {c["code"] for c in found["choices"] if c["detail"].startswith(("rank 1 of", "phase"))} <= {""}
    shown = views.case(view, "en")
    assert len(shown.gate) == len(ROWS)
    assert sum(len(c.sop_instance_uids) for c in shown.choices) == len(view.inputs)
    for language in ("en", "zh"):
        lines = "\n".join(explain(rig.ledger.read.why(view.case.id), language, datetime.now(UTC)))
        assert all(row.code in lines for row in ROWS)
        assert "rank 1 of" in lines


def test_contribution_and_distance_stand_in_the_report(
    rig: Rig, run: Callable[..., CaseView], truth: CaseTruth
) -> None:
    """A phantom is near the training; each side says what it would be without each modality, in JSON, API and SR."""
    view = run(list(truth.files))
    stated = json.loads((MODELS / "cman" / "manifest.json").read_text())["thresholds"]
    for side in document(view)["sides"]:
        assert set(side["without"]) == set(side["distance"]) == {"MG", "MR", "US"}
        values = [side["probability"], *side["without"].values()]
        assert side["spread"] == pytest.approx(max(values) - min(values))
        assert side["thresholds"] == pytest.approx(stated)
    words = said(rig, view)
    assert "when one modality is left out" in words
    assert "distance of the images to those of the training" in words
    assert "Input checks:" in words
    assert views.case(view, "en").sides[0].without


def test_one_modality_alone_is_read_by_its_own_thresholds(
    rig: Rig, run: Callable[..., CaseView], truth: CaseTruth
) -> None:
    """Mammography alone has thresholds of its own, nothing can be left out, and the report says both."""
    view = run(pick(truth, "mg"))
    stated = json.loads((MODELS / "cman" / "manifest.json").read_text())["subset_thresholds"]["MG"]
    for side in document(view)["sides"]:
        assert (side["thresholds"], side["without"], side["spread"]) == (stated, {}, None)
    assert "thresholds for the modalities of this side" in said(rig, view)


def test_an_implant_stops_the_case_unless_the_site_says_otherwise(
    rig: Rig, run: Callable[..., CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """Stopped by default, with the document in both studies; as a warning it runs and the report says so."""
    first, *rest = pick(truth, "mg_R", "us_R")
    files = [changed(first, tmp_path / "i.dcm", lambda ds: setattr(ds, "BreastImplantPresent", "YES")), *rest]
    view = run(files)
    assert (view.case.state, view.case.reason) == (CaseState.REJECTED, "IMPLANT_PRESENT")
    assert {a.artefact.kind for a in view.artefacts} == {"not-performed"}
    assert {a.artefact.study_instance_uid for a in view.artefacts} == {truth.studies["MG"], truth.studies["US"]}
    assert "AI NOT PERFORMED: IMPLANT_PRESENT" in said(rig, view, "not-performed")
    rig.ledger.retry_case(view.case.id, "anna", datetime.now(UTC))
    rig.settings = replace(rig.settings, gate=Gate(severity=("IMPLANT_PRESENT=warn",)))
    worker = rig.worker()
    worker.step()
    worker.close()
    again = rig.ledger.read.case_view(view.case.id)
    assert again.case.state is CaseState.DELIVERED
    assert "[IMPLANT_PRESENT]" in said(rig, again)
    older = {a.artefact.sop_instance_uid for a in view.artefacts}
    for made in (a.artefact for a in again.artefacts if a.artefact.kind == "sr"):
        report = dcmread(BytesIO(rig.spool.path(made.sha256).read_bytes()))
        named = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        assert named.ReferencedSOPInstanceUID in older, "a later result names what it replaces"


def test_a_missing_view_stops_where_the_site_wants_it(run: Callable[..., CaseView], truth: CaseTruth) -> None:
    """A site may ask for all views."""
    view = run(pick(truth, "mg_R", "mg_L_CC"), "VIEW_MISSING=stop")
    assert (view.case.state, view.case.reason) == (CaseState.REJECTED, "VIEW_MISSING")


def test_a_study_that_was_not_used_is_told(run: Callable[..., CaseView], truth: CaseTruth, tmp_path: Path) -> None:
    """Ultrasound without a side beside mammograms: the mammograms are read and the ultrasound study says that it was not."""

    def sideless(ds: Dataset) -> None:
        for keyword in ("ImageLaterality", "Laterality", "AnatomicRegionSequence"):
            if keyword in ds:
                delattr(ds, keyword)

    files = [changed(f, tmp_path / f.name, sideless) for f in pick(truth, "us_R")]
    view = run([*pick(truth, "mg"), *files])
    assert view.case.state is CaseState.DELIVERED
    told = [a.artefact.study_instance_uid for a in view.artefacts if a.artefact.kind == "not-performed"]
    assert told == [truth.studies["US"]]
    assert [d["study_instance_uid"] for d in document(view)["not_performed"]] == told


def test_a_study_of_another_part_of_the_body_is_left_alone(
    run: Callable[..., CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """The same patient's head MRI, within the window of days: no document goes into it."""

    def head(ds: Dataset) -> None:
        ds.BodyPartExamined = "HEAD"
        ds.ImageType = ["DERIVED", "SECONDARY"]
        if "AnatomicRegionSequence" in ds:
            del ds.AnatomicRegionSequence

    files = [changed(f, tmp_path / f.name, head) for f in pick(truth, "mr")[:3]]
    view = run([*pick(truth, "mg"), *files])
    assert view.case.state is CaseState.DELIVERED
    assert not [a for a in view.artefacts if a.artefact.study_instance_uid == truth.studies["MR"]]


def test_real_mammograms_get_no_decision_from_weights_that_saw_phantoms(
    run: Callable[..., CaseView], shared: Path, tmp_path: Path
) -> None:
    """Real images lie far outside: indeterminate with the reason, never negative and never positive."""

    def of_one_patient(ds: Dataset) -> None:
        ds.PatientID, ds.PatientName, ds.StudyInstanceUID = "P1", "Film^Old", "1.2.3.4"

    films = sorted(shared.glob("mg_case_sfm_malign_*.dcm")) or sorted(shared.rglob("*.dcm"))[:4]
    view = run([changed(f, tmp_path / f"{n}.dcm", of_one_patient) for n, f in enumerate(films)])
    sides = document(view)["sides"]
    assert {s["outcome"] for s in sides} <= {"indeterminate", "insufficient"}
    assert all(s["distance"]["MG"] > 1.0 for s in sides if s["outcome"] == "indeterminate")
    assert "INPUT_UNUSUAL" in {f.code for f in view.findings}
