"""`make e2e-compose`: from images to a hospital in a box, and each container killed in turn while patients arrive.

Exit 0 only when every image that the PACS acknowledged is in the ledger, every patient's results came back into the PACS by
themselves, in the right studies, once; and when Prometheus, its rules, every panel of the dashboard and the viewer show it.
"""

import json
import random
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom import Dataset
from rich.console import Console
from rich.table import Table

from tests.compose import watch
from tests.compose.archive import Archive
from tests.compose.load import Load, case
from tests.compose.stack import DOORS, ROOT, Stack
from tests.demo.pacs import Pacs
from tests.demo.verify import problems

SEED = 20261120
HEALTHY_S = 120.0
RESULT_S = 420.0  # after the storm: a listener or worker that was killed leaves its lease behind for 60 s, and a sending waits 30 s
KILLED = (*DOORS, "postgres", "redis", "pacs")
DOWN_S = (0.5, 4.0)
OUT = ROOT / ".work" / "compose"
console = Console(highlight=False)


@dataclass(frozen=True)
class Hospital:
    """The stack, its PACS as a modality and as an administrator see it, and what is measured."""

    stack: Stack
    pacs: Pacs
    archive: Archive
    figures: dict[str, Any]


def main() -> int:
    """Everything; the figures go to .work/compose/figures.json."""
    stack = Stack()
    stack.down()
    figures: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "seed": SEED}
    OUT.mkdir(parents=True, exist_ok=True)
    try:
        wrong = _run(stack, figures)
    except SystemExit:
        (OUT / "logs.txt").write_text(stack.compose("logs", "--no-color", "--tail", "400"), "utf-8")
        raise
    finally:
        (OUT / "figures.json").write_text(json.dumps(figures, indent=1), "utf-8")
        stack.down()
    for words in wrong:
        console.print(f"[red]WRONG[/] {words}", markup=True)
    console.print("[red]FAILED[/]" if wrong else "[green]OK[/]")
    return 1 if wrong else 0


def _run(stack: Stack, figures: dict[str, Any]) -> list[str]:
    figures["build_s"], figures["build_viewer_s"] = round(stack.build(), 1), round(stack.build("viewer"), 1)
    figures["healthy_s"] = round(stack.up(), 1)
    console.print(
        f"images in {figures['build_s']} s; --profile pacs healthy in {figures['healthy_s']} s (at most {HEALTHY_S:.0f})"
    )
    wrong = [] if figures["healthy_s"] <= HEALTHY_S else ["not healthy in time"]
    seconds, grafana = stack.up_beside()
    figures["beside_s"] = round(seconds, 1)
    console.print(
        f"viewer and Prometheus in {seconds:.1f} s; "
        + ("Grafana too" if grafana else "no Grafana image to be had: its panels are asked of Prometheus")
    )
    figures["idle"] = stack.sizes()
    _table(figures["idle"])
    there = Hospital(
        stack,
        Pacs("127.0.0.1", stack.ports["PACS_DICOM_PORT"], "ORTHANC", calling="MODALITY"),
        Archive(stack.ports["PACS_HTTP_PORT"]),
        figures,
    )
    with tempfile.TemporaryDirectory(prefix="casework-compose-") as folder:
        wrong += _answers(stack)
        first = case(Path(folder), SEED)
        wrong += _undisturbed(there, first)
        wrong += watch.prometheus(stack.ports["PROMETHEUS_PORT"])
        wrong += watch.grafana(stack.ports["GRAFANA_PORT"]) if grafana else []
        ds = next(iter(first.values()))
        wrong += watch.viewer(stack.ports["VIEWER_PORT"], str(ds.PatientID), str(ds.StudyInstanceUID), OUT)
        wrong += _storm(there, Path(folder), [first])
    return wrong + watch.prometheus(stack.ports["PROMETHEUS_PORT"])  # it found the doors again


def _answers(stack: Stack) -> list[str]:
    """C-ECHO and REST answer on the published ports, the REST with the key made at first start only."""
    wrong = []
    if not Pacs("127.0.0.1", stack.ports["DICOM_PORT"], "CMAN", calling="PACS").echo():
        wrong.append("the listener does not answer C-ECHO")
    if Pacs("127.0.0.1", stack.ports["DICOM_PORT"], "CMAN", calling="STRANGER").echo():
        wrong.append("the listener answers an AE title that is not on its list")
    if not _get(stack, "/v1/health/ready")["ready"]:
        wrong.append("the API is not ready")
    if _get(stack, "/v1/session")["role"] != "admin":
        wrong.append("the first key is not an admin's")
    return wrong


