"""Runs Swin (https://arxiv.org/abs/2103.14030) as a backbone: the maps of ``transformers``' with less traffic.

One gather makes the windows, one matrix product the queries, keys and values; position biases and masks are added up
when the model is loaded. Feature maps leave in channels-last order, as they were computed.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2f_batch.models.fast_layers.linear import feed_forward, join, linear, map_of, rows_at_once
from m2f_batch.models.fast_layers.positions import Size
from m2f_batch.models.fast_layers.structure import affine, checked
from m2f_batch.models.fast_layers.swin_modules import (
    MaskFormerSwinBackbone,
    MaskFormerSwinLayer,
    MaskFormerSwinModel,
    SwinBackbone,
    SwinLayer,
    SwinModel,
    SwinPatchMerging,
)
from m2f_batch.models.fast_layers.windows import Windows, window_masks, windows_of

BLOCK = "swin.encoder.layers.#.blocks.#."
PARAMETERS = {
    *affine("swin.embeddings.patch_embeddings.projection", "swin.embeddings.norm", "swin.layernorm"),
    *affine("hidden_states_norms.stage#", "hidden_states_norms.stem"),
    *affine(*(BLOCK + name for name in ("layernorm_before", "layernorm_after", "mlp.fc1", "mlp.fc2"))),
    *affine(*(BLOCK + f"attention.{name}_proj" for name in "qkvo")),
    BLOCK + "attention.relative_position_bias.relative_position_bias_table",
    *affine("swin.encoder.layers.#.downsample.norm"),
    "swin.encoder.layers.#.downsample.reduction.weight",
    "swin.embeddings.position_embeddings",
    "swin.embeddings.mask_token",
}
# the same of the Swin that transformers has for MaskFormer alone
MASKFORMER_BLOCK = "model.encoder.layers.#.blocks.#."
MASKFORMER_PARAMETERS = {
    *affine("model.embeddings.patch_embeddings.projection", "model.embeddings.norm", "model.layernorm"),
    *affine("hidden_states_norms.#"),
    *affine(*(MASKFORMER_BLOCK + name for name in ("layernorm_before", "layernorm_after"))),
    *affine(*(MASKFORMER_BLOCK + name for name in ("attention.output.dense", "intermediate.dense", "output.dense"))),
    *affine(*(MASKFORMER_BLOCK + f"attention.self.{name}" for name in ("query", "key", "value"))),
    MASKFORMER_BLOCK + "attention.self.relative_position_bias_table",
    *affine("model.encoder.layers.#.downsample.norm"),
    "model.encoder.layers.#.downsample.reduction.weight",
}


class Parts(NamedTuple):
    """The parts of a block, by either name. ``bias`` are the position biases [1, heads, S * S, S * S]."""

    heads: int
    inputs: tuple[nn.Linear, nn.Linear, nn.Linear]  # queries, keys, values
    out: nn.Linear
    fc1: nn.Linear
    activation: nn.Module
    fc2: nn.Linear
    bias: Tensor


def parts_of(layer: SwinLayer | MaskFormerSwinLayer) -> Parts:
    """Take the parts of a layer of ``transformers``' Swin, or of MaskFormer's."""
    if type(layer).__name__ == MaskFormerSwinLayer.__name__:
        layer = cast(MaskFormerSwinLayer, layer)
        own = layer.attention.self
        table = own.relative_position_bias_table[own.relative_position_index.view(-1)]
        bias = table.view(layer.window_size**2, layer.window_size**2, -1).permute(2, 0, 1)[None]
        inputs, up = (own.query, own.key, own.value), layer.intermediate
        heads, down = own.num_attention_heads, layer.output.dense
        return Parts(
            heads, inputs, layer.attention.output.dense, up.dense, up.intermediate_act_fn, down, bias.contiguous()
        )
    attention = cast(SwinLayer, layer).attention
    inputs, mlp = (attention.q_proj, attention.k_proj, attention.v_proj), cast(SwinLayer, layer).mlp
    bias = attention.relative_position_bias()
    return Parts(attention.num_attention_heads, inputs, attention.o_proj, mlp.fc1, mlp.activation_fn, mlp.fc2, bias)


class FastSwin(nn.Module):
    """Pixel values [B, 3, Hc, Wc] to the feature maps [B, C, H, W] of the stages asked for, finest first."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        swin: SwinModel | MaskFormerSwinModel
        if type(module).__name__ == MaskFormerSwinBackbone.__name__:
            backbone = checked(module, MaskFormerSwinBackbone, MASKFORMER_PARAMETERS)
            swin, self.more = backbone.model, {"interpolate_pos_encoding": False}
            self.stages = list(backbone.stage_names)  # the stem, then each stage
            named = dict(zip(self.stages[1:], backbone.hidden_states_norms, strict=True))
            self.norms = nn.ModuleDict({name: named[name] for name in backbone.out_features})
        else:
            known = checked(module, SwinBackbone, PARAMETERS)
            swin, self.more, self.norms = known.swin, {}, known.hidden_states_norms
            self.stages = list(known.stage_names)
        self.embeddings = swin.embeddings
        blocks = nn.ModuleList(nn.ModuleList(map(FastSwinBlock, stage.blocks)) for stage in swin.encoder.layers)
        self.blocks = cast("Sequence[Sequence[FastSwinBlock]]", blocks)
        merges = nn.ModuleList(stage.downsample or nn.Identity() for stage in swin.encoder.layers)
        self.merges = cast("Sequence[SwinPatchMerging | nn.Identity]", merges)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps, views in channels-last order."""
        windows = self._windows(pixel_values)
        x, size = self.embeddings(pixel_values, **self.more)
        features = [self._feature(self.stages[0], x, size)]
        for name, blocks, merge, layouts in zip(self.stages[1:], self.blocks, self.merges, windows, strict=True):
            for block, layout in zip(blocks, layouts, strict=True):
                x = block(x, layout)
            features.append(self._feature(name, x, size))
            if not isinstance(merge, nn.Identity):
                x, size = _merge_patches(merge, x, size)
        return tuple(feature for feature in features if feature is not None)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the shapes of what it makes depend on data
    def _windows(self, pixel_values: Tensor) -> list[list[Windows]]:
        """Return the windows of every block of every stage."""
        batch, _, height, width = pixel_values.shape
        tall, wide = self.embeddings.patch_embeddings.patch_size
        size = -(-height // tall), -(-width // wide)
        layouts = []
        for blocks in self.blocks:
            layouts.append([block.windows(batch, size, pixel_values.device) for block in blocks])
            size = (size[0] + 1) // 2, (size[1] + 1) // 2
        return layouts

    def _feature(self, stage: str, x: Tensor, size: tuple[int, int]) -> Tensor | None:
        return map_of(self.norms[stage](x), size) if stage in self.norms else None


class FastSwinBlock(nn.Module):
    """One Swin layer with windows of one size, shifted or not."""

    masked_bias: Tensor

    def __init__(self, layer: SwinLayer | MaskFormerSwinLayer) -> None:
        super().__init__()
        parts = parts_of(layer)
        self.heads: int = parts.heads
        self.size: int = layer.window_size
        self.shift: int = layer.shift_size
        self.norm_before, self.norm_after = layer.layernorm_before, layer.layernorm_after
        self.qkv = join(*parts.inputs)
        self.out = parts.out
        self.fc1, self.fc2, self.act = parts.fc1, parts.fc2, parts.activation
        bias = parts.bias.detach()
        if self.shift:
            bias = bias + window_masks(self.size, self.shift).to(bias)[:, None]
        self.register_buffer("masked_bias", bias, persistent=False)

    def windows(self, batch: int, size: Size, device: torch.device) -> Windows:
        """Return the windows of a batch of maps of one size, as the block takes them."""
        at_once = max(1, self._rows_at_once(batch * size[0] * size[1], device) // self.size**2)
        return windows_of(batch, size, self.size, self.shift, at_once, device)

    def _rows_at_once(self, rows: int, device: torch.device) -> int:
        return rows_at_once(rows, self.fc1.out_features, device)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Run the block on x [B, H * W, C]. Returns the same shape."""
        batch, _, channels = x.shape
        x = x.reshape(-1, channels)
        step = self._rows_at_once(len(x), x.device)
        attended = self._attend(self.norm_before(x), windows)
        parts = zip(torch.split(x, step), torch.split(windows.back, step), strict=True)
        return torch.cat([self._update(some, attended.index_select(0, places)) for some, places in parts]).view(
            batch, -1, channels
        )

    def _attend(self, x: Tensor, windows: Windows) -> Tensor:
        """Attention within each window, pixels x [B * H * W, C] to places in windows, before the output projection."""
        outputs = []
        for group in windows.groups:
            inside = x.index_select(0, group.rows)
            if len(group.padding):
                inside.index_fill_(0, group.padding, 0)
            qkv = linear(inside, self.qkv).view(-1, self.size**2, 3, self.heads, x.shape[1] // self.heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            bias = self.masked_bias[group.kind, None].to(q.dtype)
            outputs.append(
                F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2).flatten(0, 1)
            )
        return torch.cat(outputs)

    def _update(self, x: Tensor, attended: Tensor) -> Tensor:
        """Pixels [M, C] after their attention [M, C]."""
        x = linear(attended, self.out, residual=x)
        return feed_forward(self.norm_after(x), self.fc1, self.act, self.fc2, x)


def _merge_patches(merge: SwinPatchMerging, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Four neighbors to one pixel: [B, H * W, C] to [B, H / 2 * W / 2, 2 C], odd sizes padded."""
    height, width = size
    grid = x.view(len(x), height, width, -1)
    if height % 2 or width % 2:
        grid = F.pad(grid, (0, 0, 0, width % 2, 0, height % 2))
    height, width = (height + 1) // 2, (width + 1) // 2
    grid = grid.view(len(x), height, 2, width, 2, -1).permute(0, 1, 3, 4, 2, 5)
    x = merge.norm(grid.reshape(len(x), height * width, -1))
    return linear(x, merge.reduction), (height, width)
