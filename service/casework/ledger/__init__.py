"""The SQL ledger: schema, writes and questions. The only owner of SQLAlchemy."""
