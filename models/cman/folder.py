"""Real DICOM and a table of labels -> a set in the form that training reads. The hospital's own cases, the same commands.

    python -m models.cman.folder --dicom DIR --labels labels.csv --out data/train-1 [--size 224]

labels.csv: columns patient (Patient ID as in the files), side (R or L), label (0 or 1). Images are chosen, decoded and
prepared by the functions that serve (casework.preprocess), so training sees what serving will see. Before anything is
written all of it is checked and every fault is named at once: a side with two labels, labels without images, images without
a label, one Patient ID with two birth dates or sexes, one image under two patients, and images that state two sides.
Splits are folders (train-1, val, test): `check_splits`, which training calls, refuses a patient or a study that is in two.

There is no dense truth here: the fusion learns from labels by focal loss, on encoders of a run on phantoms.
"""

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.errors import InvalidDicomError
from rich.progress import track

from casework.errors import Refused
from casework.modelspec import SLOTS
from casework.preprocess import mammography, mri, ultrasound
from casework.preprocess.decode import decode, open_header
from casework.preprocess.facts import InstanceFacts
from casework.preprocess.prepared import VERSION, PreparedImage
from casework.preprocess.select import choose
from casework.result import Side
from models.cman.phantom.dataset import MASK_STEP, TRUTH_STEP, open_arrays

COLUMNS = ("row", "seed", "patient", "side", "label", "risk", "cortex_mm", "studies")


@dataclass
class Patient:
    """One patient's files by SOP Instance UID, and what their headers say."""

    paths: dict[str, Path] = field(default_factory=dict)
    facts: dict[str, InstanceFacts] = field(default_factory=dict)


