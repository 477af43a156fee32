import math

import pytest
import torch

from regfast.representation import feature_displacement


def test_parts_of_a_known_displacement():
    clean = torch.tensor([[2.0, 0.0], [0.0, 5.0], [1.0, 0.0]])
    moved = torch.tensor([[-1.0, 1.0], [0.0, -2.0], [3.0, 0.0]])
    part = feature_displacement(clean, clean + moved)
    torch.testing.assert_close(part.radial, torch.tensor([-1.0, -2.0, 3.0]))
    torch.testing.assert_close(part.tangential, torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(part.norm, torch.tensor([math.sqrt(2), 2.0, 3.0]))
    torch.testing.assert_close(part.toward_origin, torch.tensor([math.sqrt(0.5), 1.0, -1.0]))


def test_parts_add_up_and_double_stays_double():
    generator = torch.Generator().manual_seed(0)
    clean, attacked = torch.randn(2, 50, 30, generator=generator, dtype=torch.float64)
    part = feature_displacement(clean, attacked)
    assert part.norm.dtype == torch.float64
    torch.testing.assert_close(part.norm**2, part.radial**2 + part.tangential**2)
    expected = torch.nn.functional.cosine_similarity(attacked - clean, -clean)
    torch.testing.assert_close(part.toward_origin, expected)
    assert feature_displacement(clean.half(), attacked.half()).norm.dtype == torch.float32


def test_what_did_not_move_has_no_direction():
    part = feature_displacement(torch.ones(1, 3), torch.ones(1, 3))
    assert (float(part.norm), float(part.radial), float(part.tangential)) == (0, 0, 0)
    assert math.isnan(float(part.toward_origin))
    assert math.isnan(float(feature_displacement(torch.zeros(1, 3), torch.ones(1, 3)).radial))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="attacked must have shape"):
        feature_displacement(torch.zeros(2, 3), torch.zeros(3, 3))
