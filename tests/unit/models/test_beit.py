"""The position bias of a BEiT, equal to that of transformers to the bit."""

import pytest
import torch
from support.tiny.weights import awaken
from transformers import BeitConfig, BeitForSemanticSegmentation
from transformers.models.beit.modeling_beit import BeitRelativePositionBias

from m2f_batch.models.pixel_families.beit_bias import PositionBias, with_fast_bias
from m2f_batch.models.pixel_families.transformers_model import predict_beit

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


@torch.inference_mode()
def test_a_bias_that_all_blocks_share_is_added_in_each():
    small = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    config = BeitConfig(
        **small, image_size=64, patch_size=8, use_shared_relative_position_bias=True, out_indices=[1, 2, 3, 4]
    )
    torch.manual_seed(0)
    model = BeitForSemanticSegmentation(config).eval()
    awaken(model)
    table = model.beit.shared_position_bias.relative_position_bias_table.normal_(std=4.0)
    values = torch.randn(2, 3, 64, 64)
    expected = model(values).logits
    with_fast_bias(model)
    assert isinstance(model.beit.shared_position_bias, PositionBias)
    torch.testing.assert_close(predict_beit(model, values).logits, expected, rtol=0, atol=1e-5)
    table.zero_()
    assert (predict_beit(model, values).logits - expected).abs().max() > 1e-3


def test_a_bias_that_would_be_resized_is_refused():
    ours = PositionBias(BeitRelativePositionBias(BeitConfig(image_size=32)))
    with pytest.raises(NotImplementedError):
        ours((2, 2), True, dim_size=9)
