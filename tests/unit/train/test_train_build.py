"""Models to start from: each backbone trains, is saved and answers the same again; what is taken over is right."""

import builtins
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEMO_MODEL
from safetensors.torch import save_file
from support.models import predictor
from support.train_models import BACKBONES, CATEGORIES, SMALL, TIMM_BACKBONES, layer_logits, small_config
from torch import Tensor
from transformers import (
    Mask2FormerImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from m2f_batch.config.finetune import StartConfig, TrainConfig
from m2f_batch.datasets.dataset import Category
from m2f_batch.demo.scenes import CATEGORIES as DEMO_NAMES
from m2f_batch.demo.scenes import STUFF_IDS
from m2f_batch.errors import RunError, UsageError
from m2f_batch.models.checkpoint import read_checkpoint
from m2f_batch.models.loading import forward, load_model, load_original
from m2f_batch.models.mask2former.training import TRAINING
from m2f_batch.train.loop.optimizer import new_optimizer
from m2f_batch.train.network.freezing import train_mode
from m2f_batch.train.objective.mask_classification import batch_loss
from m2f_batch.train.objective.objective import ImageTarget, LossSettings, StepTotals
from m2f_batch.train.start import backbones
from m2f_batch.train.start.build import Start, backbone_multiplier, build_model, keeps_batch_norms, prepare
from m2f_batch.train.start.class_labels import known_labels, labels_of

TRAIN = TrainConfig(steps=2)
DEMO_CATEGORIES = tuple(Category(i + 1, name, i not in STUFF_IDS) for i, name in enumerate(DEMO_NAMES))


def build(start: StartConfig, seed: int = 0, **options: Any) -> Start:
    return build_model(
        start, options.pop("categories", CATEGORIES), options.pop("task", "panoptic"), TRAINING, seed=seed, **options
    )


def pixels(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def targets(count: int = 2) -> list[ImageTarget]:
    squares = torch.zeros(2, 64, 96, dtype=torch.bool)
    squares[0, :30, :40], squares[1, 30:, 20:] = True, True
    return [ImageTarget(i, torch.tensor([0, 2]), squares) for i in range(count)]


def train(model: Any, steps: int = 2, batch: Tensor | None = None) -> list[float]:
    """The losses of a few steps; every trained parameter has a gradient in the first."""
    settings = LossSettings.of(model.config)
    optimizer = new_optimizer(
        model, backbone=TRAINING.backbone, learning_rate=1e-3, backbone_multiplier=1.0, weight_decay=0.05
    )
    losses = []
    for step in range(steps):
        totals = StepTotals.count([2, 2], num_queries=model.config.num_queries, no_object_weight=0.1)
        loss = batch_loss(*layer_logits(model, pixels()), targets(), totals, settings, seed=0, step=step)
        loss.check()
        optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        wanted = [name for name, p in model.named_parameters() if p.requires_grad]
        assert wanted and [name for name in wanted if model.get_parameter(name).grad is None] == []
        optimizer.step()
        losses.append(float(loss.total.detach()))
    return losses


def saved_and_loaded(start: Start, directory: Path) -> Any:
    with torch.no_grad():
        start.model.save_pretrained(directory)
    Mask2FormerImageProcessor(size={"shortest_edge": 128, "longest_edge": 192}).save_pretrained(directory)
    return load_original(directory).model


def same_answers(start: Start, loaded: Any) -> None:
    """Bitwise equal weights, and logits equal in float64: in float32 they depend on where in memory weights lie."""
    ours, theirs = start.model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    values = pixels().double()
    answers = (
        forward(predictor(start.model.eval().double()), values).tensors,
        forward(predictor(loaded.double()), values).tensors,
    )
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(*answers, strict=True))


# ---- backbones


@pytest.mark.parametrize("kind", [*BACKBONES, *TIMM_BACKBONES])
def test_a_backbone_trains_is_saved_and_gives_the_same_logits_again(kind: str, tmp_path: Path) -> None:
    if kind.startswith("timm/"):
        pytest.importorskip("timm")
        start = build(StartConfig(config=SMALL, backbone=kind, backbone_weights=False))
    else:
        start = build(StartConfig(config=small_config(kind)))
    prepare(start, TRAIN)
    train_mode(start.model, keep_batch_norms=keeps_batch_norms(start, TRAIN))
    train(start.model)
    same_answers(start, saved_and_loaded(start, tmp_path))
    start.model.float()
    fast = load_model(tmp_path, torch.device("cpu"))
    for ours, theirs in zip(
        forward(predictor(start.model), pixels(1)).tensors, forward(fast, pixels(1)).tensors, strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-3)
    checkpoint = read_checkpoint(tmp_path, "tuned")
    assert checkpoint.trained_task == "panoptic" and checkpoint.stuff_ids == {1}
    assert checkpoint.id2label == {0: "ball", 1: "sky", 2: "crate"}


def test_weights_follow_from_the_seed_and_torch_s_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (build(StartConfig(config=small_config()), seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert one.notes == ("all weights start at random",) and not one.pretrained_backbone
    states = [start.model.state_dict() for start in (one, same, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["class_predictor.weight"], states[2]["class_predictor.weight"])


@pytest.mark.parametrize("kind", ["swin", "resnet"])
def test_pretrained_backbones_keep_their_weights(kind: str, tmp_path: Path) -> None:
    """Of a classifier, as the hub has them."""
    torch.manual_seed(0)
    config, model = {
        "swin": (SwinConfig, SwinForImageClassification),
        "resnet": (ResNetConfig, ResNetForImageClassification),
    }[kind]
    classifier = model(config(**BACKBONES[kind])).eval()
    classifier.save_pretrained(tmp_path)
    start = build(StartConfig(config=SMALL, backbone=str(tmp_path)))
    ours = dict(start.model.model.pixel_level_module.encoder.named_parameters())
    body = dict(getattr(classifier, kind).named_parameters())
    taken = [name for name in body if any(mine.endswith(name) and torch.equal(ours[mine], body[name]) for mine in ours)]
    assert len(taken) == len(body) and start.pretrained_backbone
    assert start.notes[0].startswith(f"backbone {tmp_path}: pretrained") and "random" in start.notes[1]
    assert keeps_batch_norms(start, TRAIN) and backbone_multiplier(start, TRAIN) == 0.1
    fresh = build(StartConfig(config=SMALL, backbone=str(tmp_path), backbone_weights=False))
    assert fresh.notes == ("all weights start at random",) and backbone_multiplier(fresh, TRAIN) == 1.0


def test_pretrained_weights_of_timm_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    classifier = timm.create_model("mobilenetv3_small_050", pretrained=False)
    save_file(classifier.state_dict(), tmp_path / "model.safetensors")
    asked = []
    monkeypatch.setattr(backbones, "_fetch", lambda name: asked.append(name) or tmp_path)
    start = build(StartConfig(config=SMALL, backbone="timm/mobilenetv3_small_050"))
    assert asked == ["timm/mobilenetv3_small_050.lamb_in1k"]
    ours = start.model.model.pixel_level_module.encoder._backbone
    body = classifier.state_dict()
    assert all(torch.equal(value, body[name]) for name, value in ours.state_dict().items())


def test_backbones_that_do_not_do_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(name: str, config: dict[str, Any] = SMALL) -> str:
        with pytest.raises(UsageError) as caught:
            build(StartConfig(config=config, backbone=name, backbone_weights=False))
        (line,) = str(caught.value).splitlines()
        return line

    pytest.importorskip("timm")
    assert "timm cannot make feature maps with 'no_such_thing'" in told("timm/no_such_thing")
    assert "has maps of the strides [16, 16, 16]" in told("timm/vit_tiny_patch16_224")
    assert "timm/swin_tiny_patch4_window7_224 cannot take 64 x 64" in told("timm/swin_tiny_patch4_window7_224")
    assert told("no/such/folder").startswith("model.backbone: 'no/such/folder' is no directory here")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "is a 'bert', which Mask2Former does not run on; allowed: swin" in told(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    assert "has no config.json that names a model_type" in told(str(tmp_path))
    two = small_config(backbone_config={"model_type": "resnet", "out_features": ["stage3", "stage4"]})
    with pytest.raises(UsageError, match=r"no model can be made of it|gives maps of"):
        build(StartConfig(config=two))
    real = builtins.__import__

    def without_timm(name: str, *rest: Any, **more: Any) -> Any:
        if name == "timm":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    assert "pip install 'm2f-batch[timm]'" in told("timm/mobilevit_xxs")


def test_weights_that_do_not_fit_their_config_are_refused(tmp_path: Path) -> None:
    ResNetForImageClassification(ResNetConfig(**BACKBONES["resnet"])).save_pretrained(tmp_path)
    with pytest.raises(RunError, match="tensors are missing or of another shape"):
        build(StartConfig(config=SMALL | {"backbone_config": {"depths": [1, 1, 2, 1]}}, backbone=str(tmp_path)))


# ---- checkpoints


def test_a_checkpoint_s_categories_keep_their_rows_in_the_dataset_s_order() -> None:
    old = load_original(DEMO_MODEL).model
    names = list(DEMO_NAMES)
    chosen = [names[3], names[0], f" {names[-1].upper()} "]
    categories = [Category(i, name, True) for i, name in enumerate(chosen)]
    start = build(StartConfig(uri="demo"), categories=categories, checkpoint=DEMO_MODEL)
    assert "the class head is the checkpoint's: it knows all 3 categories by name" in start.notes[0]
    values, rows = pixels(1).double(), [3, 0, len(names) - 1, len(names)]
    classes, masks = forward(predictor(start.model.eval().double()), values).tensors
    wanted_classes, wanted_masks = forward(predictor(old.double()), values).tensors
    assert torch.allclose(classes, wanted_classes[..., rows], atol=1e-12)
    assert torch.allclose(masks, wanted_masks, atol=1e-12)
    assert start.pretrained_backbone and start.label_ids == (0, 1, 2)


def test_categories_that_a_checkpoint_does_not_know_get_new_rows_said_aloud() -> None:
    old = load_original(DEMO_MODEL).model
    categories = [Category(99, "moon", True), *DEMO_CATEGORIES, Category(98, "comet", True)]
    start = build(StartConfig(uri="demo"), checkpoint=DEMO_MODEL, categories=categories)
    count = len(DEMO_NAMES)
    assert start.notes == (
        f"the class head is the checkpoint's for no object and {count} of {count + 2} categories, new for 2 that it "
        "does not know by name (comet, moon)",
    )
    unknown = [Category(i, f"unknown {i}", True) for i in range(count + 2)]
    fresh = build(StartConfig(uri="demo"), checkpoint=DEMO_MODEL, categories=unknown)  # of the same seed
    assert fresh.notes[0].startswith(f"a new class head for {count + 2} categories: the checkpoint knows none of them")
    assert not torch.equal(fresh.model.class_predictor.weight[-1], old.class_predictor.weight[-1])
    new, given, random = (model.state_dict() for model in (start.model, old, fresh.model))
    for name, value in given.items():
        if name in TRAINING.heads:
            assert torch.equal(new[name][1 : count + 1], value[:count]) and torch.equal(new[name][-1], value[-1])
            assert torch.equal(new[name][[0, count + 1]], random[name][[0, count + 1]])
        elif not name.startswith("criterion"):
            assert torch.equal(value, new[name])


def test_parameters_over_a_checkpoint(tmp_path: Path) -> None:
    changes = {"num_queries": 20, "decoder_layers": 7, "class_weight": 3}
    start = build(StartConfig(uri="demo", config=changes), checkpoint=DEMO_MODEL, categories=DEMO_CATEGORIES)
    assert any("16 of 20 queries are the checkpoint's" in note for note in start.notes)
    assert any("are not in the checkpoint and start at random" in note for note in start.notes)
    fewer = build(
        StartConfig(uri="demo", config={"num_queries": 9, "decoder_layers": 3}),
        checkpoint=DEMO_MODEL,
        categories=DEMO_CATEGORIES,
    )
    assert any("of the checkpoint are not used" in note for note in fewer.notes)
    forward(predictor(fewer.model.eval()), pixels(1))
    with pytest.raises(UsageError, match=r"model\.config: with hidden_dim as given, \d+ tensors .* do not fit"):
        build(StartConfig(uri="demo", config={"hidden_dim": 32}), checkpoint=DEMO_MODEL, categories=DEMO_CATEGORIES)


# ---- labels


def test_instance_learns_things_only_and_the_others_all() -> None:
    assert labels_of(CATEGORIES, "instance").of_category == (0, -1, 1)
    assert labels_of(CATEGORIES, "instance").stuff_ids == ()
    for task in ("panoptic", "semantic"):
        labels = labels_of(CATEGORIES, task)  # type: ignore[arg-type]  # a tuple of texts
        assert (labels.of_category, labels.stuff_ids, labels.names) == ((0, 1, 2), (1,), ("ball", "sky", "crate"))


def test_categories_that_cannot_be_labels_are_refused() -> None:
    with pytest.raises(UsageError, match=r"has no categories to learn for model\.task 'instance', only stuff"):
        labels_of(CATEGORIES[1:2], "instance")
    with pytest.raises(UsageError, match="several categories are called ball"):
        labels_of([CATEGORIES[0], replace(CATEGORIES[0], id=4)], "instance")


def test_labels_are_known_by_name() -> None:
    hub = {0: "person", 1: "sofa", 2: "tvmonitor", 3: "bed "}
    assert known_labels(["couch", "TV", "bed", "person"], hub) == [1, 2, 3, 0]
    assert known_labels(["sofa", "couch"], hub) == [1, -1]
    assert known_labels(["person", "dog"], hub) == [0, -1]


# ---- parameters of transformers that do not work there


@pytest.mark.parametrize(
    "changes",
    [
        {"use_auxiliary_loss": False},
        {"dropout": 0.3},
        {"common_stride": 8},
        {"pre_norm": True, "enforce_input_projection": True},
        {"feature_size": 64, "hidden_dim": 32},
        {"hidden_dim": 36},
        {"ignore_value": 0, "activation_function": "gelu"},
    ],
)
def test_parameters_work_in_training(changes: dict[str, Any], tmp_path: Path) -> None:
    start = build(StartConfig(config=small_config(**changes)))
    prepare(start, TRAIN)
    train_mode(start.model, keep_batch_norms=False)
    torch.manual_seed(0)
    train(start.model, steps=6)
    loaded = saved_and_loaded(start, tmp_path)
    assert all(getattr(loaded.config, name) == value for name, value in changes.items())
    same_answers(start, loaded)


@pytest.mark.parametrize("kind", BACKBONES)
def test_padding_does_not_blow_up_the_gradients_of_new_weights(kind: str) -> None:
    model = build(StartConfig(config=small_config(kind))).model.train()
    norms = []
    for content in (96, 48):  # columns; the rest is padding
        model.zero_grad()
        values = pixels()
        values[:, :, :, content:] = 0
        classes, masks = layer_logits(model, values)
        total = torch.stack([logits.sigmoid().sum() for logits in (*classes, *masks)]).sum()
        total.backward()  # type: ignore[no-untyped-call]  # torch's own
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))
    assert norms[1] < 10 * norms[0]
