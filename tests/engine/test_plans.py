"""Plans and the TensorRT runner, as far as a machine without a GPU goes: the builder is real (TensorRT for RTX), the GPU is played."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casework.config import Settings, Work
from casework.config_engine import Engine
from casework.config_security import Signing
from casework.engine.bundle import ModelPackage
from casework.engine.choose import Opened, Place, open_engine
from casework.engine.gpu import Gpu
from casework.engine.onnxrt import OnnxRunner
from casework.engine.passport import Passport, examine
from casework.engine.plans import PlanKey, Plans
from casework.engine.runner import SideInputs
from casework.engine.trt import Library, Profile, TrtRunner, plans_of, profiles
from casework.engine.twin import open_twin
from casework.entrypoints.engines import build_plans, check_targets
from casework.errors import Defect, Refused, Unavailable
from tests.engine.conftest import MODELS
from tests.engine.fake_gpu import FakeGpu, PlayedLibrary

TWIN = MODELS / "cman-tiny-fp16"
KEY = PlanKey("ab" * 32, "tensorrt", "10.16.1", "NVIDIA L4", "8.9", "fp16", (1, 4, 4))


@pytest.fixture
def twin(package: ModelPackage) -> ModelPackage:
    return open_twin(package, TWIN)


class Built(Library):
    """The played library with a builder that counts."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__("tensorrt", PlayedLibrary(gpu))
        self.gpu, self.built = gpu, list[str]()

    def _build(self, role: str, graph: bytes, profile: Profile, timings: bytes, _: str) -> tuple[bytes, bytes]:
        self.built.append(role)
        head = f"{self.gpu.name}|{','.join(map(str, profile))}|".encode()
        return head + graph, timings + role.encode()


def runner_on(gpu: FakeGpu, twin: ModelPackage, folder: Path) -> tuple[TrtRunner, Built]:
    library, kept = Built(gpu), Plans(folder)
    plans = plans_of(library, twin.graphs, gpu, kept, 2, build=True)
    return TrtRunner(twin, plans, library, gpu, kept), library


# --- the runner, on a played GPU ------------------------------------------------------------------------------


def test_the_runner_is_the_twin(twin: ModelPackage, full: SideInputs, tmp_path: Path) -> None:
    """Through buffers, profiles and recorded graphs come the numbers of the same graphs in ONNX Runtime; it passes its examination."""
    gpu = FakeGpu()
    runner, library = runner_on(gpu, twin, tmp_path / "plans")
    examine(runner, twin)
    ours, theirs = runner.run(full), OnnxRunner(twin, threads=1).run(full)
    np.testing.assert_allclose(ours.prob, theirs.prob, atol=1e-5)
    for modality in theirs.heat:
        np.testing.assert_allclose(ours.heat[modality], theirs.heat[modality], atol=1e-4)
    assert gpu.recorded
    assert gpu.replayed
    one = SideInputs({m: v[:1] for m, v in full.images.items()}, {m: v[:1] for m, v in full.masks.items()})
    np.testing.assert_allclose(runner.run(one).prob, theirs.prob[:1], atol=1e-5)
    assert library.built == list(twin.graphs)


def test_more_sides_than_the_profile_run_in_parts(twin: ModelPackage, full: SideInputs, tmp_path: Path) -> None:
    """Seven sides through plans for two: each as alone."""
    runner, _ = runner_on(FakeGpu(), twin, tmp_path / "plans")
    rows = [0, 1, 1, 0, 0, 1, 0]
    many = SideInputs({m: v[rows] for m, v in full.images.items()}, {m: v[rows] for m, v in full.masks.items()})
    np.testing.assert_allclose(runner.run(many).prob, runner.run(full).prob[rows], atol=1e-5)


def test_a_gpu_that_is_lost_is_said(twin: ModelPackage, full: SideInputs, tmp_path: Path) -> None:
    """A failed call in the middle of a case is ENGINE_LOST: tried again by another process, never answered from old buffers."""
    gpu = FakeGpu()
    runner, _ = runner_on(gpu, twin, tmp_path / "plans")
    gpu.lost = True
    with pytest.raises(Unavailable, match="ENGINE_LOST"):
        runner.run(full)


