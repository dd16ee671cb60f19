"""One side never answers for the other, and what changes after a report is a new one that names the old: real images to SR."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from casework.case import CaseState
from casework.entrypoints.infer_worker import Worker
from casework.ledger import CaseView, Rule
from casework.reasons import REASONS
from models.cman.phantom.dicom import CaseTruth, write_case
from tests.analyse.rig import Rig, changed
from tests.analyse.test_case import document, pick


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> CaseTruth:
    """One small phantom patient as files."""
    return write_case(tmp_path_factory.mktemp("case"), 7, full_size=False)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "rig", prepare_ahead=False)
    yield rig
    rig.close()


@pytest.fixture
def run(rig: Rig) -> Iterator[Callable[[str], CaseView]]:
    """Declare a case complete, run it and return what the ledger then says."""
    workers: list[Worker] = []

    def go(case_id: str) -> CaseView:
        if not workers:
            workers.append(rig.worker())
        rig.queue(case_id)
        assert workers[0].step() is not None
        view = rig.ledger.read.case_view(case_id)
        assert view.case.state is CaseState.DELIVERED, view.case
        return view

    yield go
    for worker in workers:
        worker.close()


def reports(rig: Rig, view: CaseView) -> list[Dataset]:
    """The SRs of a revision."""
    found = [a.artefact for a in view.artefacts if a.artefact.kind == "sr"]
    return [dcmread(BytesIO(rig.spool.path(a.sha256).read_bytes())) for a in found]


def words(item: Dataset) -> str:
    """All text of an SR."""
    own = [str(item.TextValue)] if item.get("ValueType") == "TEXT" else []
    return "\n".join(own + [words(child) for child in item.get("ContentSequence", [])])


def one_breast(side: str) -> Callable[[Dataset], None]:
    """What a coil of one side makes of a slice: half the columns, and a Laterality."""

    def cut(ds: Dataset) -> None:
        middle = ds.Columns // 2
        pixels = ds.pixel_array
        half = pixels[:, :middle] if side == "R" else pixels[:, middle:]
        if side == "L":
            ds.ImagePositionPatient[0] = float(ds.ImagePositionPatient[0]) + middle * float(ds.PixelSpacing[1])
        ds.Columns, ds.PixelData, ds.Laterality = half.shape[1], half.tobytes(), side

    return cut


@pytest.mark.parametrize(("modality", "side"), [("MG", "L"), ("US", "R"), ("MR", "R"), ("MR", "L")])
def test_a_study_of_one_side_says_nothing_of_the_other(  # noqa: PLR0917 - fixtures and a table
    rig: Rig, run: Callable[[str], CaseView], truth: CaseTruth, tmp_path: Path, modality: str, side: str
) -> None:
    """A unilateral study: the other side is insufficient, in words, without a number, a picture or a modality to its name."""
    if modality == "MR":
        files = [changed(f, tmp_path / f.name, one_breast(side)) for f in pick(truth, "mr_")]
    else:
        files = pick(truth, f"{modality.lower()}_{side}")
    view = run(rig.arrive(files))
    other = {"R": "L", "L": "R"}[side]
    sides = {s["side"]: s for s in document(view)["sides"]}
    assert sides[side]["probability"] is not None
    assert sides[side]["modalities"] == [modality]
    assert (sides[other]["outcome"], sides[other]["probability"], sides[other]["modalities"]) == (
        "insufficient",
        None,
        [],
    )
    assert {image["side"] for image in document(view)["images"]} == {side}
    (report,) = reports(rig, view)
    names = {"R": ("Right axilla", "右侧腋窝"), "L": ("Left axilla", "左侧腋窝")}[other]
    said = document(view)["words"]
    not_read = ("NOT ANALYSED, the images of this side are not sufficient; this is not a negative result", "未分析")
    for language, name, why in zip(("en", "zh"), names, not_read, strict=True):
        lines = [line for line in said[language].splitlines() if name in line and why in line]
        assert len(lines) == 1, said[language]
    assert not_read[0] in words(report)


def named(report: Dataset) -> set[str]:
    """The documents that an SR names as its predecessors."""
    series = [s for study in report.get("PredecessorDocumentsSequence", []) for s in study.ReferencedSeriesSequence]
    return {str(one.ReferencedSOPInstanceUID) for s in series for one in s.ReferencedSOPSequence}


def test_each_change_is_a_revision_whose_report_names_the_one_before(
    rig: Rig, run: Callable[[str], CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """A corrected image, one that is taken out, one that comes back: four reports, each with its reason, no UID twice."""
    first, second = pick(truth, "mg_R")
    uid = str(dcmread(first, stop_before_pixels=True).SOPInstanceUID)
    now: Any = lambda: datetime.now(UTC)  # noqa: E731 - short for the test
    views = [run(rig.arrive([first, second]))]
    rig.arrive([changed(first, tmp_path / "x.dcm", lambda ds: setattr(ds, "SeriesDescription", "corrected"))])
    views.append(run(rig.ledger.decide(views[0].case.id, "accepted", "anna", now())))
    views.append(run(rig.ledger.exclude(views[0].case.id, uid, "EXCLUDED_POOR_QUALITY", "anna", now())))
    views.append(run(rig.ledger.restore(views[0].case.id, uid, "anna", now())))
    made = [reports(rig, view)[0] for view in views]
    uids = [str(report.SOPInstanceUID) for report in made]
    assert len(set(uids)) == 4
    assert [named(report) for report in made] == [set(), {uids[0]}, {uids[1]}, {uids[2]}]
    assert [REASONS["INPUT_REPLACED"].en in words(report) for report in made] == [False, True, True, True]
    assert [REASONS["EXCLUDED_POOR_QUALITY"].en in words(report) for report in made] == [False, False, True, False]
    kept = {i.instance.sha256 for i in views[0].inputs}
    assert {i.instance.sha256 for i in rig.ledger.read.case_view(views[0].case.id).inputs} == kept
    assert [rig.ledger.read.case(v.case.id).state for v in views] == [CaseState.SUPERSEDED] * 3 + [CaseState.DELIVERED]


def test_a_late_image_is_not_analysed_without_those_that_retention_took(rig: Rig, truth: CaseTruth) -> None:
    """The new revision stops, says which code and what to do in its study, and runs once the others were sent again."""
    first, late = pick(truth, "mg_R")
    rig.queue(case_id := rig.arrive([first]))
    worker = rig.worker()
    try:
        assert worker.step() is not None
        soon = datetime.now(UTC) + timedelta(hours=2)
        assert rig.ledger.let_go(Rule("images", 91, soon), 10, soon) == 1
        (leaving,) = rig.ledger.leaving(10)
        assert rig.spool.retire(leaving.sha256, soon.timestamp())
        rig.queue(revision := rig.arrive([late]))
        assert revision != case_id
        assert worker.step() is not None
        view = rig.ledger.read.case_view(revision)
        assert (view.case.state, view.case.reason) == (CaseState.NEEDS_ATTENTION, "IMAGES_REMOVED")
        assert "not-performed" in {row.artefact.kind for row in view.artefacts}
        assert "sr" not in {row.artefact.kind for row in view.artefacts}
        rig.arrive([first])
        rig.ledger.retry_case(revision, "anna", datetime.now(UTC))
        assert worker.step() is not None
        assert rig.ledger.read.case(revision).state is CaseState.DELIVERED
    finally:
        worker.close()
