"""A part of the first schema: what the policy removed, and what people keep."""

import sqlalchemy as sa
from alembic import op


def create() -> None:
    """Create the tables."""
    op.create_table(
        "removal",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("erased_at", sa.BigInteger(), nullable=True),
        sa.Column("returned_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_removal")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_removal_sha256"), "removal", ["sha256"], unique=False)
    op.create_index(op.f("ix_removal_erased_at"), "removal", ["erased_at"], unique=False)
    op.create_table(
        "hold",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("root_id", sa.String(length=32), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("lifted_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["root_id"], ["case_root.id"], name=op.f("fk_hold_root_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hold")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_hold_root_id"), "hold", ["root_id"], unique=False)
