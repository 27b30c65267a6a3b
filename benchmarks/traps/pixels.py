"""The traps of families that give a class to each pixel: SegFormer, UperNet, BEiT, MobileViT and MobileViTv2."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from benchmarks.traps.scenes import is_same
from benchmarks.traps.trap import Shown, Trap
from m2f_batch.config.segment import SlidingWindow
from m2f_batch.demo.scenes import draw_scene
from m2f_batch.models.families.beit import FAMILY as BEIT
from m2f_batch.models.families.mobilevit import FAMILY as MOBILEVIT
from m2f_batch.models.families.mobilevitv2 import FAMILY as MOBILEVITV2
from m2f_batch.models.families.segformer import FAMILY as SEGFORMER
from m2f_batch.models.families.upernet import FAMILY as UPERNET
from m2f_batch.models.family import Family
from m2f_batch.models.label_sets import LABEL_SETS
from m2f_batch.models.preprocess_plan import PreprocessPlan
from m2f_batch.vision.cuts.windows import Windows
from m2f_batch.vision.pixels.preprocess import pixel_values, prepare
from m2f_batch.vision.postprocess import pixel_segments
from tests.support import reference

WIDE = 3_000_016  # a scene of 160x288
SETS = {known.name: known for known in LABEL_SETS}
CPU = torch.device("cpu")
SQUARE = {"size": {"height": 512, "width": 512}}
CROPPED = {"size": {"shortest_edge": 544}, "crop_size": {"height": 512, "width": 512}}
STRIDE = 16
COLORS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
CONVNEXT = {"backbone_config": {"model_type": "convnext", "hidden_sizes": [96, 192, 384, 768]}}


def plan_of(
    family: Family, processor: Any, labels: str, config: Any = None
) -> tuple[PreprocessPlan, SlidingWindow | None]:
    """The pixels and windows of the published test of a label set."""
    given = {"id2label": {"0": "a"}, **(config or {})}
    known = SETS[labels]
    plan = family.pixels.paper(given, family.pixels.own(given, processor.to_dict(), "semantic"), known, "semantic")
    assert plan is not None
    windows = family.pixels.windows(given, known, "semantic") if family.pixels.windows else None
    return plan, windows


def shown_to_the_model(family: Family, processor: Any, labels: str, defined: str, config: Any = None) -> Shown:
    """What each shows a model of an image of 768x1536."""
    image = np.zeros((768, 1536, 3), np.uint8)
    theirs = tuple(processor(image, return_tensors="pt")["pixel_values"].shape[2:])
    plan, windows = plan_of(family, processor, labels, config)
    height, width = plan.content_size((768, 1536))
    views = Windows(windows.size, windows.stride).views(plan, (768, 1536)) if windows else [None]
    cut = f" in {len(views)} windows of {windows.size}" if windows else ", whole"
    return Shown(
        theirs="{}x{}, whole".format(*theirs),
        ours=f"{height}x{width}{cut}, with `paper`",
        definition=defined,
        differs=f"{height * width / (theirs[0] * theirs[1]):.1f} times as many pixels, ratio kept",
        is_there=theirs[0] / theirs[1] != 0.5,
        is_ours_defined=f"{height}x{width}{cut}" == defined,
    )


def antialiased() -> Shown:
    """The pixels of a photograph-like scene with fine grain, shrunk to a third."""
    image = np.random.default_rng(0).integers(0, 256, (1536, 1536, 3), dtype=np.uint8)
    processor = transformers.SegformerImageProcessor(**SQUARE, do_normalize=False, do_rescale=False)
    theirs = processor(image, return_tensors="pt")["pixel_values"][0].float()
    plan, _ = plan_of(SEGFORMER, processor, "ADE20K")
    plan = replace(plan, mean=(0.0,) * 3, std=(1.0,) * 3, rescale_factor=1.0)
    prepared = prepare(image, plan)
    ours = pixel_values(prepared.contents, prepared.views[0].canvas_hw, plan, CPU)[0]
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    defined = interpolate(x, size=(512, 512), mode="bilinear", antialias=False)[0]
    apart = float((theirs - ours).abs().max())
    return Shown(
        theirs="antialiased",
        ours="as OpenCV shrinks, with `paper`",
        definition="cv2.resize: no antialias",
        differs=f"up to {apart:.0f} of 255 levels, here on noise",
        is_there=apart > 2,
        is_ours_defined=float((ours - defined).abs().max()) <= 1,
    )


def _smooth(seed: int, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = 6 * torch.randn(1, 7, 4, 5, generator=generator)
    return interpolate(coarse, size=size, mode="bicubic")[0] + 0.3 * torch.randn(7, *size, generator=generator)


def steps(processor: Any, upsampling: Any, defined: str, size: tuple[int, int], canvas: tuple[int, int]) -> Shown:
    """The same logits of classes on their way to an image of 375x500."""
    logits, output = _smooth(5, size), (375, 500)
    outputs = SimpleNamespace(logits=logits[None])
    theirs = processor.post_process_semantic_segmentation(outputs, target_sizes=[output])[0].numpy()
    frame = {"canvas": canvas, "content": canvas, "output": output, "upsampling": upsampling}
    ours, truth = pixel_segments(logits, **frame), reference.pixel_classes(logits, **frame)
    labels = np.full(output, -1)
    for segment in ours:
        labels[segment.mask()] = segment.category_id
    wrong = int((labels != theirs).sum())
    return Shown(
        theirs="logits to the image in one bilinear step",
        ours=defined,
        definition=defined,
        differs=f"{wrong:,} of {labels.size:,} pixels ({wrong / labels.size:.1%}) have another label",
        is_there=wrong > 0,
        is_ours_defined=is_same(ours, truth),
    )


def painted(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]:
    """A scene, its classes [H, W], and a picture of the same size with a color for each class."""
    scene = draw_scene(seed)
    classes = np.asarray(scene.category_ids)[scene.owner]
    return scene.image, classes, (COLORS[classes] * 255).astype(np.uint8)


def seen(values: Tensor) -> Tensor:
    """Logits [1, C, h, w] at 1/16, of blue, green and red, by a model that knows each pixel's class."""
    pooled = avg_pool2d(values.flip(1), STRIDE)
    wanted = torch.from_numpy(COLORS).float()[None, :, :, None, None]
    return -10 * ((pooled[:, None] - wanted) ** 2).sum(2)


