"""Tests, simulators, benchmarks and the demo."""
