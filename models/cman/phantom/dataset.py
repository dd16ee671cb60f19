"""Training sets: phantoms through the serving preprocess into memory-mapped tensors, one row per side.

    python -m models.cman.phantom.dataset --cases 1000 --seed 1 --size 112 --out DIR [--workers 2] [--hospital A|B]

Owns the files of DIR; README.md beside this file has the format. Rows are in the order of the seeds, right before left;
the same arguments give the same files, whatever the number of workers.
"""

import argparse
import csv
import json
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.progress import track

from casework.modelspec import SLOTS
from casework.preprocess import mammography, mri, ultrasound
from casework.preprocess.prepared import VERSION, Preparation, PreparedImage, Projection
from casework.result import Side
from models.cman.phantom import magnetic, mammogram, sonogram
from models.cman.phantom.headers import as_stack, dynamic_facts, mammogram_facts, sonogram_facts
from models.cman.phantom.patient import HOSPITALS, Breast, Hospital, Patient, draw

CHANNELS = {"MG": 1, "MR": 3, "US": 1}
MASK_STEP, TRUTH_STEP = 4, 8  # tensor pixels per pixel of masks and truth
COLUMNS = (
    *("row", "seed", "patient", "side", "label", "risk", "age", "density", "mg_vendor", "mr_phases", "field_t"),
    *("lesions", "spiculated", "washout", "both", "cortex_mm", "largest_mm"),
)

Bits = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SideSample:
    """One side: images {modality: (slots, C, S, S) uint8}, masks {modality: (slots, S/4, S/4) bits}, table row."""

    images: Mapping[str, Bits]
    masks: Mapping[str, Bits]
    present: Mapping[str, Bits]
    facts: Mapping[str, object]


def samples(seed: int, size: int, hospital: Hospital) -> tuple[SideSample, SideSample]:
    """Render one patient at training resolution, prepare it as serving does, right and left."""
    patient = draw(seed, hospital)
    rng = np.random.default_rng([seed, 99])
    prepared: dict[tuple[str, str, str], tuple[PreparedImage, Bits]] = {}
    _add_mammograms(prepared, patient, size, rng)
    _add_dynamic(prepared, patient, size, rng)
    _add_sonograms(prepared, patient, size, rng)
    right, left = (_sample(prepared, patient, b, size) for b in patient.breasts)
    return right, left


_Prepared = dict[tuple[str, str, str], tuple[PreparedImage, Bits]]


def _add_mammograms(out: _Prepared, patient: Patient, size: int, rng: np.random.Generator) -> None:
    for breast in patient.breasts:
        for view in SLOTS["MG"]:
            image = mammogram.render(patient, breast, view, int(size * rng.uniform(2.2, 2.7)))
            prepared = mammography.prepare(image.stored, mammogram_facts(image, "1", "1"), size)
            out[breast.side, "MG", view] = (prepared, flat_truth(prepared, image.truth, size))


def _add_dynamic(out: _Prepared, patient: Patient, size: int, rng: np.random.Generator) -> None:
    columns = int(size * rng.uniform(1.35, 1.65))
    shape = (int(rng.integers(32, 41)), round(columns * magnetic.FIELD_MM[1] / magnetic.FIELD_MM[2]), columns)
    image = magnetic.render(patient, shape, outer=True)
    prepared = mri.prepare([as_stack(image)], [dynamic_facts(image, "1", "1")], size)
    for (side, slot), one in prepared.images.items():
        out[side.value, "MR", slot] = (one, projected_truth(one, image.truth, size))


