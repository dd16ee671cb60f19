"""Alembic's environment: uses the connection that `casework.ledger.migrate` opened, inside its transaction."""

from alembic import context

from casework.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
