"""The simulation of `python -m tests.bench.cases`, small: many patients at once, and an oracle that knows who is who."""

import random
from pathlib import Path

import pytest

from tests.bench.cases import CONTROLS, simulate

PATIENTS, TRAPPED = 25, 8
SEED = random.SystemRandom().randrange(10**6)


def test_nobody_is_mixed_lost_or_answered_twice(url: str, tmp_path: Path) -> None:
    """Studies shuffled, doubled, late, of the wrong side or patient: every case ends with a reason, and no promise is broken."""
    print("seed", SEED)
    found = simulate(url, tmp_path, SEED, PATIENTS, render_every=20)
    assert not any(found["complaints"].values()), found["examples"]
    assert found["performed"] >= PATIENTS // 2
    assert found["verdicts"]["duplicate"]


@pytest.mark.parametrize("control", CONTROLS)
def test_the_oracle_sees_a_guard_that_is_off(control: str, folder: Path, sqlite_template: Path, tmp_path: Path) -> None:
    """Without a guard the same oracle complains of mixed patients or sides: a simulation that can't fail proves nothing."""
    path = folder / "ledger.db"
    path.write_bytes(sqlite_template.read_bytes())
    print("seed", SEED)
    found = simulate(f"sqlite:///{path}", tmp_path, SEED, TRAPPED, control=control)
    seen = found["complaints"][CONTROLS[control].seen_as]
    assert seen >= TRAPPED // 2, "nearly every patient is in the trap, whatever the seed"
