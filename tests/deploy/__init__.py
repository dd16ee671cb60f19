"""The files that operators apply, read as their tools read them: without an engine and without a cluster."""
