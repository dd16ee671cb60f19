"""Reads one hostile file in a process of its own, as the service would, and says what came of it, how long it took and how large it grew."""

import json
import sys
import time
from pathlib import Path

from casework.dicom.header import read_header
from casework.errors import Refused
from casework.preprocess.decode import decode

if __name__ == "__main__":
    path = Path(sys.argv[2])
    began = time.process_time()
    try:
        read_header(path) if sys.argv[1] == "header" else decode(path)
        code = "taken"
    except Refused as error:
        code = error.code
    except MemoryError:
        code = "MemoryError"
    # VmHWM is this program's own: ru_maxrss also remembers how large the process was that started it (getrusage(2), exec).
    [line] = [one for one in Path("/proc/self/status").read_text("ascii").splitlines() if one.startswith("VmHWM")]
    grown = int(line.split()[1]) / 1024
    print(json.dumps({"code": code, "seconds": time.process_time() - began, "mib": grown}))
