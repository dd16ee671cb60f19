"""The supervisor and the command line: races at start, hostile text on the terminal, other people's folders."""

import errno
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from casework import config
from casework.case import CaseState
from casework.config import Destination, Settings
from casework.entrypoints import doctor, serve
from casework.entrypoints.cli import app
from casework.entrypoints.explain import explain
from casework.errors import Defect, Unavailable
from casework.ledger import CaseRow, Ledger, StudyRow, Why, WhyCase
from tests.deliver.objects import dataset
from tests.deliver.rig import Rig, arrival

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


# --- the supervisor


def test_a_door_whose_supervisor_is_gone_does_not_start() -> None:
    """A door that was started by a process that died meanwhile ends by itself instead of running for ever."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    command = [sys.executable, "-m", "casework", "keeper", "--supervised", gone.stdout.decode().strip()]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=False, env={**os.environ, "HOME": "/"})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_a_child_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system gives no process, the supervisor lives on and tries again later, more and more rarely."""
    tries = []

    def none(command: Sequence[str], **_: object) -> None:
        tries.append(command)
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("casework.entrypoints.serve.subprocess.Popen", none)
    child = serve.Child("keeper", ["true"])
    child.tend(0.0)
    child.tend(0.4)
    assert len(tries) == 1
    assert 0.5 <= child.due_at <= 1.0
    child.tend(1.1)
    assert len(tries) == 2
    assert child.due_at >= 2.1


def test_a_second_supervisor_leaves_the_first_ones_lock_alone(tmp_path: Path) -> None:
    """The lock file keeps the process id of whoever holds it."""
    settings = replace(Settings(), storage=replace(Settings().storage, root=str(tmp_path)))
    held = serve.Supervisor(settings, None)._lock()
    with pytest.raises(Unavailable, match="ALREADY_RUNNING"):
        serve.Supervisor(settings, None)._lock()
    assert (tmp_path / "serve.lock").read_text() == str(os.getpid())
    held.close()
    serve.Supervisor(settings, None)._lock().close()
    assert (tmp_path / "serve.lock").read_text() == str(os.getpid())


# --- words on a terminal


