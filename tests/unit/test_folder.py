"""Training on a folder of DICOM and a table of labels: the served images, and no fault passes in silence."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from casework.modelspec import SLOTS
from casework.preprocess import mammography
from casework.preprocess.decode import decode
from casework.preprocess.facts import InstanceFacts
from models.cman import folder
from models.cman.data import open_sides
from models.cman.phantom import dataset
from models.cman.phantom.dicom import CaseTruth, write_case
from models.cman.phantom.patient import HOSPITALS

SIZE = 112


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CaseTruth]:
    out = tmp_path_factory.mktemp("dicom")
    truth = write_case(out, 12, full_size=False)
    (out / "notes.txt").write_text("not DICOM")
    return out, truth


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(("patient,side,label", *rows)) + "\n", "utf-8")
    return path


def test_a_folder_becomes_the_set_that_serving_would_see(case: tuple[Path, CaseTruth], tmp_path: Path) -> None:
    """Labels by side, every slot filled, pixels those of the service's own preparation, and no truth made up."""
    dicom, truth = case
    labels = table(tmp_path / "labels.csv", f"{truth.patient_id},R,1", f"{truth.patient_id},L,0")
    assert folder.write(dicom, labels, tmp_path / "train-1", SIZE) == 2
    sides = open_sides(tmp_path / "train-1")
    assert not sides.known
    assert sides.label.tolist() == [1, 0]
    assert all(sides.masks[m].all() for m in SLOTS)
    assert not any(sides.truth[m].any() for m in SLOTS)
    path = next(p for p in truth.files if p.name == "mg_L_MLO.dcm")
    facts = InstanceFacts.from_dataset(pydicom.dcmread(path, stop_before_pixels=True))
    decoded = decode(path, reduce=mammography.reduction(facts.rows, facts.columns), frames=[0])
    image = mammography.prepare(decoded.pixels[0], facts, SIZE, reduce=decoded.reduce)
    assert np.array_equal(sides.images["MG"][1, SLOTS["MG"].index("MLO")], np.rint(image.tensor * 255))


def test_phantoms_drawn_small_look_like_those_read_from_dicom(case: tuple[Path, CaseTruth], tmp_path: Path) -> None:
    """The training sets' short way (no files) gives tensors of the same tone and spread, slot by slot, as the long one."""
    dicom, truth = case
    labels = table(tmp_path / "labels.csv", f"{truth.patient_id},R,1", f"{truth.patient_id},L,0")
    folder.write(dicom, labels, tmp_path / "set", SIZE)
    read = open_sides(tmp_path / "set")
    for row, sample in enumerate(dataset.samples(12, SIZE, HOSPITALS["A"])):
        for modality, slots in SLOTS.items():
            for n, slot in enumerate(slots):
                a = np.asarray(read.images[modality][row, n], np.float64)
                b = np.asarray(sample.images[modality][n], np.float64)
                for what, x, y in (("mean", a.mean(), b.mean()), ("spread", a.std(), b.std())):
                    assert abs(x - y) < 12, (modality, slot, what, x, y)  # of 255


def test_every_fault_is_named_at_once_and_nothing_is_written(case: tuple[Path, CaseTruth], tmp_path: Path) -> None:
    """Conflicts, missing labels, missing images and senseless rows are one list, not one run each."""
    dicom, truth = case
    me = truth.patient_id
    labels = table(tmp_path / "l.csv", "nobody,R,1", f"{me},B,1", f"{me},L,2", "other,L,0", "other,L,1")
    with pytest.raises(folder.Faulty) as caught:
        folder.write(dicom, labels, tmp_path / "set", SIZE)
    words = "\n".join(caught.value.faults)
    for part in ("line 3", "line 4", "other side L has two labels", "nobody side R: a label but no image"):
        assert part in words
    assert f"patient {me}: images but no label" in words
    assert not list(tmp_path.glob("set*"))


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    """The missing column is named."""
    path = tmp_path / "l.csv"
    path.write_text("patient,label\na,1\n")
    assert folder.read_labels(path) == ({}, ["l.csv: no column side"])


def test_one_image_under_two_patients_is_a_fault(case: tuple[Path, CaseTruth], tmp_path: Path) -> None:
    """An export that gives a patient's image a second ID would leak it into two splits."""
    dicom, truth = case
    shutil.copy(truth.files[0], tmp_path / "a.dcm")
    ds = pydicom.dcmread(dicom / truth.files[0].name)
    ds.PatientID = "SOMEONE-ELSE"
    ds.save_as(tmp_path / "b.dcm")
    _, faults = folder.read_headers(tmp_path)
    assert len(faults) == 1
    assert "same image under two patients" in faults[0]


def test_a_patient_or_study_in_two_splits_is_refused(tmp_path: Path) -> None:
    """Leakage by patient, and by study where the patient has two IDs."""
    for name, patient, study in (("train-1", "a", "1.2"), ("val", "a", "1.3"), ("test", "b", "1.3")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sides.csv").write_text(f"row,patient,side,studies\n0,{patient},R,{study}\n")
    folder.check_splits([tmp_path / "train-1", tmp_path / "test"])
    with pytest.raises(folder.Faulty) as caught:
        folder.check_splits([tmp_path / n for n in ("train-1", "val", "test")])
    assert caught.value.faults == ("patient a is in train-1, val", "study 1.3 is in test, val")
