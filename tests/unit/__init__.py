"""Promises of the modules that do no I/O."""
