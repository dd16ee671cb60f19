"""Killable child processes for everything that touches hostile pixels. Owns its child processes, nothing else.

A child is a fresh interpreter (`python -m casework.preprocess.child`), not a fork of a parent with threads. It has caps
on memory, processor time per task, file size and core dumps, no inherited descriptors and no network: no name space with
one where the kernel allows that, and no socket at all by a filter (seccomp.py). It reads tasks from its standard input and answers on its standard output:

    4 bytes big-endian length of a JSON head | the head | `payload` bytes of data (NumPy without pickles)

A crash, an endless loop or too much memory costs the caller one `Unavailable("DECODER_CRASHED")` and the child is
replaced; it never costs the worker.
"""

import contextlib
import ctypes
import json
import os
import queue
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

from casework.errors import CaseworkError, Defect, Refused, Unavailable
from casework.observe import DECODER_PASSED_OVER, log
from casework.preprocess import nvimg
from casework.preprocess.seccomp import no_network
from casework.reasons import REASONS

COMMAND = (sys.executable, "-m", "casework.preprocess.child")
_MAX_HEAD = 64 << 20
_MAX_PAYLOAD = 512 << 20
_CLONE_NEWNET, _CLONE_NEWUSER, _PR_SET_NO_NEW_PRIVS = 0x40000000, 0x10000000, 38
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "VIRTUAL_ENV")

Task = Mapping[str, Any]
Handler = Callable[[Task], tuple[dict[str, Any], bytes]]


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """Caps of one child: address space in bytes, processor seconds per task; the decoder beside the CPU's and its GPU (nvimg).

    CUDA reserves more address space than any cap worth having, so with it the cap is on what can be written (RLIMIT_DATA).
    """

    memory_bytes: int = 3 << 30
    cpu_s: int = 60
    decoder: str = "cpu"
    device: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a task gave: small facts and, for arrays, bytes."""

    head: dict[str, Any]
    payload: bytes


class _Gone(Exception):
    """The child ended or did not answer in time."""


# --- the parent's side ----------------------------------------------------------------------------------------


class DecodeChild:
    """One child process, started when first needed and replaced after it died. Not for use by two threads at once."""

    def __init__(self, limits: ChildLimits, command: Sequence[str] = COMMAND) -> None:
        self._limits = limits
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._lost = ""

    def start(self) -> None:
        """Start the child if there is none, without waiting until it has imported everything."""
        if self._process is not None and self._process.poll() is None:
            return
        environment = {k: v for k, v in os.environ.items() if k in _KEPT_ENVIRONMENT or k.startswith("COVERAGE")}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        limits = self._limits
        arguments = [str(limits.memory_bytes), str(limits.cpu_s), limits.decoder, str(limits.device)]
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell, no outside text
            [*self._command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders print what they like, also tag values
            env=environment,
            close_fds=True,
        )

    def call(self, task: Task, timeout_s: float) -> Answer:
        """Run one task.

        Raises:
            Refused: the input can't be used; the code is the child's.
            Unavailable: DECODER_CRASHED; the child is dead and the next call starts another.
            Defect: INTERNAL, when our own code failed in the child.
        """
        self.start()
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise Unavailable("DECODER_CRASHED", "not started")
        try:
            _send(process.stdin, task)
            head, payload = _receive(process.stdout.fileno(), time.monotonic() + timeout_s)
        except (_Gone, OSError, ValueError) as error:
            raise Unavailable("DECODER_CRASHED", self._kill(str(error))) from error
        self._hear(head.pop("lost", ""))
        match head:
            case {"refused": [str(code), str(detail)]} if code in REASONS:
                raise Refused(code, detail)
            case {"limit": str(what)}:
                raise Unavailable("DECODER_CRASHED", self._kill(what))
            case {"failed": str(what)}:
                raise Defect("INTERNAL", f"decode child: {what}")
        return Answer(head, payload)

    def _hear(self, lost: object) -> None:
        """Say aloud, once, that the child decodes by the CPU although another decoder is configured."""
        if not lost or self._lost:
            return
        self._lost = lost if lost in nvimg.LOST else "frame"  # its words are not ours
        DECODER_PASSED_OVER.labels(self._limits.decoder, self._lost).inc()
        log.error("decoder.passed_over", code="DECODER_FALLBACK", kind=self._limits.decoder, reason=self._lost)

    @property
    def pid(self) -> int | None:
        """The process id, None when there is no child."""
        return self._process.pid if self._process is not None else None

    def close(self) -> None:
        """End the child: it leaves by itself when its input closes, or is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def _kill(self, why: str) -> str:
        """Kill what is left of the child and say in words how it ended."""
        process, self._process = self._process, None
        if process is None:
            return why
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2 if why == "ended" else 0.0)
        code = process.poll()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        return f"{signal.Signals(-code).name}" if code is not None and code < 0 else why


