"""The pictures of docs/heatmaps.md: `python -m tests.conformance.pictures` of a phantom patient, `--real` of public mammograms.

The real ones (CBIS-DDSM, CC BY 3.0) lie in the folder that CASEWORK_SHARED names and go through the whole analysis.
"""

import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from pydicom.dataset import Dataset

from casework.report import capture
from tests.analyse.rig import MODELS, Rig, changed
from tests.conformance.phantoms import make_phantom

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
SHOWN = {("MG", "R", "MLO"): "heatmap-mg", ("MR", "R", "AX"): "heatmap-mr", ("US", "R", "1"): "heatmap-us"}
SHOWN[("MG", "L", "CC")] = "heatmap-cold"
REAL = ("LCC", "LMLO", "RCC", "RMLO")  # of which the documents show the MLO


def main() -> None:
    """Draw and write them, at 60 %: fewer colours would falsify the scale."""
    if "--real" in sys.argv:
        real(Path(os.environ["CASEWORK_SHARED"]) / "data")
        return
    with tempfile.TemporaryDirectory() as folder:
        case = make_phantom(Path(folder), 5, full_size=False, character_set="utf8")
    for image in case.result.images:
        name = SHOWN.get((image.modality, image.side.value, image.view))
        if name:
            source = case.sources[image.sources[0]]
            write(capture.draw(case.result, image, source, "revision 1, 2026-11-20 09:30"), name)


def real(folder: Path) -> None:
    """Four views of one woman through the analysis: what her report's pictures show."""

    def one_study(ds: Dataset) -> None:
        """The collection gives each view a patient and a study of its own."""
        ds.PatientID, ds.PatientName, ds.StudyInstanceUID = "CBIS-DDSM", "", "2.25.1"

    with tempfile.TemporaryDirectory() as place:
        rig = Rig(Path(place), model=MODELS / "cman")
        files = [changed(folder / f"mg_case_sfm_malign_{v}.dcm", Path(place) / f"{v}.dcm", one_study) for v in REAL]
        case_id = rig.arrive(files)
        rig.queue(case_id)
        worker = rig.worker()
        assert worker.step()
        worker.close()
        for made in rig.ledger.read.case_view(case_id).artefacts:
            if made.artefact.kind == "preview" and made.artefact.label.endswith("MLO"):
                with rig.spool.open(made.artefact.sha256) as file:
                    name = made.artefact.label.lower().replace(" ", "-")
                    write(Image.open(BytesIO(file.read())).convert("RGB"), f"heatmap-real-{name}", of=10)
        rig.close()


def write(picture: Image.Image, name: str, of: int = 6) -> None:
    """`of` tenths of a picture."""
    small = picture.resize((picture.width * of // 10, picture.height * of // 10), Image.Resampling.LANCZOS)
    small.save(IMAGES / f"{name}.png", optimize=True)
    print("wrote", name, small.size)


if __name__ == "__main__":
    main()
