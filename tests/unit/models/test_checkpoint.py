"""Model directories: planted faults and hostile files each give one clear message; licence, task and fingerprint."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.hand_made import PROCESSOR, make_model, weights

from m2f_batch.errors import UsageError
from m2f_batch.models.checkpoint import Checkpoint, check_license, choose_task, read_checkpoint, weight_files
from m2f_batch.models.mask_families.rules import backbone_width

LINES = ['  "id2label"', '  "label2id"']


def refusal(directory: Path) -> str:
    """The one line with which a model directory is refused, and lines to write into its config.json."""
    with pytest.raises(UsageError) as caught:
        read_checkpoint(directory, "the-model")
    first, *lines = str(caught.value).split("\n")
    assert first.startswith("model.uri: ") and [line.split(":")[0] for line in lines] in ([], LINES)
    return str(caught.value)


def set_config(directory: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes one."""
    tree = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))


def shard(directory: Path, labels: int = 3) -> list[str]:
    """The weights in two files with an index."""
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    tensors = weights(labels)
    for name, key in zip(names, tensors, strict=True):
        save_file({key: tensors[key]}, directory / name)
    index = {"metadata": {}, "weight_map": dict(zip(tensors, names, strict=True))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "model.safetensors").unlink(missing_ok=True)
    return names


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "m")


def test_a_whole_directory(model: Path) -> None:
    checkpoint = read_checkpoint(model, "me/m")
    assert checkpoint.id2label == {0: "cat", 1: "dog", 2: "sky"} and checkpoint.processor == PROCESSOR
    assert (checkpoint.name, checkpoint.directory, checkpoint.label_set) == ("me/m", model, None)


def test_what_transformers_saves_is_read(tmp_path: Path) -> None:
    from transformers import Mask2FormerConfig, Mask2FormerImageProcessor

    labels = {i: f"thing {i}" for i in range(5)}
    Mask2FormerConfig(id2label=labels, label_ids_to_fuse=[3, 4]).save_pretrained(tmp_path)
    Mask2FormerImageProcessor(size={"shortest_edge": 100, "longest_edge": 200}).save_pretrained(tmp_path)
    save_file(weights(5), tmp_path / "model.safetensors")
    checkpoint = read_checkpoint(tmp_path, "m")
    assert checkpoint.id2label == labels and checkpoint.stuff_ids == {3, 4} and backbone_width(checkpoint.config) == 96
    assert dict(checkpoint.processor["size"]) == {"shortest_edge": 100, "longest_edge": 200}
    Mask2FormerConfig().save_pretrained(tmp_path)  # the two default labels are not written
    save_file(weights(2), tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path, "m").id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_a_config_that_only_counts_its_labels_has_numbers_for_names(tmp_path: Path) -> None:
    make_model(tmp_path, [f"label {i}" for i in range(5)])
    set_config(tmp_path, id2label=None, num_labels=5)
    assert read_checkpoint(tmp_path, "m").id2label == {i: f"LABEL_{i}" for i in range(5)}
    for count in (4, "5", 10**12):
        set_config(tmp_path, num_labels=count)
        with pytest.raises(UsageError, match=r"m names no labels in config.json, but its weights know 5; write"):
            read_checkpoint(tmp_path, "m")


def test_files_that_are_missing(model: Path, tmp_path: Path) -> None:
    assert "has no config.json" in refusal(tmp_path)
    (model / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json" in refusal(model)
    (model / "processor_config.json").write_text(json.dumps({"processor_class": "X"}))
    assert "has no preprocessor_config.json" in refusal(model)
    make_model(model)
    (model / "model.safetensors").unlink()
    assert refusal(model).endswith(
        "has no model.safetensors; if it has pickled weights (pytorch_model.bin), convert it: m2f-batch "
        "convert-checkpoint the-model DEST"
    )
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    assert "has no model.safetensors (pytorch_model.bin: pickled weights are never read)" in refusal(model)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"{not json", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[" * 200_000, "is not valid JSON"),
        (b"[]", "does not hold a JSON object"),
        (b'"mask2former"', "does not hold a JSON object"),
        (b"{}", "config.json of the-model says no model_type; only "),
        (b'{"model_type": "bert"}', "is a 'bert' model; only "),
    ],
)
def test_config_files_that_are_none(model: Path, text: bytes, told: str) -> None:
    (model / "config.json").write_bytes(text)
    assert told in refusal(model)


