"""The fetcher with a real ledger, spool, intake and simulated PACS: rate, quiet hours, retries, restarts, priors, people."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from casework.case import CandidateState, CaseState, Verdict
from casework.config import Destination
from casework.errors import Refused
from casework.flows.assemble import Assembler
from tests.deliver.rig import dimse
from tests.fetch.rig import FAST, FetchRig, breast, fill
from tests.simulators.orthanc import free_port
from tests.simulators.pacs import SimulatedPacs

MakePacs = Callable[..., SimulatedPacs]
MakeRig = Callable[..., FetchRig]
C = CandidateState
DAY = datetime(2026, 1, 10, 9, 0, tzinfo=UTC)


def place(pacs: SimulatedPacs, kind: str = "get", name: str = "p") -> Destination:
    if kind == "wado":
        return Destination(name, kind="stow", url=pacs.url, retrieve="wado", timeout_s=10)
    return replace(dimse(name, pacs.port), retrieve=kind)


@pytest.mark.parametrize("kind", ["wado", "move", "get"])
def test_each_way(kind: str, make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """The missing MR comes whole by each way, once, and joins the case; a second look finds it here already."""
    port = free_port()
    pacs = make_pacs(http_port=0, peers=(f"CMAN@127.0.0.1:{port}",))
    mr = [breast("MR", StudyInstanceUID="1.2.7", SeriesInstanceUID=f"1.2.7.{n % 2}") for n in range(4)]
    fill(pacs.port, tmp_path / "out", *mr)
    rig = make_rig(place(pacs, kind))
    if kind == "move":
        rig.listen(port)
    case_id = rig.arrives(breast("MG"))
    rig.run()
    assert rig.told(case_id) == {"1.2.7": (C.FETCHED, "FETCHED")}
    (row,) = rig.candidates(case_id)
    assert dict(row.counts) == {"accepted": 4}
    assert len(rig.images(case_id)) == 5
    rig.at = datetime.now(UTC) + timedelta(hours=1)
    rig.run()
    assert rig.told(case_id) == {"1.2.7": (C.FETCHED, "FETCHED")}
    assert pacs.seen["stores"] == 4  # what we put there; nothing came twice
    assert len(rig.ledger.read.why("P1").receipts) == 5


def test_rate_and_one_at_a_time(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """So many studies an hour and no more, counted in the ledger: a restart doesn't start anew. One at a time."""
    pacs = make_pacs()
    fill(pacs.port, tmp_path / "out", *(breast("MR", PatientID=f"P{n}") for n in range(5)))
    rig = make_rig(place(pacs), rules=replace(FAST, studies_per_hour=2))
    rig.at = DAY
    cases = [rig.arrives(breast("MG", PatientID=f"P{n}")) for n in range(5)]

    def fetched() -> int:
        return sum(row.state is C.FETCHED for case_id in cases for row in rig.candidates(case_id))

    rig.run()
    assert fetched() == 2
    rig.fetchers = [rig.fetcher(rig.settings.destination[0])]
    rig.at = DAY + timedelta(minutes=59)
    rig.run()
    assert fetched() == 2
    rig.at = DAY + timedelta(minutes=61)
    held = rig.ledger.claim_candidate("p", "another process", 60, 100, rig.at, quiet=False)
    assert held
    rig.run()
    assert fetched() == 2  # somebody else is being served
    rig.at += timedelta(minutes=3)  # that process died: its lease is over
    rig.run()
    assert fetched() == 4  # the cut one and one more; the first two no longer count
    rig.at = DAY + timedelta(hours=3)
    rig.run()
    assert fetched() == 5


