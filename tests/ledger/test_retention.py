"""What the policy removes: only what nobody needs any more, the ledger first, and never twice. On both databases, with a real spool."""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from casework.case import Verdict
from casework.config import Settings, load
from casework.config_retention import Retention, check_retention
from casework.entrypoints.cli import app
from casework.errors import Defect, Refused
from casework.flows.retention import Retainer
from casework.ledger import Ledger, rules
from casework.spool import Spool
from tests.ledger import ledger_help as lh
from tests.ledger.ledger_help import NOW, C, D

LATER = NOW + timedelta(days=101)
POLICY = Retention(images_days=100, results_days=100, webhooks_days=100)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def ledger(ledger: Ledger) -> Iterator[Ledger]:
    yield ledger
    assert ledger.read.verify_audit().ok


def images(ledger: Ledger, spool: Spool, count: int = 3, patient: str = "P1") -> list[str]:
    """The digests of received images whose bytes are on the disk and as old as their rows."""
    made = []
    for n in range(count):
        digest = spool.put(f"{patient} image {n}".encode())
        os.utime(spool.path(digest), (NOW.timestamp(), NOW.timestamp()))
        uid = f"1.2.{int.from_bytes(patient.encode())}.{n}"
        lh.record(ledger, uid, sha256=digest, study_instance_uid=f"1.2.{patient[1:]}", patient_id=patient)
        made.append(digest)
    return made


def finish(ledger: Ledger, spool: Spool, case_id: str, destinations: tuple[str, ...] = ("pacs",)) -> list[str]:
    """Bring a receiving case to its results; their digests."""
    assert ledger.move_case(case_id, C.RECEIVING, C.STABLE, "", "assemble", NOW)
    assert ledger.queue_case(case_id, 0, "assemble", NOW)
    job = lh.claim(ledger)
    made = [replace(one, sha256=spool.put(one.sop_instance_uid.encode())) for one in lh.artefacts(case_id)]
    for one in made:
        os.utime(spool.path(one.sha256), (NOW.timestamp(), NOW.timestamp()))
    assert ledger.finish_job(job.job_id, job.fence, "{}", made, [], destinations, NOW)
    return [one.sha256 for one in made]


def a_case(ledger: Ledger, spool: Spool) -> tuple[str, list[str], list[str]]:
    """A delivered case: its id, digests of its images and of its results."""
    received = images(ledger, spool)
    (case,) = ledger.cases_in(C.RECEIVING)
    results = finish(ledger, spool, case.id)
    while sent := ledger.claim_delivery("pacs", "sender", 60.0, NOW):
        assert lh.end(ledger, sent)
    return case.id, received, results


def there(spool: Spool, digests: list[str]) -> list[bool]:
    return [spool.path(digest).exists() for digest in digests]


def test_everything_of_an_old_delivered_case_goes_and_says_so(ledger: Ledger, spool: Spool) -> None:
    """Bytes are gone, rows stay, `why` says when and by which policy, the audit has counts and no patient; the next turn finds nothing."""
    case_id, received, results = a_case(ledger, spool)
    retainer = Retainer(ledger, spool, POLICY)
    assert [(d.kind, d.objects, d.cases) for d in retainer.due(LATER)] == [("images", 3, 1), ("results", 3, 1)]
    assert there(spool, received + results) == [True] * 6
    assert retainer.turn(LATER) == 12  # said to be gone, then erased
    assert not any(there(spool, received + results))
    assert retainer.turn(LATER) == 0
    assert retainer.due(LATER)[0].objects == 0
    told = {moment.code: moment for moment in ledger.read.why("P1", LATER).timeline}
    assert told["IMAGES_EXPIRED"].at == told["RESULTS_EXPIRED"].at == LATER
    said = [event for event in ledger.read.audit() if event.event.startswith("retention.")]
    assert {event.event: event.detail.get("count") for event in said} == {
        "retention.images": 3,
        "retention.results": 3,
        "retention.erased": 6,
    }
    assert "P1" not in repr(said)
    assert ledger.read.instances() == []
    assert ledger.read.artefacts() == []
    with pytest.raises(Refused, match="RESULTS_REMOVED"):
        ledger.resend_case(case_id, "op", LATER)
    with pytest.raises(Refused, match="RESULTS_REMOVED"):
        ledger.retraction(case_id)
    with pytest.raises(Defect, match="IMAGES_REMOVED"):
        ledger.case_inputs(case_id)
    assert ledger.case_inputs(case_id, here_only=True) == []


