"""The fast forward computes the logits of transformers: every architecture in float64, real images in float32 too."""

import numpy as np
import pytest
import torch
from conftest import DEMO_MODEL
from support.models import predictor
from support.views import values_of
from torch import nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig
from transformers.models.auto import CONFIG_MAPPING

from m2f_batch.config.section import MAX_PIXELS
from m2f_batch.demo.scenes import VAL_SEED, draw_scene
from m2f_batch.models.fast_layers.swin import FastSwinBlock
from m2f_batch.models.loading import DTYPES, forward, load_model, load_original
from m2f_batch.models.mask2former.fast import FastMask2Former, fast_mask2former
from m2f_batch.vision.device.checked_model import _choose
from m2f_batch.vision.segmenter import pinned_threads

CPU = torch.device("cpu")
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN = SwinConfig(embed_dim=16, depths=(2, 2, 1, 1), num_heads=(1, 2, 4, 4), window_size=4, out_features=STAGES)
RESNET = ResNetConfig(
    embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, layer_type="basic", out_features=STAGES
)
CASES = {
    "swin": (SWIN, {}, (1, 64, 96)),
    "swin, odd canvas, batch": (SWIN, {}, (2, 75, 101)),
    "swin, window larger than the map": (SwinConfig(**{**SWIN.to_dict(), "window_size": 7}), {}, (1, 97, 65)),
    "swin, absolute positions, no bias": (
        SwinConfig(**{**SWIN.to_dict(), "use_absolute_embeddings": True, "qkv_bias": False, "image_size": 64}),
        {},
        (2, 64, 64),
    ),
    "a level of one pixel": (SWIN, {}, (1, 32, 64)),
    "resnet": (RESNET, {}, (2, 70, 96)),
    "pre-norm": (RESNET, {"pre_norm": True, "decoder_layers": 8}, (1, 64, 96)),
    "stride 8": (RESNET, {"common_stride": 8}, (2, 64, 101)),
    "other widths": (RESNET, {"feature_size": 64, "mask_feature_size": 16, "activation_function": "gelu"}, (1, 96, 64)),
    "other activation": (RESNET, {"activation_function": "silu"}, (1, 64, 64)),
    "projections enforced": (RESNET, {"enforce_input_projection": True, "use_auxiliary_loss": False}, (1, 64, 64)),
    "no decoder layer": (RESNET, {"decoder_layers": 1, "encoder_layers": 1}, (1, 64, 64)),
    "swinv2": ({"model_type": "swinv2", "embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2]}, {}, (1, 64, 96)),
    "pvt_v2": ({"model_type": "pvt_v2", "hidden_sizes": [8, 16, 20, 32], "depths": [1] * 4}, {}, (1, 64, 96)),
    "dinov3_convnext": (
        {"model_type": "dinov3_convnext", "hidden_sizes": [8, 16, 16, 32], "depths": [1] * 4},
        {},
        (1, 64, 96),
    ),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors gain nothing from more, and lose much where other processes run."""
    with pinned_threads(1):
        yield


def random_model(backbone, **settings):
    """A small model in float64, none of whose parameters is the same for all channels, as initial ones are."""
    if isinstance(backbone, dict):
        kind = backbone["model_type"]
        rest = {key: value for key, value in backbone.items() if key != "model_type"}
        backbone = CONFIG_MAPPING[kind](**rest, out_features=STAGES)
    small = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 48}
    small |= {"dim_feedforward": 40, "encoder_layers": 2, "decoder_layers": 5, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = Mask2FormerConfig(backbone_config=backbone, num_queries=7, num_labels=5, **(small | settings))
    model = Mask2FormerForUniversalSegmentation(config).double().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if not name.startswith("criterion"):
            parameter += 0.3 * torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 1)
    # mask features with a mean of zero, so that masks are neither full nor empty
    features = model.model(torch.randn(1, 3, 64, 64, dtype=torch.float64)).pixel_decoder_last_hidden_state
    model.model.pixel_level_module.decoder.mask_projection.bias -= features.mean((0, 2, 3))
    return model


def logits_of(model, values):
    """Of transformers' own module."""
    with torch.inference_mode():
        output = model(pixel_values=values, output_hidden_states=True)
    return output.class_queries_logits, output.masks_queries_logits


def furthest(some, others):
    """The largest difference of two pairs of logits."""
    assert [x.shape for x in some] == [x.shape for x in others]
    return max((a - b).abs().max().item() for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_every_architecture_gives_the_logits_of_transformers(case):
    backbone, settings, (batch, height, width) = CASES[case]
    model = random_model(backbone, **settings)
    values = torch.randn(batch, 3, height, width, dtype=torch.float64)
    expected = logits_of(model, values)
    assert 0.05 < expected[1].gt(0).double().mean() < 0.95  # masks that let some pixels through and not others
    fast = fast_mask2former(model)
    assert isinstance(fast, FastMask2Former)
    assert furthest(forward(fast, values).tensors, expected) < 1e-9


@pytest.mark.parametrize("case", CASES)
def test_every_architecture_passes_its_own_check(case):
    backbone, settings, _ = CASES[case]
    for precision in ("fp32", "bf16"):
        model, kind, why = _choose(predictor(random_model(backbone, **settings).float()), CPU, precision)
        if "absolute" in case:  # runs on images of 64 x 64 only
            assert kind == "fast" and "must match the size of tensor" in why
        else:
            assert (kind, why) == ("fast", None)
        assert isinstance(model, FastMask2Former)


def test_a_broken_window_of_swin_does_not(monkeypatch):
    real = FastSwinBlock._attend
    monkeypatch.setattr(FastSwinBlock, "_attend", lambda self, *inputs: real(self, *inputs) * 1.01)
    _, kind, why = _choose(predictor(random_model(SWIN).float()), CPU, "fp32")
    assert kind == "slow"
    assert why.startswith("feature map 1 of the backbone: off by ")


def canvases(images):
    from m2f_batch.config.segment import ModelConfig, PostprocessConfig, PreprocessConfig
    from m2f_batch.models.checkpoint import read_checkpoint
    from m2f_batch.vision.label_settings import settle
    from m2f_batch.vision.pixels.preprocess import Prepared, prepare_image

    plan = settle(
        read_checkpoint(DEMO_MODEL, str(DEMO_MODEL)),
        ModelConfig(uri=str(DEMO_MODEL)),
        PreprocessConfig(),
        PostprocessConfig(),
    ).preprocess
    prepared = [prepare_image(image, plan, MAX_PIXELS) for image in images]
    return [values_of([one], plan) for one in prepared if isinstance(one, Prepared)]


def check_images(images):
    """Within 1e-9 in float64 for all; within 1e-4 in float32 for 90 %, since bits of the attention mask may flip."""
    plain, fast = load_original(DEMO_MODEL).model, load_model(DEMO_MODEL, CPU)
    values = canvases(images)
    single = [furthest(forward(fast, one).tensors, logits_of(plain, one)) for one in values]
    plain, fast = plain.double(), fast.double()
    double = [furthest(forward(fast, one.double()).tensors, logits_of(plain, one.double())) for one in values]
    assert max(double) < 1e-9
    assert np.mean(np.array(single) < 1e-4) >= 0.9, sorted(single)


@pytest.mark.slow
def test_logits_of_scenes():
    check_images([draw_scene(VAL_SEED + number).image for number in range(20)])


@pytest.mark.slow
def test_logits_of_photographs(shared_data):
    files = sorted(path for path in (shared_data / "coco_tiny").rglob("*.jpg"))[:20]
    assert files
    check_images([path.read_bytes() for path in files])


def test_equal_images_give_equal_bytes_whatever_came_between():
    model = random_model(SWIN).float()
    fast = fast_mask2former(model)
    values = torch.randn(1, 3, 96, 75)
    first = forward(fast, values).tensors
    for size in ((64, 64), (75, 96), (96, 75)):
        forward(fast, torch.randn(1, 3, *size))
    again = forward(fast_mask2former(model), values).tensors
    for a, b, c in zip(first, forward(fast, values).tensors, again, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backbone", [SWIN, RESNET], ids=["swin", "resnet"])
def test_lower_precision_goes_the_same_way(backbone, dtype):
    model = random_model(backbone).float()
    values = torch.randn(2, 3, 64, 96)
    exact = logits_of(model, values)
    with torch.autocast("cpu", dtype=dtype):
        theirs, ours = (
            logits_of(model, values),
            forward(fast_mask2former(model), values, {v: k for k, v in DTYPES.items()}[dtype]).tensors,
        )
    for a, b, c in zip(exact, theirs, ours, strict=True):
        assert b.dtype == c.dtype
        assert (c - a).abs().mean() <= 1.5 * (b - a).abs().mean()


def test_weights_are_not_doubled():
    model = random_model(SWIN)
    before = sum(parameter.numel() for parameter in model.parameters())
    fast = fast_mask2former(model)
    assert sum(parameter.numel() for parameter in fast.parameters()) <= before


def test_a_transformers_that_builds_otherwise_runs_as_it_is():
    model = random_model(RESNET)
    model.model.transformer_module.decoder.layers[0].gate = nn.Parameter(torch.ones(1))
    with pytest.warns(RuntimeWarning, match=r"decoder\.layers\.#\.gate.*slower"):
        assert fast_mask2former(model) is None
    values = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert furthest(forward(predictor(model), values).tensors, logits_of(model, values)) == 0


def test_another_swin_runs_as_it_is_in_a_lean_model():
    model = random_model(SWIN)
    backbone = model.model.pixel_level_module.encoder
    backbone.swin.encoder.layers[0].blocks[0].attention.scale = nn.Parameter(torch.ones(1))
    with pytest.warns(RuntimeWarning, match=r"attention\.scale.*slower"):
        fast = fast_mask2former(model)
    assert isinstance(fast, FastMask2Former)
    assert fast.backbone is backbone
    values = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert furthest(forward(fast, values).tensors, logits_of(model, values)) < 1e-9
