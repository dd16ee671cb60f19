"""The packages under test: cman-tiny always, and the released cman. No torch here."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from casework.engine.bundle import ModelPackage, open_package
from casework.engine.golden import inputs_of
from casework.engine.onnxrt import OnnxRunner
from casework.engine.runner import SideInputs

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture(scope="session")
def package() -> ModelPackage:
    return open_package(MODELS / "cman-tiny")


@pytest.fixture(scope="session")
def runner(package: ModelPackage) -> OnnxRunner:
    return OnnxRunner(package, threads=1)


@pytest.fixture
def full(package: ModelPackage) -> SideInputs:
    """The recorded case with every image of both sides; arrays are the caller's own."""
    inputs = inputs_of(package.golden[0])
    return SideInputs({m: a.copy() for m, a in inputs.images.items()}, {m: a.copy() for m, a in inputs.masks.items()})


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A package's copy that may be damaged."""
    shutil.copytree(MODELS / "cman-tiny", tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, **changes: object) -> None:
    """Change entries of manifest.json."""
    document = json.loads((folder / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").write_text(json.dumps(document | changes), "utf-8")


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Random pixels in 0..1."""
    print(f"seed {seed}")
    return np.random.default_rng(seed).random(shape, np.float32)
