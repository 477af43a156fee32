"""Heads with known answers."""

import torch


def simplex(num_classes, dim=None, scale=1.0, seed=0):
    """Simplex ETF weights (K, d) float64 of norm ``scale``, in a random orthogonal frame of d >= K - 1 dimensions."""
    dim = dim or num_classes
    generator = torch.Generator().manual_seed(seed)
    frame = torch.linalg.qr(torch.randn(max(dim, num_classes), num_classes, generator=generator, dtype=torch.float64))[
        0
    ]
    rows = (torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes) @ frame.T
    return scale * rows / rows.norm(dim=1, keepdim=True)


def random_head(num_classes, dim, seed=0, bias=1.0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    return weight, bias * torch.randn(num_classes, generator=generator, dtype=torch.float64)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)
