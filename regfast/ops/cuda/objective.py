"""Attack objectives by csrc/cuda, one launch each."""

from regfast.ops.native.objective import objective

__all__ = ["objective"]
