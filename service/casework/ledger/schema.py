"""The tables, the same for SQLite and PostgreSQL (`columns`: how values are stored). Does no I/O."""

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from casework.case import CandidateState, CaseState, DeliveryState, JobState, NoticeState, OrderState, Verdict
from casework.ledger.columns import Instant, Mapped


def _one_of(column: str, values: Iterable[StrEnum]) -> CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=f"{column}_known")


KEY = BigInteger().with_variant(Integer, "sqlite")  # SQLite's rowid alias must be INTEGER

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# --- what arrived ---
case_root = Table(
    "case_root",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("patient_key", Text, nullable=False),  # Patient ID and issuer, or the Study Instance UID without one
    Column("patient_id", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("anchor", Instant, nullable=False),  # day of the root's first study; the window lies around it
    Column("created_at", Instant, nullable=False),
    Index(None, "patient_key"),
    Index(None, "patient_id"),
)

study = Table(
    "study",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("root_id", ForeignKey("case_root.id"), nullable=False),
    Column("study_uid", Text, nullable=False),
    Column("accession", Text, nullable=False),
    Column("study_date", Text, nullable=False),
    Column("first_at", Instant, nullable=False),
    UniqueConstraint("root_id", "study_uid"),
    Index(None, "study_uid"),
    Index(None, "accession"),
)

instance = Table(
    "instance",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("sop_uid", Text, nullable=False),
    Column("root_id", ForeignKey("case_root.id"), nullable=False),
    Column("study_id", ForeignKey("study.id"), nullable=False),
    Column("sop_class", Text, nullable=False),
    Column("study_uid", Text, nullable=False),
    Column("series_uid", Text, nullable=False),
    Column("transfer_syntax", Text, nullable=False),
    Column("modality", Text, nullable=False),
    Column("patient_id", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("accession", Text, nullable=False),
    Column("study_date", Text, nullable=False),
    Column("attributes", Mapped, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("received_at", Instant, nullable=False),
    UniqueConstraint(
        "sop_uid", "sha256"
    ),  # an accepted correction is a row of its own; the one it replaces is excluded
    Index(None, "root_id", "study_id", "modality"),
    sqlite_autoincrement=True,
)

exclusion = Table(
    "exclusion",
    metadata,
    Column("instance_id", ForeignKey("instance.id"), primary_key=True),
    Column("root_id", ForeignKey("case_root.id"), nullable=False),
    Column("code", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", Instant, nullable=False),
    Column("replaced_by", ForeignKey("instance.id")),
    Column("lifted_at", Instant),  # a person took it back
    Index(None, "root_id"),
)

doubt = Table(
    "doubt",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("root_id", ForeignKey("case_root.id"), nullable=False),
    Column("code", Text, nullable=False),
    Column("subject", Text, nullable=False),  # SOP Instance UID, or Study Instance UID
    Column("sha256", String(64), nullable=False),  # of the bytes that were kept aside; "" when it is not about bytes
    Column("size", BigInteger, nullable=False),
    Column("header", Mapped, nullable=False),  # of the same
    Column("peer", Text, nullable=False),
    Column("at", Instant, nullable=False),
    Column("decision", Text, nullable=False),  # "" | accepted | dismissed
    Column("decided_by", Text, nullable=False),
    Column("decided_at", Instant),
    UniqueConstraint("root_id", "code", "subject", "sha256"),
    Index(None, "root_id", "decision"),
    Index(None, "decision"),
    sqlite_autoincrement=True,
)

receipt = Table(
    "receipt",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("verdict", Text, _one_of("verdict", Verdict), nullable=False),
    Column("code", Text, nullable=False),
    Column("door", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("association_id", Text, nullable=False),
    Column("sop_uid", Text, nullable=False),
    Column("study_uid", Text, nullable=False),
    Column("modality", Text, nullable=False),
    Column("patient_id", Text, nullable=False),
    Column("accession", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("instance_id", ForeignKey("instance.id")),
    Column("root_id", ForeignKey("case_root.id")),
    Column("received_at", Instant, nullable=False),
    Index(None, "study_uid"),
    Index(None, "patient_id"),
    Index(None, "accession"),
    Index(None, "sop_uid"),
    Index(None, "root_id", "association_id"),
    sqlite_autoincrement=True,
)

association = Table(
    "association",
    metadata,
    Column("id", Text, primary_key=True),
    Column("calling", Text, nullable=False),
    Column("called", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("closed_at", Instant),
    Column("ended", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("counts", Mapped, nullable=False),
    Column("owner", Text, nullable=False),  # the process that has it; "" = nobody knows
    Column("seen_at", Instant, nullable=False),  # when that process last said that it is open
    Index(None, "closed_at"),
    Index(None, "opened_at"),
)

# --- cases ----------------------------------------------------------------------------------------------------

case_revision = Table(
    "case_revision",
    metadata,
    Column("no", KEY, primary_key=True, autoincrement=True),  # order for lists; never shown
    Column("id", String(32), nullable=False, unique=True),
    Column("root_id", ForeignKey("case_root.id"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("predecessor", ForeignKey("case_revision.id")),
    Column("state", Text, _one_of("state", CaseState), nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("last_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    Column("requested_at", Instant),
    Column("waiting_for", Text, nullable=False),  # modalities, comma between; "" = waits for none
    Column("waiting_since", Instant),  # when a wait for a modality first began; later revisions inherit it
    Column("waiting_until", Instant),
    Column("result_json", Text, nullable=False),
    Column("retraction", Text, nullable=False, server_default=""),  # a code of case.RETRACTIONS, "" = stands
    UniqueConstraint("root_id", "revision"),
    Index(None, "state"),
)

case_input = Table(
    "case_input",
    metadata,
    Column("case_id", ForeignKey("case_revision.id"), primary_key=True),
    Column("instance_id", ForeignKey("instance.id"), primary_key=True),
)

expected_count = Table(
    "expected_count",
    metadata,
    Column("root_id", ForeignKey("case_root.id"), primary_key=True),
    Column("study_uid", Text, primary_key=True),
    Column("instances", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("asked_at", Instant, nullable=False),
)

finding = Table(
    "finding",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("case_id", ForeignKey("case_revision.id"), nullable=False),
    Column("code", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("at", Instant, nullable=False),
    UniqueConstraint("case_id", "code", "subject", "detail"),
)

# --- work ---
job = Table(
    "job",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("case_id", ForeignKey("case_revision.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, _one_of("state", JobState), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("owner", Text, nullable=False),
    Column("lease_until", Instant),
    Column("next_at", Instant),
    Column("code", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    Index(None, "case_id"),
    Index(None, "kind", "state", "priority"),
)

artefact = Table(
    "artefact",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("case_id", ForeignKey("case_revision.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("study_uid", Text, nullable=False),
    Column("series_uid", Text, nullable=False),
    Column("sop_class", Text, nullable=False),
    Column("sop_uid", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("label", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Index(None, "case_id"),
    Index(None, "sop_uid"),
)

withdrawal = Table(  # results of a study that left the case; what a retraction withdraws too
    "withdrawal",
    metadata,
    Column("artefact_id", ForeignKey("artefact.id"), primary_key=True),
    Column("code", Text, nullable=False),  # one of case.RETRACTIONS
    Column("job_id", ForeignKey("job.id")),  # that makes the notes; NULL: they were made with the decision
    Column("at", Instant, nullable=False),
    Index(None, "job_id"),
)

delivery = Table(
    "delivery",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("case_id", ForeignKey("case_revision.id"), nullable=False),
    Column("artefact_id", ForeignKey("artefact.id"), nullable=False),
    Column("destination", Text, nullable=False),
    Column("state", Text, _one_of("state", DeliveryState), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("owner", Text, nullable=False),
    Column("lease_until", Instant),
    Column("next_at", Instant),
    Column("status", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("first_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    Column("proof", Text, nullable=False),  # how it is to be proved or was; "" = the destination's word is enough
    Column("stored_at", Instant),
    Column("resends", Integer, nullable=False),  # for want of proof
    Column("transaction_uid", Text, nullable=False),  # the newest storage commitment transaction
    UniqueConstraint("artefact_id", "destination"),
    Index(None, "case_id"),
    Index(None, "destination", "state", "priority"),
    Index(None, "proof", "state", "destination"),
    Index(None, "state"),
)

commitment = Table(
    "commitment",
    metadata,
    Column("uid", Text, primary_key=True),  # Transaction UID (0008,1195), ours
    Column("destination", Text, nullable=False),
    Column("deliveries", Mapped, nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("answered_at", Instant),
)

webhook = Table(
    "webhook",
    metadata,
    Column("name", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),  # of the last audit row that was looked at for it
)

notice = Table(
    "notice",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("webhook", ForeignKey("webhook.name"), nullable=False),
    Column("seq", BigInteger, nullable=False),  # the audit row that it tells of
    Column("case_id", ForeignKey("case_revision.id"), nullable=False),
    Column("event_id", String(32), nullable=False),
    Column("body", Text, nullable=False),  # the bytes that are signed and sent, every time the same
    Column("state", Text, _one_of("state", NoticeState), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("next_at", Instant),
    Column("status", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    UniqueConstraint("webhook", "seq"),
    Index(None, "webhook", "state", "next_at"),
)

request = Table(
    "request",
    metadata,
    Column("key", Text, primary_key=True),
    Column("actor", Text, primary_key=True),
    Column("hash", Text, nullable=False),
    Column("case_ids", Mapped, nullable=False),
    Column("at", Instant, nullable=False),
)

# --- fetch ----------------------------------------------------------------------------------------------------

fetch_order = Table(
    "fetch_order",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("root_id", ForeignKey("case_root.id")),  # none: a person asked for something that is not here
    Column("destination", Text, nullable=False),
    Column("term", Text, nullable=False),  # the accession number or Study Instance UID that a person named, else ""
    Column("actor", Text, nullable=False),
    Column("state", Text, _one_of("state", OrderState), nullable=False),
    Column("code", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("owner", Text, nullable=False),
    Column("lease_until", Instant),
    Column("next_at", Instant),
    Column("asked_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    Index(None, "root_id"),
    Index(None, "destination", "state"),
    Index(None, "term"),
)

fetch_candidate = Table(
    "fetch_candidate",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("order_id", ForeignKey("fetch_order.id"), nullable=False),
    Column("destination", Text, nullable=False),
    Column("study_uid", Text, nullable=False),
    Column("accession", Text, nullable=False),
    Column("study_date", Text, nullable=False),
    Column("modalities", Mapped, nullable=False),  # images by modality, as the PACS counts
    Column("series", Mapped, nullable=False),  # modality -> Series Instance UID -> images, those to fetch
    Column("role", Text, nullable=False),  # sibling | prior | asked
    Column("state", Text, _one_of("state", CandidateState), nullable=False),
    Column("code", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("owner", Text, nullable=False),
    Column("lease_until", Instant),
    Column("next_at", Instant),
    Column("started_at", Instant),
    Column("counts", Mapped, nullable=False),  # what became of the images: verdict -> count
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    UniqueConstraint("order_id", "study_uid"),
    Index(None, "study_uid", "state"),
    Index(None, "destination", "state"),
    Index(None, "destination", "started_at"),
)

# --- the service's own processes ------------------------------------------------------------------------------

process = Table(
    "process",
    metadata,
    Column("door", Text, primary_key=True),
    Column("host", Text, primary_key=True),
    Column("pid", Integer, nullable=False),
    Column("state", Text, nullable=False),  # running | stopped | failed
    Column("code", Text, nullable=False),  # why it failed
    Column("started_at", Instant, nullable=False),
    Column("beat_at", Instant, nullable=False),
    Column("error_code", Text, nullable=False),  # the last error that its log names
    Column("error_at", Instant),
    Column("engine", Text, nullable=False),  # the passport of the engine that it serves with, as JSON; "" without one
)

# --- audit ---
audit = Table(
    "audit",
    metadata,
    Column("seq", KEY, primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("actor", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("case_id", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),  # canonical JSON, hashed as it is stored
    Column("hash", String(64), nullable=False),
    Index(None, "case_id", "seq"),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="single"), primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)
