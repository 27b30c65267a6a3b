"""Makes the page of metrics: those that Prometheus scrapes from a run, and those that ``evaluate`` computes."""

import re

from reference_pages.markdown import MADE, code, joined, reflowed, table
from reference_pages.source import constant, docstring, table_in

OF_RUNS = "m2f_batch.flow.watch.metrics"
EVALUATOR = "m2f_batch.evaluation.evaluator"
# the modules that say how the figures are computed
DEFINED_IN = {
    "ap": "average_precision",
    "pq": "panoptic_quality",
    "miou, dice and boundary-iou of semantic and panoptic rows": "class_regions",
    "dice and boundary-iou of instance rows": "matched_pairs",
}


def page() -> str:
    """Return reference/metrics.md."""
    text = docstring(OF_RUNS)
    rows = [(code(name), *cells, reflowed(meaning)) for name, *cells, meaning in table_in(text, "ray_")]
    notes = re.split(r"\n\s*\n", text, maxsplit=2)[2]
    return joined(
        "# Metrics",
        f"What Prometheus scrapes from a run, and what `evaluate` computes. {MADE}",
        "## Metrics of runs",
        table(["name at the endpoint", "type", "labels", "meaning"], rows),
        reflowed(notes),
        "## Stages",
        reflowed(docstring("m2f_batch.flow.watch.busy").partition("\n\n")[2]),
        "## Metrics of evaluate",
        _of_evaluate(),
        *(
            joined(f"### {title}", reflowed(docstring(f"m2f_batch.evaluation.metrics.{name}")))
            for title, name in DEFINED_IN.items()
        ),
    )


def _of_evaluate() -> str:
    usual, main = constant(EVALUATOR, "USUAL"), constant(EVALUATOR, "MAIN")
    rows = (
        (task, ", ".join(map(code, names)), ", ".join(map(code, usual.get(task, names))), main[task])
        for task, names in constant(EVALUATOR, "METRICS").items()
    )
    return table(["task", "`--metrics`", "if it is not given", "compares models"], rows)
