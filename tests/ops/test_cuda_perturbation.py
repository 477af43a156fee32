"""The CUDA C++ moves of attacks, run on the CPU (tests/cuda_on_cpu): the reference's answers."""

from __future__ import annotations

import ctypes

import pytest
import torch

from regfast.ops.reference import perturbation as reference
from regfast.ops.reference import philox
from tests.cuda_on_cpu import build
from tests.ops import oracle

pytestmark = pytest.mark.skipif(build.COMPILER is None, reason="no g++ here")

NORMS = {"linf": 0, "l2": 1, "l1": 2}
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
# Odd sizes, rows that begin at every phase of 16 bytes, a row of several blocks, one of a cluster.
SHAPES = [(1, 1), (3, 7), (2, 4), (3, 1030), (2, 2, 3, 5)]
CLUSTERED = (1, 16400)
FLOATS, LONGS = ctypes.c_void_p, ctypes.c_void_p


class PerRow(ctypes.Structure):
    _fields_ = [("values", FLOATS), ("stride", ctypes.c_int), ("value", ctypes.c_float)]


class Box(ctypes.Structure):
    _fields_ = [("lower", ctypes.c_float), ("upper", ctypes.c_float)]


ROWS = [("rows", ctypes.c_int64), ("size", ctypes.c_int)]


class Step(ctypes.Structure):
    _fields_ = [
        *((name, FLOATS) for name in ("point", "gradient", "clean", "previous", "out")),
        *((name, PerRow) for name in ("eps", "length", "momentum", "sparsity")),
        ("box", Box),
        *ROWS,
    ]


class Start(ctypes.Structure):
    _fields_ = [
        ("clean", FLOATS),
        ("out", FLOATS),
        *((name, LONGS) for name in ("samples", "restarts", "steps")),
        ("eps", PerRow),
        ("box", Box),
        ("seed", ctypes.c_uint64),
        ("stage", ctypes.c_int64),
        ("sphere", ctypes.c_bool),
        *ROWS,
    ]


class Projection(ctypes.Structure):
    _fields_ = [(name, FLOATS) for name in ("clean", "delta", "out")] + [("eps", PerRow), ("box", Box), *ROWS]


@pytest.fixture(scope="module")
def kernels():
    library = build.library("perturbation")
    for name, structure in (("step", Step), ("start", Start), ("projection", Projection)):
        assert getattr(library, f"size_of_{name}")() == ctypes.sizeof(structure)
    return library


@pytest.fixture(params=build.ORDERS)
def order(request, kernels):
    kernels.machine(request.param, seed=5)


def number(memory, name, value):
    if isinstance(value, torch.Tensor):
        return PerRow(memory.copy(name, value).data_ptr(), 0 if value.numel() == 1 else 1, 0.0)
    return PerRow(None, 0, value)


def sizes(tensor):
    return len(tensor), tensor[0].numel()


def step(kernels, point, gradient, clean, eps, length, norm, previous, momentum, sparsity, shifts=(None,) * 5):
    """The kernel's answer, from arrays `shifts` elements behind a boundary of 16 bytes (None: up to the page's end)."""
    with kernels.memory() as memory:
        arrays = [
            None if array is None else memory.copy(name, array, shift)
            for name, array, shift in zip(
                ("point", "gradient", "clean", "previous"), (point, gradient, clean, previous), shifts, strict=False
            )
        ]
        out = memory.empty("out", tuple(point.shape), torch.float32, shifts[4])
        numbers = [
            number(memory, name, value)
            for name, value in (("eps", eps), ("length", length), ("momentum", momentum), ("sparsity", sparsity))
        ]
        arguments = Step(
            *(None if a is None else a.data_ptr() for a in arrays), out.data_ptr(), *numbers, Box(0, 1), *sizes(point)
        )
        kernels.check("step", ctypes.byref(arguments), NORMS[norm], DTYPES[gradient.dtype])
        return out.clone()


