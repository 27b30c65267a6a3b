"""The model that training starts from: a checkpoint, a pretrained backbone, or random weights.

What is taken over and what is new is told in notes, never silently.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from m2f_batch.config.finetune import StartConfig, TrainConfig
from m2f_batch.config.segment import Task
from m2f_batch.datasets.dataset import Category
from m2f_batch.errors import UsageError
from m2f_batch.models.backbone_configs import current_config
from m2f_batch.models.checkpoint import read_config
from m2f_batch.models.from_tensors import quiet
from m2f_batch.models.loading import load_original
from m2f_batch.train.network.fast_modules import quicken
from m2f_batch.train.network.freezing import batch_norms, freeze, freeze_batch_norms, freeze_unused
from m2f_batch.train.network.recompute import recompute_activations
from m2f_batch.train.start.backbones import Backbone, check_features, find_backbone, load_backbone_weights
from m2f_batch.train.start.heads import Labels, head_rows, known_labels, labels_of
from m2f_batch.train.start.model_config import new_config

HEAD = ("class_predictor.weight", "class_predictor.bias")
QUERIES = ("model.transformer_module.queries_embedder.weight", "model.transformer_module.queries_features.weight")
WEIGHTS_OF_LOSS = "criterion.empty_weight"  # a buffer that follows from the number of labels


@dataclass(frozen=True)
class Start:
    """A Mask2FormerForUniversalSegmentation in float32 on the CPU, and what it is made of.

    ``label_ids`` is its label for each category of the dataset, -1: not learnt. ``pretrained_backbone``: its weights
    are not random, so it is trained slowly and its batch norms keep their statistics.
    """

    model: Any
    label_ids: tuple[int, ...]
    pretrained_backbone: bool
    notes: tuple[str, ...]


def build_model(
    start: StartConfig, categories: Sequence[Category], task: Task, *, seed: int, checkpoint: Path | None = None
) -> Start:
    """The model for these categories. ``checkpoint`` is the directory of ``model.uri``, if that is given.

    New weights follow from ``seed``, and torch's own generator is left alone. Raises UsageError and RunError.
    """
    labels = labels_of(categories, task)
    backbone = None if start.backbone is None else find_backbone(start.backbone, weights=start.backbone_weights)
    with quiet():
        config = _with_labels(new_config(start.config, _base(checkpoint, backbone)), labels, task)
    model = _new_model(config, seed)
    if checkpoint is not None:
        notes = _take_over(model, load_original(checkpoint).model, labels, start)
    elif backbone is not None and backbone.directory is not None:
        new = load_backbone_weights(model, backbone)
        notes = [f"backbone {backbone.name}: pretrained{f', {len(new)} new norms of its outputs' if new else ''}"]
        notes.append("everything but the backbone starts from random weights")
    else:
        notes = ["all weights start at random"]
    if checkpoint is None:
        check_features(model.model.pixel_level_module.encoder, start.backbone or "model.config.backbone_config")
    pretrained = checkpoint is not None or (backbone is not None and backbone.directory is not None)
    return Start(model, labels.of_category, pretrained, tuple(notes))


def prepare(start: Start, train: TrainConfig) -> list[str]:
    """Quick parts; freeze and recompute as ``train`` says, and what never gets a gradient; notes on what was done."""
    notes, model = quicken(start.model), start.model
    frozen = freeze(model, train.freeze)
    if frozen:
        notes.append(f"{len(frozen)} parameters are frozen by train.freeze")
    if keeps_batch_norms(start, train) and freeze_batch_norms(model):
        notes.append(f"{len(batch_norms(model))} batch norms stay as they are")
    unused = freeze_unused(model)
    if unused:
        notes.append(f"{len(unused)} parameters get no gradient and are frozen: {', '.join(unused[:3])}")
    if train.activation_checkpointing:
        notes.append(f"activations of {len(recompute_activations(model))} parts are computed again")
    return notes


def keeps_batch_norms(start: Start, train: TrainConfig) -> bool:
    """Whether batch norms stay as they are (``freezing.train_mode``)."""
    return start.pretrained_backbone if train.freeze_batch_norms is None else train.freeze_batch_norms


def backbone_multiplier(start: Start, train: TrainConfig) -> float:
    """The learning rate of the backbone relative to the rest."""
    if train.backbone_multiplier is not None:
        return train.backbone_multiplier
    return 0.1 if start.pretrained_backbone else 1.0


def _base(checkpoint: Path | None, backbone: Backbone | None) -> dict[str, Any] | None:
    """The config that ``model.config`` is laid over."""
    if checkpoint is not None:
        return current_config(read_config(checkpoint, str(checkpoint)))
    return None if backbone is None else {"backbone_config": backbone.config}


def _with_labels(config: Mask2FormerConfig, labels: Labels, task: Task) -> Mask2FormerConfig:
    config.id2label = dict(enumerate(labels.names))
    config.label2id = {name: label for label, name in enumerate(labels.names)}
    config.label_ids_to_fuse = list(labels.stuff_ids)
    config.task = task
    return config


def _new_model(config: Mask2FormerConfig, seed: int) -> Any:
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = Mask2FormerForUniversalSegmentation(config).float()
            _start_biases(model.model.pixel_level_module.encoder)
        except (ValueError, RuntimeError, TypeError, IndexError, ZeroDivisionError, AssertionError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UsageError(f"model.config: no model can be made of it ({reason})") from None
    # transformers takes dropout for the chance to leave out whole layers, too, after which masks and maps do not fit
    model.model.transformer_module.decoder.layerdrop = 0.0
    return model


@torch.no_grad()
def _start_biases(encoder: nn.Module) -> None:
    """Biases of convolutions as torch starts them; ``transformers`` sets them to zero.

    Then a transformer's features of padding are zero, and each LayerNorm on the way multiplies their gradients by 300:
    the norm of all gradients overflows, and clipping makes them zero.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None and not module.bias.any():
            bound = module.weight[0].numel() ** -0.5
            module.bias.uniform_(-bound, bound)


