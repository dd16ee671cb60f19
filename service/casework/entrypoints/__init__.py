"""Doors: one module a process, and the wiring that constructs them."""
