"""A Mask2Former of transformers is trained by these names and functions."""

from typing import cast

from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, PretrainedConfig, PreTrainedModel

from m2f_batch.models.backbone_configs import current_config
from m2f_batch.models.mask2former.fast_training import use_fast_modules
from m2f_batch.models.mask2former.modules import QueryOutput
from m2f_batch.models.mask2former.new_config import BACKBONES, STRIDES, new_config
from m2f_batch.models.mask2former.transformers_model import ENCODER
from m2f_batch.models.predictions import QueryLogits
from m2f_batch.models.training import Training


def new_model(config: PretrainedConfig) -> PreTrainedModel:
    """Make a model with random weights."""
    assert isinstance(config, Mask2FormerConfig)
    model = Mask2FormerForUniversalSegmentation(config)
    # transformers takes dropout for the chance to leave out whole layers, too, after which masks and maps do not fit
    model.model.transformer_module.decoder.layerdrop = 0.0
    return model


def outputs(model: nn.Module, pixel_values: Tensor) -> list[QueryLogits]:
    """Compute the predictions of every layer, first to last."""
    # transformers forgets hidden states with use_auxiliary_loss: false, and crashes without them
    found = model(pixel_values=pixel_values, output_hidden_states=True, output_auxiliary_logits=True)
    output = cast(QueryOutput, found)
    layers = [
        QueryLogits(layer["class_queries_logits"], layer["masks_queries_logits"])
        for layer in output.auxiliary_logits or []
    ]
    return [*layers, QueryLogits(output.class_queries_logits, output.masks_queries_logits)]


TRAINING = Training(
    family="Mask2Former",
    objective="mask_classification",
    backbone=ENCODER,
    backbone_kinds=BACKBONES,
    strides=STRIDES,
    recomputed=("model.pixel_level_module.decoder.encoder.layers", "model.transformer_module.decoder.layers"),
    heads=("class_predictor.weight", "class_predictor.bias"),
    queries=(
        "model.transformer_module.queries_embedder.weight",
        "model.transformer_module.queries_features.weight",
    ),
    derived=("criterion.empty_weight",),
    current_config=current_config,
    new_config=new_config,
    new_model=new_model,
    outputs=outputs,
    use_fast_modules=use_fast_modules,
)
