"""``model.config.*``: every parameter settable, every mistake one line."""

import json
from typing import Any

import pytest
from conftest import DEMO_MODEL
from transformers import Mask2FormerConfig

from m2f_batch.errors import UsageError
from m2f_batch.models.mask2former.new_config import BACKBONES, PARAMETERS, new_config

DEMO = json.loads((DEMO_MODEL / "config.json").read_text())


def mistakes(changes: dict[str, Any], base: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(UsageError) as caught:
        new_config(changes, base)
    return str(caught.value).splitlines()


def test_without_changes_it_is_the_default_and_the_checkpoint_s() -> None:
    ours, default = new_config({}).to_dict(), Mask2FormerConfig().to_dict()
    assert {name: ours[name] for name in PARAMETERS} == {name: default[name] for name in PARAMETERS}
    ours, demo = new_config({}, DEMO).to_dict(), Mask2FormerConfig.from_dict(DEMO).to_dict()
    assert {name: ours[name] for name in PARAMETERS} == {name: demo[name] for name in PARAMETERS}


def test_every_parameter_can_be_set() -> None:
    changes = {
        "backbone_config": {"model_type": "resnet", "depths": [1, 1, 1, 1]},
        "feature_size": 64, "mask_feature_size": 48, "hidden_dim": 32, "encoder_feedforward_dim": 96,
        "activation_function": "gelu", "encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 4,
        "dropout": 0.1, "dim_feedforward": 80, "pre_norm": True, "enforce_input_projection": True, "common_stride": 8,
        "ignore_value": 0, "num_queries": 7, "no_object_weight": 0.2, "class_weight": 1.0, "mask_weight": 2.0,
        "dice_weight": 3.0, "train_num_points": 99, "oversample_ratio": 2.0, "importance_sample_ratio": 0.5,
        "init_std": 0.1, "init_xavier_std": 2.0, "use_auxiliary_loss": False, "feature_strides": [4, 8, 16, 32],
        "output_auxiliary_logits": True,
    }  # fmt: skip
    assert set(changes) == set(PARAMETERS) and len(changes) == 28
    for base in (None, DEMO):
        config = new_config(changes, base)
        for name, value in changes.items():
            if name != "backbone_config":
                assert getattr(config, name) == value
        assert config.backbone_config.depths == [1, 1, 1, 1]
        # over a checkpoint's backbone the rest stays, without one it is the default
        assert config.backbone_config.embedding_size == (64 if base is None else 32)


def test_numbers_are_coerced_and_old_names_mapped() -> None:
    changes = {"class_weight": 2, "num_queries": 20.0, "dropout": 0, "hidden_size": 64, "num_hidden_layers": 4}
    config = new_config(changes, DEMO)
    assert (config.class_weight, type(config.class_weight)) == (2.0, float)
    assert (config.num_queries, type(config.num_queries)) == (20, int)
    assert (config.hidden_dim, config.decoder_layers) == (64, 4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_queris": 3}, "num_queris: unknown parameter (value 3); did you mean model.config.num_queries?"),
        ({"zzz": 1}, "model.config.zzz: unknown parameter (value 1); allowed: backbone_config, feature_size"),
        ({"backbone": "microsoft/swin"}, "give model.backbone"),
        ({"use_pretrained_backbone": True}, "give model.backbone_weights"),
        ({"use_timm_backbone": True}, "timm/NAME"),
        ({"backbone_kwargs": {}}, "model.config.backbone_config.out_features"),
        ({"num_labels": 3}, "the labels are the categories of data.train"),
        ({"class_weight": "heavy"}, "model.config.class_weight: 'heavy' is not allowed; allowed: float"),
        ({"num_queries": True}, "model.config.num_queries: True is not allowed; allowed: int"),
        ({"num_queries": 2.5}, "model.config.num_queries: 2.5 is not allowed; allowed: int"),
        ({"feature_size": 40}, "model.config.feature_size: 40 is not allowed; allowed: a multiple of 32"),
        ({"common_stride": 16}, "model.config.common_stride: 16 is not allowed; allowed: 4 or 8"),
        ({"feature_strides": [4, 8]}, "allowed: [4, 8, 16, 32]"),
        ({"hidden_dim": 100}, "a multiple of model.config.num_attention_heads, 8"),
        ({"hidden_dim": 30, "num_attention_heads": 2}, "hidden_dim: 30 is not allowed; allowed: a multiple of 4"),
        ({"activation_function": "rleu"}, "model.config.activation_function: 'rleu'"),
        ({"decoder_layers": 1}, "2 or more"),
        ({"class_weight": 0, "mask_weight": 0, "dice_weight": 0}, "all are 0"),
        ({"backbone_config": 5}, "allowed: a mapping"),
        ({"backbone_config": {"model_type": "swinn"}}, "did you mean swin?"),
        ({"backbone_config": {"model_type": "hiera"}}, "backbones that Mask2Former runs on: swin, swinv2"),
        ({"backbone_config": {"depth": [1]}}, "did you mean model.config.backbone_config.depths?"),
        ({"backbone_config": {"model_type": "resnet", "out_features": ["stage9"]}}, "stage9"),
        ({"backbone_config": {"embed_dim": "x"}}, "model.config.backbone_config.embed_dim: 'x' is not allowed"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_each(changes: dict[str, Any], told: str) -> None:
    (line,) = mistakes(changes)
    assert told in line


def test_all_mistakes_are_told_at_once() -> None:
    assert len(mistakes({"num_queris": 3, "backbone": "x", "id2label": {}})) == 3
    assert len(mistakes({"feature_size": 40, "common_stride": 3, "num_queries": 0})) == 3


def test_another_backbone_than_the_checkpoint_s_is_refused() -> None:
    (line,) = mistakes({"backbone_config": {"model_type": "swin"}}, DEMO)
    assert "'swin' is not that of the weights to start from, 'resnet'" in line


@pytest.mark.parametrize("kind", [kind for kind in BACKBONES if kind != "timm_backbone"])
def test_a_backbone_gives_its_last_four_stages(kind: str) -> None:
    config = new_config({"backbone_config": {"model_type": kind}})
    assert config.backbone_config.out_features == ["stage1", "stage2", "stage3", "stage4"]


def test_parts_of_the_default_backbone_can_be_set() -> None:
    config = new_config({"backbone_config": {"drop_path_rate": 0}})
    assert (config.backbone_config.model_type, config.backbone_config.depths) == ("swin", [2, 2, 18, 2])
    assert config.backbone_config.drop_path_rate == 0
