"""What training is made of beside model and loss: groups of the optimizer, schedule, average, freezing, recomputing."""

import math
from typing import Any

import pytest
import torch
from support.train_models import BACKBONES, CATEGORIES, SMALL, TIMM_BACKBONES, layer_logits, small_config
from torch import Tensor, nn

from m2f_batch.config.finetune import StartConfig, TrainConfig
from m2f_batch.errors import UsageError
from m2f_batch.models.mask2former.training import TRAINING
from m2f_batch.train.loop.ema import MovingAverage
from m2f_batch.train.loop.optimizer import new_optimizer, undecayed_parameters
from m2f_batch.train.loop.schedule import rate_factor
from m2f_batch.train.network.freezing import batch_norms, freeze, freeze_unused, train_mode
from m2f_batch.train.network.recompute import recompute_activations
from m2f_batch.train.start.build import Start, build_model, prepare

BACKBONE = "model.pixel_level_module.encoder"


def start_of(kind: str = "resnet", **changes: Any) -> Start:
    if kind.startswith("timm/"):
        pytest.importorskip("timm")
        config = StartConfig(config=SMALL | changes, backbone=kind, backbone_weights=False)
    else:
        config = StartConfig(config=small_config(kind, **changes))
    return build_model(config, CATEGORIES, "panoptic", TRAINING, seed=0)


def summed(model: Any, pixels: Tensor) -> Tensor:
    """A number that depends on all logits of all layers."""
    classes, masks = layer_logits(model, pixels)
    return torch.stack([c.square().sum() + m.square().mean() for c, m in zip(classes, masks, strict=True)]).sum()


# ---- optimizer


