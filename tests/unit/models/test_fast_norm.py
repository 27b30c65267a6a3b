"""GroupNorm of channels-last pixels against torch's in float64, where torch's own kernel for that order is far off."""

import pytest
import torch
from torch import nn

from m2f_batch.models.fast_layers.linear import map_of
from m2f_batch.models.fast_layers.norm import group_norm_


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (64, 40)])
@pytest.mark.parametrize("batch", [1, 3])
def test_group_norm_is_exact_where_means_are_large(batch, size):
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 12).requires_grad_(False)
    norm.weight.normal_(), norm.bias.normal_()
    pixels = torch.randn(batch, size[0] * size[1], 12) + 30 * torch.randn(12)
    expected = nn.GroupNorm(4, 12).double()
    expected.load_state_dict(norm.state_dict())
    found = group_norm_(pixels.clone(), norm, size)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(found.double(), expected(map_of(pixels.double(), size)), rtol=0, atol=1e-5)
    exact = group_norm_(pixels.double(), expected.requires_grad_(False), size)
    assert torch.allclose(exact, expected(map_of(pixels.double(), size)), rtol=0, atol=1e-11)


def test_lower_precision_is_left_to_torch():
    norm = nn.GroupNorm(4, 12).bfloat16().requires_grad_(False)
    pixels = torch.randn(2, 15, 12).bfloat16()
    assert torch.equal(group_norm_(pixels, norm, (3, 5)), norm(map_of(pixels, (3, 5))))
