from __future__ import annotations

from collections.abc import Iterator

import pytest

import regfast


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Force the backend that the test is parametrized with."""
    with regfast.use_backend(request.param):
        yield request.param
