"""Label sets of published weights, their licenses, and what is said of architectures that are not supported."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from m2f_batch.config.segment import ModelConfig, PostprocessConfig, PreprocessConfig
from m2f_batch.errors import UsageError
from m2f_batch.models.checkpoint import Checkpoint
from m2f_batch.models.family import all_families, family_of
from m2f_batch.models.label_sets import (
    ALL_LABEL_SETS,
    LABEL_SETS,
    MORE_LABEL_SETS,
    assumed_set,
    find_label_set,
    names_of,
)
from m2f_batch.models.published.licenses import TERMS, license_of, terms_of
from m2f_batch.vision.label_settings import Labeling, fingerprint_of, settle

SETS = {known.name: known for known in ALL_LABEL_SETS}
NAMED = ["COCO panoptic", "COCO instance", "COCO instance by id", "COCO-Stuff"]
NAMED += ["ADE20K", "Cityscapes", "Mapillary Vistas", "Pascal VOC"]


def numbered(count: int) -> dict[str, str]:
    return {str(i): f"LABEL_{i}" for i in range(count)}


def checkpoint_of(name: str, labels: dict[str, str], kind: str = "maskformer", **more: Any) -> Checkpoint:
    return Checkpoint(name, Path(), {"model_type": kind, "id2label": labels, **more}, {})


def settled(checkpoint: Checkpoint) -> Labeling:
    model = ModelConfig(uri="m", task="semantic")
    return settle(checkpoint, model, PreprocessConfig(), PostprocessConfig())


@pytest.mark.parametrize("name", NAMED)
def test_names_of_a_set_are_recognized_as_that_set(name: str) -> None:
    names = names_of(name)
    assert find_label_set(names) is SETS[name]
    assert len(set(names.values())) == len(names) or name in ("ADE20K", "COCO instance by id")
    things_first = {"COCO panoptic": 80, "COCO-Stuff": 80}.get(name)
    assert things_first is None or SETS[name].stuff_ids == set(range(things_first, SETS[name].size))


def test_sets_of_other_architectures() -> None:
    found = {known.name: (known.size, len(known.stuff_ids), known.dataset_ids[0]) for known in MORE_LABEL_SETS}
    assert found == {
        "COCO instance by id": (91, 0, 0),
        "COCO-Stuff": (171, 91, 1),
        "Pascal VOC": (21, 1, 0),
        "Pascal Context": (59, 0, 1),
        "Pascal Context with background": (60, 1, 0),
    }
    assert all(len(known.dataset_ids) == known.size for known in MORE_LABEL_SETS)
    assert SETS["COCO-Stuff"].dataset_ids[79:82] == (90, 92, 93)


def test_mask2former_knows_the_sets_that_it_has_always_known() -> None:
    voc = {str(i): name for i, name in names_of("Pascal VOC").items()}
    assert checkpoint_of("m", voc, "mask2former").label_set is None
    assert checkpoint_of("m", voc).label_set is SETS["Pascal VOC"]
    assert all_families()["mask2former"].label_sets is LABEL_SETS


@pytest.mark.parametrize(
    "model",
    [
        {"name": "facebook/maskformer-swin-tiny-ade"},
        {"name": "facebook/maskformer-swin-tiny-ade@main"},
        {"name": "Facebook/MaskFormer-Swin-Tiny-ADE"},
        {"name": "/models/x", "_name_or_path": "facebook/maskformer-swin-tiny-ade"},
    ],
)
def test_published_weights_without_names_have_those_of_their_set(model: dict[str, str]) -> None:
    published = checkpoint_of(labels=numbered(150), **model)
    assert (published.id2label[0], published.id2label[149], published.label_set) == ("wall", "flag", SETS["ADE20K"])
    labeling = settled(published)
    assert labeling.categories[2].name == "sky"
    assert "config.json names no labels; those of ADE20K, of the published weights, are taken" in labeling.notes
    facts = labeling.facts("f", 1, 1)
    assert facts["labels"] == "ADE20K"
    assert fingerprint_of(replace(labeling, assumed_labels=None).facts("f", 1, 1)) != fingerprint_of(facts)


@pytest.mark.parametrize("name", ["someone/maskformer-swin-tiny-ade", "/models/facebook/maskformer-swin-tiny-ade", "m"])
@pytest.mark.parametrize("count", [19, 21, 80, 150])
def test_labels_of_anybody_stay_numbers_with_a_hint(name: str, count: int) -> None:
    model = checkpoint_of(name, numbered(count))
    assert model.label_set is None
    labeling = settled(model)
    assert labeling.categories[1].name == "LABEL_1"
    assert any(note.startswith("config.json names no labels, so they are LABEL_0") for note in labeling.notes)
    assert "labels" not in labeling.facts("f", 1, 1)


def test_names_that_are_given_and_other_counts_are_left_alone() -> None:
    published = {"facebook/maskformer-*-ade": "ADE20K"}
    names = ["facebook/maskformer-swin-tiny-ade"]
    assert assumed_set(dict.fromkeys(range(150), "a"), published, names) is None
    assert assumed_set({i: f"LABEL_{i}" for i in range(151)}, published, names) is None
    assert settled(checkpoint_of("m", {"0": "cat", "1": "dog"})).notes == ()


def test_every_pattern_of_every_family_names_a_set_that_has_names() -> None:
    for family in all_families().values():
        for pattern, label_set in family.published.labels.items():
            assert names_of(label_set), pattern
            assert any(pattern.startswith(prefix) for prefix in family.published.licenses), pattern


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mask2former", "backbone_config": {"backbone": "vit_large_patch16_dinov3.lvd1689m"}},
        {"model_type": "upernet", "backbone": "convnext_tiny.dinov3_lvd1689m"},
        {"model_type": "upernet", "backbone_config": {"model_type": "dinov3_convnext"}},
        {"model_type": "mask2former", "_name_or_path": "someone/Mask2Former-DINOv3"},
        {"model_type": "eomt_dinov3"},
    ],
)
def test_the_license_of_dinov3_binds_whatever_was_made_of_it(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert Checkpoint("mine/model", tmp_path, config, {}).license == "mit, dinov3-license"
    (tmp_path / "README.md").write_text("---\nlicense: [mit, dinov3-license]\n---\n")
    assert Checkpoint("mine/model", tmp_path, config, {}).license == "mit, dinov3-license"
    assert Checkpoint("mine/model", Path("none"), config, {}).license == "unknown, dinov3-license"


def test_licenses_of_published_weights_are_those_of_their_names_in_any_case(tmp_path: Path) -> None:
    def license_called(name: str, **config: str) -> str:
        return Checkpoint(name, Path("none"), {"model_type": "mask2former"} | config, {}).license

    assert license_called("facebook/mask2former-swin-tiny-coco-instance") == "cc-by-nc-4.0"
    assert license_called("mine", _name_or_path="Tue-MPS/coco_panoptic_eomt_large_640") == "mit"
    assert license_called("mine/mask2former-x") == "unknown"
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: Apache-2.0\n---\n")
    assert license_of(card, ("facebook/x",), {}, {"facebook/": "mit"}, None) == "apache-2.0"


def test_terms_are_said_of_licenses_that_bind() -> None:
    assert list(terms_of("mit, dinov3-license")) == [TERMS["dinov3-license"]]
    assert list(terms_of("cc-by-nc-4.0")) == []
    assert "research or evaluation only" in next(terms_of("nvidia-source-code-license"))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "dpt"}, "dpt: it sees squares of one size only"),
        ({"model_type": "data2vec-vision"}, "data2vec-vision: it sees squares of one size only"),
        ({"model_type": "detr"}, "detr: its masks are those of 2020, and newer models"),
        ({"model_type": "mobilenet_v2"}, "mobilenet_v2: MobileViT replaces it"),
        (
            {"model_type": "vit", "architectures": ["ViTForImageClassification"]},
            "ViTForImageClassification gives no class",
        ),
        ({"model_type": "new", "architectures": ["NewForUniversalSegmentation"]}, "models can be used"),
    ],
)
def test_an_architecture_that_is_not_supported_is_told_why(config: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        family_of(config, "m")
    assert f"m is a {config['model_type']!r} model; only " in str(caught.value)
    assert told in str(caught.value), json.dumps(config)
