"""What a case, job, delivery and arrival ARE; the transition tables as data; derived ids. Does no I/O.

The tables below are the only place that says which moves exist. The ledger turns them into database triggers, and a
test proves them total (every state listed, every target known, final states have no way out but an operator's).
"""

import hashlib
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

# --- states -------------------------------------------------------------------------------------------------


class CaseState(StrEnum):
    """Where one revision of a case stands."""

    RECEIVING = "receiving"
    STABLE = "stable"
    QUEUED = "queued"
    RUNNING = "running"
    RENDERED = "rendered"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    REJECTED = "rejected"
    NEEDS_ATTENTION = "needs_attention"
    SUPERSEDED = "superseded"
    CLOSED = "closed"
    RETRACTED = "retracted"


class JobState(StrEnum):
    """Where one unit of work stands."""

    READY = "ready"
    LEASED = "leased"
    SUCCEEDED = "succeeded"
    RETRY_WAIT = "retry_wait"
    DEAD = "dead"
    CANCELLED = "cancelled"


class DeliveryState(StrEnum):
    """Where one object on its way to one destination stands."""

    PENDING = "pending"
    SENDING = "sending"
    UNKNOWN = "unknown"
    STORED = "stored"
    STORED_WITH_WARNING = "stored_with_warning"
    RETRY_WAIT = "retry_wait"
    DEAD = "dead"
    COMMITTED = "committed"
    COMMIT_FAILED = "commit_failed"
    CANCELLED = "cancelled"


class OrderState(StrEnum):
    """Where one question to one PACS for a patient's other studies stands."""

    DUE = "due"
    ASKING = "asking"
    LISTED = "listed"
    FAILED = "failed"


class CandidateState(StrEnum):
    """Where one study that a PACS named stands."""

    SEEN = "seen"
    REJECTED = "rejected"
    CHOSEN = "chosen"
    FETCHING = "fetching"
    FETCHED = "fetched"
    FAILED = "failed"


class NoticeState(StrEnum):
    """Where one event on its way to one webhook stands."""

    PENDING = "pending"  # due now, or when it is to be tried again
    SENT = "sent"
    DEAD = "dead"


_C, _J, _D = CaseState, JobState, DeliveryState
_O, _F = OrderState, CandidateState

ANALYSE, TELL, WITHDRAW = "analyse", "tell", "withdraw"
"""Kinds of jobs: the first moves its case, the second says in the studies how it ended, the third takes back what was said."""
PROBE_ISSUER = "CASEWORK-PROBE"  # Issuer of Patient ID of studies that `casework probe` sends; their results go nowhere
STAT_PRIORITY = 100  # a case of this priority or more waits for no modality

CASE_MOVES: Mapping[CaseState, frozenset[CaseState]] = {
    _C.RECEIVING: frozenset({_C.STABLE, _C.REJECTED, _C.NEEDS_ATTENTION, _C.CLOSED}),
    # An image that comes before the work has begun re-opens the case instead of making a second revision.
    _C.STABLE: frozenset({_C.QUEUED, _C.RECEIVING, _C.REJECTED, _C.NEEDS_ATTENTION, _C.CLOSED}),
    _C.QUEUED: frozenset({_C.RUNNING, _C.RECEIVING, _C.REJECTED, _C.NEEDS_ATTENTION, _C.CLOSED}),
    # A worker that loses its lease hands the case back to the queue.
    _C.RUNNING: frozenset({_C.RENDERED, _C.QUEUED, _C.REJECTED, _C.NEEDS_ATTENTION}),
    # SUPERSEDED before it was sent: a newer revision was faster, or an image that it used has been taken out since.
    _C.RENDERED: frozenset({_C.DELIVERING, _C.DELIVERED, _C.NEEDS_ATTENTION, _C.SUPERSEDED}),
    _C.DELIVERING: frozenset({_C.DELIVERED, _C.NEEDS_ATTENTION, _C.SUPERSEDED, _C.RETRACTED}),
    _C.DELIVERED: frozenset({_C.SUPERSEDED, _C.NEEDS_ATTENTION, _C.RETRACTED}),
    # NEEDS_ATTENTION: a destination refused the document that says that nothing was analysed.
    _C.REJECTED: frozenset({_C.SUPERSEDED, _C.QUEUED, _C.CLOSED, _C.NEEDS_ATTENTION}),
    # DELIVERING: an operator resends results that are already rendered; from CLOSED too.
    _C.NEEDS_ATTENTION: frozenset({_C.QUEUED, _C.DELIVERING, _C.CLOSED, _C.SUPERSEDED, _C.RETRACTED}),
    _C.SUPERSEDED: frozenset({_C.RETRACTED}),
    _C.CLOSED: frozenset({_C.QUEUED, _C.DELIVERING, _C.SUPERSEDED, _C.RETRACTED}),
    # A destination refused the rejection note; its results stay retracted (CaseRow.retraction).
    _C.RETRACTED: frozenset({_C.NEEDS_ATTENTION}),
}

