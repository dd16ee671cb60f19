"""Proof of landing against real peers over sockets: a result is delivered only once its destination holds it."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from casework.case import CaseState, DeliveryState
from casework.config import Destination
from casework.dicom import commitment
from casework.entrypoints.doctor import _peers
from casework.entrypoints.listener import Listener
from casework.errors import Refused
from casework.flows.deliver import DestinationWorker
from casework.flows.prove import Prover
from tests.deliver.objects import body, dataset
from tests.deliver.rig import FAST, Rig, dimse
from tests.simulators import orthanc
from tests.simulators.orthanc import free_port
from tests.simulators.pacs import SimulatedPacs

MakePacs = Callable[..., SimulatedPacs]
MakeRig = Callable[..., Rig]
QUICK = replace(FAST, proof_again_s=0.4, proof_wait_s=3.0, proof_alarm_s=0.2, proof_resends=2)
D = DeliveryState


class Site:
    """A rig with its own listener, one destination, its sender and its prover."""

    def __init__(self, rig: Rig, destination: Destination, port: int) -> None:
        self.rig, self.destination = rig, destination
        settings = replace(rig.settings, dicom=replace(rig.settings.dicom, port=port))
        self.listener = Listener(settings)
        self.listener.start()
        self.worker: DestinationWorker = rig.worker(destination)
        self.prover = Prover(rig.ledger, destination, rig.settings)

    def close(self) -> None:
        """Stop the listener."""
        self.listener.stop(2)

    def until(self, done: Callable[[], bool], within_s: float = 20.0) -> None:
        """Send, prove and sweep until `done`."""
        deadline = time.monotonic() + within_s
        while not done():
            assert time.monotonic() < deadline, "not in time"
            self.rig.turn(self.worker)
            self.prover.step()
            time.sleep(0.02)

    def state(self, case_id: str) -> CaseState:
        """The case's state."""
        return self.rig.state(case_id)

    def one(self, case_id: str) -> tuple[DeliveryState, str, str]:
        """State, code and status of the only delivery."""
        (row,) = self.rig.deliveries(case_id)
        return row.state, row.code, row.status


@pytest.fixture
def make_site(make_pacs: MakePacs, make_rig: MakeRig) -> Iterator[Callable[..., tuple[Site, SimulatedPacs]]]:
    """A site and its simulated PACS, which know each other."""
    with ExitStack() as stack:

        def make(proof: str = "commitment", *, web: bool = False, **faults: Any) -> tuple[Site, SimulatedPacs]:
            port = free_port()
            pacs = make_pacs(peers=(f"CMAN@127.0.0.1:{port}",), **({"http_port": 0} if web else {}))
            pacs.faults.update(**faults)
            place = replace(dimse("pacs", pacs.port, timeout_s=3.0), proof=proof)
            if web:
                place = Destination("pacs", kind="stow", url=pacs.url, timeout_s=3.0, proof=proof)
            site = Site(make_rig(place, work=QUICK), place, port)
            stack.callback(site.close)
            return site, pacs

        yield make


MakeSite = Callable[..., tuple[Site, SimulatedPacs]]


@pytest.mark.parametrize("how", ["new", "same"])
def test_committed_on_either_association(make_site: MakeSite, how: str) -> None:
    """The report comes on a new association to our listener or on the one that asked: committed, then delivered."""
    site, pacs = make_site(commit=how)
    case_id = site.rig.rendered([dataset("SR"), dataset()], ["pacs"])
    for _ in range(2):
        site.worker.step()
    assert site.state(case_id) is CaseState.DELIVERING  # stored is not delivered
    assert site.rig.ledger.read.case(case_id).reason == "PROOF_PENDING"
    site.until(lambda: site.state(case_id) is CaseState.DELIVERED)
    assert {(row.state, row.proof) for row in site.rig.deliveries(case_id)} == {(D.COMMITTED, "commitment")}
    assert pacs.commitment.answers == [0x0000]
    assert len(pacs.commitment.asked) == 1  # one question for the whole case


