"""Result frames in the patient's space: source planes in order, heat laid back on them, functional groups. Does no I/O.

What a projection's heat says of a slice: the network reads one voxel behind each pixel of a projection, and only that voxel
gets the pixel's heat. Voxels that no projection read stay at 0: nothing is known of them, and nothing is smeared along the ray.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from casework.case import derive_uid
from casework.geometry import Affine2
from casework.report import codes, header
from casework.report.header import Context
from casework.result import HeatImage


@dataclass(frozen=True, slots=True)
class Plane:
    """One source frame: 1-based number; (3,) position and (6,) orientation in mm (LPS), (row, col) spacing in mm."""

    uid: str
    frame: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float


@dataclass(frozen=True, slots=True)
class Volume:
    """Planes in ascending position along row x column. order: their indices among the projection's slices."""

    planes: tuple[Plane, ...]
    order: NDArray[np.intp]
    rows: int
    columns: int
    step_mm: float

    def heat(self, images: Sequence[HeatImage]) -> NDArray[np.float32]:
        """The heat of projections on the planes, (N, rows, cols) float32 in 0..1."""
        laid = np.zeros((len(self.planes), self.rows, self.columns), np.float32)
        for image in images:
            _lay_back(image, laid)
        return laid[self.order]


def volume(sources: Mapping[str, Dataset], images: Sequence[HeatImage]) -> Volume | None:
    """The slices that all projections of a dynamic series were read from; None where they are no regular volume."""
    read = [i for i in images if i.depths is not None]
    if not read or read[0].depths is None or len({i.depths.slices for i in read if i.depths is not None}) != 1:
        return None
    planes = [_plane(sources, name, frame) for name, frame in read[0].depths.slices]
    found = [p for p in planes if p is not None]
    first = sources[read[0].depths.slices[0][0]]
    if len(found) != len(planes) or not first.get("FrameOfReferenceUID"):
        return None
    along = np.array([_along(p) for p in found])
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    if len(found) < 2 or len({p.orientation for p in found}) > 1 or len({p.spacing for p in found}) > 1:
        return None
    if steps.min() <= 0 or steps.max() - steps.min() > 0.02 * steps.mean():
        return None
    return Volume(tuple(found[n] for n in order), order, int(first.Rows), int(first.Columns), float(steps.mean()))


def _along(plane: Plane) -> float:
    row, column = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
    return float(np.cross(row, column) @ np.array(plane.position))


def _plane(sources: Mapping[str, Dataset], name: str, frame: int) -> Plane | None:
    """A frame's place, from the attributes of a classic image or the functional groups of an enhanced one."""
    source = sources[name]
    shared = source.get("SharedFunctionalGroupsSequence")
    own = source.get("PerFrameFunctionalGroupsSequence")

    def value(group: str, keyword: str) -> object:
        for item in (own[frame - 1] if own else None, shared[0] if shared else None):
            if item is not None and item.get(group):
                return item[group].value[0].get(keyword)
        return source.get(keyword)

    try:
        position = _floats(value("PlanePositionSequence", "ImagePositionPatient"), 3)
        orientation = _floats(value("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
        spacing = _floats(value("PixelMeasuresSequence", "PixelSpacing"), 2)
        thickness = float(str(value("PixelMeasuresSequence", "SliceThickness") or 0))
    except (IndexError, TypeError, ValueError):
        return None
    return Plane(name, frame, position, orientation, spacing, thickness)


def _floats(value: object, count: int) -> tuple[float, ...]:
    numbers = tuple(float(v) for v in value) if isinstance(value, Iterable) else ()
    if len(numbers) != count:
        raise ValueError("not a place")
    return numbers


def _lay_back(image: HeatImage, heat: NDArray[np.float32]) -> None:
    """Give each voxel the heat of the projection's pixel that was read from it; the largest where several were."""
    depths = image.depths
    if depths is None or not image.heat.size:
        return
    rows, cols = np.indices(depths.depth.shape)
    grid = np.stack([rows.ravel(), cols.ravel()], axis=1).astype(np.float64)
    at = np.rint(Affine2(depths.picture_to_grid).inverse()(grid)).astype(np.intp)
    at = np.clip(at, 0, np.array(image.heat.shape) - 1)
    warmth = image.heat[at[:, 0], at[:, 1]]
    seen = warmth > 0
    points = np.column_stack([grid, depths.depth.ravel(), np.ones(grid.shape[0])])[seen]
    voxels = np.rint(points @ depths.to_voxel.T).astype(np.intp)
    inside = ((voxels >= 0) & (voxels < np.array(heat.shape))).all(axis=1)
    np.maximum.at(heat, tuple(voxels[inside].T), warmth[seen][inside])


# --- functional groups (PS3.3 C.7.6.16) ----------------------------------------------------------------------------


def organise(ctx: Context, ds: Dataset, pointers: Sequence[tuple[str, str]]) -> None:
    """What the frames are ordered by: (keyword, functional group) of each dimension (PS3.3 C.7.6.17)."""
    uid = derive_uid("dimensions", ctx.key, str(ds.SOPInstanceUID))
    ds.DimensionOrganizationSequence = [item := Dataset()]
    item.DimensionOrganizationUID = uid
    ds.DimensionIndexSequence = []
    for keyword, group in pointers:
        index = Dataset()
        index.DimensionOrganizationUID = uid
        index.DimensionIndexPointer, index.FunctionalGroupPointer = tag_for_keyword(keyword), tag_for_keyword(group)
        index.DimensionDescriptionLabel = keyword
        ds.DimensionIndexSequence.append(index)


def shared_geometry(found: Volume) -> Dataset:
    """What all frames of a volume have in common."""
    ds = Dataset()
    plane = found.planes[0]
    ds.PixelMeasuresSequence = PixelMeasuresSequence(plane.spacing, plane.thickness or found.step_mm, found.step_mm)
    ds.PlaneOrientationSequence = PlaneOrientationSequence("PATIENT", plane.orientation)
    return ds


def place(ds: Dataset, plane: Plane) -> None:
    """A frame's position."""
    ds.PlanePositionSequence = PlanePositionSequence("PATIENT", plane.position)


def indexed(*values: int) -> Dataset:
    """A frame's item that starts with its dimension index values."""
    ds = Dataset()
    ds.FrameContentSequence = [content := Dataset()]
    content.DimensionIndexValues = list(values) if len(values) > 1 else values[0]
    return ds


def derived_from(ctx: Context, ds: Dataset, name: str, frame: int) -> None:
    """The source frame that a frame lies on, pixel for pixel."""
    source = header.reference(ctx.instances[name], frame)
    source.PurposeOfReferenceCodeSequence = [codes.concept(codes.SOURCE_FOR_PROCESSING)]
    source.SpatialLocationsPreserved = "YES"
    ds.DerivationImageSequence = [derivation := Dataset()]
    derivation.DerivationCodeSequence = [codes.concept(codes.CLASS_ACTIVATION)]
    derivation.SourceImageSequence = [source]


def frame_of_reference(ctx: Context, ds: Dataset, source: Dataset) -> None:
    """The source's frame of reference (PS3.3 C.7.4.1)."""
    ds.FrameOfReferenceUID = str(source.FrameOfReferenceUID)
    ds.PositionReferenceIndicator = None
    header.carry(ds, ctx.charset, source, "PositionReferenceIndicator")
