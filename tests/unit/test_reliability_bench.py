"""The failure bench itself: its rows are whole, its controls still fit the product, its power cuts forget what they must."""

import random
import re
from pathlib import Path

import pytest

import casework
from tests.bench.reliability.experiments import EXPERIMENTS
from tests.bench.reliability.lab import Experiment
from tests.bench.reliability.powercut import Disk, Op, recorded
from tests.bench.reliability.suite import ByTests

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = Path(casework.__file__).parent


def test_every_experiment_is_there_or_says_why_not() -> None:
    """F01 to F43; what can't be run says why."""
    assert list(EXPERIMENTS) == [f"F{n:02d}" for n in range(1, 44)]
    assert all(e.run or e.short.startswith("not implemented") for e in EXPERIMENTS.values())


@pytest.mark.parametrize("experiment", [e for e in EXPERIMENTS.values() if e.control], ids=lambda e: e.id)
def test_the_guard_that_a_control_takes_off_is_still_there(experiment: Experiment) -> None:
    """A control whose text is gone would run the product as it is."""
    assert experiment.control is not None
    for mutation in experiment.control.mutations:
        text = (PRODUCT / mutation.file).read_text("utf-8")
        assert text.count(mutation.before) == 1, mutation
        assert mutation.before != mutation.after


def test_tests_that_are_called_by_name_exist() -> None:
    """A renamed test would leave an experiment empty."""
    for experiment in EXPERIMENTS.values():
        for node in experiment.run.nodes if isinstance(experiment.run, ByTests) else ():
            file, _, name = node.partition("::")
            assert re.search(rf"^def {name or 'test_'}", (ROOT / file).read_text("utf-8"), re.M), node


RECORDED = (
    "create /r/in/a; write /r/in/a aaaa; fsync /r/in/a; rename /r/in/a - /r/o/a; fsync /r/o;"
    "create /r/in/b; write /r/in/b b; fsync /r/in/b; rename /r/in/b - /r/o/b;"
    "create /r/in/c; write /r/in/c c; rename /r/in/c - /r/o2/c; fsync /r/o2; write /r/old +"
)


def test_a_power_cut_keeps_what_was_flushed_and_nothing_else(tmp_path: Path) -> None:
    """Bytes need the flush of their file, names that of their folder; a flush that began earlier covers no later write."""
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "old").write_bytes(b"old")
    disk = Disk(tmp_path / "before", Path("/r"))
    for at, line in enumerate(RECORDED.split(";")):
        call, path, data, to = [*line.split(), "-", "-"][:4]
        disk.play(Op(at, at + 0.5, call, path, data.encode(), to=to))
    disk.cut(tmp_path / "after", random.Random(1), "nothing")
    after = {
        str(p.relative_to(tmp_path / "after")): p.read_bytes() for p in (tmp_path / "after").rglob("*") if p.is_file()
    }
    assert after == {"old": b"old", "o/a": b"aaaa", "o2/c": b""}


def test_a_recording_is_read_back(tmp_path: Path) -> None:
    """Lines of strace, hexadecimal and with durations, become calls in the order of their beginning."""
    name = "".join(f"\\x{b:02x}" for b in b"/r/x")
    (tmp_path / "log.11").write_text(
        f'2.0 pwrite64(3<{name}>, "\\x61\\x62", 2, 4096) = 2 <0.5>\n3.0 fsync(3<{name}>) = 0 <0.25>\n'
        f"4.0 fsync(3<{name}>) = -1 EIO (Input/output error) <0.25>\n5.0 fsync(9<{name}"
    )
    (tmp_path / "log.12").write_text(
        f'1.0 rename("{name}", "{name}") = 0 <0.1>\n1.5 write(1</elsewhere>, "\\x61", 1) = 1 <0.1>\n'
    )
    ops = recorded(tmp_path / "log", Path("/r"))
    assert [(op.at, op.call, op.offset, op.data) for op in ops] == [
        (1.0, "rename", None, b""), (2.0, "write", 4096, b"ab"), (3.0, "fsync", None, b""),
    ]  # fmt: skip
    assert ops[1].end == 2.5
