"""Sweeping with the real ledger and spool: what died comes back, bounds are kept, alarms are raised once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from casework.case import CaseState, DeliveryState
from casework.config import Destination
from casework.entrypoints import deliver_worker, keeper
from casework.entrypoints.cli import app
from casework.errors import Unavailable
from casework.flows.sweep import ROOMS_EVERY_S, Sweeper
from casework.observe import setup_logging
from tests.deliver.objects import dataset
from tests.deliver.rig import Rig, arrival, dimse


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    with ExitStack() as stack:

        def make(*destinations: Destination, **options: Any) -> Rig:
            rig = Rig(tmp_path / "rig", *destinations, **options)
            stack.callback(rig.close)
            return rig

        yield make


MakeRig = Callable[..., Rig]


def sweeper(rig: Rig, **storage: Any) -> Sweeper:
    settings = replace(rig.settings, storage=replace(rig.settings.storage, **storage))
    return Sweeper(rig.ledger, rig.spool, settings)


def test_a_delivery_whose_worker_died_is_sent_again(make_rig: MakeRig) -> None:
    """A claim whose lease has ended becomes pending again, and the dead worker's word no longer counts."""
    rig = make_rig(dimse("pacs", 1))
    case_id = rig.rendered([dataset()], ["pacs"])
    now = datetime.now(UTC)
    claim = rig.ledger.claim_delivery("pacs", "dead worker", 10, now)
    assert claim is not None
    sweeper(rig).step(now + timedelta(seconds=5), 0.0)
    assert rig.deliveries(case_id)[0].state is DeliveryState.SENDING
    sweeper(rig).step(now + timedelta(seconds=11), 0.0)
    assert rig.deliveries(case_id)[0].state is DeliveryState.PENDING
    assert not rig.ledger.finish_delivery(
        claim.delivery_id, claim.fence, DeliveryState.STORED, "", "DELIVERED", None, now
    )


@pytest.mark.parametrize("state", [DeliveryState.RETRY_WAIT, DeliveryState.UNKNOWN])
def test_a_delivery_that_waits_is_due_at_its_time(make_rig: MakeRig, state: DeliveryState) -> None:
    """A retry and an unknown outcome become pending at their time, not before."""
    rig = make_rig(dimse("pacs", 1))
    case_id = rig.rendered([dataset()], ["pacs"])
    now = datetime.now(UTC)
    claim = rig.ledger.claim_delivery("pacs", "worker", 10, now)
    assert claim is not None
    due = now + timedelta(seconds=30)
    assert rig.ledger.finish_delivery(claim.delivery_id, claim.fence, state, "", "PEER_OUTCOME_UNKNOWN", due, now)
    sweeper(rig).step(now + timedelta(seconds=29), 0.0)
    assert rig.deliveries(case_id)[0].state is state
    sweeper(rig).step(now + timedelta(seconds=31), 0.0)
    assert rig.deliveries(case_id)[0].state is DeliveryState.PENDING


def test_a_job_whose_worker_died_is_ready_again(make_rig: MakeRig) -> None:
    """A job whose lease has ended goes back to the queue, and its case with it."""
    rig = make_rig()
    now = datetime.now(UTC)
    case_id = rig.ledger.record([arrival(dataset("MR"))], now)[0].case_id
    assert case_id is not None
    rig.ledger.move_case(case_id, CaseState.RECEIVING, CaseState.STABLE, "QUEUED", "test", now)
    rig.ledger.queue_case(case_id, 0, "test", now)
    assert rig.ledger.claim_job("analyse", "dead worker", 10, now) is not None
    sweeper(rig).step(now + timedelta(seconds=11), 0.0)
    assert rig.state(case_id) is CaseState.QUEUED
    assert rig.ledger.claim_job("analyse", "worker", 10, now + timedelta(seconds=12)) is not None


def test_leftovers_of_dead_processes_go_at_boot(make_rig: MakeRig) -> None:
    """A half-written file whose writer is gone is removed; one that is being written stays."""
    rig = make_rig()
    living = rig.spool.begin()
    dead = rig.spool.root / "incoming" / f"{rig.spool._mark}-0123.part"
    dead.write_bytes(b"half")
    sweeper(rig).boot()
    assert not dead.exists()
    assert living.path.exists()
    living.abandon()


