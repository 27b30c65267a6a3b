"""What a model directory says about itself, read without torch: labels, task, licence, weights, fingerprint."""

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from m2f_batch.config import Task
from m2f_batch.errors import UsageError
from m2f_batch.labels import LabelSet, find_label_set

ARCHITECTURE = "Mask2FormerForUniversalSegmentation"
TASKS: tuple[Task, ...] = ("instance", "semantic", "panoptic")
# a panoptic model answers all three (paper, section 4.3); the others were never taught what the rest needs
CAN_DO: dict[Task, tuple[Task, ...]] = {"panoptic": TASKS, "instance": ("instance",), "semantic": ("semantic",)}
# the cards of the published zoo say "other"; the zoo says this
PUBLISHED_LICENSES = {"facebook/mask2former-": "cc-by-nc-4.0"}
# keys of config.json that change without changing a label
VOLATILE_KEYS = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype"})


@dataclass(frozen=True)
class Checkpoint:
    """A Mask2Former directory: ``name`` is what the user called it, ``config`` and ``processor`` its two JSON files."""

    name: str
    directory: Path
    config: dict[str, Any]
    processor: dict[str, Any]

    @cached_property
    def id2label(self) -> dict[int, str]:
        """Label names by label id, 0 to C - 1."""
        return {int(i): str(name) for i, name in self.config["id2label"].items()}

    @cached_property
    def label_set(self) -> LabelSet | None:
        """The published label set it was trained on, if it is one."""
        return find_label_set(self.id2label)

    @property
    def stuff_ids(self) -> frozenset[int] | None:
        """``label_ids_to_fuse`` of config.json, if it is there."""
        ids = self.config.get("label_ids_to_fuse")
        return None if ids is None else frozenset(int(i) for i in ids)

    @property
    def trained_task(self) -> Task | None:
        """The task it was trained for: ``task`` of config.json, else its name (``...-coco-instance``)."""
        names = [str(self.config.get("task", "")), self.name, str(self.config.get("_name_or_path", ""))]
        found = (task for name in names for task in TASKS if name == task or f"-{task}" in name.rpartition("/")[2])
        return next(found, None)

    @property
    def backbone_width(self) -> int | None:
        """``embed_dim`` of a Swin backbone (96 for tiny and small), else None."""
        return (self.config.get("backbone_config") or {}).get("embed_dim")

    @cached_property
    def license(self) -> str:
        """Licence of the weights: the model card's front matter, or the published table; "unknown" otherwise."""
        stated = _front_matter(self.directory / "README.md").get("license", "unknown")
        stated = ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated)
        if stated in ("other", "unknown"):
            for name in (self.name, str(self.config.get("_name_or_path", ""))):
                for prefix, published in PUBLISHED_LICENSES.items():
                    if name.startswith(prefix):
                        return published
        return stated.lower()

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 over the safetensors files, in the order of their names."""
        digest = hashlib.sha256()
        for file in weight_files(self.directory):
            with open(file, "rb") as handle:
                while chunk := handle.read(1 << 24):
                    digest.update(chunk)
        return digest.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what the model is: weights and config.json, less what decides no label."""
        config = {key: value for key, value in self.config.items() if key not in VOLATILE_KEYS}
        return hashlib.sha256(f"{self.weights_sha256}\n{json.dumps(config, sort_keys=True)}".encode()).hexdigest()


def read_checkpoint(directory: Path, name: str) -> Checkpoint:
    """Read and check a model directory. Raises UsageError when it is not a whole Mask2Former in safetensors."""
    config = _read_json(directory, "config.json")
    if config.get("model_type") != "mask2former":
        raise UsageError(
            f"model.uri: {name} is a {config.get('model_type')!r} model; only 'mask2former' models can be used"
        )
    if "id2label" not in config:  # transformers leaves the default two labels out
        config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1"}
    processor = _read_processor(directory, name)
    checkpoint = Checkpoint(name, directory, config, processor)
    if sorted(checkpoint.id2label) != list(range(len(checkpoint.id2label))):
        raise UsageError(f"model.uri: {name}: the ids of id2label in config.json must be 0, 1, 2, ... without gaps")
    _check_weights(checkpoint)
    return checkpoint


