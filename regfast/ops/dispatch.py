"""Which backend serves which op: one table, and how to override it.

Backends: `reference` (pure PyTorch, any device), `cpu` (the native extension's kernels for CPU tensors), `triton` (GPU
kernels), `cuda` (the native extension's kernels for CUDA tensors). A backend is a folder of modules with the same
functions, one module an op family: `regfast.ops.reference.<family>`, `regfast.ops.native.<family>` (cpu and cuda),
`regfast.ops.triton.<family>`. What a backend lacks is served by the next one in the table.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import re
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["BACKENDS", "FAMILIES", "BackendError", "find", "show_config", "unavailable", "use_backend"]

BACKENDS = ("reference", "cpu", "triton", "cuda")
FAMILIES = {
    "soft_cross_entropy": ("soft_cross_entropy", "soft_cross_entropy_stats"),
    "feature_stats": ("feature_stats",),
    "linear_soft_cross_entropy": ("linear_soft_cross_entropy",),
    "objective": ("objective",),
    "perturbation": ("perturb_step", "random_start", "l1_box_projection"),
    "philox": ("uniform", "normal"),
    "lanes": ("predicted", "near_one", "judge", "ascend"),
    "boundary": ("boundary_step",),
    "squares": ("repaint",),
    "feature_attack": ("feature_attack",),
}


class BackendError(RuntimeError):
    """The backend asked for can't serve this call."""


class Rule(NamedTuple):
    """`backend` serves tensors of this device type and these dtypes whose last dimension is a multiple of `multiple`
    between `least` and `most`, and which have at most `elements` elements (None: any number)."""

    backend: str
    device: str
    dtypes: tuple[torch.dtype, ...]
    least: int = 0
    most: int = 1 << 62
    multiple: int = 1
    elements: int | None = None


_HALVES = (torch.float32, torch.bfloat16, torch.float16)
_FLOATS = (*_HALVES, torch.float64)
# Up to so many elements a kernel of attacks is shorter than its launch: 512 lanes of 3x32x32, and more.
_LAUNCH_BOUND = 1 << 21
# Up to so many logits forward and backward of a loss are shorter than the Python in front of a Triton launch.
_SMALL_LOSS = 1 << 24

# The table. First match wins; `reference` serves whatever is left. The tensor looked at is the op's first one. No GPU's
# row has been measured yet; benchmarks/gpu times both backends.
_TABLE: dict[str, tuple[Rule, ...]] = {
    # CUDA C++ for what the host's time decides, short rows, odd ones and long ones; Triton for large batches of rows
    # that it loads in 16-byte words and keeps in registers.
    "soft_cross_entropy": (
        Rule("cpu", "cpu", _FLOATS),
        Rule("cuda", "cuda", _HALVES, elements=_SMALL_LOSS),
        Rule("cuda", "cuda", _HALVES, most=32),
        Rule("triton", "cuda", _HALVES, most=8192, multiple=8),
        Rule("cuda", "cuda", _HALVES),
        Rule("triton", "cuda", _HALVES),
    ),
    "feature_stats": (Rule("cpu", "cpu", _FLOATS), Rule("triton", "cuda", _HALVES)),
    "linear_soft_cross_entropy": (Rule("cpu", "cpu", _FLOATS), Rule("triton", "cuda", _HALVES)),
    # What is shorter than its launch goes to CUDA C++: called without Python in between, and one launch for l2 and l1
    # rows of any length, where Triton takes several and torch ops. Longer ones stay with Triton until measured.
    "objective": (
        Rule("cpu", "cpu", _FLOATS),
        Rule("cuda", "cuda", _HALVES, elements=_LAUNCH_BOUND),
        Rule("triton", "cuda", _HALVES),
        Rule("cuda", "cuda", _HALVES),
    ),
    "perturbation": (
        Rule("cpu", "cpu", (torch.float32,)),
        Rule("cuda", "cuda", (torch.float32,), elements=_LAUNCH_BOUND),
        Rule("triton", "cuda", (torch.float32,)),
        Rule("cuda", "cuda", (torch.float32,)),
    ),
    "philox": (
        Rule("cpu", "cpu", (torch.int64,)),
        Rule("triton", "cuda", (torch.int64,)),
        Rule("cuda", "cuda", (torch.int64,)),
    ),
    # Much bookkeeping in one launch each; on a CPU PyTorch's operations are no burden.
    "lanes": (Rule("triton", "cuda", (torch.float32,)),),
    "boundary": (Rule("cpu", "cpu", (torch.float32,)), Rule("triton", "cuda", (torch.float32,))),
    "squares": (Rule("triton", "cuda", (torch.float32,)),),
    # Above, products of whole batches win over one sample's loop.
    "feature_attack": (
        Rule("cpu", "cpu", (torch.float64,), most=128),
        Rule("triton", "cuda", (torch.float64,), most=128),
    ),
}

# What an attack does beside the ops that it is made of. Nobody who forces a backend means these.
_BESIDE = ("lanes", "boundary", "squares")

