"""Launch every kernel once or twice on small inputs of awkward shape: what the sanitizer watches."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from regfast.ops import dispatch, lanes
from regfast.ops.boundary import boundary_step
from regfast.ops.feature_attack import feature_attack
from regfast.ops.feature_stats import feature_stats
from regfast.ops.linear_soft_cross_entropy import linear_soft_cross_entropy
from regfast.ops.objective import KINDS, objective
from regfast.ops.perturbation import l1_box_projection, perturb_step, random_start
from regfast.ops.philox import normal, uniform
from regfast.ops.soft_cross_entropy import soft_cross_entropy, soft_cross_entropy_stats
from regfast.ops.squares import repaint
from regfast.ops.target import Target

ROWS, FEATURES = 37, 19


def losses(classes: int, dtype: torch.dtype) -> None:
    held = torch.randn(ROWS * classes + 1, device="cuda").to(dtype)
    z = held[1:].view(ROWS, classes).requires_grad_()  # not at a 16-byte boundary
    first = torch.arange(ROWS, device="cuda") % classes
    second, mix = first.flip(0), torch.rand(ROWS, device="cuda")
    dense = torch.rand(ROWS, classes, device="cuda")
    weights = {"class_weight": torch.rand(classes, device="cuda"), "sample_weight": torch.rand(ROWS, device="cuda")}
    bad = first.clone()
    bad[3], bad[4], bad[5] = -100, classes, 1 << 40
    for arguments in (
        {"first": bad, "index_target": True},
        {"first": first, "second": second, "lam": mix, "smoothing": 0.1, **weights},
        {"dense": dense, "smoothing": 0.1},
    ):
        for reduction in ("mean", "none"):
            loss = soft_cross_entropy(z, Target(**arguments, reduction=reduction))
            torch.autograd.grad(loss, z, torch.full_like(loss, 2.0))


def statistics(classes: int) -> None:
    z = torch.randn(ROWS, classes, device="cuda", requires_grad=True)
    first = torch.arange(ROWS, device="cuda") % classes
    features = torch.randn(ROWS, FEATURES, device="cuda", requires_grad=True)
    centers = torch.randn(classes, FEATURES, device="cuda")
    loss, stats = soft_cross_entropy_stats(z, Target(first), features, centers, feature_grad=True)
    assert stats.rms is not None and stats.cosine is not None
    (loss + stats.rms.sum() + stats.cosine.sum()).backward()
    feature_stats(features, centers, first, stats.prediction).cosine.sum().backward()


def attacks(classes: int) -> None:
    z, first = torch.randn(ROWS, classes, device="cuda"), torch.arange(ROWS, device="cuda") % classes
    for kind, least in KINDS.items():
        if classes >= least:
            objective(z, first, kind, first.flip(0))


def steps(shape: tuple[int, ...]) -> None:
    clean, point, gradient, previous = torch.rand(4, *shape, device="cuda")
    sample = torch.arange(shape[0], device="cuda")
    eps: Tensor = torch.rand(shape[0], device="cuda")
    for norm in ("linf", "l2", "l1"):
        perturb_step(point, gradient - 0.5, clean, eps, 0.1, norm, previous, 0.75, sparsity=0.3)  # type: ignore[arg-type]
        random_start(clean, eps, norm, 7, sample)  # type: ignore[arg-type]
        random_start(clean, eps, norm, 7, sample, start="ball")  # type: ignore[arg-type]
        boundary_step(point, clean, eps - 0.5, gradient - 0.5, eps > 0.5, 1.05, 0.1, 0.9, norm)  # type: ignore[arg-type]
    best, image = (tensor.view(shape[0], 1, -1, shape[-1]) for tensor in (point, clean))
    for radius in (0.1, eps, image):
        repaint(best, image, torch.rand(shape[0], 3, device="cuda"), sample * 0 + 1, radius)
    l1_box_projection(clean, gradient - 0.5, eps)
    lanes.near_one(gradient)
    lanes.predicted(gradient.flatten(1))
    may, ends = eps > 0.5, torch.ones(9, device="cuda")
    kept = previous, eps.clone(), sample.clone()
    lanes.judge(point, eps, sample, sample, sample, may, may, *kept, reach=False, steps=7)
    lanes.ascend(point, gradient, eps, sample % 8, clean, previous, eps, eps, eps, eps, eps, may, ends, eps, 0.75)
    for draw in (uniform, normal):
        draw(7, sample, 1, 2, 3, 1001)


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing to launch")
    for backend in ("triton", "cuda"):
        reason = dispatch.unavailable(backend)
        if reason is not None:
            print(f"{backend}: skipped, {reason}")
            continue
        with dispatch.use_backend(backend):
            for classes in (1, 10, 32, 33, 1003, 21841, 65537):
                losses(classes, torch.float32)
            for classes in (10, 1003):
                losses(classes, torch.bfloat16)
            for classes in (2, 10, 1003, 20001):
                attacks(classes)
            for shape in ((5, 3, 33), (2, 9001), (1, 40001)):
                steps(shape)
        torch.cuda.synchronize()
        print(f"{backend}: losses and attacks launched")
    for classes in (2, 10, 1003, 20001):
        statistics(classes)
    head = torch.randn(10, FEATURES, device="cuda", dtype=torch.float64)
    z = torch.randn(ROWS, FEATURES, device="cuda", dtype=torch.float64) @ head.t()
    eps = torch.full((ROWS,), 0.5, device="cuda", dtype=torch.float64)
    for linf in (False, True):
        feature_attack(z, head, z.argmax(1), eps, eps / 4, 3, linf=linf, margin=linf)
    x = torch.randn(ROWS, FEATURES, device="cuda", requires_grad=True)
    weight = torch.randn(101, FEATURES, device="cuda", requires_grad=True)
    linear_soft_cross_entropy(x, weight, None, Target(torch.arange(ROWS, device="cuda"))).backward()
    torch.cuda.synchronize()
    print("every kernel launched")


if __name__ == "__main__":
    main()