JOB_MOVES: Mapping[JobState, frozenset[JobState]] = {
    _J.READY: frozenset({_J.LEASED, _J.CANCELLED}),
    _J.LEASED: frozenset({_J.SUCCEEDED, _J.RETRY_WAIT, _J.DEAD, _J.READY}),
    _J.RETRY_WAIT: frozenset({_J.READY, _J.CANCELLED}),
    _J.SUCCEEDED: frozenset(),
    _J.DEAD: frozenset({_J.READY}),  # by an operator only
    _J.CANCELLED: frozenset(),
}

DELIVERY_MOVES: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    _D.PENDING: frozenset({_D.SENDING, _D.CANCELLED}),
    _D.SENDING: frozenset({_D.STORED, _D.STORED_WITH_WARNING, _D.RETRY_WAIT, _D.DEAD, _D.UNKNOWN}),
    _D.UNKNOWN: frozenset({_D.PENDING, _D.CANCELLED}),
    _D.RETRY_WAIT: frozenset({_D.PENDING, _D.DEAD, _D.CANCELLED}),
    _D.STORED: frozenset({_D.COMMITTED, _D.COMMIT_FAILED}),
    _D.STORED_WITH_WARNING: frozenset({_D.COMMITTED, _D.COMMIT_FAILED}),
    _D.COMMIT_FAILED: frozenset({_D.PENDING, _D.CANCELLED}),
    _D.COMMITTED: frozenset({_D.COMMIT_FAILED}),  # by an operator only, who knows that the destination lost it since
    _D.DEAD: frozenset({_D.PENDING, _D.CANCELLED}),  # PENDING by an operator only
    _D.CANCELLED: frozenset({_D.PENDING}),  # by an operator only, who takes a closed case up again
}

ORDER_MOVES: Mapping[OrderState, frozenset[OrderState]] = {
    _O.DUE: frozenset({_O.ASKING}),
    _O.ASKING: frozenset({_O.LISTED, _O.DUE, _O.FAILED}),
    _O.LISTED: frozenset({_O.DUE}),  # asked again while the case still waits
    _O.FAILED: frozenset({_O.DUE}),
}

CANDIDATE_MOVES: Mapping[CandidateState, frozenset[CandidateState]] = {
    _F.SEEN: frozenset({_F.CHOSEN, _F.REJECTED}),
    _F.CHOSEN: frozenset({_F.FETCHING, _F.REJECTED}),
    _F.FETCHING: frozenset({_F.FETCHED, _F.CHOSEN, _F.FAILED}),
    # When a PACS is asked again, its answer or a person may want a study after all, or once more.
    _F.REJECTED: frozenset({_F.CHOSEN}),
    _F.FETCHED: frozenset({_F.CHOSEN}),
    _F.FAILED: frozenset({_F.CHOSEN}),
}

NOTICE_MOVES: Mapping[NoticeState, frozenset[NoticeState]] = {
    NoticeState.PENDING: frozenset({NoticeState.SENT, NoticeState.DEAD}),
    NoticeState.SENT: frozenset(),
    NoticeState.DEAD: frozenset({NoticeState.PENDING}),  # by an operator only
}

# --- states that people see -----------------------------------------------------------------------------------


class Shown(StrEnum):
    """What a page, a list or a message says of a case. `shown` is the one way from the states above to these."""

    RECEIVING = "receiving"
    WAITING = "waiting"  # for a modality, since, until: CaseRow.waiting_*
    READY = "ready"
    QUEUED = "queued"
    RUNNING = "running"
    REPORTED = "reported"
    DELIVERED = "delivered"
    NOT_PERFORMED = "not_performed"
    NEEDS_ATTENTION = "needs_attention"
    SUPERSEDED = "superseded"
    CLOSED = "closed"
    RETRACTED = "retracted"