def test_quiet_hours(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """In quiet hours nothing is fetched, unless a person asks; afterwards the rest comes by itself."""
    pacs = make_pacs()
    fill(pacs.port, tmp_path / "out", *(breast("MR", PatientID=p) for p in ("P1", "P2")))
    rules = replace(FAST, quiet_hours=("08:00-18:00",), time_zone="Asia/Shanghai")
    rig = make_rig(place(pacs), rules=rules)
    rig.at = datetime(2026, 1, 10, 1, 0, tzinfo=UTC)  # 09:00 there
    one, two = (rig.arrives(breast("MG", PatientID=p)) for p in ("P1", "P2"))
    rig.run()
    assert [row.state for case_id in (one, two) for row in rig.candidates(case_id)] == [C.CHOSEN, C.CHOSEN]
    rig.ledger.order_fetch(two, ["p"], "cli:ann", rig.at)
    rig.run()
    assert {row.state for row in rig.candidates(two)} >= {C.FETCHED}
    assert [row.state for row in rig.candidates(one)] == [C.CHOSEN]
    rig.at = datetime(2026, 1, 10, 10, 0, tzinfo=UTC)  # 18:00
    rig.run()
    assert rig.candidates(one)[0].state is C.FETCHED


def test_a_failed_fetch_never_blocks_the_case(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """A PACS that fails is asked again with growing waits and then given up; the case runs meanwhile, with a remark."""
    pacs = make_pacs()
    fill(pacs.port, tmp_path / "out", breast("MR"))
    pacs.faults.update(find_status=0xA700)
    rig = make_rig(place(pacs), rules=replace(FAST, hold_s=30.0, retry_first_s=60.0, retry_max_s=120.0))
    assembler = Assembler(rig.ledger, rig.settings)
    rig.at = datetime.now(UTC)
    case_id = rig.arrives(breast("MG"))
    quiet = rig.now() + timedelta(seconds=70)
    assembler.step(quiet - timedelta(seconds=45), 0.0)
    rig.run()
    (order,) = rig.ledger.read.fetches(case_id)
    assert (order.state, order.code, order.attempt) == ("due", "PEER_BUSY", 1)
    assert order.next_at is not None
    assert timedelta(seconds=29) < order.next_at - rig.now() <= timedelta(seconds=60)
    rig.at = order.next_at
    rig.run()
    (order,) = rig.ledger.read.fetches(case_id)
    assert (order.state, order.code, order.attempt) == ("failed", "PEER_BUSY", 2)
    assert [f.code for f in rig.ledger.read.case_view(case_id).findings] == ["FETCH_FAILED"]
    assembler.step(quiet, 45.0)
    assert rig.ledger.read.case(case_id).state is CaseState.QUEUED
    assembler.close()


def test_a_case_waits_for_a_fetch_for_a_bounded_time(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """A complete case is held while the PACS is asked, says so, and goes on after hold_s although nobody answered."""
    pacs = make_pacs()
    rig = make_rig(place(pacs), rules=replace(FAST, hold_s=90.0))
    assembler = Assembler(rig.ledger, rig.settings)
    case_id = rig.arrives(breast("MG"))
    opened = rig.ledger.read.case(case_id).opened_at
    assembler.step(opened + timedelta(seconds=61), 0.0)
    assert rig.ledger.read.case(case_id).reason == "FETCHING"
    assembler.step(opened + timedelta(seconds=89), 28.0)
    assert rig.ledger.read.case(case_id).state is CaseState.RECEIVING
    assembler.step(opened + timedelta(seconds=91), 30.0)
    assert rig.ledger.read.case(case_id).state is CaseState.QUEUED
    assembler.close()


def test_a_case_goes_on_as_soon_as_nothing_is_to_fetch(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """Once the PACS has answered that there is nothing more, the case isn't held any longer."""
    pacs = make_pacs()
    rig = make_rig(place(pacs), rules=replace(FAST, hold_s=3600.0))
    assembler = Assembler(rig.ledger, rig.settings)
    case_id = rig.arrives(breast("MG"))
    rig.run()
    assembler.step(rig.ledger.read.case(case_id).opened_at + timedelta(seconds=61), 0.0)
    assert rig.ledger.read.case(case_id).state is CaseState.QUEUED
    assembler.close()


@pytest.mark.parametrize("kind", ["move", "get"])
def test_priors_are_context(kind: str, make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """An older mammogram is fetched where the site wants priors, kept with its bytes, and is in no case, by either door."""
    port = free_port()
    pacs = make_pacs(peers=(f"CMAN@127.0.0.1:{port}",))
    old = [breast("MG", StudyDate=f"{year}0110") for year in (2023, 2024)]
    fill(pacs.port, tmp_path / "out", *old)
    rig = make_rig(place(pacs, kind), rules=replace(FAST, priors=1))
    rig.listen(port)
    now = breast("MG")
    case_id = rig.arrives(now)
    rig.run()
    assert rig.told(case_id) == {
        old[1].StudyInstanceUID: (C.FETCHED, "PRIOR_CONTEXT"),
        old[0].StudyInstanceUID: (C.REJECTED, "FETCH_OLDER_PRIOR"),
    }
    assert set(rig.images(case_id)) == {now.SOPInstanceUID}
    assert [item.case.id for item in rig.ledger.read.list_cases().items] == [case_id]
    (receipt,) = rig.ledger.read.why(old[1].StudyInstanceUID).receipts
    assert (receipt.verdict, receipt.code) == (Verdict.KEPT_ASIDE, "PRIOR_CONTEXT")
    assert rig.spool.path(receipt.sha256).is_file()
    # A study that is sent in the ordinary way afterwards is a case like any other.
    again = breast("MG", StudyDate="20240110", StudyInstanceUID=old[1].StudyInstanceUID)
    assert rig.arrives(again) not in ("", case_id)


def test_an_incomplete_study_is_tried_again(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """A PACS that gives less than it says is asked again; what came first counts as a duplicate then."""
    pacs = make_pacs()
    mr = [breast("MR", StudyInstanceUID="1.2.7", SeriesInstanceUID="1.2.7.1") for _ in range(3)]
    fill(pacs.port, tmp_path / "out", *mr)
    pacs.archive.of(mr[2].SOPInstanceUID).path.rename(tmp_path / "away")  # type: ignore[union-attr]  # it is there
    rig = make_rig(place(pacs), rules=replace(FAST, max_attempts=5))
    case_id = rig.arrives(breast("MG"))
    for fetcher in rig.fetchers:
        while fetcher.step() == 0.0 and not any(row.attempt for row in rig.candidates(case_id)):
            pass
    (row,) = rig.candidates(case_id)
    assert row.code in ("FETCH_INCOMPLETE", "PEER_BUSY"), row
    (tmp_path / "away").rename(pacs.archive.of(mr[2].SOPInstanceUID).path)  # type: ignore[union-attr]  # it is there
    rig.run_until(lambda: rig.candidates(case_id)[0].state is C.FETCHED)
    assert len(rig.images(case_id)) == 4


def test_a_person_fetches_what_was_never_routed(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """An accession number that is not here but in the PACS: the study comes, becomes a case, and the audit names the person."""
    pacs = make_pacs()
    fill(pacs.port, tmp_path / "out", breast("MR", AccessionNumber="ACC-9", StudyDate="", BodyPartExamined=""))
    rig = make_rig(place(pacs))
    rig.ledger.order_fetch("ACC-9", ["p"], "cli:ann", rig.now())
    rig.run()
    *_, row = rig.candidates(term="ACC-9")  # the case that it became has asked for siblings since
    assert (row.role, row.state) == ("asked", C.FETCHED)
    (item,) = rig.ledger.read.list_cases(q="ACC-9").items
    assert item.modalities == {"MR": 1}
    assert next(e.actor for e in rig.ledger.read.audit() if e.event == "fetch.ordered") == "cli:ann"
    rig.ledger.order_fetch("NOWHERE", ["p"], "cli:ann", rig.now())
    rig.run()
    assert rig.ledger.read.fetches_of_term("NOWHERE")[0].code == "FETCH_NOT_FOUND"
    with pytest.raises(Refused, match="FETCH_NOT_CONFIGURED"):
        rig.ledger.order_fetch("X", [], "cli:ann", rig.now())


def test_what_a_person_excludes_stays_out(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """An excluded candidate isn't fetched, also when the PACS is asked again; another wish of a person brings it back."""
    pacs = make_pacs()
    mr = breast("MR")
    fill(pacs.port, tmp_path / "out", mr)
    rig = make_rig(place(pacs), rules=replace(FAST, quiet_hours=("00:00-23:59",)))
    rig.at = DAY
    case_id = rig.arrives(breast("MG"))
    rig.run()
    (row,) = rig.candidates(case_id)
    rig.ledger.exclude_candidate(row.id, "cli:ann", DAY)
    rig.at = DAY + timedelta(hours=14, minutes=59, seconds=30)  # 23:59: not quiet
    rig.run()
    assert rig.told(case_id) == {mr.StudyInstanceUID: (C.REJECTED, "CANCELLED")}
    with pytest.raises(Refused, match="STATE_FORBIDS"):
        rig.ledger.exclude_candidate(row.id, "cli:ann", DAY)
    rig.ledger.order_fetch(str(mr.StudyInstanceUID), ["p"], "cli:ann", rig.now())
    rig.run()
    assert len(rig.images(case_id)) == 2


def test_one_pacs_down_the_other_gives(make_pacs: MakePacs, make_rig: MakeRig, tmp_path: Path) -> None:
    """Each PACS has its own question; one that is away is noted, and what the other holds comes."""
    pacs = make_pacs()
    fill(pacs.port, tmp_path / "out", breast("MR"))
    away = replace(dimse("away", free_port()), retrieve="get", timeout_s=1.0)
    rig = make_rig(place(pacs), away)
    case_id = rig.arrives(breast("MG"))
    rig.run_until(lambda: {o.state for o in rig.ledger.read.fetches(case_id)} == {"listed", "failed"})
    rig.run()
    assert {o.destination: o.code for o in rig.ledger.read.fetches(case_id)} == {"p": "", "away": "PEER_UNREACHABLE"}
    assert len(rig.images(case_id)) == 2
