from __future__ import annotations

import pytest
import torch

from regfast.ops import dispatch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a GPU, and says so."""
    for item in items:
        if "/gpu/" in str(item.path):
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(params=["triton", "cuda"])
def gpu_backend(request: pytest.FixtureRequest):
    """Force each GPU backend in turn."""
    reason = dispatch.unavailable(request.param)
    if reason is not None:
        pytest.skip(f"backend {request.param}: {reason}")
    with dispatch.use_backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def poisoned():
    """torch.empty is filled with NaN (integers: the largest), so that an entry no kernel wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
