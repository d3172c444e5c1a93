"""Measurements: `make bench`. Each one alternates its sides within one run; docs/benchmarks.md shows the outcome."""
