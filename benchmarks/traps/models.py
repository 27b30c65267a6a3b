"""The traps that lie in a model of transformers, each shown on a tiny one of random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.families.cases import ALL, Case
from benchmarks.traps.trap import Shown, Trap
from m2f_batch.errors import UsageError
from m2f_batch.models.checkpoint import read_checkpoint
from m2f_batch.models.families.beit import FAMILY as BEIT
from m2f_batch.models.families.rf_detr import FAMILY as RF_DETR
from m2f_batch.models.families.segformer import FAMILY as SEGFORMER
from m2f_batch.models.loading import load_original
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.vision.pixels.preprocess import pixel_values, prepare
from tests.support.tiny.weights import awaken, tell_apart

CASES = {case.row: case for case in ALL}


def tiny(case: Case, folder: Path) -> Any:
    """Save a tiny model with its processor, and return it."""
    torch.manual_seed(0)
    config = case.tiny()
    config.id2label = {i: f"class {i}" for i in range(5)}
    config.label2id = {name: i for i, name in config.id2label.items()}
    model = getattr(transformers, case.model)(config).eval()
    awaken(model)
    model.save_pretrained(folder)
    getattr(transformers, case.processor)(**case.tiny_settings).save_pretrained(folder)
    return model


def _noise(*size: int) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


def _refused(ask: Callable[[], object]) -> str:
    try:
        ask()
    except UsageError as error:
        return error.problem
    return ""


@torch.inference_mode()
def pixel_mask(folder: Path) -> Shown:
    """An image alone, and beside a taller one, which pads it."""
    model, values = tiny(CASES["mask2former"], folder), _noise(64, 96)
    padded = torch.nn.functional.pad(values, (0, 0, 0, 64))
    mask = torch.zeros(1, 128, 96, dtype=torch.long)
    mask[:, :64] = 1
    with_mask, without = (model(pixel_values=padded, pixel_mask=each) for each in (mask, torch.ones_like(mask)))
    alone = model(pixel_values=values)
    ours = load_original(folder)(values).tensors[0]
    is_ignored = torch.equal(with_mask.class_queries_logits, without.class_queries_logits)
    apart = float((with_mask.class_queries_logits - alone.class_queries_logits).abs().max())
    return Shown(
        theirs="the same logits with a mask of the padding and without",
        ours="an image is never padded by its neighbors in a batch",
        definition="one image at a time",
        differs=f"class logits of the padded image differ by up to {apart:.2f}",
        is_there=is_ignored and apart > 1e-3,
        is_ours_defined=bool((ours - alone.class_queries_logits).abs().max() < 1e-5),
    )


@torch.inference_mode()
def random_masks(folder: Path) -> Shown:
    """A model of which masked attention was not annealed to the end."""
    model, values = tiny(CASES["eomt"], folder), _noise(64, 64)
    model.attn_mask_probs.fill_(0.5)
    torch.manual_seed(0)
    first, second = (model(pixel_values=values).class_queries_logits for _ in range(2))
    tensors = load_file(folder / "model.safetensors")
    tensors["attn_mask_probs"] = torch.full_like(tensors["attn_mask_probs"], 0.5)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    told = _refused(lambda: read_checkpoint(folder, "mine"))
    apart = float((first - second).abs().max())
    return Shown(
        theirs="random masks in eval: another answer at each call",
        ours="refused: its masked attention is not annealed",
        definition="the original draws them, too: such weights are not finished",
        differs=f"class logits of two calls differ by up to {apart:.2f}",
        is_there=apart > 1e-3,
        is_ours_defined="not annealed" in told,
    )


@torch.inference_mode()
def other_sizes(folder: Path) -> Shown:
    """A canvas of 75x101 before an RF-DETR."""
    model = tiny(CASES["rf_detr"], folder)
    masks = tuple(model(pixel_values=_noise(75, 101)).pred_masks.shape[2:])
    checkpoint = read_checkpoint(folder, "m")
    plan = RF_DETR.pixels.own(
        checkpoint.config, {**checkpoint.processor, "size": {"height": 75, "width": 101}}, "instance"
    )
    assert RF_DETR.pixels.size_problem is not None
    told = RF_DETR.pixels.size_problem(checkpoint.config, plan)
    return Shown(
        theirs="runs: masks of {}x{}".format(*masks),
        ours=f"refused: {told}",
        definition="squares that are a multiple of patch * windows",
        differs="rows and columns are in no patch",
        is_there=masks == (18, 25),
        is_ours_defined=bool(told),
    )


@torch.inference_mode()
def partial_patches(folder: Path) -> Shown:
    """A canvas of which the last rows and columns fill no patch, with those changed.

    The original never meets one, since its windows are whole patches. There each pixel has a say in the logits.
    """
    model, values = tiny(CASES["beit"], folder), _noise(75, 101)
    changed = values.clone()
    changed[:, :, 72:] += 3
    changed[:, :, :, 96:] += 3
    theirs = float((model(values).logits - model(changed).logits).abs().max())
    plan = BEIT.pixels.sized({"patch_size": 8}, BEIT.pixels.own({"patch_size": 8}, {}, "semantic"), _edges(75, 101))
    pixels = torch.randint(0, 200, (75, 101, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    brighter = pixels.clone()
    brighter[72:] += 50
    brighter[:, 96:] += 50
    shown = [_canvas(image, plan) for image in (pixels, brighter)]
    before, after = (load_original(folder)(each).tensors[0] for each in shown)
    ours = float((before - after).abs().max())
    return Shown(
        theirs="logits that do not change with the last 3 rows and 5 columns",
        ours="zeros fill the last patches, up to {}x{}, and logits change with them".format(*shown[0].shape[2:]),
        definition="windows of whole patches, in which each pixel counts",
        differs=f"{1 - 72 * 96 / (75 * 101):.0%} of the pixels are not seen, and labels are stretched over them",
        is_there=theirs == 0,
        is_ours_defined=ours > 1e-3 and all(length % 8 == 0 for length in shown[0].shape[2:]),
    )


def _canvas(image: Tensor, plan: PreprocessPlan) -> Tensor:
    """Pixel values [1, 3, Hc, Wc] of an image [H, W, 3], as a run makes them."""
    prepared = prepare(image.numpy(), plan)
    return pixel_values(prepared.contents, prepared.views[0].canvas_hw, plan, torch.device("cpu"))


def _edges(shortest: int, longest: int) -> Any:
    from m2f_batch.config.segment import AspectSize

    return AspectSize(shortest_edge=shortest, longest_edge=longest)


@torch.inference_mode()
def odd_features(folder: Path) -> Shown:
    """A canvas of 80x64, whose features at 1/16 have five rows."""
    case, values = CASES["mobilevitv2"], _noise(80, 64)
    model = tiny(case, folder)
    tell_apart(model.get_submodule(case.head), lambda: model(pixel_values=values))
    model.save_pretrained(folder)
    theirs = model(pixel_values=values).logits
    ours = load_original(folder)(values).tensors[0]
    for layer in model.mobilevitv2.encoder.layer[2:]:
        layer.conv_kxk.register_forward_pre_hook(lambda module, inputs: (_evened(inputs[0]),))
    defined = model(pixel_values=values).logits
    labels = [
        interpolate(each, size=(80, 64), mode="bilinear", align_corners=True)[0].argmax(0) for each in (theirs, defined)
    ]
    wrong = float((labels[0] != labels[1]).float().mean())
    return Shown(
        theirs="attention works on pairs of rows, and gives zeros for the last: logits of {}x{}".format(
            *theirs.shape[2:]
        ),
        ours="features are made up to even numbers: {}x{}".format(*ours.shape[2:]),
        definition="made up, by resize_input_if_needed: {}x{}".format(*defined.shape[2:]),
        differs=f"{wrong:.0%} of the pixels have another label, with random weights",
        is_there=wrong > 0.01,
        is_ours_defined=ours.shape == defined.shape and torch.allclose(ours, defined, atol=1e-5),
    )


def _evened(features: Tensor) -> Tensor:
    height, width = (length + length % 2 for length in features.shape[-2:])
    return interpolate(features, size=(height, width), mode="bilinear", align_corners=True)


def legacy_names(folder: Path) -> Shown:
    """A preprocessor_config.json that names its class as in transformers 4.24."""
    old = {"image_processor_type": "SegformerFeatureExtractor", "size": 512}
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    try:
        transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        is_read = True
    except ValueError:
        is_read = False
    canvas = SEGFORMER.pixels.own({}, old, "semantic").canvas_size((480, 640))
    return Shown(
        theirs="read" if is_read else "ValueError: Unrecognized image processor",
        ours="read: a canvas of {}x{}".format(*canvas),
        definition="transformers 4 reads it",
        differs="nothing" if is_read else "it cannot be loaded",
        is_there=not is_read,
        is_ours_defined=canvas == (512, 512),
    )


def traps(folder: Path) -> tuple[Trap, ...]:
    """All of them, in the order of families. ``folder`` is for models."""

    def of(name: str, show: Callable[[Path], Shown]) -> Callable[[], Shown]:
        place = folder / name
        place.mkdir(exist_ok=True)
        return lambda: show(place)

    return (
        Trap("mask2former", "all", "pixel_mask is taken and passed over", of("mask2former", pixel_mask)),
        Trap("eomt, eomt_dinov3", "all", "attention is masked at random in eval", of("eomt", random_masks)),
        Trap("rf_detr", "instance", "canvases that fill no patches run", of("rf_detr", other_sizes)),
        Trap("beit", "semantic", "nothing is seen of patches that are not whole", of("beit", partial_patches)),
        Trap("mobilevitv2", "semantic", "an odd last row of features is blanked", of("mobilevitv2", odd_features)),
        Trap("all", "all", "...FeatureExtractor as image_processor_type is not known", of("names", legacy_names)),
    )
