"""Attack objectives by the native extension."""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.ops.objective import Objective

_objective = torch.ops.regfast.objective.default


def objective(logits: Tensor, labels: Tensor, kind: str, targets: Tensor | None) -> Objective:
    """See `regfast.ops.objective.objective`."""
    with torch.no_grad():
        return Objective(*_objective(logits, labels, kind, targets))
