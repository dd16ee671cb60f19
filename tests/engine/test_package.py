"""A package that is not exactly what was released does not run."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from casework.engine.bundle import Golden, ModelPackage, open_package
from casework.engine.golden import check_golden
from casework.engine.onnxrt import OnnxRunner
from casework.engine.protobuf import has_external_data
from casework.engine.runner import SideInputs, SideOutputs
from casework.errors import Defect
from tests.engine.conftest import MODELS, rewrite


def _refused(folder: Path, words: str) -> None:
    with pytest.raises(Defect, match="MODEL_INVALID") as caught:
        open_package(folder)
    assert words in caught.value.detail


def _files() -> list[str]:
    return list(json.loads((MODELS / "cman-tiny" / "manifest.json").read_text("utf-8"))["files"])


def _redigest(folder: Path, name: str) -> None:
    document = json.loads((folder / "manifest.json").read_text("utf-8"))
    document["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(document), "utf-8")


@pytest.mark.parametrize("name", _files())
def test_one_flipped_bit_in_any_file_is_refused(copy: Path, name: str) -> None:
    """A single changed bit in a graph, golden sample or card stops the package."""
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    _refused(copy, name)


def test_swapped_files_are_refused(copy: Path) -> None:
    """Two intact graphs under each other's names are refused."""
    (copy / "encoder-mg.onnx").rename(copy / "x")
    (copy / "encoder-us.onnx").rename(copy / "encoder-mg.onnx")
    (copy / "x").rename(copy / "encoder-us.onnx")
    document = json.loads((copy / "manifest.json").read_text("utf-8"))
    if document["files"]["encoder-mg.onnx"] != document["files"]["encoder-us.onnx"]:
        _refused(copy, "encoder-")


@pytest.mark.parametrize("name", ["manifest.json", "fusion.onnx", "golden/full.npz"])
def test_a_symbolic_link_is_refused_even_to_the_right_bytes(copy: Path, name: str) -> None:
    """A link in a file's place is refused: what it points to can change after the check."""
    shutil.move(copy / name, copy.parent / "elsewhere")
    (copy / name).symlink_to(copy.parent / "elsewhere")
    _refused(copy, name)


def test_a_linked_folder_inside_the_package_is_refused(copy: Path) -> None:
    """A folder inside the package may not be a link either."""
    shutil.move(copy / "golden", copy.parent / "golden")
    (copy / "golden").symlink_to(copy.parent / "golden")
    _refused(copy, "golden/")


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname", "", "golden/../../outside", "nul\0l"])
def test_paths_that_leave_the_package_are_refused(copy: Path, path: str) -> None:
    """A manifest can't name a file outside its folder."""
    (copy.parent / "outside").write_bytes(b"x")
    document = json.loads((copy / "manifest.json").read_text("utf-8"))
    document["files"][path] = hashlib.sha256(b"x").hexdigest()
    rewrite(copy, files=document["files"])
    _refused(copy, "")


def test_a_pipe_in_a_files_place_is_refused_and_does_not_hang(copy: Path) -> None:
    """A named pipe where a file should be is refused at once."""
    (copy / "MODEL_CARD.md").unlink()
    os.mkfifo(copy / "MODEL_CARD.md")
    _refused(copy, "MODEL_CARD.md")