def _add_sonograms(out: _Prepared, patient: Patient, size: int, rng: np.random.Generator) -> None:
    for breast in patient.breasts:
        height = int(size * rng.uniform(1.8, 2.6))
        shape = (height, round(height * sonogram.FULL_SHAPE[1] / sonogram.FULL_SHAPE[0]))
        parts: list[Preparation] = []
        truths = []
        for number, kind in enumerate(("node", "lesion", "cine"), start=1):
            offset = float(rng.uniform(-0.6, 0.6)) if kind == "cine" else 0.0
            image = sonogram.render(patient, breast, kind, shape, (offset,))
            parts.append(
                ultrasound.prepare(image.frames, sonogram_facts(image, str(number), "1", number), size, limit=1)
            )
            truths.append(image.truth[0])
        combined = ultrasound.combine(parts)
        for slot, truth in zip(SLOTS["US"], truths, strict=True):
            one = combined.images[Side(breast.side), slot]
            out[breast.side, "US", slot] = (one, flat_truth(one, truth, size))


# --- truth ------------------------------------------------------------------------------------------------------


def flat_truth(image: PreparedImage, truth: Bits, size: int) -> Bits:
    """Truth bits of a source image on the tensor's grid, (S, S). The truth may be coarser than the source."""
    points = image.tensor_to_source(_grid(size))
    return _sampled(truth, points, size)


def projected_truth(image: PreparedImage, truth: Bits, size: int) -> Bits:
    """Truth bits of a volume (Z, Y, X in source order) seen through a projection, on the tensor's grid, (S, S)."""
    if image.projection is None:
        raise ValueError("not a projection")
    flat = _projected(image.projection, truth)
    points = image.tensor_to_picture.then(image.projection.picture_to_grid)(_grid(size))
    return _sampled(flat, points, size)


def _projected(projection: Projection, truth: Bits) -> Bits:
    """Any bit along the projection's depth, (grid rows, grid cols)."""
    lengths = (*projection.depth.shape, projection.depth_count)
    index, order = [], []
    for row in projection.to_voxel:
        axis = int(np.flatnonzero(row[:3])[0])
        index.append((row[3] + row[axis] * np.arange(lengths[axis])).astype(np.intp))
        order.append(axis)
    part = truth[np.ix_(*index)]
    return np.bitwise_or.reduce(part.transpose(np.argsort(order)), axis=2)


def _grid(size: int) -> NDArray[np.float64]:
    rows, cols = np.mgrid[:size, :size]
    return np.stack([rows.ravel(), cols.ravel()], axis=1).astype(np.float64)


def _sampled(bits: Bits, points: NDArray[np.float64], size: int) -> Bits:
    at = np.rint(points).astype(np.intp)
    inside = (at >= 0).all(axis=1) & (at < bits.shape).all(axis=1)
    out = np.zeros(size * size, np.uint8)
    out[inside] = bits[at[inside, 0], at[inside, 1]]
    return out.reshape(size, size)


def any_bits(bits: Bits, step: int) -> Bits:
    """OR over step x step blocks of the last two axes."""
    h, w = bits.shape[-2] // step, bits.shape[-1] // step
    blocks = bits[..., : h * step, : w * step].reshape(*bits.shape[:-2], h, step, w, step)
    return np.bitwise_or.reduce(np.bitwise_or.reduce(blocks, axis=-1), axis=-2)


# --- rows -------------------------------------------------------------------------------------------------------


def _sample(prepared: _Prepared, patient: Patient, breast: Breast, size: int) -> SideSample:
    images, masks, present = {}, {}, {}
    for modality, slots in SLOTS.items():
        tensors = np.zeros((len(slots), CHANNELS[modality], size, size), np.uint8)
        bits = np.zeros((len(slots), size, size), np.uint8)
        there = np.zeros(len(slots), np.uint8)
        for n, slot in enumerate(slots):
            if (breast.side, modality, slot) in prepared:
                image, truth = prepared[breast.side, modality, slot]
                tensors[n], bits[n], there[n] = np.rint(image.tensor * 255), truth, 1
        images[modality], masks[modality], present[modality] = tensors, any_bits(bits, MASK_STEP), there
    return SideSample(images, masks, present, _facts(patient, breast))


