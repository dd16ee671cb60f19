"""The pictures of docs/heatmaps.md, of a phantom patient: `python -m tests.conformance.pictures`."""

import tempfile
from pathlib import Path

from PIL import Image

from casework.report import capture
from tests.conformance.phantoms import make_phantom

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
SHOWN = {("MG", "R", "MLO"): "heatmap-mg", ("MR", "R", "AX"): "heatmap-mr", ("US", "R", "1"): "heatmap-us"}
SHOWN[("MG", "L", "CC")] = "heatmap-cold"


def main() -> None:
    """Draw and write them, at 60 %: fewer colours would falsify the scale."""
    with tempfile.TemporaryDirectory() as folder:
        case = make_phantom(Path(folder), 5, full_size=False, character_set="utf8")
    for image in case.result.images:
        name = SHOWN.get((image.modality, image.side.value, image.view))
        if name:
            picture = capture.draw(case.result, image, case.sources[image.sources[0]], "revision 1, 2026-11-20 09:30")
            small = picture.resize((picture.width * 6 // 10, picture.height * 6 // 10), Image.Resampling.LANCZOS)
            small.save(IMAGES / f"{name}.png", optimize=True)
            print("wrote", name, small.size)


if __name__ == "__main__":
    main()
