"""What all commands share: the settings' option, the terminal, the ledger, and errors in one line."""

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from casework.config import Settings, load
from casework.errors import CaseworkError, Refused
from casework.ledger import Ledger

console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file; default CASEWORK_CONFIG, else only defaults.")
]


@contextmanager
def spoken_errors() -> Iterator[None]:
    """Turn our own errors into one line and a status: 2 refused, 3 unavailable, 4 defect."""
    try:
        yield
    except CaseworkError as error:
        family = {"Refused": 2, "Unavailable": 3, "Defect": 4}[type(error).__name__]
        typer.echo(f"casework: {error}\n  next: {error.reason.next_en}", err=True)
        raise typer.Exit(family) from error


@contextmanager
def open_ledger(config: Path | None) -> Iterator[tuple[Settings, Ledger]]:
    """The settings and an open ledger, for commands that ask or decide."""
    with spoken_errors():
        settings = load(config)
        if (
            settings.ledger_url.startswith("sqlite")
            and not Path(settings.ledger_url.removeprefix("sqlite:///")).exists()
        ):
            raise Refused("NOT_FOUND", f"no ledger in {settings.root}; start casework serve first, or name --config")
        ledger = Ledger.open(
            settings.ledger_url, window_days=settings.assembly.window_days, max_attempts=settings.work.max_attempts
        )
        try:
            yield settings, ledger
        finally:
            ledger.close()


def actor() -> str:
    """Who gives a command, for the audit."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user often has no name
        return f"cli:uid-{os.getuid()}"
