"""Ledger rows about fetching and "why" as the contract shows them. Does no I/O."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from casework.config import Settings
from casework.entrypoints.api import schemas_why as schemas
from casework.entrypoints.api.problems import Language
from casework.entrypoints.api.views import (
    association,
    delivery,
    finding,
    job,
    maybe_reason,
    reason,
    receipt,
    shown_state,
    study,
)
from casework.entrypoints.ask import PacsAnswer
from casework.entrypoints.explain import next_code
from casework.entrypoints.moments import STAGES, describe
from casework.ledger import CandidateRow, Moment, OrderRow, ProcessRow, Queue, Stage, Why, WhyCase


def fetch_list(orders: list[OrderRow], words: Language) -> schemas.FetchList:
    """Rows as the contract shows them."""
    return schemas.FetchList(items=[_order(row, words) for row in orders])


def _order(row: OrderRow, words: Language) -> schemas.FetchOrder:
    return schemas.FetchOrder(
        id=row.id,
        destination=row.destination,
        actor=row.actor,
        state=row.state,
        reason=maybe_reason(row.code, words),
        attempt=row.attempt,
        next_at=row.next_at,
        asked_at=row.asked_at,
        changed_at=row.changed_at,
        candidates=[_candidate(found, words) for found in row.candidates],
    )


def _candidate(row: CandidateRow, words: Language) -> schemas.Candidate:
    return schemas.Candidate(
        id=row.id,
        study_instance_uid=row.study_uid,
        accession_number=row.accession_number,
        study_date=row.study_date,
        modalities=dict(row.modalities),
        role=row.role,
        state=row.state,
        reason=reason(row.code, words),
        detail=row.detail,
        attempt=row.attempt,
        counts=dict(row.counts),
        next_at=row.next_at,
        started_at=row.started_at,
        changed_at=row.changed_at,
    )


def why(
    answer: Why,
    language: Language,
    settings: Settings,
    told: Sequence[PacsAnswer],
    *,
    associations: bool,
    now: datetime,
) -> schemas.Why:
    """Everything known of a search term; what tells who connects only for those who may read the association log."""
    seen = [m for m in answer.timeline if associations or m.stage is not Stage.ASSOCIATION]
    return schemas.Why(
        query=answer.query,
        matched_by=answer.matched_by,
        next=reason(next_code(answer, told), language),
        cases=[_why_case(item, language) for item in answer.cases],
        receipt_counts=dict(answer.receipt_counts),
        receipts=[receipt(row, language) for row in answer.receipts],
        associations=[association(row, language) for row in answer.associations] if associations else [],
        stage=answer.stage,
        stage_text=STAGES[answer.stage][language == "zh"],
        timeline=[_moment(row, language) for row in seen],
        fetches=[_order(row, language) for row in answer.orders],
        processes=[_process(row, language, now) for row in answer.processes],
        turned_away=[association(row, language) for row in answer.turned_away] if associations else [],
        turned_away_counts=dict(Counter(row.code or row.end for row in answer.turned_away)),
        listener=schemas.Listener(ae_title=settings.dicom.ae_title, host=settings.dicom.host, port=settings.dicom.port),
        pacs=[_pacs(row, language) for row in told],
    )


def _moment(row: Moment, language: Language) -> schemas.Moment:
    return schemas.Moment(
        at=row.at,
        until=row.until,
        stage=row.stage,
        stage_text=STAGES[row.stage][language == "zh"],
        event=row.event,
        text=describe(row, language),
        reason=maybe_reason(row.code, language),
        actor=row.actor,
        case_id=row.case_id,
        subject=row.subject,
        detail=dict(row.detail),
        count=row.count,
    )


def _process(row: ProcessRow, language: Language, now: datetime) -> schemas.Process:
    return schemas.Process(
        door=row.door,
        alive=row.alive(now),
        state=row.state,
        reason=maybe_reason(row.code, language),
        started_at=row.started_at,
        beat_at=row.beat_at,
        last_error=maybe_reason(row.error_code, language),
        last_error_at=row.error_at,
    )


def _queue(row: Queue) -> schemas.QueueAhead:
    low, high = row.estimate_s or (None, None)
    return schemas.QueueAhead(
        ahead=row.ahead,
        running=row.running,
        workers=row.workers,
        runs=row.runs,
        usual_s=row.usual_s,
        slow_s=row.slow_s,
        from_s=low,
        to_s=high,
    )


def _pacs(row: PacsAnswer, language: Language) -> schemas.PacsHolding:
    return schemas.PacsHolding(
        destination=row.destination,
        reason=reason(row.code, language),
        studies=[
            schemas.HeldStudy(
                study_instance_uid=held.study_uid,
                accession_number=held.accession_number,
                study_date=held.study_date,
                modalities=held.modalities,
            )
            for held in row.studies
        ],
    )


def _why_case(item: WhyCase, language: Language) -> schemas.WhyCase:
    return schemas.WhyCase(
        id=item.case.id,
        revision=item.case.revision,
        state=item.case.state,
        shown=shown_state(item.case, language),
        reason=reason(item.code, language),
        waiting_for=list(item.case.waiting_for),
        waiting_since=item.case.waiting_since if item.case.waiting_for else None,
        waiting_until=item.waiting_until,
        changed_at=item.case.changed_at,
        studies=[study(row) for row in item.studies],
        findings=[finding(row, language) for row in item.findings],
        jobs=[job(row, language) for row in item.jobs],
        deliveries=[delivery(row, language) for row in item.deliveries],
        stage=item.stage,
        blocked=maybe_reason(item.blocked, language),
        queue=_queue(item.queue) if item.queue else None,
    )