def test_a_config_that_is_a_folder(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "config.json").mkdir()
    assert "config.json of" in refusal(model) and "cannot be read" in refusal(model)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "without gaps"),
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, "without gaps"),
        ({"id2label": {"0": "a", "00": "b", "1": "c"}}, "without gaps"),
        ({"id2label": {"x": "a"}}, "without gaps"),
        ({"id2label": {}}, "without gaps"),
        ({"id2label": ["a", "b", "c"]}, "without gaps"),
        ({"id2label": "abc"}, "without gaps"),
        ({"id2label": {"0": "a", "1": {}, "2": "c"}}, "must be texts"),
        ({"label_ids_to_fuse": "all"}, "label_ids_to_fuse must be a list of label ids, not 'all'"),
        ({"label_ids_to_fuse": [0, "x"]}, "label_ids_to_fuse must be a list"),
        ({"label_ids_to_fuse": {"0": 1}}, "label_ids_to_fuse must be a list"),
        ({"backbone_config": "swin"}, "backbone_config must be an object"),
        ({"transformers_weights": "adapter_model.bin"}, "transformers_weights is not supported"),
        ({"configuration_files": ["config.4.0.0.json"]}, "configuration_files is not supported"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config is not supported"),
    ],
)
def test_hostile_configs(model: Path, changes: dict[str, Any], told: str) -> None:
    set_config(model, **changes)
    assert told in refusal(model)


def test_odd_but_harmless_values_of_a_config(model: Path) -> None:
    set_config(model, backbone_config={"model_type": "swin", "embed_dim": "wide"}, task=["panoptic"], _name_or_path=5)
    checkpoint = read_checkpoint(model, "m")
    assert (
        backbone_width(checkpoint.config) is None
        and checkpoint.trained_task is None
        and checkpoint.license == "unknown"
    )


def header(tree: Any, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(**changes: Any) -> dict[str, Any]:
    return {"class_predictor.weight": {"dtype": "F32", "shape": [4, 1], "data_offsets": [0, 16], **changes}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abc",
        struct.pack("<Q", 2**62),
        struct.pack("<Q", 200 << 20) + b"{}",
        header([]),
        header(b"\xff\xfe"),
        header(b"[" * 50_000),
        header({"class_predictor.weight": "x"}),
        header(tensor(data_offsets=[-16, 0])),
        header(tensor(data_offsets=[0, 2**63])),
        header(tensor(data_offsets=[16, 0]), bytes(16)),
        header(tensor(data_offsets="ab"), bytes(16)),
        header(tensor(shape=[2**62, 4]), bytes(16)),
        header(tensor(shape=[5, 1]), bytes(16)),
        header(tensor(dtype="F99"), bytes(16)),
        header(tensor(), bytes(15)),
        header(tensor(), bytes(17)),
    ],
)
def test_broken_safetensors(model: Path, data: bytes) -> None:
    (model / "model.safetensors").write_bytes(data)
    assert "model.safetensors of the-model is not whole" in refusal(model)


def test_safetensors_cut_off_anywhere(model: Path) -> None:
    whole = (model / "model.safetensors").read_bytes()
    for length in range(0, len(whole), 7):
        (model / "model.safetensors").write_bytes(whole[:length])
        assert "is not whole" in refusal(model)


def test_weights_of_another_model(model: Path) -> None:
    save_file(weights(80), model / "model.safetensors")
    assert "names 3 labels in config.json, but its weights know 80; write" in refusal(model)
    save_file({"other": np.zeros(3, np.float32)}, model / "model.safetensors")
    assert "has no class_predictor.weight" in refusal(model)
    save_file({"class_predictor.weight": np.zeros((), np.float32)}, model / "model.safetensors")
    assert "has no class_predictor.weight" in refusal(model)


