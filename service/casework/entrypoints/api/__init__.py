"""REST API and status page. The only owner of FastAPI."""