@pytest.mark.parametrize("how", ["new", "same"])
def test_another_peer_commits(make_pacs: MakePacs, make_rig: MakeRig, how: str) -> None:
    """Results go to one AE; storage commitment is asked of another one, at its own port, and only its word counts."""
    port = free_port()
    gate = make_pacs("gate", peers=(f"CMAN@127.0.0.1:{port}",))
    gate.faults.update(commit="refuse")
    vault = make_pacs("vault", aet="VAULT", peers=(f"CMAN@127.0.0.1:{port}",))
    vault.faults.update(commit=how)
    vault.holds = gate.holds  # two doors of one archive
    place = replace(dimse("pacs", gate.port, timeout_s=3.0), proof="commitment")
    place = replace(place, commitment_ae_title="VAULT", commitment_port=vault.port)
    # Long waits: no query may prove anything in time.
    rig = make_rig(place, work=replace(QUICK, proof_again_s=60, proof_wait_s=60))
    site = Site(rig, place, port)
    try:
        assert [check.mark for check in _peers(rig.settings)] == ["ok"], "the doctor asks the vault too"
        case_id = rig.rendered([dataset("SR"), dataset()], ["pacs"])
        site.until(lambda: site.state(case_id) is CaseState.DELIVERED)
        assert {row.proof for row in rig.deliveries(case_id)} == {"commitment"}
        assert (len(vault.commitment.asked), gate.commitment.asked) == (1, [])
        assert vault.commitment.answers == [0x0000]
    finally:
        site.close()


@pytest.mark.parametrize("web", [False, True], ids=["C-FIND", "QIDO"])
def test_a_query_proves_too(make_site: MakeSite, *, web: bool) -> None:
    """Without storage commitment the destination's own index, asked per instance, is the proof."""
    site, pacs = make_site("query", web=web)
    case_id = site.rig.rendered([dataset("SR"), dataset()], ["pacs"])
    site.until(lambda: site.state(case_id) is CaseState.DELIVERED)
    assert {(row.state, row.proof, row.code) for row in site.rig.deliveries(case_id)} == {
        (D.COMMITTED, "query", "COMMITTED")
    }
    assert pacs.commitment.asked == []


@pytest.mark.parametrize("proof", ["commitment", "query"])
def test_a_lost_object_is_sent_again_as_the_same_bytes(make_site: MakeSite, proof: str) -> None:
    """A PACS that acknowledges and loses the object gets the same bytes again, and only then it is delivered."""
    site, pacs = make_site(proof, lose_after_ack=True, times=1)
    result = dataset("SR")
    case_id = site.rig.rendered([result], ["pacs"])
    site.until(lambda: site.state(case_id) is CaseState.DELIVERED)
    assert pacs.seen["stores"] == 2
    held = pacs.holds(str(result.SOPInstanceUID))
    assert held is not None
    assert body(held.path) == body(site.rig.folder / "made" / f"{result.SOPInstanceUID}.dcm")


def test_resending_is_bounded_and_then_a_person_has_to_look(make_site: MakeSite) -> None:
    """A PACS that loses the object every time gets it three times; then the case needs attention with the reason."""
    site, pacs = make_site(lose_after_ack=True)
    case_id = site.rig.rendered([dataset("SR")], ["pacs"])
    site.until(lambda: site.state(case_id) is CaseState.NEEDS_ATTENTION)
    assert pacs.seen["stores"] == 1 + QUICK.proof_resends
    assert site.one(case_id) == (D.COMMIT_FAILED, "RESULT_NOT_HELD", "0x0112")
    assert site.rig.ledger.read.case(case_id).reason == "RESULT_NOT_HELD"
    pacs.faults.update(lose_after_ack=False)
    site.rig.ledger.retry_case(case_id, "test", site.prover._now())
    site.until(lambda: site.state(case_id) is CaseState.DELIVERED)


@pytest.mark.parametrize("reason", [0x0119, 0x0122])
def test_what_the_same_bytes_cannot_help_is_not_repeated(make_site: MakeSite, reason: int) -> None:
    """A refusal of the SOP class is final at once: the object is not sent again."""
    site, pacs = make_site(commit_reason=reason)
    case_id = site.rig.rendered([dataset("SR")], ["pacs"])
    site.until(lambda: site.state(case_id) is CaseState.NEEDS_ATTENTION)
    assert (pacs.seen["stores"], site.one(case_id)[1]) == (1, "COMMITMENT_REFUSED")