def test_groups_are_backbone_and_rest_with_and_without_decay() -> None:
    model = start_of("swin").model
    freeze(model, ["*.queries_features.*"])
    optimizer = new_optimizer(
        model, backbone=TRAINING.backbone, learning_rate=1e-3, backbone_multiplier=0.1, weight_decay=0.05
    )
    told = {
        group["name"]: (group["initial_lr"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups
    }
    assert told == {
        "rest": (1e-3, 1e-3, 0.05),
        "rest, no decay": (1e-3, 1e-3, 0.0),
        "backbone": (1e-4, 1e-4, 0.05),
        "backbone, no decay": (1e-4, 1e-4, 0.0),
    }
    grouped = {id(parameter): group["name"] for group in optimizer.param_groups for parameter in group["params"]}
    wanted = {name: p for name, p in model.named_parameters() if "queries_features" not in name}
    assert len(grouped) == len(wanted) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert all(grouped[id(p)].startswith("backbone") == name.startswith(f"{BACKBONE}.") for name, p in wanted.items())


@pytest.mark.parametrize(
    ("kind", "plain", "decayed"),
    [
        ("swin", ["relative_position_bias_table", "layernorm_before.weight"], ["q_proj.bias", "projection.weight"]),
        ("swinv2", ["layernorm_after.weight"], ["logit_scale", "query.weight"]),
        ("resnet", ["normalization.weight"], ["convolution.weight"]),
        ("pvt_v2", ["layer_norm_1.weight"], ["proj.weight"]),
        ("dinov3_convnext", ["layer_norm.weight"], ["depthwise_conv.weight", "gamma"]),
        ("timm/mobilevit_xxs", ["bn.weight", "norm1.weight"], ["conv.weight"]),
    ],
)  # fmt: skip
def test_norms_embeddings_and_tables_do_not_decay(kind: str, plain: list[str], decayed: list[str]) -> None:
    model = start_of(kind).model
    names, undecayed = [name for name, _ in model.named_parameters()], set(undecayed_parameters(model))
    for ends, where in [(plain, True), (decayed, False)]:
        for end in ends:
            found = [name for name in names if name.endswith(end) and name.startswith(BACKBONE)]
            assert found and all((name in undecayed) == where for name in found), end
    rest = {name for name in undecayed if not name.startswith(BACKBONE)}
    assert {"model.pixel_level_module.decoder.level_embed", "model.transformer_module.level_embed.weight"} < rest
    assert {f"model.transformer_module.queries_{part}.weight" for part in ("features", "embedder")} < rest
    assert "model.pixel_level_module.decoder.input_projections.0.1.weight" in rest  # a group norm
    assert "model.transformer_module.decoder.layers.0.cross_attn_layer_norm.weight" in rest
    assert not any("fc1" in name or "class_predictor" in name or "mask_embedder" in name for name in rest)


# ---- schedule


def test_schedules() -> None:
    paper = [rate_factor(step, 1000, "step", milestones=(0.889, 0.963)) for step in range(1000)]
    assert [paper.index(value) for value in (1.0, 0.1, 0.01)] == [0, 889, 963]
    for step in (0, 250, 999):
        assert rate_factor(step, 1000, "poly") == pytest.approx((1 - step / 1000) ** 0.9)
        assert rate_factor(step, 1000, "cosine") == pytest.approx((1 + math.cos(math.pi * step / 1000)) / 2)
    rising = [rate_factor(step, 100, "step", warmup_steps=4) for step in range(6)]
    assert rising == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert all(
        0 <= rate_factor(step, 7, kind, warmup_steps=3) <= 1 for kind in ("step", "poly", "cosine") for step in range(9)
    )  # type: ignore[arg-type]  # a tuple of texts


# ---- moving average


def test_the_average_follows_its_definition_and_is_applied_for_a_while() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = MovingAverage(model, decay=0.9)
    want = model[0].weight.detach().clone()
    for update in range(1, 200):
        with torch.no_grad():
            model[0].weight.normal_()
        model(torch.randn(4, 2))
        average.update(model)
        decay = min(0.9, (1 + update) / (10 + update))
        want = decay * want + (1 - decay) * model[0].weight.detach()
    assert torch.allclose(average.weights["0.weight"], want, atol=1e-6)
    assert average.weights["1.num_batches_tracked"] == 199
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyError), average.applied(model):
        assert torch.equal(model[0].weight, average.weights["0.weight"])
        raise KeyError
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_an_average_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    one = MovingAverage(model, 0.9)
    one.update(model)
    state = {name: value.clone() for name, value in one.state_dict().items()}
    other = MovingAverage(nn.Linear(2, 3), 0.9)
    other.load_state_dict(state)
    with torch.no_grad():
        model.weight.normal_()
    one.update(model)
    other.update(model)
    assert one.updates == other.updates == 2
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


# ---- freezing


def test_patterns_freeze_parameters() -> None:
    model = start_of().model
    frozen = freeze(model, [f"{BACKBONE}.*", "*.level_embed*"])
    assert frozen == sorted(name for name, p in model.named_parameters() if not p.requires_grad)
    assert all(name.startswith(BACKBONE) or "level_embed" in name for name in frozen)
    with pytest.raises(UsageError, match=r"train\.freeze: 'encoder\.\*' fits no parameter"):
        freeze(model, ["encoder.*"])
    with pytest.raises(UsageError, match="leaves no parameter to train"):
        freeze(model, ["*"])


@pytest.mark.parametrize("kind", [*BACKBONES, *TIMM_BACKBONES])
def test_what_never_gets_a_gradient_is_frozen_and_nothing_else_changes(kind: str) -> None:
    model = start_of(kind).model
    freeze(model, ["class_predictor.bias"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    unused = freeze_unused(model, TRAINING)
    if kind == "swin":
        assert unused == [f"{BACKBONE}.swin.layernorm.weight", f"{BACKBONE}.swin.layernorm.bias"]
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert still == {*unused, "class_predictor.bias"}
    summed(model, torch.randn(2, 3, 64, 64)).backward()  # type: ignore[no-untyped-call]
    assert {name for name, p in model.named_parameters() if p.grad is None} == still


def test_batch_norms_stay_as_they_are_where_that_is_asked() -> None:
    start = start_of()
    notes = prepare(start, TrainConfig(steps=1, freeze_batch_norms=True))
    norms = batch_norms(start.model)
    assert notes == [f"{len(norms)} batch norms stay as they are"] and norms
    train_mode(start.model, keep_batch_norms=True)
    before = {name: value.clone() for name, value in start.model.named_buffers()}
    summed(start.model, torch.randn(2, 3, 64, 64)).backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(value, before[name]) for name, value in start.model.named_buffers())
    assert not any(p.requires_grad for norm in norms for p in norm.parameters()) and start.model.training
    train_mode(start.model, keep_batch_norms=False)
    summed(start.model, torch.randn(2, 3, 64, 64))
    assert not all(torch.equal(value, before[name]) for name, value in start.model.named_buffers())


# ---- recomputing


@pytest.mark.parametrize("kind", [*BACKBONES, *TIMM_BACKBONES])
def test_recomputed_activations_change_no_value_and_no_gradient(kind: str) -> None:
    """In float64, batch statistics included; dropout draws the same numbers again."""
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for recompute in (False, True):
        model = start_of(kind, dropout=0.1).model.double().train()
        parts = recompute_activations(model, TRAINING) if recompute else []
        assert bool(parts) == recompute and len({*parts}) == len(parts)
        torch.manual_seed(4)
        value = summed(model, pixels)
        value.backward()  # type: ignore[no-untyped-call]
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((value.detach(), gradients, dict(model.named_buffers())))
    (value, gradients, buffers), (value2, gradients2, buffers2) = results
    assert torch.allclose(value, value2, rtol=1e-12) and gradients.keys() == gradients2.keys()
    assert all(torch.allclose(gradients[name], gradients2[name], rtol=1e-9, atol=1e-12) for name in gradients)
    assert all(torch.allclose(buffers[name], buffers2[name], rtol=1e-12) for name in buffers)


@pytest.mark.parametrize("kind", ["swin", "resnet", "timm/mobilevit_xxs"])
def test_recomputing_keeps_fewer_activations(kind: str) -> None:
    """Counted where autograd keeps tensors for the backward pass; every stage of the backbone is a part."""
    kept = []
    for recompute in (False, True):
        model = start_of(kind).model.train()
        parts = recompute_activations(model, TRAINING) if recompute else []
        count = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            summed(model, torch.randn(2, 3, 96, 96))
        kept.append(count)
    assert kept[1] < 0.6 * kept[0]
    assert sum(part.startswith(BACKBONE) for part in parts) >= 4
