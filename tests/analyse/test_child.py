"""Decode children: whatever a decoder does, the caller gets an answer or a code, and the next task runs."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom import uid

from casework.errors import Defect, Refused, Unavailable
from casework.preprocess.child import ChildLimits, DecodeChild, DecodePool
from casework.preprocess.prepared import unpack
from casework.preprocess.tasks import planes_of
from tests.analyse.dicoms import smooth, write

BAD = (sys.executable, str(Path(__file__).parent / "bad_child.py"))
LIMITS = ChildLimits(memory_bytes=1 << 30, cpu_s=1)


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodeChild]:
    monkeypatch.setenv("CASEWORK_SECRET", "not for the child")
    child = DecodeChild(LIMITS, BAD)
    yield child
    child.close()


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("segfault", "SIGSEGV"),
        ("abort", "SIGABRT"),
        ("endless", "SIGXCPU"),
        ("greedy", "memory"),
        ("sleepy", "no answer within the deadline"),
    ],
)
def test_a_crash_is_one_code_and_the_next_task_runs(child: DecodeChild, task: str, words: str) -> None:
    """SIGSEGV, abort, an endless loop, too much memory and silence each cost one DECODER_CRASHED, and a new child."""
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        child.call({"do": task}, 2.0 if task == "sleepy" else 30.0)
    assert (caught.value.code, caught.value.detail) == ("DECODER_CRASHED", words)
    assert time.monotonic() - began < 30
    assert child.call({"do": "chatty"}, 10).payload == b"payload"


def test_processor_time_is_capped_per_task_not_for_life(child: DecodeChild) -> None:
    """Several tasks may together use more than the cap of one."""
    pids = set()
    for _ in range(3):
        child.call({"do": "burn", "seconds": 0.8}, 30)
        pids.add(child.pid)
    assert len(pids) == 1


def test_what_a_library_prints_is_no_answer(child: DecodeChild) -> None:
    """Output of native libraries and of Python never becomes part of an answer."""
    answer = child.call({"do": "chatty"}, 10)
    assert (answer.head["said"], answer.payload) == (True, b"payload")


def test_our_own_defect_is_named_and_costs_no_child(child: DecodeChild) -> None:
    """An unexpected exception in the child is a defect with its type and line, and the child lives on."""
    child.call({"do": "chatty"}, 10)
    pid = child.pid
    with pytest.raises(Defect, match=r"LookupError bad_child\.py:"):
        child.call({"do": "stray"}, 10)
    assert child.pid == pid


def test_a_child_has_nothing_that_it_does_not_need(child: DecodeChild) -> None:
    """No core dumps, no inherited descriptors or secrets, and no network where the kernel lets us take it away."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        os.set_inheritable(server.fileno(), True)  # noqa: FBT003 - the library's own signature
        state = child.call({"do": "state", "port": server.getsockname()[1]}, 10).head
    assert state["core"] == 0
    assert len(state["open"]) <= 6
    assert "CASEWORK_SECRET" not in state["environment"]
    assert state["sigint"]
    assert not state["reachable"]


