"""Open a model package: every file that is used is read once, checked against its sha256, and used from memory.

Owns the reading of models/<name>/. No symbolic link below the package's folder is followed, no path leaves it, and
a graph that keeps weights in another file is refused, so what was digested is what runs.
"""

import hashlib
import io
import json
import os
import stat
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from casework.engine import signature
from casework.engine.protobuf import has_external_data
from casework.errors import Defect
from casework.modelspec import SLOTS, ModelSpec

MAX_FILE_BYTES = 256 << 20
MAX_MANIFEST_BYTES = 1 << 20
ROLES = (*SLOTS, "fusion")


@dataclass(frozen=True, slots=True)
class Golden:
    """A recorded run: arrays by name, as models/cman/package.py writes them (images as uint8, scaled by 1 / 255)."""

    name: str
    arrays: Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Reference:
    """Where the training images of one modality lie in the encoder's pooled features, one cloud a slot.

    mean (slots, d); inverse (slots, d, d), of the covariance divided by d; limit: the distance that is just still usual.
    """

    mean: NDArray[np.float32]
    inverse: NDArray[np.float32]
    limit: float

    def distance(self, features: NDArray[np.float32]) -> float:
        """How far the furthest of some images (n, d) is from the nearest cloud, in units of the limit."""
        apart = features[:, None] - self.mean[None]
        squared = np.einsum("nsd,sde,nse->ns", apart, self.inverse, apart)
        return float(np.sqrt(np.maximum(squared, 0.0)).min(axis=1).max() / self.limit)


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """An opened package. sha256: of manifest.json, which names the digests of everything else."""

    spec: ModelSpec
    sha256: str
    graphs: Mapping[str, bytes]  # role (MG, MR, US, fusion) -> serialised ONNX
    golden: tuple[Golden, ...]
    reference: Mapping[str, Reference] = field(default_factory=dict)  # by modality; empty when the package has none
    signed_by: str = ""  # the trusted key that signed the manifest; "" = nobody, or no key is trusted here


def read_below(root: int, relative: str, limit: int) -> bytes:
    """Read one file below the open folder `root`, component by component, following no link."""
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or any(p in ("..", ".") or "\0" in p for p in parts):
        raise Defect("MODEL_INVALID", f"path {relative!r} leaves the package")
    folders: list[int] = []
    try:
        at = root
        for part in parts[:-1]:
            at = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            folders.append(at)
        # O_NONBLOCK: a FIFO put in a file's place must not hang the worker.
        fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        with os.fdopen(fd, "rb") as file:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode) or about.st_size > limit:
                raise Defect("MODEL_INVALID", f"{relative}: not a regular file of at most {limit} bytes")
            return file.read(limit + 1)
    except OSError as error:
        raise Defect("MODEL_INVALID", f"{relative}: {error.strerror}") from error
    finally:
        for folder in folders:
            os.close(folder)


def _verified(root: int, spec: ModelSpec, relative: str) -> bytes:
    data = read_below(root, relative, MAX_FILE_BYTES)
    if hashlib.sha256(data).hexdigest() != spec.files.get(relative):
        raise Defect("MODEL_INVALID", f"{relative}: its sha256 is not the manifest's")
    return data


def _graph(role: str, data: bytes) -> bytes:
    try:
        external = has_external_data(data)
    except ValueError as error:
        raise Defect("MODEL_INVALID", f"graph {role}: {error}") from error
    if external:
        raise Defect("MODEL_INVALID", f"graph {role} keeps weights outside its file")
    return data


def _golden(relative: str, data: bytes) -> Golden:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return Golden(relative, {name: archive[name] for name in archive.files})
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise Defect("MODEL_INVALID", f"{relative}: not a readable golden sample") from error


def _reference(relative: str, data: bytes) -> dict[str, Reference]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            found = {
                m: Reference(
                    archive[f"{m}_mean"].astype(np.float32),
                    archive[f"{m}_inverse"].astype(np.float32),
                    float(archive[f"{m}_limit"]),
                )
                for m in SLOTS
            }
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise Defect("MODEL_INVALID", f"{relative}: not a readable reference") from error
    for one in found.values():
        slots, width = one.mean.shape if one.mean.ndim == 2 else (0, 0)
        if one.inverse.shape != (slots, width, width) or not slots or not 0.0 < one.limit < np.inf:
            raise Defect("MODEL_INVALID", f"{relative}: its shapes do not fit")
    return found


def _manifest(data: bytes) -> ModelSpec:
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Defect("MODEL_INVALID", f"manifest.json: {error}") from error
    if not isinstance(manifest, dict):
        raise Defect("MODEL_INVALID", "manifest.json: not an object")
    spec = ModelSpec.from_manifest(manifest)
    if set(spec.graphs) != set(ROLES):
        raise Defect("MODEL_INVALID", f"manifest.json: graphs must be {', '.join(ROLES)}")
    if not spec.golden:
        raise Defect("MODEL_INVALID", "manifest.json: no golden sample")
    named = {*spec.graphs.values(), *spec.golden} | ({spec.reference} - {""})
    if not named <= set(spec.files):
        raise Defect("MODEL_INVALID", "manifest.json: a graph, golden sample or reference has no sha256")
    return spec


def _signer(root: int, manifest: bytes, keys: Sequence[str], *, allow_unsigned: bool) -> str:
    """Who signed the manifest. A signature that does not fit is never "unsigned"."""
    if not keys:
        return ""
    try:
        found = read_below(root, signature.FILE, signature.MAX_BYTES)
    except Defect:
        if allow_unsigned and signature.FILE not in os.listdir(root):
            return ""
        raise Defect("MODEL_UNSIGNED", f"no {signature.FILE}") from None
    return signature.signer(manifest, found, keys)


def open_package(path: Path, keys: Sequence[str] = (), *, allow_unsigned: bool = False) -> ModelPackage:
    """Open and verify the package in a folder. With `keys` (PEM files) one of them must have signed it.

    Raises:
        Defect: MODEL_INVALID when a file is missing, a link, too large, not what its sha256 says, or unreadable;
            MODEL_UNSIGNED.
    """
    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Defect("MODEL_INVALID", f"{path}: {error.strerror}") from error
    try:
        manifest = read_below(root, "manifest.json", MAX_MANIFEST_BYTES)
        signed_by = _signer(root, manifest, keys, allow_unsigned=allow_unsigned)
        spec = _manifest(manifest)
        # Also files that nothing here runs (card, evaluation) are checked: they are part of what was released.
        data = {relative: _verified(root, spec, relative) for relative in spec.files}
        graphs = {role: _graph(role, data[relative]) for role, relative in spec.graphs.items()}
        golden = tuple(_golden(relative, data[relative]) for relative in spec.golden)
        reference = _reference(spec.reference, data[spec.reference]) if spec.reference else {}
        return ModelPackage(spec, hashlib.sha256(manifest).hexdigest(), graphs, golden, reference, signed_by)
    finally:
        os.close(root)