@pytest.mark.parametrize(
    "why", ["young", "changed lately", "receiving", "not sent", "dead", "unproved", "held", "doubt", "no destination"]
)
def test_what_may_be_needed_stays(ledger: Ledger, spool: Spool, why: str) -> None:
    """Neither images nor results go while anything of the patient's window is young, open, unsent, unproved, in doubt or on hold."""
    received, results = images(ledger, spool), []
    (case,) = ledger.cases_in(C.RECEIVING)
    if why != "receiving":
        results = finish(ledger, spool, case.id, () if why == "no destination" else ("pacs",))
    while why not in ("receiving", "not sent") and (sent := ledger.claim_delivery("pacs", "sender", 60.0, NOW)):
        if why == "unproved":
            ledger.finish_delivery(sent.delivery_id, sent.fence, D.STORED, "0x0000", "", lh.at(9), NOW, "commitment")
        else:
            lh.end(ledger, sent, D.DEAD if why == "dead" else D.STORED, "ATTEMPTS_EXHAUSTED" if why == "dead" else "")
    now = NOW + timedelta(days=99) if why == "young" else LATER
    if why == "held":
        assert ledger.hold_case(case.id, "op", NOW)
        assert not ledger.hold_case(case.id, "op", NOW)
    if why == "doubt":
        lh.record(
            ledger,
            f"1.2.{int.from_bytes(b'P1')}.0",
            sha256=lh.sha("other"),
            study_instance_uid="1.2.1",
            patient_id="P1",
        )
    if why == "changed lately":
        ledger.resend_case(case.id, "op", LATER - timedelta(days=1))
        while sent := ledger.claim_delivery("pacs", "sender", 60.0, LATER - timedelta(days=1)):
            lh.end(ledger, sent, now=LATER - timedelta(days=1))
    retainer = Retainer(ledger, spool, POLICY)
    retainer.turn(now)
    assert all(there(spool, results))  # of no destination: nobody else has them
    assert all(there(spool, received)) == (why != "no destination")
    if why == "held":
        assert ledger.lift_hold(case.id, "op", now)
        retainer.turn(now)
        assert not any(there(spool, received + results))


def test_a_crash_between_ledger_and_disk_leaves_no_lie(ledger: Ledger, spool: Spool) -> None:
    """After the ledger's word nobody counts on the bytes, wherever the keeper died; the next one finishes, also a half-taken object."""
    _, received, _ = a_case(ledger, spool)
    rule = Retainer(ledger, spool, replace(POLICY, results_days=0))
    (due,) = rules({"images": 100}, LATER)
    assert ledger.let_go(due, 2, LATER) == 2  # and dies
    assert all(there(spool, received))
    first = ledger.leaving(10)[0].sha256
    spool.path(first).rename(spool.root / "retired" / first)  # and dies again, in the middle of taking one
    assert Spool(spool.root).recover_retired() == 1
    assert all(there(spool, received))
    rule.turn(LATER)
    rule.turn(LATER)
    assert not any(there(spool, received))
    assert ledger.leaving(10) == []


def test_an_image_that_comes_again_is_kept_and_can_be_analysed(ledger: Ledger, spool: Spool) -> None:
    """Sent again it is a duplicate that is here again: it stays for a whole term, also when it came between the ledger's word and the erasing."""
    case_id, received, _ = a_case(ledger, spool)
    retainer = Retainer(ledger, spool, replace(POLICY, results_days=0))
    retainer.turn(LATER)
    for n, digest in enumerate(received):
        again = spool.put(f"P1 image {n}".encode())
        assert again == digest
        os.utime(spool.path(digest), (LATER.timestamp(), LATER.timestamp()))
        study = {"study_instance_uid": "1.2.1", "patient_id": "P1"}
        (told,) = lh.record(ledger, f"1.2.{int.from_bytes(b'P1')}.{n}", sha256=digest, now=LATER, **study)
        assert told.verdict is Verdict.DUPLICATE
    assert [row.sha256 for row in ledger.case_inputs(case_id)] == received
    retainer.turn(LATER + timedelta(days=50))
    assert all(there(spool, received))
    second = LATER + timedelta(days=101)
    (rule,) = rules({"images": 100}, second)
    assert ledger.let_go(rule, 10, second) == 3
    spool.put(b"P1 image 0")  # arrives now, its row not yet written
    os.utime(spool.path(received[0]), (second.timestamp(), second.timestamp()))
    retainer.turn(second)
    assert there(spool, received) == [True, False, False]
    assert [row.sha256 for row in ledger.read.instances()] == received[:1]


