"""A model directory is read without torch: its labels, task, license, weights and fingerprint."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from m2f_batch.config.segment import Task
from m2f_batch.errors import Plain, UsageError
from m2f_batch.models.family import AsPublished, Family, JsonMapping, all_families, family_of, whole_weights
from m2f_batch.models.label_sets import LabelSet, assumed_set, find_label_set, label_lines, names_of
from m2f_batch.models.published.licenses import license_of
from m2f_batch.storage.json_text import JsonObject, read_json_object

TASKS: tuple[Task, ...] = ("instance", "semantic", "panoptic")
DEFAULT_LABELS = {"0": "LABEL_0", "1": "LABEL_1"}
MAX_DEPTH = 50  # of objects in config.json; published ones have 3
# keys of config.json that make transformers read other files than the checked ones, or change weights (quantization)
REDIRECTS = ("transformers_weights", "configuration_files", "quantization_config")
# keys of config.json, at any depth, that change without changing a label
VOLATILE_KEYS = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype"})
LFS_START, LFS_ADVICE = b"version https://git-lfs", "it is a pointer of Git LFS; fetch the file: git lfs pull"


@dataclass(frozen=True)
class Checkpoint:
    """A model directory, which the user called ``name``, with its two JSON files."""

    name: str
    directory: Path
    config: dict[str, Any]
    processor: dict[str, Any]

    @property
    def family(self) -> Family:
        """The rules of its architecture."""
        return family_of(self.config, self.name)

    @cached_property
    def id2label(self) -> dict[int, str]:
        """Label names by label id, 0 to C - 1."""
        return names_of(self.assumed_labels) if self.assumed_labels else self._stated_labels

    @property
    def _stated_labels(self) -> dict[int, str]:
        return {int(i): str(name) for i, name in self.config["id2label"].items()}

    @cached_property
    def assumed_labels(self) -> str | None:
        """The label set of published weights whose config.json names no labels."""
        names = (self.name.partition("@")[0], str(self.config.get("_name_or_path", "")))
        return assumed_set(self._stated_labels, self.family.published.labels, names)

    @property
    def as_published(self) -> AsPublished | None:
        """Tell how the weights of its authors run, where it has those and transformers runs them otherwise."""
        found = self.family.published.otherwise
        return found if found and found.are_these(self.config, self.name.partition("@")[0]) else None

    @property
    def named_config(self) -> dict[str, Any]:
        """config.json with its settled labels and, in ``_name_or_path``, all names of the model.

        Some published tests only a name tells.
        """
        names = (self.name.partition("@")[0], str(self.config.get("_name_or_path") or ""))
        labels = {str(i): name for i, name in self.id2label.items()}
        return {**self.config, "id2label": labels, "_name_or_path": " ".join(names)}

    @cached_property
    def label_set(self) -> LabelSet | None:
        """The published label set it was trained on, if it is one."""
        return find_label_set(self.id2label, self.family.label_sets)

    @property
    def stuff_ids(self) -> frozenset[int] | None:
        """``label_ids_to_fuse`` of config.json, if it is there."""
        ids = self.config.get("label_ids_to_fuse")
        return None if ids is None else frozenset(ids)

    @property
    def trained_task(self) -> Task | None:
        """The task it was trained for: ``task`` of config.json, else its name (``...-coco-instance@main``)."""
        stated = self.config.get("task")
        names = [self.name, self.name.rpartition("@")[0], str(self.config.get("_name_or_path", ""))]
        lasts = [name.rstrip("/").rpartition("/")[2] for name in names]
        found = (task for last in lasts for task in TASKS if f"-{task}" in last or f"_{task}_eomt" in last.casefold())
        return stated if stated in TASKS else next(found, None)

    def published_postprocess(self, task: Task) -> JsonMapping:
        """Return the values that were published for a task's settings."""
        return self.family.tasks.settings(self.config, self.trained_task, self.label_set, task)

    @cached_property
    def license(self) -> str:
        """The license of the weights by the model card, else by the tables of published models, else "unknown"."""
        names = (self.name, str(self.config.get("_name_or_path", "")))
        tables = (family.published.licenses for family in all_families().values())
        published = {name: found for table in tables for name, found in table.items()}
        # a backbone alone has no config here, nor a family
        base = self.family.published.base_license if self.config else None
        return license_of(self.directory / "README.md", names, self.config, published, base)

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
        config = json.dumps(_lasting(self.config), sort_keys=True)
        return hashlib.sha256(f"{self.weights_sha256}\n{config}".encode()).hexdigest()


