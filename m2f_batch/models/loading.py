"""Loads a model directory into a Predictor, and runs it in a precision.

The model classes of transformers are imported in the folder of each family. ``*/transformers_model`` loads a model, and
``mask2former/training`` makes a new one to train.
"""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoImageProcessor, PretrainedConfig
from transformers.models.auto import CONFIG_MAPPING

from m2f_batch.config.segment import Precision, Task
from m2f_batch.errors import Plain, RunError, UsageError
from m2f_batch.models.checkpoint import read_config
from m2f_batch.models.family import Family, family_of
from m2f_batch.models.from_tensors import first_line, quiet
from m2f_batch.models.predictions import Prediction, Predictor

MANY = 1 << 20  # canvases
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class OriginalPredictor(Predictor):
    """The modules of transformers as they are, run as their family says, or as its weights were published."""

    def __init__(self, family: Family, model: nn.Module, *, as_published: bool = False) -> None:
        super().__init__()
        self.family, self.model = family, model
        self.network = family.network()
        published = self.network.predict_published if as_published else None
        self._predict = published or self.network.predict

    def forward(self, pixel_values: Tensor) -> Prediction:
        """Turn pixel values [B, 3, Hc, Wc] into their prediction."""
        return self._predict(self.model, pixel_values)


def load_original(
    directory: Path, task: Task | None = None, *, name: str | None = None, as_published: bool = False
) -> OriginalPredictor:
    """Load the model of transformers in eval mode, in float32 on the CPU.

    ``as_published`` runs it as ``Published.otherwise`` says.
    Only safetensors of the local directory are read. Raises RunError when it does not load, which shows ``name``
    instead of the directory where one is given.
    """
    name = name or str(directory)
    try:
        with quiet():
            config = read_config(directory, name)
            family = family_of(config, name)
            model = family.network().load(directory, config, task)
    except ImportError as error:
        raise RunError(
            f"needs a package that is not here ({first_line(error)}); for backbones of timm: pip "
            "install 'm2f-batch[timm]'",
            field="model.uri",
            value=Plain(name),
        ) from None
    except (UsageError, RunError) as error:
        value = Plain(name) if error.value == str(directory) else error.value  # who loads knows only the directory
        raise RunError(error.problem, field=error.field, value=value, allowed=error.allowed, hint=error.hint) from None
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        # whatever transformers and safetensors raise for a directory they cannot use
        reason = first_line(error).replace(str(directory), name)  # theirs, which knows only the directory
        raise RunError(f"does not load: {reason}", field="model.uri", value=Plain(name)) from None
    return OriginalPredictor(family, model.eval().requires_grad_(False), as_published=as_published)


def load_model(
    directory: Path, device: torch.device, *, task: Task | None = None, compile_model: bool = False, fast: bool = True
) -> Predictor:
    """Load the model in eval mode on ``device``, with float32 weights.

    ``fast`` computes the predictions of ``transformers`` faster where the family has a way to (``Network.fast``).
    Without it the modules are those of ``transformers``. Raises RunError as ``load_original`` does.
    """
    original = load_original(directory, task)
    keep_float32(device)
    faster = original.network.fast.build(original.model) if fast and original.network.fast is not None else None
    model = (faster or original).to(device)
    return compiled(model) if compile_model else model


def keep_float32(device: torch.device) -> None:
    """Have float32 mean float32 on CUDA, because TF32 keeps 10 bits of the mantissa."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def compiled(model: Predictor) -> Predictor:
    """Return the model, compiled for each canvas when it first comes. Later processes find the compiled code.

    By default what comes after 8 canvases runs uncompiled. Then a row would depend on the order of the images.
    """
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MANY
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "m2f-batch" / "inductor"))
    return torch.compile(model, dynamic=False)  # type: ignore[return-value]  # a module still


@torch.inference_mode()
def forward(model: Predictor, pixel_values: Tensor, precision: Precision = "fp32") -> Prediction:
    """Turn pixel values [B, 3, Hc, Wc] into their prediction."""
    with autocast(pixel_values.device, precision):
        return model(pixel_values)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which ``forward`` computes in a precision."""
    dtype = DTYPES.get(precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def processor_pixel_values(directory: Path, image: NDArray[np.uint8], **instead: object) -> Tensor | None:
    """Compute the pixel values, float32 [1, 3, Hc, Wc], of an RGB image by the checkpoint's own image processor.

    ``instead`` are settings that replace its own. None when ``transformers`` cannot load the processor, because it
    refuses some of the hub's older settings.
    """
    checked = read_config(directory, str(directory))
    kind = checked["model_type"]
    architecture = CONFIG_MAPPING[kind]() if kind in CONFIG_MAPPING else PretrainedConfig()
    try:
        processor = AutoImageProcessor.from_pretrained(
            directory,
            config=architecture,  # or it may read config.json, and follow it to the hub
            backend="torchvision",
            local_files_only=True,
            trust_remote_code=False,
            **family_of(checked, str(directory)).processor_arguments,
        )
        values: Tensor = processor(image, input_data_format="channels_last", return_tensors="pt", **instead)[
            "pixel_values"
        ]
    except ValueError:
        return None
    return values
