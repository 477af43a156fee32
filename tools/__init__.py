"""Tools for those who work on regfast: not installed with it."""