def test_sharded_weights(model: Path) -> None:
    names = shard(model)
    assert [file.name for file in weight_files(model)] == names
    sharded = read_checkpoint(model, "m").weights_sha256
    (model / names[1]).unlink()
    assert f"has no {names[1]}" in refusal(model)
    make_model(model)  # transformers takes the one file when both are there
    assert [file.name for file in weight_files(model)] == ["model.safetensors"]
    assert read_checkpoint(model, "m").weights_sha256 != sharded


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"class_predictor.weight": "../secret.safetensors"}},
        {"weight_map": {"class_predictor.weight": "{tmp}/secret.safetensors"}},
        {"weight_map": {"class_predictor.weight": "sub/model.safetensors"}},
        {"weight_map": {"class_predictor.weight": "..\\secret.safetensors"}},
        {"weight_map": {"class_predictor.weight": "pytorch_model-00001-of-00001.bin"}},
        {"weight_map": {"class_predictor.weight": "a\0.safetensors"}},
        {"weight_map": {"class_predictor.weight": "a.safetensors\n"}},
        {"weight_map": {"class_predictor.weight": 5}},
        {"weight_map": {"class_predictor.weight": ["model.safetensors"]}},
        {"weight_map": {}},
        {"weight_map": ["model-1.safetensors"]},
        {},
    ],
)
def test_an_index_that_points_elsewhere_is_refused(model: Path, tmp_path: Path, index: Any) -> None:
    save_file(weights(3), tmp_path / "secret.safetensors")
    (model / "model.safetensors").unlink()
    text = json.dumps(index).replace("{tmp}", str(tmp_path))
    (model / "model.safetensors.index.json").write_text(text)
    assert "the weight_map in model.safetensors.index.json of" in refusal(model)