@pytest.mark.parametrize("name", ["manifest.json", "fusion.onnx"])
def test_a_missing_file_is_refused(copy: Path, name: str) -> None:
    """A file that is not there stops the package."""
    (copy / name).unlink()
    _refused(copy, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": None},
        {"thresholds": {}},
        {"golden": []},
        {"golden": ["golden/other.npz"]},
        {"graphs": {"MG": "encoder-mg.onnx"}},
        {"files": []},
        {"temperature": 0.0},
        {"thresholds": {"positive_at": 0.2, "negative_below": 0.8}},
        {"thresholds": {"positive_at": float("nan"), "negative_below": 0.1}},
        {"requires": []},
        {"requires": [["CT"]]},
        {"requires": [[]]},
        {"golden_tolerance": 5.0},
        {"input_size": 0},
    ],
)
def test_an_incomplete_or_senseless_manifest_is_refused(copy: Path, changes: dict[str, object]) -> None:
    """Missing keys and values that would make every reading wrong are refused, not repaired."""
    rewrite(copy, **changes)
    _refused(copy, "manifest")


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_an_unreadable_manifest_is_refused(copy: Path, text: str) -> None:
    """A manifest that is not a JSON object is refused."""
    (copy / "manifest.json").write_bytes(text.encode("latin-1"))
    _refused(copy, "manifest.json")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A wrong path in the configuration is named."""
    _refused(tmp_path / "none", "none")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_a_golden_sample_that_is_not_one_is_refused(copy: Path, data: bytes) -> None:
    """A digested but unreadable golden sample is refused."""
    (copy / "golden/full.npz").write_bytes(data)
    _redigest(copy, "golden/full.npz")
    _refused(copy, "golden/full.npz")


def test_a_golden_sample_with_pickled_objects_is_refused(copy: Path) -> None:
    """Golden samples are data: pickled objects, which could run code, are refused."""
    np.savez(copy / "golden/full.npz", MG=np.array([{"a": 1}], dtype=object))
    _redigest(copy, "golden/full.npz")
    _refused(copy, "golden/full.npz")


def test_a_graph_that_is_not_onnx_is_refused(copy: Path) -> None:
    """Bytes that are no ONNX graph are a defect of the package, not a crash of the worker."""
    (copy / "fusion.onnx").write_bytes(b"\x08\x01")
    _redigest(copy, "fusion.onnx")
    package = open_package(copy)
    with pytest.raises(Defect, match="MODEL_INVALID"):
        OnnxRunner(package, threads=1)


def test_a_graph_in_another_graphs_place_is_refused(copy: Path) -> None:
    """An encoder where the fusion should be is noticed by its outputs."""
    shutil.copy(copy / "encoder-mg.onnx", copy / "fusion.onnx")
    _redigest(copy, "fusion.onnx")
    with pytest.raises(Defect, match="MODEL_INVALID"):
        OnnxRunner(open_package(copy), threads=1)


def _field(number: int, payload: bytes) -> bytes:
    assert len(payload) < 128
    return bytes([number << 3 | 2, len(payload)]) + payload


def _tag(number: int, payload: bytes) -> bytes:
    """A length-delimited field with a number above 15 (two-byte tag)."""
    return bytes([(number << 3 | 2) & 0x7F | 0x80, (number << 3 | 2) >> 7, len(payload)]) + payload


EXTERNAL = _field(13, _field(1, b"location") + _field(2, b"/etc/passwd"))
LOCATION = bytes([14 << 3, 1])


@pytest.mark.parametrize(
    "model",
    [
        _field(7, _field(5, EXTERNAL)),  # an initialiser
        _field(7, _field(5, LOCATION)),  # marked external without a path
        _field(7, _field(1, _field(5, _field(5, EXTERNAL)))),  # a Constant node's tensor
        _field(7, _field(1, _field(5, _field(6, _field(5, EXTERNAL))))),  # in a subgraph
        _field(7, _field(15, _field(1, EXTERNAL))),  # values of a sparse tensor
        _tag(25, _field(7, _field(5, _field(5, EXTERNAL)))),  # in a model-local function
    ],
)
def test_weights_in_another_file_are_seen_wherever_they_hide(model: bytes) -> None:
    """External data is found in initialisers, node attributes, subgraphs, sparse tensors and functions."""
    assert has_external_data(model)


def test_a_graph_with_external_data_is_refused(copy: Path) -> None:
    """A digested graph that reads another file is refused: that file is not digested."""
    (copy / "fusion.onnx").write_bytes(_field(7, _field(5, EXTERNAL)))
    _redigest(copy, "fusion.onnx")
    _refused(copy, "outside its file")


@pytest.mark.parametrize("model", [b"\x3a\x7f", b"\xff" * 12, b"\x3b", b"\x3a"])
def test_malformed_graph_bytes_are_refused(copy: Path, model: bytes) -> None:
    """Truncated and senseless protobuf is refused with a code."""
    (copy / "fusion.onnx").write_bytes(model)
    _redigest(copy, "fusion.onnx")
    _refused(copy, "fusion")


def test_deep_nesting_is_refused(copy: Path) -> None:
    """A graph nested beyond the walker's depth is refused, not followed until the stack ends."""
    data = b""
    for _ in range(60):
        data = _long(1, _long(5, _long(6, data)))  # a node with an attribute that holds a graph
    (copy / "fusion.onnx").write_bytes(_long(7, data))
    _redigest(copy, "fusion.onnx")
    _refused(copy, "deep")


def _long(number: int, payload: bytes) -> bytes:
    length, n = b"", len(payload)
    while n >= 128:
        length, n = length + bytes([n & 0x7F | 0x80]), n >> 7
    return bytes([number << 3 | 2]) + length + bytes([n]) + payload


# --- golden samples -----------------------------------------------------------------------------------------


def _with(package: ModelPackage, **arrays: np.ndarray) -> ModelPackage:
    first = package.golden[0]
    return replace(package, golden=(Golden(first.name, dict(first.arrays) | arrays),))


def test_a_probability_that_differs_is_a_golden_mismatch(package: ModelPackage, runner: OnnxRunner) -> None:
    """An engine whose probability is off by more than the tolerance must not run."""
    off = package.golden[0].arrays["prob"].astype(np.float64) + package.spec.golden_tolerance + 0.01
    with pytest.raises(Defect, match="MODEL_GOLDEN_MISMATCH"):
        check_golden(runner, _with(package, prob=off))
    with pytest.raises(Defect, match="MODEL_GOLDEN_MISMATCH"):
        check_golden(runner, _with(package, prob=np.full(2, np.nan, np.float32)))


def test_another_heat_map_is_a_golden_mismatch(package: ModelPackage, runner: OnnxRunner) -> None:
    """An engine that is right in the probability but not in the heat-map must not run either."""
    heat = package.golden[0].arrays["MG_heat"]
    for wrong in (heat[..., ::-1], np.zeros_like(heat), heat[..., :3]):
        with pytest.raises(Defect, match="MODEL_GOLDEN_MISMATCH"):
            check_golden(runner, _with(package, MG_heat=wrong))


def test_an_incomplete_golden_sample_is_refused(package: ModelPackage, runner: OnnxRunner) -> None:
    """A sample without inputs or without the recorded answer proves nothing."""
    arrays = dict(package.golden[0].arrays)
    for missing in ("MG", "US_mask", "prob"):
        less = replace(package, golden=(Golden("x", {k: v for k, v in arrays.items() if k != missing}),))
        with pytest.raises(Defect, match="MODEL_INVALID"):
            check_golden(runner, less)


def test_an_engine_that_answers_with_another_image_is_caught(package: ModelPackage, runner: OnnxRunner) -> None:
    """The check runs the engine: one that mixes up its sides is caught."""

    class Crossed:
        def run(self, inputs: SideInputs) -> SideOutputs:
            swapped = {m: a[::-1] for m, a in inputs.images.items()}
            return runner.run(SideInputs(swapped, {m: a[::-1] for m, a in inputs.masks.items()}))

        def describe(self) -> str:
            return "crossed"

    check_golden(runner, package)
    with pytest.raises(Defect, match="MODEL_GOLDEN_MISMATCH"):
        check_golden(Crossed(), package)
