"""REST API and status page. The only owner of FastAPI."""

from casework.entrypoints.api.server import main

__all__ = ["main"]
