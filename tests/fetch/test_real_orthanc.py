"""Fetching from a real Orthanc, each way it offers: QIDO and WADO-RS, C-FIND and C-MOVE, C-GET; as stored, JPEG 2000 too."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, generate_uid

from casework.case import CandidateState
from casework.config import Destination
from casework.dicom.retrieve import offers
from tests.fetch.rig import FAST, FetchRig, breast, fill
from tests.simulators.orthanc import Orthanc, free_port, running

C = CandidateState


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Orthanc, int]]:
    """An Orthanc that knows CMAN at a port of ours."""
    port = free_port()
    with running(tmp_path_factory.mktemp("fetch") / "orthanc", route=False, cman_port=port) as orthanc:
        yield orthanc, port


def compressed(ds: Dataset) -> Dataset:
    """The image in JPEG 2000."""
    pixels = (np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) * 3) % 251
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelData = pixels.tobytes()
    ds.compress(JPEG2000Lossless, pixels, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    return ds


def destination(kind: str, orthanc: Orthanc) -> Destination:
    if kind == "wado":
        return Destination("o", kind="stow", url=orthanc.url, retrieve="wado")
    return Destination("o", ae_title=orthanc.aet, port=orthanc.port, retrieve=kind)


@pytest.mark.parametrize("kind", ["wado", "move", "get"])
def test_siblings_come_as_they_are_stored(kind: str, there: tuple[Orthanc, int], tmp_path: Path) -> None:
    """A case's missing MR and US are found and fetched in the syntax that Orthanc holds; a CT, a knee and results are not."""
    orthanc, port = there
    patient = f"P-{kind}"
    mr_study, mr_series = generate_uid(), generate_uid()
    mr = [breast("MR", PatientID=patient, StudyInstanceUID=mr_study, SeriesInstanceUID=mr_series) for _ in range(3)]
    mr[0] = compressed(mr[0])
    us = breast("US", PatientID=patient, StudyDate="20260201")
    report = breast("SR", PatientID=patient, StudyInstanceUID=mr_study)
    knee = breast("MR", PatientID=patient, BodyPartExamined="KNEE")
    old = breast("MR", PatientID=patient, StudyDate="20240101")
    stranger = breast("US", PatientID=patient, PatientBirthDate="19800505")
    fill(orthanc.port, tmp_path / "out", *mr, us, report, knee, old, stranger, aet=orthanc.aet)
    rig = FetchRig(tmp_path / "rig", destination(kind, orthanc), rules=FAST)
    try:
        if kind == "move":
            rig.listen(port)
        case_id = rig.arrives(breast("MG", PatientID=patient))
        rig.run()
        told = rig.told(case_id)
        assert told[mr_study] == told[us.StudyInstanceUID] == (C.FETCHED, "FETCHED"), rig.candidates(case_id)
        assert told[knee.StudyInstanceUID] == (C.REJECTED, "FETCH_BODY_PART")
        assert told[old.StudyInstanceUID] == (C.REJECTED, "FETCH_OUTSIDE_WINDOW")
        assert told[stranger.StudyInstanceUID] == (C.REJECTED, "FETCH_OTHER_PATIENT")
        held = rig.images(case_id)
        assert {str(ds.SOPInstanceUID): str(ds.file_meta.TransferSyntaxUID) for ds in (*mr, us)}.items() <= held.items()
        assert len(held) == 5
    finally:
        rig.close()


def coded(value: str, meaning: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return [item]


@pytest.mark.parametrize("kind", ["wado", "get"])
def test_an_index_that_says_nothing_is_looked_behind(kind: str, there: tuple[Orthanc, int], tmp_path: Path) -> None:
    """No body part, no description: one image's coil, region, protocol or order tells a breast from a heart and a neck."""
    orthanc, _ = there
    patient = f"S-{kind}"
    unsaid = {"PatientID": patient, "BodyPartExamined": ""}
    order = Dataset()
    order.RequestedProcedureDescription = "Contrast MRI of both breasts"
    wanted = [
        breast("MR", ReceiveCoilName="Breast 18", BodyPartExamined="CHEST", PatientID=patient),
        breast("US", AnatomicRegionSequence=coded("91470000", "Axilla"), **unsaid),
        breast("MR", ProtocolName="Mamma_dyn_3D", **unsaid),
        breast("MR", RequestAttributesSequence=[order], **unsaid),
        breast("US", AccessionNumber="ORDER-7", **unsaid),
    ]
    others = [
        breast("MR", ReceiveCoilName="Body 18", ProtocolName="cine sax", BodyPartExamined="CHEST", PatientID=patient),
        breast("US", **unsaid),
    ]
    neck = breast("US", AnatomicRegionSequence=coded("45048000", "Neck"), **unsaid)
    fill(orthanc.port, tmp_path / "out", *wanted, *others, neck, aet=orthanc.aet)
    rig = FetchRig(tmp_path / "rig", destination(kind, orthanc), rules=FAST)
    try:
        case_id = rig.arrives(breast("MG", PatientID=patient, AccessionNumber="ORDER-7"))
        rig.run()
        told = rig.told(case_id)
        assert [told[ds.StudyInstanceUID] for ds in wanted] == [(C.FETCHED, "FETCHED")] * 5, rig.candidates(case_id)
        assert {told[ds.StudyInstanceUID] for ds in (*others, neck)} == {(C.REJECTED, "FETCH_NOT_BREAST")}
    finally:
        rig.close()


@pytest.mark.parametrize("kind", ["wado", "move", "get"])
def test_what_is_configured_is_offered(kind: str, there: tuple[Orthanc, int]) -> None:
    """The doctor's question, which fetches nothing: Orthanc offers each way, and moves to no title that it doesn't know."""
    orthanc, _ = there
    assert offers(destination(kind, orthanc), "CMAN") == ""
    if kind == "move":
        assert offers(destination(kind, orthanc), "STRANGER") == "PEER_OUTCOME_UNKNOWN"  # it hangs up
