"""Losses against what people use today, forward and backward."""
