"""`python -m casework` is the command line."""

from casework.entrypoints.cli import app

app(prog_name="casework")
