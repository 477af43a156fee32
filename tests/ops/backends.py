"""Which backends can serve an op on this machine's CPU: every test of an op runs once for each."""

from __future__ import annotations

import pytest
import torch

from regfast.ops import dispatch


def on_cpu(family: str, function: str | None = None) -> pytest.MarkDecorator:
    """Run the test once per backend that serves `family`.`function` on CPU tensors, with that backend forced."""
    names = []
    for name in ("reference", "cpu"):
        if dispatch.unavailable(name) is None:
            with dispatch.use_backend(name):
                try:
                    dtype = torch.int64 if family == "philox" else torch.float32
                    dispatch.find(family, function or family, torch.empty(1, 1, dtype=dtype))
                except dispatch.BackendError:
                    continue
            names.append(name)
    return pytest.mark.parametrize("backend", names, indirect=True)