def points(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(shape, generator=generator)
    point, previous = ((clean + 0.05 * torch.randn(shape, generator=generator)).clamp(0, 1) for _ in range(2))
    gradient = torch.randn(shape, generator=generator)
    gradient.view(-1)[::7] = 0
    return point, gradient, clean, previous


def agree(found, right, norm):
    if norm == "linf":
        assert torch.equal(found, right)
    else:
        torch.testing.assert_close(found, right, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", NORMS)
def test_steps(kernels, order, shape, norm):
    point, gradient, clean, previous = points(shape)
    eps = torch.linspace(0.02, 0.1, len(point)) * (1 if norm == "linf" else 5)
    length, sparsity = eps * 0.6, torch.linspace(0.05, 1.0, len(point))
    for before, momentum in ((None, 1.0), (previous, 0.75), (previous, torch.linspace(0.1, 0.9, len(point)))):
        found = step(kernels, point, gradient, clean, eps, length, norm, before, momentum, sparsity)
        right = reference.perturb_step(point, gradient, clean, eps, length, norm, before, momentum, sparsity=sparsity)
        agree(found, right, norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("clusters", [False, True])
def test_steps_of_long_rows(kernels, norm, clusters):
    kernels.machine("random", seed=3, clusters=clusters)
    point, gradient, clean, previous = points(CLUSTERED)
    eps = {"linf": 0.03, "l2": 2.0, "l1": 30.0}[norm]
    found = step(kernels, point, gradient, clean, eps, eps / 2, norm, previous, 0.75, 0.1)
    agree(found, reference.perturb_step(point, gradient, clean, eps, eps / 2, norm, previous, 0.75, sparsity=0.1), norm)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", NORMS)
def test_steps_with_half_gradients(kernels, dtype, norm):
    point, gradient, clean, _ = points((3, 41))
    gradient = gradient.to(dtype)
    for shifts in ((0,) * 5, (1,) * 5, (1, 3, 2, 0, 1)):
        found = step(kernels, point, gradient, clean, 0.1, 0.02, norm, None, 1.0, 0.3, shifts)
        agree(found, reference.perturb_step(point, gradient, clean, 0.1, 0.02, norm, sparsity=0.3), norm)


def test_steps_without_a_gradient_stay(kernels):
    point, gradient, clean, _ = points((2, 9))
    for norm in NORMS:
        found = step(kernels, point, torch.zeros_like(gradient), clean, 10.0, 0.5, norm, None, 1.0, 0.3)
        torch.testing.assert_close(found, point, rtol=1e-6, atol=1e-7)


def test_a_gradient_that_is_nan_does_not_look_like_a_step(kernels):
    point, gradient, clean, _ = points((2, 9))
    gradient[0, 4] = torch.nan
    found = step(kernels, point, gradient, clean, 0.1, 0.02, "linf", None, 1.0, 1.0)
    assert found.isnan().nonzero().tolist() == [[0, 4]]
    assert step(kernels, point, gradient, clean, 0.1, 0.02, "l2", None, 1.0, 1.0)[0].isnan().all()


@pytest.mark.parametrize("shape", [*SHAPES, CLUSTERED])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["sphere", "ball"])
def test_random_starts(kernels, shape, norm, kind):
    kernels.machine("random", seed=1)
    clean, eps = torch.rand(shape), torch.linspace(0.1, 0.4, shape[0]) * (1 if norm == "linf" else 4)
    sample, restart = torch.arange(shape[0]) + (1 << 33), torch.arange(shape[0])
    seed, stage, steps = (1 << 63) + 3, 3, torch.full((shape[0],), 9)
    for shift in (None, 1):
        with kernels.memory() as memory:
            held, out = memory.copy("clean", clean, shift), memory.empty("out", shape, torch.float32, shift)
            ids = [memory.copy(name, t).data_ptr() for name, t in (("s", sample), ("r", restart), ("t", steps))]
            arguments = Start(
                held.data_ptr(), out.data_ptr(), *ids, number(memory, "eps", eps), Box(0, 1), seed, stage,
                kind == "sphere", *sizes(clean),
            )  # fmt: skip
            kernels.check("start", ctypes.byref(arguments), NORMS[norm])
            found = out.clone()
        agree(found, reference.random_start(clean, eps, norm, seed, sample, stage, restart, steps, start=kind), norm)


@pytest.mark.parametrize("normal", [False, True])
@pytest.mark.parametrize("seed", [0, (1 << 31) + 1, (1 << 33) + 5, (1 << 64) - 1])
def test_random_numbers_are_the_references(seed, normal):
    library = build.library("philox")
    library.draws.argtypes = [*[ctypes.c_void_p] * 4, ctypes.c_uint64, *[ctypes.c_int64] * 2, *[ctypes.c_int] * 2]
    library.machine("random", seed=3)
    sample = torch.tensor([0, 5, (1 << 40) + 7, (1 << 62) + 12345])
    restart, step = torch.tensor([0, 1, 2, (1 << 24) - 1]), torch.tensor([0, 7, (1 << 32) - 1, 3])
    for count in (1, 5, 1025):
        with library.memory() as memory:
            out = memory.empty("out", (4, count), torch.float32)
            ids = [memory.copy(name, t).data_ptr() for name, t in (("s", sample), ("r", restart), ("t", step))]
            stage = 127 | 0x80 if normal else 127
            library.check("draws", out.data_ptr(), *ids, seed, stage, 4, count, int(normal))
            right = (philox.normal if normal else philox.uniform)(seed, sample, 127, restart, step, count)
            assert torch.equal(out, right)


@pytest.mark.parametrize("eps", [0.0, 0.5, 5.0, 1e6])
def test_l1_projection(kernels, order, eps):
    clean, delta = torch.rand(3, 301), torch.randn(3, 301)
    clean[0, :5], clean[1, :5] = 0, 1
    with kernels.memory() as memory:
        held, moved = memory.copy("clean", clean), memory.copy("delta", delta)
        out = memory.empty("out", (3, 301), torch.float32)
        arguments = Projection(
            held.data_ptr(), moved.data_ptr(), out.data_ptr(), number(memory, "eps", eps), Box(0, 1), 3, 301
        )
        kernels.check("projection", ctypes.byref(arguments))
        found = out.clone()
    torch.testing.assert_close(found.double(), oracle.l1_box(clean, delta, torch.full((3,), eps)), rtol=1e-5, atol=1e-6)
