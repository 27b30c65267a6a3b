"""Tables that are kept by their sizes serve whoever comes next in the process, a training too."""

import torch

from m2f_batch.models.fast_layers.windows import windows_of
from m2f_batch.models.mask2former.deformable import _row_table


def test_a_table_of_inference_serves_a_training() -> None:
    cpu = torch.device("cpu")
    windows_of.cache_clear()
    _row_table.cache_clear()
    with torch.inference_mode():
        windows_of(1, (9, 9), 4, 2, 8, cpu)
        _row_table(((9, 9), (5, 5)), 2, 4, torch.float32, cpu)
    windows, table = windows_of(1, (9, 9), 4, 2, 8, cpu), _row_table(((9, 9), (5, 5)), 2, 4, torch.float32, cpu)
    kept = [windows.back, *(each for group in windows.groups for each in (group.rows, group.padding))]
    assert not any(each.is_inference() for each in [*kept, *table[:3], *table[3]])
