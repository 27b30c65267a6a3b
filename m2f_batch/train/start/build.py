"""Builds what training starts from: a checkpoint, a pretrained backbone, or random weights.

``models/mask2former/training`` makes the new model. Notes tell what is taken over and what is new.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from m2f_batch.config.finetune import StartConfig, TrainConfig
from m2f_batch.config.segment import Task
from m2f_batch.datasets.dataset import Category
from m2f_batch.errors import UsageError
from m2f_batch.models.checkpoint import read_config
from m2f_batch.models.from_tensors import quiet
from m2f_batch.models.loading import load_original
from m2f_batch.models.training import Training
from m2f_batch.storage.json_text import JsonObject
from m2f_batch.train.network.freezing import batch_norms, freeze, freeze_batch_norms, freeze_unused
from m2f_batch.train.network.recompute import recompute_activations
from m2f_batch.train.start.backbones import Backbone, check_features, find_backbone, load_backbone_weights
from m2f_batch.train.start.class_labels import Labels, head_rows, known_labels, labels_of
from m2f_batch.train.start.job import TrainJob


@dataclass(frozen=True)
class Start:
    """A model of transformers in float32 on the CPU, how it is trained, and notes on what it is made of.

    ``label_ids`` is its label for each category of the dataset, or -1 where a category is not learned. A
    ``pretrained_backbone`` has weights that are not random, so it is trained slowly and its batch norms keep their
    statistics.
    """

    model: PreTrainedModel
    training: Training
    label_ids: tuple[int, ...]
    pretrained_backbone: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class New:
    """A model ready to be trained. ``notes`` tell what it is made of and what was done to it."""

    start: Start
    notes: tuple[str, ...]


def new_model(job: TrainJob) -> New:
    """Return the model that ``job`` starts from, on the CPU, prepared to be trained.

    Raises UsageError for settings of which nothing can be made, before anything is written, and RunError.
    """
    config, checkpoint, training = job.config, job.checkpoint(), job.training()
    start = build_model(
        config.model, job.train.categories, job.task, training, seed=config.train.seed, checkpoint=checkpoint
    )
    return New(start, (*start.notes, *prepare(start, config.train)))


def build_model(
    start: StartConfig,
    categories: Sequence[Category],
    task: Task,
    training: Training,
    *,
    seed: int,
    checkpoint: Path | None = None,
) -> Start:
    """Return the model for these categories. ``checkpoint`` is the directory of ``model.uri``, if that is given.

    New weights follow from ``seed``, and torch's own generator is left alone. Raises UsageError and RunError.
    """
    labels = labels_of(categories, task)
    named, weights = start.backbone, start.backbone_weights
    backbone = None if named is None else find_backbone(named, training, weights=weights)
    with quiet():
        config = _with_labels(training.new_config(start.config, _base(checkpoint, backbone, training)), labels, task)
    model = _new_model(config, training, seed)
    encoder = model.get_submodule(training.backbone)
    assert isinstance(encoder, PreTrainedModel)
    if checkpoint is not None:
        old = load_original(checkpoint).model
        assert isinstance(old, PreTrainedModel)
        notes = _take_over(model, old, labels, start, training)
    elif backbone is not None and backbone.directory is not None:
        new = load_backbone_weights(encoder, backbone)
        notes = [f"backbone {backbone.name}: pretrained{f', {len(new)} new norms of its outputs' if new else ''}"]
        notes.append("everything but the backbone starts from random weights")
    else:
        notes = ["all weights start at random"]
    if checkpoint is None:
        check_features(encoder, start.backbone or "model.config.backbone_config", training)
    pretrained = checkpoint is not None or (backbone is not None and backbone.directory is not None)
    return Start(model, training, labels.of_category, pretrained, tuple(notes))


def prepare(start: Start, train: TrainConfig) -> list[str]:
    """Use fast modules, freeze and recompute as ``train`` says, and freeze what never gets a gradient.

    Returns notes on what was done.
    """
    training, model = start.training, start.model
    notes = training.use_fast_modules(model)
    frozen = freeze(model, train.freeze)
    if frozen:
        notes.append(f"{len(frozen)} parameters are frozen by train.freeze")
    if keeps_batch_norms(start, train) and freeze_batch_norms(model):
        notes.append(f"{len(batch_norms(model))} batch norms stay as they are")
    unused = freeze_unused(model, training)
    if unused:
        notes.append(f"{len(unused)} parameters get no gradient and are frozen: {', '.join(unused[:3])}")
    if train.activation_checkpointing:
        notes.append(f"activations of {len(recompute_activations(model, training))} parts are computed again")
    return notes


def keeps_batch_norms(start: Start, train: TrainConfig) -> bool:
    """Tell whether batch norms stay as they are (``freezing.train_mode``)."""
    return start.pretrained_backbone if train.freeze_batch_norms is None else train.freeze_batch_norms


def backbone_multiplier(start: Start, train: TrainConfig) -> float:
    """Return the learning rate of the backbone relative to the rest."""
    if train.backbone_multiplier is not None:
        return train.backbone_multiplier
    return 0.1 if start.pretrained_backbone else 1.0


def _base(checkpoint: Path | None, backbone: Backbone | None, training: Training) -> JsonObject | None:
    """Return the config that ``model.config`` is laid over."""
    if checkpoint is not None:
        return training.current_config(read_config(checkpoint, str(checkpoint)))
    return None if backbone is None else {"backbone_config": backbone.config}


def _with_labels(config: PretrainedConfig, labels: Labels, task: Task) -> PretrainedConfig:
    config.id2label = dict(enumerate(labels.names))
    config.label2id = {name: label for label, name in enumerate(labels.names)}
    config.label_ids_to_fuse = list(labels.stuff_ids)
    config.task = task
    return config


def _new_model(config: PretrainedConfig, training: Training, seed: int) -> PreTrainedModel:
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = training.new_model(config).float()
            _start_biases(model.get_submodule(training.backbone))
        except (ValueError, RuntimeError, TypeError, IndexError, ZeroDivisionError, AssertionError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UsageError(f"no model can be made of it ({reason})", field="model.config") from None
    return model


@torch.no_grad()
def _start_biases(encoder: nn.Module) -> None:
    """Start the biases of convolutions as torch does, because ``transformers`` sets them to zero.

    Then a transformer's features of padding are zero, and each LayerNorm on the way multiplies their gradients by 300:
    the norm of all gradients overflows, and clipping makes them zero.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None and not module.bias.any():
            bound = module.weight[0].numel() ** -0.5
            module.bias.uniform_(-bound, bound)