SHOWN: Mapping[CaseState, Shown] = {
    _C.RECEIVING: Shown.RECEIVING,
    _C.STABLE: Shown.READY,
    _C.QUEUED: Shown.QUEUED,
    _C.RUNNING: Shown.RUNNING,
    _C.RENDERED: Shown.REPORTED,
    _C.DELIVERING: Shown.REPORTED,
    _C.DELIVERED: Shown.DELIVERED,
    _C.REJECTED: Shown.NOT_PERFORMED,
    _C.NEEDS_ATTENTION: Shown.NEEDS_ATTENTION,
    _C.SUPERSEDED: Shown.SUPERSEDED,
    _C.CLOSED: Shown.CLOSED,
    _C.RETRACTED: Shown.RETRACTED,
}
# English, Chinese; then what it means, in both.
SHOWN_WORDS: Mapping[Shown, tuple[str, str, str, str]] = {
    Shown.RECEIVING: ("Receiving", "接收中", "Images are still coming.", "图像仍在传入。"),
    Shown.WAITING: ("Waiting for {}", "等待{}", "What came is complete; a kind of image is waited for until a stated time.", "已到的图像完整；在规定时间内等待另一种影像。"),
    Shown.READY: ("Ready", "已齐全", "Everything that is waited for is here.", "所等待的图像均已到齐。"),
    Shown.QUEUED: ("Queued", "排队中", "Waits for a worker.", "等待处理。"),
    Shown.RUNNING: ("Running", "分析中", "The analysis runs.", "正在分析。"),
    Shown.REPORTED: ("Reported", "结果已生成", "The results are made and on their way.", "结果已生成，正在发送。"),
    Shown.DELIVERED: ("Delivered", "已送达", "Every destination has the results.", "所有目的地均已收到结果。"),
    Shown.NOT_PERFORMED: ("Not performed", "未分析", "The images can't be analysed; the reason says why. This is no negative.", "图像无法分析，见原因。这不代表阴性。"),
    Shown.NEEDS_ATTENTION: ("Needs attention", "需要处理", "A person has to decide; the reason says what.", "需要人工决定，见原因。"),
    Shown.SUPERSEDED: ("Superseded", "已被取代", "A newer revision replaces this one.", "已被新版本取代。"),
    Shown.CLOSED: ("Closed", "已关闭", "A person closed it.", "已被人工关闭。"),
    Shown.RETRACTED: ("Retracted", "已撤回", "A person withdrew the results; the reason says why. Don't use them.", "结果已被人工撤回，见原因。请勿使用。"),
}  # fmt: skip


def shown(state: CaseState, waiting_for: Collection[str] = ()) -> Shown:
    """What people are told of a case in `state` that waits for these modalities."""
    return Shown.WAITING if state is CaseState.RECEIVING and waiting_for else SHOWN[state]


def shown_words(state: CaseState, waiting_for: Collection[str] = (), *, chinese: bool = False) -> str:
    """The same in words, with what is waited for."""
    return SHOWN_WORDS[shown(state, waiting_for)][chinese].format(("、" if chinese else ", ").join(sorted(waiting_for)))


# --- intake -------------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """How an arrival ends: exactly one of these, each with a code."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # same SOP Instance UID, same bytes: success, no new row
    KEPT_ASIDE = "kept_aside"  # durable, acknowledged, flagged; not part of a case
    REFUSED = "refused"  # answered with a failure status


@dataclass(frozen=True, slots=True)
class Header:
    """What intake reads of an instance: identifiers and the few attributes that assembly needs, never pixels.

    `attributes` holds further values by DICOM keyword (Laterality, ViewPosition, ...), text as decoded.
    """

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    patient_id: str
    issuer_of_patient_id: str
    accession_number: str
    study_date: str  # DA as sent, "" when absent
    attributes: Mapping[str, str] = field(default_factory=dict)


# Doubts that stop a case until a person has decided; what is on its way of it is held.
STOPPING = frozenset({"SIDE_CHANGED", "IDENTITY_CHANGED", "PATIENT_IDENTITY_CONFLICT"})
ALTERED = frozenset({"UID_CONFLICT", "SIDE_CHANGED", "IDENTITY_CHANGED"})  # other bytes under a known SOP Instance UID
_SIDES = (
    "Laterality", "ImageLaterality", "FrameLaterality", "AnatomicRegionModifierCode", "AnatomicRegionCode",
    "PatientOrientation",  # tells the side of a mammogram too
)  # fmt: skip


