"""Who owns a lease, an association or a half-written file: one process on one host. Asks the kernel for its own name only.

A process number means something in its own process namespace only, and containers may share a host's name: both are in the
name of a place. Nobody is called dead who lives in another place; such an owner is known by its silence.
"""

import os
import socket


def place() -> str:
    """This host and process namespace."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - a link of the kernel's, not a file
    except OSError:  # not Linux
        namespace = 0
    return f"{socket.gethostname()}/{namespace}"


def process() -> str:
    """This process."""
    return f"{place()}/{os.getpid()}"


def dead_at_boot(owner: str) -> bool:
    """Whether an owner is gone for certain, as seen by a process that has just begun and owns nothing yet."""
    where, _, pid = owner.rpartition("/")
    if where != place() or not pid.isdigit():
        return False
    if int(pid) == os.getpid():
        return True  # an earlier process had our number
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