def center_crop() -> Shown:
    """A model that is right about every pixel that it is shown."""
    image, classes, colors = painted(WIDE)
    processor = transformers.MobileViTImageProcessor(**CROPPED)
    outputs = SimpleNamespace(logits=seen(processor(colors, return_tensors="pt")["pixel_values"]))
    theirs = processor.post_process_semantic_segmentation(outputs, target_sizes=[classes.shape])[0].numpy()
    plan = MOBILEVIT.pixels.own({}, processor.to_dict(), "semantic")
    prepared = prepare(colors, plan)
    view = prepared.views[0]
    logits = seen(pixel_values(prepared.contents, view.canvas_hw, plan, CPU))[0]
    frame: dict[str, Any] = {
        "canvas": view.canvas_hw,
        "content": view.content_hw,
        "output": prepared.output_hw,
        "upsampling": "nearest",
    }
    segments = pixel_segments(logits, **frame)
    ours = np.full(classes.shape, -1)
    for segment in segments:
        ours[segment.mask()] = segment.category_id
    wrong = [float((labels != classes).mean()) for labels in (theirs, ours)]
    return Shown(
        theirs=f"{wrong[0]:.0%} of the pixels are wrong",
        ours=f"{wrong[1]:.0%}, at the edges: logits are at 1/16",
        definition="all of the image, as a square",
        differs=f"{(theirs != ours).mean():.0%} of the pixels have another label",
        is_there=wrong[0] > 2 * wrong[1],
        is_ours_defined=is_same(segments, reference.pixel_classes(logits, **frame)),
        maps={"image": image, "transformers": theirs, "m2f_batch": ours},
    )