def _digits(day: str) -> str:
    return "".join(c for c in day if c.isdigit())


def change(old: Header, new: Header) -> str:
    """What other bytes under one SOP Instance UID change: the patient, the side, or neither, as a code of a doubt."""
    told = [(old.patient_id, new.patient_id), (old.study_instance_uid, new.study_instance_uid)]
    if any(a.strip() != b.strip() for a, b in told):
        return "IDENTITY_CHANGED"
    both = [(old.issuer_of_patient_id, new.issuer_of_patient_id), (old.accession_number, new.accession_number)]
    both += [(old.attributes.get("PatientSex", ""), new.attributes.get("PatientSex", ""))]
    both += [(_digits(old.attributes.get("PatientBirthDate", "")), _digits(new.attributes.get("PatientBirthDate", "")))]
    if any(a.strip() != b.strip() for a, b in both if a.strip() and b.strip()):
        return "IDENTITY_CHANGED"
    sides = [[header.attributes.get(k, "").strip().upper() for k in _SIDES] for header in (old, new)]
    return "SIDE_CHANGED" if sides[0] != sides[1] or old.modality != new.modality else "UID_CONFLICT"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One instance that reached a door and is already durable in the spool (or refused before it was)."""

    verdict: Verdict  # ACCEPTED, KEPT_ASIDE or REFUSED; the ledger may turn ACCEPTED into DUPLICATE or KEPT_ASIDE
    code: str  # a row of casework.reasons; "" for ACCEPTED
    header: Header | None  # None when it could not be read
    sha256: str  # of the stored Part 10 file; "" when nothing was stored
    size: int  # bytes of the stored file
    door: str  # "dimse" | "stow" | "fetch" | "adopt"
    peer: str  # calling AE or API key name
    association_id: str  # uuid of the association or HTTP request
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the ledger made of an arrival."""

    verdict: Verdict
    code: str
    instance_id: int | None
    case_id: str | None


# --- what leaves ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Artefact:
    """One rendered object, stored once; the same bytes are sent every time (reliability: render once)."""

    kind: str  # one of config.OBJECTS or NOT_PERFORMED, "preview", "underlay" or "result-json"
    media_type: str  # application/dicom, image/png, application/json
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    sha256: str
    size: int
    label: str  # short words for lists, e.g. "R CC"


@dataclass(frozen=True, slots=True)
class Proof:
    """What a destination said about one object that it stored. how: "commitment" | "query".

    held False: it does not hold it; `again` says whether the same bytes may help, `code` and `status` why not.
    """

    sop_instance_uid: str
    held: bool
    how: str
    code: str
    status: str = ""
    again: bool = True


RETRACTIONS = ("RETRACTED_QUALITY", "RETRACTED_SAFETY", "RETRACTED_WORKLIST", "RETRACTED_RETENTION")
"""Why results may be withdrawn: rows of casework.reasons, one for each document title of a rejection note (IHE IOCM)."""
REJECTION = "rejection"  # the kind of artefact that tells a destination so
NOT_PERFORMED = frozenset({"not-performed", "not-performed-page"})
"""Kinds of artefacts that say that nothing was analysed: a report, and a page for destinations that show no reports."""
TOLD = frozenset({CaseState.REJECTED, CaseState.NEEDS_ATTENTION, CaseState.CLOSED})
"""States that end without a result: its studies are told, because silence would read as a negative."""


# --- derived identifiers --------------------------------------------------------------------------------------

_NAMESPACE = uuid.UUID("6c1a7d0e-52b3-5d7c-9c83-2f3f6f6d2f0a")


def derive_uid(*parts: str) -> str:
    """A DICOM UID that is the same for the same parts (PS3.5 B.2, UUID-derived, at most 44 characters)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join(('v1', *parts))).int}"


def input_digest(instance_sha256: list[str], model_sha256: str, pipeline: str) -> str:
    """The identity of one run: what went in (order-free), through which model, by which preprocessing."""
    return hashlib.sha256("|".join([*sorted(instance_sha256), model_sha256, pipeline]).encode()).hexdigest()
