"""Public functions with one wrong or unusual argument: an answer, or an error that names the argument.

Nothing else is allowed: no AttributeError or KeyError, no shape message of torch's own, no crash, no hang.
"""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import regfast
from tests.fuzz.calls import CALLS, OTHER_WAYS, TENSOR_WAYS, spoiled

QUICK, THOROUGH = 10, 200  # calls of each function: some 500 in all, and 10,000
SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
WAYS = sorted({*TENSOR_WAYS, *OTHER_WAYS})
LOOPS = ("steps", "max_iterations", "halvings", "resamples")  # 2**70 of them is no mistake, only long


def check(name: str, seed: int, data: st.DataObject) -> None:
    function, arguments = CALLS[name](torch.Generator().manual_seed(seed))
    place = data.draw(st.sampled_from(sorted(arguments)))
    how = data.draw(st.sampled_from(WAYS if isinstance(arguments[place], torch.Tensor) else sorted(OTHER_WAYS)))
    assume(not (place in LOOPS and how == "2**70"))
    arguments[place] = spoiled(arguments[place], how)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(**arguments)
    except (ValueError, TypeError, IndexError) as error:
        said = str(error)
        assert len(said) < 1000, f"{name}({place}: {how}): {len(said)} characters of error"
        names = [parameter for parameter in inspect.signature(function).parameters if parameter in said]
        assert names, f"{name}({place}: {how}) names no argument: {type(error).__name__}: {said}"
    except Exception as error:
        raise AssertionError(f"{name}({place}: {how}): {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("name", CALLS)
def test_every_call_is_right(name):
    function, arguments = CALLS[name](torch.Generator().manual_seed(torch.initial_seed()))
    function(**arguments)


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=QUICK, **SETTINGS)
@given(seed=st.integers(0, 2**31), data=st.data())
def test_spoiled_arguments(name, seed, data):
    check(name, seed, data)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=THOROUGH, **SETTINGS)
@given(seed=st.integers(0, 2**31), data=st.data())
def test_spoiled_arguments_thoroughly(name, seed, data):
    check(name, seed, data)


@settings(max_examples=60, **SETTINGS)
@given(
    rows=st.integers(0, 5),
    classes=st.integers(1, 40),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    smoothing=st.floats(0, 1),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    kind=st.sampled_from(["index", "dense", "mixed"]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_the_loss_is_torchs_in_float64(rows, classes, scale, smoothing, reduction, kind, weighted, seed):
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, classes, generator=g) * scale).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    first, second = torch.randint(classes, (2, rows), generator=g)
    lam = torch.rand(rows, generator=g)
    weight = torch.rand(classes, generator=g) + 0.1 if weighted else None
    if kind == "index":
        target, dense = first, first
    elif kind == "dense":
        target = torch.rand(rows, classes, generator=g)
        dense = target.double()
    else:
        target = regfast.SoftTargets(first, second, lam, num_classes=classes)
        dense = target.dense().double()
    options = {"reduction": reduction, "label_smoothing": smoothing}
    mine = regfast.soft_cross_entropy(logits, target, class_weight=weight, **options)
    right = F.cross_entropy(exact, dense, None if weight is None else weight.double(), **options)
    torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=1e-5 * scale, equal_nan=True)
    if rows:
        mine.sum().backward()
        right.sum().backward()
        torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
