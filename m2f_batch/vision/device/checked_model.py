"""A model is put on its device, and its fast forward pass is compared with transformers' modules before it labels.

A GPU, a driver or a Triton that nobody could try must not make wrong labels. So one small image goes through both, in
the run's precision, and what each part of the model gives is compared (``Network.fast``). With ``torch.compile`` the
modules are checked before they are compiled, because compiling takes minutes a canvas.

On one machine the outcome is the same every time, because the image, the threads and the modules are. So on CPU in
float32 all processes of a machine compute the same way, and a row still depends on image, model and settings alone.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from m2f_batch.config.segment import Precision, Task
from m2f_batch.errors import RunError
from m2f_batch.models.from_tensors import first_line
from m2f_batch.models.loading import OriginalPredictor, autocast, compiled, keep_float32, load_original
from m2f_batch.models.predictions import Predictor
from m2f_batch.vision.device.gpu import check_gpu
from m2f_batch.vision.device.threads import pinned_threads

CANVAS = (64, 96)  # pixels: windows are shifted and padded, and the coarsest level has 2 x 3 pixels
FLOAT32_LIMIT, HALF_LIMIT = 1e-4, 2e-2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Forward:
    """The way a process computes: ``fast``, the family's fastest, or ``slow``, transformers' modules in place of it.

    ``why`` tells why it is slow, or unchecked.
    """

    kind: Literal["fast", "slow"]
    why: str | None = None
    seconds: float = 0.0  # that the check took

    def __str__(self) -> str:
        """As it travels with a unit: ``KIND``, or ``KIND: why``."""
        return f"{self.kind}: {self.why}" if self.why else self.kind

    def warning(self) -> str | None:
        """A sentence for people. None where all is well."""
        if self.kind == "slow":
            return f"the model goes on with transformers' own modules, which are slower: {self.why}"
        return f"the model's forward pass could not be checked: {self.why}" if self.why else None


class _Differs(Exception):
    """The fast forward pass is too far from the reference."""


def load_checked(
    directory: Path,
    device: torch.device,
    *,
    task: Task,
    precision: Precision,
    threads: int,
    compile_model: bool = False,
    as_published: bool = False,
) -> tuple[Predictor, Forward]:
    """A model on ``device`` as ``load_model`` gives it, checked, and how it computes.

    The fast forward pass is taken unless it raises, is not to be had for this structure, or is off by too much. In
    float32 the largest difference may be 1e-4 of a tensor's largest value (or of 1, where that is larger). In bf16 and
    fp16 the norm of the difference may be 2e-2 of the tensor's norm, because single values are off by several of their
    roundings. The device never holds both. Raises RunError as ``check_gpu`` and ``load_original`` do, and when the
    device is lost to a forward pass. An allocation that fails is no verdict, and goes through.
    """
    check_gpu(device)
    original = load_original(directory, task, as_published=as_published)
    keep_float32(device)
    begun = time.perf_counter()
    with pinned_threads(threads):
        chosen, kind, why = _choose(original, device, precision)
    checked = Forward(kind, why, round(time.perf_counter() - begun, 3))
    return (compiled(chosen) if compile_model else chosen), checked


def _choose(
    original: OriginalPredictor, device: torch.device, precision: Precision
) -> tuple[Predictor, Literal["fast", "slow"], str | None]:
    fast_forward = original.network.fast
    if fast_forward is None:
        return original.to(device), "fast", None
    parts, unchecked = None, None
    try:
        original.to(device)
        with torch.inference_mode(), autocast(device, precision):
            parts = fast_forward.compared(original.model, image_values(device))
    except Exception as error:  # noqa: BLE001  # with nothing to compare with, the fast one is as good as it ever was
        _raise_if_out_of_memory(error)
        unchecked = _shown(error)
    try:
        original.to(CPU)
    except RuntimeError as error:
        problem = f"{device} failed in the model's check ({unchecked or _shown(error)})"
        raise RunError(problem, field="model.uri") from None
    fast = fast_forward.build(original.model)
    if fast is None:
        name = original.family.name
        return original.to(device), "slow", f"this transformers builds {name} in a way that is not known here"
    try:
        fast = fast.to(device)
        if parts is not None:
            with torch.inference_mode(), autocast(device, precision):
                for part, ours, theirs in parts(fast):
                    _check(part, ours, theirs, precision)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return fast, "fast", unchecked
    except _Differs as error:
        why = str(error)
    except Exception as error:  # noqa: BLE001  # whatever a kernel, its compiler or a driver raises
        _raise_if_out_of_memory(error)
        why = _shown(error)
    try:
        fast.to(CPU)
        return original.to(device), "slow", why
    except RuntimeError as error:
        raise RunError(
            f"the fast forward pass failed ({why}), and {device} with it ({_shown(error)})", field="model.uri"
        ) from None


def _raise_if_out_of_memory(error: Exception) -> None:
    """An allocation that failed says nothing of the kernels: the next one may not fail."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        raise error


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def image_values(device: torch.device) -> Tensor:
    """Pixel values [1, 3, Hc, Wc] of an image with large and small structures, the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    coarse, fine = (torch.randn((1, 3, CANVAS[0] // step, CANVAS[1] // step), generator=generator) for step in (16, 1))
    smooth = nn.functional.interpolate(coarse, size=CANVAS, mode="bilinear", align_corners=False)
    return (smooth + 0.3 * fine).to(device)


def _check(name: str, ours: Tensor, theirs: Tensor, precision: Precision) -> None:
    """Values that are not finite in the reference are not compared: in fp16 they may overflow in both."""
    if ours.shape != theirs.shape:
        raise _Differs(f"{name}: shape {list(ours.shape)} where transformers gives {list(theirs.shape)}")
    is_known = theirs.isfinite()
    if not is_known.any():
        return
    a, b = ours[is_known].float(), theirs[is_known].float()
    if precision == "fp32":
        difference, limit = float((a - b).abs().max() / b.abs().max().clamp(min=1)), FLOAT32_LIMIT
    else:
        difference, limit = float((a - b).norm() / b.norm().clamp(min=1e-12)), HALF_LIMIT
    if not difference <= limit:  # NaN too
        raise _Differs(f"{name}: off by {difference:.1e} where {limit:g} is allowed in {precision}")
