"""Products with their activation and residual in one pass, against the same in float64."""

import pytest
import torch
import torch.nn.functional as F

from m2f_batch.models.fast_layers.linear import _opaque_onednn, batched_product, join, product

ACTIVATIONS = {"none": lambda y: y, "relu": F.relu, "gelu": F.gelu}


def tensors(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [None, (2, 5, 7), (1, 5, 7), (7,)], ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_product_is_what_it_says(activation, residual, with_bias):
    x, weight, bias, added = tensors((2, 5, 6), (7, 6), (7,), residual or (1,))
    bias, added = bias if with_bias else None, added if residual else None
    found = product(x, weight, bias, activation, added)
    double = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    expected = ACTIVATIONS[activation](double) + (0 if added is None else added.double())
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=0, atol=1e-5)
    exact = product(x.double(), weight.double(), None if bias is None else bias.double(), activation, added)
    assert torch.allclose(exact, expected, rtol=0, atol=1e-6 if added is not None else 1e-12)


def test_a_product_of_no_rows():
    x, weight = tensors((0, 6), (7, 6))
    assert product(x, weight, activation="gelu").shape == (0, 7)


def test_products_of_a_batch():
    x, y = tensors((3, 4, 6), (3, 5, 6))
    assert torch.allclose(batched_product(x, y), x @ y.mT, atol=1e-5)


def test_joined_layers_give_the_outputs_of_all():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, size) for size in (3, 1, 2)]
    (x,) = tensors((5, 4))
    assert torch.allclose(join(*layers)(x), torch.cat([layer(x) for layer in layers], dim=1), atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_compiler_is_told_the_truth_about_a_product(activation):
    x, weight, bias, added = tensors((2, 5, 6), (7, 6), (7,), (2, 5, 7))
    torch.library.opcheck(_opaque_onednn, (x, weight, bias, activation, None))
    if activation == "none":
        torch.library.opcheck(_opaque_onednn, (x, weight, None, activation, added))
