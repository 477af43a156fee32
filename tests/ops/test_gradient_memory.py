"""Large gradients on the CPU get the memory of earlier ones: never of one that is still alive."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch
from torch.nn import functional

from regfast.functional import linear_soft_cross_entropy, soft_cross_entropy, soft_cross_entropy_stats

pytest.importorskip("regfast._native")

ROWS, CLASSES = 256, 1003  # 1 MB


def gradient(seed: int, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours and PyTorch's."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, CLASSES, generator=generator, requires_grad=True)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    (own,) = torch.autograd.grad(soft_cross_entropy(logits, labels), logits)
    (expected,) = torch.autograd.grad(functional.cross_entropy(logits, labels), logits)
    return own, expected


def test_living_gradients_share_nothing():
    pairs = [gradient(seed, ROWS + seed) for seed in range(6)]
    assert len({own.data_ptr() for own, _ in pairs}) == len(pairs)
    for own, expected in pairs:
        torch.testing.assert_close(own, expected)


def test_a_freed_gradient_leaves_its_memory_to_the_next():
    first, _ = gradient(0)
    place = first.data_ptr()
    first.fill_(torch.nan)
    del first
    second, expected = gradient(1)
    assert second.data_ptr() == place
    torch.testing.assert_close(second, expected)


def test_a_view_keeps_the_memory():
    whole, expected = gradient(0)
    row = whole[3]
    del whole
    others = [gradient(seed) for seed in range(1, 4)]
    torch.testing.assert_close(row, expected[3])
    assert all(other.data_ptr() != row.untyped_storage().data_ptr() for other, _ in others)


def test_a_gradient_can_grow():
    own, _ = gradient(0)
    kept = own.clone()
    own.resize_(2 * ROWS, CLASSES)
    torch.testing.assert_close(own[:ROWS], kept)


@pytest.mark.parametrize("retain", [False, True])
def test_a_leaf_takes_the_gradient_over_unless_the_graph_is_retained(retain):
    logits = torch.randn(ROWS, CLASSES, requires_grad=True)
    features, weight = torch.randn(64, 32, requires_grad=True), torch.randn(CLASSES, 32, requires_grad=True)
    labels = torch.randint(CLASSES, (ROWS,))
    for loss in (
        soft_cross_entropy(logits, labels),
        soft_cross_entropy_stats(logits, labels)[0],
        linear_soft_cross_entropy(features, weight, None, labels[:64]),
    ):
        with torch.autograd.profiler.profile() as profile:
            loss.backward(retain_graph=retain)
        copied = {event.key for event in profile.key_averages()} & {"aten::clone", "aten::copy_", "aten::mul"}
        assert bool(copied) == retain
        logits.grad = None


def test_threads():
    wrong = []

    def work(seed: int) -> None:
        for step in range(20):
            own, expected = gradient(100 * seed + step, ROWS + 10 * seed)
            if not torch.allclose(own, expected, atol=1e-8):
                wrong.append((seed, step))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_threads_use_it():
    """A child has the lock of the memory as it was, and none of the threads that might hold it."""
    logits, labels = torch.randn(64, 1024), torch.randint(1024, (64,))  # the smallest that is kept
    forward = torch.ops.regfast.soft_cross_entropy_forward
    rest = (None, None, 1.0, None, None, 0.0, None, None, -100, 1, True, 0.0)

    def use() -> torch.Tensor:
        return forward(logits, labels, *rest, True)[1]

    kept = [use() for _ in range(900)]  # to look through them takes long enough to be forked meanwhile
    del kept
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            use()

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a pool of threads would be another thing that a child lacks
    threads = [threading.Thread(target=work) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        hung = 0
        for _ in range(60):
            child = os.fork()
            if child == 0:
                use()
                os._exit(0)
            deadline = time.monotonic() + 20
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    hung += 1
                    break
                time.sleep(0.002)
            if hung:
                break
        assert not hung
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        torch.set_num_threads(before)


def test_memory_is_filled_where_torch_is_asked_to():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        own, expected = gradient(0)
    finally:
        torch.use_deterministic_algorithms(before)
    torch.testing.assert_close(own, expected)