class DecodePool:
    """A fixed number of children behind a queue. Safe for use by several threads."""

    def __init__(self, count: int, limits: ChildLimits, command: Sequence[str] = COMMAND) -> None:
        self._idle: queue.SimpleQueue[DecodeChild] = queue.SimpleQueue()
        self._all = [DecodeChild(limits, command) for _ in range(max(1, count))]
        self._threads = ThreadPoolExecutor(len(self._all), thread_name_prefix="decode")
        for child in self._all:
            child.start()
            self._idle.put(child)

    @property
    def size(self) -> int:
        """How many tasks run at the same time."""
        return len(self._all)

    def submit(self, task: Task, timeout_s: float) -> "Future[Answer]":
        """Run a task on the next free child; the future raises what DecodeChild.call raises."""
        return self._threads.submit(self._run, task, timeout_s)

    def close(self) -> None:
        """Give up waiting tasks and end all children."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._all:
            child.close()

    def _run(self, task: Task, timeout_s: float) -> Answer:
        child = self._idle.get()
        try:
            return child.call(task, timeout_s)
        finally:
            self._idle.put(child)


def _send(pipe: IO[bytes], task: Task) -> None:
    body = json.dumps(task).encode()
    pipe.write(struct.pack(">I", len(body)) + body)
    pipe.flush()


def _receive(fd: int, deadline: float) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack(">I", _exactly(fd, 4, deadline))
    if length > _MAX_HEAD:
        raise _Gone("answer too long")
    head = json.loads(_exactly(fd, length, deadline))
    size = head.get("payload", 0) if isinstance(head, dict) else -1
    if not isinstance(size, int) or not 0 <= size <= _MAX_PAYLOAD:
        raise _Gone("answer malformed")
    return head, _exactly(fd, size, deadline)


def _exactly(fd: int, count: int, deadline: float) -> bytes:
    """Read `count` bytes before the deadline (monotonic seconds)."""
    parts, missing = bytearray(), count
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while missing:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise _Gone("no answer within the deadline")
        piece = os.read(fd, min(missing, 1 << 20))
        if not piece:
            raise _Gone("ended")
        parts += piece
        missing -= len(piece)
    return bytes(parts)


# --- the child's side ----------------------------------------------------------------------------------------------


def confine(memory_bytes: int, *, cap: int = resource.RLIMIT_AS) -> None:
    """Take away from this process what a decoder does not need. Call before any thread starts.

    A refused unshare is no error: unprivileged name spaces are off in most containers. The kernel's filter then keeps it off the network; a
    GPU's driver (cap RLIMIT_DATA) still needs sockets of this machine.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    no_network(local=cap == resource.RLIMIT_DATA)
    for limit, value in (
        (cap, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 16 << 20),
        (resource.RLIMIT_NOFILE, 128),
    ):
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))


def serve(handlers: Mapping[str, Handler], cpu_s: int, source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer tasks until the input closes. Each task's own processor time is capped at `cpu_s` seconds."""
    beside = nvimg.CURRENT
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    while len(size := source.read(4)) == 4:
        task = json.loads(source.read(struct.unpack(">I", size)[0]))
        _rearm(cpu_s)
        head, payload = _answer(handlers, task)
        body = json.dumps({**head, "payload": len(payload), **({"lost": beside.lost} if beside.lost else {})}).encode()
        sink.write(struct.pack(">I", len(body)) + body)
        sink.write(payload)
        sink.flush()


def _rearm(cpu_s: int) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime) + cpu_s + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _answer(handlers: Mapping[str, Handler], task: Task) -> tuple[dict[str, Any], bytes]:
    try:
        return handlers[str(task["do"])](task)
    except Refused as refused:
        return {"refused": [refused.code, refused.detail]}, b""
    except MemoryError:
        return {"limit": "memory"}, b""
    except CaseworkError as error:
        return {"failed": error.code}, b""
    except Exception as error:  # noqa: BLE001 - the child's outer guard: the parent decides what a failure means
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno}" if place else ""  # noqa: PTH119 - a name, not a file
        return {"failed": f"{type(error).__name__} {where}"}, b""


def _leave_with_parent(parent: int) -> None:
    """A child whose parent was killed must not go on: processor time is capped, waiting is not."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main(handlers: Mapping[str, Handler] | None = None) -> None:
    """Run as the child: arguments are memory in bytes, processor seconds per task, a decoder and its device."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which closes our input
    kind, device = sys.argv[3], int(sys.argv[4])
    confine(int(sys.argv[1]), cap=resource.RLIMIT_DATA if kind == "nvimgcodec" else resource.RLIMIT_AS)
    if handlers is None:
        from casework.preprocess.tasks import HANDLERS

        handlers = HANDLERS
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a native library prints must not become part of an answer
    nvimg.CURRENT.begin(kind, device)
    with contextlib.suppress(BrokenPipeError):
        serve(handlers, int(sys.argv[2]), sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
