"""Sets Ray Data's settings for a run, each with its reason, but for those of ``few_waiting``."""

from ray.data import DataContext
from ray.data.context import AutoscalingConfig

from m2f_batch.ray_session.few_waiting import set_few_waiting
from m2f_batch.ray_session.resources import Resources

NEVER = -1.0  # a utilization that no pool falls to


def set_data_context(resources: Resources) -> None:
    """Set Ray Data's settings for our runs, each with its reason."""
    context = DataContext.get_current()
    context.enable_progress_bars = False  # ours counts images, not blocks
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # 30 minutes without a GPU node is a queue, not a failure
    context.wait_for_min_actors_s = -1  # the same
    context.actor_init_retry_on_errors = True  # a node may fail to fetch the model once
    context.max_errored_blocks = 0  # a failed image is a row; a lost block would be lost rows
    context.raise_original_map_exception = True  # our errors arrive as themselves
    context.target_max_block_size = 1  # byte: each unit leaves its task when it is done, and is committed by itself
    context.execution_options.preserve_order = False  # one slow unit must not hold the others' results back
    set_few_waiting(context)  # what waits on a node is lost with it
    context.autoscaling_config = AutoscalingConfig()
    if resources.asked_at_once > resources.actors[0]:
        # by default a pool half of whose slots are empty, as all are before the first units are prepared, ends its
        # replicas one by one and then starts them again, each with its model to load; the last units still free them
        context.autoscaling_config.actor_pool_util_downscaling_threshold = NEVER
