"""Commands of those who operate the service: plans, backup, restore, adoption, probe."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from casework.config import load
from casework.entrypoints.spoken import Config, actor, open_ledger, spoken_errors


def build_plan(
    config: Config = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Only check that the graphs build for e.g. SM89, without a GPU; keeps nothing."),
    ] = None,
) -> None:
    """Build TensorRT plans for this machine's GPU that are not there yet, so that no worker has to."""
    from casework.entrypoints.engines import build_plans, check_targets

    with spoken_errors():
        settings = load(config)
        for line in check_targets(settings, target) if target else build_plans(settings):
            typer.echo(line)


def backup(out: Path, config: Config = None) -> None:
    """Copy ledger, stored objects and configuration into a new folder while the service runs; checks every byte."""
    from casework.entrypoints.backup import make_backup

    with open_ledger(config) as (settings, ledger):
        made = make_backup(settings, ledger, out, config)
        typer.echo(
            f"{out}: ledger of {made.audit_rows} audit rows (head {made.audit_head[:16]}), {made.objects} objects, {made.bytes} bytes"
        )
        typer.echo("  secrets (keys, passwords, certificates) are not in it: keep them elsewhere")


def restore_backup(
    source: Path,
    config: Config = None,
    *,
    over_images: Annotated[bool, typer.Option(help="Only the ledger was lost: leave the root's images there.")] = False,
) -> None:
    """Bring a backup into an empty storage root (and database); refuses a place where a service runs or data is."""
    from casework.entrypoints.backup import restore_backup as bring_back

    with spoken_errors():
        made = bring_back(load(config), source, over_images=over_images)
        typer.echo(f"restored what was copied at {made.made_at}: {made.audit_rows} audit rows, {made.objects} objects")
        adopting = "casework adopt" if over_images else "have what came since sent again"
        typer.echo(f"  next: casework verify-ledger --objects, then {adopting} (docs/runbooks.md)")


def adopt(
    config: Config = None,
    *,
    dry_run: Annotated[bool, typer.Option(help="Only count.")] = False,
    settled: Annotated[float, typer.Option(help="Seconds; younger images are left to the door that has them.")] = 60.0,
) -> None:
    """Take in images of the storage root that the ledger does not know; deletes nothing; exits 4 when some are damaged."""
    from casework.entrypoints.adopt import adopt as take_in

    with open_ledger(config) as (settings, ledger):
        found = take_in(settings, ledger, settled_s=settled, dry=dry_run)
        for what, count in sorted(found.items()):
            typer.echo(f"{what}: {count}")
        typer.echo(f"{sum(found.values())} objects that no row named")
        if found["changed"]:
            raise typer.Exit(4)


def probe(
    config: Config = None,
    within: Annotated[float, typer.Option(help="Seconds.")] = 120.0,
    calling: Annotated[str, typer.Option(help="Our AE title as a sender; it must be allowed.")] = "CASEWORKPROBE",
) -> None:
    """Send a marked study by C-STORE to our own listener and wait for its result, which goes to no PACS; 0 when all of it works."""
    from casework.entrypoints.probe import send_probe

    with open_ledger(config) as (settings, ledger):
        for line in send_probe(settings, ledger, within, calling):
            typer.echo(line)


def retention(
    config: Config = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove now what the policy ([retention]) no longer keeps; the keeper does the same in small pieces."""
    from casework.flows.retention import Retainer
    from casework.spool import Spool

    with open_ledger(config) as (settings, ledger):
        retainer = Retainer(ledger, Spool(settings.root, fsync=settings.storage.fsync), settings.retention)
        now = datetime.now(UTC)
        for due in retainer.due(now):
            typer.echo(f"{due.kind}: {due.objects} objects, {due.bytes} bytes, of {due.cases} cases")
        kept = settings.retention
        if not (kept.images_days or kept.results_days or kept.webhooks_days):
            typer.echo("everything is kept for ever: no days are set in [retention]")
        while not dry_run and retainer.turn(now):
            pass


def hold(
    case_id: str,
    config: Config = None,
    *,
    lift: Annotated[bool, typer.Option("--lift", help="Let the policy count again.")] = False,
    detail: Annotated[str, typer.Option(help="Words for those who ask later; no patient's name.")] = "",
) -> None:
    """Keep everything of this case's patient and window, whatever the retention policy says."""
    with open_ledger(config) as (_, ledger):
        if lift:
            changed = ledger.lift_hold(case_id, actor(), datetime.now(UTC))
        else:
            changed = ledger.hold_case(case_id, actor(), datetime.now(UTC), detail)
        words = ("hold lifted" if lift else "on hold") if changed else ("not on hold" if lift else "on hold already")
        typer.echo(f"{case_id}: {words}")


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("build-plan")(build_plan)
    app.command("backup")(backup)
    app.command("restore-backup")(restore_backup)
    app.command("adopt")(adopt)
    app.command("probe")(probe)
    app.command("retention")(retention)
    app.command("hold")(hold)