_forced: str | None = os.environ.get("REGFAST_BACKEND") or None
_interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's kernels on CPU tensors, for tests
_is_compiling = torch.compiler.is_compiling
_in_functorch = torch._C._are_functorch_transforms_active
_functions: dict[tuple[str, str], Callable[..., Any] | str] = {}  # (backend, function), or why there is none
# What of the table this machine has, by (function, device, dtype). Looked up for every call: small losses wait for it.
# A candidate: least, most, multiple, elements, function.
_Candidate: TypeAlias = "tuple[int, int, int, int | None, Callable[..., Any]]"
_candidates: dict[tuple[str, str, torch.dtype], list[_Candidate]] = {}


def find(family: str, function: str, tensor: Tensor, constants: tuple[object, ...] = ()) -> Callable[..., Any]:
    """The function that serves `family`.`function` for tensors like `tensor`.

    Args:
        family: name of the op's module.
        function: name of the function in it.
        tensor: the op's first tensor; its device, dtype and last dimension decide.
        constants: arguments that the fast backends do not differentiate. If one of them requires grad, reference
            serves the call, whatever backend is asked for; as it does inside torch.func's transforms (grad, jvp, vmap
            …) and under forward-mode differentiation.

    Raises:
        BackendError: if a backend is forced (`use_backend`, REGFAST_BACKEND) that cannot serve the call. Families of
            `_BESIDE` that it lacks are left to the table.
        ValueError: if REGFAST_BACKEND is no backend's name.
    """
    _load()
    for constant in constants:
        if isinstance(constant, Tensor) and constant.requires_grad and torch.is_grad_enabled():
            return _served("reference", function)
    if not _is_compiling() and (_in_functorch() or forward_ad._current_level >= 0):
        return _served("reference", function)
    if _forced is not None and not _left_to_the_table(_forced, family):
        return _find_forced(_forced, family, function, tensor)
    device = "cpu" if tensor.is_cpu else tensor.device.type  # making the string takes microseconds
    columns = tensor.shape[-1] if tensor.ndim else 1
    for least, most, multiple, elements, found in _candidates.get((function, device, tensor.dtype), ()):
        if least <= columns <= most and columns % multiple == 0 and (elements is None or tensor.numel() <= elements):
            return found
    return _served("reference", function)


def _left_to_the_table(backend: str, family: str) -> bool:
    """Whether a forced backend leaves this family to the table: small moves of attacks that it has no kernels for."""
    if family not in _BESIDE or backend == "reference":
        return False
    return all(rule.backend != backend for rule in _TABLE[family])


def transformed() -> bool:
    """Whether torch.func's transforms or forward-mode derivatives watch: they see through PyTorch's operations only."""
    return _in_functorch() or forward_ad._current_level >= 0


def _find_forced(backend: str, family: str, function: str, tensor: Tensor) -> Callable[..., Any]:
    device = {"cpu": "cpu", "cuda": "cuda", "triton": "cuda"}.get(backend, tensor.device.type)
    if device != tensor.device.type and not (backend == "triton" and _interpreted):
        raise BackendError(f"backend {backend!r} was asked for, but {function} got a tensor on {tensor.device}")
    dtypes = [rule.dtypes for rule in _TABLE[family] if rule.backend == backend]
    if dtypes and tensor.dtype not in dtypes[0]:
        raise BackendError(f"backend {backend!r} was asked for, but it has no {function} for {tensor.dtype}")
    return _served(backend, function)


def _served(backend: str, function: str) -> Callable[..., Any]:
    if backend not in BACKENDS:
        raise ValueError(f"REGFAST_BACKEND must be one of {', '.join(BACKENDS)}, got {backend!r}")
    found = _functions[backend, function]
    if isinstance(found, str):
        raise BackendError(f"backend {backend!r} can't serve {function}: {found}")
    return found


def _load() -> None:
    """Import, once, every module of the backends that this machine has; note why where there is none."""
    if _functions:
        return
    found: dict[tuple[str, str], Callable[..., Any] | str] = {}
    for backend in BACKENDS:
        reason = unavailable(backend)
        if backend == "cpu" and reason is not None and _forced is None and not torch.cuda.is_available():
            warnings.warn(
                f"regfast runs without its CPU kernels, several times slower ({reason}). With a C++ compiler, "
                "in the sources' folder: pip install --force-reinstall --no-deps . (or set REGFAST_BACKEND=reference)"
            )
        for family, functions in FAMILIES.items():
            module = _import(backend, family) if reason is None else reason
            for function in functions:
                served = module if isinstance(module, str) else getattr(module, function, f"it has no {function}")
                found[backend, function] = served
    fitting: dict[tuple[str, str, torch.dtype], list[_Candidate]] = {}
    for family, functions in FAMILIES.items():
        for rule in _TABLE[family]:
            for function in functions:
                served = found[rule.backend, function]
                if not isinstance(served, str):
                    for dtype in rule.dtypes:
                        candidate = (rule.least, rule.most, rule.multiple, rule.elements, served)
                        fitting.setdefault((function, rule.device, dtype), []).append(candidate)
    _candidates.update(fitting)
    _functions.update(found)  # last: a thread that finds them empty loads for itself


