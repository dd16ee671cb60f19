"""A decode child whose decoders do what hostile pixels can make real ones do. Run as the child's program by the tests."""

import ctypes
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from casework.preprocess.child import Task, main
from casework.preprocess.decode import open_header
from casework.preprocess.tasks import HANDLERS

Answer = tuple[dict[str, Any], bytes]


def segfault(_: Task) -> Answer:
    ctypes.string_at(0)
    raise AssertionError


def abort(_: Task) -> Answer:
    os.abort()


def endless(_: Task) -> Answer:
    while True:
        pass


def sleepy(_: Task) -> Answer:
    time.sleep(60)
    raise AssertionError


def greedy(_: Task) -> Answer:
    return {"size": len(bytearray(2 << 30))}, b""


def burn(task: Task) -> Answer:
    until = time.process_time() + float(task["seconds"])
    while time.process_time() < until:
        pass
    return {}, b""


def chatty(_: Task) -> Answer:
    os.write(1, b"a native library prints")
    print("and Python too", flush=True)
    return {"said": True}, b"payload"


def stray(_: Task) -> Answer:
    raise LookupError("a defect of ours")


def state(_: Task) -> Answer:
    """What the child can still do."""
    reachable = True
    try:
        socket.create_connection(("127.0.0.1", int(_["port"])), 1).close()
    except OSError:
        reachable = False
    return {
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "open": sorted(os.listdir("/proc/self/fd")),  # noqa: PTH208 - names only
        "environment": sorted(os.environ),
        "reachable": reachable,
        "sigint": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    }, b""


def dies_on_right(task: Task) -> Answer:
    """A mammography decoder with a defect that right breasts trigger."""
    if open_header(Path(task["path"])).ImageLaterality == "R":
        segfault(task)
    return HANDLERS["MG"](task)


if __name__ == "__main__":
    tasks = {f.__name__: f for f in (segfault, abort, endless, sleepy, greedy, burn, chatty, stray, state)}
    special = {"MG": dies_on_right} if "crash-on-right" in sys.argv else {}
    sys.argv = [a for a in sys.argv if a != "crash-on-right"]
    main({**HANDLERS, **tasks, **special})