@pytest.mark.parametrize("how", ["silent", "refuse"])
def test_without_an_answer_the_index_is_asked(make_site: MakeSite, how: str) -> None:
    """A PACS that never reports, or refuses the question, is asked by query: delivered, with that said."""
    site, _ = make_site(commit=how)
    case_id = site.rig.rendered([dataset("SR")], ["pacs"])
    site.until(lambda: site.state(case_id) is CaseState.DELIVERED)
    assert {row.proof for row in site.rig.deliveries(case_id)} == {"query"}


def test_silence_in_every_way_ends_with_a_person(make_site: MakeSite) -> None:
    """No report and no query: asked again, sent again, and at last PROOF_MISSING; the age alarm was raised before."""
    site, pacs = make_site(commit="silent", find_status=0xA900)
    case_id = site.rig.rendered([dataset("SR")], ["pacs"])
    site.worker.step()
    time.sleep(QUICK.proof_alarm_s + 0.1)
    before = site.prover._now()
    assert site.rig.ledger.note_late_proofs(before, before) == 1
    assert site.rig.ledger.read.case(case_id).reason == "PROOF_LATE"
    assert site.rig.ledger.read.metrics().unproved["pacs"][0] == 1
    site.until(lambda: site.state(case_id) is CaseState.NEEDS_ATTENTION)
    assert site.one(case_id)[1] == "PROOF_MISSING"
    assert len(pacs.commitment.asked) > 3
    assert site.rig.ledger.read.metrics().unproved == {}


def report_of(uid: str, *sops: str, reason: int = 0) -> Dataset:
    """A report about these objects."""
    ds = commitment.request(uid, [("1.2.840.10008.5.1.4.1.1.7", sop) for sop in sops])
    if reason:
        for item in ds.ReferencedSOPSequence:
            item.FailureReason = reason
        ds.FailedSOPSequence = ds.ReferencedSOPSequence
        del ds.ReferencedSOPSequence
    return ds


def test_a_foreign_transaction_changes_nothing(make_site: MakeSite) -> None:
    """A report about a transaction that we never asked for is refused, even when it names our objects."""
    site, pacs = make_site(commit="silent", find_status=0xA900)
    case_id = site.rig.rendered([result := dataset()], ["pacs"])
    site.worker.step()
    site.prover.step()
    assert pacs.commitment.send("CMAN", report_of("1.2.3.4", str(result.SOPInstanceUID))) == 0x0115
    assert site.one(case_id)[0] is D.STORED


def test_a_peer_that_is_not_asked_may_not_report(make_site: MakeSite) -> None:
    """For an AE that is not asked for commitment the service does not exist: its context is not accepted."""
    site, pacs = make_site(commit="silent", find_status=0xA900)
    case_id = site.rig.rendered([result := dataset()], ["pacs"])
    site.worker.step()
    site.prover.step()
    pacs.aet = "STRANGER"
    assert pacs.commitment.send("CMAN", report_of(pacs.commitment.asked[0], str(result.SOPInstanceUID))) == -1
    assert site.one(case_id)[0] is D.STORED


def test_a_report_may_come_twice_late_and_after_a_restart(make_site: MakeSite) -> None:
    """A success counts however late and often it comes, also after a restart; an old question's failure does not."""
    site, pacs = make_site(commit="silent", find_status=0xA900)
    case_id = site.rig.rendered([result := dataset()], ["pacs"])
    site.worker.step()
    site.prover.step()
    site.until(lambda: len(pacs.commitment.asked) == 2)
    old, uid = pacs.commitment.asked[0], str(result.SOPInstanceUID)
    port = site.listener.port
    site.close()
    settings = replace(site.rig.settings, dicom=replace(site.rig.settings.dicom, port=port))
    site.listener = Listener(settings)
    site.listener.start()
    assert pacs.commitment.send("CMAN", report_of(old, uid, reason=0x0112)) == 0x0000
    assert site.one(case_id)[0] is D.STORED
    assert [pacs.commitment.send("CMAN", report_of(old, uid)) for _ in range(2)] == [0, 0]
    assert site.one(case_id)[0] is D.COMMITTED
    assert site.state(case_id) is CaseState.DELIVERED


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom says where the bytes end
@pytest.mark.parametrize("junk", [b"", b"\x08\x00\x95\x11UI\xff\xff", b"\xff" * 300])
def test_a_damaged_report_is_refused(junk: bytes) -> None:
    """Bytes that are no report are refused with a code, never an unknown error."""
    for implicit in (True, False):
        with pytest.raises(Refused):
            commitment.decode_report(junk, implicit_vr=implicit)


