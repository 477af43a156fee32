"""The CUDA C++ objectives, their threads run one by one on the CPU (tests/cuda_on_cpu): the reference's answers."""

from __future__ import annotations

import ctypes

import pytest
import torch

from regfast.ops.objective import KINDS, Objective
from regfast.ops.reference import objective as reference
from tests.cuda_on_cpu import build
from tests.ops import oracle
from tests.ops.triton_inputs import apart, labels, logits, of_a_rows_size

pytestmark = pytest.mark.skipif(build.COMPILER is None, reason="no g++ here")

NAMES = ("ce", "margin", "dlr", "probability-margin")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Arguments(ctypes.Structure):
    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("logits_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("labels", "targets", "loss", "prediction", "gradient")),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int),
        ("kind", ctypes.c_int),
    )


@pytest.fixture(scope="module")
def kernels():
    library = build.library("objective")
    assert library.size_of_arguments() == ctypes.sizeof(Arguments)
    return library


def run(kernels, z, first, kind, targets=None, gap=0):
    rows, columns = z.shape
    with kernels.memory() as memory:
        held = memory.rows("logits", z, gap)
        y = memory.copy("labels", first)
        t = memory.copy("targets", targets) if kind.endswith("-targeted") else None
        loss, prediction = (
            memory.empty("loss", (rows,), torch.float32),
            memory.empty("prediction", (rows,), torch.int64),
        )
        gradient = memory.empty("gradient", (rows, columns), z.dtype)
        arguments = Arguments(
            held.data_ptr(), columns + gap, y.data_ptr(), None if t is None else t.data_ptr(), loss.data_ptr(),
            prediction.data_ptr(), gradient.data_ptr(), rows, columns, NAMES.index(kind.removesuffix("-targeted")),
        )  # fmt: skip
        kernels.check("objective", ctypes.byref(arguments), DTYPES.index(z.dtype))
        return Objective(loss.clone(), prediction.clone(), gradient.clone())


def compare(kernels, z, first, kind, targets, gap=0):
    found = run(kernels, z, first, kind, targets, gap)
    right = reference.objective(z.double(), first, kind, targets)
    assert torch.equal(found.prediction, right.prediction)
    torch.testing.assert_close(found.loss.double(), right.loss, rtol=1e-5, atol=1e-6, equal_nan=True)
    if z.dtype == torch.float32:
        near = of_a_rows_size(found.gradient, right.gradient)
        torch.testing.assert_close(*near, rtol=1e-5, atol=1e-6, equal_nan=True)
    else:
        assert oracle.within_an_ulp(found.gradient, right.gradient) > 0.999


@pytest.mark.parametrize("order", build.ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_objectives(kernels, order, kind):
    kernels.machine(order, seed=2)
    for classes, rows in ((1, 5), (2, 3), (4, 4), (10, 9), (33, 5), (256, 2), (257, 2), (1003, 1)):
        if classes >= KINDS[kind]:
            compare(kernels, apart(rows, classes), labels(rows, classes), kind, labels(rows, classes, 1), gap=3)


@pytest.mark.parametrize("kind", KINDS)
def test_ties_zeros_and_minus_infinity(kernels, kind):
    for classes in (9, 300):
        z = logits(6, classes).round()
        z[1, 3] = z[1, 5] = z[1].max() + 1
        z[0, 7] = -torch.inf
        z[2] = torch.where(torch.arange(classes) % 2 == 0, -0.0, 0.0)  # -0 is no less than 0
        z[3] = -2e30
        for first in (labels(6, classes), z.argmax(1)):
            if kind.startswith("dlr"):
                compare(kernels, z[[0, 1, 4, 5]], first[[0, 1, 4, 5]], kind, first.roll(1)[[0, 1, 4, 5]])
                assert torch.equal(run(kernels, z, first, kind, first.roll(1)).prediction, z.argmax(1))
            else:
                compare(kernels, z, first, kind, first.roll(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(kernels, kind, dtype):
    compare(kernels, logits(4, 20, dtype), labels(4, 20), kind, labels(4, 20, 1))
    compare(kernels, logits(2, 301, dtype), labels(2, 301), kind, labels(2, 301, 1))


def test_a_confident_loss_keeps_its_digits(kernels):
    z = torch.zeros(1, 10)
    z[0, 4] = 25.0
    found = run(kernels, z, torch.tensor([4]), "ce")
    right = reference.objective(z.double(), torch.tensor([4]), "ce")
    torch.testing.assert_close(found.loss.double(), right.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.gradient.double(), right.gradient, rtol=1e-5, atol=0)


def test_bad_labels_are_nan_and_never_an_address(kernels):
    for classes in (5, 300):
        first = torch.tensor([0, -1, classes, 1 << 40])
        good = torch.ones(4, dtype=torch.int64)
        for kind, y, t in (("dlr", first, None), ("dlr-targeted", first, good), ("ce-targeted", good, first)):
            found = run(kernels, logits(4, classes), y, kind, t)
            assert found.loss.isnan().tolist() == [False, True, True, True]
            assert found.gradient.isnan().all(1).tolist() == [False, True, True, True]
            assert found.gradient.isnan().any(1).tolist() == [False, True, True, True]


def test_rows_of_nan_are_nan(kernels):
    z = logits(2, 12)
    z[0, 3] = torch.nan
    for kind in ("ce", "margin", "dlr", "probability-margin"):
        found = run(kernels, z, torch.tensor([1, 1]), kind)
        assert found.loss.isnan().tolist() == [True, False], kind
        assert found.prediction[0] == 3
