"""Commands of those who watch over the service: the audit's head and proof, signatures of models, the support bundle."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from casework.entrypoints.spoken import Config, open_ledger, spoken_errors
from casework.errors import Refused
from casework.ledger import AuditCheck, AuditHead


def audit_head(config: Config = None) -> None:
    """Print the audit's newest row, to be kept on another machine."""
    with open_ledger(config) as (_, ledger):
        head = ledger.read.audit_head()
        typer.echo(json.dumps({"sequence": head.seq, "hash": head.hash, "at": datetime.now(UTC).isoformat()}))


def verify_audit(
    config: Config = None,
    head: Annotated[
        Path | None, typer.Option(help="A head that audit-head, /v1/audit/head or the log's line audit.head gave.")
    ] = None,
) -> None:
    """Verify the audit chain; names the first bad row. With --head nobody can have made the chain anew up to it."""
    with open_ledger(config) as (_, ledger):
        if not say_audit(ledger.read.verify_audit(_kept(head))):
            raise typer.Exit(4)


def _kept(head: Path | None) -> AuditHead | None:
    if head is None:
        return None
    try:
        told = json.loads(head.read_text("utf-8"))
        if told.get("event") == "audit.head":  # the keeper's line in the log
            return AuditHead(int(told["count"]), str(told["audit_head"]))
        return AuditHead(int(told["sequence"]), str(told["hash"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused("REQUEST_INVALID", f"{head}: {type(error).__name__}") from error


def say_audit(found: AuditCheck) -> bool:
    """Print what was found; return whether the chain holds."""
    typer.echo(f"audit: {found.rows} rows, head {found.head[:16] or '-'}: {'ok' if found.ok else 'BROKEN'}")
    if not found.ok:
        typer.echo(
            f"  first bad row {found.first_bad}: {found.problem}\n  next: stop, keep a copy, see docs/runbooks.md"
        )
    return found.ok


def sign_model(
    folder: Annotated[Path, typer.Argument(help="The package: the folder with manifest.json.")],
    key: Annotated[Path, typer.Option(help="Ed25519 private key, PEM: openssl genpkey -algorithm ed25519 -out FILE")],
) -> None:
    """Sign a model package; its files are checked first. Keep the private key off the service's machines."""
    from casework.engine import signature
    from casework.engine.bundle import open_package

    with spoken_errors():
        package = open_package(folder)
        made = signature.sign((folder / "manifest.json").read_bytes(), key)
        (folder / signature.FILE).write_bytes(made)
        typer.echo(f"{package.spec.name} {package.spec.version}: signed by {json.loads(made)['key']}")


def support_bundle(
    out: Annotated[Path, typer.Argument(help="The ZIP file to write; it must not be there.")],
    config: Config = None,
    case: Annotated[str, typer.Option(help="Add this case's moves and de-identified headers.")] = "",
) -> None:
    """Write what support needs: settings, checks, counts, versions; nothing of a patient (PS3.15 Annex E)."""
    from casework.entrypoints.support import write_bundle

    with open_ledger(config) as (settings, ledger):
        if out.exists():
            raise Refused("STATE_FORBIDS", f"{out} is there already")
        count = write_bundle(settings, ledger, out, datetime.now(UTC), case)
        typer.echo(f"{out}: {count} entries. Read it before you send it.")


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("audit-head")(audit_head)
    app.command("verify-audit")(verify_audit)
    app.command("sign-model")(sign_model)
    app.command("support-bundle")(support_bundle)
