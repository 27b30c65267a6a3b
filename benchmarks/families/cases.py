"""The models that are measured: a published configuration of each family, and a tiny one of it for a quick try."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers

from benchmarks.lib.models import STAGES, SWIN_T
from m2f_batch.config.segment import Task

TINY_SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
TINY_VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
COCO, ADE20K, RF_DETR, PASCAL = 133, 150, 91, 21
STUFF_FROM = {COCO: 80, ADE20K: 100}
SQUARE = {"height": 512, "width": 512}
TINY_DECODER = {
    **{"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32},
    **{"dim_feedforward": 32, "num_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 20},
}
TINY_ONEFORMER = {
    **{key: value for key, value in TINY_DECODER.items() if key not in ("feature_size", "mask_feature_size")},
    **{"conv_dim": 32, "mask_dim": 32, "decoder_layers": 3, "query_dec_layers": 1},
    **{"text_encoder_width": 8, "text_encoder_num_layers": 1},
}


@dataclass(frozen=True)
class Case:
    """A line of the tables.

    - ``name`` for people, with the published size, and the ``row`` of docs/guides/models.md, a model_type, for it.
    - ``task`` of the whole job, and the ``post`` tasks whose post-processing is timed.
    - ``config`` and ``tiny`` make the configuration. ``classes`` is its number of labels.
    - ``processor`` is the class of the image processor, with its ``settings``, as published weights have them.
    - ``head`` is the module that gives classes.
    """

    name: str
    row: str
    model: str
    processor: str
    head: str
    task: Task
    post: tuple[Task, ...]
    classes: int
    config: Callable[[], Any]
    tiny: Callable[[], Any]
    settings: Mapping[str, Any]
    tiny_settings: Mapping[str, Any] = field(default_factory=lambda: {"size": {"height": 64, "width": 64}})

    @property
    def key(self) -> str:
        """Its name for the command line and the JSON: small letters and dashes."""
        return self.name.partition(",")[0].lower().replace(" ", "-")


def _swin(size: Mapping[str, Any]) -> Any:
    return transformers.SwinConfig(**size, out_features=STAGES)


def _maskformer_decoder(**size: Any) -> Any:
    return transformers.DetrConfig(**size)


def _rf_detr(backbone: Mapping[str, Any], **size: Any) -> Any:
    return transformers.RfDetrConfig(backbone_config={"model_type": "rf_detr_dinov2", **backbone}, **size)


ALL: tuple[Case, ...] = (
    Case(
        name="Mask2Former, Swin-T, 384x384",
        row="mask2former",
        model="Mask2FormerForUniversalSegmentation",
        processor="Mask2FormerImageProcessor",
        head="class_predictor",
        task="instance",
        post=("instance", "panoptic", "semantic"),
        classes=COCO,
        config=lambda: transformers.Mask2FormerConfig(backbone_config=_swin(SWIN_T)),
        tiny=lambda: transformers.Mask2FormerConfig(backbone_config=_swin(TINY_SWIN), **TINY_DECODER),
        settings={"size": {"height": 384, "width": 384}},
    ),
    Case(
        name="MaskFormer, Swin-T, 512 to 2048",
        row="maskformer",
        model="MaskFormerForInstanceSegmentation",
        processor="MaskFormerImageProcessor",
        head="class_predictor",
        task="panoptic",
        post=("panoptic", "semantic"),
        classes=COCO,
        config=lambda: transformers.MaskFormerConfig(backbone_config=_swin(SWIN_T)),
        tiny=lambda: transformers.MaskFormerConfig(
            backbone_config=_swin(TINY_SWIN),
            decoder_config=_maskformer_decoder(
                d_model=32, num_queries=20, decoder_layers=2, decoder_ffn_dim=32, decoder_attention_heads=2
            ),
            fpn_feature_size=32,
            mask_feature_size=32,
        ),
        settings={"size": {"shortest_edge": 512, "longest_edge": 2048}},
    ),
    Case(
        name="OneFormer, Swin-T, 512 to 2048",
        row="oneformer",
        model="OneFormerForUniversalSegmentation",
        processor="OneFormerImageProcessor",
        head="model.transformer_module.decoder.class_embed",
        task="panoptic",
        post=("instance", "panoptic", "semantic"),
        classes=ADE20K,
        config=lambda: transformers.OneFormerConfig(backbone_config=_swin(SWIN_T)),
        tiny=lambda: transformers.OneFormerConfig(backbone_config=_swin(TINY_SWIN), **TINY_ONEFORMER),
        settings={"size": {"shortest_edge": 512, "longest_edge": 2048}},
    ),
    Case(
        name="EoMT, B, 640x640",
        row="eomt",
        model="EomtForUniversalSegmentation",
        processor="EomtImageProcessor",
        head="class_predictor",
        task="panoptic",
        post=("instance", "panoptic"),
        classes=COCO,
        config=lambda: transformers.EomtConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12),
        tiny=lambda: transformers.EomtConfig(**TINY_VIT, image_size=64, num_blocks=2, num_queries=20),
        settings={"size": {"shortest_edge": 640, "longest_edge": 640}, "do_pad": True},
        tiny_settings={"size": {"shortest_edge": 64, "longest_edge": 64}, "do_pad": True},
    ),
    Case(
        name="EoMT-DINOv3, B, 640x640",
        row="eomt_dinov3",
        model="EomtDinov3ForUniversalSegmentation",
        processor="EomtImageProcessor",
        head="class_predictor",
        task="instance",
        post=("instance",),
        classes=COCO,
        config=lambda: transformers.EomtDinov3Config(
            hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
        ),
        tiny=lambda: transformers.EomtDinov3Config(
            **TINY_VIT, image_size=64, num_blocks=2, num_queries=20, intermediate_size=64
        ),
        settings={"size": {"shortest_edge": 640, "longest_edge": 640}, "do_pad": True},
        tiny_settings={"size": {"shortest_edge": 64, "longest_edge": 64}, "do_pad": True},
    ),
    Case(
        name="RF-DETR-Seg, S, 384x384",
        row="rf_detr",
        model="RfDetrForInstanceSegmentation",
        processor="RfDetrImageProcessor",
        head="model.class_embed",
        task="instance",
        post=("instance",),
        classes=RF_DETR,
        config=lambda: _rf_detr(
            {
                **{"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 384},
                **{"patch_size": 12, "num_windows": 2, "out_indices": [3, 6, 9, 12]},
            },
            num_queries=100,
            decoder_layers=4,
            decoder_n_points=2,
        ),
        tiny=lambda: _rf_detr(
            {
                **{"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 96},
                **{"patch_size": 12, "num_windows": 2, "out_indices": [1, 2, 3, 4]},
            },
            d_model=32,
            decoder_layers=2,
            decoder_self_attention_heads=2,
            decoder_cross_attention_heads=4,
            decoder_n_points=2,
            decoder_ffn_dim=64,
            intermediate_size=64,
            num_queries=20,
            group_detr=2,
            c2f_num_blocks=1,
        ),
        settings={"size": {"height": 384, "width": 384}},
        tiny_settings={"size": {"height": 96, "width": 96}},
    ),
    Case(
        name="SegFormer, B0, 512x512",
        row="segformer",
        model="SegformerForSemanticSegmentation",
        processor="SegformerImageProcessor",
        head="decode_head.classifier",
        task="semantic",
        post=("semantic",),
        classes=ADE20K,
        config=lambda: transformers.SegformerConfig(),
        tiny=lambda: transformers.SegformerConfig(
            depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16
        ),
        settings={"size": SQUARE},
    ),
    Case(
        name="UperNet Swin, T, 512x512",
        row="upernet",
        model="UperNetForSemanticSegmentation",
        processor="SegformerImageProcessor",
        head="decode_head.classifier",
        task="semantic",
        post=(),
        classes=ADE20K,
        config=lambda: transformers.UperNetConfig(backbone_config=_swin(SWIN_T)),
        tiny=lambda: transformers.UperNetConfig(backbone_config=_swin(TINY_SWIN), hidden_size=16, auxiliary_channels=8),
        settings={"size": SQUARE},
    ),
    Case(
        name="UperNet ConvNeXt, T, 512x512",
        row="upernet",
        model="UperNetForSemanticSegmentation",
        processor="SegformerImageProcessor",
        head="decode_head.classifier",
        task="semantic",
        post=(),
        classes=ADE20K,
        config=lambda: transformers.UperNetConfig(
            backbone_config=transformers.ConvNextConfig(hidden_sizes=[96, 192, 384, 768], out_features=STAGES)
        ),
        tiny=lambda: transformers.UperNetConfig(
            backbone_config=transformers.ConvNextConfig(
                hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, out_features=STAGES
            ),
            hidden_size=16,
            auxiliary_channels=8,
        ),
        settings={"size": SQUARE},
    ),
    Case(
        name="BEiT, B tuned with transformers, 640x640",
        row="beit",
        model="BeitForSemanticSegmentation",
        processor="BeitImageProcessor",
        head="decode_head.classifier",
        task="semantic",
        post=("semantic",),
        classes=ADE20K,
        config=lambda: transformers.BeitConfig(
            image_size=640, use_relative_position_bias=True, out_indices=[3, 5, 7, 11]
        ),
        tiny=lambda: transformers.BeitConfig(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=64,
            patch_size=8,
            use_relative_position_bias=True,
            auxiliary_channels=8,
            out_indices=[1, 2, 3, 4],
        ),
        settings={"size": {"height": 640, "width": 640}, "do_center_crop": False},
        tiny_settings={"size": {"height": 64, "width": 64}, "do_center_crop": False},
    ),
    Case(
        name="MobileViT, S, 512x512",
        row="mobilevit",
        model="MobileViTForSemanticSegmentation",
        processor="MobileViTImageProcessor",
        head="segmentation_head.classifier.convolution",
        task="semantic",
        post=("semantic",),
        classes=PASCAL,
        config=lambda: transformers.MobileViTConfig(image_size=512, output_stride=16),
        tiny=lambda: transformers.MobileViTConfig(
            image_size=64,
            hidden_sizes=[16, 24, 32],
            neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 32],
            num_attention_heads=2,
            output_stride=16,
            aspp_out_channels=16,
        ),
        settings={"size": {"shortest_edge": 544}, "crop_size": SQUARE},
        tiny_settings={"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}},
    ),
    Case(
        name="MobileViTv2, 1.0, 512",
        row="mobilevitv2",
        model="MobileViTV2ForSemanticSegmentation",
        processor="MobileViTImageProcessor",
        head="segmentation_head.classifier.convolution",
        task="semantic",
        post=(),
        classes=PASCAL,
        config=lambda: transformers.MobileViTV2Config(image_size=512, output_stride=16),
        tiny=lambda: transformers.MobileViTV2Config(
            image_size=64,
            width_multiplier=0.25,
            n_attn_blocks=[1, 1, 1],
            base_attn_unit_dims=[64, 64, 64],
            output_stride=16,
            aspp_out_channels=16,
        ),
        settings={"size": {"shortest_edge": 544}, "crop_size": SQUARE},
        tiny_settings={"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}},
    ),
)