def test_nothing_is_erased_while_a_backup_is_made(ledger: Ledger, spool: Spool) -> None:
    """What the ledger's copy names can be copied to its end, by whatever process; the next turn goes on."""
    _, received, results = a_case(ledger, spool)
    retainer = Retainer(ledger, spool, POLICY)
    with Spool(spool.root).keeping():
        retainer.turn(LATER)
        assert all(there(spool, received + results))
        assert len(ledger.leaving(10)) == 6
    retainer.turn(LATER)
    assert not any(there(spool, received + results))


def test_small_pieces(ledger: Ledger, spool: Spool) -> None:
    """A turn takes no more than its batch of each kind."""
    _, received, _ = a_case(ledger, spool)
    retainer = Retainer(ledger, spool, replace(POLICY, results_days=0, batch=2))
    retainer.turn(LATER)
    assert sorted(there(spool, received)) == [False, False, True]
    retainer.turn(LATER)
    assert not any(there(spool, received))


def test_bytes_are_only_taken_by_their_digest_and_old_pictures_age(spool: Spool) -> None:
    """A fresh object is put back, an old one goes; prepared pictures that nobody used go by their age."""
    digest = spool.put(b"x")
    assert digest == hashlib.sha256(b"x").hexdigest()
    assert not spool.retire(digest, time.time())
    assert spool.path(digest).exists()
    assert spool.retire(digest, time.time() + 7200)
    assert not spool.path(digest).exists()
    assert spool.retire(digest, time.time())
    spool.write_prepared("ab-1", [b"picture"])
    assert spool.age_prepared(time.time() - 60) == 0
    assert spool.age_prepared(time.time() + 60) == 1
    assert datetime.now(UTC) > NOW


def test_one_patient_does_not_decide_for_another(ledger: Ledger, spool: Spool) -> None:
    """What goes of one patient says nothing about another whose case is still open."""
    _, received, results = a_case(ledger, spool)
    others = images(ledger, spool, patient="P2")
    due = Retainer(ledger, spool, POLICY).due(LATER)
    assert [(d.kind, d.objects, d.cases) for d in due] == [("images", 3, 1), ("results", 3, 1)]
    Retainer(ledger, spool, POLICY).turn(LATER)
    assert not any(there(spool, received + results))
    assert all(there(spool, others))


@pytest.mark.parametrize(
    "values",
    [
        {"images_days": 6},
        {"images_days": 90},
        {"results_days": 29},
        {"webhooks_days": -1},
        {"every_s": 1.0},
        {"batch": 0},
    ],
)
def test_policies_that_take_too_much_are_refused(values: dict[str, float]) -> None:
    """Nothing goes within a week, no image that a late one may join, no result that may have to be withdrawn soon."""
    check_retention(Settings(retention=replace(POLICY, images_days=91, results_days=30)))
    check_retention(Settings())
    with pytest.raises(Defect, match="CONFIG_INVALID"):
        check_retention(Settings(retention=replace(POLICY, **values)))  # type: ignore[arg-type]


def test_by_command(tmp_path: Path) -> None:
    """The dry run counts and removes nothing; a hold keeps, lifted it does not; then the command removes."""
    file = tmp_path / "casework.toml"
    file.write_text(f'[storage]\nroot = "{tmp_path / "root"}"\n[retention]\nimages_days = 91\nresults_days = 30\n')
    settings = load(file)
    ledger, spool = Ledger.open(settings.ledger_url), Spool(settings.root)
    ledger.migrate()
    case_id, received, results = a_case(ledger, spool)
    ledger.close()

    def say(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--config", str(file)])
        assert done.exit_code == 0, done.output
        return done.output

    assert "images: 3 objects" in say("retention", "--dry-run")
    assert "on hold" in say("hold", case_id, "--detail", "study 12")
    assert "images: 0 objects" in say("retention")
    assert all(there(spool, received + results))
    assert "hold lifted" in say("hold", case_id, "--lift")
    assert "results: 3 objects" in say("retention")
    assert not any(there(spool, received + results))
    assert "removed here" in say("why", case_id)
