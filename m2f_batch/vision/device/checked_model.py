"""A model on its device, its fast forward pass held against transformers' own modules before it labels anything.

A GPU, a driver or a Triton that nobody could try must not make wrong labels. So one small image goes through both, in
the run's precision: the backbone's features, the pixel decoder's from the reference's features, the first predictions,
then each decoder layer on the reference's own inputs and masks, and the last predictions from the reference's last
queries. Each part begins from what the reference gave, since a bit of an attention mask that flips by rounding is no
fault and would change all that follows. With ``torch.compile`` it is the modules that are checked, before they are
compiled: compiling takes minutes a canvas.

On one machine the outcome is the same every time: the image, the threads and the modules are. So on CPU in float32 all
processes of a machine compute the same way, and a row still depends on image, model and settings alone.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from m2f_batch.config.segment import Precision
from m2f_batch.errors import RunError
from m2f_batch.models.fast_layers.linear import linear, pixels_of
from m2f_batch.models.loading import DTYPES, compiled, first_line, forward, keep_float32, load_model
from m2f_batch.models.mask2former.mask2former import LeanMask2Former, lean_mask2former
from m2f_batch.vision.device.gpu import check_gpu
from m2f_batch.vision.device.threads import pinned_threads

CANVAS = (64, 96)  # pixels: windows are shifted and padded, and the coarsest level has 2 x 3 pixels
FLOAT32_LIMIT, HALF_LIMIT = 1e-4, 2e-2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Forward:
    """How a process computes: ``fast`` (ours) or ``slow`` (transformers' own modules). ``why``: slow, or unchecked."""

    kind: Literal["fast", "slow"]
    why: str | None = None
    seconds: float = 0.0  # that the check took

    def __str__(self) -> str:
        """As it travels with a unit: ``KIND``, or ``KIND: why``."""
        return f"{self.kind}: {self.why}" if self.why else self.kind

    def warning(self) -> str | None:
        """For people; None where all is well."""
        if self.kind == "slow":
            return f"the model goes on with transformers' own modules, which are slower: {self.why}"
        return f"the model's forward pass could not be checked: {self.why}" if self.why else None


class _Differs(Exception):
    """What the fast forward pass gives is too far from the reference."""


def load_checked(
    directory: Path, device: torch.device, *, precision: Precision, threads: int, compile_model: bool = False
) -> tuple[nn.Module, Forward]:
    """A model on ``device`` as ``load_model`` gives it, checked, and how it computes.

    The fast forward pass is taken unless it raises, is not to be had for this structure, or is off by more than 1e-4 of
    a tensor's largest value (or of 1, where that is larger) in float32, by the largest difference; in bf16 and fp16 by
    more than 2e-2 of the tensor's norm, by the norm of the difference, since single values are off by several of
    their roundings. The device never holds both. Raises RunError as ``check_gpu`` and ``load_model`` do, and when the
    device is lost to a forward pass; an allocation that fails is no verdict, and goes through.
    """
    check_gpu(device)
    model = load_model(directory, CPU, lean=False)
    keep_float32(device)
    begun = time.perf_counter()
    with pinned_threads(threads):
        chosen, kind, why = _choose(model, device, precision)
    checked = Forward(kind, why, round(time.perf_counter() - begun, 3))
    return (compiled(chosen) if compile_model else chosen), checked


def _choose(
    model: nn.Module, device: torch.device, precision: Precision
) -> tuple[nn.Module, Literal["fast", "slow"], str | None]:
    unchecked = None
    try:
        reference = observe(model.to(device), precision, device)
    except Exception as error:  # noqa: BLE001  # with nothing to compare with, the fast one is as good as it ever was
        _raise_if_out_of_memory(error)
        reference, unchecked = None, _shown(error)
    try:
        model = model.to(CPU)
    except RuntimeError as error:
        raise RunError(f"model.uri: {device} failed in the model's check ({unchecked or _shown(error)})") from None
    lean = lean_mask2former(model)
    if not isinstance(lean, LeanMask2Former):
        return model.to(device), "slow", "this transformers builds Mask2Former in a way that is not known here"
    try:
        lean = lean.to(device)
        if reference is not None:
            compare(lean, reference, precision)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return lean, "fast", unchecked
    except _Differs as error:
        why = str(error)
    except Exception as error:  # noqa: BLE001  # whatever a kernel, its compiler or a driver raises
        _raise_if_out_of_memory(error)
        why = _shown(error)
    try:
        lean.to(CPU)
        return model.to(device), "slow", why
    except RuntimeError as error:
        raise RunError(
            f"model.uri: the fast forward pass failed ({why}), and {device} with it ({_shown(error)})"
        ) from None


def _raise_if_out_of_memory(error: Exception) -> None:
    """An allocation that failed says nothing of the kernels: the next one may not fail."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        raise error


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


@dataclass
class Reference:
    """What transformers' modules gave for the image, each part with what it began from."""

    values: Tensor
    features: tuple[Tensor, ...] = ()
    maps: list[Tensor] = field(default_factory=list)
    mask_features: Tensor = field(default_factory=lambda: torch.empty(0))
    layers: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)  # queries, mask, queries after it
    predictions: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # normed queries, mask logits
    class_logits: Tensor = field(default_factory=lambda: torch.empty(0))


