"""Alembic scripts, run by `Ledger.migrate` only."""
