"""Phantoms: reproducible, valid DICOM, with truth that fits the pixels, through the same preprocessing as serving."""

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from casework.modelspec import SLOTS
from casework.preprocess import mammography, mri, ultrasound
from casework.preprocess.facts import InstanceFacts
from casework.preprocess.prepared import VERSION
from casework.result import Side
from models.cman.phantom import dataset, mammogram
from models.cman.phantom.dicom import CaseTruth, main, write_case
from models.cman.phantom.patient import HOSPITALS, draw


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> CaseTruth:
    return write_case(tmp_path_factory.mktemp("case"), 7, full_size=False, series_per_phase=True)


def test_the_same_seed_gives_the_same_bytes(case: CaseTruth, tmp_path: Path) -> None:
    """A second run sends the same instances."""
    again = write_case(tmp_path, 7, full_size=False, series_per_phase=True)
    assert [p.read_bytes() for p in again.files] == [p.read_bytes() for p in case.files]


def test_another_seed_is_another_patient(case: CaseTruth, tmp_path: Path) -> None:
    """No UID, number or accession is shared between seeds."""
    other = write_case(tmp_path, 8, full_size=False)
    assert not set(other.studies.values()) & set(case.studies.values())
    assert not set(other.accessions.values()) & set(case.accessions.values())
    assert other.patient_id != case.patient_id
    assert not set(other.masks) & set(case.masks)


def test_a_case_is_three_studies_of_one_patient(case: CaseTruth) -> None:
    """MG, MR and US, each its own study and accession, all of the same patient and issuer."""
    headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in case.files]
    assert {(h.Modality, h.StudyInstanceUID, h.AccessionNumber) for h in headers} == {
        (m, case.studies[m], case.accessions[m]) for m in ("MG", "MR", "US")
    }
    assert len({(h.PatientID, h.IssuerOfPatientID, h.PatientBirthDate, h.PatientSex) for h in headers}) == 1
    assert len({h.SOPInstanceUID for h in headers}) == len(headers)
    assert len({h.SeriesInstanceUID for h in headers if h.Modality == "MR"}) == len(case.mr_slices) >= 4
    assert {h.NumberOfFrames for h in headers if "NumberOfFrames" in h} == {12}


def test_the_files_are_valid_dicom(case: CaseTruth) -> None:
    """The validator dciodvfy finds no error in any kind of file that a case holds."""
    kinds = {p.name.rsplit("_", 1)[0]: p for p in case.files}
    for path in (*kinds.values(), *(p for p in case.files if p.name.startswith(("mg", "us")))):
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False).stderr
        errors = [line for line in said.splitlines() if line.startswith("Error")]
        assert not errors, (path.name, errors)


@pytest.mark.parametrize(("word", "script"), [("utf8", "静"), ("gb18030", "丽"), ("japanese", "子"), ("latin", "è")])
def test_names_survive_in_their_script(word: str, script: str, tmp_path: Path) -> None:
    """The name read back from a file is the one that was meant, in every character set."""
    truth = write_case(tmp_path, 3, full_size=False, character_set=word)
    name = pydicom.dcmread(truth.files[0], stop_before_pixels=True).PatientName
    assert str(name).rstrip("=") == truth.patient_name.rstrip("=")
    assert script in str(name)


def test_mammograms_show_their_lesions_where_the_truth_says(case: CaseTruth) -> None:
    """Through decode and preprocessing, the tensor is brighter inside the truth mask than around it."""
    found = 0
    for path in case.files[:4]:
        ds = pydicom.dcmread(path)
        image = mammography.prepare(ds.pixel_array, InstanceFacts.from_dataset(ds), 112)
        inside = dataset.flat_truth(image, case.masks[ds.SOPInstanceUID], 112) & mammogram.LESION > 0
        assert inside.sum() > 20
        found += image.tensor[0][inside].mean() > image.tensor[0][(image.tensor[0] > 0) & ~inside].mean() + 0.1
        assert image.notes["orientation"] == "as usual"
    assert found == 4


def test_mri_shows_its_lesions_where_the_truth_says(case: CaseTruth) -> None:
    """Classic slices, one series a phase: projections are brighter inside the projected truth, slices are the truth's."""
    paths = [p for p in case.files if p.name.startswith("mr")]
    data = [pydicom.dcmread(p) for p in paths]
    facts = [InstanceFacts.from_dataset(ds) for ds in data]
    prepared = mri.prepare([ds.pixel_array for ds in data], facts, 112)
    assert not prepared.findings
    for (_, slot), image in prepared.images.items():
        inside = dataset.projected_truth(image, case.mr_mask, 112) & mammogram.LESION > 0
        larger = np.maximum(image.tensor[1], image.tensor[2])
        if slot in ("AX", "SAG"):
            assert larger[inside].mean() > larger[~inside].mean() + 0.15
        assert set(image.sources) == set(case.mr_slices[1])


