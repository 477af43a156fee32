"""Magnitude alone and direction alone: the paper's two effects, made one at a time."""
