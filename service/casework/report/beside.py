"""The reports, made and checked in a process beside the worker, so that a case's results use two cores.

Pictures stay with the worker: only headers and numbers go over, only reports and what was read back from them come
back. The process (`python -m casework.report.beside FD`) is the worker's own program and as trusted, so the pipe
between them carries pickles. It says nothing and writes nothing. When it fails, the worker does the same here and gets
the same bytes, later: `casework_reports_here_total` counts it.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from pydicom.dataset import Dataset

from casework import config
from casework.errors import Defect
from casework.observe import REPORTS_HERE, log
from casework.report.check import Examined, digest, examine
from casework.report.rendering import Rendered, render_reports, without_pixels
from casework.result import CaseResult

Task = tuple[CaseResult, Mapping[str, Dataset], config.Report, datetime, frozenset[str]]
COMMAND = (sys.executable, "-m", "casework.report.beside")
DEADLINE_S = 30.0  # of one case's reports, which take 0.2 s: then the process is taken for stuck
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV")  # the time zone goes into results


@dataclass(frozen=True, slots=True)
class Reports:
    """The reports of a case, each with what was read back from its bytes, by their digest (see `check`)."""

    rendered: tuple[Rendered, ...]
    examined: Mapping[bytes, Examined]


def make(
    result: CaseResult,
    sources: Mapping[str, Dataset],
    settings: config.Report,
    now: datetime,
    wanted: frozenset[str] = frozenset(),
) -> Reports:
    """Render and examine the reports; the result may be without pixels. wanted: as for `render`.

    Raises:
        Defect: RESULT_SELF_CHECK, as `render` and `check`.
    """
    rendered = render_reports(result, sources, settings, now, wanted)
    return Reports(tuple(rendered), {digest(r): examine(r, result, sources) for r in rendered})


class _Gone(Exception):
    """The process ended, was too slow, or failed where it never should."""


class ReportProcess:
    """One such process: started by `start`, replaced when it died. Without `start` the reports are made here."""

    def __init__(self, command: Sequence[str] = COMMAND, deadline_s: float = DEADLINE_S) -> None:
        self._command, self._deadline_s = tuple(command), deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._wanted = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reports")

    def start(self) -> None:
        """Start the process without waiting until it has imported everything."""
        self._wanted = True
        self._thread.submit(self._begin)

    def reports(
        self,
        result: CaseResult,
        sources: Mapping[str, Dataset],
        settings: config.Report,
        now: datetime,
        wanted: frozenset[str] = frozenset(),
    ) -> "Future[Reports]":
        """Begin a case's reports; the future raises what `make` raises."""
        small = without_pixels(result)
        # Now and not in the thread: reading an attribute changes a data set, and the caller goes on reading.
        task = (small, dict(sources), settings, now, wanted)
        packed = pickle.dumps(task, pickle.HIGHEST_PROTOCOL) if self._wanted else b""
        return self._thread.submit(self._reports, packed, task)

    @property
    def pid(self) -> int | None:
        """The process id, None when there is no process."""
        return self._process.pid if self._process is not None else None

    def close(self) -> None:
        """End the process."""
        self._wanted = False
        self._thread.shutdown(cancel_futures=True)
        self._end()

    def _reports(self, packed: bytes, task: Task) -> Reports:
        if packed:
            try:
                answer = self._ask(packed)
            except (_Gone, EOFError, OSError, pickle.PickleError) as gone:
                REPORTS_HERE.inc()
                log.error("reports.here", case_id=task[0].case_id, error_type=type(gone).__name__, reason=str(gone))
                self._end()
                with contextlib.suppress(OSError):
                    self._begin()  # for the next case
            else:
                if isinstance(answer, Defect):
                    raise answer
                return answer
        return make(*task)

    def _ask(self, task: bytes) -> Reports | Defect:
        process, pipe = self._begin()
        watchdog = threading.Timer(self._deadline_s, process.kill)  # also ends a send that nobody reads
        watchdog.start()
        try:
            pipe.send_bytes(task)
            answer = pipe.recv()
        finally:
            watchdog.cancel()
        match answer:
            case Reports():
                return answer
            case ("defect", str(code), str(detail)):
                return Defect(code, detail)
            case _:
                raise _Gone(str(answer))

    def _begin(self) -> tuple[subprocess.Popen[bytes], Connection]:
        if self._process is None or self._pipe is None:
            self._pipe, theirs = Pipe()
            with theirs:
                environment = {
                    k: v for k, v in os.environ.items() if k in _KEPT_ENVIRONMENT or k.startswith("COVERAGE")
                }
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell, no outside text
                    [*self._command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # warnings of libraries may quote values
                    env=environment | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                    pass_fds=(theirs.fileno(),),
                )
        return self._process, self._pipe

    def _end(self) -> None:
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if pipe is not None:
            pipe.close()
        if process is not None:
            process.kill()  # it holds nothing that could be lost
            process.wait()


# --- the process's side --------------------------------------------------------------------------------------------


def serve(pipe: Connection) -> None:
    """Answer until the worker is gone."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(_answer(pipe.recv()))


def _answer(task: Task) -> object:
    try:
        return make(*task)
    except Defect as defect:
        return ("defect", defect.code, defect.detail)
    except Exception as error:  # noqa: BLE001 - the process's outer guard: the worker does it again and says more
        return type(error).__name__


if __name__ == "__main__":
    from casework.report.beside import serve as serve_by_name  # pickles name the module: it must not be "__main__"

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker
    serve_by_name(Connection(int(sys.argv[1])))
