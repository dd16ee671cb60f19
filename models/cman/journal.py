"""A run's journal: events as lines of JSON (log.jsonl, part of a release's evaluation), curves for TensorBoard (curves/)."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter


class Curve(Protocol):
    """Takes one step's numbers."""

    def __call__(self, step: int, **values: float) -> None:
        """Note the numbers of a step."""
        ...


class Journal:
    """One line of JSON an event, and the same for the eye."""

    def __init__(self, run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self._path = run / "log.jsonl"
        self._writer = SummaryWriter(str(run / "curves"))
        self._began = time.monotonic()

    def __call__(self, text: str, **values: Any) -> None:
        """Note an event."""
        entry = {"minutes": round((time.monotonic() - self._began) / 60, 2), "event": text, **values}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        print(f"[{entry['minutes']:7.2f} min] {text} {values or ''}", flush=True)

    def entries(self) -> list[dict[str, Any]]:
        """Everything that was noted, also by earlier processes."""
        return [json.loads(line) for line in self._path.read_text("utf-8").splitlines()]

    def curve(self, name: str) -> Curve:
        """A curve of this name."""
        return partial(self._note, name)

    def _note(self, name: str, step: int, **values: float) -> None:
        for key, value in values.items():
            self._writer.add_scalar(f"{name}/{key}", value, step)
        self._writer.flush()
        self(f"{name} step {step}", **{k: round(v, 4) for k, v in values.items()})
