"""What the native extension's CUDA kernels serve; the rest is Triton's (see the table in `regfast.ops.dispatch`)."""
