"""Bytes that a loss moves, forward and backward: every load and store of its kernels.

    python -m benchmarks.gpu.traffic triton cuda linear     writes these tables of docs/kernels-gpu.md

No GPU is needed, and no speed is measured. Triton's kernels run under its interpreter (with --liger PATH also those of
Liger's package there), CUDA C++ on the emulator of tests/cuda_on_cpu, as on an H100.
"""

from __future__ import annotations

import argparse
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
from tests.cuda_on_cpu import build, losses

__all__ = ["CASES", "CLASSES", "TARGETS", "Traffic", "by_target", "count", "count_cuda", "counted", "linear", "table"]

CLASSES = (10, 100, 1000, 8192, 21841, 50257, 128256, 151936)
TARGETS = ("hard", "mixed", "dense", "statistics")
CASES = ("1", "scaled", "half ignored")
PAGE = Path(__file__).parents[2] / "docs" / "kernels-gpu.md"
LINEAR = ((8192, 4096, 128256), (32768, 4096, 128256), (8192, 768, 50257))
Columns = dict[str, tuple[Callable[[int, str], build.Traffic], tuple[str, ...]]]
MARKED = re.compile(r"(<!-- counted: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass
class Traffic(build.Traffic):
    """Of Triton's launches."""

    _seen: list[tuple[np.ndarray, int]] = field(default_factory=list)

    def end_launch(self) -> None:
        """Find what was loaded twice."""
        self.launches += 1
        for size in {size for _, size in self._seen}:
            addresses = np.concatenate([each for each, of in self._seen if of == size])
            self.again += size * (addresses.size - np.unique(addresses).size)
        self._seen.clear()


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


def count_cuda(classes: int, kind: str, case: str) -> build.Traffic:
    """`count` for CUDA C++, which has no statistics."""
    logits, target = problem(classes, kind, case)
    names = ("dense",) if kind == "dense" else ("first", "second", "lam", "smoothing", "index_target")
    given = {name: getattr(target, name) for name in names if getattr(target, name) is not None}
    library = build.library("soft_cross_entropy")
    library.machine("forward", processors=132)
    with library.counted() as traffic:
        losses.step(logits.detach(), given, 0.5 if case == "scaled" else 1.0, met_scale=case == "scaled")
    return traffic


def cell(rows: int, classes: int, counts: Iterable[build.Traffic]) -> str:
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


def table(columns: Columns, sizes: tuple[int, ...] = CLASSES) -> str:
    """Rows of a Markdown table, one for each number of classes: each column's count, of its cases."""
    lines = ["| K | " + " | ".join(columns) + " |"]
    lines.append("|---" * lines[0].count(" | ") + "|---|")
    for classes in sizes:
        rows = len(problem(classes, "hard", "1")[0])
        cells = [cell(rows, classes, (one(classes, case) for case in cases)) for one, cases in columns.values()]
        lines.append(f"| {classes:,} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def by_target(one: Callable[[int, str, str], build.Traffic], kinds: tuple[str, ...]) -> Columns:
    """Columns of `table`; no row of a dense target is ignored."""
    return {
        kind: (lambda classes, case, kind=kind: one(classes, kind, case), CASES[:2] if kind == "dense" else CASES)
        for kind in kinds
    }


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=("triton", "cuda", "linear"))
    parser.add_argument("--liger", metavar="PATH", help="where Liger's package lies")
    options = parser.parse_args()
    made = {}
    if "triton" in options.tables:
        columns = by_target(count, TARGETS)
        if options.liger is not None:
            columns["Liger, hard"] = (liger(options.liger), CASES)
        made["triton"] = table(columns)
    if "cuda" in options.tables:
        made["cuda"] = table(by_target(count_cuda, TARGETS[:3]))
    if "linear" in options.tables:
        made["linear"] = linear_table()
    text = PAGE.read_text(encoding="utf-8")
    text = MARKED.sub(lambda marks: marks[1] + made[marks[2]] + marks[3] if marks[2] in made else marks[0], text)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