def _take_over(model: Any, old: Any, labels: Labels, start: StartConfig) -> list[str]:
    """Weights of a checkpoint into a model of other labels, and maybe other parameters."""
    given, state = old.state_dict(), model.state_dict()
    notes: list[str] = []
    taken = {name: value for name, value in given.items() if name in state and name not in (*HEAD, WEIGHTS_OF_LOSS)}
    if len(state[QUERIES[0]]) != len(given[QUERIES[0]]):
        same = min(len(state[QUERIES[0]]), len(given[QUERIES[0]]))
        for name in QUERIES:
            taken[name] = torch.cat([given[name][:same], state[name][same:]])
        notes.append(
            f"{same} of {len(state[QUERIES[0]])} queries are the checkpoint's, which has {len(given[QUERIES[0]])}"
        )
    wrong = [name for name, value in taken.items() if value.shape != state[name].shape]
    if wrong:
        raise UsageError(
            f"model.config: with {', '.join(start.config)} as given, {len(wrong)} tensors of the checkpoint do not "
            f"fit, e.g. {wrong[0]}: {list(taken[wrong[0]].shape)} instead of {list(state[wrong[0]].shape)}; leave out "
            "what changes shapes, or model.uri"
        )
    notes.insert(0, _take_head(state, given, labels, old.config.id2label))
    new = [name for name in state if name not in taken and name not in (*HEAD, WEIGHTS_OF_LOSS)]
    unused = [name for name in given if name not in state]
    if new:
        notes.append(f"{len(new)} tensors are not in the checkpoint and start at random, e.g. {new[0]}")
    if unused:
        notes.append(f"{len(unused)} tensors of the checkpoint are not used, e.g. {unused[0]}")
    model.load_state_dict(state | taken)
    return notes


def _take_head(state: dict[str, Tensor], given: dict[str, Tensor], labels: Labels, id2label: dict[int, str]) -> str:
    """Rows of the class head by name into ``state`` where the checkpoint knows any label; what to say about it."""
    known = known_labels(labels.names, id2label)
    count = f"{len(known)} categories"
    new = [name for name, label in zip(labels.names, known, strict=True) if label < 0]
    some = ", ".join(sorted(new)[:5])
    if len(new) == len(known):
        return f"a new class head for {count}: the checkpoint knows none of them by name ({some})"
    for name in HEAD:
        state[name] = head_rows(given[name], known, state[name])
    if new:
        return (
            f"the class head is the checkpoint's for no object and {len(known) - len(new)} of {count}, new for "
            f"{len(new)} that it does not know by name ({some})"
        )
    return f"the class head is the checkpoint's: it knows all {count} by name, of its {len(id2label)}"
