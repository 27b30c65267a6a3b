"""A convolution at the size of each map is that of the enlarged maps, joined."""

import pytest
import torch
from torch.nn.functional import conv2d, interpolate

from m2f_batch.models.fast_layers.enlarged import convolved, is_convolved_small

SIZES = {
    "halves": [(16, 24), (8, 12), (4, 6)],
    "odd": [(17, 23), (9, 12), (5, 6), (3, 3)],
    "one row": [(1, 9), (1, 5)],
    "one column": [(9, 1), (5, 1)],
    "one pixel": [(4, 4), (1, 1)],
    "equal": [(5, 7), (5, 7)],
    "the first alone": [(5, 7)],
}


def joined(maps, weight):
    size = maps[0].shape[2:]
    return conv2d(torch.cat([interpolate(x, size=size, mode="bilinear") for x in maps], 1), weight, padding=1)


@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_maps_are_convolved_as_if_enlarged_and_joined(case, dtype, most):
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 3 + at, *size, generator=generator, dtype=dtype) for at, size in enumerate(SIZES[case])]
    weight = torch.randn(5, sum(x.shape[1] for x in maps), 3, 3, generator=generator, dtype=dtype)
    before = [x.clone() for x in maps]
    assert is_convolved_small(maps[0])
    with torch.inference_mode():
        torch.testing.assert_close(convolved(maps, weight), joined(maps, weight), rtol=0, atol=most)
    assert all(torch.equal(x, y) for x, y in zip(maps, before, strict=True))


def test_half_precision_keeps_to_torch_s_own():
    maps = [torch.randn(1, 4, 8, 8).bfloat16(), torch.randn(1, 4, 4, 4).bfloat16()]
    weight = torch.randn(3, 8, 3, 3).bfloat16()
    assert not is_convolved_small(maps[0])
    assert torch.equal(convolved(maps, weight), joined(maps, weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_convolved_small(maps[0].float())