def test_the_prepared_cache_keeps_its_bound(make_rig: MakeRig) -> None:
    """The oldest entries go until the cache fits; looked at now and then, not at every turn."""
    rig = make_rig()
    for n in range(5):
        path = rig.spool.write_prepared(f"aa{n}", [bytes(1000)])
        os.utime(path, (n, n))
    broom = sweeper(rig, prepared_bytes=2500)
    now = datetime.now(UTC)
    broom.step(now, 0.0)
    assert sorted(p.name for p in (rig.spool.root / "prepared").glob("??/*")) == ["aa3", "aa4"]
    for n in range(5):
        rig.spool.write_prepared(f"bb{n}", [bytes(1000)])
    broom.step(now, ROOMS_EVERY_S / 2)
    assert len(list((rig.spool.root / "prepared").glob("??/*"))) == 7
    broom.step(now, ROOMS_EVERY_S + 1)
    assert len(list((rig.spool.root / "prepared").glob("??/*"))) == 2


def test_a_full_disk_raises_one_alarm(make_rig: MakeRig, capsys: pytest.CaptureFixture[str]) -> None:
    """Below the reserve an alarm is raised once, and cleared once when there is room again."""
    rig = make_rig()
    broom = sweeper(rig, reserve_bytes=1 << 60)
    broom.rooms(datetime.now(UTC))
    broom.rooms(datetime.now(UTC))
    assert broom.alarms == {"DISK_LOW"}
    broom.settings = replace(broom.settings, storage=replace(broom.settings.storage, reserve_bytes=0, watermark=1.0))
    broom.rooms(datetime.now(UTC))
    assert broom.alarms == set()
    lines = capsys.readouterr().out + capsys.readouterr().err
    assert (lines.count("alarm.raised"), lines.count("alarm.cleared")) == (1, 1)


def test_a_queue_that_nobody_works_off_raises_an_alarm(make_rig: MakeRig) -> None:
    """A case that waits for a worker longer than work.queue_alarm_s is not left to be found by chance."""
    rig = make_rig()
    now = datetime.now(UTC)
    case_id = rig.ledger.record([arrival(dataset("MR"))], now)[0].case_id
    assert case_id is not None
    rig.ledger.move_case(case_id, CaseState.RECEIVING, CaseState.STABLE, "QUEUED", "test", now)
    rig.ledger.queue_case(case_id, 0, "test", now)
    broom = sweeper(rig, reserve_bytes=0, watermark=1.0, hard_watermark=1.0)
    broom.rooms(now + timedelta(seconds=899))
    assert broom.alarms == set()
    broom.rooms(now + timedelta(seconds=901))
    assert broom.alarms == {"QUEUE_STALLED"}
    assert rig.ledger.claim_job("analyse", "worker", 60, now + timedelta(seconds=902)) is not None
    broom.rooms(now + timedelta(seconds=903))
    assert broom.alarms == set()


def test_results_for_a_destination_that_is_gone_raise_an_alarm(make_rig: MakeRig) -> None:
    """A destination that was taken out of the settings while results wait for it does not go unnoticed."""
    rig = make_rig(dimse("kept", 1))
    rig.rendered([dataset()], ["kept", "gone"])
    broom = sweeper(rig, reserve_bytes=0, watermark=1.0, hard_watermark=1.0)
    broom.rooms(datetime.now(UTC))
    assert broom.alarms == {"DESTINATION_UNKNOWN gone"}


