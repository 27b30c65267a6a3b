"""Quick parts of the trained model: values and gradients of ``transformers``' own."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.train_models import CATEGORIES, layer_logits, small_config
from torch import Tensor, nn

from m2f_batch.config.finetune import StartConfig
from m2f_batch.models.mask2former.fast_training import FastDeformableAttention, FastLinear, use_fast_modules
from m2f_batch.models.mask2former.training import TRAINING
from m2f_batch.train.start.build import build_model


def two_models(kind: str) -> tuple[Any, Any]:
    """The same random weights, as ``transformers`` computes with them and with fast modules."""
    theirs = build_model(StartConfig(config=small_config(kind)), CATEGORIES, "panoptic", TRAINING, seed=3).model.train()
    with torch.no_grad():  # new offsets are whole pixels, where bilinear samples have a kink
        for layer in theirs.model.pixel_level_module.decoder.encoder.layers:
            layer.self_attn.sampling_offsets.bias += torch.randn_like(layer.self_attn.sampling_offsets.bias)
    ours = copy.deepcopy(theirs)
    assert use_fast_modules(ours) == []
    return theirs, ours


def gradients(model: Any, pixels: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    classes, masks = layer_logits(model, pixels)
    logits = (*classes, *masks)
    torch.stack([logit.square().sum() for logit in logits]).sum().backward()
    return logits, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("kind", ["resnet", "swin"])
def test_the_whole_model_is_the_same_function(kind: str) -> None:
    theirs, ours = (model.double() for model in two_models(kind))
    pixels = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    torch.manual_seed(5)  # of stochastic depth
    (values, wanted) = gradients(theirs, pixels)
    torch.manual_seed(5)
    (got, found) = gradients(ours, pixels)
    for ours_, theirs_ in zip(got, values, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-9, atol=1e-9)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-7, atol=1e-9, msg=lambda text, at=name: f"{at}: {text}"
        )


def test_parameters_stay_where_they_are() -> None:
    theirs, ours = two_models("swin")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    kinds = {type(module) for module in ours.modules()}
    assert FastLinear in kinds and FastDeformableAttention in kinds and nn.Linear not in kinds
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64, 5, 12, 40), (3, 7, 40, 12), (17, 1, 8, 8)])
def test_products_and_their_gradients(shape: tuple[int, ...], bias: bool) -> None:
    batch, rows, inside, outside = shape
    torch.manual_seed(1)
    layer = nn.Linear(inside, outside, bias=bias)
    layer.__class__ = FastLinear
    for x in (torch.randn(batch, rows, inside), torch.randn(rows, batch, inside).transpose(0, 1), torch.randn(inside)):
        x = x.detach().requires_grad_()
        layer.zero_grad()
        output = layer(x)
        toward = torch.randn_like(output.T).T if output.dim() == 2 else torch.randn_like(output)
        output.backward(toward)
        exact = [value.detach().double().requires_grad_() for value in (x, *layer.parameters())]
        wanted = F.linear(*exact)
        wanted.backward(toward.double())
        torch.testing.assert_close(output.double(), wanted, rtol=1e-5, atol=1e-5)
        for value, other in zip((x, *layer.parameters()), exact, strict=True):
            assert value.grad is not None and (value is x or value.grad.is_contiguous())  # as DDP likes it
            torch.testing.assert_close(value.grad.double(), other.grad, rtol=1e-5, atol=1e-4)


def test_what_is_frozen_gets_no_gradient() -> None:
    layer = nn.Linear(6, 4)
    layer.__class__ = FastLinear
    layer.weight.requires_grad_(False)
    x = torch.randn(3, 6)
    layer(x).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is not None
    with torch.no_grad():
        assert not layer(x).requires_grad


def test_bf16_computes_as_torch_does() -> None:
    layer, x = nn.Linear(32, 8), torch.randn(4, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = layer(x)
        layer.__class__ = FastLinear
        assert wanted.dtype == torch.bfloat16 and torch.equal(layer(x), wanted)


def test_a_part_that_is_built_otherwise_stays_and_is_said() -> None:
    theirs, _ = two_models("resnet")
    attention = theirs.model.pixel_level_module.decoder.encoder.layers[0].self_attn
    attention.temperature = nn.Parameter(torch.ones(1))
    (note,) = use_fast_modules(theirs)
    assert "temperature" in note and "slower" in note
    assert theirs.model.pixel_level_module.decoder.encoder.layers[0].self_attn is attention