def test_a_plan_of_another_gpu_is_not_opened(twin: ModelPackage, tmp_path: Path) -> None:
    """What the library can't open is no engine."""
    gpu = FakeGpu()
    library, kept = Built(gpu), Plans(tmp_path)
    plans = plans_of(library, twin.graphs, gpu, kept, 2, build=True)
    gpu.name = "Another GPU"
    with pytest.raises(Unavailable, match="not for this GPU"):
        TrtRunner(twin, plans, library, gpu, kept)
    swapped = {**plans, "MG": plans["fusion"]}
    gpu.name = FakeGpu.name
    with pytest.raises(Defect, match="MODEL_INVALID"):
        TrtRunner(twin, swapped, library, gpu, kept)


def test_a_played_gpu_serves_and_the_passport_names_it(
    package: ModelPackage, twin: ModelPackage, tmp_path: Path
) -> None:
    """The whole choice with a GPU in it: the first engine serves, nothing is passed over, driver and device are named."""

    def opener(package: ModelPackage, engine: Engine, place: Place) -> Opened:
        gpu = FakeGpu()
        runner, _ = runner_on(gpu, twin, place.plans)
        passport = Passport("tensorrt", runner.describe(), gpu.name, gpu.driver, "fp16", package.sha256, "ab")
        return Opened(runner, twin, passport)

    opened = open_engine(package, Engine(order=("tensorrt", "cpu")), Place(TWIN, tmp_path / "p"), {"tensorrt": opener})
    assert opened.passport.passed_over == ()
    assert "Played GPU, driver 1.2.3, fp16" in opened.passport.stamp


def test_no_gpu_here() -> None:
    """On a machine without a GPU or the bindings the device says so in one code."""
    with pytest.raises(Unavailable, match="ENGINE_UNAVAILABLE"):
        Gpu(0)


# --- plans on disk --------------------------------------------------------------------------------------------


def test_plans_are_built_once_for_what_they_depend_on(twin: ModelPackage, tmp_path: Path) -> None:
    """A second start builds nothing; another GPU, version or graph does, and the old plan goes; timings are kept."""
    gpu = FakeGpu()
    _, first = runner_on(gpu, twin, tmp_path)
    _, second = runner_on(gpu, twin, tmp_path)
    assert (len(first.built), second.built) == (4, [])
    assert sum(p.suffix == ".plan" for p in tmp_path.iterdir()) == 4
    gpu.name = "Another GPU"
    _, third = runner_on(gpu, twin, tmp_path)
    assert len(third.built) == 4
    assert sum(p.suffix == ".plan" for p in tmp_path.iterdir()) == 4
    assert Plans(tmp_path).cache("timing-tensorrt-10.99.0-sm8.9")
    with pytest.raises(Unavailable, match="build-plan"):
        plans_of(Built(FakeGpu()), twin.graphs, FakeGpu(), Plans(tmp_path / "empty"), 2, build=False)


def test_a_damaged_plan_is_built_again(tmp_path: Path) -> None:
    """A flipped bit, another key's file, half a file or a missing note: never used."""
    plans = Plans(tmp_path)
    plans.keep("MG", KEY, b"plan" * 100, 1.0)
    assert plans.find("MG", KEY) == b"plan" * 100
    for name in ("onnx", "library", "version", "gpu", "capability", "precision"):
        changes: dict[str, Any] = {name: "another"}
        assert plans.find("MG", replace(KEY, **changes)) is None
    assert plans.find("MG", replace(KEY, profile=(1, 4, 8))) is None
    [file] = tmp_path.glob("*.plan")
    file.write_bytes(b"plan" * 99 + b"plaN")
    assert plans.find("MG", KEY) is None
    file.write_bytes(b"plan" * 100)
    note = file.with_suffix(".json")
    note.write_text(json.dumps({**json.loads(note.read_text()), "key": {}}))
    assert plans.find("MG", KEY) is None
    note.unlink()
    assert plans.find("MG", KEY) is None


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    """A plan is code to the library that reads it."""
    folder = tmp_path / "plans"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(Defect, match=r"engine\.plans"):
        Plans(folder)


