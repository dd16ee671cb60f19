"""The rejection note: what it names, in which study, with which title; validators find nothing; its own check refuses lies."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from casework.case import RETRACTIONS
from casework.config import Report
from casework.errors import Defect
from casework.report import Rendered, check_rejection, render, render_rejection
from tests.conformance.studies import NOW, make
from tests.conformance.test_validators import complaints, readable, tool

CODES = dict(zip(RETRACTIONS, ("113001", "113037", "113038", "113039"), strict=True))


def objects(charset: str = "utf8") -> list[Dataset]:
    """The SR and captures of one mammography study, as they were rendered."""
    case = make(charset, modalities=("MG",))
    rendered = render(case.result, case.sources, Report(), NOW)
    return [dcmread(BytesIO(r.data), stop_before_pixels=True) for r in rendered if r.media_type == "application/dicom"]


@pytest.mark.parametrize("charset", ["utf8", "gb18030", "gbk", "ir58", "ir87", "latin1", "none", "mislabelled"])
def test_validators_find_nothing(tmp_path: Path, charset: str) -> None:
    """In every character set dciodvfy, dsrdump and dcentvfy (beside what it withdraws) have no complaint."""
    mine = objects(charset)
    note = render_rejection("c1", "RETRACTED_SAFETY", mine, "zh", NOW)
    paths = []
    for n, data in enumerate([note.data, *(_bytes(o) for o in mine if o.Modality == "SR")]):
        paths.append(tmp_path / f"{'note' if n == 0 else 'sr'}{n}.dcm")
        paths[-1].write_bytes(data)
    shown = readable(paths, charset, tmp_path / "readable") if charset.startswith("gb") else paths
    done = tool("dciodvfy", "-new", shown[0])
    assert complaints(done.stderr + done.stdout) == []
    done = tool("dsrdump", paths[0])
    assert (done.returncode, "E:" in done.stderr) == (0, False), done.stderr
    done = tool("dcentvfy", *readable(paths, charset, tmp_path / "both"))
    errors = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")]
    assert [line for line in errors if "note" in line] == []


def test_pixelmed_knows_the_template(tmp_path: Path) -> None:
    """PixelMed's validator reads the note as a valid Key Object Selection of TID 2010."""
    jar = Path("/usr/share/java/pixelmed.jar")
    if not jar.exists():
        pytest.fail("pixelmed is missing: apt-get install libpixelmed-java")
    path = tmp_path / "note.dcm"
    path.write_bytes(render_rejection("c1", "RETRACTED_QUALITY", objects(), "en", NOW).data)
    limits = [f"-Djdk.xml.xpath{name}Limit=0" for name in ("TotalOp", "ExprGrp", "ExprOp")]
    command = ["java", *limits, "-cp", str(jar), "com.pixelmed.validate.DicomSRValidator", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    said = done.stdout + done.stderr
    assert "Found Root Template TID_2010 (KeyObjectSelection)" in said, said
    assert not [line for line in said.splitlines() if line.startswith(("Error", "Warning"))], said


@pytest.mark.parametrize("code", RETRACTIONS)
def test_it_names_every_object_in_its_study(code: str) -> None:
    """The title is the reason's code; every object is in the evidence and in the tree, images and reports as such."""
    mine = objects()
    note = render_rejection("c1", code, mine, "en", NOW)
    ds = dcmread(BytesIO(note.data))
    assert (ds.ConceptNameCodeSequence[0].CodeValue, ds.Modality) == (CODES[code], "KO")
    assert ds.StudyInstanceUID == mine[0].StudyInstanceUID
    kinds = {
        i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID: i.ValueType
        for i in ds.ContentSequence
        if "ReferencedSOPSequence" in i
    }
    assert kinds == {o.SOPInstanceUID: "COMPOSITE" if o.Modality == "SR" else "IMAGE" for o in mine}
    assert ds.PatientName == mine[0].PatientName
    assert ds.PatientID == mine[0].PatientID


def test_the_same_decision_has_the_same_identifiers() -> None:
    """UIDs derive from case, reason and objects: in any order the same, for another reason or set others."""
    mine = objects()
    one = render_rejection("c1", "RETRACTED_SAFETY", mine, "en", NOW)
    assert render_rejection("c1", "RETRACTED_SAFETY", mine, "en", NOW).data == one.data
    others = [
        render_rejection("c1", "RETRACTED_SAFETY", mine[::-1], "en", NOW),
        render_rejection("c1", "RETRACTED_QUALITY", mine, "en", NOW),
        render_rejection("c1", "RETRACTED_SAFETY", mine[:-1], "en", NOW),
        render_rejection("c2", "RETRACTED_SAFETY", mine, "en", NOW),
    ]
    assert [other.sop_instance_uid == one.sop_instance_uid for other in others] == [True, False, False, False]


def _title(ds: Dataset) -> None:
    ds.ConceptNameCodeSequence[0].CodeValue = "113039"


def _patient(ds: Dataset) -> None:
    ds.PatientID = "OTHER"


def _study(ds: Dataset) -> None:
    ds.StudyInstanceUID = "1.2.3"


def _item(ds: Dataset) -> None:
    del ds.ContentSequence[-1]


def _evidence(ds: Dataset) -> None:
    del ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]


def _accession(ds: Dataset) -> None:
    ds.AccessionNumber = "X"


@pytest.mark.parametrize("lie", [_title, _patient, _study, _item, _evidence, _accession])
def test_the_check_refuses_a_lie(lie: Callable[[Dataset], None]) -> None:
    """A note with another title, patient, study or accession, or with an object missing, is not sent."""
    mine = objects()
    note = render_rejection("c1", "RETRACTED_SAFETY", mine, "en", NOW)
    check_rejection(note, "RETRACTED_SAFETY", mine)
    ds = dcmread(BytesIO(note.data))
    lie(ds)
    with pytest.raises(Defect, match="RESULT_SELF_CHECK"):
        check_rejection(_with(note, ds), "RETRACTED_SAFETY", mine)


def test_objects_of_two_studies_are_refused() -> None:
    """A note over objects of two studies, or of two patients, is a defect and never a document."""
    mine = objects()
    mine[-1].StudyInstanceUID = "1.2.3"
    with pytest.raises(Defect, match="RESULT_SELF_CHECK"):
        render_rejection("c1", "RETRACTED_SAFETY", mine, "en", NOW)


def _with(note: Rendered, ds: Dataset) -> Rendered:
    return replace(note, data=_bytes(ds))


def _bytes(ds: Dataset) -> bytes:
    file = BytesIO()
    dcmwrite(file, ds, enforce_file_format=True)
    return file.getvalue()
