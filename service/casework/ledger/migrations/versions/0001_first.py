"""First schema."""

from alembic import op

from casework.ledger import guards
from casework.ledger.schema import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create all tables, the audit's head and the guards."""
    metadata.create_all(op.get_bind())
    op.execute("INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, '" + "0" * 64 + "')")
    guards.install(op.get_bind())


def downgrade() -> None:
    """Remove everything."""
    guards.remove(op.get_bind())
    metadata.drop_all(op.get_bind())
