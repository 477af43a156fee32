from __future__ import annotations

import os

import pytest
import torch

from regfast.ops import dispatch
from regfast.ops.feature_attack import feature_attack
from regfast.ops.reference.feature_attack import feature_attack as reference


def case(classes, width, rows=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    logits = torch.randn(rows, width, generator=generator, dtype=torch.float64) @ weight.T
    labels = logits.argmax(1)
    labels[:5] = (labels[:5] + 1) % classes  # lost from the start
    eps = torch.rand(rows, generator=generator, dtype=torch.float64) * width**0.5 / 4
    return logits, weight, labels, eps, eps / 3


@pytest.mark.parametrize("linf", [False, True])
@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize(("classes", "width"), [(2, 1), (10, 9), (5, 40), (130, 20)])
def test_native_is_reference(classes, width, margin, linf):
    if dispatch.unavailable("cpu") is not None:
        pytest.skip("no native extension")
    arguments = case(classes, width)
    expected = reference(*arguments, 7, linf=linf, margin=margin)
    with dispatch.use_backend("cpu"):
        got = feature_attack(*arguments, 7, linf=linf, margin=margin)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    assert bool((got[:5] == 0).all())


def test_native_survives_what_is_far_out_or_broken():
    if dispatch.unavailable("cpu") is not None:
        pytest.skip("no native extension")
    logits, weight, labels, eps, size = case(6, 4, rows=12)
    logits[5] *= 1e4
    logits[6] = float("nan")
    eps[7] = 0
    expected = reference(logits, weight, labels, eps, size, 5, linf=False, margin=False)
    with dispatch.use_backend("cpu"):
        got = feature_attack(logits, weight, labels, eps, size, 5, linf=False, margin=False)
        torch.testing.assert_close(got, expected)
        assert bool((got[[6, 7]] == 0).all())
        assert feature_attack(logits[:0], weight, labels[:0], eps[:0], size[:0], 5, linf=True, margin=True).shape == (
            0,
            4,
        )
        with pytest.raises(IndexError, match="class 6"):
            feature_attack(logits, weight, labels.fill_(6), eps, size, 5, linf=False, margin=False)
        with pytest.raises(ValueError, match="eps"):
            feature_attack(logits, weight, labels.fill_(0), eps[:3], size, 5, linf=False, margin=False)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="with a GPU tests/gpu runs the kernel itself")
class TestTriton:
    """The kernel under Triton's interpreter."""

    @pytest.fixture(autouse=True)
    def small_tiles(self, monkeypatch):
        self.kernel = pytest.importorskip("regfast.ops.triton.feature_attack")
        monkeypatch.setattr(self.kernel, "_TILE", 256)  # several tiles a row

    @pytest.mark.parametrize("linf", [False, True])
    @pytest.mark.parametrize("margin", [False, True])
    @pytest.mark.parametrize(("classes", "width"), [(2, 1), (10, 9), (5, 40), (17, 33)])
    def test_is_reference(self, classes, width, margin, linf):
        arguments = case(classes, width, rows=25)
        expected = reference(*arguments, 7, linf=linf, margin=margin)
        got = self.kernel.feature_attack(*arguments, 7, linf=linf, margin=margin)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
        assert bool((got[:5] == 0).all()) and bool((got[5:] != 0).any())

    def test_survives_what_is_far_out_or_broken(self):
        logits, weight, labels, eps, size = case(6, 4, rows=12)
        logits[5] *= 1e4
        logits[6] = float("nan")
        eps[7] = 0
        for linf in (False, True):
            expected = reference(logits, weight, labels, eps, size, 5, linf=linf, margin=False)
            got = self.kernel.feature_attack(logits, weight, labels, eps, size, 5, linf=linf, margin=False)
            torch.testing.assert_close(got, expected)
            assert bool((got[[6, 7]] == 0).all())
        nothing = self.kernel.feature_attack(
            logits[:0], weight, labels[:0], eps[:0], size[:0], 5, linf=True, margin=True
        )
        assert nothing.shape == (0, 4)
        labels[1], labels[2] = 6, -1
        got = self.kernel.feature_attack(logits, weight, labels, eps, size, 5, linf=False, margin=False)
        assert got.isnan().any(1).nonzero().flatten().tolist() == [1, 2]

    def test_compiles_into_one_graph(self):
        arguments = case(4, 6, rows=7)

        def attack(*tensors):
            return self.kernel.feature_attack(*tensors, 3, linf=False, margin=True)

        torch._dynamo.reset()
        got = torch.compile(attack, backend="aot_eager", fullgraph=True)(*arguments)
        torch.testing.assert_close(got, attack(*arguments), rtol=0, atol=0)

    def test_other_precisions_are_refused(self):
        logits, weight, labels, eps, size = case(4, 6, rows=7)
        with pytest.raises(TypeError, match="logits must be float64 for the triton backend"):
            self.kernel.feature_attack(logits.float(), weight, labels, eps, size, 3, linf=False, margin=True)


def test_a_step_of_zero_length_and_no_steps():
    logits, weight, labels, eps, size = case(3, 2, rows=10)
    for steps, pace in ((0, size), (4, 0 * size)):
        moved = feature_attack(logits, weight, labels, eps, pace, steps, linf=False, margin=False)
        assert bool((moved == 0).all())