def observe(model: Any, precision: Precision, device: torch.device) -> Reference:
    """One forward pass of ``transformers``' Mask2Former over the image, and what came between."""
    seen = Reference(image_values(device))
    pixel_level, decoder = model.model.pixel_level_module, model.model.transformer_module.decoder

    def backbone(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.features = tuple(output.feature_maps)

    def pixel_decoder(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.maps, seen.mask_features = list(output.multi_scale_features), output.mask_features

    def layer(module: nn.Module, inputs: Any, options: dict[str, Any], output: Any) -> None:
        seen.layers.append((inputs[0], options["encoder_attention_mask"], output[0]))

    def predictor(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.predictions.append((inputs[0], output[0]))

    hooks = [
        pixel_level.encoder.register_forward_hook(backbone),
        pixel_level.decoder.register_forward_hook(pixel_decoder),
        decoder.mask_predictor.register_forward_hook(predictor),
        *(one.register_forward_hook(layer, with_kwargs=True) for one in decoder.layers),
    ]
    try:
        seen.class_logits = forward(model, seen.values, precision).class_logits
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def image_values(device: torch.device) -> Tensor:
    """Pixel values [1, 3, Hc, Wc] of an image with large and small structures, the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    coarse, fine = (torch.randn((1, 3, CANVAS[0] // step, CANVAS[1] // step), generator=generator) for step in (16, 1))
    smooth = nn.functional.interpolate(coarse, size=CANVAS, mode="bilinear", align_corners=False)
    return (smooth + 0.3 * fine).to(device)


@torch.inference_mode()
def compare(lean: LeanMask2Former, reference: Reference, precision: Precision) -> None:
    """Raise _Differs where a part of ``lean`` is too far from the reference."""
    dtype = DTYPES.get(precision)
    with torch.autocast(reference.values.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        for name, ours, theirs in _parts(lean, reference):
            _check(name, ours, theirs, precision)


def _parts(lean: LeanMask2Former, seen: Reference) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, what we give, and what the reference gave; each computed at its turn."""
    for at, pair in enumerate(zip(lean.features(seen.values), seen.features, strict=True)):
        yield f"feature map {at + 1} of the backbone", *pair
    maps, mask_features = lean.pixel_decoder(seen.features)
    for at, pair in enumerate(zip(maps, seen.maps, strict=True)):
        yield f"feature map {at + 1} of the pixel decoder", *pair
    yield "the mask features", mask_features, seen.mask_features
    decoder, pixels = lean.masked_decoder, pixels_of(seen.mask_features)
    (first, first_masks), (last, last_masks) = seen.predictions[0], seen.predictions[-1]
    ours = decoder.mask_logits(decoder.norm(_rows(decoder.queries[:, None])), pixels)
    yield "the first mask logits", ours.view(first_masks.shape), first_masks
    levels = [decoder.level(seen.maps, seen.mask_features, at) for at in range(min(len(seen.maps), len(seen.layers)))]
    if levels:
        size = seen.maps[0].shape[2:]
        resized = nn.functional.interpolate(first_masks.float(), size=size, mode="bilinear", align_corners=False)
        yield "the first attention", decoder.mask_logits(_rows(first), levels[0][2]).view(resized.shape), resized
    for at, (before, mask, after) in enumerate(seen.layers):
        where, placed, _ = levels[at % len(levels)]
        blocked = mask.view(len(seen.values), -1, *mask.shape[1:])[:, :1].bool()
        bias = torch.zeros_like(blocked, dtype=before.dtype).masked_fill_(blocked, float("-inf"))
        ours = decoder.layers[at](_rows(before), decoder.query_positions, where, placed, bias)
        yield f"decoder layer {at + 1}", ours, _rows(after)
    yield "the class logits", linear(_rows(last), decoder.class_predictor), seen.class_logits
    yield "the mask logits", decoder.mask_logits(_rows(last), pixels).view(last_masks.shape), last_masks


def _rows(queries: Tensor) -> Tensor:
    """[Q, B, C], as transformers has them, to [B, Q, C]."""
    return queries.transpose(0, 1)


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
