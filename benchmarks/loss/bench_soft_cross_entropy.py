"""The same cases under pytest-benchmark: `pytest benchmarks/loss/bench_*.py --benchmark-group-by=group`.

It times one contender after the other; `python -m benchmarks` takes them in turns and makes the published table.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.loss import cases


def contenders() -> Iterator[object]:
    for case in cases.loss_cases() + cases.stats_cases():
        for name, run in case.contenders.items():
            yield pytest.param(case, run, id=f"{case.name}: {name}")


@pytest.mark.parametrize(("case", "run"), list(contenders()))
def test_forward_and_backward(benchmark, case, run):
    benchmark.group = case.name
    benchmark(run)
