"""GPU kernels in Triton: the functions of `regfast.ops.reference`, op by op."""
