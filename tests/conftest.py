"""What every test starts from."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """A test that sets up logging in this process doesn't change the next test's."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
