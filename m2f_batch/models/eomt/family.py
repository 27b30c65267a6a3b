"""The families of EoMT differ by their backbone, and by what is known of published weights."""

from collections.abc import Callable, Iterator

from m2f_batch.models.eomt import rules
from m2f_batch.models.family import Family, JsonMapping, Network, PixelRules, Published, TaskRules
from m2f_batch.models.mask_families.rules import CLASS_PREDICTOR, tasks_as_trained


def eomt_family(
    name: str,
    model_type: str,
    class_name: str,
    published: Published,
    config_problems: Callable[[JsonMapping], Iterator[str]] = rules.config_problems,
) -> Family:
    """Make the record of a family. ``config_problems`` are those of every EoMT where it has none of its own."""
    return Family(
        name=name,
        model_type=model_type,
        class_name=class_name,
        head=CLASS_PREDICTOR,
        network=_network,
        pixels=PixelRules(rules.pixels, rules.paper, rules.sized, windows=rules.windows),
        tasks=TaskRules(tasks_as_trained, rules.settings),
        config_problems=config_problems,
        weight_problems=rules.weight_problems,
        value_problems=rules.value_problems,
        published=published,
    )


def _network() -> Network:
    from m2f_batch.models.eomt.transformers_model import load, predict

    return Network(load, predict)
