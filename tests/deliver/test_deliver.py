"""Delivery against real peers over sockets, with the real ledger: each class of answer, and what becomes of the case."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from casework.case import STAT_PRIORITY, CaseState, DeliveryState
from casework.config import Destination, Work
from casework.entrypoints import deliver_worker
from casework.errors import Unavailable
from casework.flows.deliver import FAILURES_TO_OPEN, Breaker, _Heartbeat, backoff_s
from tests.deliver.objects import SC, body, dataset
from tests.deliver.rig import Rig, dimse
from tests.simulators.orthanc import free_port
from tests.simulators.pacs import SimulatedPacs

MakePacs = Callable[..., SimulatedPacs]
MakeRig = Callable[..., Rig]
D = DeliveryState


def one(rig: Rig, case_id: str) -> tuple[DeliveryState, str, str]:
    """State, code and status of the only delivery."""
    (row,) = rig.deliveries(case_id)
    return row.state, row.code, row.status


def same_bytes(pacs: SimulatedPacs, rig: Rig, uid: str) -> bool:
    """Whether the PACS holds exactly the data set that was rendered."""
    held = pacs.holds(uid)
    return held is not None and body(held.path) == body(rig.folder / "made" / f"{uid}.dcm")


def test_a_flood_of_stat_leaves_routine_objects_their_turn(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """STAT objects go first, and while they never end every fifth object is a routine one."""
    pacs = make_pacs()
    destination = dimse("pacs", pacs.port)
    rig = make_rig(destination)
    routine = [rig.rendered([dataset()], ["pacs"]) for _ in range(2)]
    worker = rig.worker(destination)
    for _ in range(11):
        rig.rendered([dataset()], ["pacs"], priority=STAT_PRIORITY)
        worker.step()
    sent = [
        row.case_id
        for row in rig.ledger.read.audit(0, 10_000)
        if row.event == "delivery.moved" and row.detail["to"] == D.SENDING
    ]
    assert "".join("r" if case_id in routine else "S" for case_id in sent) == "SSSSrSSSSrS"


FAULTS = [
    ({"status": 0xB000}, D.STORED_WITH_WARNING, "PEER_WARNED", "0xB000"),
    ({"status": 0xB006}, D.STORED_WITH_WARNING, "PEER_WARNED", "0xB006"),
    ({"status": 0xB007}, D.STORED_WITH_WARNING, "PEER_WARNED", "0xB007"),
    ({"status": 0x0111}, D.STORED, "DELIVERED", "0x0111"),
    ({"status": 0xA700}, D.RETRY_WAIT, "PEER_BUSY", "0xA700"),
    ({"status": 0xA900}, D.DEAD, "PEER_REFUSED_OBJECT", "0xA900"),
    ({"status": 0xC000}, D.DEAD, "PEER_REFUSED_OBJECT", "0xC000"),
    ({"status": 0x0122}, D.DEAD, "PEER_REFUSED_OBJECT", "0x0122"),
    ({"status": 0x0124}, D.DEAD, "PEER_REFUSED_OBJECT", "0x0124"),
    ({"status": 0x0117}, D.DEAD, "PEER_REFUSED_OBJECT", "0x0117"),
    ({"status": 0x0110}, D.RETRY_WAIT, "PEER_FAILED", "0x0110"),
    ({"refuse": "permanent"}, D.DEAD, "PEER_REJECTED_FOR_GOOD", ""),
    ({"refuse": "transient"}, D.RETRY_WAIT, "PEER_REJECTED", ""),
    ({"reject_classes": [SC]}, D.DEAD, "PEER_NO_CONTEXT", ""),
    ({"abort": "keep"}, D.UNKNOWN, "PEER_OUTCOME_UNKNOWN", ""),
    ({"abort": "lose"}, D.UNKNOWN, "PEER_OUTCOME_UNKNOWN", ""),
]


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: "-".join(str(v) for v in row[0].values()))
def test_each_class_of_answer(make_pacs: MakePacs, make_rig: MakeRig, row: tuple[Any, ...]) -> None:
    """One try at a PACS that answers so leaves the delivery in this state with this code and status."""
    faults, state, code, status = row
    pacs = make_pacs()
    pacs.faults.update(**faults)
    destination = dimse("pacs", pacs.port)
    rig = make_rig(destination)
    case_id = rig.rendered([dataset()], ["pacs"])
    worker = rig.worker(destination)
    worker.step()
    worker.close()
    assert one(rig, case_id) == (state, code, status)
    assert rig.state(case_id) is {
        D.DEAD: CaseState.NEEDS_ATTENTION,
        D.STORED: CaseState.DELIVERED,
        D.STORED_WITH_WARNING: CaseState.DELIVERED,
    }.get(state, CaseState.DELIVERING)


def test_a_warning_is_not_sent_again(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """After a warning the object counts as stored: the PACS sees it once."""
    pacs = make_pacs()
    pacs.faults.update(status=0xB000)
    destination = dimse("pacs", pacs.port)
    rig = make_rig(destination)
    rig.rendered([dataset()], ["pacs"])
    worker = rig.worker(destination)
    for _ in range(5):
        rig.turn(worker)
    assert pacs.seen["stores"] == 1


def test_five_tries_for_a_processing_failure(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """0x0110 is tried five times, then the delivery is dead and a person has to look."""
    pacs = make_pacs()
    pacs.faults.update(status=0x0110)
    destination = dimse("pacs", pacs.port)
    rig = make_rig(destination)
    case_id = rig.rendered([dataset()], ["pacs"])
    worker = rig.worker(destination)
    rig.turn_until(worker, lambda: rig.state(case_id) is CaseState.NEEDS_ATTENTION)
    assert pacs.seen["stores"] == 5
    assert one(rig, case_id)[0] is D.DEAD


@pytest.mark.parametrize("how", ["keep", "lose"])
def test_an_unknown_outcome_sends_the_same_bytes_again(make_pacs: MakePacs, make_rig: MakeRig, how: str) -> None:
    """The PACS aborts after it took everything, with or without keeping it: it ends with one copy, as rendered."""
    pacs = make_pacs()
    pacs.faults.update(abort=how, times=1)
    destination = dimse("pacs", pacs.port)
    rig = make_rig(destination)
    result = dataset("SR")
    case_id = rig.rendered([result], ["pacs"])
    worker = rig.worker(destination)
    rig.turn_until(worker, lambda: rig.state(case_id) is CaseState.DELIVERED)
    assert pacs.seen["stores"] == 2
    assert len(pacs.archive.all()) == 1
    assert same_bytes(pacs, rig, str(result.SOPInstanceUID))


def test_a_slow_answer_is_a_timeout_and_not_a_success(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """A PACS that takes longer than the deadline leaves the outcome unknown; it is delivered once it is quick again."""
    pacs = make_pacs()
    pacs.faults.update(delay_s=2.5, times=1)
    destination = dimse("pacs", pacs.port, timeout_s=1.0)
    rig = make_rig(destination)
    case_id = rig.rendered([dataset()], ["pacs"])
    worker = rig.worker(destination)
    worker.step()
    assert one(rig, case_id)[1] == "PEER_OUTCOME_UNKNOWN"
    rig.turn_until(worker, lambda: rig.state(case_id) is CaseState.DELIVERED)
    assert len(pacs.archive.all()) == 1


def test_a_pacs_that_stops_reading_is_cut_off(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """A peer that accepts and then takes nothing more off the wire can't hold the worker beyond the deadline."""
    pacs = make_pacs()
    destination = dimse("pacs", pacs.port, timeout_s=10.0)
    rig = make_rig(destination)
    case_id = rig.rendered([dataset(payload=64), dataset(payload=12_000_000)], ["pacs"])
    worker = rig.worker(destination)
    worker.step()
    pacs.faults.update(slow_s_per_pdu=200.0)
    worker._sender._destination = dimse("pacs", pacs.port, timeout_s=-90.0)  # type: ignore[union-attr]  # 12 MB: 1.6 s
    started = time.monotonic()
    worker.step()
    assert time.monotonic() - started < 40
    states = sorted(row.state for row in rig.deliveries(case_id))
    assert states == [D.STORED, D.UNKNOWN]


