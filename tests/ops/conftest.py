"""The ledger's own fixtures: both databases."""

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, make_url, text

from tests.ledger.conftest import cluster, dialect, folder, ledger, open_ledger, sqlite_template, url

__all__ = ["cluster", "dialect", "empty_url", "folder", "ledger", "open_ledger", "sqlite_template", "url"]


@pytest.fixture
def empty_url(url: str) -> Iterator[str]:
    """Another place of the same kind, with nothing in it."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        yield f"{url}.other"
        return
    admin = create_engine(parsed.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE DATABASE other"))
    yield parsed.set(database="other").render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE other WITH (FORCE)"))
    admin.dispose()
