"""Turns pixels into pixel values: resizes on the CPU, normalizes and pads on the model's device in float32.

The same numbers as ``Mask2FormerImageProcessor`` (torchvision backend) gives for one image alone. Bytes become pixels
in ``vision/decode/image``, and training resizes in ``train/data/augment``.

Torchvision itself is not imported: it takes 2.6 s of CPU where only torch is needed, in each process that prepares.
"""

import platform
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from m2f_batch.errors import ImageError, TransientError
from m2f_batch.models.preprocess_plan import PreprocessPlan, SizeHW
from m2f_batch.vision.cuts.view import Cut, View
from m2f_batch.vision.cuts.whole import WHOLE
from m2f_batch.vision.decode.given import Pixels, rgb_of
from m2f_batch.vision.pixels.opencv import resize_bilinear
from m2f_batch.vision.pixels.prepared import Content, Prepared

__all__ = ["Prepared", "pixel_values", "prepare", "prepare_image"]

# torch's modes by Pillow's numbers, which preprocessor_config.json uses
MODES = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def prepare_image(image: Pixels, plan: PreprocessPlan, max_pixels: int, cut: Cut = WHOLE) -> Prepared | ImageError:
    """Prepare encoded bytes, a PIL image or an array for the model, or say why that cannot be."""
    try:
        return prepare(rgb_of(image, max_pixels), plan, cut)
    except ImageError as error:
        return error
    except MemoryError as error:  # this machine's trouble, not the image's: another attempt may find room
        raise TransientError(f"out of memory while decoding or resizing an image ({error})") from error


def prepare(image: NDArray[np.uint8], plan: PreprocessPlan, cut: Cut = WHOLE) -> Prepared:
    """Resize the views of an RGB image, uint8 [H, W, 3]. Raises ImageError when the plan leaves nothing of it."""
    output_hw = (image.shape[0], image.shape[1])
    views = cut.views(plan, output_hw)
    scaled = _scaled(image, cut.scaled_hw(plan, output_hw), plan)
    contents = (_content(scaled, view, plan, output_hw) for view in views)
    return Prepared(tuple(contents), views, output_hw)


def _scaled(image: Content, size_hw: SizeHW, plan: PreprocessPlan) -> Content:
    """Resize a whole image, in the plan's steps where that is the size they lead to."""
    output_hw = (image.shape[0], image.shape[1])
    if size_hw == output_hw:
        return image
    steps, resized = plan.sizes(output_hw), image
    for step_hw in steps if steps[-1] == size_hw else (size_hw,):
        resized = _resized(resized, step_hw, plan, output_hw)
    return resized


def _content(image: Content, view: View, plan: PreprocessPlan, output_hw: SizeHW) -> Content:
    y, x, height, width = view.window
    if (height, width) == image.shape[:2] == output_hw:
        return _scaled(image, view.content_hw, plan)
    return _resized(image[y : y + height, x : x + width], view.content_hw, plan, output_hw)


def _resized(image: Content, size_hw: SizeHW, plan: PreprocessPlan, output_hw: SizeHW) -> Content:
    if image.shape[:2] == size_hw:
        return image
    if plan.resizing == "opencv":
        return resize_bilinear(image.astype(np.uint8, copy=False), size_hw)
    planes = _tensor(image).permute(2, 0, 1).contiguous()[None]
    if plan.resizing == "torch":
        planes = planes.float()  # as transformers and rfdetr, which rescale first, and so round nothing
    try:
        resized = _interpolated(planes, size_hw, MODES[plan.resample], is_smooth=plan.resizing == "pillow")[0]
    except RuntimeError as error:  # torch's own limits, e.g. a filter wider than it can hold
        message = str(error).splitlines()[0]
        if "alloc" in message:
            raise MemoryError(message) from error
        raise ImageError("preprocess", "CannotResize", message, size_hw=output_hw) from None
    return resized.permute(1, 2, 0).contiguous().numpy()


def _interpolated(planes: Tensor, size_hw: SizeHW, mode: str, *, is_smooth: bool) -> Tensor:
    """Resize [1, 3, H, W] as torchvision does on the CPU (``transforms/v2/functional/_geometry``).

    ``is_smooth`` is torchvision's ``antialias``.
    """
    if mode == "nearest-exact":
        return interpolate(planes, size_hw, mode=mode)
    if planes.dtype == torch.uint8 and mode == "bilinear" and not _resizes_bytes_bilinearly():
        return _interpolated(planes.float(), size_hw, mode, is_smooth=is_smooth).round_().to(torch.uint8)
    return interpolate(planes, size_hw, mode=mode, align_corners=False, antialias=is_smooth)


def _resizes_bytes_bilinearly() -> bool:
    """Tell whether torchvision lets torch compute in uint8 on this machine, which rounds otherwise than float32."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in ("aarch64", "arm64")


def pixel_values(contents: Sequence[Content], canvas_hw: SizeHW, plan: PreprocessPlan, device: torch.device) -> Tensor:
    """Normalize contents [hc, wc, 3] on canvases of one size: float32 [B, 3, Hc, Wc]."""
    batch = torch.zeros((len(contents), 3, *canvas_hw), dtype=torch.float32, device=device)
    scale = _scale(plan, device)
    if plan.pads_black:
        batch[:] = _normalized(torch.zeros((3, 1, 1), dtype=torch.uint8, device=device), plan, scale)
    for slot, content in zip(batch, contents, strict=True):
        height, width = content.shape[:2]
        planes = _on_device(content, device).permute(2, 0, 1)
        slot[:, :height, :width] = _normalized(planes.flip(0) if plan.is_bgr else planes, plan, scale)
    return batch


def _on_device(image: Content, device: torch.device) -> Tensor:
    """Copy an image to a device. On CUDA it goes through pinned memory, so that the copy holds nobody up."""
    if device.type != "cuda":
        return _tensor(image).to(device)
    dtype = torch.uint8 if image.dtype == np.uint8 else torch.float32
    pinned = torch.empty(image.shape, dtype=dtype, pin_memory=True)
    pinned.numpy()[...] = image
    return pinned.to(device, non_blocking=True)


def _tensor(image: Content) -> Tensor:
    """Share memory where torch allows it. A read-only array, as PIL and Arrow give, is copied, and so is a window."""
    return torch.from_numpy(np.require(image, requirements=["C", "W"]))


def _scale(plan: PreprocessPlan, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation [3, 1, 1] in units of uint8, fused as the processor fuses them (same rounding)."""
    if plan.mean is None or plan.std is None:
        return None
    mean, std = (torch.tensor(values, device=device) for values in (plan.mean, plan.std))
    if plan.rescale_factor is not None:
        mean, std = mean * (1.0 / plan.rescale_factor), std * (1.0 / plan.rescale_factor)
    return mean[:, None, None], std[:, None, None]


def _normalized(planes: Tensor, plan: PreprocessPlan, scale: tuple[Tensor, Tensor] | None) -> Tensor:
    """Rescale and normalize [3, h, w], from 0 to 255, to float32."""
    if scale is None:
        return planes * plan.rescale_factor if plan.rescale_factor is not None else planes.float()
    mean, std = scale
    return (planes.to(torch.float32) - mean) / std
