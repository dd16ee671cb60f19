"""What an experiment is, and what it is given. Does no I/O but the temporary folder.

An experiment is a function of a `Lab`: it breaks something on purpose and complains of every broken promise. It knows nothing
of mutants: the negative control is the same function, run on a copy of the product with one guard taken off, and it has to
complain. An experiment that has nothing to complain of there can't see the fault, and fails.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Lab:
    """One run: where, how much, with which dice; what was measured and what is wrong."""

    folder: Path
    size: Mapping[str, float]
    rng: random.Random
    figures: dict[str, object] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def n(self, name: str) -> int:
        """A count of this scale."""
        return int(self.size[name])

    def must(self, condition: object, complaint: str) -> None:
        """Complain unless a promise was kept."""
        if not condition:
            self.complaints.append(complaint)

    def place(self, name: str) -> Path:
        """A folder of its own."""
        path = self.folder / name
        path.mkdir(parents=True)
        return path


@dataclass(frozen=True)
class Mutation:
    """One text of the product that is exchanged; it has to be there exactly once."""

    file: str  # below service/casework
    before: str
    after: str


@dataclass(frozen=True)
class Control:
    """The guard that is taken off, in words and in the code. `size`: how much of the experiment that takes."""

    what: str
    mutations: tuple[Mutation, ...]
    size: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """One row of the table in docs/reliability.md."""

    id: str
    promise: str  # one sentence
    goal: str
    run: Callable[[Lab], None] | None = None
    sizes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by scale: ci, small, full
    control: Control | None = None
    uncontrolled: str = ""  # why there is no control
    short: str = ""  # what is less than the goal asks, and why; without `run`: why there is none

    def size(self, scale: str) -> Mapping[str, float]:
        """The sizes at a scale, or the nearest that there are."""
        if scale == "ci":
            return self.sizes.get("ci", self.sizes.get("small", {}))
        smaller = ("full", "small", "ci") if scale == "full" else ("small", "ci")
        return next((self.sizes[s] for s in smaller if s in self.sizes), {})


def both(first: Callable[[Lab], None], second: Callable[[Lab], None]) -> Callable[[Lab], None]:
    """An experiment of two halves."""

    def run(lab: Lab) -> None:
        first(lab)
        second(lab)

    return run