def test_no_answer_moves_the_cursor() -> None:
    """Identifiers that hold terminal escapes or turn the text around are printed without them."""
    case = CaseRow("c1", "r1", 1, None, CaseState.RECEIVING, "QUIET_TIME", "", 0, "P", "", NOW, NOW, NOW, None)
    evil = "1.2\x1b[2J\x1b]0;x\x07\u202e\r\n"
    study = StudyRow(evil, "", "", {"MR": 1}, NOW, NOW, 3, "pacs:p")
    why = Why("q", "study", (WhyCase(case, (study,), (), (), (), "QUIET_TIME", None),), (), {}, (), "QUIET_TIME")
    lines = list(explain(why, "en", NOW))
    assert any("1.2" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_warnings_and_crashes_say_no_values() -> None:
    """A warning of a library, a thread that dies and the end of the process name kind and place, never their words."""
    code = (
        "import threading, warnings; from casework.observe import hide_values, setup_logging\n"
        "setup_logging('t'); hide_values()\n"
        "warnings.warn('Zhang^Xiaodong')\n"
        "def fail(): raise KeyError('Zhang^Xiaodong')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
        "raise ValueError('Zhang^Xiaodong')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "Zhang" not in ended.stdout + ended.stderr
    said = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["error_type"] for line in said] == ["UserWarning", "KeyError", "ValueError"]


# --- places


def test_the_model_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path of the model counts from the working directory first, then from the source checkout."""
    monkeypatch.chdir(tmp_path)
    checkout = Path(config.__file__).resolve().parents[2]
    assert Settings().model_folder == checkout / "models" / "cman"
    (tmp_path / "models" / "cman").mkdir(parents=True)
    assert Settings().model_folder == tmp_path / "models" / "cman"
    absolute = replace(Settings(), work=replace(Settings().work, model="/opt/none"))
    assert absolute.model_folder == Path("/opt/none")


def test_a_folder_of_the_system_is_no_storage_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started from / with defaults, the service refuses to move into /var."""
    monkeypatch.chdir("/")
    with pytest.raises(Defect, match=r"storage\.root: /var "):
        config.load(None, {})


# --- doctor and decisions


class _Odd(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.wfile.write(b"SSH-2.0-something else\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_doctor_survives_what_else_listens_there() -> None:
    """Another service on our port is a finding, not a crash."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = Settings()
        settings = replace(
            settings,
            http=replace(settings.http, port=server.server_port),
            dicom=replace(settings.dicom, port=1),
        )
        urls = Destination("web", kind="stow", url=f"http://127.0.0.1:{server.server_port}")
        began = time.monotonic()
        marks = [c.mark for c in doctor._guarded(doctor._ports, settings)]
        marks += [c.mark for c in doctor._guarded(doctor._peers, replace(settings, destination=(urls,)))]
        server.shutdown()
    assert marks == ["warn", "fail", "fail"]
    assert time.monotonic() - began < 20


def test_results_that_are_gone_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """verify-ledger --objects reads results as well as images."""
    rig = Rig(tmp_path)
    case_id = rig.rendered([dataset("SR")], [])
    sha256 = rig.ledger.read.case_view(case_id).artefacts[0].artefact.sha256
    rig.spool.path(sha256).write_bytes(b"rotten")
    bad = doctor.verify_objects(rig.settings, rig.ledger)
    said = capsys.readouterr().out
    rig.close()
    assert "missing: instance 1" in said
    assert "changed: result 1" in said
    assert bad == 2


def test_resend_reaches_a_destination_that_was_configured_since(tmp_path: Path) -> None:
    """A case without a destination can be sent from the command line once there is one."""
    rig = Rig(tmp_path)
    case_id = rig.rendered([dataset("SR")], [])
    assert rig.state(case_id) is CaseState.DELIVERED
    file = tmp_path / "casework.toml"
    file.write_text(
        f'[storage]\nroot = "{rig.settings.root}"\n[[destination]]\nname = "new"\nae_title = "P"\nport = 1\n'
    )
    result = CliRunner().invoke(app, ["resend", case_id, "--config", str(file)])
    rows = rig.deliveries(case_id)
    rig.close()
    assert result.exit_code == 0, result.output
    assert [row.destination for row in rows] == ["new"]


def test_a_person_decides_from_the_command_line(tmp_path: Path) -> None:
    """What was kept aside is listed and accepted, an image is taken out and put back, each by a command that says what is next."""
    rig = Rig(tmp_path)
    first, second = dataset("MG"), dataset("MG")
    second.StudyInstanceUID = first.StudyInstanceUID
    now = datetime.now(UTC)
    case_id = rig.ledger.record([arrival(first), arrival(second)], now)[0].case_id
    assert case_id is not None
    rig.ledger.record([arrival(first, payload="corrected")], now)
    file = tmp_path / "casework.toml"
    file.write_text(f'[storage]\nroot = "{rig.settings.root}"\n')

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, [*words, "--config", str(file)])
        assert result.exit_code == 0, result.output
        return str(result.output)

    listed = run("doubts", case_id)
    assert "UID_CONFLICT" in listed
    assert "open" in listed
    assert "Receiving" in run("decide", case_id, "accept", "--detail", "artefact")
    assert "accepted by cli:" in run("doubts", case_id)
    uid = str(second.SOPInstanceUID)
    run("exclude", case_id, uid, "--reason", "poor_quality")
    assert "EXCLUDED_POOR_QUALITY" in run("doubts", case_id)
    run("restore", case_id, uid)
    assert "EXCLUDED_POOR_QUALITY" not in run("doubts", case_id)
    again = CliRunner().invoke(app, ["decide", case_id, "dismiss", "--config", str(file)])
    assert (again.exit_code, "NOT_FOUND" in again.output) == (2, True)
    rig.close()


def test_retract_by_command(tmp_path: Path) -> None:
    """Results can be withdrawn from the command line, once, with a reason; another reason is refused."""
    rig = Rig(tmp_path)
    case_id = rig.rendered([dataset("SR")], ["pacs"])
    file = tmp_path / "casework.toml"
    file.write_text(f'[storage]\nroot = "{rig.settings.root}"\n')
    command = ["retract", case_id, "--config", str(file), "--reason"]
    codes = [CliRunner().invoke(app, [*command, reason]).exit_code for reason in ("worklist", "worklist", "safety")]
    row, events = rig.ledger.read.case(case_id), rig.ledger.read.timeline(case_id)
    rig.close()
    assert codes == [0, 0, 2]
    assert (row.state, row.reason) == (CaseState.RETRACTED, "RETRACTED_WORKLIST")
    assert next(e.actor for e in events if e.detail.get("to") == "retracted").startswith("cli:")


# --- clocks


def test_a_clock_that_went_back_leaves_nothing_leased(tmp_path: Path) -> None:
    """A lease and a wait of a time that has not come yet, beyond any that is ever given, count as over."""
    rig = Rig(tmp_path)
    ledger: Ledger = rig.ledger
    future = datetime.now(UTC) + timedelta(days=3)
    case_id = rig.rendered([dataset("SR")], ["pacs"])
    claim = ledger.claim_delivery("pacs", "dead", 60, future)
    assert claim is not None
    now = datetime.now(UTC)
    assert ledger.expire_leases(now).total == 1
    claim = ledger.claim_delivery("pacs", "t", 60, now)
    assert claim is not None
    assert ledger.expire_leases(now).total == 0
    ledger.finish_delivery(
        claim.delivery_id, claim.fence, rig.deliveries(case_id)[0].state.RETRY_WAIT, "", "PEER_BUSY", future, now
    )
    assert ledger.promote_due(now).total == 1
    rig.close()