def test_all_objects_of_a_case_in_one_association(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """An SR and six captures go over one association, each as rendered; the case is delivered with the last."""
    pacs = make_pacs()
    destination = dimse("pacs", pacs.port)
    rig = make_rig(destination)
    results = [dataset("SR"), *(dataset() for _ in range(6))]
    case_id = rig.rendered(results, ["pacs"])
    worker = rig.worker(destination)
    rig.turn_until(worker, lambda: rig.state(case_id) is CaseState.DELIVERED)
    worker.close()
    assert pacs.seen["associations"] == 1
    assert all(same_bytes(pacs, rig, str(ds.SOPInstanceUID)) for ds in results)


def test_a_pacs_that_takes_only_implicit_vr_gets_the_same_elements(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """The default transfer syntax is offered too: a PACS with nothing else still gets every element's value."""
    from pydicom import dcmread

    pacs = make_pacs()
    pacs.faults.update(only_implicit=True)
    destination = dimse("pacs", pacs.port)
    rig = make_rig(destination)
    result = dataset("SR")
    case_id = rig.rendered([result], ["pacs"])
    rig.worker(destination).step()
    assert rig.state(case_id) is CaseState.DELIVERED
    held = pacs.holds(str(result.SOPInstanceUID))
    assert held is not None
    got = dcmread(held.path)
    assert got.PatientName == result.PatientName
    assert [e.tag for e in got] == [e.tag for e in result]


def test_down_and_back_delivers_once_with_the_same_bytes(tmp_path: Any, make_rig: MakeRig) -> None:
    """While the PACS is down nothing is lost and few tries are made; once it is back everything arrives once."""
    port = free_port()
    destination = dimse("pacs", port, timeout_s=20)
    rig = make_rig(destination)
    results = [dataset("SR"), dataset(), dataset()]
    case_id = rig.rendered(results, ["pacs"])
    worker = rig.worker(destination, probe_s=0.5)
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        rig.turn(worker)
        time.sleep(0.02)
    assert worker.breaker.open
    assert sum(row.attempt for row in rig.deliveries(case_id)) == FAILURES_TO_OPEN
    back = SimulatedPacs(tmp_path / "pacs", port=port).start()
    try:
        rig.turn_until(worker, lambda: rig.state(case_id) is CaseState.DELIVERED)
        worker.close()
        assert len(back.archive.all()) == 3
        assert back.seen["stores"] == 3
        assert back.seen["echoes"] == 1
        assert all(same_bytes(back, rig, str(ds.SOPInstanceUID)) for ds in results)
    finally:
        back.stop()


def test_past_the_horizon_it_is_dead_and_an_operator_can_send_it_again(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """After 72 h the delivery is dead with DELIVERY_HORIZON, even while only probes go; resend delivers the same bytes."""
    port = free_port()
    destination = dimse("pacs", port)
    rig = make_rig(destination)
    result = dataset("SR")
    case_id = rig.rendered([result], ["pacs"])
    clock = {"now": datetime.now(UTC)}
    worker = rig.worker(destination, probe_s=0.05, now=lambda: clock["now"])
    while not worker.breaker.open:
        rig.turn(worker)
        time.sleep(0.02)
    rig.ledger.promote_due(datetime.now(UTC) + timedelta(hours=1))
    clock["now"] += timedelta(hours=73)
    time.sleep(0.1)
    worker.step()
    assert one(rig, case_id)[:2] == (D.DEAD, "DELIVERY_HORIZON")
    assert rig.state(case_id) is CaseState.NEEDS_ATTENTION
    pacs = make_pacs(port=port)
    rig.ledger.resend_case(case_id, "operator", datetime.now(UTC))
    worker = rig.worker(destination)
    rig.turn_until(worker, lambda: rig.state(case_id) is CaseState.DELIVERED)
    worker.close()
    assert same_bytes(pacs, rig, str(result.SOPInstanceUID))


def test_a_slow_pacs_does_not_delay_another(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """A takes 3 s for each object, B answers at once: B has all six before A has two."""
    slow, quick = make_pacs("a", aet="A"), make_pacs("b", aet="B")
    slow.faults.update(delay_s=3.0)
    a, b = dimse("a", slow.port, aet="A", timeout_s=20), dimse("b", quick.port, aet="B", timeout_s=20)
    rig = make_rig(a, b)
    rig.rendered([dataset() for _ in range(6)], ["a", "b"])
    stop = threading.Event()
    worker = threading.Thread(target=deliver_worker.run, args=(rig.settings, stop, 20.0))
    started = time.monotonic()
    worker.start()
    while len(quick.archive.all()) < 6 and time.monotonic() - started < 10:
        time.sleep(0.02)
    took, slow_has = time.monotonic() - started, len(slow.archive.all())
    stop.set()
    worker.join(30)
    assert not worker.is_alive()
    assert len(quick.archive.all()) == 6
    assert slow_has < 2, f"B needed {took:.2f} s"
    assert took < 6.0


def test_a_stop_finishes_the_object_in_hand(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """On a stop the object that is being sent is finished and written down, and the next is not begun."""
    pacs = make_pacs()
    pacs.faults.update(delay_s=1.0)
    rig = make_rig(dimse("pacs", pacs.port, timeout_s=20.0))
    case_id = rig.rendered([dataset(), dataset()], ["pacs"])
    stop = threading.Event()
    worker = threading.Thread(target=deliver_worker.run, args=(rig.settings, stop))
    worker.start()
    while not pacs.seen["stores"]:
        time.sleep(0.01)
    stop.set()
    worker.join(25)
    assert not worker.is_alive()
    assert [row.state for row in rig.deliveries(case_id)] == [D.STORED, D.PENDING]


def test_a_long_sending_keeps_its_claim(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """A sending that lasts longer than the lease is not taken away from its worker."""
    pacs = make_pacs()
    pacs.faults.update(delay_s=3.0)
    destination = dimse("pacs", pacs.port, timeout_s=20.0)
    rig = make_rig(destination, work=Work(lease_s=2.0, heartbeat_s=0.2))
    case_id = rig.rendered([dataset()], ["pacs"])
    sending = threading.Thread(target=rig.worker(destination).step)
    sending.start()
    while sending.is_alive():
        assert rig.ledger.expire_leases(datetime.now(UTC)).deliveries == 0
        time.sleep(0.05)
    assert one(rig, case_id)[0] is D.STORED
    assert pacs.seen["stores"] == 1


def test_bytes_that_rotted_are_not_sent(make_pacs: MakePacs, make_rig: MakeRig) -> None:
    """A stored result that no longer matches its digest never leaves; a person is told."""
    pacs = make_pacs()
    destination = dimse("pacs", pacs.port)
    rig = make_rig(destination)
    result = dataset("SR")
    case_id = rig.rendered([result], ["pacs"])
    digest = hashlib.sha256((rig.folder / "made" / f"{result.SOPInstanceUID}.dcm").read_bytes()).hexdigest()
    with rig.spool.path(digest).open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"XXXX")
    rig.worker(destination).step()
    assert one(rig, case_id)[:2] == (D.DEAD, "SPOOL_CORRUPT")
    assert pacs.seen["associations"] == 0


def test_an_object_that_breaks_the_sender_reaches_its_horizon(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected failure of one sending is a try like any other: it waits, and ends with a person after the horizon."""

    class Broken:
        def send(self, _: object) -> None:
            raise KeyError("Zhang^Xiaodong")

        def close(self) -> None:
            """Nothing to close."""

    monkeypatch.setattr("casework.flows.deliver.open_sender", lambda *_: Broken())
    destination = dimse("pacs", 1)
    rig = make_rig(destination)
    case_id = rig.rendered([dataset("SR")], ["pacs"])
    clock = {"now": datetime.now(UTC)}
    worker = rig.worker(destination, now=lambda: clock["now"])
    worker.step()
    assert rig.deliveries(case_id)[0].state is D.UNKNOWN
    clock["now"] += timedelta(hours=73)
    rig.ledger.promote_due(clock["now"])
    worker.step()
    assert rig.state(case_id) is CaseState.NEEDS_ATTENTION
    assert "Zhang" not in "".join(capsys.readouterr())


def test_a_ledger_that_is_away_for_a_moment_ends_no_heartbeat(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender goes on to prolong its claim once the ledger answers again."""
    rig = make_rig(dimse("pacs", 1))
    rig.rendered([dataset("SR")], ["pacs"])
    claim = rig.ledger.claim_delivery("pacs", "t", 2, datetime.now(UTC))
    assert claim is not None
    real, calls = rig.ledger.heartbeat_delivery, []

    def away_once(*arguments: Any) -> bool:
        calls.append(1)
        if len(calls) == 1:
            raise Unavailable("LEDGER_UNAVAILABLE")
        return real(*arguments)

    monkeypatch.setattr(rig.ledger, "heartbeat_delivery", away_once)
    work = replace(rig.settings.work, heartbeat_s=0.02)
    with _Heartbeat(rig.ledger, claim, work, lambda: datetime.now(UTC)):
        until = time.monotonic() + 10
        while len(calls) < 2:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_backoff_doubles_with_full_jitter_up_to_its_bound() -> None:
    """30 s, 60 s, 120 s ... 30 min at most, anywhere between a second and that."""
    work = Work()
    assert [backoff_s(work, n, lambda: 1.0) for n in (1, 2, 3, 7, 50)] == [30, 60, 120, 1800, 1800]
    assert backoff_s(work, 5, lambda: 0.0) == 1.0
    assert backoff_s(work, 3, lambda: 0.5) == 60


def test_breaker_lets_one_through_and_tries_more_rarely() -> None:
    """Three failures open it; a probe lets one object through; failing on, the interval doubles up to its bound."""
    breaker = Breaker(probe_s=60, longest_s=200)
    now = 0.0
    for _ in range(2):
        breaker.bad(now)
    assert not breaker.open
    intervals = []
    for _ in range(4):
        breaker.bad(now)
        assert breaker.probe_at is not None
        intervals.append(breaker.probe_at - now)
        now = breaker.probe_at
        breaker.probed(now, answered=True)
        assert not breaker.open
    assert intervals == [60, 120, 200, 200]
    breaker.bad(now)
    breaker.probed(now, answered=False)
    assert breaker.probe_at == now + 60
    breaker.good()
    assert (breaker.open, breaker.failures) == (False, 0)


@pytest.mark.parametrize(("fault", "longest_s"), [({"refuse": "transient"}, 60), ({"status": 0xA700}, 1800)])
def test_a_pacs_that_comes_back_is_not_kept_waiting(
    make_pacs: MakePacs, make_rig: MakeRig, fault: dict[str, Any], longest_s: float
) -> None:
    """After many tries an object still goes within a minute of the first good probe; one that was refused backs off."""
    pacs = make_pacs()
    pacs.faults.update(**fault)
    destination = dimse("pacs", pacs.port)
    rig = make_rig(destination, work=Work())
    case_id = rig.rendered([dataset()], ["pacs"])
    clock = {"now": datetime.now(UTC)}
    waits = []
    for _ in range(10):  # ten tries in ten hours, each by a worker whose breaker is closed
        rig.worker(destination, probe_s=60, now=lambda: clock["now"]).step()
        (row,) = rig.deliveries(case_id)
        assert row.next_at is not None
        waits.append((row.next_at - clock["now"]).total_seconds())
        clock["now"] += timedelta(hours=1)
        rig.ledger.promote_due(clock["now"])
    assert waits == [min(30 * 2.0**n, longest_s) for n in range(10)]


@pytest.mark.parametrize("said", [b"", b"\x02\x00\x00\x00\xff", b"\x02\x00\x00\x00\x00\xff\x00\x01"])
def test_a_peer_that_stops_in_the_middle_of_its_answer(make_rig: MakeRig, said: bytes) -> None:
    """A peer that accepts the connection and then says nothing, or half a PDU, costs its deadline and no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        destination = dimse("pacs", server.getsockname()[1], timeout_s=0.5)
        rig = make_rig(destination)
        case_id = rig.rendered([dataset()], ["pacs"])
        peers: list[socket.socket] = []

        def answer() -> None:
            peer, _ = server.accept()
            peers.append(peer)
            peer.recv(65536)
            peer.sendall(said)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        started = time.monotonic()
        rig.worker(destination).step()
        took = time.monotonic() - started
        thread.join(5)
        for peer in peers:
            peer.close()
    assert took < 20
    assert one(rig, case_id)[:2] == (D.RETRY_WAIT, "PEER_REJECTED")


def test_a_destination_without_a_host_is_unreachable(make_rig: MakeRig) -> None:
    """A name that does not resolve is tried again and never ends the worker."""
    destination = Destination("pacs", ae_title="PACS", host="no-such-host.invalid", timeout_s=1)
    rig = make_rig(destination)
    case_id = rig.rendered([dataset()], ["pacs"])
    rig.worker(destination).step()
    assert one(rig, case_id)[:2] == (D.RETRY_WAIT, "PEER_UNREACHABLE")
