"""`PreparedImage`: one model input with its display picture and the way back to source pixels; packed to bytes safely.

Does no I/O. Bytes are NumPy's .npz without pickles, so that a cache file from a dead process can't run code.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casework.geometry import Affine2
from casework.result import Finding, Side

VERSION = "casework-preprocess-2"
"""Names every parameter of mammography, mri and ultrasound; a model is only run on what it was trained with."""


@dataclass(frozen=True, slots=True)
class SourcePoint:
    """A pixel of a stored image: 1-based frame, 0-based (row, col) of the full-resolution source."""

    sop_instance_uid: str
    frame_number: int
    row: float
    col: float


@dataclass(frozen=True, slots=True)
class Projection:
    """How a projection's picture pixels lead back to slices.

    slices: (SOP Instance UID, 1-based frame number) in the order of the plane index.
    depth: (h, w) int16 index of the brightest voxel behind each pixel of the projection's grid.
    picture_to_grid: picture (row, col) -> grid (row, col).
    depth_count: how many voxels lie behind each pixel.
    to_voxel: (3, 4) matrix, (grid row, grid col, depth, 1) -> (plane index, source row, source column).
    """

    slices: tuple[tuple[str, int], ...]
    depth: NDArray[np.int16]
    depth_count: int
    picture_to_grid: Affine2
    to_voxel: NDArray[np.float64]

    def locate(self, row: float, col: float) -> SourcePoint:
        """The source pixel behind a picture (row, col)."""
        r, c = self.picture_to_grid(np.array([[row, col]]))[0]
        i = int(np.clip(np.rint(r), 0, self.depth.shape[0] - 1))
        j = int(np.clip(np.rint(c), 0, self.depth.shape[1] - 1))
        plane, source_row, source_col = self.to_voxel @ np.array([i, j, float(self.depth[i, j]), 1.0])
        uid, frame = self.slices[int(np.clip(np.rint(plane), 0, len(self.slices) - 1))]
        return SourcePoint(uid, frame, float(source_row), float(source_col))


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """One image as the network sees it, and as a person sees it.

    tensor: (C, S, S) float32 in 0..1. picture: (h, w) uint8 for overlays, in the source's own orientation.
    tensor_to_picture, picture_to_source: maps of (row, col) pixel centres; the source is at full resolution.
    planar: picture_to_source leads into the one source frame (False for MR projections across slices: use `locate`).
    sources: SOP Instance UIDs, the first is the reference. notes: parameters and choices, for the record.
    """

    side: Side
    modality: str
    slot: str  # a name of modelspec.SLOTS[modality]
    study_instance_uid: str
    tensor: NDArray[np.float32]
    picture: NDArray[np.uint8]
    tensor_to_picture: Affine2
    picture_to_source: Affine2
    sources: tuple[str, ...]
    frame_number: int = 1
    planar: bool = True
    projection: Projection | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def tensor_to_source(self) -> Affine2:
        """From tensor (row, col) to the source's, where planar."""
        return self.tensor_to_picture.then(self.picture_to_source)

    def locate(self, row: float, col: float) -> SourcePoint:
        """The source pixel behind a picture (row, col)."""
        if self.projection is None:
            point = self.picture_to_source(np.array([[row, col]]))[0]
            return SourcePoint(self.sources[0], self.frame_number, float(point[0]), float(point[1]))
        return self.projection.locate(row, col)


@dataclass(frozen=True, slots=True)
class Preparation:
    """What preparing one modality gave: images by (side, slot), and coded findings for what was left out."""

    images: Mapping[tuple[Side, str], PreparedImage]
    findings: tuple[Finding, ...] = ()


def pack(preparation: Preparation) -> bytes:
    """A preparation as .npz bytes (no pickles)."""
    arrays: dict[str, Any] = {}
    heads = []
    for n, image in enumerate(preparation.images.values()):
        arrays[f"{n}.tensor"] = image.tensor.astype(np.float16)
        arrays[f"{n}.picture"] = image.picture
        if image.projection is not None:
            arrays[f"{n}.depth"] = image.projection.depth
            arrays[f"{n}.depth_count"] = np.int64(image.projection.depth_count)
            arrays[f"{n}.picture_to_grid"] = image.projection.picture_to_grid.matrix
            arrays[f"{n}.to_voxel"] = image.projection.to_voxel
        heads.append(_head(image))
    findings = [[f.code, f.subject, f.detail] for f in preparation.findings]
    head = json.dumps({"version": VERSION, "images": heads, "findings": findings})
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, head=np.frombuffer(head.encode(), np.uint8), **arrays)
    return buffer.getvalue()


def unpack(data: bytes) -> Preparation:
    """The preparation that `pack` wrote; tensors come back at half precision's resolution.

    Raises:
        ValueError: the bytes are not a preparation of this VERSION.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            head = json.loads(bytes(arrays["head"]))
            if head["version"] != VERSION:
                raise ValueError(f"prepared by {head['version']}")
            images = [_image(h, n, arrays) for n, h in enumerate(head["images"])]
            findings = tuple(Finding(*f) for f in head["findings"])
    except (OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"not a preparation: {error!r}") from error
    return Preparation({(i.side, i.slot): i for i in images}, findings)


def _head(image: PreparedImage) -> dict[str, object]:
    return {
        "side": image.side.value,
        "modality": image.modality,
        "slot": image.slot,
        "study": image.study_instance_uid,
        "tensor_to_picture": image.tensor_to_picture.matrix.tolist(),
        "picture_to_source": image.picture_to_source.matrix.tolist(),
        "sources": list(image.sources),
        "frame": image.frame_number,
        "planar": image.planar,
        "slices": None if image.projection is None else [list(s) for s in image.projection.slices],
        "notes": dict(image.notes),
    }


def _image(head: Mapping[str, object], n: int, arrays: Mapping[str, NDArray[Any]]) -> PreparedImage:
    slices = head["slices"]
    projection = None
    if isinstance(slices, Sequence):
        projection = Projection(
            tuple((str(uid), int(frame)) for uid, frame in slices),
            arrays[f"{n}.depth"].astype(np.int16),
            int(arrays[f"{n}.depth_count"]),
            Affine2(arrays[f"{n}.picture_to_grid"].astype(np.float64)),
            arrays[f"{n}.to_voxel"].astype(np.float64),
        )
    sources, notes = head["sources"], head["notes"]
    if not isinstance(sources, list) or not isinstance(notes, dict):
        raise TypeError("sources or notes")
    return PreparedImage(
        side=Side(str(head["side"])),
        modality=str(head["modality"]),
        slot=str(head["slot"]),
        study_instance_uid=str(head["study"]),
        tensor=arrays[f"{n}.tensor"].astype(np.float32),
        picture=arrays[f"{n}.picture"].astype(np.uint8),
        tensor_to_picture=Affine2(np.array(head["tensor_to_picture"], np.float64)),
        picture_to_source=Affine2(np.array(head["picture_to_source"], np.float64)),
        sources=tuple(str(s) for s in sources),
        frame_number=int(str(head["frame"])),
        planar=bool(head["planar"]),
        projection=projection,
        notes={str(k): str(v) for k, v in notes.items()},
    )
