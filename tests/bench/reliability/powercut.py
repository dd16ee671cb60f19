"""Power cuts, portably: strace records every write, rename and flush of a listener, and disks are made of what was flushed.

A file survives with the bytes of its last completed fsync, a name with the last completed fsync of its folder. What was never
flushed may be there or not (POSIX promises neither), so each cut is tried three ways: nothing of it, a random part of it, and
a random part whose last write is torn. One recording gives any number of cuts, at any moment: no device, no root needed.
The ledger's files are treated like all others. LazyFS does the same below a real file system, but can't be had here.
"""

import random
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

CALLS = "openat,write,pwrite64,fsync,fdatasync,rename,renameat2,ftruncate,unlink,unlinkat"
STRACE = (
    "strace",
    "-f",
    "-ff",
    "--seccomp-bpf",
    "-q",
    "-y",
    "-xx",
    "-ttt",
    "-T",
    "-s",
    "4000000",
    "-e",
    f"trace={CALLS}",
)
_LINE = re.compile(r"(?P<at>[\d.]+) (?P<call>\w+)\((?P<rest>.*)\) += (?P<result>-?\d+).*<(?P<took>[\d.]+)>$")
_FD = re.compile(r"(?:\d+|AT_FDCWD)<([^>]*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Op:
    """One recorded call: `at` when it began, `end` when it had ended (seconds of the wall clock)."""

    at: float
    end: float
    call: str
    path: str
    data: bytes = b""
    offset: int | None = None
    to: str = ""


@dataclass
class _File:
    """A file's bytes: what a read would see, and what the disk has for sure."""

    live: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    unflushed: list[tuple[float, int, bytes]] = field(
        default_factory=list
    )  # when written, where, what; -1: cut to length


def recorded(log_prefix: Path, root: Path) -> list[Op]:
    """The calls below `root`, in the order in which they began."""
    ops = []
    for log in log_prefix.parent.glob(f"{log_prefix.name}.*"):
        for line in log.read_text("latin_1").splitlines():
            if (match := _LINE.match(line)) and int(match["result"]) >= 0:
                ops += _op(match, str(root))
    return sorted(ops, key=lambda op: op.at)


def _op(match: "re.Match[str]", root: str) -> list[Op]:
    at, call, rest = float(match["at"]), match["call"], match["rest"]
    end = at + float(match["took"])
    texts = [_bytes(t) for t in _TEXT.findall(rest)]
    handle = _FD.match(rest)
    of_handle = _bytes(handle[1]).decode() if handle else ""
    path = of_handle
    if call in {"rename", "unlink"} or (call in {"openat", "unlinkat", "renameat2"} and texts):
        path = texts[0].decode()
        if not path.startswith("/"):
            path = f"{of_handle}/{path}"
    if not path.startswith(root):
        return []
    if call == "openat":
        return [Op(at, end, "create", path)] if "O_CREAT" in rest else []
    if call == "write":
        return [Op(at, end, "write", path, texts[0][: int(match["result"])])]
    if call == "pwrite64":
        return [Op(at, end, "write", path, texts[0][: int(match["result"])], int(rest.rsplit(",", 1)[1]))]
    if call == "ftruncate":
        return [Op(at, end, "truncate", path, b"", int(rest.rsplit(",", 1)[1]))]
    if call in {"rename", "renameat2"}:
        return [Op(at, end, "rename", path, to=texts[1].decode())]
    return [Op(at, end, {"fdatasync": "fsync", "unlinkat": "unlink"}.get(call, call), path)]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


class Disk:
    """Plays recorded calls onto a snapshot of a folder, and says what a power cut would have left."""

    def __init__(self, snapshot: Path, root: Path) -> None:
        self._root = root
        self._names: dict[str, _File] = {}
        for path in snapshot.rglob("*"):
            if path.is_file() and not path.name.endswith("-shm"):
                data = path.read_bytes()
                self._names[str(root / path.relative_to(snapshot))] = _File(bytearray(data), data)
        self._durable_names = dict(self._names)
        self._flushes: list[tuple[float, float, str]] = []

    def play(self, op: Op) -> None:
        """Do one call."""
        if op.path.endswith("-shm"):
            return
        file = self._names.get(op.path)
        if op.call == "fsync":
            self._flushed(op, file)
        elif op.call == "rename" and file is not None:
            self._names[op.to] = self._names.pop(op.path)
        elif op.call == "unlink":
            self._names.pop(op.path, None)
        elif op.call == "create" and file is None:
            self._names[op.path] = _File()
        elif op.call in {"write", "truncate"} and file is not None:
            offset = -1 if op.call == "truncate" else len(file.live) if op.offset is None else op.offset
            data = op.data if op.call == "write" else (op.offset or 0).to_bytes(8, "little")
            file.unflushed.append((op.end, offset, data))
            _apply(file.live, offset, data)

    def _flushed(self, op: Op, file: _File | None) -> None:
        if file is not None:
            file.durable = bytes(file.live)
            file.unflushed = [write for write in file.unflushed if write[0] > op.at]  # begun before its write had ended
            if file.unflushed:
                file.durable = _without(file)
            return
        inside = {name: f for name, f in self._names.items() if name.rpartition("/")[0] == op.path}
        gone = [n for n in self._durable_names if n.rpartition("/")[0] == op.path and n not in inside]
        for name in gone:
            del self._durable_names[name]
        self._durable_names.update(inside)

    def cut(self, folder: Path, rng: random.Random, mode: str) -> None:
        """Write what survives. mode: "nothing", "some" or "torn" of what was not flushed."""
        names = dict(self._durable_names)
        if mode != "nothing":
            for name, file in self._names.items():
                if rng.random() < 0.5:  # a rename that reached the disk by itself
                    names = {n: f for n, f in names.items() if f is not file} | {name: file}
        for name, file in names.items():
            if "/incoming/" in name or "/health/" in name:
                continue
            data = bytearray(file.durable)
            if mode != "nothing":
                chosen = [w for w in file.unflushed if rng.random() < 0.5]
                for number, (_, offset, piece) in enumerate(chosen):
                    torn = mode == "torn" and number == len(chosen) - 1 and offset >= 0
                    _apply(data, offset, piece[: rng.randrange(len(piece) + 1)] if torn else piece)
            path = folder / Path(name).relative_to(self._root)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _apply(data: bytearray, offset: int, piece: bytes) -> None:
    if offset < 0:
        length = int.from_bytes(piece, "little")
        data[:] = data[:length].ljust(length, b"\0")
        return
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(piece)] = piece


def _without(file: _File) -> bytes:
    """What the flush found: everything but the writes that had not ended when it began. Rare, so it is only bounded."""
    first = min(offset for _, offset, _ in file.unflushed if offset >= 0)
    return bytes(file.live[:first])


def snapshot(root: Path, to: Path) -> Path:
    """A copy of a folder that nobody uses now."""
    shutil.copytree(root, to)
    return to
