"""Bytes that a loss moves, forward and backward: every load and store of its kernels under Triton's interpreter.

    python -m benchmarks.gpu.traffic [PATH]     writes the tables of docs/kernels-gpu.md; PATH has Liger's package

No GPU is needed, and no speed is measured. Liger's Triton kernels run under the same hooks.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter

from regfast.ops.target import Target
from regfast.ops.triton import soft_cross_entropy as loss
from regfast.ops.triton.scaling import met_scale

__all__ = ["CASES", "CLASSES", "TARGETS", "Traffic", "count", "counted"]

CLASSES = (10, 100, 1000, 8192, 21841, 50257, 128256, 151936)
TARGETS = ("hard", "mixed", "dense", "statistics")
CASES = ("1", "scaled", "half ignored")
PAGE = Path(__file__).parents[2] / "docs" / "kernels-gpu.md"
MARKED = re.compile(r"(<!-- counted: traffic -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass
class Traffic:
    """Bytes loaded and stored; `again` are those of `loaded` that the same launch had loaded before."""

    loaded: int = 0
    again: int = 0
    stored: int = 0
    launches: int = 0
    _seen: list[tuple[np.ndarray, int]] = field(default_factory=list)

    def end_launch(self) -> None:
        """Find what was loaded twice."""
        self.launches += 1
        for size in {size for _, size in self._seen}:
            addresses = np.concatenate([each for each, of in self._seen if of == size])
            self.again += size * (addresses.size - np.unique(addresses).size)
        self._seen.clear()

    @property
    def moved(self) -> int:
        """From and to memory, as far as a second load comes from the cache."""
        return self.loaded - self.again + self.stored


@contextmanager
def counted() -> Iterator[Traffic]:
    """What kernels load and store meanwhile. An atomic counts as one load and one store."""
    traffic = Traffic()
    builder, executor = type(interpreter.interpreter_builder), interpreter.GridExecutor
    load, store, add = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw
    launch = executor.__call__

    def size_of(pointers: Any) -> int:
        return max(1, pointers.get_element_ty().primitive_bitwidth // 8)

    def loads(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        addresses = np.broadcast_to(pointers.data, mask.data.shape)[mask.data]
        traffic.loaded += addresses.size * size_of(pointers)
        traffic._seen.append((addresses, size_of(pointers)))
        return load(self, pointers, mask, *rest)

    def stores(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        traffic.stored += int(np.count_nonzero(mask.data)) * size_of(pointers)
        return store(self, pointers, value, mask, *rest)

    def adds(self: Any, kind: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        traffic.loaded += int(np.count_nonzero(mask.data)) * size_of(pointers)
        traffic.stored += int(np.count_nonzero(mask.data)) * size_of(pointers)
        return add(self, kind, pointers, value, mask, *rest)

    def launches(self: Any, *arguments: Any, **options: Any) -> Any:
        result = launch(self, *arguments, **options)
        traffic.end_launch()
        return result

    builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw = loads, stores, adds
    executor.__call__ = launches
    try:
        yield traffic
    finally:
        builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw = load, store, add
        executor.__call__ = launch


def problem(classes: int, kind: str, case: str) -> tuple[Tensor, Target]:
    """Logits and a target: few rows, for what a row moves does not depend on their number."""
    rows = 64 if classes <= 10 else 8 if classes <= 8192 else 4
    first = torch.arange(rows) % classes
    if case == "half ignored":
        first[::2] = -100
    logits = torch.zeros(rows, classes).requires_grad_()
    if kind == "dense":
        return logits, Target(dense=torch.full((rows, classes), 1 / classes))
    if kind == "mixed":
        return logits, Target(first, first.roll(2), torch.rand(rows), smoothing=0.1)
    return logits, Target(first, index_target=True)


def count(classes: int, kind: str, case: str) -> Traffic:
    """Of a step that follows one alike: whether that met a `grad_output` of 1 decides where the gradient is made."""
    logits, target = problem(classes, kind, case)
    met = met_scale(logits.device)
    assert met is not None
    met.fill_(case == "scaled")
    with counted() as traffic:
        if kind == "statistics":
            value = loss.soft_cross_entropy_stats(logits, target)[0]
        else:
            value = loss.soft_cross_entropy(logits, target)
        value.backward(torch.tensor(0.5 if case == "scaled" else 1.0))
    return traffic


def cell(rows: int, classes: int, counts: Iterable[Traffic]) -> str:
    """For each case what is moved, plus what comes a second time from the cache, in u: the bytes of the logits."""
    u = 4 * rows * classes
    return ", ".join(f"{t.moved / u:.2f}" + (f" + {t.again / u:.2f}" if t.again > u / 200 else "") for t in counts)


def liger(path: str) -> Callable[[int, str], Traffic]:
    """`count` for Liger's hard loss, whose package lies at `path`."""
    sys.path.insert(0, path)
    from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction

    def measured(classes: int, case: str) -> Traffic:
        logits, target = problem(classes, "hard", case)
        own = logits * 1.0  # written over
        with counted() as traffic:
            value = LigerCrossEntropyFunction.apply(own, target.first, None)[0]
            value.backward(torch.tensor(0.5 if case == "scaled" else 1.0))
        return traffic

    return measured


def table(path: str | None) -> str:
    """Rows of a Markdown table, one for each number of classes."""
    peer = None if path is None else liger(path)
    lines = ["| K | " + " | ".join([*TARGETS, *(["Liger, hard"] if peer else [])]) + " |"]
    lines.append("|---" * lines[0].count(" | ") + "|---|")
    for classes in CLASSES:
        rows = len(problem(classes, "hard", "1")[0])
        cells = [
            cell(rows, classes, (count(classes, kind, case) for case in CASES if (kind, case) != ("dense", CASES[2])))
            for kind in TARGETS
        ]
        if peer is not None:
            cells.append(cell(rows, classes, (peer(classes, case) for case in CASES)))
        lines.append(f"| {classes:,} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    made = table(sys.argv[1] if len(sys.argv) > 1 else None)
    PAGE.write_text(MARKED.sub(lambda marks: marks[1] + made + marks[2], text), encoding="utf-8")


if __name__ == "__main__":
    main()
