"""Benchmarks: figures as ratios against named peers in the same run. `make bench` runs all of them."""
