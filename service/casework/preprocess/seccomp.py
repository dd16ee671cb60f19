"""Takes away from this process, for good, the making of network sockets: a filter of the kernel (seccomp, BPF). Does no other I/O.

A name space without a network is refused to ordinary users in most containers; this filter is not. It knows two kinds of processor.
"""

import ctypes
import errno
import platform
import socket
import struct

_ARCHITECTURES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}  # <linux/audit.h>, the number of socket(2)
_IO_URING_SETUP = 425  # could make sockets by another way
_OTHER_ABI = 0x40000000  # x32: the same calls under other numbers
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # <linux/bpf_common.h>
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | errno.EACCES


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def no_network(*, local: bool = False) -> bool:
    """Refuse socket(2) in this thread and all that it starts, with EACCES; `local`: but for sockets of this machine (AF_UNIX).

    False: this kernel or processor can't. Sockets that are open stay.
    """
    if platform.machine() not in _ARCHITECTURES:
        return False
    architecture, number = _ARCHITECTURES[platform.machine()]
    family = socket.AF_UNIX if local else 0xFFFF  # a family that there is not
    code = [  # (operation, jump when true, jump when false, value): jumps count from the next line
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 8, architecture),  # else: a call of another kind of processor
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 6, 0, _OTHER_ABI),
        (_EQUAL, 5, 0, _IO_URING_SETUP),
        (_EQUAL, 1, 0, number),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 0, 1, family),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    ]
    program = _Program(len(code), b"".join(struct.pack("=HBBI", *line) for line in code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) == 0)