def test_the_doctor_sees_whether_commitment_is_offered(make_site: MakeSite) -> None:
    """A destination that should commit and does not offer the service is a warning before the first result."""
    site, pacs = make_site()
    settings = replace(site.rig.settings, destination=(site.destination,))
    assert [check.mark for check in _peers(settings)] == ["ok"]
    pacs.faults.update(reject_classes=[commitment.PUSH_MODEL])
    assert [check.mark for check in _peers(settings)] == ["ok", "warn"]


def test_proof_that_is_no_longer_wanted_is_waived(make_site: MakeSite) -> None:
    """When the configuration stops asking for proof, what was only stored counts as delivered, and the audit says so."""
    site, _ = make_site(commit="silent", find_status=0xA900)
    case_id = site.rig.rendered([dataset()], ["pacs"])
    site.worker.step()
    Prover(site.rig.ledger, replace(site.destination, proof="none"), site.rig.settings).step()
    assert site.state(case_id) is CaseState.DELIVERED
    assert site.one(case_id)[0] is D.STORED
    assert any(e.event == "delivery.proof_waived" for e in site.rig.ledger.read.timeline(case_id))


def test_orthanc_commits(make_rig: MakeRig, tmp_path: Path) -> None:
    """The real Orthanc reports on an association of its own; one that lost an object says 0x0112, and gets it again."""
    port = free_port()
    with orthanc.running(tmp_path / "orthanc", route=False, cman_port=port) as real:
        place = replace(dimse("o", real.port, aet="ORTHANC", timeout_s=5), proof="commitment")
        # Long waits: only Orthanc's own reports can prove anything in time.
        rig = make_rig(place, work=replace(QUICK, proof_again_s=60, proof_wait_s=60))
        site = Site(rig, place, port)
        try:
            first = rig.rendered([dataset("SR"), dataset()], ["o"])
            site.until(lambda: site.state(first) is CaseState.DELIVERED)
            assert {row.proof for row in rig.deliveries(first)} == {"commitment"}
            lost = dataset()
            second = rig.rendered([lost], ["o"])
            site.worker.step()
            real.delete(str(lost.SOPInstanceUID))
            site.until(lambda: site.state(second) is CaseState.DELIVERED)
            moves = [e.detail.get("to") for e in rig.ledger.read.timeline(second) if e.event == "delivery.moved"]
            assert moves == ["sending", "stored", "commit_failed", "pending", "sending", "stored", "committed"]
            assert real.file(str(lost.SOPInstanceUID)) is not None
        finally:
            site.close()


def test_orthanc_that_restarts_loses_its_report_and_is_asked_by_query(make_rig: MakeRig, tmp_path: Path) -> None:
    """Orthanc forgets its reports when it restarts: after the wait its index proves the results."""
    port = free_port()
    with orthanc.running(tmp_path / "orthanc", route=False, cman_port=port) as real:
        place = replace(dimse("o", real.port, aet="ORTHANC", timeout_s=5), proof="commitment")
        rig = make_rig(place, work=replace(QUICK, proof_again_s=3.0, proof_wait_s=60))
        case_id = rig.rendered([dataset("SR")], ["o"])  # no listener: the report can't arrive
        worker, prover = rig.worker(place), Prover(rig.ledger, place, rig.settings)
        worker.step()
        prover.step()
        assert rig.ledger.unproved("o", prover._now()) == []  # asked, and waiting
        real.stop()
        real.start()
        rig.turn_until(worker, lambda: prover.step() > 0 and rig.state(case_id) is CaseState.DELIVERED)
        assert {row.proof for row in rig.deliveries(case_id)} == {"query"}