def read_checkpoint(directory: Path, name: str) -> Checkpoint:
    """Read and check a model directory. Raises UsageError when it is no whole model of a family in safetensors."""
    checkpoint = Checkpoint(name, directory, read_config(directory, name), _read_processor(directory, name))
    _check_weights(checkpoint)
    return checkpoint


def read_config(directory: Path, name: str) -> dict[str, Any]:
    """Read config.json of a model directory, checked, as it stands there. Raises UsageError."""
    config = _read_json(directory, "config.json", name)
    family = family_of(config, name)
    if config.get("id2label") is None:
        config["id2label"] = _numbered_labels(directory, config, family)
    labels = config["id2label"]
    if not isinstance(labels, dict) or not labels or set(labels) != {str(i) for i in range(len(labels))}:
        raise UsageError(
            f"config.json of {name}: the ids of id2label must be 0, 1, 2, ... without gaps",
            field="model.uri",
            hint=f"write\n{label_lines(labels, _labels_in_weights(directory, family))}",
        )
    wrong = next(_config_problems(config, family), None)
    if wrong:
        raise UsageError(f"config.json of {name}: {wrong}", field="model.uri")
    return config


def choose_task(checkpoint: Checkpoint, asked: Task | None) -> Task:
    """Choose the task of the run, checked against what the family can do and the model was trained for."""
    trained = checkpoint.trained_task
    rules = checkpoint.family.tasks
    able = rules.able(checkpoint.config, trained, checkpoint.label_set)
    # a family of one task has that one, whatever the name of the model says
    task = asked or (able[0] if len(able) == 1 else trained)
    if task is None:
        raise UsageError(
            f"is not given, and neither the name nor the config of {checkpoint.name} says it",
            field="model.task",
            allowed=f"{', '.join(able)} (--task)",
        )
    if task not in able and task in rules.refusals:
        raise UsageError(
            f"is nothing that {checkpoint.family.name} does: {rules.refusals[task]}",
            field="model.task",
            value=task,
            allowed=", ".join(able),
        )
    label_set = checkpoint.label_set
    if task not in able and trained is None and task in rules.able(checkpoint.config, task, label_set):
        labels = "whose labels are known" if label_set is None else f"whose labels are those of {label_set.name}"
        raise UsageError(
            f"is not what is known of {checkpoint.name}, {labels}, of which published models are {' or '.join(able)}",
            field="model.task",
            value=task,
            allowed=", ".join(able),
            hint=f'if it was trained for {task}, write "task": "{task}" in its config.json',
        )
    if task not in able:
        why = "was trained for" if trained is not None else f"can do, as all of {checkpoint.family.name}"
        raise UsageError(
            f"is not what {checkpoint.name} {why}; allowed with this model: {', '.join(able)}",
            field="model.task",
            value=task,
        )
    return task


def check_license(checkpoint: Checkpoint, allowed: tuple[str, ...] | None) -> None:
    """Raise UsageError when ``model.allowed_licenses`` is given and does not hold the weights' license."""
    if allowed is not None and not set(checkpoint.license.split(", ")) <= {name.lower() for name in allowed}:
        raise UsageError(
            f"the weights of {checkpoint.name} are {checkpoint.license!r}",
            field="model.allowed_licenses",
            allowed=", ".join(allowed) or "none",
        )


def weight_files(directory: Path) -> list[Path]:
    """List the safetensors files that transformers would load, by name: the one, else the shards in the index."""
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").exists() or not index.exists():
        return [directory / "model.safetensors"]
    shards = _read_json(directory, index.name, str(directory)).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names):
        raise UsageError(
            f"the weight_map in {index.name} of {directory} must name safetensors files of that directory",
            field="model.uri",
        )
    return sorted(directory / name for name in set(names))


