"""Fetching from outside: the door as a process that may be killed, the command line, and REST."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from typer.testing import CliRunner

from casework.case import CandidateState
from casework.config import Destination
from casework.entrypoints import serve
from casework.entrypoints.cli import app
from casework.entrypoints.doctor import examine
from casework.entrypoints.fetch_worker import IntakeDoor
from casework.flows.fetch import Fetcher
from casework.flows.intake import Context, Intake
from tests.api.conftest import make_settings, serving
from tests.api.test_cases_http import valid
from tests.deliver.objects import write
from tests.deliver.rig import dimse
from tests.fetch.rig import FAST, FetchRig, breast, fill
from tests.simulators.orthanc import free_port
from tests.simulators.pacs import SimulatedPacs

MakePacs = Callable[..., SimulatedPacs]
MakeRig = Callable[..., FetchRig]
C = CandidateState


def configured(folder: Path, root: str, port: int) -> Path:
    path = folder / "casework.toml"
    path.write_text(
        f'[storage]\nroot = "{root}"\nreserve_bytes = 0\nwatermark = 0.98\nhard_watermark = 0.99\n'
        f'[[destination]]\nname = "p"\nae_title = "PACS"\nport = {port}\nretrieve = "get"\n'
    )
    return path


def arrive(intake: Intake, image: Dataset, folder: Path) -> str:
    """An image comes in."""
    reception = intake.start_part10(Context("stow", "MODALITY", "a1"))
    reception.write(write(folder / "made", image).path.read_bytes())
    return reception.finish().case_id or ""


def wait_for(done: Callable[[], Any], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def test_the_door_may_be_killed_and_is_told_to_stop(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """Killed in the middle of a study, nothing is lost and nothing comes twice; on SIGTERM the door ends with 0."""
    pacs = make_pacs()
    mr = [breast("MR", StudyInstanceUID="1.2.7", SeriesInstanceUID="1.2.7.1") for _ in range(12)]
    fill(pacs.port, tmp_path / "out", *mr)
    honest = pacs._sub_operations

    def slowly(event: Any, found: Any) -> Iterator[Any]:
        for stored in found:
            time.sleep(0.15)
            yield from honest(event, [stored])

    pacs._sub_operations = slowly
    rig = make_rig(replace(dimse("p", pacs.port), retrieve="get"))
    case_id = rig.arrives(breast("MG"))
    config = configured(tmp_path, rig.settings.storage.root, pacs.port)
    command = [sys.executable, "-m", "casework", "fetch-worker", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(rig.images(case_id)) >= 4)
        process.kill()
    (row,) = rig.candidates(case_id)
    assert (row.state, row.attempt) == (C.FETCHING, 1)
    assert len(rig.images(case_id)) < 13
    assert [(p.door, p.state) for p in rig.ledger.read.processes()] == [("fetch_worker", "running")]
    rig.run()
    assert rig.candidates(case_id)[0].state is C.FETCHING  # its lease still holds
    rig.at = datetime.now(UTC) + timedelta(minutes=3)
    rig.run()
    (row,) = rig.candidates(case_id)
    assert (row.state, row.attempt) == (C.FETCHED, 2)
    assert len(rig.images(case_id)) == 13
    assert sum(row.counts.values()) == 12
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        beats = rig.settings.root / "health"
        wait_for(lambda: any(f'"pid": {process.pid}' in file.read_text() for file in beats.glob("*fetch_worker.json")))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert rig.ledger.read.processes()[0].state == "stopped"


def test_serve_starts_the_door_only_where_it_has_work(tmp_path: Path) -> None:
    """`casework serve` has a fetch worker when a PACS is to be fetched from, and none otherwise."""
    started: list[str] = []

    class Stop(serve.Supervisor):
        def _command(self, door: str) -> list[str]:
            started.append(door)
            self.stopping = True
            return ["true"]

    settings, _ = make_settings(tmp_path)
    for place in (Destination("p", ae_title="P"), Destination("p", ae_title="P", retrieve="move")):
        started.clear()
        assert Stop(replace(settings, destination=(place,)), None).run() == 0
        assert ("fetch-worker" in started) == bool(place.retrieve)


def test_the_command_line(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """`casework fetch` orders, lists and excludes, in words of both languages; `why --json` is what the API answers."""
    pacs = make_pacs()
    fill(pacs.port, tmp_path / "out", breast("MR", AccessionNumber="MR9"), breast("MR", BodyPartExamined="KNEE"))
    rig = make_rig(replace(dimse("p", pacs.port), retrieve="get"), rules=replace(FAST, studies_per_hour=0))
    case_id = rig.arrives(breast("MG", AccessionNumber="MG9"))
    config = ["--config", str(configured(tmp_path, rig.settings.storage.root, pacs.port))]

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, *config])
        assert result.exit_code == 0, result.output
        return result.output

    assert "due" in run("fetch", "MG9")
    rig.run()
    listed = run("fetch", "MG9", "--list")
    assert "FETCH_BODY_PART: The study's body part is not the breast." in listed
    assert "该检查部位不是乳腺。" in run("fetch", case_id, "--list", "--language", "zh")
    number = next(row.id for row in rig.candidates(case_id) if row.state is C.CHOSEN)
    assert "CANCELLED" in run("fetch", "MG9", "--exclude", str(number))
    told = json.loads(run("why", "MR9", "--json", "--no-ask"))
    assert (told["matched_by"], told["stage"], told["next"]["code"]) == ("fetch", "fetch", "FETCH_CHOSEN")
    assert told["fetches"][0]["candidates"]
    checks = {
        check.name: check for check in examine(replace(rig.settings, work=replace(rig.settings.work, model="/none")))
    }
    assert (checks["fetch p"].mark, "offers get" in checks["fetch p"].words) == ("ok", True)


def test_the_doctor_names_what_a_pacs_does_not_offer(make_pacs: MakePacs, tmp_path: Path) -> None:
    """A PACS that is away, or that does not know our title, fails the check with its reason's words."""
    pacs = make_pacs()
    settings, _ = make_settings(tmp_path)
    for place, code in (
        (replace(dimse("p", free_port(), timeout_s=1.0), retrieve="get"), "PEER_UNREACHABLE"),
        (replace(dimse("p", pacs.port), retrieve="move"), "FETCH_MOVE_UNKNOWN"),
    ):
        checks = [c for c in examine(replace(settings, destination=(place,))) if c.name == "fetch p"]
        assert [(c.mark, c.words.split()[0]) for c in checks] == [("fail", code)]


