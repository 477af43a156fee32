"""What Triton's own launch costs the host before it calls the driver, which is left out: µs of processor time a launch.

Beside `benchmarks.gpu.host`, which leaves launches out. Kernels are compiled for an H100, no GPU is needed.
`python -m benchmarks.gpu.launcher`
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver

from regfast.ops.target import Target
from regfast.ops.triton import scaling, soft_cross_entropy

ROUNDS, CALLS = 20, 100
Launch = tuple[Any, int, tuple[Any, ...], dict[str, Any]]


class Driver:
    """As much of a driver as a launch asks for."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@triton.jit
def null_kernel():
    pass


@triton.jit
def null_kernel_of_one(x):
    pass


def not_loaded(kernel: CompiledKernel) -> None:
    """In place of loading the binary: a launch that ends where it would call the driver."""
    kernel.module = kernel.function = 0
    kernel._run = lambda *_: None


def launches_of_a_step() -> list[Launch]:
    """Of forward and backward of hard labels."""
    found: list[Launch] = []

    def record(kernel: Any, programs: int, device: torch.device, *args: Any, **options: Any) -> None:
        found.append((kernel, programs, args, options))

    with mock.patch.object(soft_cross_entropy, "launch", record), mock.patch.object(scaling, "launch", record):
        logits = torch.randn(2, 1024, requires_grad=True)
        target = Target(torch.zeros(2, dtype=torch.int64), index_target=True)
        soft_cross_entropy.soft_cross_entropy(logits, target).backward()
    return found


def measured(call: Callable[[], object]) -> float:
    call()  # compiles
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time_ns()
        for _ in range(CALLS):
            call()
        best = min(best, (time.process_time_ns() - begin) / CALLS / 1e3)
    return best


def main() -> None:
    torch.set_num_threads(1)
    driver.set_active(Driver())
    one = torch.zeros(1)
    with mock.patch.object(CompiledKernel, "_init_handles", not_loaded):
        calls: dict[str, Callable[[], object]] = {
            "null_kernel, no arguments": lambda: null_kernel[(1,)](num_warps=4),
            "null_kernel, a tensor": lambda: null_kernel_of_one[(1,)](one, num_warps=4),
        }
        for kernel, programs, args, options in launches_of_a_step():
            name = f"{kernel.fn.__name__}, {len(args) + len(options)} arguments"
            while name in calls:
                name += ", backward"
            calls[name] = lambda k=kernel, p=programs, a=args, o=options: k[(p,)](*a, **o)
        print("| launch | µs |\n|---|--:|")
        for name, call in calls.items():
            print(f"| {name} | {measured(call):.1f} |", flush=True)


if __name__ == "__main__":
    main()