def test_results_for_a_destination_that_is_gone_end_with_a_person(make_rig: MakeRig) -> None:
    """They wait and their case says why; after the horizon it needs attention, can be cancelled, and a retry waits anew."""
    rig = make_rig(dimse("kept", 1))
    case_id = rig.rendered([dataset()], ["gone"])
    broom = sweeper(rig, reserve_bytes=0, watermark=1.0, hard_watermark=1.0)
    now = datetime.now(UTC)
    broom.step(now, 0.0)
    row = rig.deliveries(case_id)[0]
    assert (row.state, row.code) == (DeliveryState.RETRY_WAIT, "DESTINATION_UNKNOWN")
    case = rig.ledger.read.case(case_id)
    assert (case.state, case.reason, case.detail) == (
        CaseState.DELIVERING,
        "RETRY_LATER",
        "gone DESTINATION_UNKNOWN",
    )
    late = now + timedelta(seconds=rig.settings.work.retry_horizon_s)
    broom.step(late, ROOMS_EVERY_S + 1)
    case = rig.ledger.read.case(case_id)
    assert (case.state, case.reason) == (CaseState.NEEDS_ATTENTION, "DESTINATION_UNKNOWN")
    rig.ledger.retry_case(case_id, "test", late)
    broom.step(late, 3 * ROOMS_EVERY_S)
    assert rig.deliveries(case_id)[0].state is DeliveryState.RETRY_WAIT
    assert rig.state(case_id) is CaseState.DELIVERING


@pytest.mark.parametrize("door", ["keeper", "deliver_worker"])
@pytest.mark.parametrize("error", [Unavailable("LEDGER_UNAVAILABLE"), ValueError("Zhang^Xiaodong")])
def test_the_outer_guard_logs_no_values_and_goes_on(
    make_rig: MakeRig, capsys: pytest.CaptureFixture[str], door: str, error: Exception
) -> None:
    """Whatever a turn raises, the loop rests and goes on, and the log names the kind of error and not its words."""

    class Failing(Sweeper):
        destination = dimse("p", 1)

        def step(self, *_: Any) -> float:  # type: ignore[override]  # stands for any step that fails
            raise error

        def close(self) -> None:
            """Nothing to close."""

    rig = make_rig()
    failing: Any = Failing(rig.ledger, rig.spool, rig.settings)
    wait = keeper._turn(failing, failing, failing, rig.settings) if door == "keeper" else deliver_worker._turn(failing)
    assert wait >= 2.0
    said = "".join(capsys.readouterr())
    assert "Zhang" not in said
    assert ("LEDGER_UNAVAILABLE" if isinstance(error, Unavailable) else "ValueError") in said


@pytest.mark.parametrize("door", ["keeper", "deliver_worker"])
def test_the_doors_end_on_sigterm(make_rig: MakeRig, door: str, tmp_path: Path) -> None:
    """Each door runs on its own and ends by itself with status 0 soon after SIGTERM."""
    rig = make_rig()
    code = (
        "import sys; from pathlib import Path; from casework.config import load; from casework.observe import setup_logging;"
        f"from casework.entrypoints import {door} as door; setup_logging('t'); sys.exit(door.main(load(Path(sys.argv[1]))))"
    )
    config = tmp_path / "casework.toml"
    config.write_text(
        f'[storage]\nroot = "{rig.settings.root}"\n[[destination]]\nname = "p"\nae_title = "P"\nport = 1\n'
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(config)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    started = ""
    while ".started" not in started:
        line = process.stderr.readline()
        assert line, started
        started += line
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 0, rest
    assert time.monotonic() - began < 20
    assert ".stopped" in rest


def test_the_audits_head_is_said_every_hour_and_proves_the_chain(
    make_rig: MakeRig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where logs are kept elsewhere they keep the head: `verify-audit --head` takes the line, and names the first row that differs."""
    rig = make_rig(dimse("p", 1))
    rig.rendered([dataset("SR")], ["p"])
    sweeper, now = Sweeper(rig.ledger, rig.spool, rig.settings), datetime.now(UTC)
    setup_logging("keeper")
    for clock in (0.0, 60.0, 3599.0, 3600.0):
        sweeper.step(now, clock)
    lines = [line for line in capsys.readouterr().err.splitlines() if "audit.head" in line]
    assert len(lines) == 2
    config, kept = tmp_path / "casework.toml", tmp_path / "head.json"
    config.write_text(f'[storage]\nroot = "{rig.settings.root}"\n')
    kept.write_text(lines[0])
    command = ["verify-audit", "--head", str(kept), "--config", str(config)]
    assert CliRunner().invoke(app, command).exit_code == 0
    kept.write_text(lines[0].replace(json.loads(lines[0])["audit_head"][:8], "0" * 8))
    told = CliRunner().invoke(app, command)
    assert (told.exit_code, "not the kept head" in told.output) == (4, True)
