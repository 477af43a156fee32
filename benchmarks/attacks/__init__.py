"""Attacks against their peers: evaluations spent, wall time, robust accuracy."""
