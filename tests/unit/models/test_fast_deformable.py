"""Deformable attention: bags, and the CUDA kernel in Triton's interpreter, against grid_sample, in the maps and out."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import PROJECT

from m2f_batch.models.mask2former.deformable import deformable_attention, with_embedding_bag, with_grid_sample

SIZES = ((2, 3), (4, 6), (8, 11))


def samples_around(sizes, batch=2, heads=3, points=4, spread=8.0):
    """Value [B, N, H, D], and samples [B, M, 3, H, L * P] in the maps and around them."""
    generator = torch.Generator().manual_seed(0)
    pixels = sum(height * width for height, width in sizes)
    value = torch.randn(batch, pixels, heads, 8, generator=generator, dtype=torch.float64)
    samples = torch.randn(batch, 29, 3, heads, len(sizes) * points, generator=generator, dtype=torch.float64)
    return value, samples * spread + 2


@pytest.mark.parametrize("spread", [0.5, 8.0, 1e12])
def test_bags_are_bilinear_samples(spread):
    value, samples = samples_around(SIZES, spread=spread)
    # at corners, borders and pixel centres too
    samples[:, :5, :2] = torch.tensor([-1.0, -0.5, 0.0, 2.0, 10.5], dtype=torch.float64)[:, None, None, None]
    expected = with_grid_sample(value, samples, SIZES)
    assert torch.allclose(with_embedding_bag(value, samples, SIZES), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_samples_that_are_no_number_stay_inside(bad):
    value, samples = samples_around(SIZES)
    samples[0, 3, :2] = bad
    output = deformable_attention(value.float(), samples.float(), SIZES)
    assert output[0, 3].isnan().all() if bad != bad else output[0, 3].eq(0).all()
    samples[0, 3] = 0
    rest = deformable_attention(value.float(), samples.float(), SIZES)
    assert torch.equal(output[0, 4:], rest[0, 4:])
    assert torch.equal(output[1], rest[1])


KERNEL = """
import torch
from test_fast_deformable import SIZES, samples_around
from m2f_batch.models.mask2former.deformable import with_grid_sample
from m2f_batch.models.mask2former.deformable_triton import sample
for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)):
    value, samples = samples_around(SIZES)
    value, samples = value[..., :6].to(dtype), samples.float()  # six channels: no power of two
    expected = with_grid_sample(value, samples, SIZES)
    found = sample(value, samples, SIZES)
    assert found.dtype == dtype and found.shape == expected.shape
    assert torch.allclose(found.float(), expected.float(), rtol=0, atol=tolerance), (found - expected).abs().max()
"""


@pytest.mark.slow
def test_the_cuda_kernel_gives_bilinear_samples():
    pytest.importorskip("triton", reason="triton is not installed")
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": f"{PROJECT / 'tests'}:{PROJECT / 'tests/unit/models'}",
    }
    done = subprocess.run([sys.executable, "-c", KERNEL], capture_output=True, text=True, cwd=PROJECT, env=environment)
    assert done.returncode == 0, done.stderr
