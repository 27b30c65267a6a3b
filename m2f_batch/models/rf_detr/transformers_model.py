"""Makes the RF-DETR-Seg of transformers from a config.json, loads it from safetensors, and runs what is needed."""

from pathlib import Path
from typing import cast

from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import RfDetrConfig, RfDetrForInstanceSegmentation

from m2f_batch.config.segment import Task
from m2f_batch.models.config_classes import architecture_of
from m2f_batch.models.family import JsonMapping
from m2f_batch.models.from_tensors import model_from_tensors
from m2f_batch.models.predictions import SigmoidQueryLogits
from m2f_batch.models.rf_detr.modules import RfDetr


def load(directory: Path, config: JsonMapping, task: Task | None) -> RfDetrForInstanceSegmentation:
    """Load the model of a directory in float32 on the CPU. Raises RunError when a tensor is missing, UsageError."""
    made = architecture_of(RfDetrConfig, config, "RF-DETR")
    return model_from_tensors(RfDetrForInstanceSegmentation, made, directory, is_never_read)


def predict(model: nn.Module, pixel_values: Tensor) -> SigmoidQueryLogits:
    """Compute the classes and masks of the last decoder layer.

    Left out of transformers' own forward pass are boxes, classes and masks of the encoder's proposals, and masks of the
    layers before.
    """
    segmenter = cast(RfDetr, model)
    detector = segmenter.model
    output = detector.model(pixel_values)
    queries = output.last_hidden_state
    height, width = (length // segmenter.downsample_ratio for length in pixel_values.shape[-2:])
    features = interpolate(output.backbone_features, size=(height, width), mode="bilinear", align_corners=False)
    for block in segmenter.blocks:
        features = block(features)
    masks = segmenter.get_mask_logits(queries, segmenter.spatial_features_proj(features))
    return SigmoidQueryLogits(detector.class_embed(queries), masks)


def is_never_read(model: nn.Module, name: str) -> bool:
    """Tell whether a tensor of the model decides nothing in inference, so may be missing.

    - mask_token: it stands for patches that are hidden in pretraining.
    - enc_output, enc_output_norm, enc_out_class_embed and enc_out_bbox_embed above 0: they are for training in groups.
    """
    return name.endswith(".mask_token") or any(
        f"{part}." in name and f"{part}.0." not in name
        for part in ("enc_output", "enc_output_norm", "enc_out_class_embed", "enc_out_bbox_embed")
    )