# What torch.compiler.assume_constant_result sets, without importing the compiler: tracing calls it and goes on.
_load._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _import(backend: str, family: str) -> ModuleType | str:
    name = f"regfast.ops.{'native' if backend == 'cpu' else backend}.{family}"
    if backend == "reference":
        return importlib.import_module(name)
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever is wrong with a fast backend, the next one serves, and show_config says why
        if isinstance(error, ModuleNotFoundError) and error.name and name.startswith(error.name):
            return f"it has no {family}"
        return f"{name} cannot be imported: {type(error).__name__}: {error}"


def unavailable(backend: str) -> str | None:
    """Why `backend` can't be used on this machine, None if it can.

    Raises:
        ValueError: for a name that is no backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "reference":
        return None
    if backend == "triton":
        if not _interpreted and not torch.cuda.is_available():
            return "no GPU"
        return _import_error("triton")
    reason = _import_error("regfast._native")
    if reason is not None:
        return f"native extension: {reason}"
    if backend == "cuda":
        if not _native_facts().get("cuda_archs"):
            return "the native extension was built without CUDA"
        if not torch.cuda.is_available():
            return "no GPU"
        archs = str(_native_facts()["cuda_archs"])
        for device in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(device)
            if not _runs_on(archs, (major, minor)):
                name = torch.cuda.get_device_name(device)
                return f"the native extension was built for {archs}, {name} has capability {major}.{minor}"
    return None


def _runs_on(archs: str, capability: tuple[int, int]) -> bool:
    """Whether a GPU of this capability runs code built for `archs`, e.g. `sm_80 sm_90a compute_100`.

    Machine code (sm) runs on the minor versions from its own on (with an `a`: on its own alone), the driver compiles
    intermediate code (compute) for every later GPU.
    """
    for kind, major, minor, special in re.findall(r"(sm|compute)_(\d+)(\d)([af]?)", archs):
        built = int(major), int(minor)
        if capability == built:
            return True
        if special != "a" and built < capability and (capability[0] == built[0] or (kind == "compute" and not special)):
            return True
    return False


def _import_error(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except Exception as error:  # missing, or built against another torch: the other backends still work
        if "undefined symbol" in str(error) or "Symbol not found" in str(error):  # and a long one: nothing to read
            return f"it was built for another PyTorch than {torch.__version__}"
        return f"{type(error).__name__}: {error}"
    return None


def _native_facts() -> dict[str, Any]:
    """How the native extension was built: compiler, ISA variants, `cuda_archs` (empty without CUDA), torch version."""
    return dict(importlib.import_module("regfast._native").build_facts())


class use_backend(contextlib.AbstractContextManager[None]):
    """Force one backend for every op; None lets the table decide again.

    As a plain call it holds until the next one; as a context manager the former choice comes back at the end. It holds
    for the whole process (all threads), as REGFAST_BACKEND does from the start. Calls that only reference can serve
    (a dense target that requires grad) go to reference all the same.

    Raises:
        ValueError: for a name that is no backend.
        BackendError: if the backend is not available on this machine; says why.

    >>> with use_backend("reference"):
    ...     loss = regfast.soft_cross_entropy(torch.zeros(2, 4), torch.tensor([1, 3]))
    """

    def __init__(self, backend: str | None) -> None:
        global _forced
        if backend is not None:
            reason = unavailable(backend)
            if reason is not None:
                raise BackendError(f"backend {backend!r} is not available: {reason}")
        self._former = _forced
        _forced = backend

    def __exit__(self, *_: object) -> None:
        global _forced
        _forced = self._former


def show_config() -> str:
    """What is active on this machine and why, as text: versions, backends, build facts, the backend of every op."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads"
    gpu = torch.cuda.is_available()
    yield f"GPU: {torch.cuda.get_device_name() if gpu else 'none'}"
    for backend in BACKENDS:
        reason = unavailable(backend)
        yield f"backend {backend}: {'available' if reason is None else f'not available ({reason})'}"
    if unavailable("cpu") is None:
        facts = ", ".join(f"{key} {value or 'none'}" for key, value in _native_facts().items())
        yield f"native extension: {facts}"
    if _forced is not None:
        yield f"forced by use_backend or REGFAST_BACKEND: {_forced}"
    for device in ("cpu", "cuda") if gpu else ("cpu",):
        for family, functions in FAMILIES.items():
            for function in functions:
                yield f"{function} on {device}: {', '.join(_serving(family, function, device))}"


def _serving(family: str, function: str, device: str) -> list[str]:
    """Backends that serve a function on a device, in the table's order."""
    if _forced is not None:
        return [_forced]
    _load()
    rules = [rule for rule in _TABLE[family] if rule.device == device]
    found = [rule.backend for rule in rules if not isinstance(_functions[rule.backend, function], str)]
    return [*dict.fromkeys(found), "reference"]