class Faulty(ValueError):
    """The material can't be trained on; `faults` names everything that was found."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


def read_labels(path: Path) -> tuple[dict[tuple[str, str], int], list[str]]:
    """{(patient, side): label} and the faults of the table."""
    labels: dict[tuple[str, str], int] = {}
    faults = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"patient", "side", "label"} - set(reader.fieldnames or ())
        if missing:
            return {}, [f"{path.name}: no column {', '.join(sorted(missing))}"]
        for number, row in enumerate(reader, start=2):
            key = (row["patient"].strip(), row["side"].strip().upper())
            if key[1] not in ("R", "L") or row["label"].strip() not in ("0", "1") or not key[0]:
                faults.append(f"{path.name} line {number}: patient, side R or L and label 0 or 1 are needed")
            elif labels.setdefault(key, int(row["label"])) != int(row["label"]):
                faults.append(f"{path.name} line {number}: patient {key[0]} side {key[1]} has two labels")
    return labels, faults


def read_headers(folder: Path) -> tuple[dict[str, Patient], list[str]]:
    """Patients by Patient ID, and the faults of the files. Files that are no DICOM images are passed over."""
    patients: dict[str, Patient] = defaultdict(Patient)
    owner: dict[str, str] = {}
    faults = []
    for path in track(sorted(p for p in folder.rglob("*") if p.is_file()), description="headers"):
        try:
            ds = open_header(path)
        except (Refused, InvalidDicomError):
            continue
        facts, patient = InstanceFacts.from_dataset(ds), str(ds.get("PatientID", "")).strip()
        if facts.modality not in SLOTS:
            continue
        if not patient:
            faults.append(f"{path.name}: no Patient ID")
        elif owner.setdefault(facts.sop_instance_uid, patient) != patient:
            faults.append(
                f"{path.name}: the same image under two patients, {owner[facts.sop_instance_uid]} and {patient}"
            )
        else:
            patients[patient].paths[facts.sop_instance_uid] = path
            patients[patient].facts[facts.sop_instance_uid] = facts
    return dict(patients), faults


def check(patients: Mapping[str, Patient], labels: Mapping[tuple[str, str], int]) -> list[str]:
    """What makes images and labels unfit for each other."""
    faults = [f"patient {p} side {s}: a label but no image" for p, s in sorted(labels) if p not in patients]
    labelled = {p for p, _ in labels}
    faults += [f"patient {p}: images but no label" for p in sorted(set(patients) - labelled)]
    for name, patient in sorted(patients.items()):
        stop = choose(list(patient.facts.values())).stop
        if stop:
            faults.append(f"patient {name}: {stop}")
    return faults


def prepare(patient: Patient, size: int) -> dict[tuple[Side, str, str], PreparedImage]:
    """The images of one patient by (side, modality, slot), as serving prepares them.

    Raises:
        Refused: an image that was chosen can't be decoded or prepared.
    """
    plan = choose([patient.facts[uid] for uid in sorted(patient.facts)])
    found: dict[tuple[Side, str, str], PreparedImage] = {}
    for (side, slot), uid in plan.mammograms.items():
        facts = patient.facts[uid]
        decoded = decode(patient.paths[uid], reduce=mammography.reduction(facts.rows, facts.columns), frames=[0])
        found[side, "MG", slot] = mammography.prepare(decoded.pixels[0], facts, size, reduce=decoded.reduce)
    for uids in plan.ultrasound.values():
        parts = []
        for uid in uids:
            facts = patient.facts[uid]
            numbers = ultrasound.sample_frames(facts.frame_count)
            frames = decode(patient.paths[uid], frames=[n - 1 for n in numbers]).pixels
            parts.append(ultrasound.prepare(frames, facts, size, frame_numbers=numbers))
        for (side, slot), image in ultrasound.combine(parts).images.items():
            found[side, "US", slot] = image
    if plan.mri is not None:
        uids_mr = sorted(plan.mri.instances)
        stacks = [decode(patient.paths[u]).pixels for u in uids_mr]
        series = mri.prepare([s[0] if len(s) == 1 else s for s in stacks], [patient.facts[u] for u in uids_mr], size)
        for (side, slot), image in series.images.items():
            found[side, "MR", slot] = image
    return found


def write(dicom: Path, labels: Path, out: Path, size: int) -> int:
    """Write the set; returns its number of sides.

    Raises:
        Faulty: something is wrong with the material; nothing was written.
        Refused: a chosen image can't be read.
    """
    table, faults = read_labels(labels)
    patients, more = read_headers(dicom)
    faults = [*faults, *more, *check(patients, table)]
    if faults:
        raise Faulty(faults)
    part = out.with_name(out.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    arrays = open_arrays(part, len(table), size)
    rows = []
    for row, (patient, side, label, images) in enumerate(track(_sides(patients, table, size), total=len(table))):
        for (modality, slot), image in images.items():
            n, low = SLOTS[modality].index(slot), modality.lower()
            arrays[f"images_{low}"][row, n] = np.rint(image.tensor * 255)
            arrays[f"present_{low}"][row, n] = 1
        if not images:
            faults.append(f"patient {patient} side {side}: a label but no usable image of this side")
        studies = sorted({i.study_instance_uid for i in images.values()})
        number = sorted(patients).index(patient)
        rows.append((row, number, patient, side, label, label, 0.8, " ".join(studies)))
    if faults:
        raise Faulty(faults)
    for array in arrays.values():
        array.flush()
    with (part / "sides.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    about = {"preprocess": VERSION, "size": size, "sides": len(rows), "truth": False, "mask_step": MASK_STEP}
    about |= {"truth_step": TRUTH_STEP, "seed": None, "hospital": {"name": "real"}}
    (part / "about.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    part.rename(out)
    return len(rows)


_One = tuple[str, str, int, dict[tuple[str, str], PreparedImage]]


def _sides(patients: Mapping[str, Patient], table: Mapping[tuple[str, str], int], size: int) -> Iterator[_One]:
    """(patient, side, label, that side's images), patient by patient."""
    for name in sorted(patients):
        images = prepare(patients[name], size)
        for side in ("R", "L"):
            if (name, side) in table:
                own = {(m, slot): i for (s, m, slot), i in images.items() if s.value == side}
                yield name, side, table[name, side], own


def check_splits(folders: Sequence[Path]) -> None:
    """Refuse sets that share a patient or a study.

    Raises:
        Faulty: with every patient and study that is in more than one set.
    """
    where: dict[tuple[str, str], set[str]] = defaultdict(set)
    for folder in folders:
        with (folder / "sides.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                where["patient", row["patient"]].add(folder.name)
                for study in row.get("studies", "").split():
                    where["study", study].add(folder.name)
    faults = [f"{what} {name} is in {', '.join(sorted(s))}" for (what, name), s in sorted(where.items()) if len(s) > 1]
    if faults:
        raise Faulty(faults)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dicom", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    try:
        sides = write(options.dicom, options.labels, options.out, options.size)
    except (Faulty, Refused) as fault:
        parser.exit(1, f"{fault}\n")
    print(f"{options.out}: {sides} sides")


if __name__ == "__main__":
    main()
