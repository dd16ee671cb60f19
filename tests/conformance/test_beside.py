"""Reports made in the process beside: the same bytes, checked as strictly, and nothing but time lost when it fails."""

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest
from prometheus_client import REGISTRY

from casework.config import Report
from casework.errors import Defect
from casework.report import Rendered, check, render, render_images
from casework.report.beside import ReportProcess, Reports
from casework.report.check import digest, examine
from tests.conformance.studies import NOW, Case, make


@pytest.fixture(scope="module")
def case() -> Case:
    return make(slices=4)


@pytest.fixture(scope="module")
def beside() -> Iterator[ReportProcess]:
    process = ReportProcess()
    process.start()
    yield process
    process.close()


def reports(process: ReportProcess, case: Case, settings: Report | None = None) -> Reports:
    return process.reports(case.result, case.sources, settings or Report(), NOW).result(60)


def made_here() -> float:
    return REGISTRY.get_sample_value("casework_reports_here_total") or 0.0


def plain(items: list[Rendered]) -> list[tuple[str, str, str, bytes]]:
    return [(i.kind, i.sop_instance_uid, i.label, i.data) for i in items]


@pytest.mark.parametrize(("charset", "language"), [("utf8", "en"), ("gb18030", "zh"), ("mislabelled", "zh")])
def test_the_same_bytes_come_from_either_process(beside: ReportProcess, charset: str, language: str) -> None:
    """Text of any character set goes over as bytes; whoever makes the reports, the objects are the same."""
    case, settings = make(charset, slices=4), Report(language=language)
    before = made_here()
    reports(beside, case, settings)
    assert beside.pid is not None
    worked = psutil.Process(beside.pid).cpu_times().user
    there = reports(beside, case, settings)
    images = render_images(case.result, case.sources, settings, NOW)
    assert psutil.Process(beside.pid).cpu_times().user > worked
    assert made_here() == before
    assert plain([*there.rendered, *images]) == plain(render(case.result, case.sources, settings, NOW))
    check([*there.rendered, *images], case.result, case.sources, there.examined)


def test_times_are_those_of_the_workers_time_zone(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    """A study that states no offset is dated by the worker's clock, in both processes."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    process = ReportProcess()
    process.start()
    try:
        there = reports(process, case)
        assert plain(list(there.rendered)) == plain(render(case.result, case.sources, Report(), NOW)[:3])
    finally:
        process.close()
        monkeypatch.undo()
        time.tzset()


def test_a_report_that_was_changed_after_its_examination_is_read_again(beside: ReportProcess, case: Case) -> None:
    """What was examined elsewhere counts for the very same bytes only."""
    there = reports(beside, case)
    images = render_images(case.result, case.sources, Report(), NOW)
    changed = [replace(r, data=r.data.replace(b"COMPLETE", b"PARTIAL ")) for r in there.rendered]
    with pytest.raises(Defect, match="sr flags"):
        check([*changed, *images], case.result, case.sources, there.examined)
    moved = [replace(r, series_instance_uid="1.2.3") for r in there.rendered]
    with pytest.raises(Defect, match="series"):
        check([*moved, *images], case.result, case.sources, there.examined)


def test_what_a_report_refers_to_has_to_be_there(beside: ReportProcess, case: Case) -> None:
    """Examined alone, a report can name an object that is not; among the others it can't."""
    there = reports(beside, case)
    images = render_images(case.result, case.sources, Report(), NOW)
    captures = [r for r in images if r.kind == "capture"]
    examined = {**there.examined, **{digest(c): examine(c, case.result, case.sources) for c in captures}}
    check([*there.rendered, *images], case.result, case.sources, examined)
    other = {uid: copy.copy(source) for uid, source in case.sources.items()}
    next(iter(other.values())).SOPClassUID = "1.2.3"
    with pytest.raises(Defect, match="references"):
        check([*there.rendered, *images], case.result, other, examined)


def _examined(items: list[Rendered], case: Case) -> dict[bytes, object]:
    from casework.report.check import digest, examine

    right = {
        r.sop_instance_uid: r for r in render_images(case.result, case.sources, Report(), NOW) if r.kind == "capture"
    }
    return {
        digest(i): examine(right[i.sop_instance_uid], case.result, case.sources) for i in items if i.kind == "capture"
    }


def test_a_defect_there_is_a_defect_here(beside: ReportProcess) -> None:
    """A report that can't be made fails the case with the code and the words it has in one process; nothing is repeated."""
    case, before = make("mislabelled", modalities=("MG",), sides=("R",)), made_here()
    bad = replace(case, result=replace(case.result, model=replace(case.result.model, name="模型")))
    with pytest.raises(Defect) as here:
        render(bad.result, bad.sources, Report(), NOW)
    with pytest.raises(Defect) as there:
        reports(beside, bad)
    assert (there.value.code, there.value.detail) == (here.value.code, here.value.detail)
    assert made_here() == before


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_hangs_costs_only_time(case: Case, end: signal.Signals) -> None:
    """The worker makes the reports itself, counts it, and has a new process for the next case."""
    process, before = ReportProcess(deadline_s=6.0), made_here()
    process.start()
    try:
        first = reports(process, case)
        killed = process.pid
        assert killed is not None
        os.kill(killed, end)
        again = reports(process, case)
        assert made_here() == before + 1
        assert not psutil.pid_exists(killed)
        third = reports(process, case)
        assert made_here() == before + 1
        assert process.pid not in (None, killed)
        assert again.rendered == first.rendered == third.rendered
        assert again.examined == first.examined
    finally:
        process.close()


def test_a_program_that_is_not_there_costs_only_time(case: Case) -> None:
    """Also when no process starts at all, results are made."""
    process, before = ReportProcess((sys.executable, "-c", "raise SystemExit(3)")), made_here()
    process.start()
    try:
        assert len(reports(process, case).rendered) == 3
        assert made_here() == before + 1
    finally:
        process.close()


def test_the_process_leaves_when_its_worker_is_killed() -> None:
    """A worker that is killed leaves no process behind."""
    code = """
import time
from casework.report.beside import ReportProcess
process = ReportProcess()
process.start()
while process.pid is None:
    time.sleep(0.01)
print(process.pid, flush=True)
time.sleep(60)
"""
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    child = psutil.Process(int(worker.stdout.readline()))
    worker.kill()
    worker.wait()
    worker.stdout.close()
    child.wait(30)
    assert not child.is_running()