def test_an_enhanced_object_is_valid_and_gives_the_same_tensors(case: CaseTruth, tmp_path: Path) -> None:
    """The same phases as one Enhanced MR: no validator error, and the network can't tell the difference."""
    truth = write_case(tmp_path, 7, full_size=False, enhanced=True)
    path = tmp_path / "mr_enhanced.dcm"
    said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False).stderr
    assert not [line for line in said.splitlines() if line.startswith("Error")], said
    one = pydicom.dcmread(path)
    new = mri.prepare([one.pixel_array], [InstanceFacts.from_dataset(one)], 64)
    slices = [pydicom.dcmread(p) for p in case.files if p.name.startswith("mr")]
    old = mri.prepare([ds.pixel_array for ds in slices], [InstanceFacts.from_dataset(ds) for ds in slices], 64)
    assert not new.findings
    for key, image in old.images.items():
        np.testing.assert_allclose(image.tensor, new.images[key].tensor, atol=1e-4)
        assert new.images[key].sources == (one.SOPInstanceUID,) == tuple(set(truth.mr_slices[0]))


def test_ultrasound_shows_its_node_where_the_truth_says(case: CaseTruth) -> None:
    """The cortex is darker than what lies around the node; the cine's frames carry their own truth."""
    for path in (p for p in case.files if p.name.startswith("us") and "lesion" not in p.name):
        ds = pydicom.dcmread(path)
        mask = case.masks[ds.SOPInstanceUID]
        for image in ultrasound.prepare(ds.pixel_array, InstanceFacts.from_dataset(ds), 112).images.values():
            flat = mask if mask.ndim == 2 else mask[image.frame_number - 1]
            inside = dataset.flat_truth(image, flat, 112) & mammogram.NODE > 0
            rim = inside & ~(
                np.roll(inside, 6, 0) & np.roll(inside, -6, 0) & np.roll(inside, 6, 1) & np.roll(inside, -6, 1)
            )
            assert image.side is Side(ds.Laterality)
            assert image.tensor[0][rim].mean() < image.tensor[0][~inside].mean()


def test_full_size_is_what_hospitals_send() -> None:
    """Mammograms of 4096 x 3328 with 12 bits, air black."""
    patient = draw(5)
    image = mammogram.render(patient, patient.breasts[0], "CC", mammogram.FULL_SHAPE[0])
    assert image.stored.shape == mammogram.FULL_SHAPE
    assert image.stored.max() < 2**mammogram.BITS


def test_the_label_needs_both_signs_in_one_lesion() -> None:
    """Over many draws, risk is high where a lesion is both, and low where the signs lie in different lesions."""
    sides = [b for seed in range(400) for b in draw(seed).breasts]
    matched = [b.risk for b in sides if any(n.spiculated and n.washout for n in b.lesions)]
    apart = [
        b.risk
        for b in sides
        if any(n.spiculated for n in b.lesions)
        and any(n.washout for n in b.lesions)
        and not any(n.spiculated and n.washout for n in b.lesions)
    ]
    assert np.mean(matched) > np.mean(apart) + 0.3
    drawn = np.array([b.metastasis for b in sides])
    assert abs(drawn.mean() - np.mean([b.risk for b in sides])) < 0.05


def test_a_training_set_has_the_promised_form(tmp_path: Path) -> None:
    """Shapes, table and version as the README says; truth is the masks made coarser; workers don't change it."""
    dataset.main(["--cases", "3", "--seed", "9", "--size", "64", "--out", str(tmp_path / "a"), "--workers", "2"])
    rows = list(csv.DictReader((tmp_path / "a" / "sides.csv").read_text().splitlines()))
    assert [r["side"] for r in rows] == ["R", "L"] * 3
    assert [int(r["seed"]) for r in rows] == [9_000_000, 9_000_000, 9_000_001, 9_000_001, 9_000_002, 9_000_002]
    assert json.loads((tmp_path / "a" / "about.json").read_text())["preprocess"] == VERSION
    for modality, slots in SLOTS.items():
        low = modality.lower()
        images = np.load(tmp_path / "a" / f"images_{low}.npy")
        masks, truth = (np.load(tmp_path / "a" / f"{name}_{low}.npy") for name in ("masks", "truth"))
        assert images.shape == (6, len(slots), dataset.CHANNELS[modality], 64, 64)
        assert (masks.shape, truth.shape) == ((6, len(slots), 16, 16), (6, len(slots), 8, 8))
        assert np.array_equal(dataset.any_bits(masks, 2), truth)
        assert images.max() > 100
    alone = dataset.samples(9_000_001, 64, HOSPITALS["A"])
    together = np.load(tmp_path / "a" / "images_mr.npy")[2:4]
    np.testing.assert_array_equal(together, np.stack([s.images["MR"] for s in alone]))


def test_the_other_hospital_differs() -> None:
    """Hospital B has other vendors, and the same seed gives another look and another number."""
    a, b = draw(11), draw(11, HOSPITALS["B"])
    assert b.mg_vendor in HOSPITALS["B"].mg_vendors
    assert HOSPITALS["A"].mg_vendors != HOSPITALS["B"].mg_vendors
    assert a.breasts[0].risk > b.breasts[0].risk


def test_the_command_names_the_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line writes a case and prints each study's accession and UID."""
    main(["--seed", "4", "--small", "--out", str(tmp_path), "--character-set", "gb18030"])
    said = capsys.readouterr().out
    headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in tmp_path.glob("*_000.dcm")]
    assert headers
    assert all(h.AccessionNumber in said and h.StudyInstanceUID in said for h in headers)