@pytest.mark.parametrize("local", [False, True])
def test_a_process_gives_up_the_network_for_good(local: bool) -> None:
    """After the filter no socket of the network can be made, by an ordinary user in an ordinary name space too; local ones only if asked for."""
    code = (
        "import os, socket, threading; from casework.preprocess.seccomp import no_network\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        f"assert no_network(local={local})\n"
        "def tries(family, kind):\n"
        "    try: socket.socket(family, kind).close()\n"
        "    except PermissionError: return 'refused'\n"
        "    return 'made'\n"
        "said = [tries(f, k) for f, k in ((2, 1), (2, 2), (10, 1), (16, 3), (17, 3), (1, 1))]\n"
        "thread = threading.Thread(target=lambda: said.append(tries(2, 1))); thread.start(); thread.join()\n"
        "said.append('pair' if socket.socketpair() else '')\n"
        "print(*said)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:5] == ["refused"] * 5
    assert words[5] == ("made" if local else "refused")
    assert words[6:] == ["refused", "pair"]


def test_a_refusal_keeps_its_code(child: DecodeChild, tmp_path: Path) -> None:
    """What the decoder refuses in the child is refused here with the same code; a cut JPEG 2000 file is one."""
    path = write(tmp_path / "a.dcm", smooth(256, 192), uid.JPEG2000Lossless, bits=12)
    data = path.read_bytes()
    at = data.index(b"\xff\x4f\xff\x51")
    path.write_bytes(data[: at + 200] + bytes(len(data) - at - 200))
    with pytest.raises(Refused) as caught:
        child.call({"do": "slice", "path": str(path)}, 10)
    assert caught.value.code in ("PIXELS_UNDECODABLE", "TRUNCATED")


def test_slices_come_on_one_grey_scale(tmp_path: Path) -> None:
    """Single frames of several instances as 8 bits: a slice that is half as bright as another one stays so."""
    bright = smooth(64, 48)
    paths = [
        write(tmp_path / f"{n}.dcm", array, uid.ExplicitVRLittleEndian, bits=12)
        for n, array in enumerate((bright, bright // 2))
    ]
    child = DecodeChild(LIMITS)
    try:
        pictures = planes_of(child.call({"do": "planes", "items": [[str(path), 1] for path in paths]}, 20).payload)
    finally:
        child.close()
    assert pictures.shape == (2, 64, 48)
    assert pictures.dtype == np.uint8
    assert pictures[0].max() == 255
    unclipped = pictures[0] < 255
    assert np.abs(pictures[0] / 2 - pictures[1])[unclipped].max() <= 2


def test_damaged_jpeg_2000_never_costs_more_than_its_own_answer(tmp_path: Path) -> None:
    """Random damage to real codestreams, through a real child: an answer or a code each time, and it always goes on."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    good = write(tmp_path / "a.dcm", smooth(300, 200), uid.JPEG2000Lossless, bits=12).read_bytes()
    start = good.index(b"\xff\x4f\xff\x51")
    child = DecodeChild(LIMITS)
    codes = set()
    for n in range(40):
        bad = bytearray(good)
        for at in rng.integers(start, len(bad) - 8, rng.integers(1, 30)):  # not the data set's own last delimiter
            bad[at] = rng.integers(0, 256)
        path = tmp_path / f"{n}.dcm"
        path.write_bytes(bad)
        try:
            child.call({"do": "slice", "path": str(path)}, 20)
        except (Refused, Unavailable) as error:
            codes.add(error.code)
    assert codes <= {"PIXELS_UNDECODABLE", "DECODER_CRASHED"}
    good_path = tmp_path / "a.dcm"
    assert child.call({"do": "slice", "path": str(good_path)}, 20).payload
    child.close()


def test_a_mammogram_is_prepared_in_the_child(tmp_path: Path) -> None:
    """The real child decodes and prepares a mammogram and sends it back without pickles."""
    image = smooth(600, 500)
    image[:, 350:] = 0
    path = write(tmp_path / "a.dcm", image, uid.JPEG2000Lossless, bits=12, ImageLaterality="L", ViewPosition="CC")
    child = DecodeChild(ChildLimits())
    answer = child.call({"do": "MG", "path": str(path), "size": 64}, 20)
    (made,) = unpack(answer.payload).images.values()
    assert (made.side.value, made.slot, made.tensor.shape) == ("L", "CC", (1, 64, 64))
    child.close()


def test_a_pool_works_in_parallel_and_survives_its_children() -> None:
    """Tasks run side by side, a crash hits only its own task, and closing leaves no process behind."""
    pool = DecodePool(2, LIMITS, BAD)
    pool.submit({"do": "chatty"}, 20).result()
    futures = [pool.submit({"do": task}, 20) for task in ("segfault", "chatty", "abort", "chatty", "chatty")]
    codes = [f.exception() for f in futures]
    assert [isinstance(c, Unavailable) for c in codes] == [True, False, True, False, False]
    children = psutil.Process().children(recursive=True)
    pool.close()
    _, alive = psutil.wait_procs(children, 5)
    assert not [p for p in alive if "bad_child" in " ".join(p.cmdline())]


def test_a_child_leaves_when_its_worker_is_killed(tmp_path: Path) -> None:
    """A kill -9 of the worker leaves no child behind, even one that waits for nothing."""
    script = (
        "import sys, threading, time\n"
        "from casework.preprocess.child import ChildLimits, DecodeChild\n"
        f"c = DecodeChild(ChildLimits(), {BAD!r})\n"
        "c.call({'do': 'chatty'}, 10)\n"
        "threading.Thread(target=lambda: c.call({'do': 'sleepy'}, 60)).start()\n"
        "time.sleep(0.3); print(c.pid, flush=True); time.sleep(60)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    pid = int(worker.stdout.readline())
    worker.kill()
    worker.wait()
    worker.stdout.close()
    deadline = time.monotonic() + 8
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
