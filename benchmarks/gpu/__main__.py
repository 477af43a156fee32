"""Benchmarks of the losses and of attack steps on the GPU: one table, one JSON file, one figure.

Forward and backward together. Times are medians with quartiles, on inputs that are not in the cache; `share` is the
bytes that have to move over those that a copy moves in the time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import losses, timing

F32, BF16 = torch.float32, torch.bfloat16
# (rows, classes, dtype, also with torch.compile), the ones that matter most first.
SHAPES = [
    (4096, 21841, F32, True),
    (4096, 1000, F32, True),
    (128, 10, F32, True),
    (4096, 21841, BF16, False),
    (65536, 10, F32, False),
    (256, 1000, F32, False),
    (1024, 1000, F32, False),
    (256, 21841, F32, False),
    (4096, 65537, BF16, False),
    (8192, 32768, BF16, False),
    (4096, 1003, F32, False),
]
KINDS = ("mixed", "hard", "dense")
GRAPHED = 2_000_000  # up to so many logits also under a CUDA graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu"))
    parser.add_argument("--seconds", type=float, default=140, help="start nothing new after so many")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing to measure")
    deadline = time.monotonic() + options.seconds
    options.out.mkdir(parents=True, exist_ok=True)
    bandwidth = timing.copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}: copy {bandwidth / 1e12:.2f} TB/s, torch {torch.__version__}")
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy_bytes_per_second": bandwidth,
        "losses": [],
        "skipped": [],
    }
    compile_later = []
    for rows, classes, dtype, also_compiled in SHAPES:
        for kind in KINDS:
            if time.monotonic() > deadline:
                result["skipped"].append([rows, classes, str(dtype), kind])
                continue
            attempt(result, measure, losses.candidates(kind), kind, rows, classes, dtype)
            if also_compiled:
                compile_later.append((kind, rows, classes, dtype))
        write(result, options.out)
        if not result.get("attacks") and time.monotonic() < deadline:  # second, behind the largest losses
            attempt(result, attacks)
    for part in (linear, statistics, features):
        if time.monotonic() < deadline:
            attempt(result, part)
            write(result, options.out)
    for kind, rows, classes, dtype in compile_later:
        if time.monotonic() < deadline:
            torch._dynamo.reset()
            attempt(result, measure, {"torch.compile": losses.compiled(kind)}, kind, rows, classes, dtype)
        else:
            result["skipped"].append([rows, classes, str(dtype), kind, "torch.compile"])
    write(result, options.out)
    try:
        plot(result, options.out)
    except ImportError as error:
        print(f"no figure: {error}")
    if result["skipped"]:
        print(f"not measured: {result['skipped']}")


def attempt(result: dict[str, Any], part: Callable[..., None], *arguments: Any) -> None:
    """Run a part of the suite; one that fails is noted, and ends no other."""
    try:
        part(result, *arguments)
    except Exception as error:
        result["skipped"].append([part.__name__, *map(str, arguments[1:]), f"{type(error).__name__}: {error}"[:300]])
        print(f"{part.__name__} failed: {type(error).__name__}: {error}"[:400])
        torch.cuda.empty_cache()


def measure(
    result: dict[str, Any],
    candidates: dict[str, losses.Loss],
    kind: str,
    rows: int,
    classes: int,
    dtype: torch.dtype,
) -> None:
    """Time every candidate on one shape; what a candidate raises is its result."""
    ideal = losses.ideal_bytes(losses.make(1, classes, dtype, kind)) * rows
    buffers = timing.buffers_for(ideal)
    batches = [losses.make(rows, classes, dtype, kind) for _ in range(buffers)]
    for name, loss in candidates.items():
        entry = {
            "kind": kind,
            "rows": rows,
            "classes": classes,
            "dtype": str(dtype).removeprefix("torch."),
            "name": name,
        }

        def call(i: int, loss: losses.Loss = loss, batches: list[losses.Batch] = batches) -> Any:
            batch = batches[i]
            return torch.autograd.grad(loss(batch), batch.logits)

        try:
            entry |= timing.time_calls(call, buffers)
            entry["share"] = ideal / (entry["us"] * 1e-6) / result["copy_bytes_per_second"]
            if rows * classes <= GRAPHED:
                entry["graph"] = timing.time_graph(call, min(buffers, 16))["us"]
        except Exception as error:  # a peer that cannot do a case must not end the run
            entry["error"] = f"{type(error).__name__}: {error}"[:300]
            torch.cuda.synchronize()
        result["losses"].append(entry)
        show(entry)
    torch.cuda.empty_cache()


def show(entry: dict[str, Any]) -> None:
    label = f"{entry['kind']:>6} {entry['rows']:>6}x{entry['classes']:<6} {entry['dtype']:<9} {entry['name']:<28}"
    if "error" in entry:
        print(f"{label} {entry['error'][:90]}")
        return
    graph = f"  in a graph {entry['graph']:8.1f} us" if "graph" in entry else ""
    print(f"{label} {entry['us']:9.1f} us  {100 * entry['share']:5.1f} % of copy{graph}")


def linear(result: dict[str, Any]) -> None:
    """Linear layer and loss: time and peak memory."""
    result["linear"] = []
    for rows, width, classes in ((4096, 512, 21841), (4096, 2048, 21841), (8192, 2048, 100003)):
        x = torch.randn(rows, width, device="cuda", dtype=BF16).requires_grad_()
        w = (torch.randn(classes, width, device="cuda", dtype=BF16) / width**0.5).requires_grad_()
        y = torch.randint(classes, (rows,), device="cuda")
        for name, loss in losses.linear_candidates().items():
            entry: dict[str, Any] = {"rows": rows, "width": width, "classes": classes, "name": name}

            def call(_: int, loss: Callable[..., Any] = loss) -> Any:
                return torch.autograd.grad(loss(x, w, y), (x, w))  # noqa: B023 - called before x, w, y change

            try:
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                call(0)
                entry["peak_mb"] = (torch.cuda.max_memory_allocated() - before) / 2**20
                entry |= timing.time_calls(call, 1)
                print(f"linear {rows}x{width}x{classes} {name:<28} {entry['us']:9.1f} us  {entry['peak_mb']:8.1f} MiB")
            except Exception as error:
                entry["error"] = f"{type(error).__name__}: {error}"[:300]
                print(f"linear {rows}x{width}x{classes} {name:<28} {entry['error'][:90]}")
            result["linear"].append(entry)


def attacks(result: dict[str, Any]) -> None:
    """Objectives, steps and starts: what the table chooses, each GPU backend, and the reference's torch operations."""
    from regfast.ops import dispatch

    result["attacks"] = []
    backends = [name for name in ("triton", "cuda") if dispatch.unavailable(name) is None]
    for rows, classes, shape in (
        (512, 10, (3, 32, 32)),
        (16, 10, (3, 32, 32)),
        (64, 1000, (3, 224, 224)),
        (16, 1000, (3, 224, 224)),
    ):
        for name, call in attack_calls(rows, classes, shape).items():
            for backend in (None, *backends, "reference"):
                entry: dict[str, Any] = {"name": name, "rows": rows, "backend": backend or "regfast"}
                try:
                    with dispatch.use_backend(backend):
                        entry |= timing.time_calls(call, 1, seconds=0.05)
                        entry["graph"] = timing.time_graph(call, 4)["us"]
                    text = f"{entry['us']:8.1f} us  in a graph {entry['graph']:8.1f} us"
                except Exception as error:
                    text = entry["error"] = f"{type(error).__name__}: {error}"[:300]
                    torch.cuda.synchronize()
                result["attacks"].append(entry)
                print(f"{name:<44} {entry['backend']:<10} {text}")