def test_rest(tmp_path: Path, make_pacs: MakePacs) -> None:
    """An operator orders a fetch and excludes a candidate; a viewer sees them; the PACS is asked for operators; metrics count."""
    pacs = make_pacs()
    fill(pacs.port, tmp_path / "out", breast("MR", AccessionNumber="MR9"))
    place = replace(dimse("p", pacs.port), retrieve="get")
    rules = replace(FAST, studies_per_hour=0)
    with serving(tmp_path / "api", lambda given: replace(given, destination=(place,), fetch=rules)) as api:
        door = api.door
        case_id = arrive(door.intake, breast("MG", AccessionNumber="MG9"), tmp_path)
        with api.client("operator") as client:
            ordered = client.post("/v1/fetches", json={"term": "MG9"})
            assert ordered.status_code == 202
            assert valid(ordered.json(), "FetchList")["items"][0]["state"] == "due"
            taken = IntakeDoor(door.intake, door.settings)
            assert Fetcher(door.ledger, door.spool, place, door.settings, taken).step() == 0.0
            seen = valid(client.get(f"/v1/cases/{case_id}/fetches").json(), "FetchList")
            (found,) = next(order["candidates"] for order in seen["items"] if order["candidates"])
            assert (found["state"], found["reason"]["code"], found["accession_number"]) == (
                "chosen",
                "FETCH_CHOSEN",
                "MR9",
            )
            exclude = f"/v1/fetches/candidates/{found['id']}/exclude"
            assert [client.post(exclude).status_code for _ in range(2)] == [204, 409]
            asked = client.post("/v1/why", json={"q": "MR9", "ask_pacs": True}).json()
            assert valid(asked, "Why")["pacs"][0]["studies"][0]["modalities"] == {"MR": 1}
        with api.client("viewer") as client:
            assert client.post("/v1/why", json={"q": "MR9", "ask_pacs": True}).status_code == 403
            metrics = client.get("/v1/metrics").text
    assert 'casework_fetch_studies{destination="p",state="rejected"} 1.0' in metrics
