"""Runs the masked-attention decoder of Mask2Former (https://arxiv.org/abs/2112.01527), less what is thrown away.

``transformers`` predicts full masks and classes in every layer. Here a layer predicts its attention mask straight at
the size that it attends to, since the product with the mask features and bilinear resizing commute, and only the last
one predicts full masks and classes.

B images, Q queries, C channels, N pixels of a level.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2f_batch.models.fast_layers.linear import (
    batched_product,
    feed_forward,
    join,
    layer_of,
    linear,
    perceptron,
    pixels_of,
    product,
)
from m2f_batch.models.fast_layers.positions import sine_positions
from m2f_batch.models.fast_layers.structure import UnknownStructureError, affine, checked
from m2f_batch.models.mask2former.modules import (
    LEVELS,
    Mask2FormerMaskedAttentionDecoderLayer,
    Mask2FormerTransformerModule,
)

LAYER = "decoder.layers.#."
PARAMETERS = {
    *affine(*(LAYER + f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")), LAYER + "cross_attn.out_proj"),
    *affine(*(LAYER + f"{name}_layer_norm" for name in ("self_attn", "cross_attn", "final"))),
    *affine(LAYER + "fc1", LAYER + "fc2"),
    LAYER + "cross_attn.in_proj_weight",
    LAYER + "cross_attn.in_proj_bias",
    "queries_embedder.weight",
    "queries_features.weight",
    "level_embed.weight",
    *affine("decoder.layernorm", "decoder.mask_predictor.mask_embedder.#.#", "input_projections.#"),
}


class FastMaskedDecoder(nn.Module):
    """``transformers``' Mask2FormerTransformerModule and the class head."""

    def __init__(self, of: nn.Module, class_predictor: nn.Linear) -> None:
        super().__init__()
        module = checked(of, Mask2FormerTransformerModule, PARAMETERS)
        positions = module.position_embedder
        if not (positions.normalize and positions.scale == 2 * torch.pi and module.num_feature_levels == LEVELS):
            raise UnknownStructureError("position embeddings or levels of the decoder are not those of Mask2Former")
        self.temperature = positions.temperature
        self.projections = module.input_projections
        self.query_positions = module.queries_embedder.weight
        self.queries = module.queries_features.weight
        self.level_embed = module.level_embed.weight
        layers = list(module.decoder.layers)
        self.layers = nn.ModuleList(map(FastDecoderLayer, layers))
        self.norm = module.decoder.layernorm
        self.embedder = module.decoder.mask_predictor.mask_embedder
        self.class_predictor = class_predictor

    def forward(self, maps: list[Tensor], mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """Three maps [B, C, H, W], coarsest first, and the finest [B, C, h, w] to class and mask logits.

        Those of classes are [B, Q, K + 1], those of masks [B, Q, h, w].
        """
        levels = [self.level(maps, mask_features, level) for level in range(min(LEVELS, len(self.layers)))]
        x = self.queries.expand(len(mask_features), -1, -1)
        for index, layer in enumerate(self.layers):
            pixels, placed, features = levels[index % LEVELS]
            x = layer(x, self.query_positions, pixels, placed, self._attention_mask(x, features))
        x = self.norm(x)
        masks = self.mask_logits(x, pixels_of(mask_features))
        return linear(x, self.class_predictor), masks.view(*masks.shape[:2], *mask_features.shape[2:])

    def level(self, maps: list[Tensor], mask_features: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give the pixels of a level [B, N, C], the same with their positions, and its mask features [B, N, C']."""
        _, _, height, width = maps[level].shape
        pixels, projection = pixels_of(maps[level]), self.projections[level]
        if isinstance(projection, nn.Conv2d):
            pixels = product(pixels, projection.weight.flatten(1), projection.bias)
        pixels = pixels + self.level_embed[level]
        positions = sine_positions((height, width), pixels.shape[2], self.temperature, pixels)
        features = F.interpolate(mask_features, size=(height, width), mode="bilinear", align_corners=False)
        return pixels, pixels + positions, pixels_of(features)

    def mask_logits(self, x: Tensor, features: Tensor) -> Tensor:
        """Compute mask logits [B, Q, N] of normed queries at mask features [B, N, C']."""
        return batched_product(perceptron(x, self.embedder.children()), features)

    def _attention_mask(self, x: Tensor, features: Tensor) -> Tensor:
        """Make the mask that is added to the attention [B, 1, Q, N]: 0 inside, -inf outside, 0 where all is outside."""
        logits = self.mask_logits(self.norm(x), features)
        outside = logits < 0
        outside &= ~outside.all(-1, keepdim=True)
        return torch.zeros_like(logits).masked_fill_(outside, float("-inf"))[:, None]


class FastDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and a feed-forward network, with norms before or after each."""

    def __init__(self, layer: Mask2FormerMaskedAttentionDecoderLayer) -> None:
        super().__init__()
        self.pre_norm = layer.pre_norm
        cross, own = layer.cross_attn, layer.self_attn
        self.heads = own.num_heads
        weights, biases = cross.in_proj_weight.chunk(3), cross.in_proj_bias.chunk(3)
        self.cross_query, self.cross_key, self.cross_value = map(layer_of, weights, biases)
        self.cross_out = cross.out_proj
        self.own_query_key = join(own.q_proj, own.k_proj)
        self.own_value = own.v_proj
        self.own_out = own.out_proj
        self.cross_norm = layer.cross_attn_layer_norm
        self.own_norm = layer.self_attn_layer_norm
        self.final_norm = layer.final_layer_norm
        self.fc1 = layer.fc1
        self.fc2 = layer.fc2
        self.act = layer.activation_fn

    def forward(self, x: Tensor, positions: Tensor, pixels: Tensor, placed: Tensor, mask: Tensor) -> Tensor:
        """Queries x [B, Q, C] at positions [Q, C], to the same shape.

        They attend to pixels [B, N, C], with their positions added in ``placed``, as the mask [B, 1, Q, N] lets them.
        """

        def cross(y: Tensor, residual: Tensor) -> Tensor:
            query, key = linear(y + positions, self.cross_query), linear(placed, self.cross_key)
            attended = self._attend(query, key, linear(pixels, self.cross_value), mask)
            return linear(attended, self.cross_out, residual=residual)

        def own(y: Tensor, residual: Tensor) -> Tensor:
            query, key = linear(y + positions, self.own_query_key).chunk(2, dim=2)
            attended = self._attend(query, key, linear(y, self.own_value), None)
            return linear(attended, self.own_out, residual=residual)

        def forth(y: Tensor, residual: Tensor) -> Tensor:
            return feed_forward(y, self.fc1, self.act, self.fc2, residual)

        for norm, step in ((self.cross_norm, cross), (self.own_norm, own), (self.final_norm, forth)):
            x = step(norm(x), x) if self.pre_norm else norm(step(x, x))
        return x

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (query, key, value))
        mask = None if mask is None else mask.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
