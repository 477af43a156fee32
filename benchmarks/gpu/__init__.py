"""The kernels on a GPU: sanitizer driver and benchmarks. `bash benchmarks/gpu/run.sh` (make gpu) runs everything."""
