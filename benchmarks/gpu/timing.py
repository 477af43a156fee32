"""Times of GPU work: cold caches, medians and spread, and CUDA graphs for what is shorter than its launch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

COLD_BYTES = 400 << 20  # several times any L2 cache


def buffers_for(size: int) -> int:
    """How many sets of inputs to go around in, so that none is still in the cache."""
    return max(2, min(64, -(-COLD_BYTES // max(size, 1))))


def spread(times: list[float]) -> dict[str, float]:
    """Median and quartiles, in microseconds."""
    times = sorted(times)
    quarter = len(times) // 4
    return {"us": statistics.median(times), "low": times[quarter], "high": times[-1 - quarter]}


def time_calls(call: Callable[[int], Any], buffers: int, seconds: float = 0.25) -> dict[str, float]:
    """Time of `call(i)`, i going around the buffers: from event to event on the stream, launch gaps included."""
    for i in range(3):
        call(i % buffers)
    torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call(0)
    end.record()
    torch.cuda.synchronize()
    repeats = max(10, min(200, int(seconds * 1e3 / max(begin.elapsed_time(end), 1e-3))))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for i in range(repeats):
        call(i % buffers)
        events[i + 1].record()
    torch.cuda.synchronize()
    return spread([a.elapsed_time(b) * 1e3 for a, b in pairwise(events)])


def time_graph(call: Callable[[int], Any], buffers: int, replays: int = 20) -> dict[str, float]:
    """Time of one `call` among those of a CUDA graph that goes once around the buffers."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(buffers):
            call(i)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call(i) for i in range(buffers)]
    graph.replay()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(replays + 1)]
    events[0].record()
    for i in range(replays):
        graph.replay()
        events[i + 1].record()
    torch.cuda.synchronize()
    del kept
    return spread([a.elapsed_time(b) * 1e3 / buffers for a, b in pairwise(events)])


def copy_bandwidth() -> float:
    """Bytes read and written per second by a large device-to-device copy."""
    source = torch.randn(1 << 29, device="cuda")  # 2 GB
    target = torch.empty_like(source)
    found = time_calls(lambda i: target.copy_(source), 1)
    return 2 * source.numel() * source.element_size() / (found["us"] * 1e-6)
