"""What the ops must answer, written in float64 from the definitions, for small inputs and without regard to speed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def mixture(first: Tensor, second: Tensor | None, weight: Any, smoothing: float, classes: int) -> Tensor:
    """The (B, K) float64 matrix (1-s)(λ e_first + (1-λ) e_second) + s/K; labels out of range are left out."""
    q = torch.zeros(len(first), classes, dtype=torch.float64)
    share = torch.as_tensor(weight, dtype=torch.float64).expand(len(first))
    for row in range(len(first)):
        parts = [(first, 1.0)] if second is None else [(first, float(share[row])), (second, 1 - float(share[row]))]
        for labels, part in parts:
            if 0 <= int(labels[row]) < classes:
                q[row, labels[row]] += (1 - smoothing) * part
    return q + smoothing / classes


def losses(logits: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Per-row loss Σ q_c (lse - z_c) over q_c ≠ 0, and its gradient Q p - q, float64."""
    z = logits.detach().double()
    lse = z.logsumexp(1)
    terms = q * (lse.unsqueeze(1) - z)
    loss = torch.where(q == 0, 0.0, terms).sum(1)
    return loss, q.sum(1, keepdim=True) * (z - lse.unsqueeze(1)).exp() - q


def statistics(logits: Tensor, true: Tensor) -> dict[str, Tensor]:
    """log_partition, confidence, prediction, entropy and margin per row, float64, by loops over classes."""
    z = logits.detach().double()
    out: dict[str, list[float]] = {
        name: [] for name in ("log_partition", "confidence", "prediction", "entropy", "margin")
    }
    for row, label in zip(z, true.tolist(), strict=True):
        lse = float(row.logsumexp(0))
        p = [math.exp(v - lse) for v in row.tolist()]
        others = [v for j, v in enumerate(row.tolist()) if j != label]
        out["log_partition"].append(lse)
        out["confidence"].append(max(p))
        out["prediction"].append(row.tolist().index(max(row.tolist())))
        out["entropy"].append(-sum(v * math.log(v) for v in p if v > 0))
        out["margin"].append(float(row[label]) - max(others, default=-math.inf))
    as_tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in out.items()}
    return as_tensors | {"prediction": as_tensors["prediction"].long()}


def geometry(features: Tensor, centers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """rms and cosine to centers[labels], float64."""
    v, c = features.detach().double(), centers.double()[labels]
    lengths = v.norm(dim=1) * c.norm(dim=1)
    cosine = torch.where(lengths == 0, 0.0, (v * c).sum(1) / torch.where(lengths == 0, 1.0, lengths))
    return v.norm(dim=1) / v.shape[1] ** 0.5, cosine


def objective(z: Tensor, labels: Tensor, kind: str, targets: Tensor) -> Tensor:
    """The values of `regfast.ops.objective`, row by row with a full sort; differentiable where there are no ties."""
    values = []
    for row, y, t in zip(z, labels.tolist(), targets.tolist(), strict=True):
        order = row.sort(descending=True).values
        p = row.softmax(0)
        rest = torch.cat((row[:y], row[y + 1 :]))
        values.append(
            {
                "ce": lambda row=row, y=y: row.logsumexp(0) - row[y],
                "ce-targeted": lambda row=row, t=t: row[t] - row.logsumexp(0),
                "margin": lambda row=row, y=y, rest=rest: rest.max() - row[y],
                "margin-targeted": lambda row=row, y=y, t=t: row[t] - row[y],
                "dlr": lambda row=row, y=y, rest=rest, o=order: -(row[y] - rest.max()) / (o[0] - o[2] + 1e-12),
                "dlr-targeted": lambda row=row, y=y, t=t, o=order: (
                    -(row[y] - row[t]) / (o[0] - 0.5 * (o[2] + o[3]) + 1e-12)
                ),
                "probability-margin": lambda p=p, y=y: torch.cat((p[:y], p[y + 1 :])).max() - p[y],
                "probability-margin-targeted": lambda p=p, y=y, t=t: p[t] - p[y],
            }[kind]()
        )
    return torch.stack(values)


def l1_box(clean: Tensor, delta: Tensor, eps: Tensor) -> Tensor:
    """The projection of `delta` (B, n) to the l1 ball and the box [0, 1] around `clean`, by bisection on μ."""
    clean, delta, eps = clean.double(), delta.double(), eps.double().unsqueeze(1)
    room = torch.where(delta > 0, 1 - clean, clean)

    def at(mu: Tensor) -> Tensor:
        return delta.sign() * (delta.abs() - mu).clamp(min=0).minimum(room)

    low, high = torch.zeros_like(eps), delta.abs().amax(1, keepdim=True)
    for _ in range(100):
        middle = (low + high) / 2
        over = at(middle).abs().sum(1, keepdim=True) > eps
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return torch.where(at(torch.zeros_like(eps)).abs().sum(1, keepdim=True) <= eps, at(torch.zeros_like(eps)), at(high))


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> list[int]:
    """Philox4x32-10 in Python integers (Salmon et al. 2011, section 3.3)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def within_an_ulp(got: Tensor, exact: Tensor, terms: Tensor | float = 0.0) -> float:
    """Share of the elements of `got` (a 16-bit dtype) within one unit in the last place of `exact` rounded to it.

    A difference of float32 `terms` that nearly cancel is as good as they are: 2 ulp of theirs are allowed besides.
    """
    rounded = exact.to(got.dtype)
    if got.dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"expected a 16-bit floating dtype, got {got.dtype}")

    def order(x: Tensor) -> Tensor:
        bits = x.contiguous().view(torch.int16).long()
        return torch.where(bits < 0, -32768 - bits, bits)

    near = (got.double() - exact).abs() <= 2.0**-22 * terms
    return (near | ((order(got) - order(rounded)).abs() <= 1)).double().mean().item()
