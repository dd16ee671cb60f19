"""A copy of the product with one guard taken off, for the negative controls. The working tree is never touched."""

import os
import shutil
from pathlib import Path

import casework
from tests.bench.reliability.lab import Control


def without_guard(folder: Path, control: Control) -> dict[str, str]:
    """Make the copy; the environment in which every process uses it instead of the product.

    Raises:
        ValueError: the product no longer has the text that the control exchanges.
    """
    copy = folder / "casework"
    shutil.copytree(Path(casework.__file__).parent, copy)
    for mutation in control.mutations:
        path = copy / mutation.file
        text = path.read_text("utf-8")
        if text.count(mutation.before) != 1:
            raise ValueError(f"{mutation.file} has {text.count(mutation.before)} times: {mutation.before[:80]!r}")
        path.write_text(text.replace(mutation.before, mutation.after), "utf-8")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
    }
