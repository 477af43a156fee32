"""Timing of functions that do the same thing, in turns, so that a machine's drift meets all of them alike.

A sample is wall time of some calls in a row, after one that is not timed: in training, too, the logits have just been
written when the loss reads them, while the contender before has left other things in the caches. Samples in which
another process took a core away from this one (the system counts that) say nothing about the function: they are left
out while enough others are there.
"""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

SHORTEST_SAMPLE = 400e-6  # seconds: shorter calls are repeated within a sample
LEAST_SAMPLES = 9
PATIENCE = 4  # times the wanted duration, where other processes disturb


@dataclass(frozen=True)
class Sample:
    seconds: float  # per call
    disturbed: bool


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the time per call, in microseconds; of how many samples; whether none was disturbed."""

    median: float
    low: float
    high: float
    samples: int
    quiet: bool

    @staticmethod
    def of(samples: list[Sample]) -> Spread:
        """Of the undisturbed samples, if there are LEAST_SAMPLES of them, else of all."""
        undisturbed = [sample for sample in samples if not sample.disturbed]
        quiet = len(undisturbed) >= LEAST_SAMPLES
        seconds = [sample.seconds for sample in (undisturbed if quiet else samples)]
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return Spread(1e6 * median, 1e6 * low, 1e6 * high, len(seconds), quiet)


def interleaved(functions: dict[str, Callable[[], object]], seconds: float) -> dict[str, Spread]:
    """Times of the functions, one sample of each per round.

    Takes about `seconds`, and up to PATIENCE times that where a function lacks LEAST_SAMPLES undisturbed samples.
    """
    calls = {name: _calls(function) for name, function in functions.items()}
    taken: dict[str, list[Sample]] = {name: [] for name in functions}
    start = time.perf_counter()

    def enough() -> bool:
        spent = time.perf_counter() - start
        rounds = len(next(iter(taken.values())))
        if rounds < LEAST_SAMPLES or spent < seconds:
            return False
        return spent > PATIENCE * seconds or all(Spread.of(samples).quiet for samples in taken.values())

    while not enough():
        for name, function in functions.items():
            taken[name].append(_sample(function, calls[name]))
    return {name: Spread.of(samples) for name, samples in taken.items()}


def _calls(function: Callable[[], object]) -> int:
    for _ in range(3):  # the first call may compile, and memory settles
        function()
    return max(1, round(SHORTEST_SAMPLE / min(_sample(function, 1).seconds for _ in range(3))))


def _sample(function: Callable[[], object], calls: int) -> Sample:
    function()
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    start = time.perf_counter()
    for _ in range(calls):
        function()
    seconds = (time.perf_counter() - start) / calls
    return Sample(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw > switches)


def copy_bandwidth(megabytes: int = 256) -> float:
    """Bytes per second, read and written together, of a copy that fits no cache but the largest."""
    source = torch.ones(megabytes << 18)
    target = torch.empty_like(source)
    spread = interleaved({"copy": lambda: target.copy_(source)}, 0.5)["copy"]
    return 2 * 4 * source.numel() / (1e-6 * spread.median)


def machine() -> dict[str, object]:
    """What the figures depend on."""
    return {
        "device": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "copy_bandwidth": copy_bandwidth(),
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
