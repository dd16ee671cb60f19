"""First schema: what arrived, cases, work, audit; and the guards."""

import sqlalchemy as sa
from alembic import op

from casework.ledger import guards
from casework.ledger.migrations import retention, webhooks, withdrawal

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create all tables, the audit's head and the guards."""
    _roots()
    _instances()
    _changes()
    _receipts()
    _cases()
    _inputs()
    _jobs()
    _artefacts()
    _deliveries()
    _fetches()
    _candidates()
    _audit()
    op.execute("INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, '" + "0" * 64 + "')")
    guards.install(op.get_bind())


def _roots() -> None:
    op.create_table(
        "association",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("calling", sa.Text(), nullable=False),
        sa.Column("called", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.Column("ended", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_association")),
    )
    op.create_index(op.f("ix_association_closed_at"), "association", ["closed_at"], unique=False)
    op.create_index(op.f("ix_association_opened_at"), "association", ["opened_at"], unique=False)
    op.create_table(
        "case_root",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("patient_key", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("anchor", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_case_root")),
    )
    op.create_index(op.f("ix_case_root_patient_id"), "case_root", ["patient_id"], unique=False)
    op.create_index(op.f("ix_case_root_patient_key"), "case_root", ["patient_key"], unique=False)
    op.create_table(
        "study",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("root_id", sa.String(length=32), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("accession", sa.Text(), nullable=False),
        sa.Column("study_date", sa.Text(), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["root_id"], ["case_root.id"], name=op.f("fk_study_root_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
        sa.UniqueConstraint("root_id", "study_uid", name=op.f("uq_study_root_id_study_uid")),
    )
    op.create_index(op.f("ix_study_accession"), "study", ["accession"], unique=False)
    op.create_index(op.f("ix_study_study_uid"), "study", ["study_uid"], unique=False)


def _instances() -> None:
    op.create_table(
        "instance",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("sop_uid", sa.Text(), nullable=False),
        sa.Column("root_id", sa.String(length=32), nullable=False),
        sa.Column("study_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sop_class", sa.Text(), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("series_uid", sa.Text(), nullable=False),
        sa.Column("transfer_syntax", sa.Text(), nullable=False),
        sa.Column("modality", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("accession", sa.Text(), nullable=False),
        sa.Column("study_date", sa.Text(), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["root_id"], ["case_root.id"], name=op.f("fk_instance_root_id")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_instance_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint("sop_uid", "sha256", name=op.f("uq_instance_sop_uid_sha256")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_instance_root_id_study_id_modality"), "instance", ["root_id", "study_id", "modality"], unique=False
    )


def _changes() -> None:
    op.create_table(
        "exclusion",
        sa.Column("instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("root_id", sa.String(length=32), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("replaced_by", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("lifted_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_exclusion_instance_id")),
        sa.ForeignKeyConstraint(["replaced_by"], ["instance.id"], name=op.f("fk_exclusion_replaced_by")),
        sa.ForeignKeyConstraint(["root_id"], ["case_root.id"], name=op.f("fk_exclusion_root_id")),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_exclusion")),
    )
    op.create_index(op.f("ix_exclusion_root_id"), "exclusion", ["root_id"], unique=False)
    op.create_table(
        "doubt",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("root_id", sa.String(length=32), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("header", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["root_id"], ["case_root.id"], name=op.f("fk_doubt_root_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_doubt")),
        sa.UniqueConstraint("root_id", "code", "subject", "sha256", name=op.f("uq_doubt_root_id_code_subject_sha256")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_doubt_decision"), "doubt", ["decision"], unique=False)
    op.create_index(op.f("ix_doubt_root_id_decision"), "doubt", ["root_id", "decision"], unique=False)


def _receipts() -> None:
    op.create_table(
        "receipt",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("door", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("association_id", sa.Text(), nullable=False),
        sa.Column("sop_uid", sa.Text(), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("modality", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("accession", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("root_id", sa.String(length=32), nullable=True),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_receipt_instance_id")),
        sa.ForeignKeyConstraint(["root_id"], ["case_root.id"], name=op.f("fk_receipt_root_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_receipt")),
        sa.CheckConstraint(
            "verdict IN ('accepted', 'duplicate', 'kept_aside', 'refused')", name=op.f("ck_receipt_verdict_known")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_receipt_accession"), "receipt", ["accession"], unique=False)
    op.create_index(op.f("ix_receipt_patient_id"), "receipt", ["patient_id"], unique=False)
    op.create_index(op.f("ix_receipt_root_id_association_id"), "receipt", ["root_id", "association_id"], unique=False)
    op.create_index(op.f("ix_receipt_sop_uid"), "receipt", ["sop_uid"], unique=False)
    op.create_index(op.f("ix_receipt_study_uid"), "receipt", ["study_uid"], unique=False)


def _cases() -> None:
    op.create_table(
        "case_revision",
        sa.Column("no", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("root_id", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("predecessor", sa.String(length=32), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=True),
        sa.Column("waiting_for", sa.Text(), nullable=False),
        sa.Column("waiting_since", sa.BigInteger(), nullable=True),
        sa.Column("waiting_until", sa.BigInteger(), nullable=True),
        sa.Column("result_json", sa.Text(), nullable=False),
        sa.Column("retraction", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["predecessor"], ["case_revision.id"], name=op.f("fk_case_revision_predecessor")),
        sa.ForeignKeyConstraint(["root_id"], ["case_root.id"], name=op.f("fk_case_revision_root_id")),
        sa.PrimaryKeyConstraint("no", name=op.f("pk_case_revision")),
        sa.CheckConstraint(
            "state IN ('receiving', 'stable', 'queued', 'running', 'rendered', 'delivering', 'delivered', 'rejected', 'needs_attention', 'superseded', 'closed', 'retracted')",
            name=op.f("ck_case_revision_state_known"),
        ),
        sa.UniqueConstraint("id", name=op.f("uq_case_revision_id")),
        sa.UniqueConstraint("root_id", "revision", name=op.f("uq_case_revision_root_id_revision")),
    )
    op.create_index(op.f("ix_case_revision_state"), "case_revision", ["state"], unique=False)


def _inputs() -> None:
    op.create_table(
        "case_input",
        sa.Column("case_id", sa.String(length=32), nullable=False),
        sa.Column("instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["case_revision.id"], name=op.f("fk_case_input_case_id")),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_case_input_instance_id")),
        sa.PrimaryKeyConstraint("case_id", "instance_id", name=op.f("pk_case_input")),
    )
    op.create_table(
        "expected_count",
        sa.Column("root_id", sa.String(length=32), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["root_id"], ["case_root.id"], name=op.f("fk_expected_count_root_id")),
        sa.PrimaryKeyConstraint("root_id", "study_uid", name=op.f("pk_expected_count")),
    )
    op.create_table(
        "finding",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("case_id", sa.String(length=32), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["case_revision.id"], name=op.f("fk_finding_case_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_finding")),
        sa.UniqueConstraint(
            "case_id", "code", "subject", "detail", name=op.f("uq_finding_case_id_code_subject_detail")
        ),
    )


def _jobs() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("case_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["case_revision.id"], name=op.f("fk_job_case_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.CheckConstraint(
            "state IN ('ready', 'leased', 'succeeded', 'retry_wait', 'dead', 'cancelled')",
            name=op.f("ck_job_state_known"),
        ),
    )
    op.create_index(op.f("ix_job_case_id"), "job", ["case_id"], unique=False)
    op.create_index(op.f("ix_job_kind_state_priority"), "job", ["kind", "state", "priority"], unique=False)


def _artefacts() -> None:
    op.create_table(
        "artefact",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("case_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("series_uid", sa.Text(), nullable=False),
        sa.Column("sop_class", sa.Text(), nullable=False),
        sa.Column("sop_uid", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["case_revision.id"], name=op.f("fk_artefact_case_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artefact")),
    )
    op.create_index(op.f("ix_artefact_case_id"), "artefact", ["case_id"], unique=False)
    op.create_index(op.f("ix_artefact_sop_uid"), "artefact", ["sop_uid"], unique=False)


def _deliveries() -> None:
    op.create_table(
        "delivery",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("case_id", sa.String(length=32), nullable=False),
        sa.Column("artefact_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("proof", sa.Text(), nullable=False),
        sa.Column("stored_at", sa.BigInteger(), nullable=True),
        sa.Column("resends", sa.Integer(), nullable=False),
        sa.Column("transaction_uid", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["artefact_id"], ["artefact.id"], name=op.f("fk_delivery_artefact_id")),
        sa.ForeignKeyConstraint(["case_id"], ["case_revision.id"], name=op.f("fk_delivery_case_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.CheckConstraint(
            "state IN ('pending', 'sending', 'unknown', 'stored', 'stored_with_warning', 'retry_wait', 'dead', 'committed', 'commit_failed', 'cancelled')",
            name=op.f("ck_delivery_state_known"),
        ),
        sa.UniqueConstraint("artefact_id", "destination", name=op.f("uq_delivery_artefact_id_destination")),
    )
    op.create_index(op.f("ix_delivery_case_id"), "delivery", ["case_id"], unique=False)
    op.create_index(
        op.f("ix_delivery_destination_state_priority"), "delivery", ["destination", "state", "priority"], unique=False
    )
    op.create_index(
        op.f("ix_delivery_proof_state_destination"), "delivery", ["proof", "state", "destination"], unique=False
    )
    op.create_index(op.f("ix_delivery_state"), "delivery", ["state"], unique=False)
    webhooks.create()
    withdrawal.create()
    retention.create()
    op.create_table(
        "commitment",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("deliveries", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("answered_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_commitment")),
    )


def _fetches() -> None:
    op.create_table(
        "fetch_order",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("root_id", sa.String(length=32), nullable=True),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("term", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.Column("asked_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["root_id"], ["case_root.id"], name=op.f("fk_fetch_order_root_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fetch_order")),
        sa.CheckConstraint("state IN ('due', 'asking', 'listed', 'failed')", name=op.f("ck_fetch_order_state_known")),
    )
    op.create_index(op.f("ix_fetch_order_root_id"), "fetch_order", ["root_id"], unique=False)
    op.create_index(op.f("ix_fetch_order_destination_state"), "fetch_order", ["destination", "state"], unique=False)
    op.create_index(op.f("ix_fetch_order_term"), "fetch_order", ["term"], unique=False)
    op.create_table(
        "process",
        sa.Column("door", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=False),
        sa.Column("error_at", sa.BigInteger(), nullable=True),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("door", "host", name=op.f("pk_process")),
    )


def _candidates() -> None:
    op.create_table(
        "fetch_candidate",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("order_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("study_uid", sa.Text(), nullable=False),
        sa.Column("accession", sa.Text(), nullable=False),
        sa.Column("study_date", sa.Text(), nullable=False),
        sa.Column("modalities", sa.Text(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["fetch_order.id"], name=op.f("fk_fetch_candidate_order_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fetch_candidate")),
        sa.CheckConstraint(
            "state IN ('seen', 'rejected', 'chosen', 'fetching', 'fetched', 'failed')",
            name=op.f("ck_fetch_candidate_state_known"),
        ),
        sa.UniqueConstraint("order_id", "study_uid", name=op.f("uq_fetch_candidate_order_id_study_uid")),
    )
    for columns in (["study_uid", "state"], ["destination", "state"], ["destination", "started_at"]):
        name = op.f("ix_fetch_candidate_" + "_".join(columns))
        op.create_index(name, "fetch_candidate", columns, unique=False)


def _audit() -> None:
    op.create_table(
        "request",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("case_ids", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", "actor", name=op.f("pk_request")),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("case_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_case_id_seq"), "audit", ["case_id", "seq"], unique=False)
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
        sa.CheckConstraint("id = 1", name=op.f("ck_audit_head_single")),
    )


def downgrade() -> None:
    """Remove everything."""
    guards.remove(op.get_bind())
    for table in (
        "process",
        "hold",
        "removal",
        "fetch_candidate",
        "fetch_order",
        "notice",
        "webhook",
        "commitment",
        "delivery",
        "withdrawal",
        "artefact",
        "job",
        "finding",
        "expected_count",
        "case_input",
        "case_revision",
        "receipt",
        "exclusion",
        "doubt",
        "instance",
        "study",
        "case_root",
        "association",
        "request",
        "audit",
        "audit_head",
    ):
        op.drop_table(table)
