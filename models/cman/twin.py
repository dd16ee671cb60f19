"""The half-precision twin of a package, bound to it by digests: what GPUs run. Writes files where it is told.

    python -m models.cman.twin [--package models/cman] --out models/cman-fp16

Encoders: the released seven-bit weights as halves, activations not rounded (unquantised.py). Fusion: as released. The service
opens the folder beside the package and refuses one that was made from another package (casework.engine.twin); needs onnx and
onnxruntime, no torch and no GPU: models/requirements-twin.lock.
"""

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from casework.engine.bundle import ModelPackage, open_package
from casework.engine.golden import inputs_of
from casework.engine.onnxrt import OnnxRunner
from casework.modelspec import SLOTS
from models.cman.unquantised import halved, unquantised


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_twin(package_folder: Path, out: Path) -> dict[str, object]:
    """Write the graphs, then twin.json; what it says."""
    package = open_package(package_folder)
    out.mkdir(parents=True, exist_ok=True)
    (out / "twin.json").unlink(missing_ok=True)
    graphs: dict[str, dict[str, str]] = {}
    for role, name in package.spec.graphs.items():
        source = package.graphs[role]
        data = source
        if role in SLOTS:
            data = halved(unquantised(onnx.load_from_string(source))).SerializeToString(deterministic=True)
        file = f"{Path(name).stem}.{'fp16' if role in SLOTS else 'fp32'}.onnx"
        (out / file).write_bytes(data)
        graphs[role] = {"file": file, "sha256": _sha(data), "source": _sha(source)}
    made = replace(package, graphs={role: (out / entry["file"]).read_bytes() for role, entry in graphs.items()})
    index: dict[str, object] = {
        "package": package.sha256, "name": package.spec.name, "version": package.spec.version, "precision": "fp16",
        "graphs": graphs, "golden": _record(made, out),
    }  # fmt: skip
    (out / "twin.json").write_text(json.dumps(index, indent=1) + "\n", "utf-8")
    return index


def _record(made: ModelPackage, out: Path) -> dict[str, dict[str, str]]:
    """What the twin's own ONNX graphs say of the golden samples, on this CPU."""
    runner, golden = OnnxRunner(made), {}
    for n, sample in enumerate(made.golden):
        outputs = runner.run(inputs_of(sample))
        file = out / f"golden-{n}.npz"
        arrays: dict[str, Any] = {f"{m}_heat": v.astype(np.float16) for m, v in outputs.heat.items()}
        np.savez_compressed(file, prob=outputs.prob, logit=outputs.logit, **arrays)
        golden[sample.name] = {"file": file.name, "sha256": _sha(file.read_bytes())}
        drift = np.abs(outputs.prob - sample.arrays["prob"].astype(np.float32)).max()
        print(f"{sample.name}: a probability is at most {drift:.4f} from the released one")
    return golden


def main() -> None:
    """Write a twin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=Path(__file__).parent)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write_twin(options.package, options.out)


if __name__ == "__main__":
    main()
