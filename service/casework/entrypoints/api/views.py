"""Ledger rows to the contract's shapes, in one language. Does no I/O."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter

from casework.case import REJECTION, STAT_PRIORITY, shown, shown_words
from casework.entrypoints.api import schemas
from casework.entrypoints.api.problems import Language, words
from casework.ledger.types import (
    ArtefactRow,
    AssociationRow,
    CaseItem,
    CaseRow,
    CaseView,
    DeliveryRow,
    DoubtRow,
    Event,
    ExclusionRow,
    FindingRow,
    JobRow,
    ReceiptRow,
    StudyRow,
)
from casework.reasons import REASONS, Family
from casework.report import texts
from casework.report.describe import band, said_percent

DISCLAIMER: Mapping[Language, str] = {
    "en": "AI research output, unverified. Not for diagnosis.",
    "zh": "人工智能研究结果，未经核实，不得用于诊断。",
}
_SIDES = TypeAdapter(list[schemas.SideResult])


def reason(code: str, language: Language) -> schemas.Reason:
    """A coded reason in words; a code that this version doesn't know (a newer ledger) is shown as it is."""
    if code not in REASONS:
        return schemas.Reason(code=code, family=Family.NOTE, text=code, next="")
    text, next_ = words(code, language)
    return schemas.Reason(code=code, family=REASONS[code].family, text=text, next=next_)


def maybe_reason(code: str, language: Language) -> schemas.Reason | None:
    """A reason, or None for no code."""
    return reason(code, language) if code else None


def priority(value: int) -> schemas.Priority:
    """The ledger's number in words."""
    return schemas.Priority.STAT if value >= STAT_PRIORITY else schemas.Priority.ROUTINE


def shown_state(row: CaseRow, language: Language) -> schemas.ShownState:
    """What a person is told of the case's state."""
    text = shown_words(row.state, row.waiting_for, chinese=language == "zh")
    return schemas.ShownState(code=shown(row.state, row.waiting_for), text=text)


def _summary(
    row: CaseRow,
    language: Language,
    *,
    accessions: Iterable[str],
    studies: Iterable[str],
    modalities: Mapping[str, int],
    newest: bool,
) -> dict[str, Any]:
    return {
        "id": row.id,
        "revision": row.revision,
        "state": row.state,
        "shown": shown_state(row, language),
        "waiting_for": list(row.waiting_for),
        "waiting_since": row.waiting_since if row.waiting_for else None,
        "waiting_until": row.waiting_until,
        "reason": maybe_reason(row.reason, language),
        "detail": row.detail,
        "priority": priority(row.priority),
        "patient_id": row.patient_id,
        "issuer_of_patient_id": row.issuer_of_patient_id,
        "accession_numbers": list(accessions),
        "study_instance_uids": list(studies),
        "modalities": dict(modalities),
        "opened_at": row.opened_at,
        "last_image_at": row.last_at,
        "changed_at": row.changed_at,
        "newest": newest,
        "retraction": maybe_reason(row.retraction, language),
    }


def case_item(item: CaseItem, language: Language) -> schemas.CaseSummary:
    """One line of a list."""
    values = _summary(
        item.case,
        language,
        accessions=item.accession_numbers,
        studies=item.study_uids,
        modalities=item.modalities,
        newest=item.newest,
    )
    return schemas.CaseSummary(**values)


def case_summary(view: CaseView, language: Language) -> schemas.CaseSummary:
    """One line of a list, from the whole case."""
    return schemas.CaseSummary(**_summary_of(view, language))


def _summary_of(view: CaseView, language: Language) -> dict[str, Any]:
    return _summary(
        view.case,
        language,
        accessions=sorted({study.accession_number for study in view.studies} - {""}),
        studies=[study.study_uid for study in view.studies],
        modalities=view.modalities,
        newest=view.newest_id == view.case.id,
    )


def case(view: CaseView, language: Language) -> schemas.Case:
    """One case in full."""
    sides, model, report, seconds = _result(view.result_json, language)
    return schemas.Case(
        **_summary_of(view, language),
        newest_id=view.newest_id,
        studies=[study(row) for row in view.studies],
        sides=sides,
        model=model,
        report=report,
        stage_seconds=seconds,
        findings=[finding(row, language) for row in view.findings],
        doubts=[doubt(row, language) for row in view.doubts],
        exclusions=[exclusion(row, language) for row in view.exclusions],
        **_gate(view.result_json, language),
        jobs=[job(row, language) for row in view.jobs],
        disclaimer=DISCLAIMER[language],
    )


def _result(
    text: str, language: Language
) -> tuple[list[schemas.SideResult], schemas.Model | None, str, dict[str, float]]:
    """Sides, model, words and times of a stored result; nothing before there is one, or from a form that is not known."""
    if not text:
        return [], None, "", {}
    try:
        document = json.loads(text)
        sides, model = _SIDES.validate_python(document["sides"]), schemas.Model(**document["model"])
        for side in sides:
            if side.probability is not None:
                side.shown = said_percent(side.probability, language)
                side.band = texts.say(f"band.{band(side.probability)}", language)
        seconds = {str(stage): float(value) for stage, value in document.get("seconds", {}).items()}
        return sides, model, str(document["words"][language]), seconds
    except (ValueError, KeyError, TypeError):
        return [], None, "", {}


