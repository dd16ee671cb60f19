"""For a moment in every run: mutated inputs, and all that was ever found, end in the refusals that the parsers declare."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

FOUND, KEPT = Path(__file__).parent / "found", Path(__file__).parent / "corpus"
SECONDS = 0.6


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat, overwrite with the numbers that break length fields."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = changed[at : at + chance.randrange(64)]
            case 3:
                changed[at : at + 4] = chance.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xfe\xff\xff\xff")
                )
            case 4:
                changed[at : at + 2] = chance.randbytes(2)
            case _:
                del changed[at : at + chance.randrange(16)]
    return bytes(changed)


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs(name: str) -> None:
    """Thousands of mutants of good inputs raise nothing but the declared refusals, and none takes a second."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance, begun, count = random.Random(seed), time.monotonic(), 0
    inputs = seeds(name)
    while time.monotonic() - begun < SECONDS:
        data = mutate(chance, chance.choice(inputs))
        before = time.process_time()
        try:
            TARGETS[name](data)
        except Exception:
            print(f"input {data.hex()}")
            raise
        assert time.process_time() - before < 1.0, data.hex()
        count += 1
    assert count > 50


@pytest.mark.parametrize("name", TARGETS)
def test_good_inputs_and_what_was_found(name: str) -> None:
    """Seeds parse without an uncaught error, and so does every input that once did not, or that fuzzing kept as worth keeping."""
    learnt = sorted(path for folder in (FOUND, KEPT) for path in (folder / name).glob("*"))
    for data in [*seeds(name), b"", *(path.read_bytes() for path in learnt)]:
        TARGETS[name](data)


def test_what_fuzzing_kept_reaches_the_parsers() -> None:
    """At least 90 % of the lines and branches of header check, STOW parser and manifest reader."""
    outside = {
        key: value for key, value in os.environ.items() if not key.startswith("COVERAGE")
    }  # two can't look at once
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", "coverage"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=outside, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" % of lines and branches") == 3
