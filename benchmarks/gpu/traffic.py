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
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

from regfast.ops.target import Target
from regfast.ops.triton import scaling
from regfast.ops.triton import soft_cross_entropy as loss
from regfast.ops.triton.linear_soft_cross_entropy import linear_soft_cross_entropy
from regfast.ops.triton.soft_cross_entropy_kernels import one_shot_kernel, two_pass_kernel

__all__ = ["CASES", "CLASSES", "TARGETS", "Traffic", "count", "counted", "linear", "linear_table", "table"]

CLASSES = (10, 100, 1000, 8192, 21841, 50257, 128256, 151936)
TARGETS = ("hard", "mixed", "dense", "statistics")
CASES = ("1", "scaled", "half ignored")
PAGE = Path(__file__).parents[2] / "docs" / "kernels-gpu.md"
LINEAR = ((8192, 4096, 128256), (32768, 4096, 128256), (8192, 768, 50257))
MARKED = re.compile(r"(<!-- counted: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


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
    met = scaling.met_scale(logits.device)
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


def linear(rows: int, width: int, classes: int, dtype: torch.dtype = torch.bfloat16) -> tuple[int, int, int]:
    """Bytes of linear + loss, forward and backward: its products, all else, and three products of whole matrices.

    Every operation reads its operands once and writes its result once, on tensors without memory; the loss's launch
    reads and writes the logits.
    """
    products = rest = 0

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal products, rest
            kwargs = kwargs or {}
            out = function(*args, **kwargs)
            name = function.overloadpacket.__name__
            if function.is_view or "empty" in name or not isinstance(out, Tensor):
                return out
            read = args[1:] if "zero" in name or kwargs.get("beta") == 0 else args
            moved = sum(_bytes(t) for t in read if isinstance(t, Tensor)) + _bytes(out)
            if "mm" in name:
                products += moved
            else:
                rest += moved
            return out

    def launch(kernel: Any, programs: int, device: torch.device, *args: Any, **options: Any) -> None:
        nonlocal rest
        rest += 2 * _bytes(args[0]) if kernel in (one_shot_kernel, two_pass_kernel) else 0

    features = torch.empty(rows, width, dtype=dtype, device="meta", requires_grad=True)
    weight = torch.empty(classes, width, dtype=dtype, device="meta", requires_grad=True)
    first = torch.empty(rows, dtype=torch.int64, device="meta")
    modules: tuple[Any, ...] = (loss, scaling)
    own = [module.launch for module in modules]
    for module in modules:
        module.launch = launch
    try:
        with Count():
            linear_soft_cross_entropy(features, weight, None, Target(first, index_target=True)).backward()
    finally:
        for module, former in zip(modules, own, strict=True):
            module.launch = former
    return products, rest, 3 * (_bytes(features) + _bytes(weight) + rows * classes * dtype.itemsize)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def linear_table() -> str:
    """Rows of a Markdown table, in GB."""
    lines = ["| B × d × K | its products | of whole matrices | ratio | all else |", "|---|---|---|---|---|"]
    for shape in LINEAR:
        products, rest, whole = linear(*shape)
        figures = f"{products / 1e9:.1f} | {whole / 1e9:.1f} | {products / whole:.2f} | {rest / 1e9:.1f}"
        lines.append("| " + " × ".join(f"{n:,}" for n in shape) + f" | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the tables into the page."""
    made = {"traffic": table(sys.argv[1] if len(sys.argv) > 1 else None), "linear": linear_table()}
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARKED.sub(lambda marks: marks[1] + made[marks[2]] + marks[3], text), encoding="utf-8")


if __name__ == "__main__":
    main()