def _gate(text: str, language: Language) -> dict[str, Any]:
    """The gate's checks and the choice of images of a stored document; empty where it has none."""
    try:
        document = json.loads(text) if text else {}
        checks = [
            schemas.GateCheck(
                reason=reason(c["code"], language),
                severity=c["severity"],
                value=c["value"],
                subjects=[f["subject"] for f in c["findings"] if f["subject"]],
            )
            for c in document.get("gate", ())
        ]
        choices = [
            schemas.Choice(
                modality=c["modality"],
                series_instance_uid=c["series_instance_uid"],
                used=not c["code"],
                reason=maybe_reason(c["code"], language),
                detail=c["detail"],
                sop_instance_uids=c["instances"],
            )
            for c in document.get("choices", ())
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"gate": [], "choices": []}
    return {"gate": checks, "choices": choices}


def study(row: StudyRow) -> schemas.Study:
    """One study of a case."""
    return schemas.Study(
        study_instance_uid=row.study_uid,
        accession_number=row.accession_number,
        study_date=row.study_date,
        modalities=dict(row.modalities),
        received=row.received,
        expected=row.expected,
        expected_source=row.expected_source,
        first_image_at=row.first_at,
        last_image_at=row.last_at,
    )


def finding(row: FindingRow, language: Language) -> schemas.Finding:
    """One coded remark."""
    return schemas.Finding(
        reason=reason(row.code, language), subject=row.subject, detail=row.detail, source=row.source, at=row.at
    )


def doubt(row: DoubtRow, language: Language) -> schemas.Doubt:
    """One doubt."""
    return schemas.Doubt(
        id=row.id,
        reason=reason(row.code, language),
        subject=row.subject,
        sha256=row.sha256,
        stops=row.stops,
        at=row.at,
        decision=row.decision,  # type: ignore[arg-type]  # the ledger writes no other words
        decided_by=row.decided_by,
        decided_at=row.decided_at,
    )


def exclusion(row: ExclusionRow, language: Language) -> schemas.Exclusion:
    """One image that was taken out."""
    return schemas.Exclusion(
        sop_instance_uid=row.sop_instance_uid,
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
        modality=row.modality,
        sha256=row.sha256,
        reason=reason(row.code, language),
        detail=row.detail,
        actor=row.actor,
        at=row.at,
        replaced_by=row.replaced_by,
    )


def job(row: JobRow, language: Language) -> schemas.Job:
    """One unit of work."""
    return schemas.Job(
        id=row.id,
        kind=row.kind,
        state=row.state,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        reason=maybe_reason(row.code, language),
        next_at=row.next_at,
        changed_at=row.changed_at,
    )


def delivery(row: DeliveryRow, language: Language) -> schemas.Delivery:
    """One object on its way."""
    return schemas.Delivery(
        id=row.id,
        case_id=row.case_id,
        artefact_id=row.artefact_id,
        kind=row.kind,
        label=row.label,
        sop_instance_uid=row.sop_instance_uid,
        destination=row.destination,
        state=row.state,
        attempt=row.attempt,
        status=row.status,
        reason=maybe_reason(row.code, language),
        first_at=row.first_at,
        next_at=row.next_at,
        changed_at=row.changed_at,
        proof=row.proof,
        stored_at=row.stored_at,
    )


def artefact(row: ArtefactRow, retraction: str) -> schemas.Artefact:
    """One rendered object, of a case that was retracted with this code."""
    made = row.artefact
    return schemas.Artefact(
        id=row.id,
        kind=made.kind,
        media_type=made.media_type,
        label=made.label,
        study_instance_uid=made.study_instance_uid,
        series_instance_uid=made.series_instance_uid,
        sop_class_uid=made.sop_class_uid,
        sop_instance_uid=made.sop_instance_uid,
        sha256=made.sha256,
        size=made.size,
        created_at=row.created_at,
        url=f"/v1/results/{row.id}",
        retracted=bool(row.withdrawn or retraction) and made.kind != REJECTION,
    )


def event(row: Event, language: Language) -> schemas.Event:
    """One step of a timeline. A code inside the detail is put into words."""
    code = row.detail.get("code")
    return schemas.Event(
        sequence=row.seq,
        at=row.at,
        actor=row.actor,
        event=row.event,
        subject=row.subject,
        reason=maybe_reason(code if isinstance(code, str) else "", language),
        detail=dict(row.detail),
    )


def receipt(row: ReceiptRow, language: Language) -> schemas.Receipt:
    """One arrival."""
    return schemas.Receipt(
        id=row.id,
        received_at=row.received_at,
        door=row.door,
        peer=row.peer,
        verdict=row.verdict,
        reason=maybe_reason(row.code, language),
        sop_instance_uid=row.sop_instance_uid,
        study_instance_uid=row.study_instance_uid,
        modality=row.modality,
        accession_number=row.accession_number,
        size=row.size,
        association_id=row.association_id,
    )


def association(row: AssociationRow, language: Language) -> schemas.Association:
    """One association."""
    return schemas.Association(
        id=row.id,
        calling=row.calling,
        called=row.called,
        address=row.address,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        end=row.end,
        reason=maybe_reason(row.code, language),
        counts=dict(row.counts),
    )
