"""Large files in parts, for a machine that sends back only small ones: split with digests, joined only when whole.

    python -m models.cman.parts split RUN/*.pt --out OUT [--half] [--mib 15]
    python -m models.cman.parts join OUT --out RUN

--half keeps a checkpoint's floating weights in half precision (batch-norm counters stay as they are); joining gives them back
as float32. A part that is missing or altered is named and nothing is written for its file.
"""

import argparse
import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

MIB = 1 << 20
INDEX = "parts.json"


def _typed(value: Any, kind: torch.dtype) -> Any:
    """The same nested value with its floating tensors in another type."""
    if isinstance(value, dict):
        return {k: _typed(v, kind) for k, v in value.items()}
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.to(kind)
    return value


def split(files: Iterable[Path], out: Path, *, half: bool, limit: int) -> list[Path]:
    """Write the parts and their index; returns the parts."""
    out.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {}
    written = []
    for file in files:
        data = file.read_bytes()
        halved = half and file.suffix == ".pt"
        if halved:
            buffer = io.BytesIO()
            state = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
            torch.save(_typed(state, torch.float16), buffer)
            data = buffer.getvalue()
        names = []
        for n in range(0, max(len(data), 1), limit):
            part = out / f"{file.stem}{file.suffix}-{n // limit:02d}"
            part.write_bytes(data[n : n + limit])
            names.append(part.name)
            written.append(part)
        index[file.name] = {"half": halved, "sha256": hashlib.sha256(data).hexdigest(), "parts": names}
    (out / INDEX).write_text(json.dumps(index, indent=1) + "\n", "utf-8")
    return written


def join(folder: Path, out: Path) -> list[Path]:
    """Write the whole files; returns them.

    Raises:
        ValueError: a part is missing or not what was split.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for name, about in json.loads((folder / INDEX).read_text("utf-8")).items():
        missing = [p for p in about["parts"] if not (folder / p).exists()]
        if missing:
            raise ValueError(f"{name}: no {', '.join(missing)}")
        data = b"".join((folder / p).read_bytes() for p in about["parts"])
        if hashlib.sha256(data).hexdigest() != about["sha256"]:
            raise ValueError(f"{name}: the parts are not what was split")
        path = out / Path(name).name
        if about["half"]:
            torch.save(_typed(torch.load(io.BytesIO(data), weights_only=True), torch.float32), path)
        else:
            path.write_bytes(data)
        found.append(path)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    cut = verbs.add_parser("split")
    cut.add_argument("files", type=Path, nargs="+")
    cut.add_argument("--half", action="store_true")
    cut.add_argument("--mib", type=int, default=15)
    whole = verbs.add_parser("join")
    whole.add_argument("folder", type=Path)
    for one in (cut, whole):
        one.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.verb == "split":
        print(*split(options.files, options.out, half=options.half, limit=options.mib * MIB), sep="\n")
    else:
        print(*join(options.folder, options.out), sep="\n")


if __name__ == "__main__":
    main()
