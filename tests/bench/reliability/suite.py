"""Experiments that are tests of the suite, called by name: what they promise is not written a second time here."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.reliability.lab import Lab

_END = re.compile(r"(\d+) (passed|failed|error)")


@dataclass(frozen=True)
class ByTests:
    """An experiment that runs these tests; every one that fails is a complaint."""

    nodes: tuple[str, ...]
    and_then: Callable[[Lab], None] | None = None
    settings: tuple[tuple[str, str], ...] = ()  # environment variable, the size that it takes

    def __call__(self, lab: Lab) -> None:
        """Run them."""
        if self.and_then is not None:
            self.and_then(lab)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *self.nodes]
        ended = subprocess.run(
            [*command, "--timeout", "600", "--basetemp", str(lab.folder / "pytest")],
            env=os.environ | {name: str(lab.n(size)) for name, size in self.settings if size in lab.size},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        counts = {word: int(number) for number, word in _END.findall(ended.stdout[-400:])}
        if ended.returncode not in {0, 1} or "error" in counts or not counts:
            raise RuntimeError(ended.stdout[-400:] + ended.stderr[-200:])
        lab.figures |= {"by_tests": counts.get("passed", 0)}
        failed = [line.removeprefix("FAILED ")[:250] for line in ended.stdout.splitlines() if line.startswith("FAILED")]
        lab.complaints += failed


def by_tests(*nodes: str, also: Callable[[Lab], None] | None = None, **settings: str) -> ByTests:
    """An experiment of these tests, and of a part of its own. settings: environment variable = name of the size it takes."""
    return ByTests(nodes, also, tuple(settings.items()))
