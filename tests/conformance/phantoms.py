"""A phantom patient's files through the product's own preprocessing, with heat where the phantom's lesions are."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from casework.case import input_digest
from casework.flows.analyse.heat import heat_images
from casework.preprocess import mammography, mri, ultrasound
from casework.preprocess.facts import InstanceFacts
from casework.preprocess.prepared import PreparedImage
from casework.result import CaseResult, Outcome, Side, SideResult
from models.cman.phantom.dicom import write_case
from tests.conformance.studies import MODEL, Case, blob

_SIZE = 128


def make_phantom(folder: Path, seed: int, *, full_size: bool, character_set: str) -> Case:
    """Write a phantom case and a result over it, right positive, left negative."""
    truth = write_case(folder, seed, full_size=full_size, character_set=character_set)
    files = {p.name: p.read_bytes() for p in truth.files}
    read: list[Dataset] = [dcmread(p) for p in truth.files]
    prepared = _prepared(read)
    parts = [(image, _contribution(image, n)) for n, image in enumerate(prepared)]
    sources: dict[str, Dataset] = {
        str(ds.SOPInstanceUID): dcmread(p, stop_before_pixels=True) for ds, p in zip(read, truth.files, strict=True)
    }
    shapes = {uid: (int(ds.Rows), int(ds.Columns)) for uid, ds in sources.items()}
    result = CaseResult(
        case_id="3f0c6a52-0000-4000-8000-000000000002",
        revision=1,
        model=MODEL,
        sides=(_answer(Side.RIGHT, Outcome.POSITIVE, 0.874), _answer(Side.LEFT, Outcome.NEGATIVE, 0.041)),
        images=heat_images(parts, shapes, depths=True),
        findings=(),
        input_digest=input_digest(list(files), MODEL.sha256, "p1"),
        thresholds={"positive_at": 0.5, "negative_below": 0.2},
    )
    return Case(files, sources, result)


def _answer(side: Side, outcome: Outcome, probability: float) -> SideResult:
    return SideResult(side, outcome, probability, {"MG": 0.9, "MR": 0.7, "US": 0.3}, ("MG", "MR", "US"))


def _prepared(read: list[Dataset]) -> list[PreparedImage]:
    by_modality: Mapping[str, list[tuple[NDArray[np.generic], InstanceFacts]]] = {
        m: [(ds.pixel_array, InstanceFacts.from_dataset(ds)) for ds in read if ds.Modality == m]
        for m in ("MG", "MR", "US")
    }
    images = [mammography.prepare(p, f, _SIZE) for p, f in by_modality["MG"]]
    stacks, facts = zip(*by_modality["MR"], strict=True)
    images += list(mri.prepare(stacks, facts, _SIZE).images.values())
    frames = [ultrasound.prepare(p, f, _SIZE) for p, f in by_modality["US"]]
    return images + list(ultrasound.combine(frames).images.values())


def _contribution(image: PreparedImage, number: int) -> NDArray[np.float32]:
    """A map over the tensor: warm on the right, next to nothing on the left."""
    strength = (0.9 if image.side is Side.RIGHT else 0.05) * (1 - 0.04 * number)
    return blob((24, 24), 5, 6, 3.2, strength) + blob((24, 24), 14, 10, 2.5, 0.3 * strength)
