"""What the CUDA kernels of the loss load and store, counted: the tables of docs/kernels-gpu.md at a few sizes."""

from __future__ import annotations

import pytest
import torch

from tests.cuda_on_cpu import build, losses

pytestmark = pytest.mark.skipif(build.COMPILER is None, reason="no g++ 12 here")


def moved(rows, classes, target, grad_output=1.0):
    """In u, the bytes of the logits: from memory and to it, and a second time from the cache."""
    library = build.library("soft_cross_entropy")
    library.machine("forward", processors=132)
    z = torch.randn(rows, classes)
    with library.counted() as traffic:
        losses.step(z, target, grad_output, met_scale=grad_output != 1)
    return traffic.moved / z.nbytes, traffic.again / z.nbytes


def test_every_byte_is_counted():
    library, grad = build.library("soft_cross_entropy"), torch.randn(3, 1003)
    library.machine("forward")
    for scale, touched in ((1.0, 0), (-1.7, grad.nbytes)):
        with library.counted() as traffic:
            losses.rescale(grad, scale)
        assert (traffic.launches, traffic.stored, traffic.loaded - traffic.again) == (1, touched, touched + 4)
        assert traffic.again == 4 * (3 * 256 // 32 - 1)  # every warp but the first loads the scale again
    losses.rescale(grad, 2.0)  # nobody counts
    assert traffic.launches == 1


# A thread a row, in groups, by a block and by a cluster.
@pytest.mark.parametrize(
    ("rows", "classes", "cached"), [(64, 10, 0.9), (24, 100, 0.3), (8, 1003, 0.03), (4, 9001, 0.06)]
)
@pytest.mark.parametrize("kind", ["hard", "mixed"])
def test_two_of_the_logits_where_the_guess_is_right_else_three(kind, rows, classes, cached):
    first = torch.randint(classes, (rows,))
    target, beside = {"first": first, "index_target": True}, 8
    if kind == "mixed":
        target = {"first": first, "second": first.roll(2), "lam": torch.rand(rows), "smoothing": 0.1}
        beside = 8 + 8 + 4
    for grad_output, most in ((1.0, 2), (0.5, 3)):
        once, again = moved(rows, classes, target, grad_output)
        # The labels' own entries are stored again; of a launch its mean.
        rest = (rows * (beside * (most - 1) + 8) + 200) / (rows * 4 * classes)
        assert most <= once <= most + rest and again <= cached


@pytest.mark.parametrize(("rows", "classes"), [(40, 300), (20, 1003), (20, 9001)])
def test_ignored_rows_cost_their_zeros(rows, classes):
    first = torch.randint(classes, (rows,))
    first[torch.randperm(rows)[: rows * 17 // 20]] = -100
    assert moved(rows, classes, {"first": first, "index_target": True})[0] <= 1.2
    assert moved(rows, classes, {"first": first, "index_target": True}, 0.5)[0] <= 1.37


@pytest.mark.parametrize(("rows", "classes"), [(24, 100), (4, 3001)])
def test_a_dense_target_is_read_once(rows, classes):
    target = {"dense": torch.rand(rows, classes).softmax(1)}
    for grad_output, most in ((1.0, 3), (0.5, 5)):
        once, again = moved(rows, classes, target, grad_output)
        assert most <= once <= most + 0.1 and again <= 0.1


def test_the_page_has_the_counts_of_today():
    pytest.importorskip("triton")
    from benchmarks.gpu import traffic

    made = traffic.table(traffic.by_target(traffic.count_cuda, traffic.TARGETS[:3]), (100, 1000))
    assert set(made.splitlines()) <= set(traffic.PAGE.read_text(encoding="utf-8").splitlines())