def _take_over(
    model: PreTrainedModel, old: PreTrainedModel, labels: Labels, start: StartConfig, training: Training
) -> list[str]:
    """Put the weights of a checkpoint into a model of other labels, and maybe other parameters."""
    given, state = old.state_dict(), model.state_dict()
    replaced = (*training.heads, *training.derived)
    notes: list[str] = []
    taken = {name: value for name, value in given.items() if name in state and name not in replaced}
    wanted, there = (len(tensors[training.queries[0]]) for tensors in (state, given))
    if wanted != there:
        same = min(wanted, there)
        for name in training.queries:
            taken[name] = torch.cat([given[name][:same], state[name][same:]])
        notes.append(f"{same} of {wanted} queries are the checkpoint's, which has {there}")
    wrong = [name for name, value in taken.items() if value.shape != state[name].shape]
    if wrong:
        raise UsageError(
            f"with {', '.join(start.config)} as given, {len(wrong)} tensors of the checkpoint do not "
            f"fit, e.g. {wrong[0]}: {list(taken[wrong[0]].shape)} instead of "
            f"{list(state[wrong[0]].shape)}",
            field="model.config",
            hint="leave out what changes shapes, or model.uri",
        )
    notes.insert(0, _take_head(state, given, labels, old.config.id2label or {}, training.heads))
    new = [name for name in state if name not in taken and name not in replaced]
    unused = [name for name in given if name not in state]
    if new:
        notes.append(f"{len(new)} tensors are not in the checkpoint and start at random, e.g. {new[0]}")
    if unused:
        notes.append(f"{len(unused)} tensors of the checkpoint are not used, e.g. {unused[0]}")
    model.load_state_dict(state | taken)
    return notes


def _take_head(
    state: dict[str, Tensor],
    given: dict[str, Tensor],
    labels: Labels,
    id2label: Mapping[int, str],
    heads: Sequence[str],
) -> str:
    """Put rows of the class head by name into ``state``, if the checkpoint knows any label, and say what was done."""
    known = known_labels(labels.names, id2label)
    count = f"{len(known)} categories"
    new = [name for name, label in zip(labels.names, known, strict=True) if label < 0]
    some = ", ".join(sorted(new)[:5])
    if len(new) == len(known):
        return f"a new class head for {count}: the checkpoint knows none of them by name ({some})"
    for name in heads:
        state[name] = head_rows(given[name], known, state[name])
    if new:
        return (
            f"the class head is the checkpoint's for no object and {len(known) - len(new)} of {count}, new for "
            f"{len(new)} that it does not know by name ({some})"
        )
    return f"the class head is the checkpoint's: it knows all {count} by name, of its {len(id2label)}"
