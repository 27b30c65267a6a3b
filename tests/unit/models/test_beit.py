"""The position bias of a BEiT, equal to that of transformers to the bit."""

import pytest
import torch
from transformers import BeitConfig
from transformers.models.beit.modeling_beit import BeitRelativePositionBias

from m2f_batch.models.pixel_families.beit_bias import PositionBias

TRAINED = {"square": 64, "tall": (96, 32)}


@pytest.mark.parametrize("grid", [(8, 8), (3, 7), (6, 4), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("trained", TRAINED)
def test_the_position_bias_is_that_of_transformers(trained, grid):
    config = BeitConfig(hidden_size=12, num_attention_heads=3, image_size=TRAINED[trained], patch_size=8)
    theirs = BeitRelativePositionBias(config)
    torch.nn.init.normal_(theirs.relative_position_bias_table)
    ours = PositionBias(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    with torch.inference_mode():
        expected = theirs(grid, False, dim_size=grid[0] * grid[1] + 1)
        assert expected.unique().numel() > grid[0] * grid[1]
        assert torch.equal(ours(grid, False, dim_size=grid[0] * grid[1] + 1), expected)


def test_a_bias_that_would_be_resized_is_refused():
    ours = PositionBias(BeitRelativePositionBias(BeitConfig(image_size=32)))
    with pytest.raises(NotImplementedError):
        ours((2, 2), True, dim_size=9)
