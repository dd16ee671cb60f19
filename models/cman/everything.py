"""From nothing to a package: draw the phantoms, train, release into the run's folder. Resumable: what is done is kept.

    python -m models.cman.everything [--preset quick|gpu|full] [--data data] [--run models/cman/runs/mine] [--budget-min N]

quick: the shipped run's chain, about an hour on two cores. gpu: half an hour of one large GPU and sixteen cores. full: the
paper's rates over thousands of phantoms, on a GPU, for hours. The package lies in RUN/package; nothing in models/cman is
changed. Real DICOM instead of phantoms: folder.py makes sets of the same form.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from models.cman import distil, reference, release, train
from models.cman.net.config import RESNET50
from models.cman.phantom import dataset


@dataclass(frozen=True, slots=True)
class Draw:
    """One set of patients. hospital: as phantom/patient.py names them."""

    name: str
    patients: int
    seed: int
    hospital: str = "A"


HELD_OUT = (Draw("val", 120, 11), Draw("calibration", 200, 12), Draw("test", 200, 21), Draw("external", 100, 31, "B"))
SETS: dict[str, tuple[Draw, ...]] = {
    "quick": (Draw("train-1", 150, 1), Draw("train-2", 250, 2), Draw("train-4", 250, 4), *HELD_OUT),
    "gpu": (*(Draw(f"train-{n}", 400, n) for n in range(101, 104)), *HELD_OUT),
    "full": (*(Draw(f"train-{n}", 500, n) for n in range(101, 109)), *HELD_OUT),
}
STUDENT_STEPS = {"quick": 500, "gpu": 3000, "full": 30000}
BUDGET_MIN = {"quick": 75.0, "gpu": 10.0, "full": 720.0}


def draw(sets: tuple[Draw, ...], data: Path, workers: int) -> None:
    """Draw the sets that are not there; a set is whole or not there at all."""
    for one in sets:
        if (data / one.name).exists():
            continue
        part = data / f"{one.name}.part"
        dataset.write(
            part,
            cases=one.patients,
            seed=one.seed,
            size=RESNET50.input_size,
            hospital=one.hospital,
            workers=workers,
        )
        part.rename(data / one.name)


def main() -> None:
    """Run what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(SETS), default="quick")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--run", type=Path, default=Path("models/cman/runs/mine"))
    parser.add_argument("--budget-min", type=float, help="minutes for training, in place of the preset's")
    parser.add_argument("--student", action="store_true", help="then cman-lite, taught by what was trained")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    draw(SETS[options.preset], options.data, options.workers)
    budget = options.budget_min or BUDGET_MIN[options.preset]
    common = ["--data", str(options.data), "--run", str(options.run), "--seed", str(options.seed)]
    threads = ["--threads", str(options.workers)]
    train.main([*common, *threads, "--preset", options.preset, "--budget-min", str(budget)])
    release.main([*common, "--out", str(options.run / "package")])
    judged = ["--data", str(options.data / "val"), str(options.data / "calibration")]
    reference.main([*judged, "--package", str(options.run / "package")])
    if options.student:
        lite = options.run.with_name(options.run.name + "-lite")
        common = ["--data", str(options.data), "--run", str(lite), "--seed", str(options.seed)]
        taught = ["--teacher", str(options.run / "package"), "--steps", str(STUDENT_STEPS[options.preset])]
        distil.main([*common, *threads, *taught, "--budget-min", str(budget / 4)])
        train.main([*common, *threads, "--preset", options.preset, "--budget-min", str(budget / 2)])
        teacher = str(options.run / "package")
        release.main([*common, "--out", str(lite / "package"), "--name", "cman-lite", "--beside", teacher])
        reference.main([*judged, "--package", str(lite / "package")])


if __name__ == "__main__":
    main()