def tensor_shapes(file: Path) -> dict[str, list[int]]:
    """Read names and shapes in a safetensors file, from its header. Raises SafetensorError when it is not whole."""
    with safe_open(file, framework="numpy") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118  # no mapping


def _config_problems(config: dict[str, Any], family: Family) -> Iterator[str]:
    """Yield what config.json must not hold, because it may come from anywhere."""
    labels, stuff = config.get("id2label"), config.get("label_ids_to_fuse")
    if labels is not None and not all(isinstance(name, str | int) for name in labels.values()):
        yield "the names in id2label must be texts"
    if stuff is not None and not (isinstance(stuff, list) and all(type(i) is int for i in stuff)):
        yield f"label_ids_to_fuse must be a list of label ids, not {stuff!r}"
    yield from family.config_problems(config)
    for key in REDIRECTS:
        if config.get(key) is not None:
            yield f"{key} is not supported; save the model anew without it"
    yield from _foreign_parts(config)


def _foreign_parts(tree: Any, depth: int = 0) -> Iterator[str]:
    """Yield what would make transformers run a kernel of the hub, or timm read another repository or folder."""
    if depth > MAX_DEPTH:
        yield f"it is nested more than {MAX_DEPTH} deep"
        return
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if "_implementation" in key and re.search(r"[/:]", json.dumps(value)):
            yield f"{key} names code of another repository, which is never run; save the model anew without it"
        elif key in ("backbone", "architecture") and isinstance(value, str) and re.search(r"[/:]", value):
            yield f"{key} must be the name of an architecture, not {value!r}"
        else:
            yield from _foreign_parts(value, depth + 1)


def _lasting(tree: Any) -> Any:
    """Return a JSON tree without its volatile keys."""
    if isinstance(tree, dict):
        return {key: _lasting(value) for key, value in tree.items() if key not in VOLATILE_KEYS}
    return tree


def _numbered_labels(directory: Path, config: JsonMapping, family: Family) -> dict[str, str]:
    """Give the labels of a config.json that names none: as many as it and the weights count, else transformers' two."""
    count = config.get("num_labels")
    if type(count) is int and count == _labels_in_weights(directory, family):
        return {str(i): f"LABEL_{i}" for i in range(count)}
    return dict(DEFAULT_LABELS)  # which transformers leaves out


def _labels_in_weights(directory: Path, family: Family) -> int | None:
    """Count the labels that the class head knows, as far as the files can be read."""
    with suppress(UsageError, SafetensorError, OSError):
        for file in weight_files(directory):
            known = family.head.labels(tensor_shapes(file))
            if known is not None:
                return known
    return None


def _check_weights(checkpoint: Checkpoint) -> None:
    family = checkpoint.family
    shapes: dict[str, list[int]] = {}
    for file in weight_files(checkpoint.directory):
        if not file.exists():
            raise UsageError(_missing_weights(checkpoint, file.name), field="model.uri")
        try:
            shapes |= tensor_shapes(file)
        except (SafetensorError, OSError) as error:
            reason = LFS_ADVICE if _is_pointer(file) else str(error)
            raise UsageError(f"{file.name} of {checkpoint.name} is not whole: {reason}", field="model.uri") from None
    head, known = family.head.tensor, family.head.labels(shapes)
    if known is None:
        wrapped = next((name for name in shapes if name.endswith(f".{head}")), None)
        hint = f"it has {wrapped}: save the model itself, not what wraps it (model.module.save_pretrained, ...)"
        raise UsageError(
            f"has no {head}, so is not a {family.class_name}",
            field="model.uri",
            value=Plain(checkpoint.name),
            hint=hint if wrapped else "",
        )
    if known != len(checkpoint.id2label):
        labels = checkpoint.config["id2label"]
        names = "no labels" if labels == DEFAULT_LABELS else f"{len(labels)} labels"
        raise UsageError(
            f"names {names} in config.json, but its weights know {known}",
            field="model.uri",
            value=Plain(checkpoint.name),
            hint=f"write\n{label_lines({} if labels == DEFAULT_LABELS else labels, known)}",
        )
    for problem in family.weight_problems(checkpoint.config, shapes):
        raise UsageError(f"config.json of {checkpoint.name}: {problem}", field="model.uri")
    for problem in family.value_problems(weight_files(checkpoint.directory)):
        raise UsageError(f"the weights of {checkpoint.name}: {problem}", field="model.uri")


