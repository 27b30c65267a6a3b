"""Load a Mask2Former and run it, from a local directory to logits."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoImageProcessor, Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.utils import logging as transformers_logging

from m2f_batch.config.segment import Precision
from m2f_batch.errors import RunError, UsageError
from m2f_batch.models.architecture import architecture_of, is_never_read
from m2f_batch.models.checkpoint import read_config, weight_files
from m2f_batch.models.mask2former.mask2former import lean_mask2former
from m2f_batch.models.predictions import QueryLogits

MANY = 1 << 20  # canvases
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(directory: Path, device: torch.device, *, compile_model: bool = False, lean: bool = True) -> nn.Module:
    """The model in eval mode, float32 weights, on ``device``: what ``forward`` runs.

    Only safetensors of the local directory are read. ``lean`` computes the logits of ``transformers`` faster
    (``models/mask2former``); without it the model is the module of ``transformers`` itself. Raises RunError when a
    tensor is missing or of another shape.
    """
    try:
        with quiet():
            model, info = _from_tensors(directory)
    except ImportError as error:
        raise RunError(
            f"model.uri: {directory} needs a package that is not here ({first_line(error)}); for backbones of timm: "
            "pip install 'm2f-batch[timm]'"
        ) from None
    except UsageError as error:
        raise RunError(str(error)) from None
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        # whatever transformers and safetensors raise for a directory they cannot use
        raise RunError(f"model.uri: {directory} does not load: {first_line(error)}") from None
    missing = [name for name in info["missing_keys"] if not is_never_read(model, name)]
    if missing or info["mismatched_keys"]:
        wrong = sorted([*missing, *(str(key[0]) for key in info["mismatched_keys"])])
        raise RunError(
            f"model.uri: {directory}: {len(wrong)} tensors are missing or of another shape than config.json says, "
            f"e.g. {wrong[0]}"
        )
    keep_float32(device)
    model = model.eval().requires_grad_(False)
    model = (lean_mask2former(model) if lean else model).to(device)
    return compiled(model) if compile_model else model


def _from_tensors(directory: Path) -> tuple[Any, dict[str, Any]]:
    """The model of transformers and what it says of the tensors. It is given no directory, so it looks for nothing.

    In a directory it would follow config.json to the hub, and take adapters where peft is installed.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(directory):
        tensors |= load_file(file)
    return Mask2FormerForUniversalSegmentation.from_pretrained(
        None,
        config=architecture_of(read_config(directory, str(directory))),
        state_dict=tensors,
        local_files_only=True,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # refused by name
        output_loading_info=True,
    )


def keep_float32(device: torch.device) -> None:
    """Have float32 mean float32 on CUDA: TF32 keeps 10 bits of the mantissa."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def compiled(model: nn.Module) -> nn.Module:
    """The model, compiled for each canvas when it first comes; compiled code is kept for later processes."""
    # by default what comes after 8 canvases runs uncompiled: then a row would depend on the order of the images
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MANY
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "m2f-batch" / "inductor"))
    return torch.compile(model, dynamic=False)  # type: ignore[return-value]  # a module still


@torch.inference_mode()
def forward(model: nn.Module, pixel_values: Tensor, precision: Precision = "fp32") -> QueryLogits:
    """Pixel values [B, 3, Hc, Wc] to their prediction."""
    dtype = DTYPES.get(precision)
    with torch.autocast(pixel_values.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        if not isinstance(getattr(model, "_orig_mod", model), Mask2FormerForUniversalSegmentation):
            return QueryLogits(*model(pixel_values))
        # hidden states on: with use_auxiliary_loss: false transformers forgets them, and crashes without
        output = model(pixel_values=pixel_values, output_hidden_states=True)
    return QueryLogits(output.class_queries_logits, output.masks_queries_logits)


def processor_pixel_values(directory: Path, image: NDArray[np.uint8], **instead: Any) -> Tensor | None:
    """What the checkpoint's own image processor gives for one RGB image [H, W, 3]: float32 [1, 3, Hc, Wc].

    ``instead`` are settings that replace its own. None when ``transformers`` cannot load the processor: it refuses
    some of the hub's older settings.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(
            directory,
            config=Mask2FormerConfig(),  # or it may read config.json, and follow it to the hub
            backend="torchvision",
            local_files_only=True,
            trust_remote_code=False,
        )
        return processor(image, input_data_format="channels_last", return_tensors="pt", **instead)["pixel_values"]
    except ValueError:
        return None


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar for a file on disk, and no warning that only Swin backbones are tested."""
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
    """What an error says in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