def blue_first() -> Shown:
    """A red image before a MobileViTv2."""
    image = np.zeros((512, 512, 3), np.uint8)
    image[..., 0] = 255
    processor = transformers.MobileViTImageProcessor(**CROPPED)
    theirs = processor(image, return_tensors="pt")["pixel_values"][0].mean((1, 2)).tolist()
    plan = MOBILEVITV2.pixels.own({}, processor.to_dict(), "semantic")
    prepared = prepare(image, plan)
    ours = pixel_values(prepared.contents, prepared.views[0].canvas_hw, plan, CPU)[0].mean((1, 2)).tolist()
    return Shown(
        theirs="planes {:.0f}, {:.0f}, {:.0f}: blue first".format(*theirs),
        ours="{:.0f}, {:.0f}, {:.0f}: red first".format(*ours),
        definition="red first from ml-cvnets 0.2 on",
        differs="red and blue are swapped",
        is_there=theirs == [0, 0, 1],
        is_ours_defined=ours == [1, 0, 0],
    )


def reduce_labels() -> Shown:
    """A processor as older ADE20K checkpoints have it."""
    theirs = transformers.SegformerImageProcessor.from_dict({"reduce_labels": True}).do_reduce_labels
    return Shown(
        theirs=f"do_reduce_labels is {theirs}",
        ours="nothing to execute: per-pixel families are not trained here",
        definition="label 0 is ignored, and the others are shifted by one",
        differs="every training label is off by one" if not theirs else "nothing",
        is_there=not theirs,
        is_ours_defined=None,
    )


def traps() -> tuple[Trap, ...]:
    """All of them, in the order of families."""
    segformer = transformers.SegformerImageProcessor(**SQUARE)
    cityscapes = transformers.SegformerImageProcessor(size={"height": 1024, "width": 1024})
    beit = transformers.BeitImageProcessor(size={"height": 640, "width": 640}, do_center_crop=False)
    mobilevit = transformers.MobileViTImageProcessor(**CROPPED)
    square = "images are squashed to a square and seen whole"
    swin = {"backbone_config": {"model_type": "swin"}}
    return (
        Trap(
            *("segformer", "semantic", f"{square} (ADE20K)"),
            lambda: shown_to_the_model(SEGFORMER, segformer, "ADE20K", "512x1024, whole"),
        ),
        Trap(
            *("segformer", "semantic", f"{square} (Cityscapes)"),
            lambda: shown_to_the_model(SEGFORMER, cityscapes, "Cityscapes", "1024x2048 in 3 windows of 1024"),
        ),
        Trap(
            *("segformer", "semantic", "one step from logits to the image"),
            lambda: steps(segformer, "bilinear", "logits to the canvas, then to the image", (128, 171), (512, 683)),
        ),
        Trap("segformer, upernet, beit", "semantic", "images are antialiased when they shrink", antialiased),
        Trap("segformer, upernet, beit", "semantic", "a legacy reduce_labels is not mapped", reduce_labels),
        Trap(
            *("upernet, Swin", "semantic", square),
            lambda: shown_to_the_model(UPERNET, segformer, "ADE20K", "512x1024, whole", swin),
        ),
        Trap(
            *("upernet, ConvNeXt", "semantic", square),
            lambda: shown_to_the_model(UPERNET, segformer, "ADE20K", "512x1024 in 3 windows of 512", CONVNEXT),
        ),
        Trap(
            *("beit", "semantic", square),
            lambda: shown_to_the_model(BEIT, beit, "ADE20K", "640x1280 in 3 windows of 640"),
        ),
        Trap("mobilevit", "semantic", "the labels of a center crop are stretched over the image", center_crop),
        Trap(
            *("mobilevit", "semantic", "one bilinear step from logits to the image"),
            lambda: steps(mobilevit, "nearest", "bilinear to 512x512, then nearest", (32, 32), (512, 512)),
        ),
        Trap("mobilevitv2", "semantic", "red and blue are swapped", blue_first),
        Trap(
            *("mobilevitv2", "semantic", "align_corners=False"),
            lambda: steps(mobilevit, "corners", "one bilinear step, align_corners=True", (32, 42), (512, 672)),
        ),
    )