def test_an_index_that_is_no_json(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text("{")
    assert "model.safetensors.index.json of" in refusal(model) and "is not valid JSON" in refusal(model)


def test_settings_inside_processor_config_win_as_in_transformers(model: Path) -> None:
    nested = PROCESSOR | {"size": {"height": 8, "width": 9}}
    (model / "processor_config.json").write_text(json.dumps({"image_processor": nested}))
    assert read_checkpoint(model, "m").processor == nested
    (model / "preprocessor_config.json").unlink()
    assert read_checkpoint(model, "m").processor == nested
    (model / "processor_config.json").write_text(json.dumps({"image_processor": [1]}))
    assert "image_processor in processor_config.json of the-model must be an object" in refusal(model)


@pytest.mark.parametrize(
    ("card", "name", "license"),
    [
        ("---\nlicense: mit\n---\n# x", "m", "mit"),
        ("---\r\nlicense: MIT\r\n---\r\n", "m", "mit"),
        ("\ufeff---\nlicense: mit\ntags:\n- a---b\n---\n", "m", "mit"),
        ("---\nlicense:\n- mit\n- Apache-2.0\n---\n", "m", "mit, apache-2.0"),
        ("---\nlicense: other\n---\n", "facebook/mask2former-swin-tiny-coco-instance@main", "cc-by-nc-4.0"),
        (None, "Facebook/Mask2Former-swin-tiny-coco-instance", "cc-by-nc-4.0"),
        ("---\nlicense: other\n---\n", "someone/mask2former-x", "other"),
        (None, "facebook/mask2former-swin-tiny-coco-instance", "cc-by-nc-4.0"),
        (None, "m", "unknown"),
        ("no front matter, license: mit", "m", "unknown"),
        ("# x\n---\nlicense: mit\n---\n", "m", "unknown"),
        ("---\nlicense: mit\n", "m", "unknown"),
        ("---\nlicense:\n---\n", "m", "unknown"),
        ("---\nlicense: [\n---\n", "m", "unknown"),
        ("---\nlicense: !!python/object/apply:os.system [ls]\n---\n", "m", "unknown"),
        ("---\nlicense: mit\ndate: 2024-13-45\n---\n", "m", "unknown"),
        ("---\n- mit\n---\n", "m", "unknown"),
        ("---\n---\n", "m", "unknown"),
        ("", "m", "unknown"),
    ],
)
def test_licences(model: Path, card: str | None, name: str, license: str) -> None:
    if card is not None:
        (model / "README.md").write_bytes(card.encode())
    assert read_checkpoint(model, name).license == license


def test_licence_of_a_model_tuned_from_the_zoo(model: Path) -> None:
    set_config(model, _name_or_path="facebook/mask2former-swin-tiny-coco-instance")
    assert read_checkpoint(model, "mine").license == "cc-by-nc-4.0"


def test_allowed_licences(model: Path) -> None:
    (model / "README.md").write_text("---\nlicense: [mit, apache-2.0]\n---\n")
    checkpoint = read_checkpoint(model, "m")
    check_license(checkpoint, None)
    check_license(checkpoint, ("MIT", "apache-2.0"))
    for allowed in (("mit",), (), ("cc-by-4.0",)):
        with pytest.raises(
            UsageError, match=r"model.allowed_licenses: the weights of m are 'mit, apache-2.0'; allowed: "
        ):
            check_license(checkpoint, allowed)


def named(name: str, **config: Any) -> Checkpoint:
    return Checkpoint(name, Path("/nowhere"), {"model_type": "mask2former", "id2label": {"0": "a"}, **config}, {})


@pytest.mark.parametrize(
    ("checkpoint", "task"),
    [
        (named("facebook/mask2former-swin-tiny-coco-instance"), "instance"),
        (named("facebook/mask2former-swin-large-ade-panoptic@main"), "panoptic"),
        (named("facebook/mask2former-swin-large-coco-panoptic@refs/pr/3"), "panoptic"),
        (named("/models/mine-semantic/"), "semantic"),
        (named("s3://bucket/m/x-semantic"), "semantic"),
        (named("/models/a-panoptic/plain"), None),
        (named("mine", task="semantic"), "semantic"),
        (named("mine-instance", task="panoptic"), "panoptic"),
        (named("mine", _name_or_path="facebook/mask2former-swin-small-cityscapes-semantic"), "semantic"),
        (named("mine", task="detection"), None),
    ],
)
def test_the_task_a_model_was_trained_for(checkpoint: Checkpoint, task: str | None) -> None:
    assert checkpoint.trained_task == task


def test_choice_of_the_task() -> None:
    panoptic, instance, unknown = named("x-panoptic"), named("x-instance"), named("x")
    assert [choose_task(panoptic, task) for task in (None, "instance", "semantic", "panoptic")] == [
        *("panoptic", "instance", "semantic", "panoptic")
    ]
    assert (choose_task(instance, None), choose_task(unknown, "semantic")) == ("instance", "semantic")
    with pytest.raises(UsageError, match=r"model.task: 'panoptic' is not what x-instance .* allowed .*: instance"):
        choose_task(instance, "panoptic")
    with pytest.raises(UsageError, match=r"model.task: is not given, .*instance, semantic, panoptic"):
        choose_task(unknown, None)


def test_fingerprint_changes_with_what_decides_a_label_only(model: Path) -> None:
    backbone = {"model_type": "swin", "embed_dim": 96, "transformers_version": "4.26.0", "torch_dtype": None}
    set_config(model, backbone_config=backbone, num_queries=100)

    def fingerprint() -> str:
        return read_checkpoint(model, "m").fingerprint

    first = fingerprint()
    volatile = {"_name_or_path": "x", "transformers_version": "9.9", "dtype": "float32", "torch_dtype": "float16"}
    set_config(model, **volatile, backbone_config=backbone | volatile)
    assert fingerprint() == first
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    assert fingerprint() == first
    set_config(model, num_queries=101)
    second = fingerprint()
    set_config(model, num_queries=100, backbone_config=backbone | {"embed_dim": 128})
    third = fingerprint()
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(bytes(data))
    assert len({first, second, third, fingerprint()}) == 4
