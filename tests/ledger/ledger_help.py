"""Arrivals, cases in a wanted state, and raw access to the database, for the ledger's tests."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, create_engine, text

from casework.case import Arrival, Artefact, CaseState, DeliveryState, Header, Recorded, Verdict
from casework.ledger import ClaimedDelivery, ClaimedJob, Ledger

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
C, D = CaseState, DeliveryState


def at(seconds: float) -> datetime:
    """NOW plus seconds."""
    return NOW + timedelta(seconds=seconds)


def sha(text_: str) -> str:
    """A digest for made-up bytes."""
    return hashlib.sha256(text_.encode()).hexdigest()


@dataclass(frozen=True)
class Note:
    """A finding, as the flows hand it over."""

    code: str
    subject: str = ""
    detail: str = ""


def arrival(uid: str = "1.2.3.1.1", **changes: Any) -> Arrival:
    """An accepted MR image of patient P1; `changes` go to the header or the arrival, whichever has the field."""
    header = Header(
        sop_instance_uid=uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="MR",
        patient_id="P1",
        issuer_of_patient_id="",
        accession_number="A1",
        study_date="20260301",
        attributes={"Laterality": "L"},
    )
    of_header = {key: changes.pop(key) for key in list(changes) if key in Header.__slots__}
    base = Arrival(
        Verdict.ACCEPTED, "", replace(header, **of_header), sha(uid), 1000, "dimse", "MODALITY", "assoc-1", NOW
    )
    return replace(base, **changes)


def record(ledger: Ledger, *uids: str, now: datetime = NOW, **changes: Any) -> list[Recorded]:
    """Record accepted arrivals."""
    return ledger.record([arrival(uid, **changes) for uid in uids], now)


def new_case(ledger: Ledger, *uids: str, **changes: Any) -> str:
    """Record arrivals of one case and return its id."""
    case_id = record(ledger, *(uids or ("1.2.3.1.1",)), **changes)[0].case_id
    assert case_id
    return case_id


def stable(ledger: Ledger, *uids: str, **changes: Any) -> str:
    """A case in STABLE."""
    case_id = new_case(ledger, *uids, **changes)
    assert ledger.move_case(case_id, C.RECEIVING, C.STABLE, "", "assemble", NOW)
    return case_id


def queued(ledger: Ledger, *uids: str, priority: int = 0, **changes: Any) -> str:
    """A case in QUEUED."""
    case_id = stable(ledger, *uids, **changes)
    assert ledger.queue_case(case_id, priority, "assemble", NOW)
    return case_id


def claim(ledger: Ledger, now: datetime = NOW, lease_s: float = 60.0) -> ClaimedJob:
    """Claim the next job, which must be there."""
    claimed = ledger.claim_job("analyse", "worker", lease_s, now)
    assert claimed
    return claimed


def artefacts(case_id: str, count: int = 2) -> list[Artefact]:
    """`count` DICOM artefacts and one preview."""
    made = [
        Artefact("sr", "application/dicom", "1.2.3", "1.2.9", "1.2.840.10008.5.1.4.1.1.88.34", f"2.25.{n}{int(case_id, 16)}"[:60],
                 sha(f"{case_id}{n}"), 100, f"object {n}")
        for n in range(1, count + 1)
    ]  # fmt: skip
    return [*made, Artefact("preview", "image/png", "1.2.3", "", "", "", sha(case_id), 50, "R CC")]


def delivering(
    ledger: Ledger, *uids: str, destinations: tuple[str, ...] = ("pacs",), count: int = 1, **changes: Any
) -> str:
    """A case in DELIVERING (or DELIVERED without destinations)."""
    case_id = queued(ledger, *uids, **changes)
    job = claim(ledger)
    assert job.case_id == case_id
    assert ledger.finish_job(job.job_id, job.fence, '{"made":1}', artefacts(case_id, count), [], destinations, NOW)
    return case_id


def next_delivery(ledger: Ledger, destination: str = "pacs", now: datetime = NOW) -> ClaimedDelivery:
    """Claim the next delivery, which must be there."""
    claimed = ledger.claim_delivery(destination, "sender", 60.0, now)
    assert claimed
    return claimed


def end(
    ledger: Ledger, sent: ClaimedDelivery, state: DeliveryState = D.STORED, code: str = "", now: datetime = NOW
) -> bool:
    """End a delivery."""
    return ledger.finish_delivery(sent.delivery_id, sent.fence, state, "0x0000", code, at(30), now)


def delivered(ledger: Ledger, *uids: str, **changes: Any) -> str:
    """A case in DELIVERED."""
    case_id = delivering(ledger, *uids, **changes)
    assert end(ledger, next_delivery(ledger))
    return case_id


def state_of(ledger: Ledger, case_id: str) -> CaseState:
    """The case's state."""
    return ledger.read.case(case_id).state


@contextmanager
def raw(url: str) -> Iterator[Connection]:
    """The database without the ledger, as somebody with its password has it; rolled back at the end."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection, connection.begin() as transaction:
            yield connection
            transaction.rollback()
    finally:
        engine.dispose()


def change(url: str, statement: str, **values: Any) -> None:
    """Run one raw statement and commit it."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text(statement), values)
    finally:
        engine.dispose()
