"""A part of the first schema: results that are taken back in studies that left their case."""

import sqlalchemy as sa
from alembic import op


def create() -> None:
    """Create the table."""
    op.create_table(
        "withdrawal",
        sa.Column("artefact_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["artefact_id"], ["artefact.id"], name=op.f("fk_withdrawal_artefact_id")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_withdrawal_job_id")),
        sa.PrimaryKeyConstraint("artefact_id", name=op.f("pk_withdrawal")),
    )
    op.create_index(op.f("ix_withdrawal_job_id"), "withdrawal", ["job_id"], unique=False)
