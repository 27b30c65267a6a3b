"""The bias of attention by relative position in BEiT, made of its table without a lookup for each pair of patches."""

from typing import cast

from torch import Tensor, nn
from torch.nn.functional import interpolate

from m2f_batch.models.pixel_families.modules import Beit, BeitPositionBias

OTHERS = 3  # rows behind the table of distances: from the class token to patches, from patches to it, and to itself


class PositionBias(nn.Module):
    """``transformers``' BeitRelativePositionBias, equal to the bit.

    Its lookup of 1601 x 1601 pairs takes 40 % of a block's time at 640 pixels. The pairs that a patch is in are a
    window of the table, so that those of a row of patches are one copy.
    """

    def __init__(self, module: BeitPositionBias) -> None:
        super().__init__()
        self.window_size, self.relative_position_bias_table = module.window_size, module.relative_position_bias_table

    def forward(
        self, window_size: tuple[int, int], interpolate_pos_encoding: bool = False, dim_size: int | None = None
    ) -> Tensor:
        """Give the bias [1, heads, 1 + patches, 1 + patches] of a grid of patches (rows, columns)."""
        if interpolate_pos_encoding:
            raise NotImplementedError("the bias is that of the patches, and is not resized")
        (rows, columns), table = window_size, self.relative_position_bias_table
        # as transformers does it, which takes the trained rows for columns
        down, across = (2 * length - 1 for length in self.window_size)
        planes = table[:-OTHERS].reshape(1, across, down, -1).permute(0, 3, 1, 2)
        planes = interpolate(planes, size=(2 * rows - 1, 2 * columns - 1), mode="bilinear")[0]
        bias = planes.new_empty(len(planes), rows * columns + 1, rows * columns + 1)
        # [heads, start down, start across, rows, columns]: a patch further down or right starts nearer to the beginning
        windows = planes.flip(1, 2).unfold(1, rows, 1).unfold(2, columns, 1)
        pairs = bias[:, 1:, 1:].view(len(planes), rows, columns, rows, columns)
        for row in range(rows):
            pairs[:, row].copy_(windows[:, rows - 1 - row].flip(1))
        bias[:, 0], bias[:, :, 0], bias[:, 0, 0] = table[-3][:, None], table[-2][:, None], table[-1]
        return bias[None]


def with_fast_bias(model: nn.Module) -> None:
    """Give a BEiT its position bias in this form, whose weights have the same names."""
    beit = cast(Beit, model).beit
    for owner, name in [(beit, "shared_position_bias"), *((layer, "relative_position_bias") for layer in beit.layers)]:
        if (module := getattr(owner, name)) is not None:
            setattr(owner, name, PositionBias(module))
