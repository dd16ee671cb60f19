"""What the decode child does when asked: read facts, decode and prepare. Runs only in the child; reads stored files.

Tasks (JSON): {"do": "facts", "paths": [...]}, {"do": "MG" | "US", "path": ..., "size": S},
{"do": "slice", "path": ...}, {"do": "decoder"}, {"do": "planes", "items": [[path, frame], ...]} and {"do": "MR", "items": [[path, facts path, decoded path or ""], ...], "size": S}.
"""

import dataclasses
import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casework.errors import Refused
from casework.preprocess import mammography, mri, nvimg, ultrasound
from casework.preprocess.child import Handler, Task
from casework.preprocess.decode import decode, open_header
from casework.preprocess.facts import FrameFacts, InstanceFacts, Region, Window
from casework.preprocess.grid import to_bytes8
from casework.preprocess.prepared import Preparation, pack
from casework.result import Finding

_MAX_ARRAY = 1 << 30


def decoder(_: Task) -> tuple[dict[str, Any], bytes]:
    """Which decoder works beside the CPU's in this child, and how many frames it has decoded."""
    return {"decoder": nvimg.CURRENT.name, "frames": nvimg.CURRENT.frames}, b""


def facts(task: Task) -> tuple[dict[str, Any], bytes]:
    """The facts of many instances; a file that can't be read gives its code instead."""
    found: list[dict[str, Any]] = []
    for path in task["paths"]:
        try:
            found.append(facts_to_json(InstanceFacts.from_dataset(open_header(Path(path)))))
        except Refused as refused:
            found.append({"refused": refused.code})
    return {"facts": found}, b""


def mammogram(task: Task) -> tuple[dict[str, Any], bytes]:
    """Decode, as small as the picture allows, and prepare one mammogram."""
    path = Path(task["path"])
    of = InstanceFacts.from_dataset(open_header(path))
    wanted = mammography.reduction(of.rows, of.columns)
    decoded = decode(path, reduce=wanted, frames=[0])
    image = mammography.prepare(decoded.pixels[0], of, int(task["size"]), reduce=decoded.reduce)
    findings = (
        [Finding("ORIENTATION_UNEXPECTED", of.sop_instance_uid)] if image.notes["orientation"] != "as usual" else []
    )
    return {}, pack(Preparation({(image.side, image.slot): image}, tuple(findings)))


def ultrasound_image(task: Task) -> tuple[dict[str, Any], bytes]:
    """Decode the frames of one ultrasound image or cine that are worth looking at, and prepare the best."""
    path = Path(task["path"])
    of = InstanceFacts.from_dataset(open_header(path))
    numbers = ultrasound.sample_frames(of.frame_count)
    frames = decode(path, frames=[n - 1 for n in numbers]).pixels
    return {}, pack(ultrasound.prepare(frames, of, int(task["size"]), frame_numbers=numbers))


def mri_slice(task: Task) -> tuple[dict[str, Any], bytes]:
    """Decode all frames of one MR instance for the cache (compressed ones only are worth it)."""
    return {}, _to_npz(decode(Path(task["path"])).pixels)


def mri_planes(task: Task) -> tuple[dict[str, Any], bytes]:
    """Single frames of MR instances, 0 to the 99.5th percentile of them all as 8 bits: (N, h, w)."""
    stored = [decode(Path(path), frames=[int(frame) - 1]).pixels[0] for path, frame in task["items"]]
    grey = np.stack(stored).astype(np.float32)
    return {}, _to_npz(to_bytes8(grey / np.float32(max(float(np.percentile(grey, 99.5)), 1.0))))


def planes_of(payload: bytes) -> NDArray[np.uint8]:
    """The pictures that the task "planes" made."""
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        pictures: NDArray[np.uint8] = arrays["frames"]
    return pictures


def mri_series(task: Task) -> tuple[dict[str, Any], bytes]:
    """Prepare a dynamic series from its stored instances, with decoded copies where the cache still has them.

    Instances that can't be read are named by their index in "bad", and then nothing is prepared: the choice of images
    has to be made again without them.
    """
    all_facts: list[InstanceFacts] = []
    stacks: list[NDArray[np.generic]] = []
    bad: dict[str, str] = {}
    for n, (path, known, copy) in enumerate(task["items"]):
        try:
            of, stack = _instance(Path(path), Path(known), str(copy))
        except Refused as refused:
            bad[str(n)] = refused.code
            continue
        all_facts.append(of)
        stacks.append(stack[0] if len(stack) == 1 else stack)
        if sum(s.nbytes for s in stacks) > _MAX_ARRAY:
            raise Refused("DIMENSIONS_TOO_LARGE")
    if bad:
        return {"bad": bad}, b""
    return {}, pack(mri.prepare(stacks, all_facts, int(task["size"])))


def _instance(path: Path, known: Path, copy: str) -> tuple[InstanceFacts, NDArray[np.generic]]:
    """Facts, from the cache where it has them, and all frames (N, h, w) of one MR instance."""
    try:
        of = facts_from_json(json.loads(known.read_bytes()))
    except (OSError, ValueError):
        of = InstanceFacts.from_dataset(open_header(path))
    stack = _from_cache(copy, of) if copy else None
    return of, decode(path).pixels if stack is None else stack


HANDLERS: Mapping[str, Handler] = {
    "decoder": decoder,
    "facts": facts,
    "MG": mammogram,
    "US": ultrasound_image,
    "slice": mri_slice,
    "planes": mri_planes,
    "MR": mri_series,
}


def _to_npz(array: NDArray[np.generic]) -> bytes:
    """An array with a checksum: the cache is not flushed, and what a power cut leaves must not pass for an image."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, frames=array)
    return buffer.getvalue()


def _from_cache(copy: str, of: InstanceFacts) -> NDArray[np.generic] | None:
    """A decoded copy, None when it is gone, damaged or not what the header says (the cache is never trusted)."""
    try:
        with np.load(io.BytesIO(Path(copy).read_bytes()), allow_pickle=False) as arrays:
            array: NDArray[np.generic] = arrays["frames"]
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return None
    return array if array.shape == (of.frame_count, of.rows, of.columns) else None


# --- facts over the pipe ----------------------------------------------------------------------------------------


def facts_to_json(of: InstanceFacts) -> dict[str, Any]:
    """Facts for the choice of images; look-up tables stay behind, the child reads them again when it prepares."""
    return dataclasses.asdict(dataclasses.replace(of, voi_luts=()))


def facts_from_json(values: Mapping[str, Any]) -> InstanceFacts:
    """The facts that `facts_to_json` wrote.

    Raises:
        ValueError: it is not that.
    """
    try:
        plain = {k: _tuples(v) for k, v in values.items()}
        plain["frames"] = tuple(FrameFacts(**_frozen(f)) for f in values["frames"])
        plain["windows"] = tuple(Window(**f) for f in values["windows"])
        plain["regions"] = tuple(Region(**f) for f in values["regions"])
        facts_ = InstanceFacts(**plain)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("facts") from error
    if not all(math.isfinite(v) for v in (facts_.slope, facts_.intercept)):
        raise ValueError("facts")
    return facts_


def _frozen(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _tuples(v) for k, v in values.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
