"""The same promises of the ledger on SQLite and PostgreSQL."""
