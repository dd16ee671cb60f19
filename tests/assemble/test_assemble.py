"""Assembly with the real ledger and real PACS: expected counts, late images, quiet time, and PACS that do not answer."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from casework.case import STAT_PRIORITY, CaseState
from casework.config import Assembly, Destination
from casework.dicom import scu
from casework.dicom.query import HeldStudy
from casework.entrypoints import keeper
from casework.errors import Unavailable
from casework.flows import assemble
from casework.flows.assemble import Assembler
from casework.flows.expected import PacsWatch, Question
from casework.ledger import Selector
from tests.deliver.objects import dataset, write
from tests.deliver.rig import Rig, arrival, dimse
from tests.simulators import orthanc, pacs

RULES = Assembly(quiet_s=2.0, settle_s=0.4, poll_s=0.05, give_up_s=4.0)
C = CaseState


class Desk:
    """A rig with an assembler, and the loop that the keeper would run."""

    def __init__(self, folder: Path, *destinations: Destination, rules: Assembly = RULES, ask: Any = None) -> None:
        self.rig = Rig(folder, *destinations, assembly=rules)
        options = {"ask": ask} if ask else {}
        self.assembler = Assembler(self.rig.ledger, self.rig.settings, **options)

    def close(self) -> None:
        self.assembler.close()
        self.rig.close()

    def receive(self, *images: Dataset, association: str = "a1") -> str:
        """What intake does after it has acknowledged."""
        recorded = self.rig.ledger.record([arrival(ds, association=association) for ds in images], datetime.now(UTC))
        assert recorded[0].case_id is not None
        return recorded[0].case_id

    def step(self) -> None:
        self.assembler.step(datetime.now(UTC), time.monotonic())

    def run_until(self, done: Callable[[], bool], within_s: float = 20.0) -> float:
        """Turns until `done`; returns the seconds it took."""
        started = time.monotonic()
        while not done():
            assert time.monotonic() - started < within_s, "not in time"
            self.step()
            time.sleep(0.02)
        return time.monotonic() - started

    def run_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.run_until(lambda: time.monotonic() > until)

    def case(self, case_id: str) -> tuple[CaseState, str]:
        row = self.rig.ledger.read.case(case_id)
        return row.state, row.reason


@pytest.fixture
def make_desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    with ExitStack() as stack:

        def make(*destinations: Destination, **options: Any) -> Desk:
            desk = Desk(tmp_path / "desk", *destinations, **options)
            stack.callback(desk.close)
            return desk

        yield make


MakeDesk = Callable[..., Desk]


def asking(destination: Destination) -> Destination:
    from dataclasses import replace

    return replace(destination, query=True, send=False)


def series(count: int, modality: str = "MR", **values: Any) -> list[Dataset]:
    """Images of one series."""
    first = dataset(modality, **values)
    same: dict[str, Any] = {
        "StudyInstanceUID": str(first.StudyInstanceUID),
        "SeriesInstanceUID": str(first.SeriesInstanceUID),
    }
    return [first, *(dataset(modality, **values, **same) for _ in range(count - 1))]


def put(folder: Path, destination: Destination, images: list[Dataset]) -> None:
    """Have the PACS hold these."""
    results = scu.store(destination, [write(folder, ds) for ds in images], "MODALITY")
    assert {r.code for r in results} == {"DELIVERED"}


def test_without_a_pacs_the_quiet_time_decides(make_desk: MakeDesk) -> None:
    """No PACS is asked: the case waits until quiet_s after its last image, then it is queued."""
    desk = make_desk()
    case_id = desk.receive(*series(2))
    desk.step()
    assert desk.case(case_id) == (C.RECEIVING, "QUIET_TIME")
    desk.run_for(1.2)
    desk.receive(*series(1))
    took = desk.run_until(lambda: desk.case(case_id)[0] is C.QUEUED)
    assert took >= RULES.quiet_s - 0.1


def test_an_open_association_holds_the_case(make_desk: MakeDesk) -> None:
    """While the sender's association is open the case waits and says so; it goes on once that is closed."""
    desk = make_desk(rules=Assembly(quiet_s=0.2, settle_s=0.1))
    now = datetime.now(UTC)
    desk.rig.ledger.open_association("a1", "MODALITY", "CMAN", "127.0.0.1", now)
    case_id = desk.receive(*series(2))
    desk.run_for(0.6)
    assert desk.case(case_id) == (C.RECEIVING, "ASSOCIATION_OPEN")
    desk.rig.ledger.close_association("a1", "released", "", {"accepted": 2}, datetime.now(UTC))
    desk.run_until(lambda: desk.case(case_id)[0] is C.QUEUED)