# --- the twin -------------------------------------------------------------------------------------------------


def test_a_twin_that_is_not_this_packages_is_refused(package: ModelPackage, tmp_path: Path) -> None:
    """Another package, a changed byte, a swapped graph or a missing folder: no GPU engine."""
    with pytest.raises(Unavailable, match="make twin"):
        open_twin(package, tmp_path / "none")
    with pytest.raises(Defect, match="another package"):
        open_twin(replace(package, sha256="0" * 64), TWIN)
    folder = tmp_path / "twin"
    shutil.copytree(TWIN, folder)
    index = json.loads((folder / "twin.json").read_text())
    graphs = index["graphs"]
    swapped = {**index, "graphs": {**graphs, "MG": {**graphs["US"], "source": graphs["US"]["source"][::-1]}}}
    (folder / "twin.json").write_text(json.dumps(swapped))
    with pytest.raises(Defect, match="MODEL_INVALID"):
        open_twin(package, folder)
    (folder / "twin.json").write_text(json.dumps(index))
    file = folder / graphs["MG"]["file"]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(Defect, match="not what"):
        open_twin(package, folder)


def test_a_twin_that_drifted_is_refused(package: ModelPackage, twin: ModelPackage) -> None:
    """Released probabilities further than the limit from the twin's: it is another network."""
    far = tuple(
        replace(g, arrays={**g.arrays, "prob": 1 - g.arrays["prob"].astype(np.float32)}) for g in package.golden
    )
    with pytest.raises(Defect, match="MODEL_GOLDEN_MISMATCH"):
        open_twin(replace(package, golden=far), TWIN)


# --- the builder, for real ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["SM80", "SM86", "SM89", "SM120"])
def test_every_graph_is_built_for_other_gpus(target: str) -> None:
    """TensorRT for RTX parses and builds the twin, strongly typed and with the service's profiles, without a GPU."""
    settings = Settings(work=Work(model=str(MODELS / "cman-tiny")))
    lines = list(check_targets(settings, [target]))
    assert [line.split(":")[0] for line in lines] == [f"{target} {role}" for role in ("MG", "MR", "US", "fusion")]


def test_what_the_parser_refuses_is_a_code(package: ModelPackage) -> None:
    """Bytes that are no graph, and a batch without a profile's room, say ENGINE_PLAN_FAILED."""
    library = Library("tensorrt-rtx")
    with pytest.raises(Defect, match="ENGINE_PLAN_FAILED"):
        library.build("MG", b"nothing", (1, 2, 4), target="SM89")
    with pytest.raises(Defect, match="ENGINE_PLAN_FAILED"):
        library.build("MG", package.graphs["MG"][:-100], profiles(2)["MG"], target="SM89")


def test_no_plan_is_built_from_a_package_that_nobody_signed(tmp_path: Path) -> None:
    """Where keys are trusted, `casework build-plan` builds from what they signed only, as the worker would serve."""
    public = tmp_path / "public.pem"
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    public.write_bytes(Ed25519PrivateKey.generate().public_key().public_bytes(*form))
    settings = Settings(
        work=Work(model=str(MODELS / "cman-tiny")),
        engine=Engine(order=("tensorrt-rtx", "cpu")),
        signing=Signing(public_key_files=(str(public),)),
    )
    for build in (build_plans(settings), check_targets(settings, ["SM89"])):
        with pytest.raises(Defect, match="MODEL_UNSIGNED"):
            next(build)


def test_building_plans_needs_a_runner_that_reads_them(tmp_path: Path) -> None:
    """`casework build-plan` says when no plan is needed, and when there is no GPU to build for."""
    settings = Settings(work=Work(model=str(MODELS / "cman-tiny")))
    with pytest.raises(Refused, match="no plans are needed"):
        list(build_plans(settings))
    with pytest.raises(Unavailable, match="ENGINE_UNAVAILABLE"):
        list(build_plans(replace(settings, engine=Engine(order=("tensorrt-rtx", "cpu"), plans=str(tmp_path)))))
    assert not list(tmp_path.iterdir())
    assert os.access(TWIN, os.R_OK)
