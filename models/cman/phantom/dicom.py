"""A phantom patient as three studies of DICOM files, as a hospital's scanners would send them.

    python -m models.cman.phantom.dicom --seed 7 --out DIR [--small] [--enhanced] [--character-set utf8|gb18030|japanese|latin]

Owns the folder it writes. The same seed and character set give the same bytes: a second run sends the same instances.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)
from rich.progress import Progress

from models.cman.phantom import magnetic, mammogram, modules, sonogram
from models.cman.phantom.enhanced import enhanced_mr
from models.cman.phantom.headers import describe_mammogram, describe_sonogram
from models.cman.phantom.identity import NAMES, Identity, identify
from models.cman.phantom.patient import HOSPITALS, Breast, Patient, draw

CINE_FRAMES = 12
_VIEWS = ("CC", "MLO")
Report = Callable[[str, int, int], None]
"""Called with (what, files done, files in all)."""


@dataclass(frozen=True, slots=True)
class SideTruth:
    """What is true of one side."""

    metastasis: bool
    risk: float
    lesions: int
    cortex_mm: float


@dataclass(frozen=True, slots=True)
class CaseTruth:
    """What was written and what is true of it.

    masks: SOP Instance UID -> bits (mammogram.LESION, ...) in the image's pixel space, (H, W) or, for a cine, (F, H, W);
    mammograms' masks may be coarser than the image by a whole number. mr_mask: (Z, Y, X) for mr_slices, one tuple of SOP
    Instance UIDs a phase, from inferior to superior.
    """

    seed: int
    patient_id: str
    patient_name: str
    studies: Mapping[str, str]  # modality -> Study Instance UID
    accessions: Mapping[str, str]
    sides: Mapping[str, SideTruth]
    files: tuple[Path, ...]
    masks: Mapping[str, NDArray[np.uint8]]
    mr_mask: NDArray[np.uint8]
    mr_slices: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class _Sizes:
    mg_rows: int
    mr: tuple[int, int, int]
    us: tuple[int, int]


_FULL = _Sizes(mammogram.FULL_SHAPE[0], magnetic.FULL_SHAPE, sonogram.FULL_SHAPE)
_SMALL = _Sizes(1024, (24, 80, 128), (300, 400))


def write_case(
    folder: Path,
    seed: int,
    *,
    full_size: bool = True,
    character_set: str = "utf8",
    hospital: str = "A",
    series_per_phase: bool | None = None,
    enhanced: bool = False,
    report: Report | None = None,
) -> CaseTruth:
    """Write one patient: four mammograms, a dynamic MRI, ultrasound of both sides.

    full_size: mammograms of 4096 x 3328, 60 slices a phase; else about a sixteenth of it, for tests. series_per_phase:
    None leaves it to the seed. enhanced: all phases in one Enhanced MR object instead. Existing files of the same names are overwritten.
    """
    patient = draw(seed, HOSPITALS[hospital])
    identity = identify(patient, character_set)
    sizes = _FULL if full_size else _SMALL
    split = bool(seed % 2) if series_per_phase is None else series_per_phase
    dynamic = magnetic.render(patient, sizes.mr)
    total = 10 + (1 if enhanced else dynamic.stored.shape[0] * dynamic.stored.shape[1])
    files: list[Path] = []
    masks: dict[str, NDArray[np.uint8]] = {}
    makers = (
        partial(_mammograms, patient, identity, sizes.mg_rows),
        partial(_sonograms, patient, identity, sizes.us),
        partial(_enhanced, dynamic, identity) if enhanced else partial(_slices, dynamic, identity, split=split),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for maker in makers:
        for name, ds, mask in maker():
            files.append(_save(ds, folder / name))
            if mask is not None:
                masks[str(ds.SOPInstanceUID)] = mask
            if report is not None:
                report(f"{ds.Modality} {name}", len(files), total)
    phases, planes = dynamic.stored.shape[:2]
    return CaseTruth(
        seed=seed,
        patient_id=identity.patient_id,
        patient_name=identity.name,
        studies={m: identity.uid("study", m) for m in ("MG", "US", "MR")},
        accessions={m: identity.accession(m) for m in ("MG", "US", "MR")},
        sides={b.side: SideTruth(b.metastasis, b.risk, len(b.lesions), b.node.cortex_mm) for b in patient.breasts},
        files=tuple(files),
        masks=masks,
        mr_mask=dynamic.truth,
        mr_slices=tuple(
            tuple(identity.uid("MR", "enhanced") if enhanced else identity.uid("MR", p, z) for z in range(planes))
            for p in range(phases)
        ),
    )


_Made = Iterator[tuple[str, Dataset, NDArray[np.uint8] | None]]


def _mammograms(patient: Patient, identity: Identity, rows: int) -> _Made:
    for number, (breast, view) in enumerate(((b, v) for b in patient.breasts for v in _VIEWS), start=1):
        image = mammogram.render(patient, breast, view, rows)
        uid = identity.uid("MG", breast.side, view)
        ds = modules.start(identity, "MG", DigitalMammographyXRayImageStorageForPresentation, uid, JPEG2000Lossless)
        modules.series(ds, identity, 1, "MAMMO SCREENING")
        modules.equipment(ds, image.manufacturer, "PHX 1")
        modules.general_image(ds, number, f"0921{number:02d}", ["ORIGINAL", "PRIMARY", ""])
        modules.mammography(ds, image, int(30 + breast.radius_mm / 3))
        describe_mammogram(ds, image)
        encoded = encode_array(image.stored, bits_stored=mammogram.BITS, photometric_interpretation=2)
        ds.PixelData = encapsulate([bytes(encoded)])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        yield f"mg_{breast.side}_{view}.dcm", ds, image.truth


def _sonograms(patient: Patient, identity: Identity, shape: tuple[int, int]) -> _Made:
    number = 0
    for breast in patient.breasts:
        for kind in ("node", "lesion", "cine"):
            number += 1
            ds, image = _sonogram(patient, breast, kind, identity, shape)
            modules.general_image(ds, number, f"1012{number:02d}", ["ORIGINAL", "PRIMARY"])
            mask = image.truth if kind == "cine" else image.truth[0]
            yield f"us_{breast.side}_{kind}.dcm", ds, mask


def _sonogram(
    patient: Patient, breast: Breast, kind: str, identity: Identity, shape: tuple[int, int]
) -> tuple[Dataset, sonogram.Sonogram]:
    """A still, uncompressed, or a cine, JPEG-LS."""
    cine = kind == "cine"
    offsets = tuple(np.linspace(-0.7, 0.7, CINE_FRAMES)) if cine else (0.0,)
    image = sonogram.render(patient, breast, kind, shape, offsets)
    sop_class = UltrasoundMultiFrameImageStorage if cine else UltrasoundImageStorage
    uid = identity.uid("US", breast.side, kind)
    ds = modules.start(identity, "US", sop_class, uid, ExplicitVRLittleEndian)
    number = (1 if breast.side == "R" else 3) + cine  # Laterality belongs to the series: one series a side
    modules.series(ds, identity, number, f"{breast.side} BREAST AND AXILLA" + (" CINE" if cine else ""))
    modules.equipment(ds, image.manufacturer, "PHU 1")
    describe_sonogram(ds, image)
    modules.ultrasound(ds)
    ds.PixelData = (image.frames if cine else image.frames[0]).tobytes()
    ds["PixelData"].VR = "OB"
    if cine:
        ds.FrameIncrementPointer = 0x00181063
        ds.compress(JPEGLSLossless, generate_instance_uid=False)
    return ds, image


def _slices(image: magnetic.Dynamic, identity: Identity, *, split: bool) -> _Made:
    """Classic slices; split: one series a phase. Instance numbers run as the scanner counts, phase by phase."""
    reference = identity.uid("frame-of-reference")
    for phase, after_s in enumerate(image.times_s):
        begun = 10 * 3600 + 5 * 60 + after_s
        time = f"{int(begun // 3600):02d}{int(begun % 3600 // 60):02d}{begun % 60:09.6f}"
        for plane in range(image.stored.shape[1]):
            uid = identity.uid("MR", phase, plane)
            ds = modules.start(identity, "MR", MRImageStorage, uid, ExplicitVRLittleEndian)
            number, words = (10 + phase, f"t1 fs dyn {phase}") if split else (10, "t1 fs dyn")
            modules.series(ds, identity, number, words)
            modules.equipment(ds, image.manufacturer, "PHM 3" if image.field_t > 2 else "PHM 1")
            count = plane + (0 if split else phase * image.stored.shape[1])
            modules.general_image(ds, count + 1, time, ["ORIGINAL", "PRIMARY", "OTHER"])
            modules.magnetic_resonance(ds, image, phase=phase, plane=plane, frame_of_reference=reference)
            yield f"mr_{phase}_{plane:03d}.dcm", ds, None


def _enhanced(image: magnetic.Dynamic, identity: Identity) -> _Made:
    yield "mr_enhanced.dcm", enhanced_mr(image, identity), None


def _save(ds: Dataset, path: Path) -> Path:
    ds.save_as(path, enforce_file_format=True, overwrite=True)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write a phantom patient as DICOM files.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--enhanced", action="store_true", help="MRI as one Enhanced MR object")
    parser.add_argument("--character-set", choices=sorted(NAMES), default="utf8")
    parser.add_argument("--hospital", choices=sorted(HOSPITALS), default="A")
    asked = parser.parse_args(arguments)
    with Progress() as progress:
        task = progress.add_task("phantom", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        truth = write_case(
            asked.out,
            asked.seed,
            full_size=not asked.small,
            character_set=asked.character_set,
            hospital=asked.hospital,
            enhanced=asked.enhanced,
            report=show,
        )
    for modality, accession in truth.accessions.items():
        print(f"{modality}  {accession}  {truth.studies[modality]}")


if __name__ == "__main__":
    main()