def attack_calls(rows: int, classes: int, shape: tuple[int, ...]) -> dict[str, Callable[[int], Any]]:
    """Name → one call of an op of attacks on `rows` samples."""
    from regfast.ops.objective import objective
    from regfast.ops.perturbation import perturb_step, random_start

    z, y = torch.randn(rows, classes, device="cuda"), torch.randint(classes, (rows,), device="cuda")
    clean, gradient, other = torch.rand(3, rows, *shape, device="cuda")
    sample = torch.arange(rows, device="cuda")
    where = f"{rows}x" + "x".join(map(str, shape))
    calls: dict[str, Callable[[int], Any]] = {
        f"objective {kind} {rows}x{classes}": lambda _, kind=kind: objective(z, y, kind)  # type: ignore[misc]
        for kind in ("ce", "dlr")
    }
    for norm, radius in (("linf", 0.03), ("l2", 1.0), ("l1", 12.0)):
        eps = torch.full((rows,), radius, device="cuda")
        point = clean + (0.5 * radius / clean[0].numel() ** {"linf": 0.0, "l2": 0.5, "l1": 1.0}[norm])
        arguments = (point, gradient - 0.5, clean, eps, eps / 4, norm)
        calls[f"step {norm} {where}"] = lambda _, a=arguments: perturb_step(*a, sparsity=0.1)  # type: ignore[misc]
        calls[f"step {norm}, momentum {where}"] = (
            lambda _, a=(*arguments, other, 0.75): perturb_step(*a, sparsity=0.1)  # type: ignore[misc]
        )
        calls[f"start {norm} {where}"] = (
            lambda _, a=(clean, eps, norm, 7, sample): random_start(*a)  # type: ignore[misc]
        )
    return calls


