"""The native extension's kernels, for CPU and CUDA tensors: each module turns a contract's arguments into the op's."""
