"""The command line. Each command opens what it needs, says what it did, and exits 0 only when it did it."""

import ctypes
import importlib
import os
import signal
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from prometheus_client import start_http_server
from rich.markup import escape
from rich.table import Table

from casework import __version__
from casework.case import CaseState, NoticeState, shown_words
from casework.config import Settings, load
from casework.entrypoints import cli_ops, cli_security
from casework.entrypoints.cli_keys import keys
from casework.entrypoints.cli_security import say_audit
from casework.entrypoints.explain import explain, plain
from casework.entrypoints.presence import Presence
from casework.entrypoints.spoken import Config, console, spoken_errors
from casework.entrypoints.spoken import actor as _actor
from casework.entrypoints.spoken import open_ledger as _ledger
from casework.ledger import CaseRow, Ledger
from casework.observe import hide_values, keep_private, setup_logging
from casework.tracing import closing_traces, start_tracing

app = typer.Typer(
    name="casework",
    help="Clinical AI inference for breast imaging. Research use; not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(keys)
cli_security.add_commands(app)
cli_ops.add_commands(app)

Language = Annotated[str, typer.Option("--language", help="en or zh")]
Supervised = Annotated[int, typer.Option("--supervised", hidden=True)]  # the supervisor's process id
PR_SET_PDEATHSIG = 1


# --- processes ------------------------------------------------------------------------------------------------


@app.command()
def serve(config: Config = None) -> None:
    """Keep the whole service up: listener, API, keeper, inference and delivery workers."""
    from casework.entrypoints.serve import Supervisor

    keep_private()
    hide_values()
    with spoken_errors():
        settings = load(config)
        setup_logging("serve")
        typer.echo(
            f"casework {__version__}: AE {settings.dicom.ae_title} on {settings.dicom.host}:{settings.dicom.port}, "
            f"http://{settings.http.host}:{settings.http.port}, storage in {settings.root}\n"
            "Research use only; not a medical device. Stop with Ctrl-C.",
            err=True,
        )
        raise typer.Exit(Supervisor(settings, config).run())


def _door(name: str, config: Path | None, *, supervised: int, module: str = "") -> None:
    keep_private()
    hide_values()
    if supervised:  # the kernel tells us when the supervisor dies, however it dies
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervised:  # it died before we could ask for that
            raise typer.Exit(0)
    with spoken_errors():
        settings = load(config)
        setup_logging(name)
        if not supervised:
            _stand_alone(name, settings)
        start_tracing(settings.traces.url, name)
        with Presence(settings, name), closing_traces():
            importlib.import_module(f"casework.entrypoints.{module or name}").main(settings)


def _stand_alone(door: str, settings: Settings) -> None:
    """What a door without a supervisor needs: a ledger of this version, and a port for its metrics.

    The API opens that port itself, since it adds the ledger's counts; so does an inference worker's child process.

    Raises:
        Defect: CONFIG_INVALID, the ledger's schema is not this program's.
    """
    ledger = Ledger.open(settings.ledger_url)
    try:
        ledger.require_current_schema()
    finally:
        ledger.close()
    elsewhere = door == "api" or (door == "infer_worker" and settings.queue.kind == "celery")
    if settings.metrics.port and not elsewhere:
        start_http_server(settings.metrics.port, settings.metrics.host)


@app.command()
def listener(config: Config = None, *, supervised: Supervised = 0) -> None:
    """Only the DICOM listener."""
    _door("listener", config, supervised=supervised)


@app.command()
def api(config: Config = None, *, supervised: Supervised = 0) -> None:
    """Only the REST API and the status page."""
    _door("api", config, supervised=supervised)


@app.command()
def keeper(config: Config = None, *, supervised: Supervised = 0) -> None:
    """Only the keeper: completeness, leases, retries."""
    _door("keeper", config, supervised=supervised)


@app.command("infer-worker")
def infer_worker(config: Config = None, *, supervised: Supervised = 0) -> None:
    """Only the inference worker."""
    _door("infer_worker", config, supervised=supervised, module="infer_door")


@app.command("deliver-worker")
def deliver_worker(config: Config = None, *, supervised: Supervised = 0) -> None:
    """Only the delivery worker."""
    _door("deliver_worker", config, supervised=supervised)


@app.command("fetch-worker")
def fetch_worker(config: Config = None, *, supervised: Supervised = 0) -> None:
    """Only the fetcher: other studies of a patient from the PACS that have `retrieve`."""
    _door("fetch_worker", config, supervised=supervised)


@app.command()
def migrate(config: Config = None) -> None:
    """Bring the ledger's schema to this version; needed once before doors are started one by one."""
    with spoken_errors():
        ledger = Ledger.open(load(config).ledger_url)
        try:
            ledger.migrate()
            typer.echo(f"schema {ledger.info().schema}")
        finally:
            ledger.close()


# --- questions ------------------------------------------------------------------------------------------------


@app.command()
def why(
    query: str,
    config: Config = None,
    language: Language = "en",
    as_json: Annotated[bool, typer.Option("--json", help="As the API answers, for programs.")] = False,
    ask: Annotated[bool, typer.Option(help="Ask the PACS when nothing is known here.")] = True,
) -> None:
    """Why did my study not run? QUERY: accession number, Study Instance UID, Patient ID, SOP Instance UID or case id."""
    from casework.entrypoints.ask import ask_pacs

    with _ledger(config) as (settings, ledger):
        now = datetime.now(UTC)
        answer = ledger.read.why(query, now)
        told = ask_pacs(settings, query) if ask and not answer.cases else ()
        if as_json:
            from casework.entrypoints.api.views_why import why as view

            words: Literal["en", "zh"] = "zh" if language == "zh" else "en"
            typer.echo(view(answer, words, settings, told, associations=True, now=now).model_dump_json(indent=1))
        else:
            for line in explain(answer, language, now, settings, told):
                typer.echo(line)
        if not answer.matched_by:
            raise typer.Exit(1)


@app.command()
def cases(
    config: Config = None,
    state: Annotated[CaseState | None, typer.Option(help="Only this state.")] = None,
    query: Annotated[str, typer.Option("--query", "-q", help="Accession, study UID, patient or case id.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
) -> None:
    """List cases, newest first."""
    with _ledger(config) as (_, ledger):
        table = Table("case", "rev", "state", "reason", "images", "changed")
        for item in ledger.read.list_cases(state=state, q=query, limit=limit).items:
            images = " ".join(f"{modality} {count}" for modality, count in sorted(item.modalities.items()))
            row = item.case
            changed = f"{row.changed_at:%Y-%m-%d %H:%M:%S}"
            table.add_row(row.id, str(row.revision), _state(row), row.reason, escape(plain(images)), changed)
        console.print(table)


def _state(row: CaseRow) -> str:
    """What people see, with the end of a wait."""
    until = f" until {row.waiting_until:%m-%d %H:%M}" if row.waiting_for and row.waiting_until else ""
    return shown_words(row.state, row.waiting_for) + until


@app.command()
def associations(config: Config = None, limit: Annotated[int, typer.Option(min=1, max=1000)] = 30) -> None:
    """The association log: who connected, when, how it ended, what came."""
    with _ledger(config) as (_, ledger):
        table = Table("opened", "seconds", "calling", "called", "address", "end", "code", "images")
        for row in ledger.read.associations(limit=limit):
            seconds = f"{(row.closed_at - row.opened_at).total_seconds():.1f}" if row.closed_at else "open"
            images = ", ".join(f"{count} {what}" for what, count in sorted(row.counts.items()) if count)
            # Titles come from the wire; repr keeps control characters out of the terminal.
            names = [ascii(name)[1:-1] for name in (row.calling, row.called)]
            cells = (f"{row.opened_at:%m-%d %H:%M:%S}", seconds, *names, row.address, row.end, row.code, images)
            table.add_row(*map(escape, cells))
        console.print(table)


@app.command("verify-ledger")
def verify_ledger(
    config: Config = None,
    *,
    objects: Annotated[bool, typer.Option(help="Also read every stored object and compare its digest.")] = False,
) -> None:
    """Verify the audit chain (and, with --objects, the spool); names the first bad row."""
    from casework.entrypoints.doctor import verify_objects

    with _ledger(config) as (settings, ledger):
        sound = say_audit(ledger.read.verify_audit())
        bad = verify_objects(settings, ledger) if objects else 0
        if bad or not sound:
            raise typer.Exit(4)


@app.command()
def doctor(config: Config = None) -> None:
    """Check settings, disk, ledger, ports, decoders, model, peers and clock; exits 1 when something must be mended."""
    from casework.entrypoints.doctor import examine

    with spoken_errors():
        settings = load(config)
        marks = {"ok": "[green]ok[/]  ", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}
        worst = False
        for check in examine(settings):
            console.print(f"{marks[check.mark]} {escape(check.name)}: {escape(check.words)}", soft_wrap=True)
            worst = worst or check.mark == "fail"
        raise typer.Exit(1 if worst else 0)


# --- decisions ------------------------------------------------------------------------------------------------


@app.command()
def retry(case_id: str, config: Config = None) -> None:
    """Run a case again that was rejected, needs attention or was closed."""
    with _ledger(config) as (_, ledger):
        ledger.retry_case(case_id, _actor(), datetime.now(UTC))
        typer.echo(f"{case_id}: queued")


@app.command()
def cancel(case_id: str, config: Config = None) -> None:
    """Close a case that has not begun to run."""
    with _ledger(config) as (_, ledger):
        ledger.cancel_case(case_id, _actor(), datetime.now(UTC))
        typer.echo(f"{case_id}: closed")


class Decision(StrEnum):
    """What to do about what was kept aside."""

    ACCEPT = "accept"
    DISMISS = "dismiss"


class Wrong(StrEnum):
    """Why images are taken out of a case."""

    WRONG_PATIENT = "wrong_patient"
    WRONG_SIDE = "wrong_side"
    POOR_QUALITY = "poor_quality"
    OTHER = "other"


@app.command()
def doubts(case_id: str, config: Config = None) -> None:
    """What a person has to decide about a case's images, what was decided, and what was taken out."""
    with _ledger(config) as (_, ledger):
        view = ledger.read.case_view(case_id)
        table = Table("since", "code", "uid", "sha256", "decision")
        for row in view.doubts:
            made = f"{row.decision} by {row.decided_by}" if row.decision else "open" + (", stops" if row.stops else "")
            cells = (f"{row.at:%Y-%m-%d %H:%M}", row.code, row.subject, row.sha256[:16], made)
            table.add_row(*(escape(plain(cell)) for cell in cells))
        for out in view.exclusions:
            cells = (f"{out.at:%Y-%m-%d %H:%M}", out.code, out.sop_instance_uid, out.sha256[:16], f"by {out.actor}")
            table.add_row(*(escape(plain(cell)) for cell in cells))
        console.print(table)


@app.command()
def decide(
    case_id: str,
    decision: Decision,
    config: Config = None,
    uid: Annotated[str, typer.Option(help="Only doubts about this UID.")] = "",
    detail: Annotated[str, typer.Option(help="Words for the audit.")] = "",
) -> None:
    """Accept what was kept aside (a new revision uses it), or dismiss it (the first images stand)."""
    made = {Decision.ACCEPT: "accepted", Decision.DISMISS: "dismissed"}[decision]
    with _ledger(config) as (_, ledger):
        newest = ledger.decide(case_id, made, _actor(), datetime.now(UTC), uid, detail)
        typer.echo(f"{newest}: {shown_words(ledger.read.case(newest).state)}")


@app.command()
def exclude(
    case_id: str,
    uid: Annotated[str, typer.Argument(help="SOP, Series or Study Instance UID.")],
    reason: Annotated[Wrong, typer.Option(help="Why.")],
    config: Config = None,
    detail: Annotated[str, typer.Option(help="Words for the audit.")] = "",
) -> None:
    """Take images out of a case; a new revision goes on without them."""
    with _ledger(config) as (_, ledger):
        code = f"EXCLUDED_{reason.upper()}"
        newest = ledger.exclude(case_id, uid, code, _actor(), datetime.now(UTC), detail)
        typer.echo(f"{newest}: {shown_words(ledger.read.case(newest).state)}")


@app.command()
def restore(case_id: str, uid: str, config: Config = None) -> None:
    """Put back what was taken out of a case; a new revision goes on with it."""
    with _ledger(config) as (_, ledger):
        newest = ledger.restore(case_id, uid, _actor(), datetime.now(UTC))
        typer.echo(f"{newest}: {shown_words(ledger.read.case(newest).state)}")


@app.command()
def resend(case_id: str, config: Config = None) -> None:
    """Send a case's stored results again (the same bytes), also to destinations that were configured since."""
    with _ledger(config) as (settings, ledger):
        wanted = [place.name for place in settings.destination if place.send]
        ledger.resend_case(case_id, _actor(), datetime.now(UTC), wanted, withheld=settings.withheld)
        typer.echo(f"{case_id}: delivering")


@app.command()
def fetch(
    term: Annotated[str, typer.Argument(help="Case id, accession number or Study Instance UID.")],
    config: Config = None,
    language: Language = "en",
    exclude: Annotated[int, typer.Option(help="Don't fetch this candidate (its number in the list).")] = 0,
    only_list: Annotated[bool, typer.Option("--list", help="Only show what was asked and found.")] = False,
) -> None:
    """Fetch a patient's other studies, or the study that TERM names, from the PACS; then list the candidates."""
    from casework.entrypoints.explain import explain_fetches

    with _ledger(config) as (settings, ledger):
        now = datetime.now(UTC)
        if exclude:
            ledger.exclude_candidate(exclude, _actor(), now)
        elif not only_list:
            ledger.order_fetch(term, [d.name for d in settings.destination if d.retrieve], _actor(), now)
        for line in explain_fetches(ledger.read.fetches_of_term(term), language):
            typer.echo(line)


class Why(StrEnum):
    """Why results are withdrawn: the document titles of a rejection note (IHE IOCM)."""

    QUALITY = "quality"
    SAFETY = "safety"
    WORKLIST = "worklist"
    RETENTION = "retention"


@app.command()
def retract(
    case_id: str,
    reason: Annotated[Why, typer.Option(help="Goes into the rejection note as a code.")],
    config: Config = None,
    note: Annotated[str, typer.Option(help="Words for the audit; no patient's name.")] = "",
) -> None:
    """Withdraw a case's results: a rejection note goes to every destination that has them, nothing else is sent."""
    from casework.flows.retract import Retractor
    from casework.spool import Spool

    with _ledger(config) as (settings, ledger):
        retractor = Retractor(ledger, Spool(settings.root, fsync=settings.storage.fsync), settings)
        retractor.retract(case_id, f"RETRACTED_{reason.name}", _actor(), datetime.now(UTC), note)
        typer.echo(f"{case_id}: retracted")


@app.command()
def webhooks(
    config: Config = None,
    again: Annotated[str, typer.Option(help="Send the dead events of this webhook again.")] = "",
) -> None:
    """What waits for webhooks and what was given up, newest first."""
    with _ledger(config) as (_, ledger):
        if again:
            typer.echo(f"{again}: {ledger.repeat_notices(again, _actor(), datetime.now(UTC))} events are sent again")
            return
        table = Table("webhook", "case", "event", "state", "try", "code", "status", "since")
        for row in ledger.notices((NoticeState.PENDING, NoticeState.DEAD)):
            since = f"{row.created_at:%m-%d %H:%M:%S}"
            cells = (
                row.webhook,
                row.case_id,
                row.event_id,
                row.state.value,
                str(row.attempt),
                row.code,
                row.status,
                since,
            )
            table.add_row(*map(escape, cells))
        console.print(table)


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders.")],
    config: Config = None,
    to: Annotated[str, typer.Option(help="AE@HOST:PORT; default: this service.")] = "",
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "CASEWORK",
) -> None:
    """Send DICOM files to a node by C-STORE, with progress; exits 1 when any was not stored."""
    from casework.entrypoints.send import send_files

    with spoken_errors():
        failed = send_files(paths, to, calling, load(config), console)
        raise typer.Exit(1 if failed else 0)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"casework {__version__} (Python {sys.version.split()[0]})")
