"""Counter-based random numbers by csrc/cuda, one launch each."""

from regfast.ops.native.philox import normal, uniform

__all__ = ["normal", "uniform"]