def choose_task(checkpoint: Checkpoint, asked: Task | None) -> Task:
    """The task of the run, checked against what the model was trained for."""
    trained = checkpoint.trained_task
    if asked is None and trained is None:
        raise UsageError(
            f"model.task: is not given, and neither the name nor the config of {checkpoint.name} says it; "
            "allowed: instance, semantic, panoptic (--task)"
        )
    if asked is not None and trained is not None and asked not in CAN_DO[trained]:
        raise UsageError(
            f"model.task: {asked!r} is not what {checkpoint.name} was trained for; "
            f"allowed with this model: {', '.join(CAN_DO[trained])}"
        )
    task = asked or trained
    assert task is not None
    return task


def check_license(checkpoint: Checkpoint, allowed: tuple[str, ...] | None) -> None:
    """Raise UsageError when ``model.allowed_licenses`` is given and does not hold the weights' licence."""
    if allowed is not None and checkpoint.license not in {name.lower() for name in allowed}:
        raise UsageError(
            f"model.allowed_licenses: the weights of {checkpoint.name} are {checkpoint.license!r}; "
            f"allowed: {', '.join(allowed) or 'none'}"
        )


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory, one or sharded, by name."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        shards = json.loads(index.read_text())["weight_map"].values()
        return sorted({directory / shard for shard in shards})
    return [directory / "model.safetensors"]


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Names and shapes in a safetensors file, from its header. Raises ValueError when it is not whole.

    Format: 8 bytes little-endian header length, a JSON header with byte ranges, the bytes.
    """
    total = file.stat().st_size
    with open(file, "rb") as handle:
        prefix = handle.read(8)
        (length,) = struct.unpack("<Q", prefix) if len(prefix) == 8 else (total,)
        if length > min(total - 8, 100 << 20):
            raise ValueError("its header is cut off")
        header = json.loads(handle.read(length))
    header.pop("__metadata__", None)
    if 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0) != total:
        raise ValueError("it is cut off or has bytes too many")
    return {name: tensor["shape"] for name, tensor in header.items()}


def _check_weights(checkpoint: Checkpoint) -> None:
    shapes: dict[str, list[int]] = {}
    for file in weight_files(checkpoint.directory):
        if not file.exists():
            others = sorted(path.name for path in checkpoint.directory.glob("*.bin"))
            hint = f" ({', '.join(others)}: pickled weights are never read)" if others else ""
            raise UsageError(
                f"model.uri: {checkpoint.name} has no {file.name}{hint}; "
                "convert it with transformers' save_pretrained, which writes safetensors"
            )
        try:
            shapes |= tensor_shapes(file)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"model.uri: {file.name} of {checkpoint.name} is not whole: {error}") from None
    head = shapes.get("class_predictor.weight")
    if head is None:
        raise UsageError(f"model.uri: {checkpoint.name} has no class_predictor.weight, so is not a {ARCHITECTURE}")
    if head[0] != len(checkpoint.id2label) + 1:
        raise UsageError(
            f"model.uri: {checkpoint.name} names {len(checkpoint.id2label)} labels in config.json, "
            f"but its weights know {head[0] - 1}"
        )


def _read_processor(directory: Path, name: str) -> dict[str, Any]:
    for file, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        if (directory / file).exists():
            processor = _read_json(directory, file)
            return processor if key is None else processor.get(key, {})
    raise UsageError(f"model.uri: {name} has no preprocessor_config.json; copy it from the model it was tuned from")


def _read_json(directory: Path, file: str) -> dict[str, Any]:
    try:
        tree = json.loads((directory / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"model.uri: {directory} has no {file}; give a Hugging Face model directory") from None
    except ValueError as error:
        raise UsageError(f"model.uri: {file} of {directory} is not JSON ({error})") from None
    if not isinstance(tree, dict):
        raise UsageError(f"model.uri: {file} of {directory} does not hold a JSON object")
    return tree


def _front_matter(card: Path) -> dict[str, Any]:
    """The YAML between the first two ``---`` lines of a model card, or nothing."""
    if not card.exists():
        return {}
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        tree = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return tree if isinstance(tree, dict) else {}
