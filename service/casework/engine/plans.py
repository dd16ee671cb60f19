"""Built plans on disk: keyed by all that they depend on, written whole or not at all, never taken on trust.

Owns the folder of plans. A plan is as good as code to the library that reads it, so a folder that others may write to, or a
plan whose bytes are not what was written, is not used.
"""

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from casework.errors import Defect
from casework.observe import log


@dataclass(frozen=True, slots=True)
class PlanKey:
    """Everything that a plan depends on. profile: least, usual and most of the first axis."""

    onnx: str  # sha256 of the graph
    library: str
    version: str
    gpu: str
    capability: str  # e.g. "8.9"
    precision: str
    profile: tuple[int, int, int]

    @property
    def name(self) -> str:
        """Short digest, for file names."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:24]


class Plans:
    """A folder of plans and of the libraries' own caches.

    Raises:
        Defect: CONFIG_INVALID, somebody else may write to the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) & 0o022:
            raise Defect("CONFIG_INVALID", f"engine.plans: {folder.name} must be ours alone to write (0700)")

    def find(self, role: str, key: PlanKey) -> bytes | None:
        """The plan of a graph, None when it has to be built."""
        about = self._about(role, key)
        try:
            plan = self._plan(role, key).read_bytes()
        except OSError:
            return None
        if about.get("key") != json.loads(json.dumps(asdict(key))) or about.get("sha256") != _sha(plan):
            log.warning("plan.damaged", kind=role)
            return None
        return plan

    def keep(self, role: str, key: PlanKey, plan: bytes, seconds: float) -> None:
        """Keep a plan that was just built; what was there for the graph under another key goes."""
        about = {"key": asdict(key), "sha256": _sha(plan), "bytes": len(plan), "built_at": int(time.time()), "seconds": round(seconds, 1)}  # fmt: skip
        self._write(self._plan(role, key), plan)
        self._write(self._plan(role, key).with_suffix(".json"), json.dumps(about, indent=1).encode())
        for old in self._folder.glob(f"{role.lower()}-*"):
            if old.stem != self._plan(role, key).stem:
                old.unlink(missing_ok=True)

    def cache(self, name: str) -> bytes:
        """What a library asked to keep (timings, compiled kernels), b"" without it."""
        try:
            return (self._folder / f"{name}.cache").read_bytes()
        except OSError:
            return b""

    def keep_cache(self, name: str, data: bytes) -> None:
        """Keep it for the next start."""
        self._write(self._folder / f"{name}.cache", data)

    def _plan(self, role: str, key: PlanKey) -> Path:
        return self._folder / f"{role.lower()}-{key.name}.plan"

    def _about(self, role: str, key: PlanKey) -> Mapping[str, object]:
        try:
            about = json.loads(self._plan(role, key).with_suffix(".json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return about if isinstance(about, dict) else {}

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        part = path.with_name(f".{uuid4().hex}.part")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