def _facts(patient: Patient, breast: Breast) -> dict[str, object]:
    lesions = breast.lesions
    return {
        "seed": patient.seed,
        "patient": f"{patient.hospital.name}{patient.seed:07d}",
        "side": breast.side,
        "label": int(breast.metastasis),
        "risk": round(breast.risk, 6),
        "age": patient.age_years,
        "density": round(patient.density, 4),
        "mg_vendor": patient.mg_vendor,
        "mr_phases": patient.mr_phases,
        "field_t": patient.field_t,
        "lesions": len(lesions),
        "spiculated": sum(n.spiculated for n in lesions),
        "washout": sum(n.washout for n in lesions),
        "both": int(any(n.spiculated and n.washout for n in lesions)),
        "cortex_mm": round(breast.node.cortex_mm, 3),
        "largest_mm": round(max(n.radius_mm for n in lesions), 3),
    }


def _work(job: tuple[int, int, str]) -> tuple[SideSample, SideSample]:
    seed, size, hospital = job
    return samples(seed, size, HOSPITALS[hospital])


def write(out: Path, *, cases: int, seed: int, size: int, hospital: str, workers: int) -> None:
    """Write the set of patients seed * 1,000,000 .. + cases - 1."""
    out.mkdir(parents=True, exist_ok=True)
    arrays = open_arrays(out, 2 * cases, size)
    jobs = [(seed * 1_000_000 + n, size, hospital) for n in range(cases)]
    rows: list[Mapping[str, object]] = []
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        found = pool.imap(_work, jobs, chunksize=4)
        for pair in track(found, description=f"phantoms {hospital} -> {out}", total=cases):
            for sample in pair:
                _put(arrays, len(rows), sample)
                rows.append({"row": len(rows), **sample.facts})
    for array in arrays.values():
        array.flush()
    with (out / "sides.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    about = {
        "preprocess": VERSION,
        "size": size,
        "sides": 2 * cases,
        "seed": seed,
        "hospital": asdict(HOSPITALS[hospital]),
        "slots": {k: list(v) for k, v in SLOTS.items()},
        "bits": {"lesion": 1, "spiculated": 2, "washout": 4, "node": 8},
        "mask_step": MASK_STEP,
        "truth_step": TRUTH_STEP,
    }
    (out / "about.json").write_text(json.dumps(about, indent=1) + "\n")


def open_arrays(out: Path, sides: int, size: int) -> dict[str, np.memmap[tuple[int, ...], np.dtype[np.uint8]]]:
    """The files of a set, all zero: images, presence, masks and truth by modality."""
    arrays = {}
    for modality, slots in SLOTS.items():
        n, low = len(slots), modality.lower()
        shapes = {
            f"images_{low}": (sides, n, CHANNELS[modality], size, size),
            f"present_{low}": (sides, n),
            f"masks_{low}": (sides, n, size // MASK_STEP, size // MASK_STEP),
            f"truth_{low}": (sides, n, size // TRUTH_STEP, size // TRUTH_STEP),
        }
        for name, shape in shapes.items():
            arrays[name] = open_memmap(out / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
    return arrays


def _put(arrays: Mapping[str, NDArray[np.uint8]], row: int, sample: SideSample) -> None:
    for modality in SLOTS:
        low = modality.lower()
        arrays[f"images_{low}"][row] = sample.images[modality]
        arrays[f"present_{low}"][row] = sample.present[modality]
        arrays[f"masks_{low}"][row] = sample.masks[modality]
        arrays[f"truth_{low}"][row] = any_bits(sample.masks[modality], TRUTH_STEP // MASK_STEP)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write a training set of phantoms.")
    parser.add_argument("--cases", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=112, help="tensor side, a multiple of 8")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--hospital", choices=sorted(HOSPITALS), default="A")
    asked = parser.parse_args(arguments)
    if asked.size % TRUTH_STEP:
        parser.error(f"--size must be a multiple of {TRUTH_STEP}")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    write(
        asked.out,
        cases=asked.cases,
        seed=asked.seed,
        size=asked.size,
        hospital=asked.hospital,
        workers=asked.workers,
    )


if __name__ == "__main__":
    main()
