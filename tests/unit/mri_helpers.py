"""Made-up dynamic MRI series for the preprocessing tests."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from casework.preprocess.facts import InstanceFacts

Voxel = tuple[int, int, int]  # z (superior is larger), y (posterior is larger), x (left is larger)
SHAPE = (20, 48, 80)
MM = (4.0, 3.0, 3.0)


def volumes(dots: dict[Voxel, tuple[float, float]], phases: int = 4) -> NDArray[np.int16]:
    """(P, Z, Y, X): two block-shaped breasts of value 200 with soft waves; dots add (early, late) from phase 1 to the last."""
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    body = (np.abs(x - 20) < 15) | (np.abs(x - 60) < 15)
    base = np.where(body & (y > 6), 200 + 20 * np.sin(z / 3.0) + 20 * np.cos(y / 5.0 + x / 4.0), 0)
    out = np.repeat(base[None], phases, axis=0)
    for p in range(1, phases):
        part = (p - 1) / (phases - 2)
        for (dz, dy, dx), (early, late) in dots.items():
            out[p, dz, dy - 1 : dy + 2, dx - 1 : dx + 2] += early * (1 - part) + late * part
    return np.rint(out).astype(np.int16)


def header(phase: int, plane: int, **changes: object) -> Dataset:
    """A classic axial slice; the first voxel's centre lies at LPS (-120, -70, -40)."""
    ds = Dataset()
    ds.Modality, ds.SOPInstanceUID, ds.StudyInstanceUID = "MR", f"1.5.{phase + 1}.{plane + 1}", "1.5"
    ds.SeriesInstanceUID, ds.SeriesNumber, ds.InstanceNumber = "1.5.9", 3, phase * SHAPE[0] + plane + 1
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.BitsStored = SHAPE[1], SHAPE[2], 1, 16
    ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 1
    ds.ImagePositionPatient = [-120, -70, -40 + plane * MM[0]]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [MM[1], MM[2]]
    ds.TemporalPositionIdentifier = phase + 1
    ds.AcquisitionDate, ds.AcquisitionTime = "20250301", f"10{2 * phase:02d}00"
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


Series = tuple[list[NDArray[np.int16]], list[InstanceFacts]]


def classic(data: NDArray[np.int16], **changes: object) -> Series:
    """Slices and facts of all phases, phase by phase."""
    stacks, facts = [], []
    for p in range(data.shape[0]):
        for z in range(data.shape[1]):
            stacks.append(data[p, z])
            facts.append(InstanceFacts.from_dataset(header(p, z, **changes)))
    return stacks, facts


def sagittal(data: NDArray[np.int16]) -> Series:
    """The same patient cut sagittally: rows run to the feet, columns to the back, planes to the left."""
    stacks, facts = [], []
    for p in range(data.shape[0]):
        for x in range(data.shape[3]):
            stacks.append(np.ascontiguousarray(data[p, ::-1, :, x]))
            one = InstanceFacts.from_dataset(header(p, 0, Rows=SHAPE[0], Columns=SHAPE[1]))
            top = -40 + (SHAPE[0] - 1) * MM[0]
            own = replace(
                one.frames[0],
                position=(-120 + x * MM[2], -70.0, top),
                orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
                spacing_mm=(MM[0], MM[1]),
            )
            facts.append(replace(one, sop_instance_uid=f"1.6.{p + 1}.{x + 1}", frames=(own,)))
    return stacks, facts


def enhanced(data: NDArray[np.int16]) -> Series:
    """All phases in the frames of one instance."""
    stacks, facts = classic(data)
    frames = tuple(f.frames[0] for f in facts)
    one = replace(facts[0], sop_instance_uid="1.7", frames=frames, frame_count=len(frames))
    return [np.stack(stacks)], [one]
