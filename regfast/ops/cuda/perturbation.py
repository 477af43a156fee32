"""Moves of attacks by csrc/cuda, one launch each."""

from regfast.ops.native.perturbation import l1_box_projection, perturb_step, random_start

__all__ = ["l1_box_projection", "perturb_step", "random_start"]
