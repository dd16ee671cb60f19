"""The experiments F01 to F43 in their order."""

from tests.bench.reliability import rows_intake, rows_secure, rows_work

EXPERIMENTS = {e.id: e for e in sorted((*rows_intake.ROWS, *rows_work.ROWS, *rows_secure.ROWS), key=lambda e: e.id)}
