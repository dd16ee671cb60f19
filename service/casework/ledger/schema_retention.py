"""The tables of what the site's policy removes, and of what a person keeps. Does no I/O."""

from sqlalchemy import Column, ForeignKey, Index, Integer, String, Table, Text

from casework.ledger.columns import Instant
from casework.ledger.schema import KEY, metadata

removal = Table(
    "removal",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("sha256", String(64), nullable=False),
    Column("kind", Text, nullable=False),  # images | results
    Column("days", Integer, nullable=False),  # the policy that it was removed by
    Column("at", Instant, nullable=False),  # from here on nobody may count on the bytes
    Column("erased_at", Instant),  # they are off the disk
    Column("returned_at", Instant),  # somebody sent them again
    Index(None, "sha256"),
    Index(None, "erased_at"),
    sqlite_autoincrement=True,
)

hold = Table(
    "hold",
    metadata,
    Column("id", KEY, primary_key=True, autoincrement=True),
    Column("root_id", ForeignKey("case_root.id"), nullable=False),
    Column("actor", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("at", Instant, nullable=False),
    Column("lifted_at", Instant),
    Index(None, "root_id"),
    sqlite_autoincrement=True,
)
