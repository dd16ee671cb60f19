"""The ledger: the SQL truth about what arrived, what runs and what left. Owns the database and its lock files."""