def _missing_weights(checkpoint: Checkpoint, missing: str) -> str:
    """Advise what to do about a file of weights that is not there, by what is."""
    name, there = checkpoint.name, {path.name for path in checkpoint.directory.iterdir()}
    if missing != "model.safetensors":
        return f"{name} has no {missing}, which model.safetensors.index.json names; copy it there from where it came"
    pickles = sorted(file for file in there if file.endswith(".bin") and file != "training_args.bin")
    if pickles:
        return (
            f"{name} has no {missing} ({', '.join(pickles)}: pickled weights are never read); convert it: "
            f"m2f-batch convert-checkpoint {name} DEST; of a hub id, a pull request may hold safetensors: id@refs/pr/3"
        )
    if "adapter_model.safetensors" in there:
        return (
            f"{name} has no {missing}, but an adapter; merge it into its model (peft: merge_and_unload), and save that"
        )
    others = sorted(file for file in there if file.endswith(".safetensors"))
    if others:
        return f"{name} has no {missing}, but {', '.join(others[:3])}; give the one that is meant that name"
    return (
        f"{name} has no {missing}; if it has pickled weights (pytorch_model.bin), convert it: m2f-batch "
        f"convert-checkpoint {name} DEST"
    )


def _is_pointer(file: Path) -> bool:
    """Tell whether a file is what Git LFS leaves in place of one that was not fetched."""
    with suppress(OSError), open(file, "rb") as handle:
        return handle.read(len(LFS_START)) == LFS_START
    return False


def _model_below(directory: Path) -> str:
    """Say where the model is, if a folder too high was given: of a training, or of the hub's cache."""
    found = sorted(path.parent for pattern in ("*", "snapshots/*") for path in directory.glob(f"{pattern}/config.json"))
    return f"; there is one in {', '.join(map(str, found[-3:]))}" if found else ""


def _read_processor(directory: Path, name: str) -> dict[str, Any]:
    """Read the image processor's settings. Those inside processor_config.json win, as in transformers."""
    processor = None
    if (directory / "processor_config.json").exists():
        processor = _read_json(directory, "processor_config.json", name).get("image_processor")
    if processor is None and (directory / "preprocessor_config.json").exists():
        processor = _read_json(directory, "preprocessor_config.json", name)
    if processor is None:
        raise UsageError(
            "has no preprocessor_config.json",
            field="model.uri",
            value=Plain(name),
            hint="copy it from the model it was tuned from",
        )
    if not isinstance(processor, dict):
        raise UsageError(f"image_processor in processor_config.json of {name} must be an object", field="model.uri")
    return processor


def _read_json(directory: Path, file: str, name: str) -> JsonObject:
    where = f"{file} of {name}"
    try:
        text = (directory / file).read_text(encoding="utf-8")  # a byte order mark, which transformers refuses, stays
    except FileNotFoundError:
        below = _model_below(directory) if file == "config.json" else ""
        raise UsageError(
            f"has no {file}",
            field="model.uri",
            value=Plain(name),
            hint=_instead_of_deltas(name) or f"give a Hugging Face model directory{below}",
        ) from None
    except OSError as error:
        raise UsageError(f"{where} cannot be read ({error.strerror})", field="model.uri") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not valid JSON: {error}", field="model.uri") from None
    return read_json_object(text, where, field="model.uri")


def _instead_of_deltas(name: str) -> str:
    """Advise what to take instead of published weights that are only differences, where ``name`` is one of those."""
    whole = whole_weights(name)
    return (
        f"it holds what is to be added to the weights of another model; take the whole ones, {whole}" if whole else ""
    )
