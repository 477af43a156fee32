"""Compile every Triton kernel, in the configurations its launcher chooses, for one GPU; print registers and spills.

    python -m tests.ops.triton_compile cuda 90        (or: hip gfx942)

Needs no GPU: the launchers run on CPU tensors with their launch replaced by a recorder, then Triton compiles what they
would have launched. Exits with 1 if anything spills, if a kernel of rows takes more than 64 registers with 512 threads,
or if one that reads rows twice loads less than 16 bytes at a time where rows are aligned.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from regfast.ops.target import Target
from regfast.ops.triton import launch

TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "i1",
}
MODULES = (
    "soft_cross_entropy", "scaling", "feature_stats", "objective", "perturbation", "philox", "feature_attack", "lanes",
    "boundary", "squares",
)  # fmt: skip
ROWS = ("one_shot_kernel", "two_pass_kernel", "one_shot_objective_kernel", "two_pass_objective_kernel")
Launch = tuple[str, Any, tuple[Any, ...], dict[str, Any]]


def record() -> list[Launch]:
    """What the launchers launch for the shapes that matter."""
    launches: list[Launch] = []
    label = ""

    def recorder(kernel: Any, programs: int, device: torch.device, *args: Any, **options: Any) -> None:
        launches.append((label, kernel, args, options))

    modules = {name: import_module(f"regfast.ops.triton.{name}") for name in MODULES}
    for module in modules.values():
        module.launch = recorder  # type: ignore[attr-defined]
    loss = modules["soft_cross_entropy"]
    rows = 64
    first, mix = torch.zeros(rows, dtype=torch.int64), torch.rand(rows)
    for classes, dtype in ((10, torch.float32), (100, torch.float32), (1000, torch.float32), (1003, torch.bfloat16),
                           (4096, torch.float32), (8192, torch.bfloat16), (65537, torch.float32),
                           (151936, torch.bfloat16)):  # fmt: skip
        label = f"{classes} {str(dtype).removeprefix('torch.')}"
        z = torch.empty(rows, classes, dtype=dtype, requires_grad=True)
        weights = {"class_weight": torch.rand(classes), "sample_weight": mix}
        loss.soft_cross_entropy(z, Target(first, first, mix, smoothing=0.1))
        loss.soft_cross_entropy(z, Target(first, first, mix, smoothing=0.1, **weights))
        loss.soft_cross_entropy(z, Target(dense=z.detach(), smoothing=0.1, **weights))
        features, centers = torch.empty(rows, 512), torch.empty(classes, 512)
        loss.soft_cross_entropy_stats(z, Target(first), features, centers)
        loss.soft_cross_entropy_stats(z, Target(dense=z.detach()), features, centers)
        for target in (Target(first, z_loss=1e-4), Target(first, first, mix), Target(dense=z.detach())):
            loss.soft_cross_entropy_stats(z, target)[1].entropy.sum().backward()
        for kind in ("ce", "dlr"):
            modules["objective"].objective(z, first, kind)
        modules["objective"].objective(z, first, "dlr-targeted", first)
    for classes, width in ((10, 64), (10, 512), (128, 2048)):
        label = f"{classes} x {width}"
        wide = torch.empty(rows, classes, dtype=torch.float64), torch.empty(classes, width, dtype=torch.float64)
        radius = torch.empty(rows, dtype=torch.float64)
        for linf in (False, True):
            for margin in (False, True):
                modules["feature_attack"].feature_attack(*wide, first, radius, radius, 20, linf=linf, margin=margin)
    label = "d = 512"
    features = torch.empty(rows, 512, requires_grad=True)
    modules["feature_stats"].feature_stats(features, torch.empty(10, 512), first, first).rms.sum().backward()
    z = torch.empty(rows, 1000, requires_grad=True)
    for target in (Target(first), Target(dense=z.detach())):  # made anew, rescaled
        loss.soft_cross_entropy(z, target).backward(retain_graph=True)  # into a copy
        loss.soft_cross_entropy(z, target).backward()
    for size in (3072, 150528):
        label = f"{size} entries"
        x = torch.empty(4, size)
        eps = torch.empty(4)
        step, start = modules["perturbation"].perturb_step, modules["perturbation"].random_start
        for norm in ("linf", "l2", "l1"):
            step(x, x, x, eps, eps, norm, x, eps, sparsity=eps)
            start(x, eps, norm, 7, first[:4], start="sphere")
            start(x, eps, norm, 7, first[:4], start="ball")
        for norm in ("linf", "l2", "l1"):
            for eta in (1.05, eps):
                modules["boundary"].boundary_step(x, x, eps, x, eps > 0, eta, 0.1, 0.9, norm)
        pixels = x.view(4, 3, -1, 32)
        for eta in (0.1, eps, pixels):
            modules["squares"].repaint(pixels, pixels, torch.empty(4, 5), first[:4], eta)
        modules["lanes"].near_one(x)
        flags, classes = eps > 0, first[:4]
        for may, reach in ((None, False), (flags, True)):
            modules["lanes"].judge(x, eps, classes, classes, classes, flags, may, x, eps, classes, reach=reach, steps=7)
        for radius in (0.1, eps):
            modules["lanes"].ascend(x, x, eps, classes, x, x, eps, eps, eps, eps, eps, flags, eps, radius, 0.75)
    for classes in (10, 1000, 21841):
        label = f"{classes} classes"
        modules["lanes"].predicted(torch.empty(4, classes))
    return launches


def compile_for(kernel: Any, args: tuple[Any, ...], options: dict[str, Any], target: GPUTarget) -> Any:
    values = dict(zip(kernel.arg_names, args, strict=False)) | {k: options[k] for k in options if k in kernel.arg_names}
    unspecialized = {p.name for p in kernel.params if p.do_not_specialize}
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        value = values[name]
        if value is None or name in options:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name], attributes[(i,)] = "*" + TYPES[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[name] = "i32"
            if value % 16 == 0 and name not in unspecialized:
                attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    given = {k: v for k, v in options.items() if k not in kernel.arg_names}
    return triton.compile(ASTSource(kernel, signature, constants, attributes), target=target, options=given)


def resources(compiled: Any, target: GPUTarget) -> tuple[int, int]:
    """Registers a thread, and bytes (or registers) spilled."""
    if target.backend == "hip":
        text = compiled.asm["amdgcn"]
        spilled = sum(int(n) for n in re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", text))
        return int(re.findall(r"\.vgpr_count:\s*(\d+)", text)[0]), spilled
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = str(tool) if tool.exists() else shutil.which("cuobjdump") or "cuobjdump"
        text = subprocess.run(
            [command, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack, local = (int(re.findall(rf"{name}:(\d+)", text)[-1]) for name in ("REG", "STACK", "LOCAL"))
    return registers, stack + local


def faults(kernel: Any, args: tuple[Any, ...], options: dict[str, Any], ptx: str, registers: int) -> list[str]:
    """What a kernel over rows of logits does not hold on NVIDIA's GPUs."""
    found = []
    if kernel.fn.__name__ in ROWS:
        if options["num_warps"] >= 16 and registers > 64:
            found.append("more than 64 registers")
        aligned = options["K"] * args[0].element_size() % 16 == 0
        if options["BLOCK"] < options["K"] and aligned and not re.search(r"ld\.global\S*evict_last\S*\.v4\.b32", ptx):
            found.append("narrow loads")
    return found


def main() -> int:
    backend, arch = sys.argv[1:3]
    target = GPUTarget(backend, int(arch) if backend == "cuda" else arch, 32 if backend == "cuda" else 64)
    launch.LANES = target.warp_size
    seen, spilling, faulty = set(), 0, 0
    for label, kernel, args, options in record():
        compiled = compile_for(kernel, args, options, target)
        if compiled.hash in seen:
            continue
        seen.add(compiled.hash)
        registers, spilled = resources(compiled, target)
        spilling += spilled > 0
        name = kernel.fn.__name__
        warps = options["num_warps"]
        wrong = faults(kernel, args, options, compiled.asm["ptx"], registers) if backend == "cuda" else []
        faulty += len(wrong)
        print(
            f"{backend} {arch} {name:<32} {label:<18} {warps:>2} warps {registers:>4} registers {spilled:>4} spilled",
            *wrong,
            flush=True,
        )
    print(f"{len(seen)} kernels, {spilling} spill")
    return int(spilling > 0 or faulty > 0)


if __name__ == "__main__":
    sys.exit(main())
