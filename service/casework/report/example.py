"""An invented case, to be rendered and forgotten when a worker starts: it loads the tables that the first real one needs.

Does no I/O.
"""

from datetime import UTC, datetime

import numpy as np
from pydicom.dataset import Dataset

from casework.case import derive_uid
from casework.result import CaseResult, Finding, HeatImage, ModelIdentity, Outcome, Side, SideResult

_MAMMOGRAM = "1.2.840.10008.5.1.4.1.1.1.2"


def example(model: ModelIdentity) -> tuple[CaseResult, dict[str, Dataset]]:
    """A result of one mammogram a side, and the headers of these."""
    sources = {str(s.SOPInstanceUID): s for s in (_source(side) for side in Side)}
    result = CaseResult(
        case_id="example",
        revision=1,
        model=model,
        sides=(
            SideResult(Side.RIGHT, Outcome.POSITIVE, 0.9, {"MG": 1.0}, ("MG",)),
            SideResult(Side.LEFT, Outcome.INDETERMINATE, 0.5, {"MG": 0.1}, ("MG",)),
        ),
        images=tuple(_image(Side(str(s.ImageLaterality)), s) for s in sources.values()),
        findings=(Finding("MODALITY_MISSING", "MR"),),
        input_digest="example",
        thresholds={"positive_at": 0.8, "negative_below": 0.2},
    )
    return result, sources


def _source(side: Side) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = _MAMMOGRAM, derive_uid("example", side.value)
    ds.StudyInstanceUID, ds.SeriesInstanceUID = derive_uid("example", "study"), derive_uid("example", "series")
    ds.PatientID, ds.PatientName, ds.StudyDate = "EXAMPLE", "EXAMPLE", f"{datetime(2026, 1, 1, tzinfo=UTC):%Y%m%d}"
    ds.Modality, ds.ImageLaterality, ds.ViewPosition = "MG", side.value, "MLO"
    ds.Rows, ds.Columns = 64, 48
    return ds


def _image(side: Side, source: Dataset) -> HeatImage:
    heat = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(64, 48)
    return HeatImage(
        side=side,
        modality="MG",
        view="MLO",
        study_instance_uid=str(source.StudyInstanceUID),
        sources=(str(source.SOPInstanceUID),),
        frame_number=1,
        picture=(heat * 255).astype(np.uint8),
        heat=heat,
        to_source=np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        region=np.array([[40.0, 10.0], [60.0, 10.0], [60.0, 40.0]]),
        peak=(63.0, 47.0),
    )
