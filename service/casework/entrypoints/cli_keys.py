"""`casework keys`: add, list, rotate and revoke API keys. A running service takes the change within a second."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from casework.config import load
from casework.entrypoints import keyfile
from casework.entrypoints.keyfile import Role
from casework.entrypoints.spoken import Config, console, spoken_errors

keys = typer.Typer(name="keys", help="API keys: add, list, rotate, revoke.", no_args_is_help=True)
Days = Annotated[int, typer.Option(min=0, max=3660, help="It ends after so many days; 0 = never.")]


def _path(config: Path | None) -> Path:
    settings = load(config)
    own = settings.root / "secrets" / "api-keys.json"
    return Path(settings.http.keys_file).absolute() if settings.http.keys_file else own


def _end(days: int) -> datetime | None:
    return datetime.now(UTC) + timedelta(days=days) if days else None


@keys.command("add")
def add(
    name: str,
    role: Annotated[Role, typer.Option(help="What it may do.")],
    config: Config = None,
    days: Days = 365,
) -> None:
    """Make a key and print it once; only its digest is kept."""
    with spoken_errors():
        typer.echo(keyfile.add_key(_path(config), name, role, _end(days)))


@keys.command("rotate")
def rotate(
    name: str,
    config: Config = None,
    keep_hours: Annotated[float, typer.Option(min=0, max=720, help="The old key is good for so long.")] = 24,
    days: Days = 365,
) -> None:
    """Give a key a new value and print it once; the old one goes on for a while, so that nobody is cut off."""
    with spoken_errors():
        now = datetime.now(UTC)
        typer.echo(keyfile.rotate_key(_path(config), name, now, timedelta(hours=keep_hours), _end(days)))


@keys.command("revoke")
def revoke(name: str, config: Config = None) -> None:
    """Take a key away at once."""
    with spoken_errors():
        keyfile.revoke_key(_path(config), name)
        typer.echo(f"{name}: revoked")


@keys.command("list")
def listing(config: Config = None) -> None:
    """Who has a key, until when, and the day it was last used."""
    from rich.table import Table

    with spoken_errors():
        now, used = datetime.now(UTC), {}
        file = load(config).root / "secrets" / "keys-used.json"
        if file.exists():
            used = json.loads(file.read_text("utf-8"))
        table = Table("name", "role", "ends", "old value until", "last used")
        for row in keyfile.read_keys(_path(config)):
            ended = row.expires is not None and row.expires <= now
            until = f"{row.expires:%Y-%m-%d}" + (" ENDED" if ended else "") if row.expires else "never"
            old = f"{row.previous_until:%Y-%m-%d %H:%M}" if len(row.digests(now)) > 1 and row.previous_until else ""
            table.add_row(row.name, row.role.value, until, old, str(used.get(row.name, "")))
        console.print(table)
