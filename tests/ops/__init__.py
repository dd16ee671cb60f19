"""Operating the service: backup, migrations, probe, traces."""