def features(result: dict[str, Any]) -> None:
    """Attacks on features through a head, float64: the kernel against the reference's torch operations."""
    from regfast.ops import dispatch
    from regfast.ops.feature_attack import feature_attack

    result["feature_attack"] = []
    for rows, classes, width in ((1000, 10, 512), (10000, 100, 512)):
        weight = torch.randn(classes, width, device="cuda", dtype=torch.float64) / width**0.5
        z = torch.randn(rows, width, device="cuda", dtype=torch.float64) @ weight.t()
        arguments = (z, weight, z.argmax(1), *(torch.full((rows,), r, device="cuda").double() for r in (0.5, 0.05)))
        for backend in (None, "reference"):
            entry = {"rows": rows, "classes": classes, "width": width, "backend": backend or "regfast"}
            with dispatch.use_backend(backend):
                entry |= timing.time_calls(
                    lambda _, a=arguments: feature_attack(*a, 20, linf=False, margin=False),  # type: ignore[misc]
                    1,
                )
            result["feature_attack"].append(entry)
            print(f"feature attack {rows}x{classes}, d={width} {entry['backend']:<10} {entry['us']:8.1f} us")


def statistics(result: dict[str, Any]) -> None:
    """Loss with all statistics against the reference's composition."""
    from regfast.ops import dispatch
    from regfast.ops.soft_cross_entropy import soft_cross_entropy_stats
    from regfast.ops.target import Target

    result["statistics"] = []
    for rows, classes, width in ((256, 1000, 512), (1024, 1000, 2048), (4096, 1000, 2048)):
        z = torch.randn(rows, classes, device="cuda", requires_grad=True)
        y = torch.randint(classes, (rows,), device="cuda")
        features, centers = torch.randn(rows, width, device="cuda"), torch.randn(classes, width, device="cuda")

        def call(_: int) -> Any:
            loss, _stats = soft_cross_entropy_stats(z, Target(y), features, centers)  # noqa: B023
            return torch.autograd.grad(loss, z)  # noqa: B023

        for backend in (None, "reference"):
            with dispatch.use_backend(backend):
                entry = {"rows": rows, "classes": classes, "width": width, "backend": backend or "regfast"}
                entry |= timing.time_calls(call, 1)
            result["statistics"].append(entry)
            print(f"statistics {rows}x{classes}, d={width:<5} {entry['backend']:<10} {entry['us']:8.1f} us")


def write(result: dict[str, Any], out: Path) -> None:
    (out / "kernels.json").write_text(json.dumps(result, indent=1))


def plot(result: dict[str, Any], out: Path) -> None:
    """Time of every candidate over ours, one panel a kind of target."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(KINDS), figsize=(5 * len(KINDS), 5), sharey=True)
    for panel, kind in zip(panels, KINDS, strict=True):
        rows = [e for e in result["losses"] if e["kind"] == kind and "us" in e]
        shapes = list(dict.fromkeys((e["rows"], e["classes"], e["dtype"]) for e in rows))
        for name in dict.fromkeys(e["name"] for e in rows):
            found = {(e["rows"], e["classes"], e["dtype"]): e.get("graph", e["us"]) for e in rows if e["name"] == name}
            places = [i for i, shape in enumerate(shapes) if shape in found]
            panel.plot(places, [found[shapes[i]] for i in places], "o", label=name)
        panel.set_xticks(range(len(shapes)), [f"{b}x{k}\n{d}" for b, k, d in shapes], rotation=90)
        panel.set_yscale("log")
        panel.set_title(f"{kind} targets, forward + backward")
        panel.legend(fontsize=7)
    panels[0].set_ylabel("µs (small shapes: under a CUDA graph)")
    figure.tight_layout()
    figure.savefig(out / "kernels.png", dpi=120)


if __name__ == "__main__":
    main()
