"""Nothing is dropped without a word: what is missing, kept aside or in doubt stands in the report."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from casework.case import CaseState
from casework.entrypoints.infer_worker import Worker
from casework.ledger import CaseView
from casework.preprocess.select import choose
from casework.reasons import REASONS
from models.cman.phantom.dicom import CaseTruth, write_case
from tests.analyse.dicoms import facts
from tests.analyse.rig import Rig, changed


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
    """Queue a case, run it and return what the ledger then says."""
    workers: list[Worker] = []

    def go(case_id: str) -> CaseView:
        rig.queue(case_id)
        workers.append(rig.worker())
        assert workers[-1].step() is not None
        return rig.ledger.read.case_view(case_id)

    yield go
    for worker in workers:
        worker.close()


def pick(truth: CaseTruth, *starts: str) -> list[Path]:
    return [f for f in truth.files if f.name.startswith(starts)]


def report(rig: Rig, view: CaseView) -> str:
    """All words of the first report."""
    sr = next(a.artefact for a in view.artefacts if a.artefact.kind == "sr")
    ds = dcmread(BytesIO(rig.spool.path(sr.sha256).read_bytes()))

    def words(item: Dataset) -> Iterator[str]:
        if item.get("ValueType") == "TEXT":
            yield str(item.TextValue)
        for child in item.get("ContentSequence", []):
            yield from words(child)

    return "\n".join(words(ds))


def test_images_that_never_came_stand_in_the_report(rig: Rig, run: Callable[[str], CaseView], truth: CaseTruth) -> None:
    """A case that ran short of the PACS's count says so to its reader; one that became whole in the end doesn't."""
    study = truth.studies["MG"]
    case_id = rig.arrive(pick(truth, "mg_R"))
    rig.ledger.set_expected(case_id, study, 4, "pacs:P", datetime.now(UTC))
    view = run(case_id)
    assert view.case.state is CaseState.DELIVERED
    assert REASONS["COUNT_INCOMPLETE"].en in report(rig, view)
    assert ("COUNT_INCOMPLETE", study, "2 of 4") in {(f.code, f.subject, f.detail) for f in view.findings}
    whole = run(rig.arrive(pick(truth, "mg_L")))
    assert whole.case.revision == 2
    assert REASONS["COUNT_INCOMPLETE"].en not in report(rig, whole)


def test_an_image_that_was_kept_aside_stands_in_the_report(
    rig: Rig, run: Callable[[str], CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """A corrected copy under the same UID is not used: the reader of this and of later revisions is told."""
    (first, second) = pick(truth, "mg_R")
    case_id = rig.arrive([first])
    rig.arrive([changed(first, tmp_path / "x.dcm", lambda ds: setattr(ds, "ImageLaterality", "L"))])
    assert REASONS["SIDE_CHANGED"].en in report(rig, run(case_id))
    later = run(rig.arrive([second]))
    assert later.case.revision == 2
    assert REASONS["SIDE_CHANGED"].en in report(rig, later)


def test_images_of_different_days_stand_in_the_report(
    rig: Rig, run: Callable[[str], CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """One view from last month and one from today are read together, and the reader is told."""
    (first, second) = pick(truth, "mg_R")
    today = str(dcmread(first, stop_before_pixels=True).StudyDate)

    def last_month(ds: Dataset) -> None:
        ds.StudyDate = (
            f"{int(today[:6]) - 1}{today[6:]}" if today[4:6] != "01" else f"{int(today[:4]) - 1}12{today[6:]}"
        )
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.4", "1.2.3.4.5"

    view = run(rig.arrive([changed(first, tmp_path / "x.dcm", last_month), second]))
    assert REASONS["SEVERAL_DAYS"].en in report(rig, view)
    (found,) = [f for f in view.findings if f.code == "SEVERAL_DAYS"]
    assert (found.subject, found.detail.endswith(f", {today}")) == ("MG", True)


def mirrored(ds: Dataset) -> None:
    """The picture mirrored, the header as it was: what a wrong side looks like."""
    pixels = np.ascontiguousarray(ds.pixel_array[:, ::-1])
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OW", False


def test_a_mammogram_of_the_other_side_stops_the_case(
    rig: Rig, run: Callable[[str], CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """The chest wall at the other edge than side and orientation both say: no answer, a person is asked, the study told."""
    (first, second) = pick(truth, "mg_R")
    view = run(rig.arrive([changed(first, tmp_path / "x.dcm", mirrored), second]))
    uid = dcmread(first, stop_before_pixels=True).SOPInstanceUID
    assert (view.case.state, view.case.reason) == (CaseState.NEEDS_ATTENTION, "SIDE_PIXELS_CONFLICT")
    assert ("SIDE_PIXELS_CONFLICT", uid) in {(f.code, f.subject) for f in view.findings}
    assert [a.artefact.kind for a in view.artefacts] == ["not-performed"]


def test_a_mammogram_that_looks_like_the_other_side_stands_in_the_report(
    rig: Rig, run: Callable[[str], CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """The chest wall at the unusual edge, and no orientation stated: the reader is told to check the side."""

    def unstated(ds: Dataset) -> None:
        mirrored(ds)
        del ds.PatientOrientation

    (first, second) = pick(truth, "mg_R")
    view = run(rig.arrive([changed(first, tmp_path / "x.dcm", unstated), second]))
    uid = dcmread(first, stop_before_pixels=True).SOPInstanceUID
    assert [f.subject for f in view.findings if f.code == "ORIENTATION_UNEXPECTED"] == [uid]
    assert REASONS["ORIENTATION_UNEXPECTED"].en in report(rig, view)


def test_an_mri_of_uncertain_sides_is_left_out_and_told(
    rig: Rig, run: Callable[[str], CaseView], truth: CaseTruth, tmp_path: Path
) -> None:
    """A field of view beside the midline: the mammograms are read, the MRI is named with its reason."""

    def beside(ds: Dataset) -> None:
        ds.ImagePositionPatient[0] += 120

    moved = [changed(f, tmp_path / f.name, beside) for f in pick(truth, "mr")]
    view = run(rig.arrive([*pick(truth, "mg_R"), *moved]))
    words = report(rig, view)
    assert REASONS["SIDES_UNCERTAIN"].en in words
    assert REASONS["MODALITY_MISSING"].en in words
    told = [i.artefact.kind for i in view.artefacts if i.artefact.study_instance_uid == truth.studies["MR"]]
    assert told == ["not-performed"], "silence would read as negative"


@pytest.mark.parametrize("windowed", [True, False])
def test_a_grey_scale_beyond_numbers_costs_the_image_only(
    rig: Rig, run: Callable[[str], CaseView], truth: CaseTruth, tmp_path: Path, windowed: bool
) -> None:
    """An infinite rescale leaves the image out with its reason; the rest of the case is still read."""

    def endless(ds: Dataset) -> None:
        ds.RescaleSlope = "1e300"
        for keyword in () if windowed else ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"):
            if keyword in ds:
                delattr(ds, keyword)

    (first, second) = pick(truth, "mg_R")
    view = run(rig.arrive([changed(first, tmp_path / "x.dcm", endless), second]))
    assert view.case.state is CaseState.DELIVERED
    uid = dcmread(first, stop_before_pixels=True).SOPInstanceUID
    assert [f.code for f in view.findings if f.subject == uid] == ["IMAGE_BLANK" if windowed else "PIXELS_UNDECODABLE"]


BORN: dict[str, Any] = {"patient_birth_date": "19600101"}


@pytest.mark.parametrize(
    ("one", "other", "stop"),
    [
        ({"patient_name": "Doe^Jane"}, {"patient_name": "Smith^Mary"}, "PATIENT_IDENTITY_CONFLICT"),
        ({"patient_name": "Doe^Jane", **BORN}, {"patient_name": "Smith^Mary"}, "PATIENT_IDENTITY_CONFLICT"),
        ({"patient_name": "Doe^Jane", **BORN}, {"patient_name": "Smith^Mary", **BORN}, ""),
        ({"patient_name": "Doe^Jane"}, {"patient_name": "SMITH^JANE"}, ""),
        ({"patient_name": "Doe^Jane"}, {}, ""),
    ],
)
def test_two_names_under_one_id_need_the_same_birth_date(one: dict[str, Any], other: dict[str, Any], stop: str) -> None:
    """IDs that many patients share (ANONYMOUS, 0) must not mix two patients in one report."""
    assert (
        choose([facts(sop_instance_uid="a", **one), facts(sop_instance_uid="b", laterality="L", **other)]).stop == stop
    )