@pytest.mark.parametrize(("modality", "verdict"), [("MR", C.STABLE), ("OT", C.REJECTED)])
def test_an_image_that_comes_during_the_look_is_not_closed_in(
    make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch, modality: str, verdict: CaseState
) -> None:
    """A verdict about a case to which an image came meanwhile is not carried out: the next look decides anew."""
    desk = make_desk(rules=Assembly(quiet_s=0.0, settle_s=0.0))
    first = dataset(modality)
    case_id = desk.receive(first)
    real = assemble.judge

    def slow(*arguments: Any) -> Any:
        found = real(*arguments)
        assert found.state is verdict
        desk.receive(dataset("MG", PatientID=str(first.PatientID)))
        return found

    monkeypatch.setattr(assemble, "judge", slow)
    desk.step()
    assert desk.case(case_id)[0] is C.RECEIVING
    monkeypatch.setattr(assemble, "judge", real)
    desk.step()
    assert desk.case(case_id)[0] is C.QUEUED
    assert len(desk.rig.ledger.case_inputs(case_id)) == 2


def test_an_answer_that_cannot_be_read_does_not_end_the_asking(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a PACS answers, it is asked again later, and no value of the answer reaches the log."""
    asked = []

    def ask(*_: object) -> list[HeldStudy]:
        asked.append(time.monotonic())
        if len(asked) == 1:
            raise TypeError("Zhang^Xiaodong")
        return []

    watch = PacsWatch(dimse("pacs", 1), "CMAN", first_interval_s=0.01, ask=ask, rest_s=0.05)
    until = time.monotonic() + 10
    while watch.look("c") is None:
        assert time.monotonic() < until, f"asked {len(asked)} times"
        watch.want(Question("c", "P", "", time.monotonic()), urgent=True)
        time.sleep(0.02)
    watch.close()
    assert "Zhang" not in "".join(capsys.readouterr())


@pytest.fixture(params=["simulator-find", "simulator-qido", "orthanc-find", "orthanc-qido"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Destination, Destination]]:
    """A PACS: where to store, and where to ask."""
    kind, protocol = request.param.split("-")
    with ExitStack() as stack:
        if kind == "orthanc":
            real = stack.enter_context(orthanc.running(tmp_path / "orthanc", route=False))
            store, url = dimse("pacs", real.port, aet="ORTHANC"), real.url
        else:
            ours = stack.enter_context(pacs.running(tmp_path / "pacs", http_port=0))
            store, url = dimse("pacs", ours.port), ours.url
        ask = store if protocol == "find" else Destination("pacs", kind="stow", url=url, timeout_s=2)
        yield store, asking(ask)


def test_the_expected_count_ends_the_wait(
    there: tuple[Destination, Destination], make_desk: MakeDesk, tmp_path: Path
) -> None:
    """Three studies in the PACS: the case waits for the last image of the last study, and not much longer."""
    store, ask = there
    mg, us, mr = series(4, "MG"), series(2, "US"), series(6, "MR")
    put(tmp_path / "out", store, [*mg, *us, *mr, dataset("SR"), dataset("MR", PatientID="P2")])
    desk = make_desk(ask, rules=Assembly(quiet_s=30, settle_s=0.4, give_up_s=60))
    case_id = desk.receive(*mg)
    desk.run_for(1.5)
    assert desk.case(case_id) == (C.RECEIVING, "COUNT_INCOMPLETE")
    desk.receive(*us)
    desk.receive(*mr[:-1])
    desk.run_for(1.0)
    assert desk.case(case_id) == (C.RECEIVING, "COUNT_INCOMPLETE")
    expected = {s.study_uid: s.expected for s in desk.rig.ledger.case_studies(case_id)}
    assert sorted(expected.values(), key=int) == [2, 4, 6]  # type: ignore[arg-type]  # all are known now
    desk.receive(mr[-1])
    took = desk.run_until(lambda: desk.case(case_id)[0] is C.QUEUED)
    assert took < 15  # 0.7 s on an idle machine; the quiet time would be 30
    assert desk.rig.ledger.read.case_view(case_id).findings == ()


def test_with_the_settings_of_a_site_the_wait_is_short(make_desk: MakeDesk, tmp_path: Path) -> None:
    """With the default settings and everything sent at once, it is the settle time that counts, not the quiet time."""
    with pacs.running(tmp_path / "pacs") as ours:
        images = series(5)
        put(tmp_path / "out", dimse("pacs", ours.port), images)
        desk = make_desk(asking(dimse("pacs", ours.port)), rules=Assembly())
        stop = threading.Event()
        loop = threading.Thread(target=keeper.run, args=(desk.rig.settings, stop))
        loop.start()
        time.sleep(0.7)
        case_id = desk.receive(*images)
        started = time.monotonic()
        while desk.case(case_id)[0] is not C.QUEUED and time.monotonic() - started < 25:
            time.sleep(0.02)
        took = time.monotonic() - started
        stop.set()
        loop.join(10)
    assert desk.case(case_id)[0] is C.QUEUED
    assert 0.9 < took < 20  # 2 s on an idle machine; the quiet time would be 60


def test_a_case_that_stays_short_runs_with_a_finding(make_desk: MakeDesk, tmp_path: Path) -> None:
    """Two of five images never come: after give_up_s it runs with what is there, and the finding stays on the case."""
    with pacs.running(tmp_path / "pacs") as ours:
        images = series(5)
        put(tmp_path / "out", dimse("pacs", ours.port), images)
        desk = make_desk(asking(dimse("pacs", ours.port)), rules=Assembly(quiet_s=1.5, settle_s=0.2, give_up_s=2.5))
        case_id = desk.receive(*images[:3])
        took = desk.run_until(lambda: desk.case(case_id)[0] is C.QUEUED)
    assert took >= 2.4
    (finding,) = desk.rig.ledger.read.case_view(case_id).findings
    assert (finding.code, finding.subject, finding.detail) == (
        "COUNT_INCOMPLETE",
        images[0].StudyInstanceUID,
        "3 of 5",
    )


def test_a_keeper_that_restarts_does_not_run_a_case_that_is_short(make_desk: MakeDesk, tmp_path: Path) -> None:
    """A count that the PACS gave before the restart holds, however long the last image is ago, until the PACS answers."""
    told = threading.Event()

    def ask(*_: Any) -> list[HeldStudy]:
        if told.is_set():
            raise Unavailable("PEER_UNREACHABLE")
        return [HeldStudy(str(images[0].StudyInstanceUID), str(images[0].StudyDate), 6)]

    images = series(6)
    place = asking(dimse("pacs", 1))
    desk = make_desk(place, ask=ask)
    case_id = desk.receive(*images[:4])
    desk.run_until(lambda: desk.case(case_id) == (C.RECEIVING, "COUNT_INCOMPLETE"))
    told.set()
    desk.assembler.close()
    time.sleep(RULES.quiet_s)
    desk.assembler = Assembler(desk.rig.ledger, desk.rig.settings, ask=ask)
    desk.run_for(RULES.quiet_s + 0.5)
    assert desk.case(case_id) == (C.RECEIVING, "COUNT_INCOMPLETE")
    desk.run_until(lambda: desk.case(case_id)[0] is C.QUEUED, within_s=RULES.give_up_s)


def test_a_late_image_reopens_a_queued_case(make_desk: MakeDesk) -> None:
    """An image that comes before the work begins: the same revision waits again and is queued with all images."""
    desk = make_desk(rules=Assembly(quiet_s=0.3, settle_s=0.1))
    images = series(3)
    case_id = desk.receive(*images[:2])
    desk.run_until(lambda: desk.case(case_id)[0] is C.QUEUED)
    assert desk.receive(images[2]) == case_id
    assert desk.case(case_id)[0] is C.RECEIVING
    desk.run_until(lambda: desk.case(case_id)[0] is C.QUEUED)
    assert len(desk.rig.ledger.case_inputs(case_id)) == 3


def test_a_late_image_after_the_work_began_makes_a_new_revision(make_desk: MakeDesk) -> None:
    """An image that comes while the case runs opens revision 2, which is queued on its own with all images."""
    desk = make_desk(rules=Assembly(quiet_s=0.3, settle_s=0.1))
    images = series(3)
    case_id = desk.receive(*images[:2])
    desk.run_until(lambda: desk.case(case_id)[0] is C.QUEUED)
    assert desk.rig.ledger.claim_job("analyse", "test", 60, datetime.now(UTC)) is not None
    second = desk.receive(images[2])
    assert second != case_id
    desk.run_until(lambda: desk.case(second)[0] is C.QUEUED)
    assert (len(desk.rig.ledger.case_inputs(case_id)), len(desk.rig.ledger.case_inputs(second))) == (2, 3)


def test_a_pacs_that_hangs_blocks_nothing(make_desk: MakeDesk, tmp_path: Path) -> None:
    """A PACS that takes a minute to answer: every turn is short, and the quiet time decides for all cases."""
    with pacs.running(tmp_path / "pacs") as ours:
        ours.faults.update(find_delay_s=60.0)
        desk = make_desk(asking(dimse("pacs", ours.port)), rules=Assembly(quiet_s=1.0, settle_s=0.2, give_up_s=60))
        cases = [desk.receive(*series(1, PatientID=f"P{n}")) for n in range(5)]
        slowest = 0.0
        started = time.monotonic()
        while any(desk.case(c)[0] is not C.QUEUED for c in cases) and time.monotonic() - started < 20:
            began = time.monotonic()
            desk.step()
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.02)
        took = time.monotonic() - started
    assert {desk.case(c)[0] for c in cases} == {C.QUEUED}
    assert took < 15
    assert slowest < 5


def test_a_pacs_that_is_down_costs_only_the_quiet_time(make_desk: MakeDesk) -> None:
    """Nobody at the address: the quiet time decides, and the address is not tried at every turn."""
    asked: list[float] = []

    def refuse(*_: Any) -> list[HeldStudy]:
        asked.append(time.monotonic())
        raise Unavailable("PEER_UNREACHABLE")

    desk = make_desk(asking(dimse("pacs", 1)), rules=Assembly(quiet_s=1.5, settle_s=0.2), ask=refuse)
    case_id = desk.receive(*series(1))
    desk.run_until(lambda: desk.case(case_id)[0] is C.QUEUED)
    assert len(asked) == 1


def test_questions_become_rarer(make_desk: MakeDesk) -> None:
    """While a case stays short, the PACS is asked at growing intervals, and at once when the count seems reached."""
    asked: list[float] = []
    images = series(3)

    def answer(*_: Any) -> list[HeldStudy]:
        asked.append(time.monotonic())
        return [HeldStudy(str(images[0].StudyInstanceUID), "20260105", 3)]

    desk = make_desk(asking(dimse("pacs", 1)), rules=Assembly(quiet_s=60, settle_s=0.2, give_up_s=60), ask=answer)
    case_id = desk.receive(*images[:2])
    desk.run_for(3.0)
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    assert len(asked) <= 5
    assert gaps == sorted(gaps)
    desk.receive(images[2])
    took = desk.run_until(lambda: desk.case(case_id)[0] is C.QUEUED)
    assert took < 8


def test_studies_outside_the_window_are_not_waited_for(make_desk: MakeDesk) -> None:
    """A study of years ago in the PACS is not part of this case."""
    images = series(2)

    def answer(*_: Any) -> list[HeldStudy]:
        return [HeldStudy(str(images[0].StudyInstanceUID), "20260105", 2), HeldStudy("1.2.3", "20190101", 40)]

    desk = make_desk(asking(dimse("pacs", 1)), rules=Assembly(quiet_s=60, settle_s=0.2, give_up_s=60), ask=answer)
    case_id = desk.receive(*images)
    desk.run_until(lambda: desk.case(case_id)[0] is C.QUEUED)


def test_a_study_of_another_case_is_not_waited_for(make_desk: MakeDesk) -> None:
    """A study that the ledger keeps in another case of the patient never comes here, so it is not waited for."""
    first, between, last = (
        series(1, StudyDate="20260101"),
        series(1, StudyDate="20260325"),
        series(1, StudyDate="20260501"),
    )

    def answer(*_: Any) -> list[HeldStudy]:
        return [HeldStudy(str(ds[0].StudyInstanceUID), str(ds[0].StudyDate), 1) for ds in (first, between, last)]

    desk = make_desk(asking(dimse("pacs", 1)), rules=Assembly(quiet_s=60, settle_s=0.2, give_up_s=60), ask=answer)
    one = desk.receive(*first)
    assert desk.receive(*between) == one
    other = desk.receive(*last)
    assert other != one
    desk.run_until(lambda: desk.case(other)[0] is C.QUEUED and desk.case(one)[0] is C.QUEUED)


def test_a_request_runs_the_case_now(make_desk: MakeDesk) -> None:
    """A person's request counts as complete."""
    from casework.ledger import Selector

    desk = make_desk(rules=Assembly(quiet_s=60))
    images = series(2)
    case_id = desk.receive(*images)
    desk.step()
    selector = Selector(study_uids=(str(images[0].StudyInstanceUID),))
    assert desk.rig.ledger.request_analysis("k", "h", selector, "doctor", datetime.now(UTC)).case_ids == (case_id,)
    desk.step()
    assert desk.case(case_id)[0] is C.QUEUED


def test_a_clock_that_jumps_moves_nothing(make_desk: MakeDesk) -> None:
    """The wall clock goes an hour ahead or back while a case waits: the quiet time is still the quiet time."""
    from datetime import timedelta

    desk = make_desk(rules=Assembly(quiet_s=60))
    case_id = desk.receive(*series(1))
    now, clock = datetime.now(UTC), time.monotonic()
    desk.assembler.step(now, clock)
    desk.assembler.step(now + timedelta(hours=1), clock + 1)
    assert desk.case(case_id)[0] is C.RECEIVING
    desk.assembler.step(now - timedelta(hours=1), clock + 61)
    assert desk.case(case_id)[0] is C.QUEUED


def test_a_stat_case_is_queued_before_a_crowd(make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look queues the urgent ones first and then only so many, and says that the next look should come soon."""
    monkeypatch.setattr(assemble, "AT_ONCE", 3)
    desk = make_desk(rules=Assembly(quiet_s=0.0, settle_s=0.0, poll_s=0.05))
    images = [dataset("MR", PatientID=f"P{n}") for n in range(7)]
    *crowd, urgent = (desk.receive(ds, association="") for ds in images)
    selector = Selector(study_uids=(str(images[-1].StudyInstanceUID),))
    desk.rig.ledger.request_analysis("k", "h", selector, "doctor", datetime.now(UTC), priority=STAT_PRIORITY)
    desk.step()
    assert desk.assembler.pressing
    assert desk.case(urgent)[0] is C.QUEUED
    assert sum(desk.case(row)[0] is C.QUEUED for row in crowd) == 2
    desk.run_until(lambda: all(desk.case(row)[0] is C.QUEUED for row in crowd))


def test_a_flood_of_stat_leaves_routine_its_turn(make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    """More STAT comes before every look than a look queues: each fifth case that is queued is a routine one all the same."""
    monkeypatch.setattr(assemble, "AT_ONCE", 3)
    desk = make_desk(rules=Assembly(quiet_s=0.0, settle_s=0.0, poll_s=0.05))
    routine = [desk.receive(dataset("MR", PatientID=f"R{n}"), association="") for n in range(2)]
    stat: list[str] = []
    for look in range(4):
        for n in range(4):
            image = dataset("MR", PatientID=f"S{look}.{n}")
            stat.append(desk.receive(image, association=""))
            selector = Selector(study_uids=(str(image.StudyInstanceUID),))
            desk.rig.ledger.request_analysis(
                stat[-1], "h", selector, "doctor", datetime.now(UTC), priority=STAT_PRIORITY
            )
        desk.step()
    order = "".join(
        "S" if row.case_id in stat else "r" for row in desk.rig.ledger.read.audit(0, 10_000) if row.event == "job.made"
    )
    assert order == "SSSSrSSSSrSS"
    assert all(desk.case(row)[0] is C.QUEUED for row in routine)


def test_a_case_left_stable_by_a_crash_is_queued(make_desk: MakeDesk) -> None:
    """A keeper that died between the two moves leaves a case STABLE: the next one queues it."""
    desk = make_desk()
    case_id = desk.receive(*series(1))
    desk.rig.ledger.move_case(case_id, C.RECEIVING, C.STABLE, "QUEUED", "assemble", datetime.now(UTC))
    desk.step()
    assert desk.case(case_id)[0] is C.QUEUED


def test_two_keepers_queue_a_case_once(make_desk: MakeDesk) -> None:
    """Two assemblers at once: one job."""
    desk = make_desk(rules=Assembly(quiet_s=0.2))
    second = Assembler(desk.rig.ledger, desk.rig.settings)
    case_ids = [desk.receive(*series(1, PatientID=f"P{n}")) for n in range(8)]
    time.sleep(0.3)

    def turn(assembler: Assembler) -> None:
        assembler.step(datetime.now(UTC), time.monotonic() + 1)

    threads = [threading.Thread(target=turn, args=(a,)) for a in (desk.assembler, second) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    second.close()
    assert [len(desk.rig.ledger.read.case_view(c).jobs) for c in case_ids] == [1] * 8
