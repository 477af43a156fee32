"""Timing of functions that do the same thing, in turns, so that a machine's drift meets all of them alike.

On a CPU a sample is wall time of some calls in a row. On a GPU it is CUDA events around a call, and the case's function
may rotate its buffers (`Rotation`), so that what a call reads is not in the L2 cache.
"""

from __future__ import annotations

import itertools
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
SHORTEST_SAMPLE = 400e-6  # seconds: shorter calls are repeated within a sample
LEAST_SAMPLES = 9


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the time per call, in microseconds, and how many samples they are of."""

    median: float
    low: float
    high: float
    samples: int

    @staticmethod
    def of(seconds: Sequence[float]) -> Spread:
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return Spread(1e6 * median, 1e6 * low, 1e6 * high, len(seconds))


class Rotation(Generic[T]):
    """Copies of a case's buffers, taken in turns: larger than the cache together, so that a call finds its own cold."""

    def __init__(self, make: Callable[[], T], size: int, cache: int):
        self._copies = itertools.cycle([make() for _ in range(max(1, -(-2 * cache // size)))])

    def __call__(self) -> T:
        return next(self._copies)


def interleaved(functions: dict[str, Callable[[], object]], device: str, seconds: float) -> dict[str, Spread]:
    """Times of the functions, one sample of each per round, in about `seconds` (never below LEAST_SAMPLES rounds)."""
    calls = {name: _calls(function, device) for name, function in functions.items()}
    taken: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    while len(next(iter(taken.values()))) < LEAST_SAMPLES or time.perf_counter() - start < seconds:
        for name, function in functions.items():
            taken[name].append(_sample(function, calls[name], device))
    return {name: Spread.of(times) for name, times in taken.items()}


def _calls(function: Callable[[], object], device: str) -> int:
    for _ in range(3):  # the first call may compile, and memory settles
        function()
    return max(1, round(SHORTEST_SAMPLE / _sample(function, 1, device)))


def _sample(function: Callable[[], object], calls: int, device: str) -> float:
    """Seconds per call."""
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return 1e-3 * begin.elapsed_time(end) / calls


def copy_bandwidth(device: str, megabytes: int = 256) -> float:
    """Bytes per second, read and written together, of a copy that fits no cache but the largest."""
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)
    spread = interleaved({"copy": lambda: target.copy_(source)}, device, 0.5)["copy"]
    return 2 * 4 * source.numel() / (1e-6 * spread.median)


def machine(device: str) -> dict[str, object]:
    """What the figures depend on."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "copy_bandwidth": copy_bandwidth(device),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    isa = " with AVX-512" if "AVX512" in torch.backends.cpu.get_cpu_capability() else ""
    return (names[0] if names else platform.processor() or platform.machine()) + isa
