"""Makes a model from the safetensors of a local directory, and from nothing else.

Each family hands in its class of transformers, which it imports in a folder of its own: ``*/transformers_model``. A new
model for a training is made in ``mask2former/training``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from m2f_batch.errors import Plain, RunError
from m2f_batch.models.checkpoint import weight_files

Model = TypeVar("Model", bound=PreTrainedModel)
COUNTS = ".num_batches_tracked"  # batch norms count with it while they train


def model_from_tensors(
    kind: type[Model],
    config: PretrainedConfig,
    directory: Path,
    is_never_read: Callable[[nn.Module, str], bool] | None = None,
    renamed: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> Model:
    """Make a model of a class of transformers in float32 on the CPU, with the weights of a directory.

    The class is given tensors and no directory, so it looks for nothing. In a directory it would follow config.json to
    the hub, and take adapters where peft is installed. Raises RunError when a tensor is missing or of another shape,
    unless ``is_never_read`` tells that it decides nothing. Counts of batch norms never do. ``renamed`` gives tensors of
    older versions their names.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(directory):
        tensors |= load_file(file)
    tensors = tensors if renamed is None else renamed(tensors)
    with quiet():
        model, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            local_files_only=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
        )
    missing = [name for name in info["missing_keys"] if not name.endswith(COUNTS)]
    if is_never_read is not None:
        missing = [name for name in missing if not is_never_read(model, name)]
    if missing or info["mismatched_keys"]:
        wrong = sorted([*missing, *(str(key[0]) for key in info["mismatched_keys"])])
        raise RunError(
            f": {len(wrong)} tensors are missing or of another shape than config.json says, e.g. {wrong[0]}",
            field="model.uri",
            value=Plain(directory),
        )
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Show no progress bar for a file on disk, and no warning that only Swin backbones are tested."""
    level = transformers_logging.get_verbosity()
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """Return the first line of an error's text that is not blank, or its class where it has none."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)[:300]