def _storm(there: Hospital, folder: Path, patients: list[dict[str, Dataset]]) -> list[str]:
    """Each container in turn is killed at a random moment of a patient's arrival, and then Redis loses all it knew."""
    stack, figures, dice = there.stack, there.figures, random.Random(SEED)
    well = figures["well_again_s"] = {}
    with Load(there.pacs, folder, SEED) as load:
        for service in KILLED:
            load.sending.wait(120)
            time.sleep(dice.uniform(0.0, 6.0))
            stack.kill(service)
            time.sleep(dice.uniform(*DOWN_S))
            stack.compose("start", service)
            well[service] = round(stack.healthy_again(service), 1)
            console.print(f"{service} killed under load; well again {well[service]} s after its start")
        stack.compose("stop", "-t", "5", "redis")
        stack.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "find", "redis", "/data", "-mindepth", "1", "-delete")  # fmt: skip
        stack.compose("start", "redis")
        console.print(f"redis came back empty, well again after {stack.healthy_again('redis'):.1f} s")
    patients += load.patients
    begun = time.monotonic()
    wrong = _settle(there.archive, patients)
    figures["settled_s"], figures["sender_tries"] = round(time.monotonic() - begun, 1), load.tries
    return wrong + _account(there, patients)


def _account(there: Hospital, patients: Sequence[Mapping[str, Dataset]]) -> list[str]:
    """Images acknowledged = images in the ledger; objects as their digests say; every door well."""
    stack, figures = there.stack, there.figures
    ledger = {uid for (uid,) in stack.ask("select distinct sop_uid from instance")}
    sent = {uid for images in patients for uid in images}
    wrong = [f"{len(sent - ledger)} acknowledged images are not in the ledger"] if sent - ledger else []
    for name in DOORS:  # a door that was killed is well; none of the others went down with it
        stack.healthy_again(name)
    said = stack.compose("exec", "-T", "api", "casework", "verify-ledger", "--objects")
    wrong += [] if ": ok" in said else [f"verify-ledger: {said}"]
    figures["patients"], figures["images"], figures["in_ledger"] = len(patients), len(sent), len(sent & ledger)
    figures["second_tries"] = int(stack.ask("select count(*) from job where attempt > 1")[0][0])
    console.print(
        f"{len(patients)} patients, {len(sent)} images acknowledged, {len(sent & ledger)} in the ledger; all results there "
        f"{figures['settled_s']} s after the last patient; {figures['second_tries']} jobs needed a second try"
    )
    return wrong


def _settle(archive: Archive, patients: Sequence[Mapping[str, Dataset]]) -> list[str]:
    """What is wrong with the patients' results once nothing is, or at the limit."""
    deadline, unsettled = time.monotonic() + RESULT_S, list(patients)
    while unsettled and time.monotonic() < deadline:
        with suppress(OSError):  # the PACS is coming back
            unsettled = [images for images in unsettled if any(problems(images, archive.results(images)))]
        time.sleep(3)
    return [f"patient {n}: {words}" for n, i in enumerate(patients) for words in problems(i, archive.results(i))]


def _undisturbed(there: Hospital, images: Mapping[str, Dataset]) -> list[str]:
    """Store one patient into the PACS and wait for what comes back by itself."""
    begun, before = time.monotonic(), _writes(there.stack)
    there.pacs.store([Path(str(ds.filename)) for ds in images.values()], lambda _: None)
    wrong = _settle(there.archive, [images])
    there.figures["undisturbed"] = {
        "images": len(images), "seconds": round(time.monotonic() - begun, 1), "ledger_writes": _writes(there.stack) - before,
    }  # fmt: skip
    console.print(f"a patient stored into the PACS: {there.figures['undisturbed']}")
    return wrong


def _writes(stack: Stack) -> int:
    """Write transactions of the ledger that changed something."""
    return int(stack.ask("select n_tup_upd from pg_stat_user_tables where relname = 'audit_head'")[0][0])


def _get(stack: Stack, path: str) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.ports['HTTP_PORT']}{path}", headers={"Authorization": f"Bearer {stack.admin_key()}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own API on loopback
        return json.load(answer)


def _table(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table("container", "image MB", "memory MiB", "start to healthy s", "processor s so far", title="idle")
    for row in rows:
        table.add_row(*(str("-" if value is None else value) for value in row.values()))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
