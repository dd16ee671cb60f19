"""Small made-up images and headers for the preprocessing tests."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from casework.preprocess.facts import InstanceFacts


def mammogram_header(shape: tuple[int, int], side: str = "R", view: str = "CC", **changes: Any) -> Dataset:
    """A minimal mammogram header; changes: further attributes by keyword."""
    ds = Dataset()
    ds.Modality, ds.SOPInstanceUID, ds.StudyInstanceUID = "MG", "1.2.3", "1.2"
    ds.Rows, ds.Columns, ds.SamplesPerPixel = *shape, 1
    ds.PhotometricInterpretation, ds.BitsStored = "MONOCHROME2", 12
    ds.ImageLaterality, ds.ViewPosition = side, view
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def breast(shape: tuple[int, int], wall: str, dot: tuple[int, int] | None = None, half: int = 4) -> NDArray[np.uint16]:
    """A half disc of soft waves, 900 to 2100, on air 0, its flat side at `wall`; a bright square at `dot`."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    across = cols if wall == "left" else shape[1] - 1 - cols
    inside = ((rows - shape[0] / 2) / (0.36 * shape[0])) ** 2 + (across / (0.55 * shape[1])) ** 2 < 1
    waves = 1500 + 600 * np.sin(9.0 * rows / shape[0]) * np.cos(7.0 * across / shape[1])
    image = np.where(inside, waves, 0).astype(np.uint16)
    if dot is not None:
        image[dot[0] - half : dot[0] + half + 1, dot[1] - half : dot[1] + half + 1] = 4000
    return image


def facts(ds: Dataset) -> InstanceFacts:
    return InstanceFacts.from_dataset(ds)


def peak(tensor: NDArray[np.float32]) -> NDArray[np.float64]:
    """(1, 2) row and column of the brightest spot: the centre of mass of what is within half of the maximum around it."""
    best = np.unravel_index(int(np.argmax(tensor)), tensor.shape)
    reach = 3
    r0, c0 = max(0, int(best[0]) - reach), max(0, int(best[1]) - reach)
    part = tensor[r0 : r0 + 2 * reach + 1, c0 : c0 + 2 * reach + 1].astype(np.float64)
    weights = np.clip(part - 0.5 * (part.max() + np.median(part)), 0, None)
    rows, cols = np.mgrid[: part.shape[0], : part.shape[1]]
    total = weights.sum()
    return np.array([[(weights * rows).sum() / total + r0, (weights * cols).sum() / total + c0]])
