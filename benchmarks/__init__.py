"""Benchmarks: `python -m benchmarks` prints every table; README.md says what is measured and how."""
